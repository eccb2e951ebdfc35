"""Judges the health of connections by their calls, for each operation by itself, and moves a connection where
its calls say so. A probe confirms a refusal before a person is asked for new credentials.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import assert_never

import structlog

from gateway import clock
from gateway.connections.incidents import Incidents, ObservedCall
from gateway.connections.transitions import Moved, Transitions
from gateway.model.connection import State, Trigger
from gateway.model.connector import ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.operation import Operation, proves
from gateway.store import connections
from gateway.store.breakers import OperationTrouble
from gateway.store.calls import may_call
from gateway.store.connections import Cause
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

PROBE_SECONDS = 30.0
DEGRADED_AFTER = 3
"""Transient failures in a row that make a connection degraded."""

DEGRADED_AFTER_SECONDS = 60.0
DENIED_AFTER_SECONDS = 15.0
"""Denials in a row for so long block a connection although a probe is let in. Shorter ones do not: a service
that is being replaced answers 404 for a moment.
"""

CONFIRM_SECONDS = 30.0
"""After a first denial the next call waits at least so long."""

WEB_PAGES_SECONDS = 300.0
"""A web page in place of an answer may come from an outage. Where nothing else has come for so long, and a
probe meets one too, it counts as a refusal of the credential.
"""


class ConnectionHealth:
    """Runs and probes of every replica report to it; what it knows is in PostgreSQL. `on_active` is called
    after each transition, for streams may be allowed to run.
    """

    def __init__(
        self,
        database: Database,
        transitions: Transitions,
        incidents: Incidents,
        *,
        probe_interval_seconds: float,
        on_active: Callable[[], None],
    ) -> None:
        self._database = database
        self._transitions = transitions
        self._incidents = incidents
        self._probe_interval_seconds = probe_interval_seconds
        self._on_active = on_active

    async def admit(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> float | None:
        """Seconds to wait while a breaker is open and another caller tries; None: call now."""
        return await self._incidents.admit(link.connection, link.system, link.host, operation)

    async def succeeded(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """A call was answered well. A degraded or blocked connection becomes active where this proves the
        operation that failed: a good probe says nothing of pushes.
        """
        await self._incidents.note(self._observed_call(link, operation, None))
        found = await connections.note_answer(
            self._database, link.connection, next_probe_seconds=self.idle_seconds()
        )
        if found is None or not proves(operation, found.operation):
            return
        if found.state is State.BLOCKED or (found.state is State.DEGRADED and found.recovers):
            await self._move(link, Trigger.CALL_SUCCEEDED, operation=None)

    def is_plain(self, link: ServedConnection) -> bool:
        """Whether a probe that succeeds changes nothing: no failure is known, and no breaker is open."""
        return self._incidents.is_plain(link.connection, link.system, link.host, Operation.PROBE)

    async def all_succeeded(self, links: Sequence[ServedConnection]) -> None:
        """Notes probes of just now that went well and change nothing. Raises StoreError."""
        await self._incidents.note_all([self._observed_call(link, Operation.PROBE, None) for link in links])

    async def unused(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """No call was made after all: where a breaker is open another caller may try."""
        await self._incidents.unused(link.connection, link.system, link.host, operation)

    async def failed(
        self,
        link: ServedConnection,
        error: ConnectorError,
        *,
        attempts: int,
        operation: Operation = Operation.PUSH,
    ) -> float:
        """A call was not answered well. Moves the connection where that has to be. Returns how many seconds
        the next call has to wait at least.
        """
        if isinstance(error, AuthRefused) and not error.final and not error.doubtful:
            error = await self._confirmed(link, error)
        trouble = await self._incidents.note(self._observed_call(link, operation, error))
        match error:
            case AuthRefused(doubtful=True):
                await self._judge_web_page(link, error, attempts, operation, trouble)
            case AuthRefused():
                await self._move(link, Trigger.AUTH_REFUSED, error, operation=operation)
            case PermissionDenied() | BadConfiguration():
                if not await self._is_denied(link, trouble):
                    return CONFIRM_SECONDS
                await self._move(link, Trigger.CALL_DENIED, error, operation=operation)
            case Unavailable():
                await self._judge_transient(link, error, attempts, operation, trouble)
            case RateLimited() | BatchRefused():
                pass
            case ConnectorError():
                raise AssertionError(error)
            case _:
                assert_never(error)
        return 0.0

    async def _is_denied(self, link: ServedConnection, trouble: OperationTrouble) -> bool:
        """Whether a denial counts: it has lasted for a while, or a probe is denied too."""
        if trouble.denied_seconds >= DENIED_AFTER_SECONDS:
            return True
        return isinstance(await self.probe(link), PermissionDenied | BadConfiguration)

    async def probe(self, link: ServedConnection) -> ConnectorError | None:
        """Makes one cheap call for a second opinion. Returns its error; None where all is well. Makes none
        where the connection may call no more, as one that was paused during the call that failed.
        """
        if not await may_call(self._database, link, also_blocked=True):
            return Unavailable("the connection may not call its system any more")
        answer = await self.ask(link)
        return answer if isinstance(answer, ConnectorError) else None

    async def ask(self, link: ServedConnection) -> ProbeResult | ConnectorError:
        """Makes one cheap call. Returns its answer or its error."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await link.connector.probe()
            if answer.former_account is not None:
                await connections.rename_account(self._database, link.connection, answer)
        except ConnectorError as error:
            return error
        except TimeoutError:
            return Unavailable(f"no answer within {PROBE_SECONDS:g} s")
        return answer

    @property
    def interval_seconds(self) -> float:
        """How often an idle connection is probed."""
        return self._probe_interval_seconds

    def idle_seconds(self) -> float:
        """Seconds until an idle connection is probed next, with jitter, so that connections do not call
        together.
        """
        return self._probe_interval_seconds * (0.9 + 0.1 * random.random())

    async def _confirmed(self, link: ServedConnection, error: AuthRefused) -> ConnectorError:
        """Has a probe confirm a refusal. Returns the refusal of the probe, or what the first one is taken for
        where the probe does not confirm it.
        """
        found = await self.probe(link)
        match found:
            case AuthRefused(doubtful=False):
                return found
            case AuthRefused() | Unavailable() | RateLimited():
                return Unavailable(
                    f"{error}; a probe could not confirm it: {found}",
                    request_id=error.request_id,
                    # a fault of our own in the probe is not the system's failure
                    reference=found.reference if isinstance(found, Unavailable) else None,
                )
            case None | PermissionDenied() | BadConfiguration():
                return PermissionDenied(
                    f"{error}; a probe with the same credential was let in", request_id=error.request_id
                )
            case _:
                return Unavailable(str(found), request_id=error.request_id)

    async def _judge_web_page(
        self,
        link: ServedConnection,
        error: AuthRefused,
        attempts: int,
        operation: Operation,
        trouble: OperationTrouble,
    ) -> None:
        """A web page in place of an answer refuses the credential only where it has come for long and a probe
        meets one too: a proxy that asks for a login on the way of pushes alone says nothing of the
        credential.
        """
        is_refused = trouble.suspect_seconds >= WEB_PAGES_SECONDS
        if is_refused and operation is not Operation.PROBE:
            is_refused = isinstance(await self.probe(link), AuthRefused)
        if is_refused:
            await self._move(link, Trigger.AUTH_REFUSED, error, operation=operation)
        else:
            await self._judge_transient(link, error, attempts, operation, trouble)

    async def _judge_transient(
        self,
        link: ServedConnection,
        error: ConnectorError,
        attempts: int,
        operation: Operation,
        trouble: OperationTrouble,
    ) -> None:
        if attempts < DEGRADED_AFTER and trouble.failing_seconds < DEGRADED_AFTER_SECONDS:
            return
        moved = await self._move(link, Trigger.TRANSIENT_FAILURES, error, operation=operation)
        if moved is None and operation is not Operation.PROBE:  # it may be degraded by probes already
            await connections.note_failing_operation(
                self._database, link.connection, operation, str(error), error.request_id
            )

    async def _move(
        self,
        link: ServedConnection,
        trigger: Trigger,
        error: ConnectorError | None = None,
        *,
        operation: Operation | None,
    ) -> Moved | None:
        cause = Cause(
            reason=None if error is None else str(error),
            request_id=None if error is None else error.request_id,
            generation=link.generation,
            configuration=link.configuration,
            operation=operation,
        )
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._transitions.move(connection, link.connection, trigger, cause)
            if moved is not None and moved.from_state is State.BLOCKED and moved.to_state is State.ACTIVE:
                await connections.wake(connection, link.connection)
        if moved is not None:
            self._on_active()
        return moved

    def _observed_call(
        self, link: ServedConnection, operation: Operation, error: ConnectorError | None
    ) -> ObservedCall:
        doubtful = isinstance(error, AuthRefused) and error.doubtful
        return ObservedCall(
            connection=link.connection,
            customer=link.customer,
            system=link.system,
            host=link.host,
            operation=operation,
            succeeded=error is None,
            transient=(isinstance(error, Unavailable) and error.reference is None) or doubtful,
            request_id=None if error is None else error.request_id,
            error=None if error is None else type(error).__name__,
            web_page=doubtful,
            denied=isinstance(error, PermissionDenied | BadConfiguration),
            at=clock.now(),
        )
