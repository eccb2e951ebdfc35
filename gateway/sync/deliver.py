"""Deliver: closed due windows to the system, every outcome stored before the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from gateway import clock, metrics
from gateway.model.connector import Connector
from gateway.model.delivery import DueWindow, Plan, Refusal, batch_limit, chunks, oldest_accepted, plan
from gateway.model.errors import BatchRefused, ConnectorError, OutcomeUnknown, Unavailable
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Step, Unknown, decide
from gateway.model.reading import Batch, Reading, make_batch
from gateway.store import deliveries, windows
from gateway.store.deliveries import Delivered, Results
from gateway.store.pool import Database
from gateway.store.streams import Claim, Tally
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

Pair = tuple[DueWindow, Reading]

FETCH_WINDOWS = 5_000


class Delivery:
    """The delivering half of one run of one stream."""

    def __init__(
        self, database: Database, claim: Claim, link: Link, tally: Tally, *, push_timeout: timedelta, max_attempts: int, unknown_wait: timedelta
    ) -> None:
        self._database = database
        self._claim = claim
        self._link = link
        self._tally = tally
        self._push_timeout = push_timeout.total_seconds()
        self._max_attempts = max_attempts
        self._unknown_wait = unknown_wait.total_seconds()
        self.slowest_push_seconds = 0.0

    @property
    def _connector(self) -> Connector:
        return self._link.connector

    async def deliver_once(self) -> bool:
        """Computes and delivers up to `FETCH_WINDOWS` closed windows; False when none is due.

        Raises ConnectorError when the system could not serve a push; what was pushed before it is stored.
        """
        capabilities = self._connector.capabilities
        limit = min(FETCH_WINDOWS, max(500, capabilities.max_items))
        async with self._database.connection() as connection:
            due = await windows.compute_due(connection, self._claim, limit)
        if not due:
            return False
        planned = plan(
            self._claim.connection,
            due,
            capabilities=capabilities,
            oldest=oldest_accepted(capabilities, clock.now()),
            clip_silently=self._claim.phase == "initial",
        )
        await self._settle(planned)
        for part in chunks(planned.send, batch_limit(capabilities.max_items, self._claim.attempts)):
            await self._push(part)
        return True

    async def reconcile(self) -> float | None:
        """Asks the system about a batch whose answer was lost. None when all is known; seconds to wait when it is too early to ask.

        Found readings are recorded as delivered; the others stay due and are sent again.
        """
        intent = await deliveries.read_intent(self._database, self._claim)
        if intent is None:
            return None
        if intent.age_seconds < self._unknown_wait:
            return self._unknown_wait - intent.age_seconds
        results = Results()
        if self._connector.capabilities.readback != "none":
            found = await self._connector.find(intent.readings)
            for reading in intent.readings:
                remote = found.get(reading.key)
                if remote is not None and remote.value == reading.value:
                    made = Delivered(meter=reading.meter, window_start=reading.window_start, value=reading.value, remote_id=remote.remote_id, due=None)
                    results.delivered.append(made)
        self._tally.delivered += len(results.delivered)
        await deliveries.commit(self._database, self._claim, results, batch_id=intent.batch_id)
        log.info("sync.batch_reconciled", connection=self._claim.connection, batch=intent.batch_id, readings=len(intent.readings), found=len(results.delivered))
        return None

    async def _settle(self, planned: Plan) -> None:
        if not planned.settled and not planned.refused:
            return
        await deliveries.commit(self._database, self._claim, Results(settled=planned.settled, dead=planned.refused))
        self._tally.unchanged += len(planned.settled)
        self._tally.rejected += len(planned.refused)
        self._count("dead_letter", len(planned.refused))

    async def _push(self, pairs: Sequence[Pair]) -> None:
        batch = make_batch(self._claim.connection, [reading for _, reading in pairs])
        cautious = not self._connector.capabilities.resend_is_harmless
        if cautious:
            await deliveries.record_intent(self._database, self._claim, batch)
        try:
            outcomes = await self._push_or_bisect(batch)
        except OutcomeUnknown:
            raise  # the intent stays, as it does when we are killed or cancelled here: the next run asks before it sends
        except ConnectorError:
            if cautious:
                await deliveries.commit(self._database, self._claim, Results(), batch_id=batch.id)
            raise
        due_by_key = {reading.key: due for due, reading in pairs}
        results = self._judge(batch, outcomes, due_by_key)
        await deliveries.commit(self._database, self._claim, results, batch_id=batch.id if cautious else None)

    async def _push_or_bisect(self, batch: Batch) -> Sequence[Outcome]:
        """A system that refuses a whole batch without naming the culprit is asked again with halves, down to single readings."""
        started = clock.monotonic()
        try:
            async with asyncio.timeout(self._push_timeout):
                outcomes = await self._connector.push(batch)
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer within {self._push_timeout:g} s") from error
        except BatchRefused as error:
            if len(batch.readings) == 1:
                return [Rejected(code="refused", message=str(error))]
            middle = len(batch.readings) // 2
            first = await self._push_or_bisect(make_batch(batch.connection, batch.readings[:middle]))
            try:
                second = await self._push_or_bisect(make_batch(batch.connection, batch.readings[middle:]))
            except ConnectorError as later:
                raise OutcomeUnknown(f"part of a batch was taken, then: {later}") from later
            return [*first, *second]
        finally:
            elapsed = clock.monotonic() - started
            self.slowest_push_seconds = max(self.slowest_push_seconds, elapsed)
            metrics.PUSH_SECONDS.labels(self._link.system).observe(elapsed)
        if len(outcomes) != len(batch.readings):
            raise Unavailable(f"the connector answered {len(outcomes)} outcomes for {len(batch.readings)} readings")
        return outcomes

    def _judge(self, batch: Batch, outcomes: Sequence[Outcome], due_by_key: dict[str, DueWindow]) -> Results:
        results = Results()
        waiting: dict[str, float] = {}
        can_find = self._connector.capabilities.readback != "none"
        for reading, outcome in zip(batch.readings, outcomes, strict=True):
            due = due_by_key[reading.key]
            match decide(outcome, attempts=due.attempts + 1, max_attempts=self._max_attempts, can_find=can_find):
                case Step.DELIVERED:
                    results.delivered.append(
                        Delivered(
                            meter=reading.meter,
                            window_start=reading.window_start,
                            value=reading.value,
                            remote_id=outcome.remote_id if isinstance(outcome, Accepted | Duplicate) else None,
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
                case Step.WAIT | Step.RECONCILE | Step.SEND_AGAIN:
                    results.retried.append(due)
                    waiting[reading.meter] = max(waiting.get(reading.meter, 0.0), self._wait_seconds(outcome))
                    self._tally.retried += 1
        results.waiting = waiting
        self._count("delivered", len(results.delivered))
        self._count("dead_letter", len(results.dead))
        self._count("retried", len(results.retried))
        return results

    def _wait_seconds(self, outcome: Outcome) -> float:
        return outcome.after_seconds if isinstance(outcome, Retry) else self._unknown_wait

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
