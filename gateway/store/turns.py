"""How many sessions of a pool the requests of one customer hold: what one asks, and how often, keeps nobody
else waiting for a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from weakref import WeakValueDictionary

_customer: ContextVar[str | None] = ContextVar("customer", default=None)
_has_turn: ContextVar[bool] = ContextVar("has_turn", default=False)


def begin_work() -> None:
    """A request begins. It works for nobody yet, whoever the request before it on its connection worked for:
    the server may begin one within the context of another.
    """
    _customer.set(None)
    _has_turn.set(False)


def work_for(customer: str | None) -> None:
    """What this task asks of the database from now on is for this customer (None: for nobody)."""
    _customer.set(customer)


class CustomerTurns:
    """Of one pool. `limit`: sessions that work for one customer holds at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def one(self, seconds: float) -> AsyncIterator[None]:
        """Waits for a turn where this task works for a customer; who has one already needs no second, or two
        would wait for each other. Raises TimeoutError after `seconds`.
        """
        customer = _customer.get()
        if customer is None or _has_turn.get():
            yield
            return
        free = self._free.get(customer)
        if free is None:
            free = self._free[customer] = asyncio.Semaphore(self._limit)
        async with asyncio.timeout(seconds):
            await free.acquire()
        marked = _has_turn.set(True)
        try:
            yield
        finally:
            free.release()
            _has_turn.reset(marked)
