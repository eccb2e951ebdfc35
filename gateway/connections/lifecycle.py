"""The lifecycle looks at connections that are due. Every replica takes part, and claims under a lease what it
looks at.

What a look does depends on the connection's state. Credentials that were given are verified (`candidates`),
those in use are probed (`probing`), and a connection that is being disconnected is brought to its end
(`ending`). Each look schedules the next one (`next_look`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import assert_never

import structlog

from gateway.bulkhead import Fault, contained
from gateway.connections.answers import Answers, Budget, begin_looks
from gateway.connections.building import LinkBuilder
from gateway.connections.candidates import Candidates
from gateway.connections.ending import Ending
from gateway.connections.following import Following
from gateway.connections.health import ConnectionHealth
from gateway.connections.links import Links
from gateway.connections.next_look import PARTS, NextLook
from gateway.connections.probing import Probing
from gateway.connections.transitions import BLOCKED_SECONDS, Transitions
from gateway.credentials.tokens import Tokens
from gateway.model.connection import State
from gateway.model.errors import CreditsInsufficient, StoreError, Unavailable
from gateway.store import connections, probes
from gateway.store import credits as ledger
from gateway.store.notices import DUE, LookPace, Notices
from gateway.store.pool import Database
from gateway.store.probes import Due
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
LEASE_SECONDS = 60.0
MAX_PROBES = 256
"""How many looks may be under way at once. One that waits for its system holds no database session: a system
that hangs costs one of these places only.
"""


class Lifecycle:
    """Looks at connections that are due. `on_links` is called with the links of this replica when any of them
    changed, `on_trial` when a stream of a blocked connection may run once.
    """

    def __init__(
        self,
        database: Database,
        builder: LinkBuilder,
        links: Links,
        transitions: Transitions,
        health: ConnectionHealth,
        tokens: Tokens,
        troubles: Troubles,
        notices: Notices,
        *,
        max_future: timedelta,
        max_wait: timedelta,
        on_links: Callable[[dict[str, ServedConnection]], None],
        on_trial: Callable[[], None],
    ) -> None:
        self._database = database
        self._links = links
        self._notices = notices
        self._pace = LookPace(notices, DUE, POLL_SECONDS, notices.probes.set)
        self._following = Following(
            database, links, troubles, self._notices, max_future=max_future, on_links=on_links
        )
        self._answers = Answers(database, health, troubles)
        self._budget = Budget(health.interval_seconds)
        self._next_look = NextLook(database, health, troubles, max_wait=max_wait)
        self._candidates = Candidates(
            database, builder, transitions, health, troubles, self._following, self._next_look
        )
        self._probing = Probing(
            database,
            links,
            transitions,
            health,
            self._candidates,
            self._following,
            self._answers,
            self._next_look,
            on_trial=on_trial,
        )
        self._ending = Ending(database, builder, transitions, tokens, self._next_look)
        self._interrupted: dict[str, Due] = {}

    async def run(self) -> None:
        """Works until cancelled. While the database is away it looks at nothing."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notices.run(), name="notices")
            group.create_task(self._answers.run(), name="probes that went well")
            group.create_task(self._following.run(), name="links")  # thousands of new ones hold up no probe
            looking: set[asyncio.Task[None]] = set()
            while True:
                try:
                    due = await self._due(MAX_PROBES - len(looking))
                except StoreError:
                    due = []  # the scheduler logs that the database is away
                turn_seconds = self._budget.turn_seconds(
                    len(due), at_least=POLL_SECONDS, is_told=self._pace.is_told
                )
                begin_looks(group, looking, due, self._look, within_seconds=turn_seconds)
                wait = turn_seconds if due else await self._rest_seconds(turn_seconds)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._notices.probes.wait()
                self._notices.probes.clear()

    async def _rest_seconds(self, turn_seconds: float) -> float:
        """How long to rest after a turn in which none was due: until one is due, if whoever makes one due
        sooner tells us.
        """
        rest_seconds = self._pace.seconds(found=bool(self._interrupted))
        if rest_seconds <= turn_seconds:
            return turn_seconds
        try:
            next_seconds = await probes.seconds_to_next(self._database)
        except StoreError:
            return turn_seconds
        return rest_seconds if next_seconds is None else min(rest_seconds, max(next_seconds, turn_seconds))

    async def _due(self, free: int) -> list[Due]:
        """Claims connections that are due, at most `free`. Probes of idle connections are limited to as many
        in a turn as are needed for all to be probed in time: after a start, or an hour without the database,
        all are due at once, and should not call their systems at once.
        """
        await self._put_off_interrupted()
        if not free:
            return []
        return await probes.claim(
            self._database,
            lease_seconds=LEASE_SECONDS,
            limit=free,
            probes=self._budget.take(self._links.count),
        )

    async def refresh(self, only: Collection[str] | None = None) -> None:
        """As `Following.refresh`."""
        await self._following.refresh(only)

    async def _look(self, due: Due) -> None:
        """The one place where a look at a connection begins. Whatever is raised in a look, it is made again
        later.
        """
        try:
            with contained(PARTS[due.state], due.connection) as made:
                await self._look_at(due)
            if made.fault is not None:
                await self._crashed(due, made.fault)
        except StoreError as error:
            log.warning("connection.probe_not_recorded", connection=due.connection, detail=str(error))
            self._interrupted[due.connection] = due

    async def _put_off_interrupted(self) -> None:
        for name, due in list(self._interrupted.items()):
            await self._next_look.schedule_interrupted(due)
            self._interrupted.pop(name, None)

    async def _crashed(self, due: Due, fault: Fault) -> None:
        error = Unavailable(fault.text, reference=fault.reference)
        if due.state is State.VERIFYING:
            await self._candidates.not_verified(due, error)
        else:
            at_least = BLOCKED_SECONDS if due.state is State.BLOCKED else 0.0
            await self._next_look.schedule_again(due, error, at_least=at_least)

    async def _look_at(self, due: Due) -> None:
        try:
            match due.state:
                case State.VERIFYING:
                    await self._candidates.verify(due)
                case State.ACTIVE | State.DEGRADED | State.BLOCKED:
                    await self._probing.check(due)
                case State.PENDING | State.REAUTHORIZATION_REQUIRED:  # a verification that was put off
                    await self._candidates.verify_again(due.connection)
                case State.DISCONNECTING:
                    await self._ending.drain(due)
                case State.PAUSED | State.DISCONNECTED:
                    pass
                case _:
                    assert_never(due.state)
        except CreditsInsufficient as error:  # a verification takes credits
            log.warning(
                "connection.verification_refused",
                connection=due.connection,
                code=error.code,
                detail=str(error),
            )
            await ledger.note_refusal(self._database, error)
            async with self._database.transaction() as connection:
                await connections.stop_looking(connection, due.connection)
