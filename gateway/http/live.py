"""Tells those who look at a page that something changed: one session of PostgreSQL listens for all of them,
and only while somebody looks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context

from gateway.http.shared import SharedParts
from gateway.model.errors import RequestRefused, StoreError
from gateway.store.notices import Notices
from gateway.store.pool import Database

TOGETHER_SECONDS = 0.2
"""What changes within this time is told once."""


class Watcher:
    """One who looks, at the connections of `customer` or (None) at all."""

    def __init__(self, customer: str | None) -> None:
        self.customer = customer
        self.is_over = False
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Something changed."""
        self._changed.set()

    def end(self) -> None:
        """Nothing more is told: the process ends, or another customer has the place."""
        self.is_over = True
        self.tell()

    async def changed(self, seconds: float) -> bool:
        """Waits this long at most; whether something changed since it was asked last."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


class Live:
    """`limit`: how many may look at once. Each holds a connection of HTTP, and others must find room. Where
    all places are taken, the customer with the most of them gives one to a customer with fewer: nobody's open
    pages keep another's from being live.
    """

    def __init__(self, database: Database, *, limit: int) -> None:
        self._database, self._limit = database, limit
        self._watchers: list[Watcher] = []
        """Who has looked the longest comes first."""
        self._listening: asyncio.Task[None] | None = None
        self._is_leaving = False
        self.changes = 0
        """How often somebody was told."""

        self.parts = SharedParts(lambda: self.changes)

    def has_room(self, customer: str | None) -> bool:
        """Whether one more of this customer may look."""
        if self._is_leaving:
            return False
        return len(self._watchers) < self._limit or self._one_too_many(customer) is not None

    def check_room(self, customer: str | None) -> None:
        """Raises RequestRefused("gateway.overloaded") where too many look already."""
        if not self.has_room(customer):
            raise RequestRefused("gateway.overloaded", "Too many pages are live at once.", retry_after=30.0)

    def _one_too_many(self, customer: str | None) -> Watcher | None:
        """Who gives its place to this customer. Its own customer still has as many, so no place goes to and
        fro.
        """
        held = Counter(watcher.customer for watcher in self._watchers)
        [(most, count)] = held.most_common(1)
        if held[customer] + 1 >= count:
            return None
        return next(watcher for watcher in self._watchers if watcher.customer == most)

    @contextmanager
    def watching(self, customer: str | None) -> Iterator[Watcher]:
        """Raises as `check_room`."""
        self.check_room(customer)
        if len(self._watchers) >= self._limit and (ended := self._one_too_many(customer)) is not None:
            self._watchers.remove(ended)
            ended.end()
        watcher = Watcher(customer)
        self._watchers.append(watcher)
        # The first who looks begins the listening and the last one ends it: an idle gateway keeps no session.
        # It is for all of them, and not a part of the first one's request.
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen(), name="live pages", context=Context())
        try:
            yield watcher
        finally:
            if watcher in self._watchers:  # else another has its place
                self._watchers.remove(watcher)
            if not self._watchers and self._listening is not None:
                self._listening.cancel()
                self._listening = None

    def leave(self) -> None:
        """The process ends: nobody is kept waiting for what will not come."""
        self._is_leaving = True
        for watcher in self._watchers:
            watcher.end()

    async def _listen(self) -> None:
        notices = Notices(self._database)
        async with asyncio.TaskGroup() as group:
            group.create_task(notices.run(), name="live notices")
            while True:
                await notices.wake.wait()
                await asyncio.sleep(TOGETHER_SECONDS)
                changed, everything = notices.take(), notices.take_troubles()
                owners = None if changed is None or everything else await self._owners(list(changed))
                self.changes += 1  # before anybody is told: what they ask for then is of after it
                for watcher in self._watchers:
                    if owners is None or watcher.customer is None or watcher.customer in owners:
                        watcher.tell()

    async def _owners(self, connections: list[str]) -> set[str] | None:
        """Whose these are; None where that is not known."""
        try:
            async with self._database.connection() as connection:
                rows = await connection.fetch(
                    "select distinct customer_id from connection where connection_id = any($1)", connections
                )
        except StoreError:
            return None
        return {row["customer_id"] for row in rows}
