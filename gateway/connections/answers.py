"""Probes of idle connections: how many in a turn, and what went well written together. With thousands of
connections nearly every probe goes well, and three statements for each would be what the gateway does all
day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import structlog

from gateway import clock
from gateway.connections.health import ConnectionHealth
from gateway.model.connection import State
from gateway.model.errors import StoreError
from gateway.model.operation import Operation
from gateway.store import probes
from gateway.store.pool import Database
from gateway.store.probes import Due
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

TOGETHER_SECONDS = 1.0
TOGETHER_SHARE = 0.02
"""Of the interval at most: what waits to be written is not yet due again."""

HASTE = 1.5
"""How much faster than by the rhythm what is overdue is caught up: within two thirds of
an interval all are.
"""

MIN_PER_SECOND = 32.0
"""However few connections there are."""

IN_USE = frozenset({State.ACTIVE, State.DEGRADED, State.BLOCKED})
TURN_SHARE = 0.02
"""Of the interval, that a turn takes at most."""

ANSWER_SECONDS = 0.1
"""After which the next probe no longer waits for an answer to the one before."""


def starts(due: Sequence[Due], seconds: float) -> list[tuple[Due, float]]:
    """Each with the seconds after which it begins at the latest: none where somebody waits for it. The probes
    of idle connections follow each other: one begins when the one before has ended, all within `seconds`.

    Probes under way together need a connection to their system each, and those of one host that follow each
    other share it: for each call the pool asks the kernel about every connection that it keeps. Pauses would
    cost more than they spare: after each the caches of the processor hold what others work on.
    """
    awaited = [(item, 0.0) for item in due if item.state not in IN_USE]
    idle = [item for item in due if item.state in IN_USE]
    gap = min(ANSWER_SECONDS, seconds / max(1, len(idle)))
    return awaited + [(item, place * gap) for place, item in enumerate(idle)]


def begin(
    group: asyncio.TaskGroup,
    looking: set[asyncio.Task[None]],
    due: Sequence[Due],
    look: Callable[[Due], Coroutine[None, None, None]],
    *,
    within_seconds: float,
) -> None:
    """Looks at these, as `starts` says. `looking` holds each look until it has ended."""
    before: asyncio.Task[None] | None = None
    for item, seconds in starts(due, within_seconds):
        begun = _after(before if seconds else None, seconds, item, look)
        before = group.create_task(begun, name=f"look at {item.connection}")
        looking.add(before)
        before.add_done_callback(looking.discard)


async def _after(
    before: asyncio.Task[None] | None,
    seconds: float,
    item: Due,
    look: Callable[[Due], Coroutine[None, None, None]],
) -> None:
    """When the look `before` has ended, or after so many seconds."""
    if before is not None:
        await asyncio.wait({before}, timeout=seconds)
    await look(item)


class Budget:
    """How many probes may begin now: as many as all connections need in an interval,
    and half as many again.
    """

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._taken_monotonic = clock.monotonic()
        self._left = 0.0
        self._granted = 0

    def take(self, count: int) -> int:
        """For `count` connections, since the last time that was asked: of a second at most."""
        now = clock.monotonic()
        passed, self._taken_monotonic = now - self._taken_monotonic, now
        per_second = max(MIN_PER_SECOND, HASTE * count / self._interval_seconds)
        self._left = min(self._left + passed * per_second, per_second)
        self._granted = int(self._left)
        self._left -= self._granted
        return self._granted

    def turn_seconds(self, found: int, *, at_least: float, is_told: bool) -> float:
        """How long the turn is in which so many were found due of those that were granted. Up to twice as
        long where nothing is left and changes are told: then more fall due for one turn, which costs less
        than two, for after each pause the caches of the processor hold what others work on.
        """
        if not is_told or found >= self._granted:
            return at_least
        return max(at_least, min(2 * at_least, TURN_SHARE * self._interval_seconds))


class Answers:
    """Good answers to probes of active connections, written together a moment later. What is lost with the
    process is asked again when the lease of the probe is over.
    """

    def __init__(self, database: Database, health: ConnectionHealth, troubles: Troubles) -> None:
        self._database = database
        self._health = health
        self._troubles = troubles
        self._well: dict[str, ServedConnection] = {}
        self._some = asyncio.Event()

    def takes(self, link: ServedConnection) -> bool:
        """Whether a good answer says nothing but that all is well still."""
        return self._health.is_plain(link) and not self._troubles.has(
            link.connection, "probe", "verification"
        )

    def add(self, link: ServedConnection) -> None:
        """Its system has answered."""
        self._well[link.connection] = link
        self._some.set()

    async def run(self) -> None:
        """Until cancelled. What cannot be written is tried again."""
        while True:
            await self._some.wait()
            await asyncio.sleep(min(TOGETHER_SECONDS, TOGETHER_SHARE * self._health.interval_seconds))
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
