"""Turns bound how many runs work in the database at once: in all, and of one customer. There are fewer turns
while acknowledgements are late.

A turn is held for a statement or a short transaction and never for a call to a system: a system that hangs
takes nobody's turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway import clock
from gateway.model.pressure import Pressure

LARGE, SMALL = 5_000, 500
"""Windows that are worked on in one step. Ingest waits for a step to leave the event loop, so steps are
`SMALL` while messages come in.
"""


class Turns:
    """At most `workers` at once, and of one customer at most half of them, however many streams it has."""

    def __init__(self, workers: int, pressure: Pressure) -> None:
        self._workers = workers
        self._pressure = pressure
        self._taken = Counter[str]()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by customer. A customer that was admitted goes to the end, so that customers take turns.
        """

    @property
    def windows(self) -> int:
        """How many windows a batch may have now."""
        return SMALL if self._pressure.is_active(now=clock.monotonic()) else LARGE

    @property
    def is_pressed(self) -> bool:
        """Whether acknowledgements have been late."""
        return self._pressure.share(now=clock.monotonic()) < 1.0

    @asynccontextmanager
    async def turn(self, customer: str) -> AsyncIterator[None]:
        """Waits for a turn of the customer, and holds it."""
        await self._take(customer)
        try:
            yield
        finally:
            self._give_back(customer)

    async def _take(self, customer: str) -> None:
        """Nothing is awaited between finding a free turn and taking it, so the event loop is the lock. A turn
        that is handed to somebody who waits counts as taken at once, so that nobody else takes it in between.
        Whoever is cancelled with a turn in hand gives it back.
        """
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(customer, deque()).append(given)
        self._admit()
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._give_back(customer)
            else:
                self._forget(customer, given)
            raise

    def _give_back(self, customer: str) -> None:
        self._taken[customer] -= 1
        if not self._taken[customer]:
            del self._taken[customer]
        self._admit()

    def _forget(self, customer: str, given: asyncio.Future[None]) -> None:
        queue = self._waiting.get(customer)
        if queue is not None and given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[customer]

    def _admit(self) -> None:
        share = self._pressure.share(now=clock.monotonic())
        most = max(1, int(self._workers * share))
        each = max(1, most // 2)
        while self._taken.total() < most:
            customer = next((one for one in self._waiting if self._taken.get(one, 0) < each), None)
            if customer is None:
                return
            queue = self._waiting.pop(customer)
            given = queue.popleft()
            if queue:
                self._waiting[customer] = queue  # behind those who have waited longer
            if not given.done():  # else its task was cancelled, and has not run yet
                self._taken[customer] += 1
                given.set_result(None)
