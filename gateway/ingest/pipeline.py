"""The pipeline: messages to batches, batches to commits, commits to acknowledgements in the order of receipt.

While one transaction runs, the next batch fills; nothing waits when it is idle. How a batch is stored is in
`gateway.ingest.commit`, when reading stands in `gateway.ingest.in_hand`. It knows a session only by what it
must tell it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from gateway import clock, metrics, tracing
from gateway.ingest.batch import Acknowledger, Message, MessageBatch, add_rows
from gateway.ingest.commit import Committer
from gateway.ingest.decode import Decoder, Row
from gateway.ingest.gate import Gate, charge, charge_rows
from gateway.ingest.host import Host, UnreadMessage
from gateway.ingest.in_hand import InHand
from gateway.ingest.marks import MarkLimit
from gateway.ingest.quotas import Quotas, Used
from gateway.ingest.upkeep import unheard
from gateway.model.errors import DecodeError
from gateway.model.moving import MARK
from gateway.model.pressure import Pressure
from gateway.model.quota import Excess
from gateway.quota_settings import QuotasSettings
from gateway.settings import TelemetrySettings
from gateway.store.telemetry import Sample, TelemetryStore

BATCH_BYTES = 4 << 20
MESSAGE_OVERHEAD_BYTES = 150
"""What a held message costs beside its topic and payload, roughly."""

UNREAD_FACTOR = 3
"""How much longer a payload of Sparkplug becomes when it is read."""

SAMPLE_OVERHEAD_BYTES = 400
"""What each further sample of a message costs: a short array in JSON is long in memory."""


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
        self._host = host
        self._listener = listener
        self._quotas = quotas or Quotas(QuotasSettings())
        self._pressure = pressure or Pressure()
        self._settings = settings
        self._decoder = decoder
        self._gate = Gate(decoder, self._quotas)
        self._in_hand = InHand(settings, absent=self.absent, slowed=slowed)
        self._committer = Committer(
            store, self._gate, host=host, charge=self._charge, note=note, resumed=resumed, marked=marked
        )
        self._marks = MarkLimit()
        self._open: MessageBatch | None = None
        self._full: deque[MessageBatch] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._received_at = 0
        self._committing: MessageBatch | None = None
        self._idle_monotonic = clock.monotonic()

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
        return self._committer.is_away or not self._in_hand.is_reading

    @property
    def decoder(self) -> Decoder:
        """What decodes the next message."""
        return self._decoder

    def decode_by(self, decoder: Decoder) -> None:
        """From the next message on; what is in hand is decoded already."""
        self._decoder = decoder
        self._gate.decode_by(decoder)

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
                if self._in_hand.qos0 >= self._settings.qos0_queue:
                    metrics.MESSAGES.labels("dropped_qos0").inc()
                    continue
                self._in_hand.qos0 += 1
                batch.qos0 += 1
            else:
                batch.acks += b"\x40\x02" + packet_id.to_bytes(2, "big")
                acknowledged += 1
            size, dead_before = len(topic) + len(payload) + MESSAGE_OVERHEAD_BYTES, len(batch.dead)
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
            if rows is None and len(batch.dead) == dead_before:
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
                batch = self._batch_after(batch)
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
            customer = self._decoder.customer_of(topic) if MARK in topic else None
            if customer is not None and self._marks.takes(customer):
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
                        await self._committer.commit(batch)
                    if batch.marks:
                        await self._committer.note_marks(batch.marks)
                    self._release(batch)
                    self._committing = None
                self._idle_monotonic = clock.monotonic()
                self._idle.set()
        finally:
            self._in_hand.end()
            self._idle.set()  # nothing more will be committed here: nobody needs to wait for it

    async def drained(self) -> None:
        """Returns when everything that was received is committed and acknowledged, or `run` has ended."""
        await self._idle.wait()

    def _batch_for(self, session: Acknowledger) -> MessageBatch:
        if self._open is not None and self._open.session is not session:
            self._close(self._open)
        if self._open is None:
            self._open = MessageBatch(session)
        return self._open

    def _batch_after(self, batch: MessageBatch) -> MessageBatch:
        self._close(batch)
        return self._batch_for(batch.session)

    def _close(self, batch: MessageBatch) -> None:
        if batch.count:
            self._full.append(batch)
        self._open = None

    def _holds(self, session: Acknowledger, size: int, count: int) -> None:
        self._idle.clear()
        self._filled.set()
        self._in_hand.add(session, size, count)

    def _charge(self, used: Used, now: float) -> None:
        if (slowed := self._quotas.charge(used, now)) is not None:
            self._in_hand.slow(slowed)

    def _take(self) -> MessageBatch | None:
        if self._full:
            return self._full.popleft()
        batch = self._open
        if batch is None or not batch.count:
            return None
        self._open = None
        return batch

    def _release(self, batch: MessageBatch) -> None:
        if batch.acks and batch.session.acknowledge(bytes(batch.acks)):
            now = clock.monotonic()
            if batch.arrivals:
                self._pressure.note(now - batch.arrivals[0][0], now=now)
            for arrived, count in batch.arrivals:
                if count:
                    metrics.ACK_SECONDS.observe(now - arrived, count)
        self._in_hand.remove(batch)
