"""What a partition has received and not yet acknowledged, and whether its session reads more meanwhile.

Reading pauses for two reasons, which are independent of each other. First, what is in hand takes more memory
than `telemetry.memory_high_bytes`: reading goes on when it takes less than `memory_low_bytes`. Second, the
customer that has the partition alone sent more than its quota: reading goes on when it is within it again.
What devices send meanwhile stays at the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from gateway import clock, metrics
from gateway.ingest.batch import Acknowledger, MessageBatch
from gateway.model.quota import Excess
from gateway.settings import TelemetrySettings


class InHand:
    """Counts messages and bytes from receipt to acknowledgement. `on_unread` is called with the seconds in
    which nothing could be read for want of memory; `on_slowed` when reading pauses for a quota.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        *,
        on_unread: Callable[[float], None],
        on_slowed: Callable[[Excess], None],
    ) -> None:
        self._settings = settings
        self._on_unread = on_unread
        self._on_slowed = on_slowed
        self._session: Acknowledger
        self.bytes = 0
        self.count = 0
        self.qos0 = 0
        self._paused = False
        self._paused_monotonic = 0.0
        self._slowed_timer: asyncio.TimerHandle | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the session is read."""
        return not self._paused and self._slowed_timer is None

    def add(self, session: Acknowledger, size: int, count: int) -> None:
        """So many messages of so many bytes came on this connection."""
        self._session = session
        self.bytes += size
        self.count += count
        metrics.INFLIGHT.inc(count)
        if self.bytes > self._settings.memory_high_bytes:
            if not self._paused:
                self._paused_monotonic = clock.monotonic()
            self._paused = True
            session.pause()

    def remove(self, batch: MessageBatch) -> None:
        """A batch is acknowledged."""
        self.bytes -= batch.bytes
        self.qos0 -= batch.qos0
        self.count -= batch.count
        metrics.INFLIGHT.dec(batch.count)
        if self._paused and self.bytes < self._settings.memory_low_bytes:
            self._paused = False
            self._on_unread(clock.monotonic() - self._paused_monotonic)
            if self._slowed_timer is None:
                self._session.resume()

    def slow(self, excess: Excess) -> None:
        """Reads nothing until the customer is within its quota again."""
        pause_seconds = excess.slowed_seconds
        loop = asyncio.get_running_loop()
        if self._slowed_timer is not None:
            # What had been read before the pause makes it longer. Only what it adds is told once more.
            self._slowed_timer.cancel()
            told_seconds = self._slowed_timer.when() - loop.time()
            excess = replace(excess, slowed_seconds=max(0.0, pause_seconds - told_seconds))
        self._session.pause()
        self._slowed_timer = loop.call_later(pause_seconds, self._speed_up)
        self._on_slowed(excess)

    def end(self) -> None:
        """Nothing more is committed here: what is in hand comes again."""
        metrics.INFLIGHT.dec(self.count)
        if self._slowed_timer is not None:
            self._slowed_timer.cancel()
            self._slowed_timer = None

    def _speed_up(self) -> None:
        self._slowed_timer = None
        if not self._paused:
            self._session.resume()
