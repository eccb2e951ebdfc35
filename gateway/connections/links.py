"""Links: each connection that this replica can serve, built from what PostgreSQL holds, and built again when
that changes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import structlog
from pydantic import BaseModel

from gateway import bulkhead, clock
from gateway.connections.guard import at_once, guarded
from gateway.connections.logons import Logons
from gateway.connections.screening import reach_of
from gateway.connections.tokens import Tokens
from gateway.connections.vault import Binding, Vault
from gateway.model import alert_rule
from gateway.model.backoff import full_jitter
from gateway.model.connector import Auth, Connector, ConnectorSettings, Manifest, Observer
from gateway.model.credential import Credential
from gateway.model.errors import BadConfiguration, ConnectorError, SealBroken, Unavailable
from gateway.model.meter import from_document
from gateway.settings import ConnectionSyncSettings, Settings
from gateway.store import connections, credentials
from gateway.store.connections import Held
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

BUILD_CAP_SECONDS = 60.0

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
    again_at: float | None = None
    """When it is built again although nothing has changed (monotonic): a fault of ours stood in the way."""
    attempts: int = 0


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
        troubles: Troubles,
        observer: Callable[[str], Observer],
    ) -> None:
        self._database = database
        self._systems = systems
        self._settings = settings
        self._vault = vault
        self._tokens = tokens
        self._logons = logons
        self._troubles = troubles
        self._observer = observer
        self._built: dict[str, _Built] = {}
        self._refreshing = asyncio.Lock()
        self._retired: list[tuple[float, Connector]] = []
        self._left_behind: dict[str, set[asyncio.Future[Any]]] = {}

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
        # A look that succeeded refreshes beside the loop: two at once would build the same link and close only one.
        async with self._refreshing:
            return await self._refresh()

    async def _refresh(self) -> list[Link]:
        wanted = await connections.configurations(self._database)
        stale = [name for name, current in wanted.items() if self._is_stale(name, current.configuration)]
        for name in self._built.keys() - wanted.keys():
            self._retire(self._built.pop(name).link)
            self._left_behind.pop(name, None)
        fresh = [
            link
            for name, current in wanted.items()
            if current.is_behind and name not in stale and (link := self.get(name)) is not None
        ]
        for held in (await connections.read(self._database, stale)).values() if stale else ():
            name, before = held.connection, self._built.get(held.connection)
            link = None
            async with self._troubles.contained("build", name) as made:
                link = await self._build(held, held.generation) if held.generation else None
            self._retire(None if before is None else before.link)
            self._built[name] = _Built(
                configuration=held.configuration,
                link=link,
                attempts=before.attempts if before is not None and before.again_at is not None else 0,
            )
            if made.fault is not None:
                self.put_off(name)
            if link is not None:
                fresh.append(link)
        await self._close_retired()
        return fresh

    def put_off(self, connection: str) -> None:
        """Its link is out, and is built again after a while that grows: a fault of ours stands in the way."""
        built = self._built[connection]
        self._retire(built.link)
        attempts = built.attempts + 1
        wait = full_jitter(attempts, rand=random.random(), cap_seconds=BUILD_CAP_SECONDS)
        self._built[connection] = replace(
            built, link=None, again_at=clock.monotonic() + wait, attempts=attempts
        )

    def _is_stale(self, name: str, configuration: int) -> bool:
        built = self._built.get(name)
        return (
            built is None
            or built.configuration != configuration
            or (built.again_at is not None and built.again_at <= clock.monotonic())
        )

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
            return link_of(
                held,
                self._connector(held, credential),
                self._settings,
                generation=generation,
                manifest=self._systems[held.system].manifest,
            )
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
            generation=generation,
            type=cast("Auth", sealed.type),
            values=values,
            expires_at=sealed.expires_at,
            reach=reach_of(self._settings, held.customer, sealed.origin),
        )

    def _connector(self, held: Held, credential: Credential) -> Connector:
        token = gate = None
        if credential.type.startswith("oauth2_"):
            token = self._tokens.source(
                held.connection, held.customer, held.system, credential.generation, credential
            )
        elif credential.type == "basic":
            gate = self._logons.gate(held.connection, credential.generation)
        secrets = tuple(credential.values.values())
        name, passes = held.connection, (ConnectorError,)
        with bulkhead.contained("build", name, secrets=secrets, passes=passes) as made:
            built_from = ConnectorSettings(
                connection=name,
                hosting=held.hosting,
                settings=held.settings,
                credentials=credential.values,
                timeout_seconds=self._settings.sync.push_timeout.total_seconds(),
                observe=self._observer(held.system),
                token=token,
                gate=gate,
                settings_reach=reach_of(self._settings, held.customer, held.origin),
                credentials_reach=credential.reach,
            )
            connector = at_once(lambda: self._systems[held.system].build(built_from))
            return guarded(
                connector,
                name,
                secrets=secrets,
                max_wait_seconds=self._settings.sync.max_wait.total_seconds(),
                left_behind=self._left_behind.setdefault(name, set()),
            )
        assert made.fault is not None
        raise Unavailable(made.fault.text, reference=made.fault.reference)

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


def link_of(
    held: Held,
    connector: Connector,
    settings: Settings,
    *,
    generation: int,
    manifest: Manifest | None = None,
) -> Link:
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
        alerts=tuple(alert_rule.from_document(alert) for alert in held.alerts),
        raises={} if manifest is None else manifest.raises,
        title=held.system if manifest is None else manifest.title,
        page=f"{settings.http.public_url.rstrip('/')}/connections/{held.connection}",
    )
