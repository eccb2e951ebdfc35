"""Builds everything that works connections: for the daemon, which runs it, and for the commands, which only ask its service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager

from connectors.kit.oauth import OAuthExchange
from connectors.registry import SYSTEMS
from gateway import metrics
from gateway.connections.health import Health
from gateway.connections.incidents import Incidents
from gateway.connections.lifecycle import Lifecycle
from gateway.connections.links import Links, System
from gateway.connections.logons import Logons
from gateway.connections.service import Connections
from gateway.connections.tokens import Tokens
from gateway.connections.transitions import Transitions
from gateway.connections.vault import Vault
from gateway.model.connector import Observer
from gateway.settings import Settings
from gateway.store import credits
from gateway.store.pool import Database
from gateway.sync.schedule import Scheduler


class Engine:
    """The parts, built once for a process. `owner` names it in leases."""

    def __init__(self, settings: Settings, database: Database, *, owner: str, systems: Mapping[str, System] = SYSTEMS) -> None:
        self._database, self._settings = database, settings
        manifests = {name: system.manifest for name, system in systems.items()}
        self.vault = Vault([key.get_secret_value() for key in settings.security.encryption_keys])
        self.tokens = Tokens(database, self.vault, OAuthExchange(), owner=owner)
        self.transitions = Transitions(manifests, settings)
        self.incidents = Incidents(database, owner=owner)
        self.links = Links(
            database, systems, settings, vault=self.vault, tokens=self.tokens, logons=Logons(database, owner=owner), observer=_observer
        )
        self.service = Connections(database, systems, settings, vault=self.vault, transitions=self.transitions, links=self.links)
        self.health = Health(
            database,
            self.transitions,
            self.incidents,
            probe_interval_seconds=settings.sync.probe_interval.total_seconds(),
            on_active=lambda: self.scheduler.wake(),
        )
        self.scheduler = Scheduler(database, settings.sync, self.health, owner=owner)
        self.lifecycle = Lifecycle(
            database,
            self.links,
            self.transitions,
            self.health,
            self.tokens,
            max_future=settings.telemetry.max_future,
            on_links=self.scheduler.serve,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, database: Database, *, owner: str) -> AsyncIterator[Engine]:
        """Closes every connector at the end."""
        engine = cls(settings, database, owner=owner)
        try:
            yield engine
        finally:
            await engine.links.close()

    async def prepare(self) -> None:
        """What the database has to know of the configuration before anything is asked: the pool's capacity. Raises StoreError."""
        await credits.sync_capacity(self._database, self._settings.credits)

    def loops(self) -> Mapping[str, Coroutine[None, None, None]]:
        """What the daemon runs, by name."""
        return {"scheduler": self.scheduler.run(), "lifecycle": self.lifecycle.run(), "incidents": self.incidents.run()}


def _observer(system: str) -> Observer:
    def observe(operation: str, status_class: str) -> None:
        metrics.UPSTREAM_REQUESTS.labels(system, operation, status_class).inc()

    return observe
