"""What people and programs ask of connections: the one service behind the API, the commands and the file."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import orjson
import structlog

from gateway.configuration import DeclaredConnection, Faults, check
from gateway.configuration.schema import written
from gateway.connections import syncing
from gateway.connections.expiry import ends_at
from gateway.connections.given import ChangedMeanwhile, host_of, refuse_files, refuse_moved
from gateway.connections.links import Links, System, credential_binding
from gateway.connections.screening import Screening
from gateway.connections.tokens import Tokens
from gateway.connections.transitions import Moved, Transitions, asked
from gateway.connections.vault import Vault
from gateway.model.access import Caller, Origin
from gateway.model.alert_rule import to_document as alert_document
from gateway.model.connection import State, Trigger
from gateway.model.credential import Credential, TokenGrant
from gateway.model.credits import price
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    CreditsInsufficient,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    Unavailable,
)
from gateway.model.event import EventType, NewEvent
from gateway.model.exchange import ListsMeters, RemoteMeter
from gateway.model.meter import to_document
from gateway.settings import (
    ConnectionPatch,
    ConnectionSettings,
    ConnectionSyncSettings,
    CredentialSettings,
    Settings,
)
from gateway.store import connections, credentials, outbox
from gateway.store import credits as ledger
from gateway.store.connections import Cause, Configuration, Held
from gateway.store.pool import Connection, Database

log = structlog.get_logger(__name__)

CHANGES_BESIDE = 5
"""Times that a change is made anew because another came between its reading and its writing."""


FILE = "file"
"""The caller that declares: what it gave last is remembered, so that an unchanged file gives nothing again.
"""


class Connections:
    """Each call is one transaction, or none. Raises RequestRefused with a stable code, and StoreError."""

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, System],
        settings: Settings,
        *,
        vault: Vault,
        transitions: Transitions,
        links: Links,
        tokens: Tokens,
        screening: Screening,
    ) -> None:
        self._database = database
        self._systems = systems
        self.settings = settings
        self._vault = vault
        self._transitions = transitions
        self._links = links
        self._tokens = tokens
        self._screening = screening
        self._digest_key = settings.security.encryption_keys[-1].get_secret_value().encode()

    async def create(self, wanted: ConnectionSettings, caller: Caller) -> None:
        """The connection exists, its credits are held, and its credential waits to be verified; or nothing
        has changed.
        """
        refuse_files(self._systems.get(wanted.system), wanted.settings, held={})
        declared = self._checked(wanted)
        await self._screen(wanted.customer, caller, settings=wanted.settings, given=wanted.credentials)
        await self.create_declared(declared, caller, managed_by="api")

    async def create_declared(self, declared: DeclaredConnection, caller: Caller, *, managed_by: str) -> None:
        """As `create`, for what was checked already."""
        wanted = declared.settings
        manifest = self._systems[wanted.system].manifest
        cost = price(self.settings.credits, tier=manifest.tier, hosting=wanted.hosting)
        async with self._paying() as connection:
            configuration = self.configuration(declared, managed_by=managed_by, origin=caller.origin)
            if not await connections.insert(
                connection, wanted.id, wanted.customer, wanted.system, manifest.tier, cost, configuration
            ):
                raise RequestRefused(
                    "request.conflict",
                    f"the id {wanted.id!r} is taken, or was once: choose another",
                    connection=wanted.id,
                )
            await connections.lock(connection, wanted.id)
            await ledger.hold(
                connection,
                connection_id=wanted.id,
                customer=wanted.customer,
                amount=cost,
                settings=self.settings.credits,
            )
            data: dict[str, object] = {
                "system": wanted.system,
                "hosting": wanted.hosting,
                "tier": manifest.tier,
                "credits": cost,
            }
            event = NewEvent(
                type=EventType.CONNECTION_CREATED,
                customer=wanted.customer,
                connection=wanted.id,
                data=data,
                request_id=caller.request_id,
            )
            await outbox.append(connection, event)
            moved = await self._give(connection, wanted.id, wanted.customer, wanted.credentials, caller)
        _say(moved)

    async def change(self, connection_id: str, patch: ConnectionPatch, caller: Caller) -> None:
        """Replaces what the patch names. New settings or credentials are verified before the next call; new
        meters and rhythm are not. Two who change different parts at once both have what they wanted.
        """
        for _ in range(CHANGES_BESIDE):
            with suppress(ChangedMeanwhile):
                await self._change(connection_id, patch, caller)
                return
        raise RequestRefused(
            "request.conflict",
            "somebody else changes the connection at the same time; read it again and repeat the change",
            connection=connection_id,
        )

    async def _change(self, connection_id: str, patch: ConnectionPatch, caller: Caller) -> None:
        held = await self._held(connection_id)
        if patch.settings is not None:
            refuse_files(self._systems.get(held.system), patch.settings, held=held.settings)
        given = patch.model_dump(exclude_none=True, exclude={"credentials", "sync", "meters", "alerts"})
        update = {
            "hosting": given.get("hosting", held.hosting),
            "settings": given.get("settings", held.settings),
            "sync": patch.sync or ConnectionSyncSettings.model_validate(held.sync),
        }
        base = ConnectionSettings(
            id=connection_id,
            customer=held.customer,
            system=held.system,
            credentials=patch.credentials or CredentialSettings(),
            meters=patch.meters or (),
            alerts=patch.alerts or (),
            **update,
        )
        declared = self._checked(base, credentials=patch.credentials is not None)
        anew = patch.settings is not None and (
            caller.origin is Origin.TRUSTED or patch.settings != dict(held.settings)
        )
        if patch.credentials is None and caller.origin is not Origin.TRUSTED:
            refuse_moved(held, base)
        await self._screen(
            held.customer, caller, settings=base.settings if anew else {}, given=base.credentials
        )
        configuration = self.configuration(
            declared,
            managed_by=held.managed_by,
            meters=None if patch.meters is not None else held.meters,
            alerts=None if patch.alerts is not None else held.alerts,
            host=held.host,
            origin=caller.origin if anew else held.origin,
        )
        await self.configure(held, configuration, patch.credentials, caller)

    async def configure(
        self, held: Held, wanted: Configuration, given: CredentialSettings | None, caller: Caller
    ) -> None:
        """One transaction: the configuration, and where settings or credentials are new, the way to their
        verification.
        """
        if wanted.hosting != held.hosting:
            raise RequestRefused(
                "request.invalid",
                "the hosting decides the price, which is frozen: disconnect, and connect under another id",
            )
        verify = given is not None or wanted.settings != held.settings
        async with self._paying() as connection:
            locked = await connections.lock(connection, held.connection)
            if locked is None or locked.state in _ENDED:
                raise _refusal(held.connection, State.DISCONNECTED)
            if (
                locked.configuration != held.configuration
            ):  # what is written whole was made of what is no longer so
                raise ChangedMeanwhile(held.connection)
            if verify and locked.state is State.PAUSED:
                raise _refusal(held.connection, locked.state)
            await connections.configure(connection, held.connection, wanted)
            moved = None
            if given is not None:
                moved = await self._give(connection, held.connection, held.customer, given, caller)
            elif verify:
                moved = await self._verify_again(
                    connection, held.connection, caller, "the settings have changed"
                )
        _say(moved)

    async def give_credentials(
        self,
        connection_id: str,
        given: CredentialSettings,
        caller: Caller,
        *,
        grant: TokenGrant | None = None,
    ) -> None:
        """Stores them as the candidate that is verified next. What is in use stays so until then. `grant`:
        the tokens of an authorization.
        """
        held = await self._held(connection_id)
        base = ConnectionSettings(
            id=held.connection,
            customer=held.customer,
            system=held.system,
            hosting=held.hosting,
            settings=dict(held.settings),
            credentials=given,
        )
        self._checked(base)
        await self._screen(held.customer, caller, settings={}, given=given)
        async with self._paying() as connection:
            locked = await connections.lock(connection, connection_id)
            if locked is None or locked.state in (State.PAUSED, *_ENDED):
                raise _refusal(connection_id, State.DISCONNECTED if locked is None else locked.state)
            moved = await self._give(connection, connection_id, held.customer, given, caller, grant)
        _say(moved)

    async def pause(self, connection_id: str, caller: Caller) -> None:
        """No call to the system until it is resumed; telemetry is buffered."""
        await self._asked(connection_id, Trigger.PAUSE_ASKED, caller, done=State.PAUSED)

    async def resume(self, connection_id: str, caller: Caller) -> None:
        """Goes on where it was."""
        async with self._database.transaction() as connection:
            moved = await self._ask(connection, connection_id, Trigger.RESUME_ASKED, caller)
            if moved is not None:
                await connections.wake(connection, connection_id)
        if moved is None and (held := await self._held(connection_id)).state in _ENDED:
            raise _refusal(connection_id, held.state)
        _say(moved)

    async def disconnect(self, connection_id: str, caller: Caller) -> None:
        """Ends it for good: what is in hand is finished, the token revoked, the credits
        returned. Idempotent.
        """
        async with self._database.transaction() as connection:
            moved = await self._ask(connection, connection_id, Trigger.DISCONNECT_ASKED, caller)
        if moved is None:
            await self._held(connection_id)
        _say(moved)

    async def recheck(self, connection_id: str, caller: Caller) -> None:
        """Looks at the system now: a blocked connection does not wait for its hour, and one that waits for a
        verification is verified.
        """
        held = await self._held(connection_id)
        if held.state in (State.PAUSED, *_ENDED) or (
            held.state in _NEEDS_CREDENTIAL and held.candidate is None
        ):
            raise _refusal(connection_id, held.state)
        await connections.schedule_probe(
            self._database, connection_id, held.state, in_seconds=0.0, attempts=0
        )
        log.info("connection.recheck_asked", connection=connection_id, caller=caller.name)

    async def synchronise(
        self, connection_id: str, *, full: bool, caller: Caller, stream: str | None = None
    ) -> None:
        """Its streams run at once, or the one of records that is named; `full` walks the history again, and
        moves only what differs.
        """
        held = await self._worked(connection_id)
        manifest, max_future = self._systems[held.system].manifest, self.settings.telemetry.max_future
        await syncing.run_now(self._database, held, manifest, full=full, stream=stream, max_future=max_future)
        log.info(
            "connection.sync_asked", connection=connection_id, full=full, stream=stream, caller=caller.name
        )

    async def confirm_deletions(self, connection_id: str, stream: str, *, caller: Caller) -> int:
        """Records of the stream that the system shows no more are deleted with the next walk; how many."""
        count = await syncing.confirm_deletions(self._database, await self._worked(connection_id), stream)
        log.info(
            "connection.deletions_confirmed",
            connection=connection_id,
            stream=stream,
            records=count,
            caller=caller.name,
        )
        return count

    async def _worked(self, connection_id: str) -> Held:
        held = await self._held(connection_id)
        if held.state not in (State.ACTIVE, State.DEGRADED):
            raise _refusal(connection_id, held.state)
        return held

    async def meters(self, connection_id: str) -> Sequence[RemoteMeter]:
        """What the system itself has to feed. That it is away comes back as `upstream.*`, that it refuses us
        as the state that this leads to: neither is ever a refusal of the caller.
        """
        held = await self._held(connection_id)
        await self._links.refresh([connection_id])
        link = self._links.get(connection_id)
        if held.state not in (State.ACTIVE, State.DEGRADED) or link is None:
            raise _refusal(connection_id, held.state)
        if not isinstance(link.connector, ListsMeters):
            raise RequestRefused(
                "request.unsupported",
                f"{self._systems[held.system].manifest.title} cannot list its meters",
                connection=connection_id,
            )
        try:
            return [meter async for meter in link.connector.meters()]
        except ConnectorError as error:
            raise _upstream(connection_id, error) from error

    def configuration(
        self,
        declared: DeclaredConnection,
        *,
        managed_by: str,
        meters: Sequence[Mapping[str, object]] | None = None,
        alerts: Sequence[Mapping[str, object]] | None = None,
        host: str = "",
        origin: Origin = Origin.TRUSTED,
    ) -> Configuration:
        """What is stored of a checked connection. `meters`, `alerts`: stored ones that stay as they are;
        `host`: what it was, where only the credential tells; `origin`: who gave the settings, the file where
        nothing is said.
        """
        wanted = declared.settings
        lateness = wanted.sync.lateness
        return Configuration(
            hosting=wanted.hosting,
            host=host_of(self._systems[wanted.system], wanted) or host,
            delivery=self._systems[wanted.system].manifest.capabilities.delivery,
            settings=dict(wanted.settings),
            sync={
                "interval": written(wanted.sync.interval),
                "initial_days": wanted.sync.initial_days,
                "lateness": None if lateness is None else written(lateness),
                **syncing.reading(wanted.sync),
            },
            meters=[to_document(rule) for rule in declared.rules] if meters is None else list(meters),
            alerts=[alert_document(rule) for rule in declared.alerts] if alerts is None else list(alerts),
            managed_by=managed_by,
            origin=origin,
        )

    def digest(self, given: CredentialSettings) -> str:
        """Tells whether credentials are the ones that were given before, and nothing else about them."""
        body = orjson.dumps({**given.resolved(), "type": given.type}, option=orjson.OPT_SORT_KEYS)
        return hmac.new(self._digest_key, body, hashlib.sha256).hexdigest()

    def _checked(self, wanted: ConnectionSettings, *, credentials: bool = True) -> DeclaredConnection:
        customers: Collection[str] | None = (
            None if self.settings.telemetry.auto_register_customers else self.settings.customers
        )
        try:
            declared = check(wanted, customers=customers, systems=self._systems, credentials=credentials)
        except Faults as faults:
            raise RequestRefused("request.invalid", str(faults), connection=wanted.id) from faults
        if credentials:
            _end_of(wanted.credentials)
        return declared

    async def _screen(
        self, customer: str, caller: Caller, *, settings: Mapping[str, object], given: CredentialSettings
    ) -> None:
        """Raises RequestRefused for what leads where this caller's addresses may not."""
        await self._screening.check(customer, caller.origin, settings, what="settings")
        await self._screening.check(customer, caller.origin, given.resolved(), what="credentials")

    async def _held(self, connection_id: str) -> Held:
        held = (await connections.read(self._database, [connection_id])).get(connection_id)
        if held is None:
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection_id!r}", connection=connection_id
            )
        return held

    async def _give(
        self,
        connection: Connection,
        connection_id: str,
        customer: str,
        given: CredentialSettings,
        caller: Caller,
        grant: TokenGrant | None = None,
    ) -> Moved | None:
        digest = self.digest(given) if caller.name == FILE else None
        generation = await connections.next_generation(connection, connection_id)
        expires_at = _end_of(given)
        sealed = self._vault.seal(given.resolved(), credential_binding(customer, connection_id, generation))
        await credentials.add(
            connection,
            connection_id=connection_id,
            type=given.type,
            sealed=sealed,
            generation=generation,
            expires_at=expires_at,
            origin=caller.origin,
        )
        if grant is not None:
            credential = Credential(generation=generation, type=given.type, values=given.resolved())
            await self._tokens.adopt(
                connection, connection_id=connection_id, customer=customer, credential=credential, grant=grant
            )
        await connections.offer(
            connection, connection_id, generation=generation, kind=given.type, digest=digest
        )
        return await self._verify_again(connection, connection_id, caller, "credentials were given")

    @asynccontextmanager
    async def _paying(self) -> AsyncIterator[Connection]:
        """A transaction that may take credits. That they were not there is told after the rollback."""
        try:
            async with self._database.transaction() as connection:
                yield connection
        except CreditsInsufficient as error:
            await ledger.note_refusal(self._database, error)
            raise

    async def _verify_again(
        self, connection: Connection, connection_id: str, caller: Caller, reason: str
    ) -> Moved | None:
        cause = Cause(reason=reason, request_id=caller.request_id, actor=caller.name)
        return await self._transitions.move(connection, connection_id, Trigger.CREDENTIALS_GIVEN, cause)

    async def _ask(
        self, connection: Connection, connection_id: str, trigger: Trigger, caller: Caller
    ) -> Moved | None:
        return await self._transitions.move(connection, connection_id, trigger, asked(trigger, caller))

    async def _asked(self, connection_id: str, trigger: Trigger, caller: Caller, *, done: State) -> None:
        async with self._database.transaction() as connection:
            moved = await self._ask(connection, connection_id, trigger, caller)
        if moved is None and (held := await self._held(connection_id)).state is not done:
            raise _refusal(connection_id, held.state)
        _say(moved)


_ENDED = (State.DISCONNECTING, State.DISCONNECTED)
_NEEDS_CREDENTIAL = (State.PENDING, State.REAUTHORIZATION_REQUIRED)
_REFUSALS: Mapping[State, tuple[str, str]] = {
    State.PENDING: ("connection.pending", "it waits for credentials: give them first"),
    State.VERIFYING: ("connection.pending", "its credential is being verified: try again in a moment"),
    State.REAUTHORIZATION_REQUIRED: (
        "connection.reauthorization_required",
        "the system refuses its credential: new credentials are required",
    ),
    State.BLOCKED: ("connection.blocked", "the system does not allow what it has to do: see its issue"),
    State.PAUSED: ("connection.paused", "it is paused: resume it first"),
    State.DISCONNECTING: ("connection.disconnected", "it is being disconnected, which cannot be undone"),
    State.DISCONNECTED: ("connection.disconnected", "it was disconnected, which cannot be undone"),
    State.ACTIVE: ("request.conflict", "it is active"),
    State.DEGRADED: ("request.conflict", "it is active, and its system fails at the moment"),
}


def _end_of(given: CredentialSettings) -> datetime | None:
    stated = {} if given.expires_at is None else {"expires_at": given.expires_at}
    try:
        return ends_at(given.type, given.resolved() | stated)
    except BadConfiguration as error:
        raise RequestRefused("request.invalid", str(error)) from error


def _refusal(connection_id: str, state: State) -> RequestRefused:
    code, words = _REFUSALS[state]
    return RequestRefused(code, f"connection {connection_id!r}: {words}", connection=connection_id)


def _upstream(connection_id: str, error: ConnectorError) -> RequestRefused:
    match error:
        case RateLimited(retry_after=seconds):
            return RequestRefused(
                "upstream.rate_limited", str(error), connection=connection_id, retry_after=seconds
            )
        case Unavailable(retry_after=seconds):
            return RequestRefused(
                "upstream.unavailable", str(error), connection=connection_id, retry_after=seconds
            )
        case AuthRefused(doubtful=True):  # a page, which an outage may show
            return RequestRefused("upstream.unavailable", str(error), connection=connection_id)
        case AuthRefused():
            return RequestRefused("connection.reauthorization_required", str(error), connection=connection_id)
        case PermissionDenied() | BadConfiguration():
            return RequestRefused("connection.blocked", str(error), connection=connection_id)
        case _:
            return RequestRefused("upstream.error", str(error), connection=connection_id)


def _say(moved: Moved | None) -> None:
    if moved is not None:
        moved.say()
