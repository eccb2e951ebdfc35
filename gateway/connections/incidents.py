"""Breakers and incidents: notes how calls end, says which calls may be made, and has one replica at a time
decide on incidents. It knows no system and no error: whoever makes a call has classified what came back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from gateway import clock
from gateway.connections.verdicts import decide
from gateway.model.breaker import Key, Scope, probe_interval_seconds, wait_seconds
from gateway.model.operation import Operation, proves
from gateway.outage import Outage
from gateway.store import breakers, leases
from gateway.store.breakers import OperationTrouble
from gateway.store.notices import BREAKERS, LookPace, Notices
from gateway.store.pool import Connection, Database

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 1.0
DECIDE_SECONDS = 5.0
LEASE_SECONDS = 15.0
SUCCESS_SECONDS = 10.0
"""A success of a connection is written at most once in so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCall:
    """How one call ended. `transient`: the system or the network failed; never a refused login, a missing
    permission, a 429 or a bad record. `web_page`: a web page came in place of an answer. `denied`: what was
    asked is not allowed, or not there.
    """

    connection: str
    customer: str
    system: str
    host: str
    operation: Operation
    succeeded: bool
    transient: bool
    request_id: str | None
    at: datetime
    error: str | None = None
    web_page: bool = False
    denied: bool = False


@dataclass(slots=True, kw_only=True)
class _Noted:
    """What this process knows of an operation of a connection: whether its last call that was written
    succeeded and when it ended (`at`), and when its last `success` was. Both monotonic.
    """

    succeeded: bool
    at: float
    success: float | None


class Incidents:
    """One for each replica. `owner` names the replica; `call_seconds` is longer than any call to a system may
    take.
    """

    def __init__(
        self, database: Database, *, owner: str, call_seconds: float = 60.0, notices: Notices | None = None
    ) -> None:
        """`notices` tells when breakers change; without it the database is asked for them."""
        self._database = database
        self._owner = owner
        self._call_seconds = call_seconds
        self._wake = asyncio.Event()
        self._pace = LookPace(notices, BREAKERS, REFRESH_SECONDS, self._wake.set)
        self._open: dict[Key, float] = {}
        """Open breakers, and when (monotonic) each may be tried."""
        self._held_back: dict[Key, Operation] = {}
        """The operation that each open breaker holds back."""
        self._noted: dict[tuple[str, Operation], _Noted] = {}
        self._trying: set[str] = set()
        """Connections of this replica that have a turn to try at an open breaker."""

    async def note(self, observed: ObservedCall) -> OperationTrouble:
        """Writes how a call ended: every failure, and a success at most every 10 s unless it ends failures or
        closes a breaker. Returns for how long the operation has been in trouble.

        Must not be called within a transaction that holds the connection's row. Raises StoreError.
        """
        ago = max(0.0, (clock.now() - observed.at).total_seconds())
        name, operation = observed.connection, observed.operation
        noted = self._noted.get((name, operation))
        now = clock.monotonic()
        at = now - ago
        success = None if noted is None else noted.success
        if observed.succeeded:
            success = at
        keys = self._open_for(observed.system, observed.host, operation)
        if (
            observed.succeeded
            and not keys
            and noted is not None
            and noted.succeeded
            and at - noted.at < SUCCESS_SECONDS
        ):
            noted.success = success
            return OperationTrouble()
        async with self._database.transaction() if keys else self._database.connection() as connection:
            trouble, closed, narrowed = await self._write(
                connection, observed, keys, ago, None if success is None else now - success
            )
        self._trying.discard(name)
        self._noted[name, operation] = _Noted(succeeded=observed.succeeded, at=at, success=success)
        if not observed.succeeded:
            # The next success of an operation that proves this one ends failures, and so must be written.
            for other in Operation:
                if proves(other, operation) and (name, other) in self._noted:
                    self._noted[name, other].succeeded = False
        for key, held_back in narrowed.items():
            if key in self._open:
                self._held_back[key], self._open[key] = held_back, now
        for key in closed:
            self._open.pop(key, None)
            log.info("connection.breaker_closed", scope=str(key[0]), key=key[1], connection=name)
        return trouble

    def is_plain(self, connection: str, system: str, host: str, operation: Operation) -> bool:
        """Whether a success would end no failures, as far as this process knows, and close no breaker."""
        noted = self._noted.get((connection, operation))
        return (noted is None or noted.succeeded) and not self._open_for(system, host, operation)

    async def note_all(self, observed: Sequence[ObservedCall]) -> None:
        """Writes successes of just now of one operation that end no failures, together. Raises StoreError."""
        now = clock.monotonic()
        wheres = []
        for one in observed:
            noted = self._noted.get((one.connection, one.operation))
            if noted is None or not noted.succeeded or now - noted.at >= SUCCESS_SECONDS:
                wheres.append((one.connection, one.customer, one.system, one.host))
        if not wheres:
            return
        await breakers.all_succeeded(self._database, wheres, observed[0].operation)
        for connection, *_ in wheres:
            self._noted[connection, observed[0].operation] = _Noted(succeeded=True, at=now, success=now)

    async def admit(
        self, connection: str, system: str, host: str, operation: Operation = Operation.PUSH
    ) -> float | None:
        """None: the caller makes the call now, and notes how it ended. Else the seconds to wait before it
        asks again: an open breaker holds the operation back, and it is not this caller's turn to try.

        Costs nothing while no breaker of the host or the system type is open. Raises StoreError.
        """
        keys = self._open_for(system, host, operation)
        if not keys:
            return None
        now = clock.monotonic()
        wait = max(self._open[key] for key in keys) - now
        if wait <= 0:
            self._put_off_tries(keys, now + REFRESH_SECONDS)  # other callers of this process need not ask too
            wait_for_turn = await breakers.attempt(
                self._database, keys, self._caller(connection), seconds=self._call_seconds
            )
            if wait_for_turn is None:
                self._trying.add(connection)
                self._put_off_tries(keys, now + self._call_seconds)
                return None
            self._put_off_tries(keys, now + wait_for_turn)
            wait = wait_for_turn
        return wait_seconds(wait, rand=random.random())

    async def unused(
        self, connection: str, system: str, host: str, operation: Operation = Operation.PUSH
    ) -> None:
        """A call that was admitted was not made: where it had the turn at an open breaker another caller may
        try at once. Raises StoreError.
        """
        if connection not in self._trying:
            return
        self._trying.discard(connection)
        keys = self._open_for(system, host, operation)
        async with self._database.transaction() as session:
            tried = await breakers.trials(session, keys, self._caller(connection))
            for key, trials in tried.items():
                await breakers.rest(session, key, seconds=0.0, trials=trials)
        self._put_off_tries(keys, clock.monotonic())

    async def run(self) -> None:
        """Until cancelled: learns every second which breakers are open, and every few seconds has one replica
        decide. Waits for a database that is away.
        """
        outage = Outage(
            began=lambda detail: log.warning("connection.incidents_deferred", detail=detail),
            ended=lambda: log.info("connection.incidents_resumed"),
        )
        next_decision = 0.0
        while True:
            self._wake.clear()
            with outage.of_store():
                if clock.monotonic() >= next_decision:
                    next_decision = clock.monotonic() + DECIDE_SECONDS
                    await self.decide()
                await self.refresh()
            # While a breaker is open it must be known to the second when it may be tried.
            seconds = self._pace.seconds(found=bool(self._open) or outage.is_away)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, max(next_decision - clock.monotonic(), 0.0))):
                    await self._wake.wait()

    async def decide(self) -> None:
        """Opens and closes breakers and incidents, unless another replica has the lease to do so. Raises
        StoreError.
        """
        if await leases.claim(self._database, "incidents", self._owner, LEASE_SECONDS) is not None:
            await decide(self._database)

    async def refresh(self) -> None:
        """Learns which breakers are open. Raises StoreError."""
        opened = await breakers.opened(self._database)
        now = clock.monotonic()
        self._open = {key: now + seconds for key, (seconds, _) in opened.items()}
        self._held_back = {key: operation for key, (_, operation) in opened.items()}

    async def _write(
        self,
        connection: Connection,
        observed: ObservedCall,
        keys: Sequence[Key],
        ago: float,
        success_ago: float | None,
    ) -> tuple[OperationTrouble, list[Key], dict[Key, Operation]]:
        """Writes the call. Returns for how long the operation has been in trouble, the breakers that the call
        closed, and those that it narrowed, each with the operation that it still holds back.
        """
        where = (observed.connection, observed.customer, observed.system, observed.host)
        if observed.succeeded:
            await breakers.succeeded(connection, where, observed.operation, seconds_ago=ago)
            if not keys:
                return OperationTrouble(), [], {}
            narrowed: dict[Key, Operation] = {}
            if observed.operation is Operation.PROBE:
                # A host that answers probes may still fail pushes: they must not all begin at once.
                narrowed = await breakers.narrow(connection, keys)
            closed = await breakers.close(connection, keys, proved=observed.operation)
            return OperationTrouble(), closed, narrowed
        trouble = await breakers.failed(
            connection,
            where,
            observed.operation,
            seconds_ago=ago,
            request_id=observed.request_id,
            transient=observed.transient,
            error=observed.error,
            success_seconds_ago=success_ago,
            web_page=observed.web_page,
            denied=observed.denied,
        )
        if keys:
            tried = await breakers.trials(connection, keys, self._caller(observed.connection))
            for key, trials in tried.items():
                # Only a transient failure says that the breaker is right. After any other another caller may
                # try soon.
                failed = trials + 1 if observed.transient else trials
                seconds = probe_interval_seconds(failed if observed.transient else 0, rand=random.random())
                await breakers.rest(connection, key, seconds=seconds, trials=failed)
        return trouble, [], {}

    def _open_for(self, system: str, host: str, operation: Operation) -> list[Key]:
        """The open breakers that hold this operation back."""
        if not self._open:
            return []
        keys: tuple[Key, Key] = ((Scope.HOST, host), (Scope.SYSTEM, system))
        return [key for key in keys if key in self._open and proves(operation, self._held_back.get(key))]

    def _put_off_tries(self, keys: Sequence[Key], until: float) -> None:
        for key in keys:
            if key in self._open:
                self._open[key] = until

    def _caller(self, connection: str) -> str:
        return f"{self._owner}/{connection}"
