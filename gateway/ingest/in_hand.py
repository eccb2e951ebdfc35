"""What a partition has received and not yet acknowledged, and whether its session reads more meanwhile.

Reading stands for two reasons, each by itself: what is in hand takes more memory than
`telemetry.memory_high_bytes`, until it is less than `memory_low_bytes`; or the customer who has the partition
alone sent more than its quota, until it is within it again. What it sends meanwhile stays at the broker.
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
    """Counts messages and bytes from receipt to acknowledgement. `absent` is told for how many seconds
    nothing could be read for want of memory; `slowed` that reading stands for a quota.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        *,
        absent: Callable[[float], None],
        slowed: Callable[[Excess], None],
    ) -> None:
        self._settings = settings
        self._absent = absent
        self._tell_slowed = slowed
        self._session: Acknowledger
        self.bytes = 0
        self.count = 0
        self.qos0 = 0
        self._paused = False
        self._paused_monotonic = 0.0
        self._slowed: asyncio.TimerHandle | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the session is read."""
        return not self._paused and self._slowed is None

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
            self._absent(clock.monotonic() - self._paused_monotonic)
            if self._slowed is None:
                self._session.resume()

    def slow(self, excess: Excess) -> None:
        """Reads nothing until the customer is within its quota again."""
        behind = excess.slowed_seconds
        loop = asyncio.get_running_loop()
        if self._slowed is not None:  # what was read already when it was asked to stand
            self._slowed.cancel()
            excess = replace(
                excess, slowed_seconds=max(0.0, excess.slowed_seconds - self._slowed.when() + loop.time())
            )
        self._session.pause()
        self._slowed = loop.call_later(behind, self._speed_up)
        self._tell_slowed(excess)

    def end(self) -> None:
        """Nothing more is committed here: what is in hand comes again."""
        metrics.INFLIGHT.dec(self.count)
        if self._slowed is not None:
            self._slowed.cancel()
            self._slowed = None

    def _speed_up(self) -> None:
        self._slowed = None
        if not self._paused:
            self._session.resume()
