"""The pipeline: messages to batches, batches to commits, commits to acknowledgements in the order of receipt.

While one transaction runs, the next batch fills; nothing waits when it is idle. It knows a session only by
what it must tell it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from gateway import clock, metrics, tracing
from gateway.ingest.batch import Acknowledger, Message, MessageBatch, add_rows, excesses
from gateway.ingest.decode import Decoder, Row
from gateway.ingest.gate import Gate, charge, charge_rows, samples_of
from gateway.ingest.host import Host, ReadMessages, UnreadMessage
from gateway.ingest.quotas import Quotas, Used
from gateway.ingest.upkeep import tell_exceeded, unheard
from gateway.model.backoff import full_jitter
from gateway.model.errors import (
    CustomersLeft,
    DecodeError,
    LeaseLost,
    StoreError,
    StoreRejected,
    TooManyDevices,
)
from gateway.model.moving import MARK
from gateway.model.pressure import Pressure
from gateway.model.quota import Excess, QuotaKind
from gateway.payloads.formats.values import Reason
from gateway.quota_settings import QuotasSettings
from gateway.settings import TelemetrySettings
from gateway.store.telemetry import Sample, TelemetryStore

log = structlog.get_logger(__name__)

BATCH_BYTES = 4 << 20
MESSAGE_OVERHEAD_BYTES = 150
"""What a held message costs beside its topic and payload, roughly."""

UNREAD_FACTOR = 3
"""How much longer a payload of Sparkplug becomes when it is read."""

SAMPLE_OVERHEAD_BYTES = 400
"""What each further sample of a message costs: a short array in JSON is long in memory."""


MAX_MARKS, MAX_MARKS_EACH, MARKS_SECONDS = 100, 50, 10.0
"""Marks that end a batch in so long, and those of one customer: anybody may publish one on topics of his own,
and each costs the others a commit. Whoever waits for one that was too many sends it again.
"""


class Pipeline:
    """Takes messages from one partition's session at a time."""

    def __init__(
        self,
        settings: TelemetrySettings,
        decoder: Decoder,
        store: TelemetryStore,
        pressure: Pressure | None = None,
        *,
        note: Callable[[Sequence[Sample]], None] | None = None,
        resumed: Callable[[], Awaitable[None]] | None = None,
        quotas: Quotas | None = None,
        slowed: Callable[[Excess], None] = unheard,
        host: Host | None = None,
        listener: Callable[[str, bytes], None] | None = None,
        marked: Callable[[Sequence[tuple[str, str]]], Awaitable[None]] | None = None,
    ) -> None:
        """`pressure` is told how long messages wait for their acknowledgement, `note` what was stored,
        `slowed` that reading stands since the customer, who has the partition alone, sent more than its
        quota. `resumed` is asked first where the database had been away. `host` reads what is of Sparkplug;
        `listener` hears of messages that are no telemetry; `marked` of marks (customer, topic), when all
        before them is committed and nothing behind them.
        """
        self._marked = marked
        self._host = host
        self._listener = listener
        self._note = note
        self._resumed = resumed
        self._quotas = quotas or Quotas(QuotasSettings())
        self._tell_slowed = slowed
        self._slowed: asyncio.TimerHandle | None = None
        self._pressure = pressure or Pressure()
        self._settings = settings
        self._decoder = decoder
        self._gate = Gate(decoder, self._quotas)
        self._store = store
        self._current: Acknowledger
        self._open: MessageBatch | None = None
        self._full: deque[MessageBatch] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._held_bytes = 0
        self._held_count = 0
        self._held_qos0 = 0
        self._received_at = 0
        self._paused = False
        self._paused_monotonic = 0.0
        self._away = False
        self._committing: MessageBatch | None = None
        self._idle_monotonic = clock.monotonic()
        self._marks_monotonic, self._marks = -MARKS_SECONDS, Counter[str]()

    def was_idle_since(self, moment: float) -> bool:
        """Whether nothing was in hand at some time since then, by the monotonic clock."""
        return not self.is_holding or self._idle_monotonic >= moment

    def complete_until(self, now: int) -> int:
        """Up to when all that was received is committed, in microseconds."""
        oldest = self._committing or (self._full[0] if self._full else self._open)
        return now if oldest is None or not oldest.count else min(now, oldest.since)

    @property
    def is_holding(self) -> bool:
        """Whether messages wait for their commit: until they are acknowledged the broker may say nothing."""
        return not self._idle.is_set()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing is taken from the broker, or committed, for now."""
        return self._paused or self._away or self._slowed is not None

    @property
    def decoder(self) -> Decoder:
        """What decodes the next message."""
        return self._decoder

    def decode_by(self, decoder: Decoder) -> None:
        """From the next message on; what is in hand is decoded already."""
        self._decoder = decoder
        self._gate = Gate(decoder, self._quotas)

    def receive(self, session: Acknowledger, messages: Sequence[Message]) -> None:
        """Takes what one read brought, in order. Never waits, never raises for what a message holds.

        The time of receipt advances with each sample: two that bring no time of their own are two samples.
        """
        received_at, arrived = max(clock.now_microseconds(), self._received_at), clock.monotonic()
        # mostly nobody is watched: then nobody is asked of a single message
        batch, watched, used = self._batch_for(session), self._quotas.watched, Used()
        decode, weigh, unpacks = self._decoder.decode, self._decoder.weight, self._decoder.unpacks
        acknowledged = taken = taken_bytes = 0
        for message in messages:
            topic, payload, packet_id, is_retained = message
            if packet_id is None:
                if self._held_qos0 >= self._settings.qos0_queue:
                    metrics.MESSAGES.labels("dropped_qos0").inc()
                    continue
                self._held_qos0 += 1
                batch.qos0 += 1
            else:
                batch.acks += b"\x40\x02" + packet_id.to_bytes(2, "big")
                acknowledged += 1
            size, buried = len(topic) + len(payload) + MESSAGE_OVERHEAD_BYTES, len(batch.dead)
            if not payload:
                rows: list[Row] | None = []
            elif watched:
                rows = self._gate.watched(batch, message, received_at, arrived, used)
            else:
                try:
                    rows = decode(topic, payload, received_at, is_retained=is_retained)
                except DecodeError as error:
                    rows = None
                    self._gate.refused(batch, message, error, used)
            if rows is None and len(batch.dead) == buried:
                size = MESSAGE_OVERHEAD_BYTES  # it was dropped, and holds nothing
            elif rows:
                if not watched:  # else each was charged for itself
                    charge_rows(used, rows, weigh(topic, payload) if unpacks else len(payload))
                add_rows(batch, rows, message, received_at)
                received_at += len(rows)
                size += (len(rows) - 1) * SAMPLE_OVERHEAD_BYTES
            elif rows is not None:
                size += self._set_aside(batch, message, received_at, used)
                received_at += 1
            batch.count += 1
            batch.bytes += size
            taken += 1
            taken_bytes += size
            if batch.count >= self._settings.batch_messages or batch.bytes >= BATCH_BYTES:
                batch.arrivals.append((arrived, acknowledged))
                acknowledged = 0
                self._close(batch)
                batch = self._batch_for(session)
        batch.arrivals.append((arrived, acknowledged))
        self._received_at = received_at
        self._holds(session, taken_bytes, taken)
        self._charge(used, arrived)

    def _set_aside(self, batch: MessageBatch, message: Message, received_at: int, used: Used) -> int:
        """Takes what is no telemetry, or is read later. Returns what it holds beside the payload.

        Counted is what is acknowledged and says nothing: an empty message, which takes away what was
        retained, one of a topic that its source leaves out, and a retained one without a time of its own, for
        that was not measured now.
        """
        topic, payload, _, is_retained = message
        if not payload:
            batch.empty += 1
            if MARK in topic and (customer := self._customer_of_mark(topic)) is not None:
                batch.marks.append((customer, topic))
                return BATCH_BYTES  # as large as a batch, so that it ends this one
            return 0
        if not self._decoder.is_ignored(topic):
            batch.retained += 1
            return 0
        mail = self._decoder.mail_of(topic)
        if mail is not None and self._host is not None:
            weight = self._decoder.weight(topic, payload)
            if mail.customer not in self._quotas.watched:  # of whom is watched each is charged already
                charge(used, mail.customer, weight)
            unread = UnreadMessage(
                topic=topic, payload=payload, received_at=received_at, is_retained=is_retained, mail=mail
            )
            batch.unread.append(unread)
            return weight * UNREAD_FACTOR
        if self._listener is not None:
            self._listener(topic, payload)
        batch.ignored += 1
        return 0

    def receive_skipped(
        self, session: Acknowledger, packet_id: int | None, topic: str, kept: bytes, reason: str, detail: str
    ) -> None:
        """Takes, in its turn, a message that could not be read: what is known of it becomes a dead letter."""
        batch = self._batch_for(session)
        if packet_id is not None:
            batch.acks += b"\x40\x02" + packet_id.to_bytes(2, "big")
            batch.arrivals.append((clock.monotonic(), 1))
        customer, now = self._decoder.customer_of(topic), clock.monotonic()
        is_watched = customer in self._quotas.watched
        kind = self._quotas.refusal(customer, len(kept), now) if is_watched else None
        message = (topic, kept, packet_id, False)
        if kind is None:
            batch.dead.append(self._gate.dead(message, reason, detail, customer))
        else:  # what is left of it could not be tried again anyway
            self._gate.over(batch, kind, customer, message, now)
        size = len(topic) + len(kept) + MESSAGE_OVERHEAD_BYTES
        batch.count += 1
        batch.bytes += size
        self._holds(session, size, 1)
        self._charge({} if is_watched else {customer: [1, len(kept)]}, now)

    @property
    def quotas(self) -> Quotas:
        """By which messages are taken."""
        return self._quotas

    def absent(self, seconds: float) -> None:
        """Nothing could be read for so long: what was sent meanwhile is no flood."""
        self._quotas.absent(seconds, clock.monotonic())

    async def run(self) -> None:
        """Commits batches until cancelled. What is in hand then is not acknowledged: the broker keeps it.

        Raises LeaseLost when a batch is a successor's to store.
        """
        try:
            while True:
                await self._filled.wait()
                self._filled.clear()
                while (batch := self._take()) is not None:
                    self._committing = batch
                    with tracing.span("ingest.batch", messages=batch.count, samples=len(batch.samples)):
                        await self._commit(batch)
                    if batch.marks:
                        await self._note_marks(batch.marks)
                    self._release(batch)
                    self._committing = None
                self._idle_monotonic = clock.monotonic()
                self._idle.set()
        finally:
            metrics.INFLIGHT.dec(self._held_count)
            self._idle.set()  # nothing more will be committed here: nobody needs to wait for it
            if self._slowed is not None:
                self._slowed.cancel()
                self._slowed = None

    async def drained(self) -> None:
        """Returns when everything that was received is committed and acknowledged, or `run` has ended."""
        await self._idle.wait()

    def _batch_for(self, session: Acknowledger) -> MessageBatch:
        if self._open is not None and self._open.session is not session:
            self._close(self._open)
        if self._open is None:
            self._open = MessageBatch(session)
        return self._open

    def _close(self, batch: MessageBatch) -> None:
        if batch.count:
            self._full.append(batch)
        self._open = None

    def _holds(self, session: Acknowledger, size: int, count: int) -> None:
        self._current = session
        self._held_bytes += size
        self._held_count += count
        metrics.INFLIGHT.inc(count)
        self._idle.clear()
        self._filled.set()
        if self._held_bytes > self._settings.memory_high_bytes:
            if not self._paused:
                self._paused_monotonic = clock.monotonic()
            self._paused = True
            session.pause()

    def _charge(self, used: Used, now: float) -> None:
        if (slowed := self._quotas.charge(used, now)) is not None:
            self._slow(slowed)

    def _slow(self, excess: Excess) -> None:
        """Reads nothing until its customer, who has this partition alone, is within its quota again: what it
        sends meanwhile stays at the broker, unacknowledged.
        """
        behind = excess.slowed_seconds
        loop = asyncio.get_running_loop()
        if self._slowed is not None:  # what was read already when it was asked to stand
            self._slowed.cancel()
            excess = replace(
                excess, slowed_seconds=max(0.0, excess.slowed_seconds - self._slowed.when() + loop.time())
            )
        self._current.pause()
        self._slowed = loop.call_later(behind, self._speed_up)
        self._tell_slowed(excess)

    def _speed_up(self) -> None:
        self._slowed = None
        if not self._paused:
            self._current.resume()

    def _take(self) -> MessageBatch | None:
        if self._full:
            return self._full.popleft()
        batch = self._open
        if batch is None or not batch.count:
            return None
        self._open = None
        return batch

    async def _read_sparkplug(self, batch: MessageBatch) -> ReadMessages | None:
        """Reads the batch's messages of Sparkplug; None where it has none. Raises StoreError, and nothing has
        changed then.
        """
        if not batch.unread or self._host is None:
            return None
        read = await self._host.read(batch.unread, self._decoder)
        batch.unread = []
        more: Used = {}
        for taken in read.taken:
            for customer, count in samples_of(taken.rows).items():
                charge(more, customer, 0, count - 1)  # for one it was charged when it came
            message = (taken.arrival.topic, taken.arrival.raw, None, False)
            add_rows(batch, taken.rows, message, taken.arrival.received_at)
        for dead in read.dead.values():
            self._gate.bury(batch, dead)
        self._charge(more, clock.monotonic())
        return read

    def _customer_of_mark(self, topic: str) -> str | None:
        """None where it is nobody's, or one too many."""
        customer, now = self._decoder.customer_of(topic), clock.monotonic()
        if now - self._marks_monotonic > MARKS_SECONDS:
            self._marks_monotonic = now
            self._marks.clear()
        if customer is None or self._marks[customer] == MAX_MARKS_EACH or self._marks.total() == MAX_MARKS:
            return None
        self._marks[customer] += 1
        return customer

    async def _note_marks(self, marks: Sequence[tuple[str, str]]) -> None:
        """Before the next batch is committed, and before they are acknowledged: where the log ends now is
        where the mark stands in it, and one that was not noted comes again.
        """
        attempt = 0
        while self._marked is not None:
            try:
                await self._marked(marks)
            except StoreError as error:
                attempt += 1
                await self._defer(error, attempt)
            else:
                return

    async def _read_waiting(self, batch: MessageBatch) -> ReadMessages | None:
        """As `_read_sparkplug`; a database that is away is waited for."""
        attempt = 0
        while True:
            try:
                return await self._read_sparkplug(batch)
            except StoreError as error:
                attempt += 1
                await self._defer(error, attempt)

    async def _defer(self, error: StoreError, attempt: int) -> None:
        """Waits for a database that is away, and says so once."""
        if not self._away:
            log.warning(
                "ingest.commit_deferred",
                detail=str(error),
                advice="messages stay at the broker; ingest resumes by itself",
            )
            self._away = True
        await asyncio.sleep(full_jitter(attempt, rand=random.random(), base_seconds=0.1, cap_seconds=1.0))

    async def _commit(self, batch: MessageBatch) -> None:
        """Returns when the batch is stored: a database that is away is waited for, what it refuses is buried.
        Raises LeaseLost: what is not stored by then is a successor's to store.
        """
        read = await self._read_waiting(batch)
        also = None if read is None else read.store
        samples = list(batch.samples.values())
        attempt = kept = stored = modified = 0
        while True:
            started = clock.monotonic()
            try:
                written = await self._store.write(samples, batch.dead, excesses(batch), also=also)
            except TooManyDevices as error:
                samples = self._refuse(batch, samples, error.devices)
                continue
            except CustomersLeft as error:
                samples = _without(batch, read, samples, error)
                continue
            except StoreRejected:
                if not samples:
                    raise  # no sample's fault: nothing would ever change
                kept, stored, modified = await self._isolate(batch, read, samples)
                samples = []
                continue
            except LeaseLost:
                raise  # waiting would not bring it back
            except StoreError as error:
                attempt += 1
                await self._defer(error, attempt)
                continue
            break
        if read is not None and self._host is not None:
            self._host.settle(read)
        if self._away:
            self._away = False
            log.info("ingest.commits_resumed")
            if self._resumed is not None:
                with suppress(StoreError):
                    await self._resumed()
        tell_exceeded(written.exceeded)
        if self._note is not None:
            self._note(samples)
        metrics.COMMIT_SECONDS.observe(clock.monotonic() - started)
        metrics.BATCH_SAMPLES.observe(len(batch.samples))
        kept, stored, modified = kept + len(samples), stored + written.stored, modified + written.modified
        duplicate = kept - stored - modified + batch.duplicates
        metrics.TELEMETRY_ROWS.inc(stored + modified)
        for outcome, count in (
            ("stored", stored),
            ("modified", modified + batch.modified),
            ("duplicate", duplicate),
            ("dead_letter", len(batch.dead)),
            ("ignored_empty", batch.empty),
            ("ignored_retained", batch.retained),
            ("ignored_topic", batch.ignored),
            ("dropped_over_quota", sum(one.dropped for one in batch.excess.values())),
        ):
            if count:
                metrics.MESSAGES.labels(outcome).inc(count)

    def _refuse(
        self, batch: MessageBatch, samples: list[Sample], devices: frozenset[tuple[str, str]]
    ) -> list[Sample]:
        """Buries the messages of these devices, as far as there is room for what is over quota; the samples
        of all others.
        """
        now = clock.monotonic()
        # each message once, of however many samples
        refused = {id(m): (key[0], m) for key, m in batch.messages if (key[0], key[1]) in devices}
        for customer, message in refused.values():
            self._gate.over(batch, QuotaKind.DEVICES, customer, message, now, reason=Reason.TOO_MANY_DEVICES)
        return [sample for sample in samples if (sample[0][0], sample[0][1]) not in devices]

    async def _isolate(
        self, batch: MessageBatch, read: ReadMessages | None, samples: list[Sample]
    ) -> tuple[int, int, int]:
        """Finds what the database refuses by bisection and adds it to the batch's dead; all else is stored:
        how many samples, new rows and changed ones.
        """
        attempt = kept = stored = modified = 0
        parts = [samples]
        while parts:
            part = parts.pop()
            try:
                written = await self._store.write(part, ())
            except TooManyDevices as error:
                parts.append(self._refuse(batch, part, error.devices))
            except CustomersLeft as error:
                parts.append(_without(batch, read, part, error))
            except StoreRejected as refusal:
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                key = part[0][0]
                detail = str(refusal)
                dead = [
                    self._gate.dead(message, Reason.REFUSED_BY_DATABASE, detail, key[0])
                    for k, message in batch.messages
                    if k == key
                ]
                batch.dead += dead
                log.warning("ingest.message_refused_by_database", detail=detail, messages=len(dead))
            except LeaseLost:
                raise
            except StoreError as error:
                parts.append(part)
                attempt += 1
                await self._defer(error, attempt)
            else:
                if self._note is not None:
                    self._note(part)
                kept, stored, modified = (
                    kept + len(part),
                    stored + written.stored,
                    modified + written.modified,
                )
        return kept, stored, modified

    def _release(self, batch: MessageBatch) -> None:
        if batch.acks and batch.session.acknowledge(bytes(batch.acks)):
            now = clock.monotonic()
            if batch.arrivals:
                self._pressure.note(now - batch.arrivals[0][0], now=now)
            for arrived, count in batch.arrivals:
                if count:
                    metrics.ACK_SECONDS.observe(now - arrived, count)
        self._held_bytes -= batch.bytes
        self._held_qos0 -= batch.qos0
        self._held_count -= batch.count
        metrics.INFLIGHT.dec(batch.count)
        if self._paused and self._held_bytes < self._settings.memory_low_bytes:
            self._paused = False
            self.absent(clock.monotonic() - self._paused_monotonic)
            if self._slowed is None:
                self._current.resume()


def _without(
    batch: MessageBatch, read: ReadMessages | None, samples: list[Sample], left: CustomersLeft
) -> list[Sample]:
    """The samples that are not of customers that moved to another gateway; nor is anything else of theirs
    stored with the batch. It took, before they left, a subscription of its own: what comes here after that
    has come there as well.
    """
    kept = [sample for sample in samples if sample[0][0] not in left.customers]
    if len(kept) == len(samples):
        raise StoreError(str(left)) from left  # never the same again, for ever
    dead = len(batch.dead)
    batch.leave_out(left.customers)
    if read is not None:
        read.leave_out(left.customers)
    metrics.MESSAGES.labels("moved").inc(len(samples) - len(kept) + dead - len(batch.dead))
    return kept
