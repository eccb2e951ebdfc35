"""Verifies candidates: credentials or settings that were given, before they are used.

Meanwhile the connection is `verifying`, and what was in use before is kept beside the candidate. The system
is probed with the candidate. By its answer the candidate is taken into use, or it is withdrawn and the
connection goes back to the state that it was in. A system that does not answer is probed again; after some
time the connection goes back and the verification is put off.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway.connections.building import LinkBuilder
from gateway.connections.following import Following
from gateway.connections.health import PROBE_SECONDS, ConnectionHealth
from gateway.connections.next_look import NextLook
from gateway.connections.transitions import Transitions
from gateway.model.connection import State, Trigger
from gateway.model.connector import ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    SealBroken,
    Unavailable,
)
from gateway.model.operation import Operation
from gateway.store import connections, credentials
from gateway.store.connections import Cause, Locked
from gateway.store.pool import Connection, Database
from gateway.store.probes import Due
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

OTHER_ACCOUNT = (
    "the credential reaches another account than the one that was connected; use one of the same account"
)


class Candidates:
    """Each method raises StoreError."""

    def __init__(
        self,
        database: Database,
        builder: LinkBuilder,
        transitions: Transitions,
        health: ConnectionHealth,
        troubles: Troubles,
        following: Following,
        next_look: NextLook,
    ) -> None:
        self._database = database
        self._builder = builder
        self._transitions = transitions
        self._health = health
        self._troubles = troubles
        self._following = following
        self._next_look = next_look

    async def verify_again(self, name: str) -> None:
        """Begins a verification that was put off anew."""
        cause = Cause(reason="the verification that was put off is tried again")
        async with self._transitions.transaction(self._database) as connection:
            await self._transitions.move(connection, name, Trigger.CREDENTIALS_GIVEN, cause)

    async def verify(self, due: Due) -> None:
        """Probes the system with the candidate once, and does what its answer leads to."""
        try:
            link = await self._builder.candidate(due.connection)
        except BadConfiguration as error:
            await self._refused(due, Trigger.PROBE_DENIED, error)
            return
        except SealBroken as error:
            log.error("connection.credential_not_opened", connection=due.connection, detail=str(error))
            await self._troubles.note(due.connection, "verification", str(error))
            async with self._database.transaction() as connection:
                await connections.stop_looking(connection, due.connection)
            return
        if link is None:  # there is no credential: the same follows as from one that is refused
            await self._refused(due, Trigger.PROBE_REFUSED, AuthRefused("no credential is stored; give one"))
            return
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await link.connector.probe()
        except TimeoutError:
            await self.not_verified(due, Unavailable(f"no answer within {PROBE_SECONDS:g} s"))
        except ConnectorError as error:
            await self.not_verified(due, error)
        else:
            await self._verified(due.connection, link, answer)
        finally:
            await link.connector.close()

    async def not_verified(self, due: Due, error: ConnectorError) -> None:
        """The probe failed. The candidate is refused only where the system itself refuses the credential or
        denies the call. After any other failure the system is probed again, for a while.
        """
        match error:
            case AuthRefused(doubtful=False):
                await self._refused(due, Trigger.PROBE_REFUSED, error)
            case PermissionDenied() | BadConfiguration():
                await self._refused(due, Trigger.PROBE_DENIED, error)
            case _ if due.verified_long_enough:
                await self._deferred(due, error)
            case _:
                await self._next_look.schedule_again(due, error)

    async def _verified(self, name: str, link: ServedConnection, answer: ProbeResult) -> None:
        """The probe was answered. One transaction takes the candidate into use, makes the connection active,
        puts its meters in force and begins its streams; where the account is another one it withdraws the
        candidate.
        """
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, name)
            # others were given meanwhile: they are verified next, or have been already
            if locked is None or (locked.candidate or locked.generation) != link.generation:
                return
            if link.configuration < locked.settings_since:
                return
            if is_other := reaches_other(locked, answer):
                moved = await self._transitions.move(
                    connection, name, Trigger.ACCOUNT_DIFFERS, Cause(reason=OTHER_ACCOUNT)
                )
                await self._withdraw(connection, name, locked)
            else:
                moved = await self._transitions.move(connection, name, Trigger.PROBE_SUCCEEDED, Cause())
                if moved is not None:
                    await self._take_into_use(connection, name, link, answer)
        if moved is None:
            return
        log.info(
            "connection.account_differs" if is_other else "connection.probe_succeeded",
            connection=name,
            detail=answer.detail,
        )
        await self._health.succeeded(link, Operation.PROBE)  # it answered: a breaker that is open closes
        await self._next_look.schedule_idle(name, State.ACTIVE)
        await self._following.refresh([name])

    async def _take_into_use(
        self, connection: Connection, name: str, link: ServedConnection, answer: ProbeResult
    ) -> None:
        delivery = link.connector.capabilities.delivery
        await connections.promote(connection, name, account=answer.account, delivery=delivery)
        await credentials.drop_others(connection, connection_id=name, keep=[link.generation])
        await self._following.begin(connection, link)
        await connections.wake(connection, name)

    async def _deferred(self, due: Due, error: ConnectorError) -> None:
        """Puts the verification off: the connection goes back to its former state, and the candidate is
        verified later.
        """
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, due.connection)
            # A credential that was given during the last probe is not put off: that probe was of the former
            # one.
            if _is_outdated(locked, due):
                return
            cause = Cause(reason=str(error))
            moved = await self._transitions.move(
                connection, due.connection, Trigger.VERIFICATION_DEFERRED, cause
            )
        if moved is not None:
            await self._troubles.over(due.connection, "verification")  # its state says what is wrong

    async def _refused(self, due: Due, trigger: Trigger, error: ConnectorError) -> None:
        """The candidate is refused: the connection goes on with the settings and credential that it had."""
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, due.connection)
            if locked is None or _is_outdated(locked, due):
                return
            # A connection that was blocked before stays blocked by the same operation.
            operation = None if locked.prior is State.BLOCKED else Operation.PROBE
            cause = Cause(reason=str(error), request_id=error.request_id, operation=operation)
            moved = await self._transitions.move(connection, due.connection, trigger, cause)
            if moved is not None and moved.to_state in (State.PENDING, State.REAUTHORIZATION_REQUIRED):
                # The candidate is kept: somebody may put it right at the system, and ask for another look.
                await connections.stop_looking(connection, due.connection)
            elif moved is not None and locked.prior is State.REAUTHORIZATION_REQUIRED:
                # The candidate was let in, and lacks a right. It is tried again, and not the one before: that
                # was refused.
                await connections.promote(connection, due.connection, account=None, delivery=None)
                await credentials.drop_others(
                    connection, connection_id=due.connection, keep=[locked.candidate or locked.generation]
                )
            else:
                await self._withdraw(connection, due.connection, locked)
        await self._troubles.over(due.connection, "verification")  # its state says what is wrong

    async def _withdraw(self, connection: Connection, name: str, locked: Locked) -> None:
        await connections.withdraw(connection, name)
        await credentials.drop_others(connection, connection_id=name, keep=[locked.generation])


def reaches_other(locked: Locked, answer: ProbeResult) -> bool:
    """Whether what answered is another account than the one that was connected."""
    return (
        locked.account is not None
        and answer.account is not None
        and locked.account not in (answer.account, answer.former_account)
    )


def _is_outdated(locked: Locked | None, due: Due) -> bool:
    """Whether the settings or the credentials are others by now than those that were looked at."""
    return (
        locked is None
        or (locked.candidate, locked.generation) != (due.candidate, due.generation)
        or due.configuration < locked.settings_since
    )
