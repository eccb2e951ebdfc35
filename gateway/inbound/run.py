"""Runs a phase of an inbound stream once: decides what is read next, and stores how the run ended and when
the next one is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never, cast

import structlog

from gateway import clock, metrics, tracing
from gateway.bulkhead import Fault
from gateway.inbound.failures import Failures, PullHealth
from gateway.inbound.shown import ShownToPeople
from gateway.inbound.walk import Ask, InboundWalk, WalkPlan, WalkProgress
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    Unavailable,
)
from gateway.model.inbound import InboundStream, ListsKeys, ListsOpen
from gateway.model.operation import Operation
from gateway.model.pressure import Pressure
from gateway.model.record import Interval, halved, next_interval, next_slice
from gateway.settings import RecordsSettings, SyncSettings
from gateway.store import inbound
from gateway.store.inbound import Done, InboundClaim, InboundPosition, SystemClock
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync import runs
from gateway.sync.link import ServedConnection
from gateway.sync.runs import RunEnd

log = structlog.get_logger(__name__)

SLICE = timedelta(days=1)
"""The history is read in slices of this length, the newest first. An initial sync that is killed reads at
most one slice again.
"""

MAX_HALVINGS = 10
"""How often an interval is halved at most: once for each run that failed."""

FAR_BACK = timedelta(days=1)
"""A system's clock that went back further must have come nearer to ours. Else nothing is read: everything
from there on would be read again.
"""


class InboundRunner:
    """Runs claimed phases. It holds no state between runs: everything is in PostgreSQL."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        records: RecordsSettings,
        health: PullHealth,
        troubles: Troubles,
        *,
        public_url: str,
        pressure: Pressure | None = None,
        stopping: asyncio.Event | None = None,
    ) -> None:
        """`pressure`: of the ingest of this process, where it has one. `stopping` is set when it stops."""
        self._database = database
        self._settings = settings
        self._records = records
        self._health = health
        self._shown = ShownToPeople(database, troubles, public_url=public_url, most=records.per_connection)
        self._failures = Failures(settings, health, self._shown)
        self._pressure = pressure
        self._stopping = stopping

    async def run(self, claim: InboundClaim, link: ServedConnection) -> None:
        """Reads what is next, stores how the run ended, and reports it to the connection's health. Raises
        LeaseLost and StoreError.
        """
        with tracing.run("inbound.run", link, stream=claim.stream, phase=claim.phase):
            await self._run(claim, link)

    async def _run(self, claim: InboundClaim, link: ServedConnection) -> None:
        stream = next((each for each in link.inbound if each.name == claim.stream), None)
        if stream is None:  # the link is older than the stream, or newer: it is built again in a moment
            await self._finish(
                claim, link, RunEnd(state="idle", next_in_seconds=1.0, attempts=claim.attempts)
            )
            return
        wait = await self._health.admit(link, Operation.PULL)
        if wait is not None:
            end = RunEnd(state="idle", next_in_seconds=wait, attempts=claim.attempts, put_off=claim.put_off)
            await self._finish(claim, link, end)
            return
        read = WalkProgress()
        try:
            end = await self._work(claim, link, stream, read)
        except ConnectorError as error:
            end = await self._failures.end(claim, link, error, moved=read.pages > 0)
        else:
            await self._health.succeeded(link, Operation.PULL)
            await self._shown.well(claim)
        tracing.add(outcome=end.state)
        await self._shown.to_decide(claim, read)
        await self._finish(claim, link, end)
        self._count(claim, link, read)

    async def crashed(self, claim: InboundClaim, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own like one that failed."""
        await self._shown.fault(claim, fault)
        attempts = claim.attempts + 1
        wait = runs.seconds_after_fault(self._settings, attempts)
        end = RunEnd(state="failed", next_in_seconds=wait, attempts=attempts, error=fault.text)
        await self._finish(claim, link, end)

    async def _work(
        self, claim: InboundClaim, link: ServedConnection, stream: InboundStream, read: WalkProgress
    ) -> RunEnd:
        position = await inbound.read(self._database, claim)
        # Walks of the history rest as long as they work: half of the connection's rate is left to what is
        # new.
        rest = 0.0 if claim.phase == "incremental" else 1.0
        walk = InboundWalk(
            self._database,
            claim,
            link,
            self._health,
            read,
            timeout_seconds=self._settings.push_timeout.total_seconds(),
            max_records=self._records.per_connection,
            rest=rest,
            pressure=self._pressure,
            stopping=self._stopping,
        )
        match claim.phase:
            case "incremental":
                return await self._incremental(claim, link, stream, walk, position)
            case "initial":
                return await self._initial(claim, stream, walk, position)
            case "reconcile":
                return await self._reconcile(link, stream, walk, position)
            case _:
                assert_never(claim.phase)

    async def _incremental(
        self,
        claim: InboundClaim,
        link: ServedConnection,
        stream: InboundStream,
        walk: InboundWalk,
        position: InboundPosition,
    ) -> RunEnd:
        """Reads the interval after the last one, or the rest of the one whose walk was interrupted."""
        idle = RunEnd(state="idle", next_in_seconds=link.pull_interval.total_seconds(), succeeded=True)
        resume = position.walk_cursor is not None and position.walk_high is not None
        interval: Interval | None
        read_to: datetime | None = None
        committed: datetime | None = None
        if resume:
            assert position.walk_high is not None
            asked_at = position.walk_asked_at
            if position.walk_low is not None:
                read_to = position.walk_low + stream.lookback
            interval = Interval(low=position.walk_low, high=position.walk_high)
        else:
            began = clock.monotonic()
            asked_at, now = position.at, await walk.remote_now()
            at = asked_at + timedelta(seconds=clock.monotonic() - began)
            if position.origin is None:
                position = await inbound.set_origin(self._database, claim, now, asked_at)
            if stream.cursor == "listing":
                interval = Interval(low=None, high=now)
            else:
                committed, was_set_back = await self._read_until(claim, stream, position, now, at)
                read_to = committed if was_set_back else None
                interval = next_interval(committed, now, settle=stream.settle, lookback=stream.lookback)
        if interval is None:
            return idle
        settle = timedelta(0) if stream.cursor == "listing" else stream.settle
        sees_all = stream.cursor == "listing" and stream.deletions == "listing"
        wanted = interval
        # A system that could not answer, or not in one answer, is asked for half of it after each failed run.
        for _ in range(0 if resume else min(claim.attempts, MAX_HALVINGS)):
            interval = halved(interval, committed)
        plan = WalkPlan(
            interval=interval,
            ask=walk.ask_records,
            done="high",
            sees_all=sees_all,
            divisible=stream.cursor != "listing",
            clock=_system_clock(asked_at, wanted.high + settle, read_to),
        )
        ended = await walk.go(plan, position, resume=resume)
        if ended and walk.read.reached == wanted.high:
            return idle
        return replace(idle, state="lagging", next_in_seconds=0.0)

    async def _read_until(
        self,
        claim: InboundClaim,
        stream: InboundStream,
        position: InboundPosition,
        now: datetime,
        at: datetime,
    ) -> tuple[datetime, bool]:
        """Up to when everything has been read, by the system's clock, and whether that clock was set back
        since the last run. `now`: what the system's clock shows; `at`: the same instant by our clock.

        A clock that was set back is found by ours. Changes after that show times that had been read before,
        so reading goes back with the clock. Raises Unavailable where it went back by days, and away from our
        clock.
        """
        assert position.origin is not None
        # What was written shortly before the origin may become visible only now, and history does not read it
        # again.
        committed = position.high or position.origin - stream.settle
        if position.asked_at is None:
            return committed, False
        read_to = now - (at - position.asked_at) - stream.settle
        if committed - read_to <= inbound.CLOCK_OFF:
            if now - stream.settle > committed:
                committed = min(committed, read_to)
            return committed, False
        was_off = abs(committed + stream.settle - position.asked_at)
        if committed - now > FAR_BACK and abs(now - at) > was_off:
            raise Unavailable(
                f"the system's clock shows {now:%Y-%m-%d %H:%M} UTC, and showed {committed:%Y-%m-%d %H:%M}"
                " before: nothing is read until it is right"
            )
        if position.origin > now:
            log.warning(
                "inbound.history_begun_again",
                connection=claim.connection,
                stream=claim.stream,
                detail=f"the system's clock showed {position.origin}, and shows {now}",
            )
            await inbound.set_back(self._database, claim, now)
        return read_to, True

    async def _initial(
        self, claim: InboundClaim, stream: InboundStream, walk: InboundWalk, position: InboundPosition
    ) -> RunEnd:
        """Reads first what is still open, then the history from its end to its beginning: people look at
        today first.
        """
        if position.origin is None:
            now = await walk.remote_now()
            position = await inbound.set_origin(self._database, claim, now, position.at)
        # After each failed run half as long a slice: a cursor of the system may not live through a day of
        # records.
        length = SLICE / 2 ** min(claim.attempts, MAX_HALVINGS)
        while not walk.is_over:
            assert position.origin is not None
            resume = position.walk_cursor is not None and position.walk_high is not None
            if stream.lists_open and isinstance(walk.connector, ListsOpen) and not position.open_done:
                part: Interval | None = Interval(low=None, high=position.origin)
                ask: Ask = walk.ask_open
                done: Done = "open"
            else:
                until = position.high or position.origin
                part = next_slice(position.origin, until, days=position.initial_days, slice_length=length)
                ask, done = walk.ask_records, "high"
            if part is None:
                log.info("inbound.initial_completed", connection=claim.connection, stream=claim.stream)
                return RunEnd(state="done", next_in_seconds=0.0, succeeded=True)
            if resume:
                part = Interval(low=position.walk_low, high=cast("datetime", position.walk_high))
            plan = WalkPlan(interval=part, ask=ask, done=done, has_last_word=False)
            if not await walk.go(plan, position, resume=resume):
                break
            position = await inbound.read(self._database, claim)
        return RunEnd(state="running", next_in_seconds=0.0, succeeded=True)

    async def _reconcile(
        self, link: ServedConnection, stream: InboundStream, walk: InboundWalk, position: InboundPosition
    ) -> RunEnd:
        """Walks all keys that there are, alone or with their records: what is missing may be deleted."""
        by_keys = stream.deletions == "keys"
        if by_keys and not isinstance(walk.connector, ListsKeys):
            raise BadConfiguration(
                f"stream {stream.name}: the connector does not list keys, by which deletions are seen"
            )
        resume = position.walk_cursor is not None and position.walk_high is not None
        now = position.walk_high if resume else await walk.remote_now()
        assert now is not None
        plan = WalkPlan(
            interval=Interval(low=None, high=now),
            ask=walk.ask_keys if by_keys else walk.ask_records,
            done="walk",
            sees_all=True,
            has_last_word=False,
        )
        if not await walk.go(plan, position, resume=resume):
            return RunEnd(state="running", next_in_seconds=0.0, succeeded=True)
        # Where this walk has missed records the next one decides whether they are deleted: it comes soon.
        again = link.pull_interval if walk.read.last.missing else link.reconcile
        return RunEnd(state="idle", next_in_seconds=again.total_seconds(), succeeded=True)

    async def _finish(self, claim: InboundClaim, link: ServedConnection, end: RunEnd) -> None:
        await inbound.finish(
            self._database,
            claim,
            state=end.state,
            next_in_seconds=end.next_in_seconds,
            attempts=end.attempts,
            error=end.error,
            succeeded=end.succeeded,
            put_off=end.put_off,
            is_asked_for=end.is_asked_for,
            event=runs.event_of(claim, end, {"stream": claim.stream, "phase": claim.phase}),
        )
        outcome = "completed" if end.error is None else "failed"
        metrics.SYNC_RUNS.labels(link.system, claim.phase, outcome).inc()

    def _count(self, claim: InboundClaim, link: ServedConnection, read: WalkProgress) -> None:
        for change in ("created", "modified", "deleted"):
            metrics.RECORDS.labels(link.system, change).inc(getattr(read, change))
        if read.created or read.modified or read.deleted:
            log.info(
                "inbound.run_ended",
                connection=claim.connection,
                stream=claim.stream,
                phase=claim.phase,
                pages=read.pages,
                created=read.created,
                modified=read.modified,
                deleted=read.deleted,
            )


def _system_clock(asked_at: datetime | None, shown: datetime, read_to: datetime | None) -> SystemClock | None:
    """What is known of the system's clock, which showed `shown` when it was asked; None where it is not known
    when.
    """
    if asked_at is None:
        return None
    return SystemClock(asked_at=asked_at, ahead=shown - asked_at, read_to=read_to)
