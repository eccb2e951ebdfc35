"""Keeps the links of this replica up to date with the database, and puts the meters of each new link in
force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta

import structlog

from gateway import clock
from gateway.alerts import rules as alerts
from gateway.connections.links import BUILT_TOGETHER, Links
from gateway.model.connection import State
from gateway.model.errors import StoreError
from gateway.model.record import phases_of
from gateway.store import connections, inbound, meters_in_force
from gateway.store.meters_in_force import Outbound
from gateway.store.notices import REST_SECONDS, Notices
from gateway.store.pool import Connection, Database
from gateway.store.troubles import Troubles
from gateway.sync.link import READINGS, ServedConnection

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
NOTICES_SECONDS = 0.02
ALL_SECONDS = 30.0
"""Every connection is compared so often, in case a notice was lost."""

UNTOLD_SECONDS = 2.0
"""The same where there are no notices: their session is away, or behind a pooler that passes none on."""

BEGIN_TOGETHER = 4
"""Connections whose meters are put in force at the same time. The other sessions of the pool are for ingest
and runs.
"""


class Following:
    """Follows the database. `on_links` is called with the links of this replica when any of them changed."""

    def __init__(
        self,
        database: Database,
        links: Links,
        troubles: Troubles,
        notices: Notices,
        *,
        max_future: timedelta,
        on_links: Callable[[dict[str, ServedConnection]], None],
    ) -> None:
        self._database = database
        self._links = links
        self._troubles = troubles
        self._notices = notices
        self._max_future = max_future
        self._on_links = on_links
        self._followed_monotonic = 0.0

    async def run(self) -> None:
        """Follows until cancelled. While the database is away nothing changes."""
        while True:
            with suppress(StoreError):
                await self._follow_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_next()):
                    await self._notices.wake.wait()
            await asyncio.sleep(NOTICES_SECONDS)  # changes that come together are followed together

    def _seconds_to_next(self) -> float:
        """Seconds until the next look, if no notice comes before."""
        is_told = self._notices.is_listening and not self._links.has_waiting
        return REST_SECONDS if is_told else POLL_SECONDS

    async def _follow_once(self) -> None:
        """Follows the connections that changed, or all of them where that is not known."""
        if self._notices.take_troubles():
            try:
                await self._troubles.refresh()
            except StoreError:
                self._notices.give_back_troubles()
                raise
        names = self._notices.take()
        all_after = ALL_SECONDS if self._notices.is_listening else UNTOLD_SECONDS
        if names is None or clock.monotonic() >= self._followed_monotonic + all_after:
            names = None
            self._followed_monotonic = clock.monotonic()
        else:
            names = {*names, *self._links.waiting()}
        if names is None or names:
            try:
                await self.refresh(names)
            except StoreError:
                self._notices.give_back(names)
                raise

    async def refresh(self, only: Collection[str] | None = None) -> None:
        """Brings this replica's links up to date, of these connections or of all, and puts the meters of
        those that changed in force. Where that fails for one connection it is shown with it, and tried again.
        Raises StoreError.
        """
        names = await self._links.compare() if only is None else list(only)
        for start in range(0, len(names), BUILT_TOGETHER):
            version = self._links.version
            changed = await self._links.refresh(names[start : start + BUILT_TOGETHER])
            places = asyncio.Semaphore(BEGIN_TOGETHER)
            async with asyncio.TaskGroup() as group:
                for link in changed:
                    group.create_task(self._bring_up(link, places))
            if self._links.version != version:
                self._on_links(self._links.current)

    async def _bring_up(self, link: ServedConnection, places: asyncio.Semaphore) -> None:
        """Puts the meters of a link in force, or has that tried again. Never raises: a failure is this
        connection's.
        """
        name = link.connection
        try:
            async with places, self._troubles.contained("refresh", name) as made:
                if await self._begin(link):
                    self._links.begun(link)
            if made.fault is not None:
                self._links.put_off(name)
        except StoreError as error:
            self._links.not_begun(link)
            log.warning("connection.begin_deferred", connection=name, detail=str(error))
            # The database may have refused something of this connection only, and still take the note of it.
            with suppress(StoreError):
                await self._troubles.note(name, "refresh", f"it is not served yet, and tried again: {error}")

    async def _begin(self, link: ServedConnection) -> bool:
        """Puts the meters of the link in force. False where the link is outdated: it is built again in a
        moment.
        """
        async with self._database.transaction() as connection:
            locked = await connections.lock(connection, link.connection)
            if locked is None or locked.configuration != link.configuration:
                return False
            if locked.state not in (State.ACTIVE, State.DEGRADED, State.BLOCKED):
                return False
            await self.begin(connection, link)
        return True

    async def begin(self, connection: Connection, link: ServedConnection) -> None:
        """Puts the meters of the link in force and begins its streams, in the caller's transaction."""
        outbound = Outbound(
            customer=link.customer,
            stream=READINGS,
            rules=link.rules,
            capabilities=link.connector.capabilities,
            initial_days=link.initial_days,
            max_future=self._max_future,
            configuration=link.configuration,
            interval=link.interval,
        )
        for conflict in await meters_in_force.begin(connection, link.connection, outbound):
            log.warning("sync.meter_refused", connection=link.connection, problem=str(conflict))
        days = link.initial_days
        phases = phases_of(link.inbound, initial_days=days)
        await inbound.begin(connection, link.customer, link.connection, phases, initial_days=days)
        await alerts.begin(connection, link)
