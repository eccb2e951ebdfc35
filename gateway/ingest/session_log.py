"""What is logged of a partition's session: that it is up, and why it is down, with what a person can do about
it. An outage is told once, however often a connection is tried in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

log = structlog.get_logger(__name__)

SUSPECT_AFTER = 4
"""Connections that ended at once, one after the other: another client may have the same id."""


class SessionLog:
    """Of one partition."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._said_unsafe = False

    def up(self, broker: str, filters: Sequence[str], *, session_present: bool) -> None:
        """The broker has granted what is subscribed."""
        log.info(
            "ingest.connected",
            partition=self._partition,
            broker=broker,
            session_present=session_present,
            filters=list(filters),
        )

    def granted(self) -> None:
        """What is unsafe from now on is told anew."""
        self._said_unsafe = False

    def unsafe(self, broker: str, reason: str) -> None:
        """Once, until the broker grants what we need."""
        if not self._said_unsafe:
            log.error(
                "ingest.qos_refused",
                partition=self._partition,
                broker=broker,
                reason=reason,
                advice=(
                    "at QoS 0 a message that is lost on its way is lost for good: allow QoS 1 at the broker,"
                    " or set broker.allow_qos0 to take that; asking again"
                ),
            )
        self._said_unsafe = True

    def down(self, broker: str, reason: str, attempt: int, quick_ends: int, wait: float) -> None:
        """The attempt failed, or the session ended: the first of an outage is told, and that it ends at once
        again and again (`quick_ends`). `wait`: seconds until the next one.
        """
        if (attempt > 1 or self._said_unsafe) and quick_ends != SUSPECT_AFTER:
            return
        advice = "start the broker or correct broker.url; trying until it answers"
        if reason.startswith("malformed packet"):
            advice = (
                "the broker sends what is no MQTT 5; what is not acknowledged comes again: find and remove it"
                " there"
            )
        elif quick_ends >= SUSPECT_AFTER:
            advice = (
                "it accepts us and ends the connection at once, again and again: does another gateway use"
                " the same instance name?"
            )
        log.warning(
            "ingest.disconnected",
            partition=self._partition,
            broker=broker,
            reason=reason,
            advice=advice,
            retry_in_seconds=round(wait, 2),
        )
