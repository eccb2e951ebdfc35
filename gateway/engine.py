"""Builds everything that works connections: for the daemon, which runs it, and for the commands, which only
ask its service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager

import structlog

from connectors.kit.egress import Resolve, look_up
from connectors.kit.oauth import OAuthExchange
from connectors.registry import SYSTEMS
from gateway import clock, metrics
from gateway.alerts import upkeep as alerts
from gateway.alerts.run import MAX_STREAMS, AlertRunner
from gateway.bulkhead import contained
from gateway.connections.building import ConnectedSystem, LinkBuilder
from gateway.connections.health import ConnectionHealth
from gateway.connections.incidents import Incidents
from gateway.connections.lifecycle import Lifecycle
from gateway.connections.links import Links
from gateway.connections.screening import Screening
from gateway.connections.service import Connections
from gateway.connections.transitions import Transitions
from gateway.connections.verification import Verifier
from gateway.credentials import rotation
from gateway.credentials.expiry import expiring
from gateway.credentials.logons import Logons
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.inbound.run import InboundRunner
from gateway.model.connector import Observer
from gateway.model.errors import StoreError
from gateway.model.pressure import Pressure
from gateway.settings import Settings
from gateway.store import alert_streams, inbound
from gateway.store import credits as ledger
from gateway.store.alert_streams import AlertClaim
from gateway.store.inbound import InboundClaim
from gateway.store.notices import Notices
from gateway.store.pool import Database
from gateway.store.streams import Claim as OutboundClaim
from gateway.store.troubles import Troubles
from gateway.sync.leased import LeasedWork
from gateway.sync.link import ServedConnection
from gateway.sync.schedule import OutboundWork, Scheduler

log = structlog.get_logger(__name__)

UPKEEP_SECONDS = 30.0
CALLS_OF_A_TURN = 3
"""Calls to a system that one turn at an open breaker may make."""

CLOSE_SECONDS = 75.0
"""For a refresh or a logon that is on its way: a rotated token must not be lost."""


class Engine:
    """The parts, built once for a process, each after those that it is made of. `owner` names the process in
    leases.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        owner: str,
        systems: Mapping[str, ConnectedSystem] = SYSTEMS,
        resolve: Resolve = look_up,
        pressure: Pressure | None = None,
    ) -> None:
        self._database, self._settings = database, settings
        self._systems, self._owner, self._pressure = systems, owner, pressure
        self.stopping = asyncio.Event()
        self.troubles = Troubles(database)
        self.notices = Notices(database)  # run by the lifecycle
        # credentials
        self.vault = Vault([key.get_secret_value() for key in settings.security.encryption_keys])
        self.exchange = OAuthExchange()
        self.tokens = Tokens(database, self.vault, self.exchange, owner=owner)
        self.logons = Logons(database)
        # connections, by what is stored of them
        manifests = {name: system.manifest for name, system in systems.items()}
        self.transitions = Transitions(manifests, settings)
        self.builder = self._link_builder()
        self.links = Links(database, self.builder, self.troubles)
        self.service = self._connections(Screening(settings, resolve))
        self.verifier = Verifier(database, systems, settings, self.service, self.exchange, _observer)
        # connections, by what their systems answer
        self.incidents = self._incidents()
        self.health = self._connection_health()
        # what works them
        self.scheduler, self.reader, self.alerts = self._sender(), self._reader(), self._judge()
        self.lifecycle = self._lifecycle()

    def _link_builder(self) -> LinkBuilder:
        return LinkBuilder(
            self._database,
            self._systems,
            self._settings,
            vault=self.vault,
            tokens=self.tokens,
            logons=self.logons,
            observer=_observer,
        )

    def _connections(self, screening: Screening) -> Connections:
        return Connections(
            self._database,
            self._systems,
            self._settings,
            vault=self.vault,
            transitions=self.transitions,
            links=self.links,
            tokens=self.tokens,
            screening=screening,
        )

    def _incidents(self) -> Incidents:
        push_seconds = self._settings.sync.push_timeout.total_seconds()
        call_seconds = max(60.0, CALLS_OF_A_TURN * push_seconds)
        return Incidents(self._database, owner=self._owner, call_seconds=call_seconds, notices=self.notices)

    def _connection_health(self) -> ConnectionHealth:
        return ConnectionHealth(
            self._database,
            self.transitions,
            self.incidents,
            probe_interval_seconds=self._settings.sync.probe_interval.total_seconds(),
            on_active=lambda: self._wake(),
        )

    def _lifecycle(self) -> Lifecycle:
        return Lifecycle(
            self._database,
            self.builder,
            self.links,
            self.transitions,
            self.health,
            self.tokens,
            self.troubles,
            self.notices,
            max_wait=self._settings.sync.max_wait,
            max_future=self._settings.telemetry.max_future,
            on_links=self._serve,
            on_trial=self.scheduler.wake,
        )

    def _sender(self) -> Scheduler[OutboundClaim]:
        sync = self._settings.sync
        work = OutboundWork(
            self._database, sync, self.health, self.troubles, owner=self._owner, pressure=self._pressure
        )
        return Scheduler(work, lease_seconds=sync.lease.total_seconds())

    def _reader(self) -> Scheduler[InboundClaim]:
        settings, lease = self._settings, self._settings.sync.lease.total_seconds()
        runner = InboundRunner(
            self._database,
            settings.sync,
            settings.records,
            self.health,
            self.troubles,
            public_url=settings.http.public_url,
            pressure=self._pressure,
            stopping=self.stopping,
        )
        work = LeasedWork(self._database, inbound, runner, lease_seconds=lease, owner=self._owner)
        return Scheduler(work, lease_seconds=lease)

    def _judge(self) -> Scheduler[AlertClaim]:
        sync, lease = self._settings.sync, self._settings.sync.lease.total_seconds()
        runner = AlertRunner(self._database, sync, self.health, self.troubles)
        work = LeasedWork(
            self._database, alert_streams, runner, lease_seconds=lease, owner=self._owner, most=MAX_STREAMS
        )
        return Scheduler(work, lease_seconds=lease)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, database: Database, *, owner: str, pressure: Pressure | None = None
    ) -> AsyncIterator[Engine]:
        """Closes every connector at the end."""
        engine = cls(settings, database, owner=owner, pressure=pressure)
        try:
            yield engine
        finally:
            await engine.close()

    async def close(self) -> None:
        """Ends calls that are under way, and every connector."""
        await self.links.close()
        await self.tokens.close(CLOSE_SECONDS)
        await self.logons.close(CLOSE_SECONDS)

    async def prepare(self) -> None:
        """Before anything is asked: every key that seals something is there, and the pool has its capacity.
        Raises SealBroken, StoreError.
        """
        await rotation.check_keys(self._database, self.vault)
        await ledger.sync_capacity(self._database, self._settings.credits)

    def know_customers(self, customers: Collection[str]) -> None:
        """These may have connections from now on."""
        self.service.know_customers(customers)

    async def stop(self, grace_seconds: float) -> None:
        """Nothing new is begun; runs in hand get so long to end."""
        self.stopping.set()
        await asyncio.gather(
            *(each.stop(grace_seconds) for each in (self.scheduler, self.reader, self.alerts))
        )

    def _serve(self, links: Mapping[str, ServedConnection]) -> None:
        self.scheduler.serve(links)
        self.reader.serve({name: link for name, link in links.items() if link.inbound})
        self.alerts.serve(links)

    def _wake(self) -> None:
        self.scheduler.wake()
        self.reader.wake()
        self.alerts.wake()

    async def _upkeep(self) -> None:
        """What falls due by the clock: holds that lapse, credentials that end soon."""
        while True:
            try:
                with contained("upkeep", "holds"):
                    for name in await ledger.lapse(self._database):
                        log.info("connection.hold_lapsed", connection=name)
                with contained("upkeep", "expiry"):
                    await expiring(self._database, clock.now())
            except StoreError as error:
                log.warning("gateway.upkeep_deferred", detail=str(error))
            await asyncio.sleep(UPKEEP_SECONDS)

    def loops(self) -> Mapping[str, Coroutine[None, None, None]]:
        """What the daemon runs, by name."""
        return {
            "scheduler": self.scheduler.run(),
            "reader": self.reader.run(),
            "alerts": self.alerts.run(),
            "alerts' upkeep": alerts.keep_up(self._database),
            "lifecycle": self.lifecycle.run(),
            "incidents": self.incidents.run(),
            "key rotation": rotation.run(self._database, self.vault),
            "upkeep": self._upkeep(),
        }


def _observer(system: str) -> Observer:
    def observe(operation: str, status_class: str) -> None:
        metrics.UPSTREAM_REQUESTS.labels(system, operation, status_class).inc()

    return observe
