"""Probes of idle connections: how many in a turn, and what went well written together. With thousands of
connections nearly every probe goes well, and three statements for each would be what the gateway does all
day.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway import clock
from gateway.connections.health import Health
from gateway.model.errors import StoreError
from gateway.model.operation import Operation
from gateway.store import probes
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

TOGETHER_SECONDS = 0.25
HASTE = 1.5
"""How much faster than by the rhythm what is overdue is caught up: within two thirds of
an interval all are.
"""

FEWEST_PER_SECOND = 32.0
"""However few connections there are."""


class Budget:
    """How many probes may begin now: as many as all connections need in an interval,
    and half as many again.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._taken_at = clock.monotonic()
        self._left = 0.0

    def take(self, count: int) -> int:
        """For `count` connections, since the last time that was asked: of a second at most."""
        now = clock.monotonic()
        passed, self._taken_at = now - self._taken_at, now
        per_second = max(FEWEST_PER_SECOND, HASTE * count / self._interval_seconds)
        self._left = min(self._left + passed * per_second, per_second)
        granted = int(self._left)
        self._left -= granted
        return granted


class Answers:
    """Good answers to probes of active connections, written together a moment later. What is lost with the
    process is asked again when the lease of the probe is over.
    """

    def __init__(self, database: Database, health: Health, troubles: Troubles) -> None:
        self._database = database
        self._health = health
        self._troubles = troubles
        self._well: dict[str, Link] = {}
        self._some = asyncio.Event()

    def takes(self, link: Link) -> bool:
        """Whether a good answer says nothing but that all is well still."""
        return self._health.is_plain(link) and not self._troubles.has(
            link.connection, "probe", "verification"
        )

    def add(self, link: Link) -> None:
        """Its system has answered."""
        self._well[link.connection] = link
        self._some.set()

    async def run(self) -> None:
        """Until cancelled. What cannot be written is tried again."""
        while True:
            await self._some.wait()
            await asyncio.sleep(TOGETHER_SECONDS)
            self._some.clear()
            try:
                await self.write()
            except StoreError as error:
                log.warning("connection.probes_not_recorded", detail=str(error))
                self._some.set()

    async def write(self) -> None:
        """Writes what there is. Raises StoreError, and then keeps it."""
        links = dict(self._well)
        seconds = {name: self._health.idle_seconds() for name in sorted(links)}
        await self._health.all_succeeded(list(links.values()))
        still = await probes.well(self._database, seconds)
        for name, link in links.items():
            if self._well.get(name) is link:
                del self._well[name]
        for name in links.keys() - still:  # it has moved meanwhile: what the answer means then is looked at
            await self._health.succeeded(links[name], Operation.PROBE)
