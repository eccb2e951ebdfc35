"""What a partition's session may hold at each broker, on record in the database before it holds it: whoever
serves the partition next, perhaps with another configuration, knows by it what to unsubscribe. And when the
session was last up at each: what waited there meanwhile is no flood.
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
"""How long a session was away that an earlier version served, which did not note it."""


class SessionRecord:
    """Of one partition. `client` is its MQTT client id, empty before `load`."""

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
        """Reads it; a database that is away is waited for."""
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
        """What the session may hold at the broker of now."""
        return self._held.get(self._brokers.current, ())

    def stale(self, wanted: Collection[str], never: Collection[str] = ()) -> tuple[str, ...]:
        """What a session at any of the brokers may hold beside what is wanted, and what is `never` to be
        held.
        """
        return tuple(sorted({*never, *chain.from_iterable(self._held.values())} - set(wanted)))

    async def add(self, filters: Collection[str]) -> None:
        """Beside what the session may hold, before it does. Raises StoreError."""
        async with self._writing:
            if added := tuple(one for one in filters if one not in self.held):
                await self._write((*self.held, *added))

    async def replace(self, filters: Collection[str], *, is_all: bool = False) -> None:
        """What the session holds from now on. `is_all`: what left the list of brokers was unsubscribed, too.
        Raises StoreError.
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
        """Seconds since the session was last up at the broker that has just let it in. One that was never
        subscribed there has nothing queued.
        """
        now = clock.monotonic()
        since = now - self._up_monotonic.get(self._brokers.current, now)
        self._up_monotonic[self._brokers.current] = now
        return since

    def went_down(self, broker: str, at: float) -> None:
        """The session at this broker ended, by the monotonic clock."""
        self._up_monotonic[broker] = at

    async def until_stored(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Its result; a database that is away is waited for."""
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
