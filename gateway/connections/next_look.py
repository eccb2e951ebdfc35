"""Schedules the next look at a connection, and shows with it what it waits for until then.

A look is scheduled in a column of the connection's row, for the state that the connection is in. A transition
makes the connection due at once: a look that was scheduled for the state before it does not count any more.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta

import structlog

from gateway import clock
from gateway.bulkhead import Part
from gateway.connections.health import ConnectionHealth
from gateway.model.backoff import full_jitter, put_off, waiting, with_floor
from gateway.model.connection import State
from gateway.model.errors import ConnectorError, RateLimited, Unavailable
from gateway.store import connections
from gateway.store.pool import Database
from gateway.store.probes import Due
from gateway.store.troubles import Troubles

log = structlog.get_logger(__name__)

RETRY_CAP_SECONDS = 60.0
LINK_SECONDS = 0.5
"""From a look that came before the connection had a link to the next look."""

PARTS: Mapping[State, Part] = {
    State.PENDING: "verification",
    State.VERIFYING: "verification",
    State.REAUTHORIZATION_REQUIRED: "verification",
    State.ACTIVE: "probe",
    State.DEGRADED: "probe",
    State.BLOCKED: "probe",
    State.PAUSED: "probe",
    State.DISCONNECTING: "drain",
    State.DISCONNECTED: "drain",
}
"""What a look at a connection is for."""


class NextLook:
    """Each method raises StoreError."""

    def __init__(
        self, database: Database, health: ConnectionHealth, troubles: Troubles, *, max_wait: timedelta
    ) -> None:
        self._database = database
        self._health = health
        self._troubles = troubles
        self._max_wait_seconds = max_wait.total_seconds()

    async def schedule(self, due: Due, *, in_seconds: float, attempts: int = 0) -> None:
        """Schedules the next look. `attempts`: how many looks in a row have failed."""
        await connections.schedule_probe(
            self._database, due.connection, due.state, in_seconds=in_seconds, attempts=attempts
        )

    async def schedule_idle(self, name: str, state: State) -> None:
        """All is well: the connection is probed when it has been idle for an interval. Nothing is shown with
        it.
        """
        await self._troubles.over(name, "probe", "verification")
        await connections.schedule_probe(
            self._database, name, state, in_seconds=self._health.idle_seconds(), attempts=0
        )

    async def schedule_without_link(self, due: Due, *, is_outdated: bool) -> None:
        """The connection has no link, or one with another credential (`is_outdated`). A link that is being
        built is there in a moment; one that is not there by the second look cannot be built.
        """
        wait = LINK_SECONDS if is_outdated or not due.attempts else RETRY_CAP_SECONDS
        await self.schedule(due, in_seconds=wait, attempts=due.attempts + (not is_outdated))

    async def schedule_interrupted(self, due: Due) -> None:
        """The database interrupted the look: it is made again soon, and not only when its lease is over."""
        attempts = due.attempts + 1
        wait = full_jitter(attempts, rand=random.random(), cap_seconds=RETRY_CAP_SECONDS)
        await self.schedule(due, in_seconds=wait, attempts=attempts)

    async def schedule_again(self, due: Due, error: ConnectorError, *, at_least: float = 0.0) -> None:
        """Schedules the look after a failure: later after each, and not before the system wants to be asked.
        Where the system asked us to wait, or the fault is ours, that is shown with the connection.
        """
        attempts = due.attempts + 1
        rand = random.random()
        wait = max(at_least, full_jitter(attempts, rand=rand, cap_seconds=RETRY_CAP_SECONDS))
        cap = self._max_wait_seconds
        part = PARTS[due.state]
        match error:
            case RateLimited(retry_after=asked):
                wait = put_off(
                    attempts,
                    asked_seconds=asked,
                    rand=rand,
                    growth_cap_seconds=RETRY_CAP_SECONDS,
                    cap_seconds=cap,
                )
                await self._note_waiting(due.connection, part, asked, wait)
            case Unavailable(retry_after=asked) if asked is not None:
                wait = with_floor(wait, floor_seconds=asked, rand=rand, cap_seconds=max(wait, cap))
                await self._note_waiting(due.connection, part, asked, wait)
            case Unavailable(reference=str()):
                await self._troubles.note(due.connection, part, str(error))
            case _ if part == "verification":  # its state does not say why it waits
                await self._troubles.note(due.connection, part, str(error))
            case _:
                await self._troubles.over(due.connection, part)
        await self.schedule(due, in_seconds=wait, attempts=attempts)
        log.warning(
            "connection.probe_deferred",
            connection=due.connection,
            detail=str(error),
            retry_in_seconds=round(wait, 1),
        )

    async def _note_waiting(self, name: str, part: Part, asked_seconds: float | None, seconds: float) -> None:
        until = clock.now() + timedelta(seconds=seconds)
        await self._troubles.note(name, part, waiting(asked_seconds, until=until))
