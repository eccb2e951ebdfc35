"""The lifecycle: verifies credentials, probes idle and blocked connections, and ends those that are
disconnected. Every replica takes part.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import assert_never

import structlog

from gateway import clock
from gateway.alerts import rules as alerts
from gateway.bulkhead import Fault, Part, contained
from gateway.connections.answers import Answers, Budget, begin
from gateway.connections.following import Following
from gateway.connections.health import ConnectionHealth
from gateway.connections.links import Links
from gateway.connections.transitions import BLOCKED_SECONDS, Moved, Transitions, to_next_trial
from gateway.credentials.tokens import Tokens
from gateway.model.backoff import full_jitter, put_off, waiting, with_floor
from gateway.model.connection import State, Trigger
from gateway.model.connector import ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    CreditsInsufficient,
    PermissionDenied,
    RateLimited,
    SealBroken,
    StoreError,
    Unavailable,
)
from gateway.model.operation import Operation
from gateway.store import connections, credentials, inbound, probes
from gateway.store import credits as ledger
from gateway.store.connections import Cause, Locked
from gateway.store.notices import Notices
from gateway.store.pool import Connection, Database
from gateway.store.probes import Due
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
LEASE_SECONDS = 60.0
MAX_PROBES = 256
"""At once. One that waits for its system holds no session, so a hung system costs a place here only."""

DRAIN_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0
PROBE_SECONDS = 30.0

_PARTS: Mapping[State, Part] = {
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


class Lifecycle:
    """Looks at the connections that are due. `on_links` is called with the links of this replica when any of
    them changed, `on_trial` when a stream of a blocked connection may run once.
    """

    def __init__(
        self,
        database: Database,
        links: Links,
        transitions: Transitions,
        health: ConnectionHealth,
        tokens: Tokens,
        troubles: Troubles,
        *,
        max_future: timedelta,
        max_wait: timedelta,
        on_links: Callable[[dict[str, ServedConnection]], None],
        on_trial: Callable[[], None],
    ) -> None:
        self._database = database
        self._links = links
        self._transitions = transitions
        self._health = health
        self._tokens = tokens
        self._troubles = troubles
        self._max_wait_seconds = max_wait.total_seconds()
        self._on_trial = on_trial
        self._notices = Notices(database)
        self._following = Following(
            database, links, troubles, self._notices, max_future=max_future, on_links=on_links
        )
        self._answers = Answers(database, health, troubles)
        self._budget = Budget(health.interval_seconds)
        self._interrupted: dict[str, Due] = {}

    async def run(self) -> None:
        """Until cancelled. While the database is away nothing is looked at."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notices.run(), name="notices")
            group.create_task(self._answers.run(), name="probes that went well")
            group.create_task(self._following.run(), name="links")  # thousands of new ones hold up no probe
            looking: set[asyncio.Task[None]] = set()
            while True:
                try:
                    due = await self._due(MAX_PROBES - len(looking))
                except StoreError:
                    due = []  # the scheduler says that the database is away
                turn_seconds = self._budget.turn_seconds(
                    len(due), at_least=POLL_SECONDS, is_told=self._notices.is_listening
                )
                begin(group, looking, due, self._look, within_seconds=turn_seconds)
                with suppress(TimeoutError):
                    async with asyncio.timeout(turn_seconds):
                        await self._notices.probes.wait()
                self._notices.probes.clear()

    async def _due(self, free: int) -> list[Due]:
        """Probes by their rhythm: so many in a turn that all have theirs in good time, and no more. After a
        start, or an hour with the database away, all are due at once, and their systems would meet them at
        once.
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
        """The one place where a look at a connection begins: whatever is raised in it
        is tried again later.
        """
        try:
            with contained(_PARTS[due.state], due.connection) as made:
                await self._look_at(due)
            if made.fault is not None:
                await self._crashed(due, made.fault)
        except StoreError as error:
            log.warning("connection.probe_not_recorded", connection=due.connection, detail=str(error))
            self._interrupted[due.connection] = due

    async def _put_off_interrupted(self) -> None:
        """A look that the database interrupted is made again soon, and not when its lease is over."""
        for name, due in list(self._interrupted.items()):
            attempts = due.attempts + 1
            wait = full_jitter(attempts, rand=random.random(), cap_seconds=RETRY_CAP_SECONDS)
            await connections.schedule_probe(
                self._database, name, due.state, in_seconds=wait, attempts=attempts
            )
            self._interrupted.pop(name, None)

    async def _crashed(self, due: Due, fault: Fault) -> None:
        error = Unavailable(fault.text, reference=fault.reference)
        if due.state is State.VERIFYING:
            await self._not_verified(due, error)
        else:
            await self._again(due, error, at_least=BLOCKED_SECONDS if due.state is State.BLOCKED else 0.0)

    async def _look_at(self, due: Due) -> None:
        try:
            match due.state:
                case State.VERIFYING:
                    await self._verify(due)
                case State.ACTIVE | State.DEGRADED | State.BLOCKED:
                    await self._check(due)
                case State.PENDING | State.REAUTHORIZATION_REQUIRED:  # a verification that was put off
                    await self._move(
                        due.connection,
                        Trigger.CREDENTIALS_GIVEN,
                        Cause(reason="the verification that was put off is tried again"),
                    )
                case State.DISCONNECTING:
                    await self._drain(due)
                case State.PAUSED | State.DISCONNECTED:
                    pass
                case _:
                    assert_never(due.state)
        except CreditsInsufficient as error:  # what a verification takes is not there
            log.warning(
                "connection.verification_refused",
                connection=due.connection,
                code=error.code,
                detail=str(error),
            )
            await ledger.note_refusal(self._database, error)
            await self._rest(due.connection)

    async def _rest(self, name: str) -> None:
        async with self._database.transaction() as connection:
            await connections.rest(connection, name)

    # New credentials or settings

    async def _verify(self, due: Due) -> None:
        try:
            link = await self._links.candidate(due.connection)
        except BadConfiguration as error:
            await self._refused(due, Trigger.PROBE_DENIED, error)
            return
        except SealBroken as error:
            log.error("connection.credential_not_opened", connection=due.connection, detail=str(error))
            await self._troubles.note(due.connection, "verification", str(error))
            await self._rest(due.connection)
            return
        if link is None:  # there is nothing to verify with: as if the credential had been refused
            await self._refused(due, Trigger.PROBE_REFUSED, AuthRefused("no credential is stored; give one"))
            return
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await link.connector.probe()
        except (ConnectorError, TimeoutError) as error:
            await self._not_verified(due, error)
        else:
            await self._verified(due.connection, link, answer)
        finally:
            await link.connector.close()

    async def _verified(self, name: str, link: ServedConnection, answer: ProbeResult) -> None:
        """One transaction: the account is the same, the connection is active, its credential in use, its
        meters materialised, its streams begun.
        """
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, name)
            if locked is None or (locked.candidate or locked.generation) != link.generation:
                return  # another credential was given meanwhile: it is verified next, or has been already
            other = (
                locked.account is not None
                and answer.account is not None
                and locked.account not in (answer.account, answer.former_account)
            )
            if other:
                reason = (
                    "the credential reaches another account than the one that was connected; use one of the"
                    " same account"
                )
                moved = await self._transitions.move(
                    connection, name, Trigger.ACCOUNT_DIFFERS, Cause(reason=reason)
                )
                await self._withdraw(connection, name, locked)
            else:
                moved = await self._transitions.move(connection, name, Trigger.PROBE_SUCCEEDED, Cause())
                if moved is not None:
                    await connections.promote(
                        connection,
                        name,
                        account=answer.account,
                        delivery=link.connector.capabilities.delivery,
                    )
                    await credentials.drop_others(connection, connection_id=name, keep=[link.generation])
                    await self._following.begin(connection, link)
                    await connections.wake(connection, name)
        if moved is not None:
            log.info(
                "connection.probe_succeeded" if not other else "connection.account_differs",
                connection=name,
                detail=answer.detail,
            )
            # the system answered: a breaker that is open closes
            await self._health.succeeded(link, Operation.PROBE)
            await self._after_success(name)

    async def _after_success(self, name: str) -> None:
        await self._troubles.over(name, "probe", "verification")
        await connections.schedule_probe(
            self._database, name, State.ACTIVE, in_seconds=self._health.idle_seconds(), attempts=0
        )
        await self.refresh([name])

    async def _not_verified(self, due: Due, error: ConnectorError | TimeoutError) -> None:
        match error:
            case AuthRefused(doubtful=False):
                await self._refused(due, Trigger.PROBE_REFUSED, error)
            case PermissionDenied() | BadConfiguration():
                await self._refused(due, Trigger.PROBE_DENIED, error)
            case _ if due.verified_long_enough:
                await self._deferred(due, error)
            case _:
                await self._again(due, error)

    async def _deferred(self, due: Due, error: ConnectorError | TimeoutError) -> None:
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, due.connection)
            # A credential that was given during the last probe is not put off by the time-out of the one
            # before.
            if locked is None or (locked.candidate, locked.generation) != (due.candidate, due.generation):
                return
            cause = Cause(reason=_words(error))
            moved = await self._transitions.move(
                connection, due.connection, Trigger.VERIFICATION_DEFERRED, cause
            )
        if moved is not None:
            await self._troubles.over(due.connection, "verification")  # its state says what is wrong

    async def _refused(self, due: Due, trigger: Trigger, error: ConnectorError) -> None:
        """What worked before goes on with the credential that it had."""
        async with self._transitions.transaction(self._database) as connection:
            locked = await connections.lock(connection, due.connection)
            if locked is None or (locked.candidate, locked.generation) != (due.candidate, due.generation):
                return
            # What was blocked before stays so by the operation that it was blocked by.
            operation = None if locked.prior is State.BLOCKED else Operation.PROBE
            cause = Cause(reason=str(error), request_id=error.request_id, operation=operation)
            moved = await self._transitions.move(connection, due.connection, trigger, cause)
            if moved is not None and moved.to_state in (State.PENDING, State.REAUTHORIZATION_REQUIRED):
                # kept, for who has put it right at the system and asks for another look
                await connections.rest(connection, due.connection)
            else:
                await self._withdraw(connection, due.connection, locked)
        await self._troubles.over(due.connection, "verification")  # its state says what is wrong

    async def _withdraw(self, connection: Connection, name: str, locked: Locked) -> None:
        await connections.withdraw(connection, name)
        await credentials.drop_others(connection, connection_id=name, keep=[locked.generation])

    # Credentials in use

    async def _check(self, due: Due) -> None:
        link = self._links.get(due.connection)
        if link is None or link.generation != due.generation:
            # one that is about to be built anew, or one that cannot be
            pause = RETRY_CAP_SECONDS if link is None and due.attempts else POLL_SECONDS
            await connections.schedule_probe(
                self._database,
                due.connection,
                due.state,
                in_seconds=pause,
                attempts=due.attempts + (link is None),
            )
            return
        if due.candidate is not None:
            await self._move(
                due.connection,
                Trigger.CREDENTIALS_GIVEN,
                Cause(reason="the verification that was put off is tried again"),
            )
            return
        if due.state is State.BLOCKED and due.operation not in (None, Operation.PROBE):
            await self._try_push(due)
            return
        if (wait := await self._health.admit(link, Operation.PROBE)) is not None:
            await connections.schedule_probe(
                self._database, due.connection, due.state, in_seconds=wait, attempts=due.attempts
            )
            return
        error = await self._health.probe(link)
        if error is None and due.state is State.ACTIVE and self._answers.takes(link):
            self._answers.add(link)
        elif error is None:
            await self._well(due, link)
        elif due.state is State.BLOCKED:
            if isinstance(error, AuthRefused) and not error.doubtful:
                await self._health.failed(link, error, attempts=1, operation=Operation.PROBE)
            else:  # what it is blocked for is known; a failure once an hour makes no incident
                await self._health.unused(link, Operation.PROBE)
            await connections.schedule_probe(
                self._database,
                due.connection,
                due.state,
                in_seconds=to_next_trial(),
                attempts=due.attempts + 1,
            )
        else:
            floor = await self._health.failed(
                link, error, attempts=due.attempts + 1, operation=Operation.PROBE
            )
            await self._again(due, error, at_least=floor)

    async def _try_push(self, due: Due) -> None:
        """Pushes are refused: a run pushes one reading, and its answer decides. A probe would prove nothing,
        and with no reading due there is nothing to try.
        """
        if await connections.try_push(self._database, due.connection, next_trial_seconds=to_next_trial()):
            log.info("connection.trial_begun", connection=due.connection, operation=str(due.operation))
            self._on_trial()

    async def _well(self, due: Due, link: ServedConnection) -> None:
        if due.state is State.BLOCKED:
            async with self._transitions.transaction(self._database) as connection:
                moved = await self._transitions.move(
                    connection, due.connection, Trigger.PROBE_SUCCEEDED, Cause(generation=link.generation)
                )
                if moved is not None:
                    await self._following.begin(connection, link)
                    await connections.wake(connection, due.connection)
            if moved is not None:
                await self._health.succeeded(link, Operation.PROBE)
                await self._after_success(due.connection)
            return
        await self._health.succeeded(link, Operation.PROBE)
        await self._troubles.over(due.connection, "probe", "verification")
        await connections.schedule_probe(
            self._database, due.connection, due.state, in_seconds=self._health.idle_seconds(), attempts=0
        )

    async def _again(self, due: Due, error: ConnectorError | TimeoutError, *, at_least: float = 0.0) -> None:
        attempts, rand = due.attempts + 1, random.random()
        wait = max(at_least, full_jitter(attempts, rand=rand, cap_seconds=RETRY_CAP_SECONDS))
        cap, part = self._max_wait_seconds, _PARTS[due.state]
        match error:
            case RateLimited(retry_after=asked):
                wait = put_off(
                    attempts,
                    asked_seconds=asked,
                    rand=rand,
                    growth_cap_seconds=RETRY_CAP_SECONDS,
                    cap_seconds=cap,
                )
                await self._wait(due.connection, part, asked, wait)
            case Unavailable(retry_after=asked) if asked is not None:
                wait = with_floor(wait, floor_seconds=asked, rand=rand, cap_seconds=max(wait, cap))
                await self._wait(due.connection, part, asked, wait)
            case Unavailable(reference=str()):
                await self._troubles.note(due.connection, part, str(error))
            case _ if part == "verification":  # its state only says what it was given
                await self._troubles.note(due.connection, part, _words(error))
            case _:
                await self._troubles.over(due.connection, part)
        await connections.schedule_probe(
            self._database, due.connection, due.state, in_seconds=wait, attempts=attempts
        )
        log.warning(
            "connection.probe_deferred",
            connection=due.connection,
            detail=_words(error),
            retry_in_seconds=round(wait, 1),
        )

    async def _wait(self, name: str, part: Part, asked_seconds: float | None, seconds: float) -> None:
        until = clock.now() + timedelta(seconds=seconds)
        await self._troubles.note(name, part, waiting(asked_seconds, until=until))

    # The end

    async def _drain(self, due: Due) -> None:
        """When no run is in hand any more: the token is revoked at the system, and everything secret goes
        with the last transition.
        """
        if await connections.is_busy(self._database, due.connection):
            await connections.schedule_probe(
                self._database, due.connection, due.state, in_seconds=DRAIN_SECONDS, attempts=0
            )
            return
        await self._revoke(due)
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._transitions.move(connection, due.connection, Trigger.DRAINED, Cause())
            if moved is not None:
                await credentials.drop_others(connection, connection_id=due.connection, keep=[])
                await connections.clear(connection, due.connection)
                await inbound.clear(connection, due.connection)
                await alerts.disconnect(connection, due.connection)

    async def _revoke(self, due: Due) -> None:
        held = (await connections.read(self._database, [due.connection])).get(due.connection)
        if held is None or not held.generation or not held.credential_type.startswith("oauth2_"):
            return
        try:
            credential = await self._links.credential(held, held.generation)
            if credential is not None:
                await self._tokens.revoke(held.connection, held.customer, held.generation, credential)
        except (SealBroken, ConnectorError) as error:
            log.warning(
                "connection.token_not_revoked",
                connection=due.connection,
                detail=str(error),
                advice="revoke it at the system",
            )

    async def _move(self, name: str, trigger: Trigger, cause: Cause) -> Moved | None:
        async with self._transitions.transaction(self._database) as connection:
            return await self._transitions.move(connection, name, trigger, cause)


def _words(error: ConnectorError | TimeoutError) -> str:
    return str(error) or f"no answer within {PROBE_SECONDS:g} s"
