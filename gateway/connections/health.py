"""Health: what the calls of a connection say about it. Decides by the table of errors; a probe confirms
before a person is asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import assert_never

import structlog

from gateway import clock
from gateway.connections.incidents import Incidents, Observed
from gateway.connections.transitions import Moved, Transitions
from gateway.model.connection import State, Trigger
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.store import connections
from gateway.store.connections import Cause
from gateway.store.pool import Database
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

PROBE_SECONDS = 30.0
DEGRADED_AFTER = 3
"""Transient failures in a row that make a connection degraded."""

DEGRADED_AFTER_SECONDS = 60.0
DENIED_AFTER = 3
"""Denials in a row that block a connection although a probe is allowed."""

WEB_PAGES_SECONDS = 300.0
"""A web page instead of an answer may be an outage's. Nothing else for this long, and the credential is as
good as refused.
"""


class Health:
    """Followed by runs and probes of every replica; what it knows is in PostgreSQL. `on_active` is called
    when streams may run.
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

    async def admit(self, link: Link) -> float | None:
        """Seconds to wait while a breaker is open and somebody else tries; None: go on."""
        return await self._incidents.admit(link.connection, link.system, link.host)

    async def succeeded(self, link: Link, operation: str = "push") -> None:
        """A call was answered. A degraded connection is active again."""
        await self._incidents.note(
            self._observed(link, operation, succeeded=True, transient=False, error=None)
        )
        state = await connections.called(
            self._database, link.connection, next_probe_seconds=self.idle_seconds()
        )
        if state is State.DEGRADED:
            await self._move(link, Trigger.CALL_SUCCEEDED, None, None)

    async def unused(self, link: Link) -> None:
        """No call was made after all: a turn at an open breaker goes to somebody else."""
        await self._incidents.unused(link.connection, link.system, link.host)

    async def failed(
        self, link: Link, error: ConnectorError, *, attempts: int, operation: str = "push"
    ) -> float:
        """A call was not answered well. Moves the connection where it has to; seconds that the next call has
        to wait at least.
        """
        if isinstance(error, AuthRefused) and not error.final and not error.doubtful:
            error = await self._confirmed(link, error)
        transient = (isinstance(error, Unavailable) and error.reference is None) or (
            isinstance(error, AuthRefused) and error.doubtful
        )
        await self._incidents.note(
            self._observed(link, operation, succeeded=False, transient=transient, error=error)
        )
        match error:
            case AuthRefused(doubtful=True):
                return await self._web_page(link, error, attempts)
            case AuthRefused():
                await self._move(link, Trigger.AUTH_REFUSED, str(error), error.request_id)
            case PermissionDenied() | BadConfiguration():
                if attempts >= DENIED_AFTER or isinstance(
                    await self.probe(link), PermissionDenied | BadConfiguration
                ):
                    await self._move(link, Trigger.CALL_DENIED, str(error), error.request_id)
            case Unavailable():
                await self._transient(link, error, attempts)
            case RateLimited() | BatchRefused():
                pass
            case ConnectorError():
                raise AssertionError(error)
            case _:
                assert_never(error)
        return 0.0

    async def probe(self, link: Link) -> ConnectorError | None:
        """One cheap call; what came of it, None when all is well."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await link.connector.probe()
            if answer.former_account is not None:
                await connections.rename_account(self._database, link.connection, answer)
        except ConnectorError as error:
            return error
        except TimeoutError:
            return Unavailable(f"no answer within {PROBE_SECONDS:g} s")
        return None

    def idle_seconds(self) -> float:
        """When an idle connection is probed next: jittered, so that connections do not call together."""
        return self._probe_interval_seconds * (0.8 + 0.2 * random.random())

    async def _confirmed(self, link: Link, error: AuthRefused) -> ConnectorError:
        """One more opinion about a refusal, by a probe: the refusal, or what stands in its way."""
        found = await self.probe(link)
        match found:
            case AuthRefused(doubtful=False):
                return found
            case AuthRefused() | Unavailable() | RateLimited():
                return Unavailable(
                    f"{error}; a probe could not confirm it: {found}", request_id=error.request_id
                )
            case None | PermissionDenied() | BadConfiguration():
                return PermissionDenied(
                    f"{error}; a probe with the same credential was let in", request_id=error.request_id
                )
            case _:
                return Unavailable(str(found), request_id=error.request_id)

    async def _web_page(self, link: Link, error: AuthRefused, attempts: int) -> float:
        _, suspect_seconds = await connections.failing(self._database, link.connection, web_page=True)
        if suspect_seconds >= WEB_PAGES_SECONDS:
            await self._move(link, Trigger.AUTH_REFUSED, str(error), error.request_id)
        elif attempts >= DEGRADED_AFTER:
            await self._move(link, Trigger.TRANSIENT_FAILURES, str(error), error.request_id)
        return 0.0

    async def _transient(self, link: Link, error: Unavailable, attempts: int) -> None:
        failing_seconds, _ = await connections.failing(self._database, link.connection, web_page=False)
        if attempts >= DEGRADED_AFTER or failing_seconds >= DEGRADED_AFTER_SECONDS:
            await self._move(link, Trigger.TRANSIENT_FAILURES, str(error), error.request_id)

    async def _move(
        self, link: Link, trigger: Trigger, reason: str | None, request_id: str | None
    ) -> Moved | None:
        cause = Cause(reason=reason, request_id=request_id, generation=link.generation)
        async with self._database.transaction() as connection:
            moved = await self._transitions.move(connection, link.connection, trigger, cause)
        if moved is not None:
            moved.say()
            self._on_active()
        return moved

    def _observed(
        self, link: Link, operation: str, *, succeeded: bool, transient: bool, error: ConnectorError | None
    ) -> Observed:
        return Observed(
            connection=link.connection,
            customer=link.customer,
            system=link.system,
            host=link.host,
            operation=operation,
            succeeded=succeeded,
            transient=transient,
            request_id=None if error is None else error.request_id,
            error=None if error is None else type(error).__name__,
            at=clock.now(),
        )
