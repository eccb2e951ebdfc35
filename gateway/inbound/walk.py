"""One walk through a stream, page by page: what is asked of the system, and stored before the next page is.

A page is stored in one transaction with the cursor of the next one, so a walk that was interrupted goes on
where it was, or begins again; either changes nothing that was stored already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar

import structlog

from gateway import clock, metrics, tracing
from gateway.model.errors import (
    AuthRefused,
    ConnectorError,
    CursorExpired,
    PermissionDenied,
    Unavailable,
)
from gateway.model.inbound import InboundPage, InboundRecord, KeyPage, ListsKeys, ListsOpen, ReadsRecords
from gateway.model.pressure import Pressure
from gateway.model.record import Cycle, Interval, Kept, halved, keep, latest
from gateway.store import inbound, inbound_pages
from gateway.store.calls import may_call
from gateway.store.inbound import Done, InboundClaim, InboundPosition, SystemClock
from gateway.store.inbound_pages import Applied, WalkStep
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

T = TypeVar("T")

Ask = Callable[[Interval, str | None], Awaitable[InboundPage | KeyPage]]

RUN_SECONDS = 30.0
"""A run ends after the first page beyond this, and goes on with the next run: others want their turn."""

TURN_SECONDS = 0.0005
"""What is worked at once on the records of a page."""

FEW = 12
"""Records in one statement while messages come in: a millisecond or two of the server's."""

HISTORY_RESTS = 80.0
"""How long history rests while messages come in, as a multiple of the time that a page took to store: so a
page holds up one acknowledgement in eighty.
"""

MAX_WORKED_SECONDS = 0.2
"""The most of it that counts for the rest: what is measured by the clock may have waited for others."""

LONG_SECONDS = 1.0
"""After a longer rest a walk asks whether its connection may still call its system."""

MAX_PAGES = 100_000
"""Of one walk. A system that never ends one gives the same page for ever, or has more than we keep."""

MAX_RESTARTS = 3
"""In one run: a walk whose cursor expires begins again, over half of the time."""


class Prober(Protocol):
    """Asks the system for the cheapest of answers: `gateway.connections.health`."""

    async def probe(self, link: ServedConnection) -> ConnectorError | None:
        """None when all is well."""
        ...


@dataclass(slots=True, kw_only=True)
class WalkProgress:
    """What a run has done so far."""

    pages: int = 0
    created: int = 0
    modified: int = 0
    deleted: int = 0
    refused: int = 0
    completed_all: bool = False
    """Whether a walk of everything came to its end."""
    reached: datetime | None = None
    """Where the interval ends that was read last; of one whose cursor expired a part was asked for."""
    last: Applied = field(default_factory=Applied)

    def add(self, applied: Applied) -> None:
        """One more page was stored."""
        self.pages += 1
        self.created += applied.created
        self.modified += applied.modified
        self.deleted += applied.deleted
        self.refused += applied.refused
        self.last = applied


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlan:
    """What a walk goes through. `sees_all`: it meets everything the stream holds, so what it does not meet is
    gone. `has_last_word`: nothing else reads what it reads, so what comes last is right where times do not
    tell. `clock`: that `interval` ends by, where it is the system's.
    """

    interval: Interval
    ask: Ask
    done: Done
    sees_all: bool = False
    has_last_word: bool = True
    divisible: bool = False
    clock: SystemClock | None = None


class InboundWalk:
    """The walks of one run of one phase. `rest`: how long to pause after a request, as a multiple of the time
    that it took; with any, it also yields to ingest after each page, by `pressure`. `stopping`: set when the
    engine stops; a walk ends after the page in hand then, and does not rest.
    """

    def __init__(
        self,
        database: Database,
        claim: InboundClaim,
        link: ServedConnection,
        prober: Prober,
        read: WalkProgress,
        *,
        timeout_seconds: float,
        max_records: int,
        rest: float = 0.0,
        pressure: Pressure | None = None,
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._database = database
        self._claim = claim
        self._link = link
        self._prober = prober
        self.read = read
        self._timeout_seconds = timeout_seconds
        self._max_records = max_records
        self._rest = rest
        self._pressure = pressure or Pressure()
        self._stopping = stopping or asyncio.Event()
        self._until = clock.monotonic() + RUN_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether the run has had its time, the engine stops, or the connection may not call its system any
        more, as one that somebody paused.
        """
        return clock.monotonic() >= self._until or self._stopping.is_set() or not self.read.last.may_call

    @property
    def connector(self) -> ReadsRecords:
        """Of a link whose streams are read."""
        connector = self._link.connector
        assert isinstance(connector, ReadsRecords)
        return connector

    async def remote_now(self) -> datetime:
        """The system's clock, before the first request of an interval."""
        return await self.asked(lambda: self.connector.remote_now(self._claim.stream))

    async def go(self, plan: WalkPlan, position: InboundPosition, *, resume: bool) -> bool:
        """Through all pages, from where the walk was if `resume`; False where the run was over before.

        Raises ConnectorError (what was stored before it stays), LeaseLost, StoreError.
        """
        cursor = position.walk_cursor if resume else None
        pages = position.walk_pages if cursor is not None else 0
        walk_position = position.walk_position if cursor is not None else position.position
        known, restarts, cycle = position.position, 0, Cycle()
        if cursor is not None:
            cycle.closes(cursor)  # what leads back to where this run begins is a circle, too
        if plan.sees_all and cursor is None:
            await inbound.begin_walk(self._database, self._claim, walk_position)
        while True:
            began = clock.monotonic()
            try:
                page = await self._page(plan, cursor)
            except CursorExpired:
                restarts += 1
                if restarts > MAX_RESTARTS:
                    await inbound.abandon(self._database, self._claim)
                    raise
                plan = replace(plan, interval=halved(plan.interval)) if plan.divisible else plan
                cursor, pages, cycle = None, 0, Cycle()
                if plan.sees_all:  # what changed since is not in question, and what it met is forgotten
                    walk_position = known
                    await inbound.begin_walk(self._database, self._claim, walk_position)
                continue
            took = clock.monotonic() - began
            step = await self._step(plan, page, begins=cursor is None)
            step = replace(
                step,
                asked=None if plan.has_last_word else known,
                walk_position=walk_position,
            )
            known = max(known, await self._stored(step, took))
            if page.cursor is None:
                self.read.reached = plan.interval.high
                self.read.completed_all |= plan.sees_all
                return True
            pages += 1
            if pages >= MAX_PAGES or cycle.closes(page.cursor):
                await inbound.abandon(self._database, self._claim)
                raise Unavailable(
                    f"the system's pages of {self._claim.stream} do not end: page {pages} leads to one that"
                    " was read before"
                )
            cursor = page.cursor
            if self.is_over:
                return False

    async def _stored(self, step: WalkStep, took: float) -> int:
        """As `_store`, with the rest after it, behind the last page too: a day of history is often one.
        `took`: the seconds until the system's answer was there.
        """
        if not self._rest:
            return await self._store(step)
        with self._pressure.company():
            began = clock.monotonic()
            position = await self._store(step)
            now = clock.monotonic()
            rest = self._pressure.rest(min(now - began, MAX_WORKED_SECONDS), now=now, times=HISTORY_RESTS)
            await self._pause(max(self._rest * took, rest))
        return position

    async def _pause(self, seconds: float) -> None:
        """Looks afterwards whether the connection was paused meanwhile: its system is not called then."""
        await until_set(self._stopping, seconds)
        if seconds > LONG_SECONDS and not await may_call(self._database, self._link):
            self.read.last = replace(self.read.last, may_call=False)

    async def _store(self, step: WalkStep) -> int:
        """Where the record log stands with it."""
        with tracing.span("inbound.store", records=len(step.records)):
            applied = await inbound_pages.apply(
                self._database,
                self._claim,
                step,
                max_records=self._max_records,
                configuration=self._link.configuration,
                at_once=self._at_once(),
            )
        self.read.add(applied)
        return applied.position

    def _at_once(self) -> int:
        """How many records one statement stores. A core that works on them does nothing for a commit of
        telemetry meanwhile, so while messages come in, what is new is stored in small parts. History is
        stored at once, and rests for long afterwards.
        """
        if self._rest or not self._pressure.is_active(now=clock.monotonic()):
            return inbound_pages.AT_ONCE
        return FEW

    async def ask_records(self, interval: Interval, cursor: str | None) -> InboundPage:
        """What changed in the interval."""
        return await self.connector.pull(self._claim.stream, interval.low, interval.high, cursor)

    async def ask_open(self, _: Interval, cursor: str | None) -> InboundPage:
        """What is still open, of a connector that lists it."""
        connector = self._link.connector
        assert isinstance(connector, ListsOpen)
        return await connector.pull_open(self._claim.stream, cursor)

    async def ask_keys(self, _: Interval, cursor: str | None) -> KeyPage:
        """What there is, of a connector that lists keys."""
        connector = self._link.connector
        assert isinstance(connector, ListsKeys)
        return await connector.keys(self._claim.stream, cursor)

    async def _page(self, plan: WalkPlan, cursor: str | None) -> InboundPage | KeyPage:
        return await self.asked(lambda: plan.ask(plan.interval, cursor))

    async def asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer. A refused credential is tried once more after a probe, which renews a token: the walk
        goes on with the same page. Raises ConnectorError.
        """
        try:
            return await self._timed(call)
        except AuthRefused as error:
            if error.final or error.doubtful or await self._prober.probe(self._link) is not None:
                raise
        try:
            return await self._timed(call)
        except AuthRefused as error:
            said = f"{error}; a probe with the same credential was let in"
            raise PermissionDenied(said, request_id=error.request_id) from error

    async def _timed(self, call: Callable[[], Awaitable[T]]) -> T:
        began = clock.monotonic()
        try:
            with tracing.span("inbound.page"):
                async with asyncio.timeout(self._timeout_seconds):
                    return await call()
        except TimeoutError as error:
            raise Unavailable(f"no answer within {self._timeout_seconds:g} s") from error
        finally:
            metrics.PULL_SECONDS.labels(self._link.system).observe(clock.monotonic() - began)

    async def _step(self, plan: WalkPlan, page: InboundPage | KeyPage, *, begins: bool) -> WalkStep:
        base = WalkStep(
            records=(), low=plan.interval.low, high=plan.interval.high, cursor=page.cursor, begins=begins,
            done=plan.done, sees_all=plan.sees_all, clock=plan.clock,
        )  # fmt: skip
        match page:
            case KeyPage():
                return replace(base, keys=page.keys)
            case InboundPage():
                return replace(base, records=await self._kept(page.records), total=page.total)

    async def _kept(self, records: Sequence[InboundRecord]) -> list[Kept]:
        """One of each key. A record without a key that can name it is said, and left out: it is told from no
        other.
        """
        kept: list[Kept] = []
        turn = clock.monotonic()
        for record in records:
            # thousands of records are written and hashed here: between them, everybody else has their turn
            if clock.monotonic() - turn > TURN_SECONDS:
                await asyncio.sleep(0)
                turn = clock.monotonic()
            try:
                kept.append(keep(record))
            except ValueError as error:
                log.warning(
                    "inbound.record_unnamed",
                    connection=self._claim.connection,
                    stream=self._claim.stream,
                    detail=str(error),
                )
        return latest(kept)


async def until_set(event: asyncio.Event, seconds: float) -> None:
    """Waits for it, and no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
