"""The lifecycle service: declares connections, verifies their credentials, and follows the state table on what runs report."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from gateway import clock
from gateway.model.backoff import full_jitter
from gateway.model.connection import State, Trigger
from gateway.model.errors import AuthRefused, BadConfiguration, ConfigError, ConnectorError, PermissionDenied, StoreError
from gateway.store import connections, leases
from gateway.store.connections import Declaration, Moved, Outbound
from gateway.store.pool import Database
from gateway.sync.link import READINGS, Link

log = structlog.get_logger(__name__)

PROBE_SECONDS = 30.0
POLL_SECONDS = 1.0
BLOCKED_PROBE = timedelta(hours=1)
VERIFY_CAP_SECONDS = 60.0


class Lifecycle:
    """Owns the transitions of every declared connection. `on_active` is called when one may be worked."""

    def __init__(self, database: Database, *, owner: str, max_future: timedelta, on_active: Callable[[], None]) -> None:
        self._database = database
        self._owner = owner
        self._max_future = max_future
        self._on_active = on_active
        self._links: dict[str, Link] = {}
        self._next_probe: dict[str, float] = {}
        self._probes: dict[str, int] = {}

    async def declare(self, declared: Mapping[str, tuple[Declaration, Link]]) -> dict[str, Link]:
        """Makes the database agree with the configuration; the links that can be served.

        A connection whose settings or credentials changed is verified again before it is worked. Raises ConfigError when a
        declaration would move a connection to another customer or system, StoreError.
        """
        for declaration, link in declared.values():
            found = await connections.declare(self._database, declaration)
            if (found.customer, found.system) != (declaration.customer, declaration.system):
                raise ConfigError(
                    f"connection {declaration.connection!r} belongs to customer {found.customer!r} and system {found.system!r} for good; "
                    "give the new connection another id"
                )
            if found.changed:
                await self.report(declaration.connection, Trigger.CREDENTIALS_GIVEN, "settings or credentials changed")
            if found.state in (State.ACTIVE, State.DEGRADED):
                await self._refresh_meters(link)
        self._links = {name: link for name, (_, link) in declared.items()}
        self._next_probe.clear()
        return dict(self._links)

    async def report(self, connection: str, trigger: Trigger, reason: str | None) -> None:
        """Follows the table; says what moved."""
        moved = await connections.transition(self._database, connection, trigger, reason)
        if moved is not None:
            self._say(connection, trigger, moved, reason)

    async def run(self) -> None:
        """Until cancelled: verifies what waits for it, and probes blocked connections once an hour. One replica probes at a time."""
        async with asyncio.TaskGroup() as group:
            probing: dict[str, asyncio.Task[None]] = {}
            while True:
                try:
                    states = await connections.states(self._database, list(self._links)) if self._links else {}
                except StoreError:
                    states = {}  # the scheduler says that the database is away
                for name, state in states.items():
                    due = self._next_probe.get(name, 0.0) <= clock.monotonic()
                    busy = name in probing and not probing[name].done()
                    if state in (State.VERIFYING, State.BLOCKED) and due and not busy:
                        probing[name] = group.create_task(self._probe(self._links[name], state), name=f"probe {name}")
                await asyncio.sleep(POLL_SECONDS)

    async def _probe(self, link: Link, state: State) -> None:
        name = link.connection
        try:
            if await leases.claim(self._database, f"probe/{name}", self._owner, 2 * PROBE_SECONDS) is None:
                return
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    health = await link.connector.probe()
            except (ConnectorError, TimeoutError) as error:
                await self._refused(link, state, error)
            else:
                await self._activate(link)
                log.info("connection.probe_succeeded", connection=name, detail=health.detail)
            await leases.release(self._database, f"probe/{name}", self._owner)
        except StoreError as error:
            log.warning("connection.probe_not_recorded", connection=name, detail=str(error))

    async def _refused(self, link: Link, state: State, error: ConnectorError | TimeoutError) -> None:
        name, reason = link.connection, str(error) or f"no answer within {PROBE_SECONDS:g} s"
        match error:
            case AuthRefused():
                trigger = Trigger.PROBE_REFUSED if state is State.VERIFYING else Trigger.AUTH_REFUSED
                await self.report(name, trigger, reason)
            case PermissionDenied() | BadConfiguration():
                await self.report(name, Trigger.PROBE_DENIED, reason)
                self._next_probe[name] = clock.monotonic() + BLOCKED_PROBE.total_seconds()
            case _:
                attempt = self._probes[name] = self._probes.get(name, 0) + 1
                wait = full_jitter(attempt, rand=random.random(), cap_seconds=VERIFY_CAP_SECONDS)
                if state is State.BLOCKED:
                    wait = BLOCKED_PROBE.total_seconds()
                self._next_probe[name] = clock.monotonic() + wait
                log.warning("connection.probe_deferred", connection=name, detail=reason, retry_in_seconds=round(wait, 1))

    async def _activate(self, link: Link) -> None:
        moved, conflicts = await connections.activate(self._database, link.connection, self._outbound(link))
        self._probes.pop(link.connection, None)
        for conflict in conflicts:
            log.warning("sync.meter_refused", connection=link.connection, problem=str(conflict))
        if moved is not None:
            self._say(link.connection, Trigger.PROBE_SUCCEEDED, moved, None)
            self._on_active()

    async def _refresh_meters(self, link: Link) -> None:
        conflicts = await connections.refresh_meters(self._database, link.connection, self._outbound(link))
        for conflict in conflicts:
            log.warning("sync.meter_refused", connection=link.connection, problem=str(conflict))

    def _outbound(self, link: Link) -> Outbound:
        return Outbound(
            customer=link.customer,
            stream=READINGS,
            rules=link.rules,
            capabilities=link.connector.capabilities,
            initial_days=link.initial_days,
            max_future=self._max_future,
        )

    def _say(self, connection: str, trigger: Trigger, moved: Moved, reason: str | None) -> None:
        log.info(
            "connection.state_changed",
            connection=connection,
            from_state=str(moved.from_state),
            to_state=str(moved.to_state),
            trigger=str(trigger),
            reason=reason,
        )
