"""Whether a partition is listened to: from when on what comes is of now, and up to when all of it is known.
What is told of a device's silence counts by this (ADR 44).
"""

from __future__ import annotations

from gateway.model.silence import Heard

QUEUE_SECONDS = 2.0
"""After a connect: by then a broker has begun to send what it had queued."""

MAX_QUEUED_SECONDS = 600.0
"""After this what comes is of now, whatever was queued."""


class Hearing:
    """Of one partition's session. `unheard`: seconds in which nothing was read, as the database has it; None:
    not known yet.
    """

    def __init__(self) -> None:
        self.unheard: float | None = None
        self._up_monotonic: float | None = None
        self._down_monotonic: float | None = None
        self._current = False

    def went_up(self, now: float) -> None:
        """The broker has granted what we subscribed, at this monotonic time."""
        self._up_monotonic, self._current = now, False

    def went_down(self, now: float) -> None:
        """The session has ended."""
        self._up_monotonic, self._down_monotonic, self._current = None, now, False

    def is_current(self, now: float, *, idle_since_up: bool) -> bool:
        """Whether what comes is of now: the session is up, and what the broker had queued meanwhile is worked
        off. It is when there was nothing in hand once; a gateway that is always busy has done so, at the
        latest, after as long as it was away. `idle_since_up`: nothing was in hand at some time since
        `queue_begins`.
        """
        if self._up_monotonic is None:
            return False
        away = (
            MAX_QUEUED_SECONDS if self._down_monotonic is None else self._up_monotonic - self._down_monotonic
        )
        is_late = now - self._up_monotonic >= min(MAX_QUEUED_SECONDS, max(away, QUEUE_SECONDS))
        self._current = self._current or is_late or (now >= self.queue_begins and idle_since_up)
        return self._current

    @property
    def queue_begins(self) -> float:
        """By when a queue would have begun to come."""
        return (self._up_monotonic or 0.0) + QUEUE_SECONDS

    def noted(self, heard: Heard) -> None:
        """What the database made of it."""
        self.unheard = heard.unheard
