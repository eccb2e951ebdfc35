"""Probes connections whose credential is in use: an idle one each `sync.probe_interval`, a degraded one until
it answers, and a blocked one about once an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from gateway.connections.answers import Answers
from gateway.connections.candidates import OTHER_ACCOUNT, Candidates, reaches_other
from gateway.connections.following import Following
from gateway.connections.health import ConnectionHealth
from gateway.connections.links import Links
from gateway.connections.next_look import NextLook
from gateway.connections.transitions import Transitions, to_next_trial
from gateway.model.connection import State, Trigger
from gateway.model.connector import ProbeResult
from gateway.model.errors import AuthRefused, ConnectorError
from gateway.model.operation import Operation
from gateway.store import connections
from gateway.store.connections import Cause
from gateway.store.pool import Database
from gateway.store.probes import Due
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)


class Probing:
    """Probes connections. `on_trial` is called when a stream of a blocked connection may run once."""

    def __init__(
        self,
        database: Database,
        links: Links,
        transitions: Transitions,
        health: ConnectionHealth,
        candidates: Candidates,
        following: Following,
        answers: Answers,
        next_look: NextLook,
        *,
        on_trial: Callable[[], None],
    ) -> None:
        self._database = database
        self._links = links
        self._transitions = transitions
        self._health = health
        self._candidates = candidates
        self._following = following
        self._answers = answers
        self._next_look = next_look
        self._on_trial = on_trial

    async def check(self, due: Due) -> None:
        """Looks at a connection once. The system is not called while the link is built anew, nor while a
        breaker is open and another caller tries. Raises StoreError.
        """
        link = self._links.get(due.connection)
        if link is None or link.generation != due.generation:
            await self._next_look.schedule_without_link(due, is_outdated=link is not None)
        elif due.is_offered:
            await self._candidates.verify_again(due.connection)
        elif due.state is State.BLOCKED and due.operation not in (None, Operation.PROBE):
            await self._try_push(due)
        else:
            await self._probe(due, link)

    async def _probe(self, due: Due, link: ServedConnection) -> None:
        wait_for_breaker = await self._health.admit(link, Operation.PROBE)
        if wait_for_breaker is not None:
            await self._next_look.schedule(due, in_seconds=wait_for_breaker, attempts=due.attempts)
            return
        answer = await self._health.ask(link)
        if isinstance(answer, ConnectorError):
            await self._failed(due, link, answer)
        elif due.state is State.ACTIVE and self._answers.says_only_well(link):
            self._answers.add(link)
        elif due.state is State.BLOCKED:
            await self._unblock(due, link, answer)
        else:
            await self._health.succeeded(link, Operation.PROBE)
            await self._next_look.schedule_idle(due.connection, due.state)

    async def _try_push(self, due: Due) -> None:
        """Lets a run push one reading, whose answer decides: the connection is blocked by its pushes, and a
        probe would prove nothing. Where no reading is due there is nothing to try.
        """
        if await connections.try_push(self._database, due.connection, next_trial_seconds=to_next_trial()):
            log.info("connection.trial_begun", connection=due.connection, operation=str(due.operation))
            self._on_trial()

    async def _failed(self, due: Due, link: ServedConnection, error: ConnectorError) -> None:
        attempts = due.attempts + 1
        if due.state is not State.BLOCKED:
            floor = await self._health.failed(link, error, attempts=attempts, operation=Operation.PROBE)
            await self._next_look.schedule_again(due, error, at_least=floor)
            return
        if isinstance(error, AuthRefused) and not error.doubtful:
            await self._health.failed(link, error, attempts=1, operation=Operation.PROBE)
        else:  # why it is blocked is known: a failure once an hour makes no incident
            await self._health.unused(link, Operation.PROBE)
        await self._next_look.schedule(due, in_seconds=to_next_trial(), attempts=attempts)

    async def _unblock(self, due: Due, link: ServedConnection, answer: ProbeResult) -> None:
        name = due.connection
        cause = Cause(generation=link.generation, configuration=link.configuration)
        async with self._transitions.transaction(self._database) as connection:
            # what is blocked since it was given has not shown yet which account it reaches
            locked = await connections.lock(connection, name)
            if locked is not None and reaches_other(locked, answer):
                cause = replace(cause, reason=OTHER_ACCOUNT, operation=Operation.PROBE)
                await self._transitions.move(connection, name, Trigger.AUTH_REFUSED, cause)
                return
            moved = await self._transitions.move(connection, name, Trigger.PROBE_SUCCEEDED, cause)
            if moved is not None:
                await self._following.begin(connection, link)
                await connections.wake(connection, name)
        if moved is not None:
            await self._health.succeeded(link, Operation.PROBE)
            await self._next_look.schedule_idle(name, State.ACTIVE)
            await self._following.refresh([name])
