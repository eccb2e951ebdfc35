"""Deliver: closed due windows to the system, every outcome stored before the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from gateway import clock, metrics
from gateway.model.connector import Connector
from gateway.model.delivery import (
    DueWindow,
    Plan,
    Refusal,
    batch_limit,
    chunks,
    oldest_accepted,
    plan,
    turns,
)
from gateway.model.errors import BatchRefused, ConnectorError, OutcomeUnknown, Unavailable
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Step, Unknown, decide
from gateway.model.reading import Batch, Reading, make_batch
from gateway.store import deliveries, windows, withheld
from gateway.store.deliveries import Delivered, Results
from gateway.store.pool import Database
from gateway.store.streams import Claim, Tally
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

Pair = tuple[DueWindow, Reading]

FETCH_WINDOWS = 5_000

NARROW_AFTER = 3
"""Failed runs in a row after which batches shrink and a single reading may be found at fault."""

ALONE_FAILURES = 3
"""Failures of a reading that was sent alone, before it is parked while the system takes others."""


PATIENT = 3
"""Times that a reading is sent again as soon as the system allows."""

MAX_WAIT_SECONDS = 300.0


class Delivery:
    """The delivering half of one run of one stream."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        link: Link,
        tally: Tally,
        *,
        push_timeout: timedelta,
        max_attempts: int,
        unknown_wait: timedelta,
    ) -> None:
        self._database = database
        self._claim = claim
        self._link = link
        self._tally = tally
        self._push_timeout = push_timeout.total_seconds()
        self._max_attempts = max_attempts
        self._unknown_wait = unknown_wait.total_seconds()
        self._after = windows.BEGINNING
        self._ahead: asyncio.Task[list[DueWindow]] | None = None
        self._put_off: set[str] = set()
        self.called = False
        """Whether the system was asked anything."""
        self.answered = False
        """Whether it answered a push."""
        self.waiting: dict[str, str] = {}
        """The meters that it has wait, with what it said last."""
        self.ask_in_seconds: float | None = None
        """Set when readings were sent without a definite answer: nothing more is sent before the system was
        asked.
        """

    @property
    def _connector(self) -> Connector:
        return self._link.connector

    @property
    def _has_deadband(self) -> bool:
        return any(rule.deadband for rule in self._link.rules)

    async def deliver_once(self) -> bool:
        """Computes and delivers up to `FETCH_WINDOWS` closed windows; False when none is due.

        Raises ConnectorError when the system could not serve a push; what was pushed before it is stored.
        """
        capabilities = self._connector.capabilities
        limit = min(FETCH_WINDOWS, max(500, capabilities.max_items))
        if self._has_deadband:
            await withheld.mark_again(self._database, self._claim)
        due = await self._next(limit)
        if not due:
            return False
        if len(due) == limit:
            self._look_ahead(limit)
        planned = plan(
            self._claim.connection,
            due,
            capabilities=capabilities,
            oldest=oldest_accepted(capabilities, clock.now()),
            clip_silently=self._claim.phase == "initial",
        )
        await self._settle(planned)
        sendable = planned.send
        if self._claim.attempts >= NARROW_AFTER or self._claim.trial:
            ascending = capabilities.order == "per_meter_ascending"
            sendable = turns(sendable, failures=self._claim.attempts, ascending=ascending)
        if self._claim.trial:  # one reading tells whether the system lets us push again
            sendable = sendable[:1]
        for part in chunks(sendable, batch_limit(capabilities.max_items, self._claim.attempts)):
            if left := [pair for pair in part if pair[0].meter not in self._put_off]:
                await self._push(left)
            if self.ask_in_seconds is not None:
                break
        await self._withhold(planned)
        return True

    async def close(self) -> None:
        """Ends what is still being computed ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

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
        if due:
            self._after = max((window.window_start, window.meter) for window in due)
        return due

    async def _compute(self, limit: int) -> list[DueWindow]:
        async with self._database.connection() as connection:
            return await windows.compute_due(connection, self._claim, limit, self._after)

    def _look_ahead(self, limit: int) -> None:
        """Computes the next windows while these are pushed; not where a value depends on the delivery before
        it, nor after a failure.
        """
        if self._claim.attempts == 0 and not self._has_deadband:
            self._ahead = asyncio.create_task(self._compute(limit))

    async def reconcile(self) -> float | None:
        """Asks the system about a batch whose answer was lost. None when all is known; seconds to wait when
        it is too early to ask.

        Found readings are recorded as delivered; the others stay due and are sent again.
        """
        intent = await deliveries.read_intent(self._database, self._claim)
        if intent is None:
            return None
        if intent.age_seconds < self._unknown_wait:
            return self._unknown_wait - intent.age_seconds
        results = Results()
        if self._connector.capabilities.readback != "none":
            self.called = True
            found = await self._connector.find(intent.readings)
            for reading in intent.readings:
                remote = found.get(reading.key)
                if remote is not None and remote.value == reading.value:
                    made = Delivered(
                        meter=reading.meter,
                        window_start=reading.window_start,
                        value=reading.value,
                        remote_id=remote.remote_id,
                        due=None,
                    )
                    results.delivered.append(made)
        self._tally.delivered += len(results.delivered)
        self._count("delivered", len(results.delivered))
        await deliveries.commit(self._database, self._claim, results, batch_id=intent.batch_id)
        log.info(
            "sync.batch_reconciled",
            connection=self._claim.connection,
            batch=intent.batch_id,
            readings=len(intent.readings),
            found=len(results.delivered),
        )
        return None

    async def _settle(self, planned: Plan) -> None:
        if not planned.settled and not planned.refused:
            return
        await deliveries.commit(
            self._database, self._claim, Results(settled=planned.settled, dead=planned.refused)
        )
        self._tally.unchanged += len(planned.settled)
        self._tally.rejected += len(planned.refused)
        self._count("dead_letter", len(planned.refused))

    async def _withhold(self, planned: Plan) -> None:
        """After the pushes, for only what the system took counts; what was compared with a reading that it
        did not take stays due, and is compared with what it holds instead.
        """
        if planned.withheld:
            kept = await withheld.settle(self._database, self._claim, planned.withheld)
            self._tally.unchanged += len(kept)

    async def _push(self, pairs: Sequence[Pair]) -> None:
        """One batch and its outcomes. Halves of a batch that was refused without naming the culprit, down to
        single readings.
        """
        batch = make_batch(self._claim.connection, [reading for _, reading in pairs])
        cautious = not self._connector.capabilities.resend_is_harmless
        if cautious:
            await deliveries.record_intent(self._database, self._claim, batch)
        try:
            outcomes = await self._call(batch)
            self.answered = True
        except BatchRefused as error:
            self.answered = True
            if len(pairs) > 1:
                await self._forget(batch)
                middle = len(pairs) // 2
                for half in (pairs[:middle], pairs[middle:]):
                    if self.ask_in_seconds is None:
                        await self._push(half)
                return
            outcomes = [Rejected(code="refused", message=str(error))]
        except Unavailable as error:
            if not await self._is_to_blame(pairs):
                if not isinstance(error, OutcomeUnknown):
                    await self._forget(batch)
                # of an unknown outcome the intent stays, as it does when we are killed here: the next run
                # asks before it sends
                raise
            outcomes = [Rejected(code="upstream_error", message=str(error))]
        except ConnectorError:
            await self._forget(batch)
            raise
        results, unknown = self._judge(batch, outcomes, {reading.key: due for due, reading in pairs})
        if cautious and unknown:
            self.ask_in_seconds = self._unknown_wait
            await deliveries.commit(self._database, self._claim, results, batch_id=batch.id, unknown=unknown)
        else:
            await deliveries.commit(
                self._database, self._claim, results, batch_id=batch.id if cautious else None
            )

    async def _call(self, batch: Batch) -> Sequence[Outcome]:
        started, self.called = clock.monotonic(), True
        try:
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

    async def _forget(self, batch: Batch) -> None:
        """Nothing of the batch was taken."""
        if not self._connector.capabilities.resend_is_harmless:
            await deliveries.commit(self._database, self._claim, Results(), batch_id=batch.id)

    @property
    def _takes_others(self) -> bool:
        return self._tally.delivered + self._tally.modified > 0

    async def _is_to_blame(self, pairs: Sequence[Pair]) -> bool:
        """Whether a failure is this single reading's: the system answers a probe and took others in this very run,
        and has failed at this one alone often enough. While nothing passes it is an outage, and nobody is to blame.

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
        await deliveries.commit(self._database, self._claim, Results(retried=[due]))
        return False

    def _judge(
        self, batch: Batch, outcomes: Sequence[Outcome], due_by_key: dict[str, DueWindow]
    ) -> tuple[Results, list[Reading]]:
        """What becomes of each, and the readings whose outcome is unknown and can be asked for."""
        results, unknown = Results(), list[Reading]()
        waiting: dict[str, float] = {}
        can_find = self._connector.capabilities.readback != "none"
        others_pass = self._takes_others or any(isinstance(o, Accepted | Duplicate) for o in outcomes)
        for reading, outcome in zip(batch.readings, outcomes, strict=True):
            due = due_by_key[reading.key]
            step = decide(
                outcome,
                attempts=due.attempts + 1,
                max_attempts=self._max_attempts,
                can_find=can_find,
                others_pass=others_pass,
            )
            match step:
                case Step.DELIVERED:
                    results.delivered.append(
                        Delivered(
                            meter=reading.meter,
                            window_start=reading.window_start,
                            value=reading.value,
                            remote_id=outcome.remote_id
                            if isinstance(outcome, Accepted | Duplicate)
                            else None,
                            due=due,
                        )
                    )
                    if reading.modified:
                        self._tally.modified += 1
                    else:
                        self._tally.delivered += 1
                case Step.DEAD_LETTER:
                    results.dead.append(_refusal(due, outcome))
                    self._tally.rejected += 1
                    if due.deadband > 0:  # those behind it were compared with it
                        self._put_off.add(due.meter)
                case Step.WAIT | Step.RECONCILE | Step.SEND_AGAIN:
                    results.retried.append(due)
                    waiting[reading.meter] = max(
                        waiting.get(reading.meter, 0.0), self._wait_seconds(outcome, due.attempts)
                    )
                    self._tally.retried += 1
                    self.waiting[reading.meter] = (
                        outcome.message if isinstance(outcome, Retry | Unknown) else ""
                    )
                    if step is Step.RECONCILE:
                        unknown.append(reading)
        results.waiting = waiting
        self._put_off |= waiting.keys()
        self._count("delivered", len(results.delivered))
        self._count("dead_letter", len(results.dead))
        self._count("retried", len(results.retried))
        return results, unknown

    def _wait_seconds(self, outcome: Outcome, attempts: int) -> float:
        """As the system asks, and longer each time from the fourth on: it may say "at once" for ever."""
        asked = outcome.after_seconds if isinstance(outcome, Retry) else self._unknown_wait
        return max(asked, 0.0 if attempts < PATIENT else min(MAX_WAIT_SECONDS, 2.0 ** min(attempts, 32)))

    def _count(self, outcome: str, count: int) -> None:
        if count:
            metrics.SYNC_READINGS.labels(self._link.system, outcome).inc(count)


def _refusal(due: DueWindow, outcome: Outcome) -> Refusal:
    match outcome:
        case Rejected(code=code, message=message):
            return Refusal(due=due, reason=code, detail=message)
        case Retry(message=message) | Unknown(message=message):
            return Refusal(due=due, reason="too_many_attempts", detail=message)
        case _:
            raise AssertionError(outcome)
