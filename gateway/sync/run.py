"""Runs a stream once, and stores how that ended: when the stream runs again, and what it says of the
connection's health.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import structlog

from gateway import clock, metrics, tracing
from gateway.bulkhead import Fault
from gateway.model.backoff import waiting
from gateway.model.errors import ConnectorError, RateLimited, StoreError, Unavailable
from gateway.model.operation import Operation
from gateway.settings import SyncSettings
from gateway.store import deliveries, streams
from gateway.store.pool import Database
from gateway.store.streams import Claim, RunTally
from gateway.store.troubles import Troubles
from gateway.sync import initial, meters, runs
from gateway.sync.deliver import Delivery
from gateway.sync.due_batches import NARROW_AFTER
from gateway.sync.link import CallsEnded, MetersChanged, ServedConnection
from gateway.sync.runs import RunEnd, RunHealth
from gateway.sync.scan import scan_slice
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

RUN_SECONDS = 20.0
"""A run with more to do ends after this time and is due again at once, so that its progress is seen and
others have their turn.
"""

METERS_SECONDS = 1.0
"""From a run whose rules were not in force to the next: meanwhile the link is built again with the right
ones. The same after a run whose connection may not call its system any more: it is not claimed until it may.
"""

MANY_METERS = 2
"""Where so many meters have to wait and no reading passes it is an outage. With fewer it is one locked
record.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run: what was claimed, the connection as it is served, its deliveries, and the count of what it
    did.
    """

    claim: Claim
    link: ServedConnection
    delivery: Delivery
    tally: RunTally


class Runner:
    """Runs claimed streams. How far a stream is, and what comes next, is in PostgreSQL only."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        health: RunHealth,
        troubles: Troubles,
        turns: Turns,
    ) -> None:
        self._database = database
        self._troubles = troubles
        self._settings = settings
        self._health = health
        self._turns = turns
        self._live: set[str] = set()
        """Connections whose live readings are being delivered."""
        self._searching: set[str] = set()
        """Connections whose small batches pass in part: one of their readings may be at fault."""
        self._days: set[date] = set()
        """Days that are known to have a partition for deliveries."""
        self._served: Mapping[str, Sequence[ServedConnection]] = {}
        """The connections that are served, by customer."""

    def serve(self, links: Iterable[ServedConnection]) -> None:
        """From now on these connections are served: one run scans for all of its customer's."""
        served: dict[str, list[ServedConnection]] = {}
        for link in links:
            served.setdefault(link.customer, []).append(link)
        self._served = served
        self._searching &= {link.connection for own in served.values() for link in own}

    async def run(self, claim: Claim, link: ServedConnection) -> None:
        """Works the stream, stores how the run ended, and reports it to the connection's health. Raises
        LeaseLost and StoreError.
        """
        with tracing.run("sync.run", link, phase=claim.phase):
            await self._run(claim, link)

    async def _run(self, claim: Claim, link: ServedConnection) -> None:
        started_at = clock.now()
        tally = RunTally()
        wait = await self._health.admit(link)
        if wait is not None:
            end = RunEnd(state="idle", next_in_seconds=wait, attempts=claim.attempts)
            await self._finish(claim, link, end, tally, started_at)
            return
        run = _Run(claim=claim, link=link, delivery=self._delivery(claim, link, tally), tally=tally)
        try:
            end = await self._end_of(run)
        finally:
            await run.delivery.close()
        tracing.add(outcome=end.state)
        await self._finish(claim, link, end, tally, started_at)

    def _delivery(self, claim: Claim, link: ServedConnection, tally: RunTally) -> Delivery:
        return Delivery(
            self._database,
            claim,
            link,
            tally,
            push_timeout=self._settings.push_timeout,
            max_attempts=self._settings.max_attempts,
            unknown_wait=self._settings.unknown_wait,
            lease=self._settings.lease,
            days=self._days,
            turns=self._turns,
            is_searching=claim.connection in self._searching,
        )

    async def _end_of(self, run: _Run) -> RunEnd:
        """Works the stream and reports to the connection's health. Returns how the run ended."""
        claim = run.claim
        try:
            end = await self._work(run)
        except ConnectorError as error:
            return await self._failed(run, error)
        except StoreError:
            self._days.clear()  # the partitions may be gone: a dump may have been restored
            raise
        except (MetersChanged, CallsEnded):
            await run.delivery.withdraw()
            await self._health.unused(run.link)
            return RunEnd(state="running", next_in_seconds=METERS_SECONDS, attempts=claim.attempts)
        await run.delivery.withdraw()
        self._searching.discard(claim.connection)
        if (
            claim.attempts
            and not run.delivery.answered
            and await deliveries.is_in_doubt(self._database, claim)
        ):
            # Nothing was due but what is in doubt and must wait: that ends no series of failures.
            end = replace(end, attempts=claim.attempts, succeeded=False, waits=True)
        await self._report_health(run)
        await self._troubles.over(run.link.connection, "run")
        return end

    async def crashed(self, claim: Claim, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own like one that failed, so that it is seen and does
        not spin.
        """
        await self._troubles.note(link.connection, "run", fault.text)
        attempts = claim.attempts + 1
        wait = runs.seconds_after_fault(self._settings, attempts)
        end = RunEnd(state="failed", next_in_seconds=wait, attempts=attempts, error=fault.text)
        await self._finish(claim, link, end, RunTally(), clock.now())

    async def _work(self, run: _Run) -> RunEnd:
        if run.claim.trial:
            return await self._trial(run)
        if run.claim.phase == "initial":
            return await self._initial(run)
        self._live.add(run.claim.connection)
        try:
            return await self._incremental(run)
        finally:
            self._live.discard(run.claim.connection)

    async def _report_health(self, run: _Run) -> None:
        """Reports what a run that ended well says of the connection's pushes."""
        delivery = run.delivery
        if delivery.answered and (run.tally.passed or run.claim.trial or not delivery.waiting):
            await self._health.succeeded(run.link)
        elif len(delivery.waiting) >= MANY_METERS:
            # The stream is not slowed down. The connection is degraded when this has lasted for a minute.
            words = next(iter(delivery.waiting.values()))
            error = Unavailable(f"the system has every reading wait: {words}")
            await self._health.failed(run.link, error, attempts=1)
        elif delivery.called and not delivery.answered:  # it was only asked what it holds
            await self._health.succeeded(run.link, Operation.PROBE)
        else:
            await self._health.unused(run.link)

    async def _trial(self, run: _Run) -> RunEnd:
        """Of a blocked connection: pushes one reading, whose answer decides."""
        delivery = run.delivery
        await delivery.resolve()
        while not delivery.answered and await delivery.deliver_once():
            pass  # what was due needed no push: the next windows are looked at
        if delivery.answered:
            return RunEnd(state="lagging", next_in_seconds=0.0)
        wait = run.link.interval.total_seconds()
        return RunEnd(state="idle", next_in_seconds=wait, attempts=run.claim.attempts)

    async def _incremental(self, run: _Run) -> RunEnd:
        delivery = run.delivery
        await delivery.resolve()
        await meters.make(self._database, run.claim, run.link, settings=self._settings)
        # Where a meter's readings must ascend, live ones wait until the history is delivered.
        must_ascend = run.link.connector.capabilities.order == "per_meter_ascending"
        held_back = must_ascend and await streams.is_initial_pending(self._database, run.claim)
        # The log is scanned to its end once: what comes after waits for the next run, so that readings go out
        # in batches. The first slice is scanned before anything is delivered: nearly always it is all there
        # is, and then one look finds everything.
        started = clock.monotonic()
        try:
            scanned = await self._scan(run)
        except MetersChanged:
            if not held_back:  # what is due is computed by the rules in force, whatever rules this run has
                await delivery.deliver_once()
            raise
        while clock.monotonic() < started + RUN_SECONDS:
            scanning = None if scanned else asyncio.create_task(self._scan(run))
            try:
                delivered = not held_back and await delivery.deliver_once()
            finally:
                if scanning is not None:
                    scanned = await scanning
            if scanning is None and (not delivered or delivery.is_done):
                wait = max(0.0, run.link.interval.total_seconds() - (clock.monotonic() - started))
                return RunEnd(state="idle", next_in_seconds=wait, succeeded=True)
        return RunEnd(state="lagging", next_in_seconds=0.0, succeeded=True)

    async def _scan(self, run: _Run) -> bool:
        served = self._served.get(run.link.customer, ())
        async with self._turns.turn(run.claim.customer):
            with tracing.span("sync.scan"):
                return await scan_slice(self._database, run.claim, run.link, run.tally, served)

    async def _initial(self, run: _Run) -> RunEnd:
        claim = run.claim
        await run.delivery.resolve()
        walk = await initial.plan_walk(self._database, claim)
        until = clock.monotonic() + RUN_SECONDS
        walked = False
        while clock.monotonic() < until:
            started = clock.monotonic()
            delivered = await run.delivery.deliver_once()
            if not delivered and walked:
                await initial.finish(self._database, claim)
                log.info("sync.initial_completed", connection=claim.connection)
                return RunEnd(state="done", next_in_seconds=0.0, succeeded=True)
            if not delivered:
                async with self._turns.turn(claim.customer):
                    walked = await initial.mark_more(self._database, claim, run.link, run.tally, walk)
            # It takes the time that live work does not need: half of it while this connection's live readings
            # are being delivered or acknowledgements are late, else all of it.
            if claim.connection in self._live or self._turns.is_pressed:
                await asyncio.sleep(clock.monotonic() - started)
        return RunEnd(state="running", next_in_seconds=0.0, succeeded=True)

    async def _failed(self, run: _Run, error: ConnectorError) -> RunEnd:
        """Makes a wait of the error that ended a run. What it means for the connection is its health's to
        say.
        """
        claim = run.claim
        attempts = claim.attempts + 1
        passed = run.delivery.answered and run.tally.passed
        if passed and isinstance(error, Unavailable) and claim.attempts >= NARROW_AFTER:
            self._searching.add(claim.connection)
        # Readings passed and then the rate was limited: what failed before is over. It cannot wait for a run
        # that comes to its end: where more falls due than the allowed calls can carry no run does, and
        # batches would stay as small as the failures made them.
        is_over = passed and isinstance(error, RateLimited) and claim.connection not in self._searching
        if is_over:
            await self._health.succeeded(run.link)
        at_least = 0.0
        if claim.trial and isinstance(error, Unavailable):
            # Why the connection is blocked is known. A failure once an hour makes no incident.
            await self._health.unused(run.link)
        else:
            at_least = await self._health.failed(run.link, error, attempts=attempts)
        if isinstance(error, RateLimited):
            # A system that took something before means the wait that it asks for: it is not made longer.
            put_off = 1 if run.tally.moved else claim.put_off + 1
            wait = runs.seconds_when_put_off(self._settings, error, put_off)
            await self._show_wait(run.link, error, wait)
            return RunEnd(
                state="running",
                next_in_seconds=wait,
                attempts=0 if is_over else claim.attempts,
                put_off=put_off,
                succeeded=is_over,
            )
        wait = runs.seconds_to_retry(self._settings, error, attempts, at_least=at_least)
        await self._show_wait(run.link, error, wait)
        log.warning(
            "sync.run_failed",
            connection=claim.connection,
            phase=claim.phase,
            attempt=attempts,
            error=type(error).__name__,
            detail=str(error),
            request_id=error.request_id,
            retry_in_seconds=round(wait, 1),
        )
        return RunEnd(state="failed", next_in_seconds=wait, attempts=attempts, error=str(error))

    async def _show_wait(self, link: ServedConnection, error: ConnectorError, wait: float) -> None:
        """Shows what the connection waits for, where its state does not say so."""
        match error:
            case Unavailable() if error.reference is not None:
                await self._troubles.note(link.connection, "run", str(error))
            case RateLimited() | Unavailable() if error.retry_after is not None:
                until = clock.now() + timedelta(seconds=wait)
                await self._troubles.note(link.connection, "run", waiting(error.retry_after, until=until))
            case _:
                await self._troubles.over(link.connection, "run")

    async def _finish(
        self, claim: Claim, link: ServedConnection, end: RunEnd, tally: RunTally, started_at: datetime
    ) -> None:
        data = {
            "stream": claim.name,
            "phase": claim.phase,
            "delivered": tally.delivered,
            "modified": tally.modified,
        }
        await streams.finish(
            self._database,
            claim,
            state=end.state,
            next_in_seconds=end.next_in_seconds,
            attempts=end.attempts,
            error=end.error,
            succeeded=end.succeeded,
            tally=tally,
            started_at=started_at,
            put_off=end.put_off,
            waits=end.waits,
            event=runs.event_of(claim, end, data),
        )
        outcome = "completed" if end.error is None else "failed"
        metrics.SYNC_RUNS.labels(link.system, claim.phase, outcome).inc()
        if tally.moved:
            log.info(
                "sync.run_ended",
                connection=claim.connection,
                phase=claim.phase,
                outcome=outcome,
                samples=tally.samples,
                delivered=tally.delivered,
                modified=tally.modified,
                rejected=tally.rejected,
                retried=tally.retried,
            )
