"""Tells whether what a partition receives was sent just now, or waited in the broker's queue. The silence of
its devices is counted only while it receives what is sent just now (ADR 44).
"""

from __future__ import annotations

from gateway.model.silence import Heard

QUEUE_SECONDS = 2.0
"""So long after a connect a broker has begun to send what it had queued."""

MAX_QUEUED_SECONDS = 600.0
"""So long after a connect the queue counts as worked off, whatever was in it."""


class Hearing:
    """What is known of one partition's session. `unheard`: in how many seconds, of all time, nobody listened
    to the partition, as the database has it; None: not known yet.
    """

    def __init__(self) -> None:
        self.unheard: float | None = None
        self._up_monotonic: float | None = None
        self._down_monotonic: float | None = None
        self._is_current = False

    def went_up(self, now: float) -> None:
        """The broker has granted our subscriptions. `now`, here and below: monotonic."""
        self._up_monotonic = now
        self._is_current = False

    def went_down(self, now: float) -> None:
        """The session has ended."""
        self._up_monotonic = None
        self._down_monotonic = now
        self._is_current = False

    def is_current(self, now: float, *, was_idle: bool) -> bool:
        """Whether what is received was sent just now: the session is up, and what the broker had queued
        before is worked off. That is known when nothing was in hand once (`was_idle`: at some time since
        `queue_begins`). A gateway that is always busy has worked it off, at the latest, after as long as the
        session was away.
        """
        if self._up_monotonic is None:
            return False
        away_seconds = MAX_QUEUED_SECONDS
        if self._down_monotonic is not None:
            away_seconds = self._up_monotonic - self._down_monotonic
        queued_seconds = min(MAX_QUEUED_SECONDS, max(away_seconds, QUEUE_SECONDS))
        if now - self._up_monotonic >= queued_seconds or (was_idle and now >= self.queue_begins):
            self._is_current = True
        return self._is_current

    @property
    def queue_begins(self) -> float:
        """When (monotonic) the broker would have begun to send a queue."""
        return (self._up_monotonic or 0.0) + QUEUE_SECONDS

    def noted(self, heard: Heard) -> None:
        """Takes what the database has noted."""
        self.unheard = heard.unheard
