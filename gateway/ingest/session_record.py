"""The record, in the database, of what a partition's session may hold at each broker. A filter is recorded
before it is subscribed: so whoever serves the partition next, perhaps with another configuration, knows what
to unsubscribe. The record also has when the session was last up at each broker: what waited there since
counts as no flood.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import chain
from typing import TypeVar

import structlog

from gateway import clock
from gateway.ingest.brokers import Brokers
from gateway.model.backoff import full_jitter
from gateway.model.errors import StoreError
from gateway.settings import Settings
from gateway.store import sessions
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")

UNKNOWN_ABSENCE_SECONDS = 3600.0
"""How long a session was away where an earlier version, which did not note it, served it last."""


class SessionRecord:
    """The record of one partition. `client` is its MQTT client id, empty before `load`."""

    def __init__(self, settings: Settings, database: Database, partition: int, brokers: Brokers) -> None:
        self._settings = settings
        self._database = database
        self._partition = partition
        self._brokers = brokers
        self.client = ""
        self._held: dict[str, tuple[str, ...]] = {}  # by broker
        self._up_monotonic: dict[str, float] = {}
        """By broker: when the session there was last up, by the monotonic clock."""
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Reads the record. Waits for a database that is away."""
        self.client = await self.until_stored(
            partial(sessions.client_id, self._database, self._settings.instance, self._partition)
        )
        self._held = await self.until_stored(partial(sessions.subscriptions, self._database, self.client))
        known = await self.until_stored(partial(sessions.away_seconds, self._database, self.client))
        away = {**dict.fromkeys(self._held, UNKNOWN_ABSENCE_SECONDS), **known}
        now = clock.monotonic()
        self._up_monotonic = {broker: now - seconds for broker, seconds in away.items()}

    @property
    def held(self) -> tuple[str, ...]:
        """The filters that the session may hold at the current broker."""
        return self._held.get(self._brokers.current, ())

    def stale(self, wanted: Collection[str], never: Collection[str] = ()) -> tuple[str, ...]:
        """The filters to unsubscribe: those that a session at any of the brokers may hold beside the wanted
        ones, and those that it must `never` hold.
        """
        may_hold = set(chain.from_iterable(self._held.values()))
        return tuple(sorted((may_hold | set(never)) - set(wanted)))

    async def add(self, filters: Collection[str]) -> None:
        """Records filters beside those that the session may hold, before it subscribes them. Raises
        StoreError.
        """
        async with self._writing:
            added = tuple(one for one in filters if one not in self.held)
            if added:
                await self._write((*self.held, *added))

    async def replace(self, filters: Collection[str], *, is_all: bool = False) -> None:
        """Records that the session holds these filters and no others. `is_all`: those at brokers that left
        the list were unsubscribed too, and are forgotten. Raises StoreError.
        """
        async with self._writing:
            await self._write(filters, is_all=is_all)

    async def _write(self, filters: Collection[str], *, is_all: bool = False) -> None:
        broker, urls = self._brokers.current, self._settings.broker.urls
        keep = urls if is_all else (*urls, *self._held)
        await sessions.remember_subscriptions(self._database, self.client, filters, broker=broker, keep=keep)
        self._held = {**self._held, broker: tuple(filters)}
        self._held = {url: held for url, held in self._held.items() if url in keep}

    def absence(self) -> float:
        """Seconds since the session was last up at the broker that has just accepted it. 0 where it was never
        subscribed there, for then nothing is queued.
        """
        now = clock.monotonic()
        since = now - self._up_monotonic.get(self._brokers.current, now)
        self._up_monotonic[self._brokers.current] = now
        return since

    def went_down(self, broker: str, at: float) -> None:
        """The session at this broker ended `at` this monotonic time."""
        self._up_monotonic[broker] = at

    async def until_stored(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of `operation`. Waits for a database that is away."""
        attempt = 0
        while True:
            try:
                return await operation()
            except StoreError as error:
                attempt += 1
                log.debug("ingest.session_deferred", partition=self._partition, detail=str(error))
                await asyncio.sleep(
                    full_jitter(attempt, rand=random.random(), base_seconds=0.1, cap_seconds=1.0)
                )
