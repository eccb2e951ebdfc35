"""Logs that a partition's session is up, or why it is down and what a person can do about it. An outage is
logged once, however often a connection is tried in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

log = structlog.get_logger(__name__)

SUSPECT_AFTER = 4
"""After so many connections in a row that ended at once we say that another client may have the same id."""


class SessionLog:
    """The log of one partition's session."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._said_unsafe = False

    def up(self, broker: str, filters: Sequence[str], *, session_present: bool) -> None:
        """The session is up: the broker has granted our subscriptions."""
        log.info(
            "ingest.connected",
            partition=self._partition,
            broker=broker,
            session_present=session_present,
            filters=list(filters),
        )

    def granted(self) -> None:
        """The broker grants QoS 1: should it refuse that later, it is logged again."""
        self._said_unsafe = False

    def unsafe(self, broker: str, reason: str) -> None:
        """The broker grants QoS 0 only. Logged once, until `granted`."""
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
        """The attempt to connect failed, or the session ended. Logs the first attempt of an outage, and once
        more when `quick_ends`, connections in a row that ended at once, are suspicious. `wait`: seconds until
        the next attempt.
        """
        is_told = attempt > 1 or self._said_unsafe
        if is_told and quick_ends != SUSPECT_AFTER:
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
