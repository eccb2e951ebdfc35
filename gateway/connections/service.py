"""The service that changes connections, for the API, the commands and the declared file.

What is given is checked first (`checking`). Then one transaction locks the connection's row and changes it.
Credentials are stored as a candidate (`giving`). Only `meters` calls a system: everything else notes in rows
what is to be verified, run or ended, and the lifecycle and the streams of whichever replica do it.
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
from gateway.connections.transitions import Moved, Transitions, cause_of
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
"""So often a change is made anew because another one came between its reading and its writing."""

Also = Callable[[Connection], Awaitable[None]]


class Connections:
    """Each method is at most one transaction. It raises RequestRefused with a stable code, or StoreError."""

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
        # By the oldest key. A new key is put before it: digests stay, and the file gives no credential again.
        digest_key = settings.security.encryption_keys[-1].get_secret_value().encode()
        self._giving = Giving(vault, tokens, transitions, digest_key=digest_key)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._checking.settings

    def know_customers(self, customers: Collection[str]) -> None:
        """From now on these customers may have connections."""
        self._checking.settings = self.settings.model_copy(update={"customers": tuple(customers)})

    async def create(self, wanted: ConnectionSettings, caller: Caller) -> None:
        """Makes a connection, holds its credits, and has its credential verified; or changes nothing."""
        await self.create_declared(await self.check(wanted, caller), caller, managed_by="api")

    async def check(
        self, wanted: ConnectionSettings, caller: Caller, *, credentials: bool = True
    ) -> DeclaredConnection:
        """Checks what this caller wants. Raises RequestRefused; where settings or credentials are faulty its
        cause has the Faults.
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
        """As `create`, for a connection that was checked already. `grant`: the tokens of a login. `also` is
        called in the same transaction: what it raises rolls everything back.
        """
        wanted = declared.settings
        manifest = self._systems[wanted.system].manifest
        cost = price(self.settings.credits, tier=manifest.tier, hosting=wanted.hosting)
        async with self._credit_transaction() as connection:
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
        """Replaces what the patch names. New settings or credentials are verified before the next call to the
        system; new meters and intervals need no verification. Where two callers change different parts at
        once both changes are made. `seen`: the digest of the meters that the caller edited; raises
        MetersOutdated where the connection has other meters by now.
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
        held = await self._stored(connection_id)
        # `configure` finds under its lock that what was read here is unchanged, or all of this is done anew.
        # So of two who save meters at once the second is refused.
        refuse_outdated(connection_id, held.meters, seen)
        configuration = await self._checking.changed(held, patch, caller)
        await self.configure(held, configuration, patch.credentials, caller)

    async def configure(
        self, held: StoredConnection, wanted: Configuration, given: CredentialSettings | None, caller: Caller
    ) -> None:
        """Stores the configuration and, where settings or credentials are new, has them verified. One
        transaction.
        """
        if wanted.hosting != held.hosting:
            raise RequestRefused(
                "request.invalid",
                "the hosting decides the price, which is frozen: disconnect, and connect under another id",
            )
        verify = given is not None or wanted.settings != held.settings
        async with self._credit_transaction() as connection:
            locked = await connections.lock(connection, held.connection)
            if locked is None or locked.state in ENDED:
                raise refusal(held.connection, State.DISCONNECTED)
            # The configuration is written whole, and was made of one that is no longer there.
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
        """Stores credentials as the candidate, which is verified next. Until then those in use stay so.
        `grant`: the tokens of an authorization.
        """
        held = await self._stored(connection_id)
        await self._checking.credentials(held, given, caller)
        async with self._credit_transaction() as connection:
            locked = await connections.lock(connection, connection_id)
            if locked is None or locked.state in (State.PAUSED, *ENDED):
                raise refusal(connection_id, State.DISCONNECTED if locked is None else locked.state)
            await self._giving.give(
                connection, connection_id, held.customer, given, caller, grant, locked=locked
            )

    async def check_credentials(self, connection_id: str, given: CredentialSettings, caller: Caller) -> None:
        """Checks credentials without storing them. Raises RequestRefused."""
        await self._checking.credentials(await self._stored(connection_id), given, caller)

    async def retry_credentials(self, connection_id: str, caller: Caller) -> None:
        """Has the credential that the system refused verified once more, as a new generation: the system may
        have been wrong. Raises RequestRefused where none is refused, or where it was a login whose token is
        used up.
        """
        held = await self._stored(connection_id)
        if held.state is not State.REAUTHORIZATION_REQUIRED:
            raise refusal(connection_id, held.state)
        refuse_tempted(held)
        async with self._credit_transaction() as connection:
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
            # With the origin of the credential, not of this caller: addresses are trusted as they were
            # before.
            giver = replace(caller, origin=stored.origin)
            await self._giving.give(connection, connection_id, held.customer, given, giver)

    async def pause(self, connection_id: str, caller: Caller) -> None:
        """Ends calls to the system until `resume`. Telemetry is buffered."""
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._move(connection, connection_id, Trigger.PAUSE_ASKED, caller)
        if moved is None:
            held = await self._stored(connection_id)
            if held.state is not State.PAUSED:
                raise refusal(connection_id, held.state)

    async def resume(self, connection_id: str, caller: Caller) -> None:
        """Goes on after `pause`, in the state that the connection was in."""
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._move(connection, connection_id, Trigger.RESUME_ASKED, caller)
            if moved is not None:
                await connections.wake(connection, connection_id)
        if moved is None:
            held = await self._stored(connection_id)
            if held.state in ENDED:
                raise refusal(connection_id, held.state)

    async def replay(self, connection_id: str, dead_letters: Sequence[int] | None) -> int:
        """Tries these dead letters of readings again (None: all). Returns how many. Those whose window is not
        computed any more stay dead letters.
        """
        held = await self._stored(connection_id)
        if held.state in (State.PENDING, *ENDED):
            raise refusal(connection_id, held.state)
        return await Views(self._database).replay(connection_id, dead_letters)

    async def disconnect(self, connection_id: str, caller: Caller) -> None:
        """Ends the connection for good: what is in hand is finished, its token is revoked, its credits are
        returned. Idempotent.
        """
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._move(connection, connection_id, Trigger.DISCONNECT_ASKED, caller)
        if moved is None:
            await self._stored(connection_id)

    async def recheck(self, connection_id: str, caller: Caller) -> None:
        """Has the system looked at now: a blocked connection does not wait for its next trial, and one that
        waits for a verification is verified.
        """
        held = await self._stored(connection_id)
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
        """Runs the streams of the connection at once, or only the stream of records that is named. `full`:
        walks the history again, and moves only what differs.
        """
        held = await self._stored_in_use(connection_id)
        manifest, max_future = self._systems[held.system].manifest, self.settings.telemetry.max_future
        await syncing.run_now(self._database, held, manifest, full=full, stream=stream, max_future=max_future)
        log.info(
            "connection.sync_asked", connection=connection_id, full=full, stream=stream, caller=caller.name
        )

    async def confirm_deletions(self, connection_id: str, stream: str, *, caller: Caller) -> int:
        """Lets the next walk delete the records that the system shows no more. Returns how many they are."""
        count = await syncing.confirm_deletions(
            self._database, await self._stored_in_use(connection_id), stream
        )
        log.info(
            "connection.deletions_confirmed",
            connection=connection_id,
            stream=stream,
            records=count,
            caller=caller.name,
        )
        return count

    async def _stored_in_use(self, connection_id: str) -> StoredConnection:
        held = await self._stored(connection_id)
        if held.state not in (State.ACTIVE, State.DEGRADED):
            raise refusal(connection_id, held.state)
        return held

    async def meters(self, connection_id: str) -> Sequence[RemoteMeter]:
        """The meters that the system itself has. Where the system is away it raises RequestRefused with
        `upstream.*`, and where the system refuses us with the state that this leads to: neither says that the
        caller may not ask.
        """
        held = await self._stored(connection_id)
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
        """The configuration of a checked connection, as it is stored."""
        return self._checking.configuration(declared, managed_by=managed_by, **kept)

    def digest(self, given: CredentialSettings) -> str:
        """A digest by which credentials can be compared with those that were given before. It tells nothing
        else.
        """
        return self._giving.digest(given)

    async def _stored(self, connection_id: str) -> StoredConnection:
        held = (await connections.read(self._database, [connection_id])).get(connection_id)
        if held is None:
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection_id!r}", connection=connection_id
            )
        return held

    @asynccontextmanager
    async def _credit_transaction(self) -> AsyncIterator[Connection]:
        """A transaction that may take credits. Where there are not enough a refusal is noted after the
        rollback.
        """
        try:
            async with self._transitions.transaction(self._database) as connection:
                yield connection
        except CreditsInsufficient as error:
            await ledger.note_refusal(self._database, error)
            raise

    async def _move(
        self, connection: Connection, connection_id: str, trigger: Trigger, caller: Caller
    ) -> Moved | None:
        return await self._transitions.move(connection, connection_id, trigger, cause_of(trigger, caller))
