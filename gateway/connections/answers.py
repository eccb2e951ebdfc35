"""Probes of idle connections: limits how many begin in a turn, and writes together those that went well. With
thousands of connections nearly every probe goes well, and three statements for each would keep the gateway
busy all day.
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
"""Good answers wait so long to be written together, and at most this part of the probe interval: so no
connection falls due again while its answer waits.
"""

HASTE = 1.5
"""So many times as many probes may begin as the interval needs: what is overdue is caught up within two
thirds of an interval.
"""

MIN_PER_SECOND = 32.0
"""At least so many probes may begin in a second, however few connections there are."""

IN_USE = frozenset({State.ACTIVE, State.DEGRADED, State.BLOCKED})
TURN_SHARE = 0.02
"""A turn takes at most this part of the interval."""

ANSWER_SECONDS = 0.1
"""The next probe begins at the latest after so long, even if the one before has no answer yet."""


def starts(due: Sequence[Due], seconds: float) -> list[tuple[Due, float]]:
    """Each look with the seconds after which it begins at the latest. It begins at once where somebody waits
    for it. The probes of idle connections follow each other: each begins when the one before has ended, all
    within `seconds`.

    One after the other, probes of one host share a connection to it. At the same time each would need its
    own, and for each call the pool asks the kernel about every connection that it keeps. Pauses between
    probes would cost more than they spare: after each the caches of the processor hold the data of other
    work.
    """
    awaited = [(item, 0.0) for item in due if item.state not in IN_USE]
    idle = [item for item in due if item.state in IN_USE]
    gap = min(ANSWER_SECONDS, seconds / max(1, len(idle)))
    return awaited + [(item, place * gap) for place, item in enumerate(idle)]


def begin_looks(
    group: asyncio.TaskGroup,
    looking: set[asyncio.Task[None]],
    due: Sequence[Due],
    look: Callable[[Due], Coroutine[None, None, None]],
    *,
    within_seconds: float,
) -> None:
    """Begins these looks as `starts` says. `looking` holds the task of each until it has ended."""
    before: asyncio.Task[None] | None = None
    for item, seconds in starts(due, within_seconds):
        waits_for = before if seconds else None
        task = group.create_task(
            _look_after(waits_for, seconds, item, look), name=f"look at {item.connection}"
        )
        looking.add(task)
        task.add_done_callback(looking.discard)
        before = task


async def _look_after(
    before: asyncio.Task[None] | None,
    seconds: float,
    item: Due,
    look: Callable[[Due], Coroutine[None, None, None]],
) -> None:
    """Looks when the look `before` has ended, or after `seconds`."""
    if before is not None:
        await asyncio.wait({before}, timeout=seconds)
    await look(item)


class Budget:
    """Limits how many probes begin: to half as many again as all connections need in an interval."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._taken_monotonic = clock.monotonic()
        self._left = 0.0
        self._granted = 0

    def take(self, count: int) -> int:
        """How many probes of `count` connections may begin now: those of the time since this was asked last,
        and of a second at most.
        """
        now = clock.monotonic()
        passed = now - self._taken_monotonic
        self._taken_monotonic = now
        per_second = max(MIN_PER_SECOND, HASTE * count / self._interval_seconds)
        self._left = min(self._left + passed * per_second, per_second)
        self._granted = int(self._left)
        self._left -= self._granted
        return self._granted

    def turn_seconds(self, found: int, *, at_least: float, is_told: bool) -> float:
        """How long a turn takes that `found` so many due. Up to twice as long as `at_least` where all that
        are due were granted, and changes are told (`is_told`): then more fall due in one turn. One turn costs
        less than two, for after each pause the caches of the processor hold the data of other work.
        """
        if not is_told or found >= self._granted:
            return at_least
        return max(at_least, min(2 * at_least, TURN_SHARE * self._interval_seconds))


class Answers:
    """Keeps good answers to probes of active connections and writes them together a moment later. A
    connection whose answer is lost with the process is probed again when the lease of its probe is over.
    """

    def __init__(self, database: Database, health: ConnectionHealth, troubles: Troubles) -> None:
        self._database = database
        self._health = health
        self._troubles = troubles
        self._well: dict[str, ServedConnection] = {}
        self._some = asyncio.Event()

    def says_only_well(self, link: ServedConnection) -> bool:
        """Whether a good answer changes nothing: all was well before."""
        return self._health.is_plain(link) and not self._troubles.has(
            link.connection, "probe", "verification"
        )

    def add(self, link: ServedConnection) -> None:
        """Keeps the good answer of this connection's system."""
        self._well[link.connection] = link
        self._some.set()

    async def run(self) -> None:
        """Writes answers until cancelled. Where that fails it is tried again."""
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
        """Writes the answers that are kept. Raises StoreError, and keeps them then."""
        links = dict(self._well)
        seconds = {name: self._health.idle_seconds() for name in sorted(links)}
        await self._health.all_succeeded(list(links.values()))
        still = await probes.well(self._database, seconds)
        for name, link in links.items():
            if self._well.get(name) is link:
                del self._well[name]
        for name in (
            links.keys() - still
        ):  # it is no longer active: its new state decides what the answer means
            await self._health.succeeded(links[name], Operation.PROBE)
