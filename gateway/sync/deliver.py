"""Delivers due windows to the system. The outcome of each batch is stored before the next one is pushed.
Which windows are in a batch is decided in `gateway.sync.due_batches`.

A batch is pushed only after its intent is committed. A process that ends between the two leaves the intent.
Then the windows of the batch are in doubt: the system is asked for them, or they are sent again, whatever was
recorded for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import structlog

from gateway import clock, metrics, tracing
from gateway.model.connector import Connector
from gateway.model.delivery import DueWindow
from gateway.model.errors import (
    BatchRefused,
    ConnectorError,
    LeaseLost,
    OutcomeUnknown,
    StoreError,
    Unavailable,
)
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected
from gateway.model.reading import Batch, Reading, make_batch
from gateway.store import deliveries, withheld
from gateway.store.calls import may_call
from gateway.store.deliveries import BatchResults, Intent
from gateway.store.pool import Database
from gateway.store.streams import Claim, RunTally
from gateway.sync.due_batches import NARROW_AFTER, DueBatches, Pair
from gateway.sync.judge import delivered_from, judge
from gateway.sync.link import CallsEnded, ServedConnection
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

ALONE_FAILURES = 3
"""A reading that was sent alone and failed so often, while the system took others, becomes a dead letter."""

PUSH_WINDOW = 1 / 3
"""Part of the lease. A push begins within it after the lease was proved to be ours, or not at all."""

LATE_PUSH_SECONDS = 5.0
"""How long it may take to note that a push may have outlived its lease: we may be shutting down."""

FIND_TIMEOUTS = 4
"""How many push time-outs a question about windows in doubt may take: the answer may have several pages."""


@dataclass(frozen=True, slots=True)
class _ReadyBatch:
    """A batch whose intent is committed: it may be pushed."""

    pairs: Sequence[Pair]
    batch: Batch
    intent: Intent


class Delivery:
    """The deliveries of one run of one stream."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        link: ServedConnection,
        tally: RunTally,
        *,
        push_timeout: timedelta,
        max_attempts: int,
        unknown_wait: timedelta,
        lease: timedelta,
        days: set[date],
        turns: Turns,
        is_searching: bool = False,
    ) -> None:
        """`days`: the days that are known to have a partition for deliveries; all runs of a process share it,
        and `turns`. `is_searching`: batches stay as small as failures made them, for one of their readings
        may be at fault.
        """
        self._database = database
        self._claim = claim
        self._link = link
        self._tally = tally
        self._push_timeout = push_timeout.total_seconds()
        self._max_attempts = max_attempts
        self._unknown_wait = unknown_wait.total_seconds()
        self._lease_seconds = lease.total_seconds()
        self._turns = turns
        self._due = DueBatches(database, claim, link, days=days, turns=turns, is_searching=is_searching)
        self._ready: _ReadyBatch | None = None
        """The batch to push next, once its intent is committed."""
        self.called = False
        """Whether the system was called."""
        self.answered = False
        """Whether it answered a push."""
        self.waiting: dict[str, str] = {}
        """The meters that have to wait, with what the system said last of each."""

    @property
    def _connector(self) -> Connector:
        return self._link.connector

    async def resolve(self) -> None:
        """The first step of a run: the windows of a batch that an earlier run left without an outcome are in
        doubt.

        They are not asked for or sent until a push of that batch has arrived or can arrive no more.
        """
        if await deliveries.is_resolved(self._database, self._claim):
            return
        # A push may begin up to PUSH_WINDOW of the lease after its intent was recorded.
        wait = max(self._push_timeout + PUSH_WINDOW * self._lease_seconds, self._unknown_wait)
        if self._connector.capabilities.keeps_latest:
            wait = 0.0
        count = await deliveries.resolve(self._database, self._claim, wait_seconds=wait)
        log.info("sync.batch_in_doubt", connection=self._claim.connection, readings=count)

    async def deliver_once(self) -> bool:
        """Computes and delivers up to `Turns.windows` closed windows; False where none is due.

        Raises ConnectorError where the system could not serve a push, and CallsEnded; what was pushed before
        is stored.
        """
        if self._ready is None and not self._due and not await self._due.look():
            return False
        reached = self._due.reached
        while self._due.reached == reached:  # until the windows of another look are put into batches
            pairs = await self._next_pairs()
            if not pairs:
                break
            await self._push(pairs)
        if self._due.has_unsent:
            await self._record(BatchResults())
        await self._withhold()
        return True

    @property
    def is_done(self) -> bool:
        """Whether all that was due is delivered, as far as is known without another look; what was marked or
        closed since is left to the next run. False where a look may find something due again: after a
        failure, after a meter had to wait, and where there are deadbands.
        """
        is_usual = self._claim.attempts == 0 and not self._claim.trial and not self._due.has_deadband
        return is_usual and self._due.is_exhausted and not (self._ready or self.waiting)

    async def withdraw(self) -> None:
        """Removes the intent of a batch that this run will not send, so that it does not come into doubt."""
        if self._ready is not None:
            self._ready = None
            await self._record(BatchResults())

    async def close(self) -> None:
        """Ends what is still being computed ahead."""
        await self._due.close()

    async def _withhold(self) -> None:
        """Settles the windows within the deadband. This comes after the pushes: where the system did not take
        the reading that a window was compared with, the window stays due, and is compared with what the
        system holds.
        """
        pairs = self._due.take_withheld()
        if pairs:
            kept = await withheld.settle(self._database, self._claim, pairs)
            self._tally.unchanged += len(kept)

    async def _next_pairs(self) -> Sequence[Pair] | None:
        """The next batch, without readings in doubt that the system holds already: these are recorded. None
        where there is none.
        """
        if self._ready is not None:
            return self._ready.pairs
        while pairs := self._due.pop():
            if self._must_be_asked(pairs):
                pairs = await self._ask_what_arrived(pairs)
            if pairs:
                return pairs
        return None

    def _following(self) -> Sequence[Pair] | None:
        """The batch after the one in hand, where it is known without waiting: its intent is recorded by the
        commit of the one in hand.
        """
        self._due.take_ahead()
        return self._due.pop_at_hand(unless=self._must_be_asked)

    def _must_be_asked(self, pairs: Sequence[Pair]) -> bool:
        capabilities = self._connector.capabilities
        if capabilities.readback == "none" or capabilities.resend_is_harmless:
            return False  # it cannot be asked, or need not be
        return any(due.doubt is not None for due, _ in pairs)

    async def _ask_what_arrived(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Asks the system for the readings in doubt, and records those that it holds. Returns the others,
        which are sent: it holds another value or none. Raises CallsEnded.
        """
        if not await may_call(self._database, self._link, also_blocked=self._claim.trial):
            raise CallsEnded(self._claim.connection)
        self.called = True
        doubted = [reading for due, reading in pairs if due.doubt is not None]
        try:
            async with asyncio.timeout(FIND_TIMEOUTS * self._push_timeout):
                found = await self._connector.find(doubted)
        except TimeoutError as error:
            raise Unavailable("no answer in time to what is in doubt") from error
        results, left = BatchResults(), list[Pair]()
        for due, reading in pairs:
            remote = None if due.doubt is None else found.get(reading.key)
            if remote is not None and remote.value == reading.value:
                results.delivered.append(delivered_from(due, reading, remote.remote_id))
            else:
                left.append((due, reading if remote is None else replace(reading, modified=True)))
        await self._record(results)
        log.info(
            "sync.batch_reconciled",
            connection=self._claim.connection,
            readings=len(doubted),
            found=len(results.delivered),
        )
        return left

    async def _push(self, pairs: Sequence[Pair]) -> None:
        """Pushes one batch and stores its outcomes."""
        batch = await self._batch_to_send(pairs)
        try:
            await self._send(batch, pairs)
        except (LeaseLost, asyncio.CancelledError):
            # The batch was sent, and perhaps not recorded: a renewal that finds the lease lost cancels us
            # even in the middle of a commit, before the commit itself can find it.
            await self._doubt_late_push(batch)
            raise

    async def _send(self, batch: Batch, pairs: Sequence[Pair]) -> None:
        """Pushes the batch and stores what came of it. Where the system refuses it without naming the culprit
        its two halves are pushed next, and so on down to single readings.
        """
        doubted: Sequence[Reading] = ()
        try:
            outcomes = await self._call(batch)
            self.answered = True
        except BatchRefused as error:
            self.answered = True
            if len(pairs) > 1:
                self._due.halve(pairs)
                await self._record(BatchResults(), following=self._following())
                return
            outcomes = [Rejected(code="refused", message=str(error))]
        except Unavailable as error:
            doubted = batch.readings if isinstance(error, OutcomeUnknown) else ()
            if not await self._is_at_fault(pairs):
                await self._record(BatchResults(doubted=list(doubted), ask_in_seconds=self._unknown_wait))
                raise
            outcomes = [Rejected(code="upstream_error", message=str(error))]
        except ConnectorError:
            await self._record(BatchResults())
            raise
        results = self._judge(batch, outcomes, {reading.key: due for due, reading in pairs})
        results.doubted += doubted
        await self._record(results, following=self._following())

    async def _batch_to_send(self, pairs: Sequence[Pair]) -> Batch:
        """The batch, with its intent committed and the lease proved to be ours a moment ago. Raises LeaseLost
        and CallsEnded.

        A process that stood still for a while finds out here, right before the call. Where it stands still
        between this check and the call the intent remains, and whoever holds the lease by then resolves it.
        """
        for _ in range(3):
            if self._ready is None:
                await self._record(BatchResults(), following=pairs)
            ready, self._ready = self._ready, None
            if ready is None:
                raise CallsEnded(self._claim.connection)
            if clock.monotonic() < ready.intent.proved_monotonic + self._lease_seconds * PUSH_WINDOW:
                return ready.batch
        raise LeaseLost(
            f"{self._claim.connection}: the lease could not be shown to be ours within a third of its time"
        )

    async def _record(self, results: BatchResults, *, following: Sequence[Pair] | None = None) -> None:
        """Stores what became of a batch, resolves its intent and records the intent of the following one, in
        one transaction; counts when that is committed.
        """
        unsent = self._due.take_unsent()
        results.settled += unsent.settled
        results.dead += unsent.dead
        readings = [reading for _, reading in following or ()]
        readings.sort(key=lambda reading: (reading.meter, reading.window_start))
        async with self._turns.turn(self._claim.customer):
            with tracing.span("sync.record", readings=len(results.delivered)):
                intent = await deliveries.commit(
                    self._database,
                    self._claim,
                    results,
                    resolved=True,
                    next_readings=readings,
                    lease_seconds=self._lease_seconds,
                    configuration=self._link.configuration,
                )
        if following and intent is not None:
            batch = make_batch(self._claim.connection, readings, intent.position)
            self._ready = _ReadyBatch(following, batch, intent)
        if results.is_outdated:
            self._due.look_again()
        self._count(results)

    async def _doubt_late_push(self, batch: Batch) -> None:
        """Notes that the push may have arrived after our lease was lost: whoever holds it by then looks at
        the windows of the batch again.
        """
        try:
            async with asyncio.timeout(LATE_PUSH_SECONDS):
                if await deliveries.doubt_late_push(self._database, self._claim, batch):
                    log.warning(
                        "sync.push_outlived_lease",
                        connection=self._claim.connection,
                        readings=len(batch.readings),
                    )
        except (StoreError, TimeoutError) as error:
            log.warning(
                "sync.push_outlived_lease", connection=self._claim.connection, detail=f"not told: {error}"
            )

    async def _call(self, batch: Batch) -> Sequence[Outcome]:
        self.called = True
        started = clock.monotonic()
        try:
            with tracing.span("sync.push", readings=len(batch.readings)):
                async with asyncio.timeout(self._push_timeout):
                    outcomes = await self._connector.push(batch)
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer within {self._push_timeout:g} s") from error
        finally:
            metrics.PUSH_SECONDS.labels(self._link.system).observe(clock.monotonic() - started)
        if len(outcomes) != len(batch.readings):
            raise OutcomeUnknown(
                f"the connector answered {len(outcomes)} outcomes for {len(batch.readings)} readings"
            )
        return outcomes

    @property
    def _took_others(self) -> bool:
        return self._tally.delivered + self._tally.modified > 0

    async def _is_at_fault(self, pairs: Sequence[Pair]) -> bool:
        """Whether a failure is the fault of this single reading: the system answers a probe, took other
        readings in this very run, and has failed at this one alone often enough. While nothing passes it is
        an outage, and no reading is at fault.

        Where the reading has not failed often enough yet the failure is counted.
        """
        if len(pairs) > 1 or self._claim.attempts < NARROW_AFTER or not self._took_others:
            return False
        if not await may_call(self._database, self._link, also_blocked=self._claim.trial):
            return False
        try:
            async with asyncio.timeout(self._push_timeout):
                await self._connector.probe()
        except (ConnectorError, TimeoutError):
            return False
        due, _ = pairs[0]
        if due.attempts + 1 >= ALONE_FAILURES:
            return True
        await deliveries.commit(self._database, self._claim, BatchResults(retried=[due]))
        return False

    def _judge(
        self, batch: Batch, outcomes: Sequence[Outcome], due_by_key: dict[str, DueWindow]
    ) -> BatchResults:
        """What becomes of each reading. Meters that have to wait are put off until the run begins again."""
        judged = judge(
            batch,
            outcomes,
            due_by_key,
            max_attempts=self._max_attempts,
            can_find=self._connector.capabilities.readback != "none",
            others_pass=self._took_others or any(isinstance(o, Accepted | Duplicate) for o in outcomes),
            unknown_wait_seconds=self._unknown_wait,
        )
        self.waiting |= judged.waiting
        self._due.put_off(judged.waiting.keys() | judged.references_refused)
        if judged.superseded:
            # The usual cause is a lost lease: the commit will find that. Where the lease is still ours our
            # positions fell behind (an older dump, another clock), and go on past the one that the system
            # holds.
            log.warning(
                "sync.batch_superseded",
                connection=self._claim.connection,
                readings=judged.superseded,
                position=batch.position,
            )
        return judged.results

    def _count(self, results: BatchResults) -> None:
        """Counts what is committed. Called after the commit, for what was rolled back did not happen."""
        modified = sum(made.modified for made in results.delivered)
        self._tally.modified += modified
        self._tally.delivered += len(results.delivered) - modified
        self._tally.unchanged += len(results.settled)
        self._tally.rejected += len(results.dead)
        self._tally.retried += len(results.retried)
        for outcome, counted in (
            ("delivered", results.delivered),
            ("dead_letter", results.dead),
            ("retried", results.retried),
        ):
            if counted:
                metrics.SYNC_READINGS.labels(self._link.system, outcome).inc(len(counted))
