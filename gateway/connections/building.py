"""Building a link: the stored credential is opened, the system's connector is built with it, and put behind
its guard. What is built is `gateway.connections.links`' to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import structlog

from gateway import bulkhead
from gateway.configuration import SystemModels
from gateway.connections.guard import Guarded, at_once, guarded
from gateway.connections.screening import check_zones, reach_of
from gateway.credentials.logons import Logons
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Binding, Vault
from gateway.model import alert_rule
from gateway.model.connector import Auth, Connector, ConnectorSettings, Observer
from gateway.model.credential import Credential
from gateway.model.errors import ConnectorError, Unavailable
from gateway.model.inbound import InboundStream, ReadsRecords
from gateway.model.meter import from_document
from gateway.settings import ConnectionSyncSettings, Settings
from gateway.store import connections, credentials
from gateway.store.connections import StoredConnection
from gateway.store.credentials import SealedCredential
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)


class ConnectedSystem(SystemModels, Protocol):
    """What the engine needs of a system: given by the composition root, since the engine knows none."""

    @property
    def build(self) -> Callable[[ConnectorSettings], Connector]:
        """A connector. Raises BadConfiguration."""
        ...


class LinkBuilder:
    """Holds no links: each call makes a new one, whose connector the caller closes."""

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, ConnectedSystem],
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
        self._left_behind: dict[str, set[asyncio.Future[Any]]] = {}
        """By connection, the calls that did not end, of whichever of its connectors."""

    async def candidate(self, connection: str) -> ServedConnection | None:
        """A link with the settings and the credential that are to be verified, or with the credential in use
        where only settings changed; None where there is none. Raises BadConfiguration, SealBroken,
        StoreError.
        """
        held = (await connections.read(self._database, [connection])).get(connection)
        if held is None:
            return None
        credential = await self.credential(held, held.candidate or held.generation)
        return None if credential is None else self._link(held, credential)

    def build(self, held: StoredConnection, sealed: SealedCredential) -> ServedConnection:
        """A link with these settings and this credential. Raises BadConfiguration, SealBroken."""
        return self._link(held, self._opened(held, sealed))

    async def credential(self, held: StoredConnection, generation: int) -> Credential | None:
        """A credential in clear; None where it is not stored. Raises SealBroken, StoreError."""
        async with self._database.connection() as connection:
            sealed = await credentials.read(connection, connection_id=held.connection, generation=generation)
        return None if sealed is None else self._opened(held, sealed)

    def forget(self, connection: str) -> None:
        """It is gone, and its calls that did not end are in nobody's way."""
        self._left_behind.pop(connection, None)

    def _opened(self, held: StoredConnection, sealed: SealedCredential) -> Credential:
        binding = credential_binding(held.customer, held.connection, sealed.generation)
        values = self._vault.open(sealed.sealed, binding)
        return Credential(
            generation=sealed.generation,
            type=cast("Auth", sealed.type),
            values=values,
            expires_at=sealed.expires_at,
            reach=reach_of(self._settings, held.customer, sealed.origin),
        )

    def _link(self, held: StoredConnection, credential: Credential) -> ServedConnection:
        settings, manifest = self._settings, self._systems[held.system].manifest
        connector = self._connector(held, credential)
        sync = ConnectionSyncSettings.model_validate(held.sync)
        return ServedConnection(
            connection=held.connection,
            customer=held.customer,
            system=held.system,
            connector=connector,
            rules=tuple(from_document(meter) for meter in held.meters),
            interval=sync.interval,
            lateness=settings.sync.lateness if sync.lateness is None else sync.lateness,
            initial_days=sync.initial_days,
            configuration=held.configuration,
            generation=credential.generation,
            host=held.host,
            inbound=_inbound(held.connection, connector, sync.pull),
            pull_interval=sync.pull_interval,
            reconcile=sync.reconcile,
            alerts=tuple(alert_rule.from_document(alert) for alert in held.alerts),
            raises=manifest.raises,
            title=manifest.title,
            page=f"{settings.http.public_url.rstrip('/')}/connections/{held.connection}",
        )

    def _connector(self, held: StoredConnection, credential: Credential) -> Guarded:
        check_zones(held)
        name, token, gate = held.connection, None, None
        if credential.type.startswith("oauth2_"):
            token = self._tokens.source(name, held.customer, held.system, credential.generation, credential)
        elif credential.type == "basic":
            gate = self._logons.gate(name, credential.generation)
        built_from = ConnectorSettings(
            connection=held.connection,
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
        return build_guarded(
            self._systems[held.system],
            built_from,
            max_wait_seconds=self._settings.sync.max_wait.total_seconds(),
            left_behind=self._left_behind.setdefault(held.connection, set()),
        )


def credential_binding(customer: str, connection: str, generation: int) -> Binding:
    """Where a credential belongs."""
    return Binding(customer=customer, connection=connection, field="credential", generation=generation)


def build_guarded(
    system: ConnectedSystem,
    built_from: ConnectorSettings,
    *,
    max_wait_seconds: float,
    left_behind: set[asyncio.Future[Any]],
) -> Guarded:
    """The connector behind its guard. Raises BadConfiguration, and Unavailable for what nobody foresaw."""
    name, secrets = built_from.connection, tuple(built_from.credentials.values())
    with bulkhead.contained("build", name, secrets=secrets, passes=(ConnectorError,)) as made:
        return guarded(
            at_once(lambda: system.build(built_from)),
            name,
            secrets=secrets,
            max_wait_seconds=max_wait_seconds,
            left_behind=left_behind,
        )
    assert made.fault is not None
    raise Unavailable(made.fault.text, reference=made.fault.reference)


def _inbound(name: str, connector: Connector, wanted: Sequence[str] | None) -> tuple[InboundStream, ...]:
    """The streams that are read: those that were named, else those that are by default."""
    offered = (
        {stream.name: stream for stream in connector.inbound} if isinstance(connector, ReadsRecords) else {}
    )
    if wanted is None:
        return tuple(stream for stream in offered.values() if stream.default)
    for missing in (stream for stream in wanted if stream not in offered):
        # not a reason to deliver nothing: everything else of the connection goes on
        log.warning("connection.stream_unknown", connection=name, stream=missing, offered=sorted(offered))
    return tuple(offered[stream] for stream in dict.fromkeys(wanted) if stream in offered)
