"""Links: each connection that this replica can serve, built from what PostgreSQL holds, and built again when
that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import structlog
from pydantic import BaseModel

from gateway import clock
from gateway.connections.logons import Logons
from gateway.connections.tokens import Tokens
from gateway.connections.vault import Binding, Vault
from gateway.model.connector import Auth, Connector, ConnectorSettings, Manifest, Observer
from gateway.model.credential import Credential
from gateway.model.errors import BadConfiguration, SealBroken
from gateway.model.meter import from_document
from gateway.settings import ConnectionSyncSettings, Settings
from gateway.store import connections, credentials
from gateway.store.connections import Held
from gateway.store.pool import Database
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

RETIRED_SECONDS = 120.0
"""How long a replaced connector stays open for the runs that use it."""


class System(Protocol):
    """What the engine needs of a system: given by the composition root, since the engine knows none."""

    @property
    def manifest(self) -> Manifest:
        """What it can do."""
        ...

    @property
    def settings_model(self) -> type[BaseModel]:
        """What `settings` of a connection may be."""
        ...

    @property
    def credentials_model(self) -> type[BaseModel]:
        """What `credentials` may be beside their type."""
        ...

    @property
    def build(self) -> Callable[[ConnectorSettings], Connector]:
        """A connector. Raises BadConfiguration."""
        ...


@dataclass(frozen=True, slots=True)
class _Built:
    configuration: int
    link: Link | None


class Links:
    """The links of this replica. `refresh` follows the database; `get` never asks it."""

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, System],
        settings: Settings,
        *,
        vault: Vault,
        tokens: Tokens,
        logons: Logons,
        observer: Callable[[str], Observer],
    ) -> None:
        self._database = database
        self._systems = systems
        self._settings = settings
        self._vault = vault
        self._tokens = tokens
        self._logons = logons
        self._observer = observer
        self._built: dict[str, _Built] = {}
        self._retired: list[tuple[float, Connector]] = []

    @property
    def current(self) -> dict[str, Link]:
        """Those that can be served: with a credential that was verified once."""
        return {name: built.link for name, built in self._built.items() if built.link is not None}

    def get(self, connection: str) -> Link | None:
        """The link of a connection, None when it has no verified credential, or cannot be built."""
        built = self._built.get(connection)
        return None if built is None else built.link

    async def refresh(self) -> list[Link]:
        """Builds what was configured anew and drops what is gone; the links that are new or changed, and
        those whose meters are yet to be brought in line. Raises StoreError.
        """
        wanted = await connections.configurations(self._database)
        stale = [
            name
            for name, current in wanted.items()
            if name not in self._built or self._built[name].configuration != current.configuration
        ]
        for name in self._built.keys() - wanted.keys():
            self._retire(self._built.pop(name).link)
        fresh = [
            link
            for name, current in wanted.items()
            if current.is_behind and name not in stale and (link := self.get(name)) is not None
        ]
        for held in (await connections.read(self._database, stale)).values() if stale else ():
            link = await self._build(held, held.generation) if held.generation else None
            if held.connection in self._built:
                self._retire(self._built[held.connection].link)
            self._built[held.connection] = _Built(configuration=held.configuration, link=link)
            if link is not None:
                fresh.append(link)
        await self._close_retired()
        return fresh

    async def candidate(self, connection: str) -> Link | None:
        """A link of its own, with the credential that is to be verified, or the one in use where only
        settings changed. Close its connector.
        """
        held = (await connections.read(self._database, [connection])).get(connection)
        if held is None:
            return None
        return await self._build(held, held.candidate or held.generation, probing=True)

    async def close(self) -> None:
        """Closes every connector."""
        for built in self._built.values():
            self._retire(built.link)
        self._built.clear()
        await asyncio.gather(*(connector.close() for _, connector in self._retired))

    async def _build(self, held: Held, generation: int, *, probing: bool = False) -> Link | None:
        try:
            credential = await self.credential(held, generation)
            if credential is None:
                return None
            return link_of(held, self._connector(held, credential), self._settings, generation=generation)
        except (BadConfiguration, SealBroken) as error:
            if probing:
                raise
            log.error(
                "connection.link_not_built",
                connection=held.connection,
                detail=str(error),
                advice="correct its settings or its credential",
            )
            return None

    async def credential(self, held: Held, generation: int) -> Credential | None:
        """A credential in clear; None where it is not stored. Raises SealBroken, StoreError."""
        async with self._database.connection() as connection:
            sealed = await credentials.read(connection, connection_id=held.connection, generation=generation)
        if sealed is None:
            return None
        values = self._vault.open(
            sealed.sealed, credential_binding(held.customer, held.connection, generation)
        )
        return Credential(
            generation=generation, type=cast("Auth", sealed.type), values=values, expires_at=sealed.expires_at
        )

    def _connector(self, held: Held, credential: Credential) -> Connector:
        token = gate = None
        if credential.type.startswith("oauth2_"):
            token = self._tokens.source(
                held.connection, held.customer, held.system, credential.generation, credential
            )
        elif credential.type == "basic":
            gate = self._logons.gate(held.connection, credential.generation)
        return self._systems[held.system].build(
            ConnectorSettings(
                connection=held.connection,
                hosting=held.hosting,
                settings=held.settings,
                credentials=credential.values,
                timeout_seconds=self._settings.sync.push_timeout.total_seconds(),
                observe=self._observer(held.system),
                token=token,
                gate=gate,
            )
        )

    def _retire(self, link: Link | None) -> None:
        if link is not None:
            self._retired.append((clock.monotonic() + RETIRED_SECONDS, link.connector))

    async def _close_retired(self) -> None:
        over = [connector for until, connector in self._retired if until <= clock.monotonic()]
        self._retired = [item for item in self._retired if item[0] > clock.monotonic()]
        for connector in over:
            await connector.close()


def credential_binding(customer: str, connection: str, generation: int) -> Binding:
    """Where a credential belongs."""
    return Binding(customer=customer, connection=connection, field="credential", generation=generation)


def link_of(held: Held, connector: Connector, settings: Settings, *, generation: int) -> Link:
    """What the engine works with, from a stored connection."""
    sync = ConnectionSyncSettings.model_validate(held.sync)
    return Link(
        connection=held.connection,
        customer=held.customer,
        system=held.system,
        connector=connector,
        rules=tuple(from_document(meter) for meter in held.meters),
        interval=sync.interval,
        lateness=settings.sync.lateness if sync.lateness is None else sync.lateness,
        initial_days=sync.initial_days,
        configuration=held.configuration,
        generation=generation,
        host=held.host,
    )
