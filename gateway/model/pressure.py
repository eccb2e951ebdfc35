"""How ingest fares, as everything else on the loop has to know: what delivers what is stored already yields
to what is not.

Pure: times are given, monotonic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

ACTIVE_SECONDS = 1.0
"""So long after a message ingest has work."""

WELL_SECONDS = 0.025
"""An acknowledgement later than this is late: a commit on an idle machine takes a few milliseconds."""

MIN_SHARE = 0.5
"""Acknowledgements may be late for what no delivery does, a slow disk or a busy machine: sync must go on all
the same.
"""

LATE_RESTS = 3.0
"""Times what was worked: a quarter of the time is left to history while acknowledgements are late."""

STEP_SECONDS = 0.25
"""How often the share changes."""


class Pressure:
    """What is left for others: a share that halves while acknowledgements are late and grows again while they
    are not.
    """

    def __init__(self) -> None:
        self._share = 1.0
        self._worst = 0.0
        self._step_ends = 0.0
        self._active_until = 0.0
        self._company = 0

    def note(self, waited_seconds: float, *, now: float) -> None:
        """A message was acknowledged, so long after it had arrived."""
        self._active_until = now + ACTIVE_SECONDS
        self._worst = max(self._worst, waited_seconds)
        self._advance(now)

    def is_active(self, *, now: float) -> bool:
        """Whether messages come in."""
        return now < self._active_until

    def share(self, *, now: float) -> float:
        """From 1 (nothing is late) down to `MIN_SHARE`."""
        self._advance(now)
        return self._share

    @contextmanager
    def company(self) -> Iterator[None]:
        """Held by what is in no hurry while it works and rests: all who do share what is left."""
        self._company += 1
        try:
            yield
        finally:
            self._company -= 1

    def rest(self, worked_seconds: float, *, now: float, times: float = 1.0) -> float:
        """How long what is in no hurry rests after it worked for so long: not at all while nothing comes in,
        `times` as long while messages do, and three times as long while acknowledgements are late. More where
        there are many in `company`: together they work half of the time at most.
        """
        if not self.is_active(now=now):
            return 0.0
        late = 1.0 if self.share(now=now) == 1.0 else LATE_RESTS
        return worked_seconds * late * max(times, 2.0 * self._company - 1.0)

    def _advance(self, now: float) -> None:
        if now < self._step_ends:
            return
        if self._worst > WELL_SECONDS:
            self._share = max(MIN_SHARE, self._share / 2)
        elif now < self._step_ends + ACTIVE_SECONDS:
            self._share = min(1.0, self._share + 1 / 16)
        else:
            self._share = 1.0  # nothing came for long
        self._worst, self._step_ends = 0.0, now + STEP_SECONDS
