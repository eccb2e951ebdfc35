"""Deliver: closed due windows to the system, every outcome stored before the next batch.

A batch is pushed only after its intent is committed. What ends between the two leaves an intent; its windows
are in doubt, and are asked for or sent again whatever was recorded for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import structlog

from gateway import clock, metrics, tracing
from gateway.model.connector import Connector
from gateway.model.delivery import DueWindow, batch_sizes, chunks, oldest_accepted, plan, turns
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
from gateway.store import deliveries, windows, withheld
from gateway.store.deliveries import BatchResults, Intent
from gateway.store.pool import Database
from gateway.store.streams import Claim, RunTally
from gateway.sync.judge import delivered_from, judge
from gateway.sync.link import ServedConnection
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

Pair = tuple[DueWindow, Reading]
NARROW_AFTER = 3
"""Failed runs in a row after which batches shrink and a single reading may be found at fault."""

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
        self._after = windows.BEGINNING
        self._ahead: asyncio.Task[list[DueWindow]] | None = None
        self._days = days
        self._turns = turns
        self._sizes = batch_sizes(
            link.connector.capabilities.max_items, claim.attempts, is_searching=is_searching
        )
        self._is_whole = False
        self._parts = deque[Sequence[Pair]]()
        self._aside = BatchResults()
        """What needs no push, until the next transaction takes it along."""
        self._armed: _Armed | None = None
        self._put_off: set[str] = set()
        self._withheld: list[tuple[DueWindow, float]] = []
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

        Raises ConnectorError when the system could not serve a push; what was pushed before it is stored.
        """
        if self._armed is None and not self._parts:
            if self._has_deadband:
                await withheld.mark_again(self._database, self._claim)
            due = await self._next(self._limit)
            if not due:
                return False
            self._sort(due)
        fetched_until = self._after
        while self._after == fetched_until and (pairs := await self._next_pairs()):
            await self._push(pairs)
        if self._aside:
            await self._record(BatchResults())
        await self._withhold()
        return True

    @property
    def is_done(self) -> bool:
        """Whether what was due is delivered, as far as can be known without another look: what was marked or
        closed since is the next run's. Never after anything that was not simply taken, which a look may find
        due again.
        """
        left = self._parts or self._armed or self._ahead or self._put_off or self.waiting
        is_usual = self._claim.attempts == 0 and not self._claim.trial and not self._has_deadband
        return self._is_whole and is_usual and not left

    async def withdraw(self) -> None:
        """At the end of a run: the batch that was next is not sent, and nobody need ask for it."""
        if self._armed is not None:
            self._armed = None
            await self._record(BatchResults())

    async def close(self) -> None:
        """Ends what is still being computed ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

    @property
    def _has_deadband(self) -> bool:
        return any(rule.deadband for rule in self._link.rules)

    @property
    def _limit(self) -> int:
        return min(self._turns.windows, max(500, self._connector.capabilities.max_items))

    async def _next(self, limit: int) -> list[DueWindow]:
        """The next windows of this run; begins again where it reaches the end, for older ones may be due by
        then.
        """
        due: list[DueWindow] = []
        if self._ahead is not None:
            due, self._ahead = await self._ahead, None
        if not due:
            self._put_off.clear()
            due = await self._compute(limit)
        if not due and self._after != windows.BEGINNING:
            self._after = windows.BEGINNING
            due = await self._compute(limit)
        self._is_whole = self._after == windows.BEGINNING and len(due) < limit
        return due

    async def _compute(self, limit: int) -> list[DueWindow]:
        async with self._turns.turn(self._claim.customer), self._database.connection() as connection:
            due = await windows.compute_due(connection, self._claim, limit, self._after)
        days = {window.window_start.date() for window in due} - self._days
        await deliveries.ensure_days(self._database, days)
        self._days |= days
        return due

    def _sort(self, due: list[DueWindow]) -> None:
        """Batches to `_parts`, what needs none aside, and begins to compute the next windows.

        Not ahead where a value depends on the delivery before it, nor after a failure.
        """
        self._after = max((window.window_start, window.meter) for window in due)
        capabilities, attempts = self._connector.capabilities, self._claim.attempts
        planned = plan(
            self._claim.connection,
            due,
            capabilities=capabilities,
            oldest=oldest_accepted(capabilities, clock.now()),
            clip_silently=self._claim.phase == "initial",
        )
        self._aside.settled += planned.settled
        self._aside.dead += planned.refused
        self._withheld += planned.withheld
        sendable = planned.send
        if attempts >= NARROW_AFTER or self._claim.trial:
            ascending = capabilities.order == "per_meter_ascending"
            sendable = turns(sendable, failures=attempts, ascending=ascending)
        if self._claim.trial:  # one reading tells whether the system lets us push again
            sendable = sendable[:1]
        self._parts.extend(chunks(sendable, self._sizes))
        if len(due) == self._limit and attempts == 0 and not self._claim.trial and not self._has_deadband:
            self._ahead = asyncio.create_task(self._compute(self._limit))

    async def _withhold(self) -> None:
        """After the pushes, for only what the system took counts; what was compared with a reading that it
        did not take stays due, and is compared with what it holds instead.
        """
        pairs, self._withheld = self._withheld, []
        if pairs:
            kept = await withheld.settle(self._database, self._claim, pairs)
            self._tally.unchanged += len(kept)

    async def _next_pairs(self) -> Sequence[Pair] | None:
        """The next batch; readings in doubt that the system holds already are recorded and left out."""
        if self._armed is not None:
            return self._armed.pairs
        while self._parts:
            pairs = self._not_put_off(self._parts.popleft())
            if self._must_ask(pairs):
                pairs = await self._ask(pairs)
            if pairs:
                return pairs
        return None

    def _following(self) -> Sequence[Pair] | None:
        """The batch after the one in hand, where it is known without waiting: its intent rides on the commit
        of this one.
        """
        ahead = self._ahead
        if self._parts or ahead is None or not ahead.done() or ahead.exception() is not None:
            due = []
        else:
            due = ahead.result()
        if due:
            self._ahead = None
            self._sort(due)
        while self._parts:
            pairs = self._not_put_off(self._parts[0])
            if self._must_ask(pairs):
                return None
            self._parts.popleft()
            if pairs:
                return pairs
        return None

    def _not_put_off(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        return [pair for pair in pairs if pair[0].meter not in self._put_off]

    def _must_ask(self, pairs: Sequence[Pair]) -> bool:
        capabilities = self._connector.capabilities
        can_and_need = capabilities.readback != "none" and not capabilities.resend_is_harmless
        return can_and_need and any(due.doubt is not None for due, _ in pairs)

    async def _ask(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """What must still be sent: the system was asked for what is in doubt, and shows another value or
        none.
        """
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
                middle = len(pairs) // 2
                self._parts.extendleft((pairs[middle:], pairs[:middle]))
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
        """The batch, its intent committed and the lease shown to be ours a moment ago. Raises LeaseLost.

        A process that was stopped for a while finds out here, right before the call. What slips between this
        and the system's door has an intent of this fence, which the next holder resolves.
        """
        for _ in range(3):
            if self._armed is None:
                await self._record(BatchResults(), following=pairs)
            armed, self._armed = self._armed, None
            assert armed is not None
            if clock.monotonic() < armed.intent.proved_monotonic + self._lease_seconds * FRESH:
                return armed.batch
        raise LeaseLost(
            f"{self._claim.connection}: the lease could not be shown to be ours within a third of its time"
        )

    async def _record(self, results: BatchResults, *, following: Sequence[Pair] | None = None) -> None:
        """Stores what became of a batch, resolves its intent and records the intent of the following one, in
        one transaction; counts when that is committed.
        """
        results.settled += self._aside.settled
        results.dead += self._aside.dead
        self._aside = BatchResults()
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
                )
        if following and intent is not None:
            made = make_batch(self._claim.connection, readings, intent.position)
            self._armed = _Armed(following, made, intent)
        self._is_whole = self._is_whole and not results.is_outdated
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
        self._put_off |= judged.words.keys() | judged.compared
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
