"""What systems say of their own meters, kept for a moment: a page that is sent several times asks once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway import clock
from gateway.model.errors import RequestRefused
from gateway.model.exchange import RemoteMeter

KEPT_SECONDS = 60.0
MAX_KEPT = 50
"""Connections; the list that was asked for first is asked for again."""

MAX_METERS = 5_000
ANSWER_SECONDS = 10.0
"""How long a page waits for a system: it can be filled in without."""


Ask = Callable[[str], Awaitable[Sequence[RemoteMeter]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedMeters:
    """`meters` None: the system could not be asked, or lists none; `detail` says why."""

    meters: Sequence[RemoteMeter] | None
    detail: str = ""


class AskedMeters:
    """Of any connection."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, ListedMeters]] = {}
        self._asking: set[str] = set()

    def kept(self, connection: str) -> ListedMeters:
        """What it listed when it was asked last; it is not asked."""
        return self._kept.get(connection, (0.0, ListedMeters(meters=None)))[1]

    async def now(self, connection: str, ask: Ask) -> Sequence[RemoteMeter]:
        """What the system lists now. Raises RequestRefused: as `ask`, and gateway.overloaded while it is
        asked already, for a list may be long.
        """
        if connection in self._asking:
            raise RequestRefused(
                "gateway.overloaded",
                "Its meters are being listed already: try again in a moment.",
                connection=connection,
                retry_after=5.0,
            )
        self._asking.add(connection)
        try:
            return await ask(connection)
        finally:
            self._asking.discard(connection)

    async def of(self, connection: str, ask: Ask) -> ListedMeters:
        """What the system lists. It is asked at most once in KEPT_SECONDS, also where it did not answer."""
        at, found = self._kept.get(connection, (0.0, None))
        if found is not None and clock.monotonic() < at + KEPT_SECONDS:
            return found
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                meters = await self.now(connection, ask)
            found = ListedMeters(meters=tuple(meters)[:MAX_METERS])
        except TimeoutError:
            found = ListedMeters(
                meters=None, detail="The system did not answer in time: write what it calls its meters."
            )
        except RequestRefused as error:
            found = ListedMeters(meters=None, detail=str(error))
        self._kept.pop(connection, None)
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[connection] = (clock.monotonic(), found)
        return found
