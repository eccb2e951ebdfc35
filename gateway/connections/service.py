"""What people and programs ask of connections: the one service behind the API, the commands and the file.

What is given is checked (`checking`), then one transaction locks the connection's row and changes it.
Credentials go in as a candidate (`giving`). No system is called for any of this but `meters`: what is to be
verified, run or ended is noted in rows, and the lifecycle and the streams, of whichever replica, take it from
there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Unpack

import structlog

from gateway.configuration import DeclaredConnection
from gateway.connections import syncing
from gateway.connections.building import ConnectedSystem
from gateway.connections.checking import Checking
from gateway.connections.given import ChangedMeanwhile, KeptSettings, refuse_outdated, refuse_tempted
from gateway.connections.giving import Giving
from gateway.connections.links import Links
from gateway.connections.refusals import NEEDS_CREDENTIAL, refusal, upstream
from gateway.connections.screening import Screening
from gateway.connections.transitions import Moved, Transitions, asked
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.model.access import Caller
from gateway.model.connection import ENDED, State, Trigger
from gateway.model.credential import TokenGrant
from gateway.model.credits import price
from gateway.model.errors import ConnectorError, CreditsInsufficient, RequestRefused
from gateway.model.event import EventType, NewEvent
from gateway.model.exchange import ListsMeters, RemoteMeter
from gateway.settings import ConnectionPatch, ConnectionSettings, CredentialSettings, Settings
from gateway.store import connections, credentials, moving, outbox
from gateway.store import credits as ledger
from gateway.store.connections import Configuration, StoredConnection
from gateway.store.pool import Connection, Database
from gateway.store.views import Views

log = structlog.get_logger(__name__)

CHANGES_BESIDE = 5
"""Times that a change is made anew because another came between its reading and its writing."""

Also = Callable[[Connection], Awaitable[None]]


class Connections:
    """Each call is one transaction, or none. Raises RequestRefused with a stable code, and StoreError."""

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, ConnectedSystem],
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
        self._transitions = transitions
        self._links = links
        self._checking = Checking(systems, settings, screening)
        # the oldest key: one that is put before it changes no digest, so the file gives nothing again
        digest_key = settings.security.encryption_keys[-1].get_secret_value().encode()
        self._giving = Giving(vault, tokens, transitions, digest_key=digest_key)

    @property
    def settings(self) -> Settings:
        """Those of now."""
        return self._checking.settings

    def know_customers(self, customers: Collection[str]) -> None:
        """These may have connections from now on."""
        self._checking.settings = self.settings.model_copy(update={"customers": tuple(customers)})

    async def create(self, wanted: ConnectionSettings, caller: Caller) -> None:
        """The connection exists, its credits are held, and its credential waits to be verified; or nothing
        has changed.
        """
        await self.create_declared(await self.check(wanted, caller), caller, managed_by="api")

    async def check(
        self, wanted: ConnectionSettings, caller: Caller, *, credentials: bool = True
    ) -> DeclaredConnection:
        """What this caller may give. Raises RequestRefused; that settings or credentials are faulty has the
        Faults as its cause.
        """
        return await self._checking.new(wanted, caller, credentials=credentials)

    async def create_declared(
        self,
        declared: DeclaredConnection,
        caller: Caller,
        *,
        managed_by: str,
        grant: TokenGrant | None = None,
        also: Also | None = None,
    ) -> None:
        """As `create`, for what was checked already. `grant`: the tokens of a login. `also`: is done in the
        same transaction; what it raises leaves nothing behind.
        """
        wanted = declared.settings
        manifest = self._systems[wanted.system].manifest
        cost = price(self.settings.credits, tier=manifest.tier, hosting=wanted.hosting)
        async with self._paying() as connection:
            await moving.refuse_expected(connection, wanted.customer)
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
            event = NewEvent(
                type=EventType.CONNECTION_CREATED,
                customer=wanted.customer,
                connection=wanted.id,
                data={
                    "system": wanted.system,
                    "hosting": wanted.hosting,
                    "tier": manifest.tier,
                    "credits": cost,
                },
                request_id=caller.request_id,
            )
            await outbox.append(connection, event)
            if also is not None:
                await also(connection)
            await self._giving.give(connection, wanted.id, wanted.customer, wanted.credentials, caller, grant)

    async def change(
        self, connection_id: str, patch: ConnectionPatch, caller: Caller, *, seen: str | None = None
    ) -> None:
        """Replaces what the patch names. New settings or credentials are verified before the next call; new
        meters and rhythm are not. Two who change different parts at once both have what they wanted. `seen`:
        the digest of the meters that the new ones were made of; MetersOutdated where they are others by now.
        """
        for _ in range(CHANGES_BESIDE):
            with suppress(ChangedMeanwhile):
                await self._change(connection_id, patch, caller, seen)
                return
        raise RequestRefused(
            "request.conflict",
            "somebody else changes the connection at the same time; read it again and repeat the change",
            connection=connection_id,
        )

    async def _change(
        self, connection_id: str, patch: ConnectionPatch, caller: Caller, seen: str | None
    ) -> None:
        held = await self._held(connection_id)
        # Compared with what `configure` finds unchanged under its lock, or this is done anew: of two who save
        # at once the second is told.
        refuse_outdated(connection_id, held.meters, seen)
        configuration = await self._checking.changed(held, patch, caller)
        await self.configure(held, configuration, patch.credentials, caller)

    async def configure(
        self, held: StoredConnection, wanted: Configuration, given: CredentialSettings | None, caller: Caller
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
            if locked is None or locked.state in ENDED:
                raise refusal(held.connection, State.DISCONNECTED)
            # what is written whole was made of what is no longer so
            if locked.configuration != held.configuration:
                raise ChangedMeanwhile(held.connection)
            if verify and locked.state is State.PAUSED:
                raise refusal(held.connection, locked.state)
            await connections.configure(connection, held.connection, wanted)
            if given is not None:
                await self._giving.give(
                    connection, held.connection, held.customer, given, caller, locked=locked
                )
            elif verify:
                await self._giving.verify(connection, held.connection, caller, "the settings have changed")

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
        await self._checking.credentials(held, given, caller)
        async with self._paying() as connection:
            locked = await connections.lock(connection, connection_id)
            if locked is None or locked.state in (State.PAUSED, *ENDED):
                raise refusal(connection_id, State.DISCONNECTED if locked is None else locked.state)
            await self._giving.give(
                connection, connection_id, held.customer, given, caller, grant, locked=locked
            )

    async def check_credentials(self, connection_id: str, given: CredentialSettings, caller: Caller) -> None:
        """Whether they could be sent at all. Raises RequestRefused; changes nothing."""
        await self._checking.credentials(await self._held(connection_id), given, caller)

    async def retry_credentials(self, connection_id: str, caller: Caller) -> None:
        """The credential that the system refused is verified once more, as a new generation: the system may
        have been wrong. Raises RequestRefused where none is refused, or it was a login whose token is used
        up.
        """
        held = await self._held(connection_id)
        if held.state is not State.REAUTHORIZATION_REQUIRED:
            raise refusal(connection_id, held.state)
        refuse_tempted(held)
        async with self._paying() as connection:
            locked = await connections.lock(connection, connection_id)
            if locked is None or locked.state is not State.REAUTHORIZATION_REQUIRED:
                raise refusal(connection_id, State.DISCONNECTED if locked is None else locked.state)
            stored = await credentials.read(
                connection, connection_id=connection_id, generation=locked.generation
            )
            if stored is None or stored.type == "oauth2_authorization_code":
                raise RequestRefused(
                    "request.conflict",
                    "there is no credential that could be tried again: new ones are required",
                    connection=connection_id,
                )
            given = self._giving.opened(connection_id, held.customer, stored)
            by = replace(caller, origin=stored.origin)  # who gave it: nothing else is sent than was before
            await self._giving.give(connection, connection_id, held.customer, given, by)

    async def pause(self, connection_id: str, caller: Caller) -> None:
        """No call to the system until it is resumed; telemetry is buffered."""
        await self._asked(connection_id, Trigger.PAUSE_ASKED, caller, done=State.PAUSED)

    async def resume(self, connection_id: str, caller: Caller) -> None:
        """Goes on where it was."""
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._ask(connection, connection_id, Trigger.RESUME_ASKED, caller)
            if moved is not None:
                await connections.wake(connection, connection_id)
        if moved is None and (held := await self._held(connection_id)).state in ENDED:
            raise refusal(connection_id, held.state)

    async def replay(self, connection_id: str, dead_letters: Sequence[int] | None) -> int:
        """These dead letters of readings (None: all) are tried again; how many: those stay whose window
        nobody computes any more.
        """
        held = await self._held(connection_id)
        if held.state in (State.PENDING, *ENDED):
            raise refusal(connection_id, held.state)
        return await Views(self._database).replay(connection_id, dead_letters)

    async def disconnect(self, connection_id: str, caller: Caller) -> None:
        """Ends it for good: what is in hand is finished, the token revoked, the credits
        returned. Idempotent.
        """
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._ask(connection, connection_id, Trigger.DISCONNECT_ASKED, caller)
        if moved is None:
            await self._held(connection_id)

    async def recheck(self, connection_id: str, caller: Caller) -> None:
        """Looks at the system now: a blocked connection does not wait for its hour, and one that waits for a
        verification is verified.
        """
        held = await self._held(connection_id)
        if held.state in (State.PAUSED, *ENDED) or (
            held.state in NEEDS_CREDENTIAL and held.candidate is None
        ):
            raise refusal(connection_id, held.state)
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

    async def _worked(self, connection_id: str) -> StoredConnection:
        held = await self._held(connection_id)
        if held.state not in (State.ACTIVE, State.DEGRADED):
            raise refusal(connection_id, held.state)
        return held

    async def meters(self, connection_id: str) -> Sequence[RemoteMeter]:
        """What the system itself has to feed. That it is away comes back as `upstream.*`, that it refuses us
        as the state that this leads to: neither is ever a refusal of the caller.
        """
        held = await self._held(connection_id)
        await self._links.refresh([connection_id])
        link = self._links.get(connection_id)
        if held.state not in (State.ACTIVE, State.DEGRADED) or link is None:
            raise refusal(connection_id, held.state)
        if not isinstance(link.connector, ListsMeters):
            raise RequestRefused(
                "request.unsupported",
                f"{self._systems[held.system].manifest.title} cannot list its meters",
                connection=connection_id,
            )
        try:
            return [meter async for meter in link.connector.meters()]
        except ConnectorError as error:
            raise upstream(connection_id, error) from error

    def configuration(
        self, declared: DeclaredConnection, *, managed_by: str, **kept: Unpack[KeptSettings]
    ) -> Configuration:
        """What is stored of a checked connection."""
        return self._checking.configuration(declared, managed_by=managed_by, **kept)

    def digest(self, given: CredentialSettings) -> str:
        """Tells whether credentials are the ones that were given before, and nothing else about them."""
        return self._giving.digest(given)

    async def _held(self, connection_id: str) -> StoredConnection:
        held = (await connections.read(self._database, [connection_id])).get(connection_id)
        if held is None:
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection_id!r}", connection=connection_id
            )
        return held

    @asynccontextmanager
    async def _paying(self) -> AsyncIterator[Connection]:
        """A transaction that may take credits. That they were not there is told after the rollback."""
        try:
            async with self._transitions.transaction(self._database) as connection:
                yield connection
        except CreditsInsufficient as error:
            await ledger.note_refusal(self._database, error)
            raise

    async def _ask(
        self, connection: Connection, connection_id: str, trigger: Trigger, caller: Caller
    ) -> Moved | None:
        return await self._transitions.move(connection, connection_id, trigger, asked(trigger, caller))

    async def _asked(self, connection_id: str, trigger: Trigger, caller: Caller, *, done: State) -> None:
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._ask(connection, connection_id, trigger, caller)
        if moved is None and (held := await self._held(connection_id)).state is not done:
            raise refusal(connection_id, held.state)
