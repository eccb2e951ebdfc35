"""One run of one stream, and what its end means: when it runs again, and what the
connection's state becomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from gateway.sync.runs import End, RunHealth
from gateway.sync.scan import scan_slice
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

RUN_SECONDS = 20.0
"""A run with more to do ends here and is due again at once, so that its progress is seen and others have
their turn.
"""

METERS_SECONDS = 1.0
"""After a run whose rules were not those in force, in which links are built again and meters begun; and after
one whose connection may call no more, which is not claimed until it may.
"""


MANY_METERS = 2
"""As many that all have to wait, and nothing that passes, are an outage and not one record that is locked."""


class Runner:
    """Runs claimed streams. Holds nothing of a run: everything is in PostgreSQL."""

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
        """Those whose small batches pass in part: one of their readings may be at fault."""
        self._days: set[date] = set()
        """Those that are known to have a partition for deliveries."""
        self._served: Mapping[str, Sequence[ServedConnection]] = {}

    def serve(self, links: Iterable[ServedConnection]) -> None:
        """The connections that are served: one run scans for all of its customer's."""
        served: dict[str, list[ServedConnection]] = {}
        for link in links:
            served.setdefault(link.customer, []).append(link)
        self._served = served
        self._searching &= {link.connection for own in served.values() for link in own}

    async def run(self, claim: Claim, link: ServedConnection) -> None:
        """Works the stream, stores how it ended, and tells its health. Raises LeaseLost and StoreError."""
        with tracing.run("sync.run", link, phase=claim.phase):
            await self._run(claim, link)

    async def _run(self, claim: Claim, link: ServedConnection) -> None:
        started_at, tally = clock.now(), RunTally()
        if (wait := await self._health.admit(link)) is not None:
            await self._finish(
                claim,
                link,
                End(state="idle", next_in_seconds=wait, attempts=claim.attempts),
                tally,
                started_at,
            )
            return
        delivery = Delivery(
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
        try:
            end = await self._worked(claim, link, delivery, tally)
        except ConnectorError as error:
            end = await self._failed(claim, link, error, delivery, tally)
        except StoreError:
            self._days.clear()  # it may be that what we know is gone: a dump that was restored
            raise
        except (MetersChanged, CallsEnded):
            await delivery.withdraw()
            await self._health.unused(link)
            end = End(state="running", next_in_seconds=METERS_SECONDS, attempts=claim.attempts)
        else:
            await delivery.withdraw()
            self._searching.discard(claim.connection)
            if (
                claim.attempts
                and not delivery.answered
                and await deliveries.is_in_doubt(self._database, claim)
            ):
                end = replace(end, attempts=claim.attempts, succeeded=False, waits=True)
            await self._tell(claim, link, delivery, tally)
            await self._troubles.over(link.connection, "run")
        finally:
            await delivery.close()
        tracing.add(outcome=end.state)
        await self._finish(claim, link, end, tally, started_at)

    async def crashed(self, claim: Claim, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own like one that failed, so that it is seen and does
        not spin.
        """
        await self._troubles.note(link.connection, "run", fault.text)
        attempts = claim.attempts + 1
        wait = runs.seconds_after_fault(self._settings, attempts)
        end = End(state="failed", next_in_seconds=wait, attempts=attempts, error=fault.text)
        await self._finish(claim, link, end, RunTally(), clock.now())

    async def _worked(self, claim: Claim, link: ServedConnection, delivery: Delivery, tally: RunTally) -> End:
        if claim.trial:
            return await self._trial(claim, link, delivery)
        if claim.phase == "initial":
            return await self._initial(claim, link, delivery, tally)
        self._live.add(claim.connection)
        try:
            return await self._incremental(claim, link, delivery, tally)
        finally:
            self._live.discard(claim.connection)

    async def _tell(self, claim: Claim, link: ServedConnection, delivery: Delivery, tally: RunTally) -> None:
        """What a run that ended well says of the connection's pushes."""
        if delivery.answered and (tally.passed or claim.trial or not delivery.waiting):
            await self._health.succeeded(link)
        elif len(delivery.waiting) >= MANY_METERS:
            # One locked record is no outage, and no reason to slow the stream down. Degraded after a minute
            # of it.
            words = next(iter(delivery.waiting.values()))
            error = Unavailable(f"the system has every reading wait: {words}")
            await self._health.failed(link, error, attempts=1)
        elif delivery.called and not delivery.answered:  # it was only asked what it holds
            await self._health.succeeded(link, Operation.PROBE)
        else:
            await self._health.unused(link)

    async def _trial(self, claim: Claim, link: ServedConnection, delivery: Delivery) -> End:
        """Of a blocked connection: pushes one reading, whose answer decides."""
        await delivery.resolve()
        while not delivery.answered and await delivery.deliver_once():
            pass  # what was due needed no push: the next is looked at
        if delivery.answered:
            return End(state="lagging", next_in_seconds=0.0)
        return End(state="idle", next_in_seconds=link.interval.total_seconds(), attempts=claim.attempts)

    async def _incremental(
        self, claim: Claim, link: ServedConnection, delivery: Delivery, tally: RunTally
    ) -> End:
        await delivery.resolve()
        await meters.make(self._database, claim, link, settings=self._settings)
        # Where a meter's readings must ascend, live ones wait until the history is delivered.
        ascending = link.connector.capabilities.order == "per_meter_ascending"
        held_back = ascending and await streams.is_initial_pending(self._database, claim)
        # The log is scanned to its end once: what comes after waits for the next run, so that readings go out
        # in batches. A first part before anything is looked for: where it is all, as it nearly always is, one
        # look finds everything.
        started = clock.monotonic()
        try:
            scanned = await self._scan(claim, link, tally)
        except MetersChanged:
            if not held_back:  # what is due is computed by the rules in force, whatever ours are
                await delivery.deliver_once()
            raise
        while clock.monotonic() < started + RUN_SECONDS:
            scanning = None if scanned else asyncio.create_task(self._scan(claim, link, tally))
            try:
                delivered = not held_back and await delivery.deliver_once()
            finally:
                if scanning is not None:
                    scanned = await scanning
            if scanning is None and (not delivered or delivery.is_done):
                wait = max(0.0, link.interval.total_seconds() - (clock.monotonic() - started))
                return End(state="idle", next_in_seconds=wait, succeeded=True)
        return End(state="lagging", next_in_seconds=0.0, succeeded=True)

    async def _scan(self, claim: Claim, link: ServedConnection, tally: RunTally) -> bool:
        async with self._turns.turn(claim.customer):
            with tracing.span("sync.scan"):
                return await scan_slice(
                    self._database, claim, link, tally, self._served.get(link.customer, ())
                )

    async def _initial(
        self, claim: Claim, link: ServedConnection, delivery: Delivery, tally: RunTally
    ) -> End:
        await delivery.resolve()
        walk = await initial.plan_walk(self._database, claim)
        until, walked = clock.monotonic() + RUN_SECONDS, False
        while clock.monotonic() < until:
            started = clock.monotonic()
            delivered = await delivery.deliver_once()
            if not delivered and walked:
                await initial.finish(self._database, claim)
                log.info("sync.initial_completed", connection=claim.connection)
                return End(state="done", next_in_seconds=0.0, succeeded=True)
            if not delivered:
                async with self._turns.turn(claim.customer):
                    walked = await initial.mark_more(self._database, claim, link, tally, walk)
            # What live work does not need: all of the time while there is none, half of it while this
            # connection's live readings are on their way, or acknowledgements are late.
            if claim.connection in self._live or self._turns.is_pressed:
                await asyncio.sleep(clock.monotonic() - started)
        return End(state="running", next_in_seconds=0.0, succeeded=True)

    async def _failed(
        self, claim: Claim, link: ServedConnection, error: ConnectorError, delivery: Delivery, tally: RunTally
    ) -> End:
        """A system's answer becomes a wait; what it means for the connection is its health's to say."""
        text, attempts, floor = str(error), claim.attempts + 1, 0.0
        passed = delivery.answered and tally.passed
        if passed and isinstance(error, Unavailable) and claim.attempts >= NARROW_AFTER:
            self._searching.add(claim.connection)
        # What failed before is over. Were that left to a run that comes to its end, batches would stay as
        # small as the failures made them; where more falls due than so many calls carry no run does.
        is_over = passed and isinstance(error, RateLimited) and claim.connection not in self._searching
        if is_over:
            await self._health.succeeded(link)
        if claim.trial and isinstance(error, Unavailable):
            # What the connection is blocked for is known; a failure once an hour makes no incident.
            await self._health.unused(link)
        else:
            floor = await self._health.failed(link, error, attempts=attempts)
        if isinstance(error, RateLimited):
            # who took something before means it: no longer waits
            count = 1 if tally.moved else claim.put_off + 1
            wait = runs.seconds_when_put_off(self._settings, error, count)
            await self._show(link, error, wait)
            left = 0 if is_over else claim.attempts
            return End(state="running", next_in_seconds=wait, attempts=left, put_off=count, succeeded=is_over)
        wait = runs.seconds_to_retry(self._settings, error, attempts, at_least=floor)
        await self._show(link, error, wait)
        log.warning(
            "sync.run_failed",
            connection=claim.connection,
            phase=claim.phase,
            attempt=attempts,
            error=type(error).__name__,
            detail=text,
            request_id=error.request_id,
            retry_in_seconds=round(wait, 1),
        )
        return End(state="failed", next_in_seconds=wait, attempts=attempts, error=text)

    async def _show(self, link: ServedConnection, error: ConnectorError, wait: float) -> None:
        """What the connection waits for, where its state does not say so."""
        match error:
            case Unavailable() if error.reference is not None:
                await self._troubles.note(link.connection, "run", str(error))
            case RateLimited() | Unavailable() if error.retry_after is not None:
                until = clock.now() + timedelta(seconds=wait)
                await self._troubles.note(link.connection, "run", waiting(error.retry_after, until=until))
            case _:
                await self._troubles.over(link.connection, "run")

    async def _finish(
        self, claim: Claim, link: ServedConnection, end: End, tally: RunTally, started_at: datetime
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
