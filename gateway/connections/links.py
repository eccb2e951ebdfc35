"""Links: each connection that this replica can serve, built from what PostgreSQL holds, and built again when
that changes.

A link goes through two steps; either can fail, and is tried again after a while that grows. It is **built**:
its connector is made of the stored settings and the credential. It is **begun**: its meters are written down
as those in force, so that runs may compute by them (`gateway.connections.following`). Only what is begun is
worked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import structlog

from gateway import bulkhead, clock
from gateway.configuration import SystemModels
from gateway.connections.guard import Guarded, at_once, guarded
from gateway.connections.screening import check_zones, reach_of
from gateway.credentials.logons import Logons
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Binding, Vault
from gateway.model import alert_rule
from gateway.model.backoff import full_jitter
from gateway.model.connector import Auth, Connector, ConnectorSettings, Manifest, Observer
from gateway.model.credential import Credential
from gateway.model.errors import BadConfiguration, ConnectorError, SealBroken, Unavailable
from gateway.model.inbound import InboundStream, ReadsRecords
from gateway.model.meter import from_document, made_of
from gateway.settings import ConnectionSyncSettings, Settings
from gateway.store import connections, credentials
from gateway.store.connections import Configured, StoredConnection
from gateway.store.credentials import SealedCredential
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

BUILD_CAP_SECONDS = 60.0

BUILT_TOGETHER = 200
"""Connections that are followed together: thousands are, at a start, and the first should not wait for the
last.
"""

NOT_BUILT = "put that right, correct the settings, or give the credentials again"

RETIRED_SECONDS = 120.0
"""How long a replaced connector stays open for the runs that use it."""


class ConnectedSystem(SystemModels, Protocol):
    """What the engine needs of a system: given by the composition root, since the engine knows none."""

    @property
    def build(self) -> Callable[[ConnectorSettings], Connector]:
        """A connector. Raises BadConfiguration."""
        ...


@dataclass(frozen=True, slots=True)
class _Built:
    configuration: int
    link: ServedConnection | None
    begun: bool = False
    """Whether its meters are in force: one whose begin failed is begun again, whoever built it."""
    again_monotonic: float | None = None
    """When it is built, or begun, again although nothing has changed (monotonic):
    something stood in the way.
    """
    attempts: int = 0


class Links:
    """The links of this replica. `refresh` follows the database; `get` never asks it. A link counts as begun
    once `begun` says so: until then every `refresh` returns it again.
    """

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, ConnectedSystem],
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
        self.version = 0
        """Rises with whatever `current` may show."""
        self._refreshing = asyncio.Lock()
        self._retired: list[tuple[float, Connector]] = []
        self._left_behind: dict[str, set[asyncio.Future[Any]]] = {}

    @property
    def current(self) -> dict[str, ServedConnection]:
        """Those that can be worked: with a credential that was verified once, and their meters in force."""
        return {
            name: built.link for name, built in self._built.items() if built.link is not None and built.begun
        }

    @property
    def count(self) -> int:
        """How many connections there are to look after."""
        return len(self._built)

    def get(self, connection: str) -> ServedConnection | None:
        """The link of a connection, None when it has no verified credential, or cannot be built."""
        built = self._built.get(connection)
        return None if built is None else built.link

    def waiting(self) -> list[str]:
        """Those for which something stood in the way, and that are to be tried again now."""
        now = clock.monotonic()
        return [
            name
            for name, built in self._built.items()
            if built.again_monotonic is not None and built.again_monotonic <= now
        ]

    async def compare(self) -> list[str]:
        """The connections that `refresh` has something to do for, of all. Raises StoreError."""
        wanted = await connections.configurations(self._database)
        gone = [name for name in self._built if name not in wanted]
        return gone + [
            name
            for name, current in wanted.items()
            if self._is_stale(name, current.configuration) or self._to_begin(name, current) is not None
        ]

    async def refresh(self, only: Collection[str]) -> list[ServedConnection]:
        """Of these connections, builds what was configured anew and drops what is gone; the links that are
        yet to be begun. Raises StoreError, and then forgets nothing: what was built is returned next time.
        """
        # A look that succeeded refreshes beside the loop: two at once would build the same link and close
        # only one.
        async with self._refreshing:
            wanted = await connections.configurations(self._database, only)
            for name in [name for name in only if name in self._built and name not in wanted]:
                self._retire(self._built.pop(name).link)
                self._left_behind.pop(name, None)
                self.version += 1
            await self._build_all(
                [name for name, current in wanted.items() if self._is_stale(name, current.configuration)]
            )
            await self._close_retired()
            found = (self._to_begin(name, current) for name, current in wanted.items())
            return [link for link in found if link is not None]

    async def _build_all(self, names: Sequence[str]) -> None:
        if not names:
            return
        found = await connections.read(self._database, names)
        generations = {name: held.generation for name, held in found.items() if held.generation}
        sealed = await credentials.read_some(self._database, generations) if generations else {}
        for name, held in found.items():
            before, link, begun, wrong = self._built.get(name), None, False, None
            async with self._troubles.contained("build", name) as made:
                try:
                    link = self._link(held, sealed[name]) if name in sealed else None
                except (BadConfiguration, SealBroken) as error:
                    wrong = error
                if link is not None:
                    digest = made_of(link.rules, link.connector.capabilities.resolution)
                    begun = (held.meters_of, held.meters_digest) == (held.configuration, digest)
            if wrong is not None:
                await self._say_not_built(name, wrong)
            if made.fault is not None:
                self._retire(link)
                link = None
            self._retire(None if before is None else before.link)
            attempts = before.attempts if before is not None and before.again_monotonic is not None else 0
            self._put(name, _Built(held.configuration, link, begun=begun, attempts=attempts))
            if made.fault is not None:
                self.put_off(name)
            await asyncio.sleep(
                0
            )  # thousands are built at a start, and everybody's telemetry waits for this loop

    def _to_begin(self, name: str, current: Configured) -> ServedConnection | None:
        built = self._built.get(name)
        if built is None or built.link is None or not current.is_served:
            return None
        if built.begun and current.meters_of == current.configuration == built.configuration:
            return None
        if built.begun:
            built = self._put(name, replace(built, begun=False))
        return (
            built.link
            if built.again_monotonic is None or built.again_monotonic <= clock.monotonic()
            else None
        )

    def begun(self, link: ServedConnection) -> None:
        """Its meters are in force."""
        built = self._built.get(link.connection)
        if built is not None and built.link is link:
            self._put(link.connection, replace(built, begun=True, again_monotonic=None, attempts=0))

    def not_begun(self, link: ServedConnection) -> None:
        """Its begin did not succeed, and is tried again after a while that grows. The
        link stays for probes.
        """
        built = self._built.get(link.connection)
        if built is not None and built.link is link:
            self._put(link.connection, self._later(replace(built, begun=False)))

    def put_off(self, connection: str) -> None:
        """Its link is out, and is built again after a while that grows: a fault of ours stands in the way."""
        built = self._built[connection]
        self._retire(built.link)
        self._put(connection, self._later(replace(built, link=None, begun=False)))

    def _put(self, name: str, built: _Built) -> _Built:
        self._built[name] = built
        self.version += 1
        return built

    @staticmethod
    def _later(built: _Built) -> _Built:
        attempts = built.attempts + 1
        wait = full_jitter(attempts, rand=random.random(), cap_seconds=BUILD_CAP_SECONDS)
        return replace(built, again_monotonic=clock.monotonic() + wait, attempts=attempts)

    def _is_stale(self, name: str, configuration: int) -> bool:
        built = self._built.get(name)
        return (
            built is None
            or built.configuration != configuration
            or (
                built.link is None
                and built.again_monotonic is not None
                and built.again_monotonic <= clock.monotonic()
            )
        )

    async def candidate(self, connection: str) -> ServedConnection | None:
        """A link of its own, with the credential that is to be verified, or the one in use where only
        settings changed. Close its connector.
        """
        held = (await connections.read(self._database, [connection])).get(connection)
        if held is None:
            return None
        return await self._build(held, held.candidate or held.generation)

    async def close(self) -> None:
        """Closes every connector."""
        for built in self._built.values():
            self._retire(built.link)
        self._built.clear()
        await asyncio.gather(*(connector.close() for _, connector in self._retired))

    async def _build(self, held: StoredConnection, generation: int) -> ServedConnection | None:
        """Raises BadConfiguration, SealBroken."""
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

    def _link(self, held: StoredConnection, sealed: SealedCredential) -> ServedConnection:
        """Raises BadConfiguration, SealBroken."""
        return link_of(
            held,
            self._connector(held, self._credential(held, sealed)),
            self._settings,
            generation=held.generation,
            manifest=self._systems[held.system].manifest,
        )

    async def _say_not_built(self, name: str, error: ConnectorError | SealBroken) -> None:
        """In the log and with the connection: its state does not say so, for nothing is called."""
        log.error("connection.link_not_built", connection=name, detail=str(error), advice=NOT_BUILT)
        await self._troubles.note(name, "build", f"{error}. Nothing is sent or read meanwhile: {NOT_BUILT}")

    async def credential(self, held: StoredConnection, generation: int) -> Credential | None:
        """A credential in clear; None where it is not stored. Raises SealBroken, StoreError."""
        async with self._database.connection() as connection:
            sealed = await credentials.read(connection, connection_id=held.connection, generation=generation)
        return None if sealed is None else self._credential(held, sealed)

    def _credential(self, held: StoredConnection, sealed: SealedCredential) -> Credential:
        binding = credential_binding(held.customer, held.connection, sealed.generation)
        values = self._vault.open(sealed.sealed, binding)
        return Credential(
            generation=sealed.generation,
            type=cast("Auth", sealed.type),
            values=values,
            expires_at=sealed.expires_at,
            reach=reach_of(self._settings, held.customer, sealed.origin),
        )

    def _connector(self, held: StoredConnection, credential: Credential) -> Connector:
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

    def _retire(self, link: ServedConnection | None) -> None:
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


def link_of(
    held: StoredConnection,
    connector: Connector,
    settings: Settings,
    *,
    generation: int,
    manifest: Manifest | None = None,
) -> ServedConnection:
    """What the engine works with, from a stored connection."""
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
        generation=generation,
        host=held.host,
        inbound=_inbound(held.connection, connector, sync.pull),
        pull_interval=sync.pull_interval,
        reconcile=sync.reconcile,
        alerts=tuple(alert_rule.from_document(alert) for alert in held.alerts),
        raises={} if manifest is None else manifest.raises,
        title=held.system if manifest is None else manifest.title,
        page=f"{settings.http.public_url.rstrip('/')}/connections/{held.connection}",
    )


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
