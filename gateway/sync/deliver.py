"""Deliver: closed due windows to the system, every outcome stored before the next batch. Which windows a
batch has is said by `gateway.sync.due_batches`.

A batch is pushed only after its intent is committed. What ends between the two leaves an intent; its windows
are in doubt, and are asked for or sent again whatever was recorded for them.
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
from gateway.store import deliveries, streams, withheld
from gateway.store.deliveries import BatchResults, Intent
from gateway.store.pool import Database
from gateway.store.streams import Claim, RunTally
from gateway.sync.due_batches import NARROW_AFTER, DueBatches, Pair
from gateway.sync.judge import delivered_from, judge
from gateway.sync.link import CallsEnded, ServedConnection
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

ALONE_FAILURES = 3
"""Failures of a reading that was sent alone, before it is parked while the system takes others."""

FRESH = 1 / 3
"""Of the lease: a push begins within this after the proof that the lease is ours, or not at all."""

CONFESS_SECONDS = 5.0
"""For telling that a push may have outlived its lease: we may be shutting down."""

FIND_TIMEOUTS = 4
"""Push time-outs that a question about what is in doubt may take: it may have several pages."""


@dataclass(frozen=True, slots=True)
class _Armed:
    """A batch whose intent is committed."""

    pairs: Sequence[Pair]
    batch: Batch
    intent: Intent


class Delivery:
    """The delivering half of one run of one stream."""

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
        """`days`: those that are known to have a partition, for all runs of a process, as `turns` are.
        `is_searching`: batches stay as small as the failures made them, for a reading among them may be at
        fault.
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
        self._armed: _Armed | None = None
        self.called = False
        """Whether the system was asked anything."""
        self.answered = False
        """Whether it answered a push."""
        self.waiting: dict[str, str] = {}
        """The meters that it has wait, with what it said last."""

    @property
    def _connector(self) -> Connector:
        return self._link.connector

    async def resolve(self) -> None:
        """The first step of a run: what the one before left on its way is in doubt.

        Nothing of it is asked or sent before a push that was begun with it has arrived or run out of time.
        """
        if await deliveries.is_resolved(self._database, self._claim):
            return
        # a push may begin up to FRESH of the lease after its intent
        wait = max(self._push_timeout + FRESH * self._lease_seconds, self._unknown_wait)
        if self._connector.capabilities.keeps_latest:
            wait = 0.0
        count = await deliveries.resolve(self._database, self._claim, wait_seconds=wait)
        log.info("sync.batch_in_doubt", connection=self._claim.connection, readings=count)

    async def deliver_once(self) -> bool:
        """Computes and delivers up to `Turns.windows` closed windows; False when none is due.

        Raises ConnectorError when the system could not serve a push, and CallsEnded; what was pushed before
        is stored.
        """
        if self._armed is None and not self._due and not await self._due.look():
            return False
        reached = self._due.reached
        while self._due.reached == reached and (pairs := await self._next_pairs()):
            await self._push(pairs)
        if self._due.has_aside:
            await self._record(BatchResults())
        await self._withhold()
        return True

    @property
    def is_done(self) -> bool:
        """Whether what was due is delivered, as far as can be known without another look: what was marked or
        closed since is the next run's. Never after anything that was not simply taken, which a look may find
        due again.
        """
        is_usual = self._claim.attempts == 0 and not self._claim.trial and not self._due.has_deadband
        return is_usual and self._due.is_exhausted and not (self._armed or self.waiting)

    async def withdraw(self) -> None:
        """At the end of a run: the batch that was next is not sent, and nobody need ask for it."""
        if self._armed is not None:
            self._armed = None
            await self._record(BatchResults())

    async def close(self) -> None:
        """Ends what is still being computed ahead."""
        await self._due.close()

    async def _withhold(self) -> None:
        """After the pushes, for only what the system took counts; what was compared with a reading that it
        did not take stays due, and is compared with what it holds instead.
        """
        if pairs := self._due.take_withheld():
            kept = await withheld.settle(self._database, self._claim, pairs)
            self._tally.unchanged += len(kept)

    async def _next_pairs(self) -> Sequence[Pair] | None:
        """The next batch; readings in doubt that the system holds already are recorded and left out."""
        if self._armed is not None:
            return self._armed.pairs
        while pairs := self._due.pop():
            if self._must_ask(pairs):
                pairs = await self._ask(pairs)
            if pairs:
                return pairs
        return None

    def _following(self) -> Sequence[Pair] | None:
        """The batch after the one in hand, where it is known without waiting: its intent rides on the commit
        of this one.
        """
        self._due.take_ahead()
        return self._due.pop_at_hand(unless=self._must_ask)

    def _must_ask(self, pairs: Sequence[Pair]) -> bool:
        capabilities = self._connector.capabilities
        can_and_need = capabilities.readback != "none" and not capabilities.resend_is_harmless
        return can_and_need and any(due.doubt is not None for due, _ in pairs)

    async def _ask(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """What must still be sent: the system was asked for what is in doubt, and shows another value or
        none. Raises CallsEnded.
        """
        if not await streams.may_call(self._database, self._claim, self._link.configuration):
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
        """One batch and its outcomes."""
        batch = await self._ready(pairs)
        try:
            await self._send(batch, pairs)
        except (LeaseLost, asyncio.CancelledError):
            # Sent, and perhaps not recorded. A renewal that finds the lease lost cancels us in the middle of
            # the commit too, before the commit can say so itself.
            await self._confess(batch)
            raise

    async def _send(self, batch: Batch, pairs: Sequence[Pair]) -> None:
        """Pushes it and stores what came of it. A batch that was refused without naming the culprit leaves
        its halves to be pushed next, down to single readings.
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
            if not await self._is_to_blame(pairs):
                await self._record(BatchResults(doubted=list(doubted), ask_in_seconds=self._unknown_wait))
                raise
            outcomes = [Rejected(code="upstream_error", message=str(error))]
        except ConnectorError:
            await self._record(BatchResults())
            raise
        results = self._judge(batch, outcomes, {reading.key: due for due, reading in pairs})
        results.doubted += doubted
        await self._record(results, following=self._following())

    async def _ready(self, pairs: Sequence[Pair]) -> Batch:
        """The batch, its intent committed and the lease shown to be ours a moment ago. Raises LeaseLost and
        CallsEnded.

        A process that was stopped for a while finds out here, right before the call. What slips between this
        and the system's door has an intent of this fence, which the next holder resolves.
        """
        for _ in range(3):
            if self._armed is None:
                await self._record(BatchResults(), following=pairs)
            armed, self._armed = self._armed, None
            if armed is None:
                raise CallsEnded(self._claim.connection)
            if clock.monotonic() < armed.intent.proved_monotonic + self._lease_seconds * FRESH:
                return armed.batch
        raise LeaseLost(
            f"{self._claim.connection}: the lease could not be shown to be ours within a third of its time"
        )

    async def _record(self, results: BatchResults, *, following: Sequence[Pair] | None = None) -> None:
        """Stores what became of a batch, resolves its intent and records the intent of the following one, in
        one transaction; counts when that is committed.
        """
        aside = self._due.take_aside()
        results.settled += aside.settled
        results.dead += aside.dead
        readings = sorted((r for _, r in following or ()), key=lambda r: (r.meter, r.window_start))
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
            made = make_batch(self._claim.connection, readings, intent.position)
            self._armed = _Armed(following, made, intent)
        if results.is_outdated:
            self._due.look_again()
        self._count(results)

    async def _confess(self, batch: Batch) -> None:
        """The push may have arrived after our lease was lost: its windows are looked at
        again by the holder.
        """
        try:
            async with asyncio.timeout(CONFESS_SECONDS):
                if await deliveries.confess(self._database, self._claim, batch):
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
        started, self.called = clock.monotonic(), True
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
    def _takes_others(self) -> bool:
        return self._tally.delivered + self._tally.modified > 0

    async def _is_to_blame(self, pairs: Sequence[Pair]) -> bool:
        """Whether a failure is this single reading's: the system answers a probe and took others in this very
        run, and has failed at this one alone often enough. While nothing passes it is an outage, and nobody
        is to blame.

        Counts the failure against the reading when it is not shown yet.
        """
        if len(pairs) > 1 or self._claim.attempts < NARROW_AFTER or not self._takes_others:
            return False
        if not await streams.may_call(self._database, self._claim, self._link.configuration):
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
        """What becomes of each; the meters that wait are put off for this run."""
        judged = judge(
            batch,
            outcomes,
            due_by_key,
            max_attempts=self._max_attempts,
            can_find=self._connector.capabilities.readback != "none",
            others_pass=self._takes_others or any(isinstance(o, Accepted | Duplicate) for o in outcomes),
            unknown_wait_seconds=self._unknown_wait,
        )
        self.waiting |= judged.words
        self._due.put_off(judged.words.keys() | judged.compared)
        if judged.superseded:
            # The usual cause is that our lease is lost, and the commit will say so. Where it is still ours
            # the clock fell behind (an older dump, another clock), and is set past what the system holds.
            log.warning(
                "sync.batch_superseded",
                connection=self._claim.connection,
                readings=judged.superseded,
                position=batch.position,
            )
        return judged.results

    def _count(self, results: BatchResults) -> None:
        """After the commit: what was rolled back did not happen."""
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
