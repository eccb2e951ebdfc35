"""The pipeline gathers messages into batches, commits each batch, and then acknowledges its messages in the
order of receipt.

While one transaction runs the next batch fills. There is no timer: an idle pipeline commits a message at
once. How a batch is stored is in `gateway.ingest.commit`, when reading pauses in `gateway.ingest.in_hand`.
The pipeline knows of a session only what `Acknowledger` says.
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
from gateway.ingest.upkeep import ignore_excess
from gateway.model.errors import DecodeError
from gateway.model.moving import MARK
from gateway.model.pressure import Pressure
from gateway.model.quota import Excess
from gateway.quota_settings import QuotasSettings
from gateway.settings import TelemetrySettings
from gateway.store.telemetry import Sample, TelemetryStore

BATCH_BYTES = 4 << 20
MESSAGE_OVERHEAD_BYTES = 150
"""About how much memory a held message takes beside its topic and payload."""

UNREAD_FACTOR = 3
"""About how many times its length a payload of Sparkplug takes in memory when it is read."""

SAMPLE_OVERHEAD_BYTES = 400
"""What each further sample of a message takes: a short array in JSON is long in memory."""


class Pipeline:
    """The pipeline of one partition, which has one session at a time."""

    def __init__(
        self,
        settings: TelemetrySettings,
        decoder: Decoder,
        store: TelemetryStore,
        pressure: Pressure | None = None,
        *,
        on_stored: Callable[[Sequence[Sample]], None] | None = None,
        on_database_back: Callable[[], Awaitable[None]] | None = None,
        quotas: Quotas | None = None,
        on_slowed: Callable[[Excess], None] = ignore_excess,
        host: Host | None = None,
        on_no_telemetry: Callable[[str, bytes], None] | None = None,
        on_marks: Callable[[Sequence[tuple[str, str]]], Awaitable[None]] | None = None,
    ) -> None:
        """`pressure` is told how long messages wait for their acknowledgement; `host` reads messages of
        Sparkplug. What is called, and when:

        - `on_stored`: the samples of a batch are committed.
        - `on_database_back`: the first commit after the database was away has succeeded, before `on_stored`.
        - `on_slowed`: reading pauses, for the customer that has the partition alone is over its quota.
        - `on_no_telemetry`: a message came (topic, payload) that no source takes as telemetry.
        - `on_marks`: marks (customer, topic) came; all before them is committed, and nothing behind them.
        """
        self._host = host
        self._on_no_telemetry = on_no_telemetry
        self._quotas = quotas or Quotas(QuotasSettings())
        self._pressure = pressure or Pressure()
        self._settings = settings
        self._decoder = decoder
        self._gate = Gate(decoder, self._quotas)
        self._in_hand = InHand(settings, on_unread=self.grant_grace, on_slowed=on_slowed)
        self._committer = Committer(
            store,
            self._gate,
            host=host,
            charge=self._charge,
            on_stored=on_stored,
            on_database_back=on_database_back,
            on_marks=on_marks,
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
        """Whether at some time since `moment` (monotonic) nothing was in hand."""
        return not self.is_holding or self._idle_monotonic >= moment

    def complete_until(self, now: int) -> int:
        """Up to when all that was received is committed: `now`, or where something is in hand the time at
        which the oldest batch was opened. In microseconds since the epoch.
        """
        oldest = self._committing or (self._full[0] if self._full else self._open)
        if oldest is None or not oldest.count:
            return now
        return min(now, oldest.opened_at)

    @property
    def is_holding(self) -> bool:
        """Whether messages wait for their commit: until they are acknowledged the broker may say nothing."""
        return not self._idle.is_set()

    @property
    def is_stuck(self) -> bool:
        """Whether the database is away or reading pauses: for now nothing goes on here."""
        return self._committer.is_away or not self._in_hand.is_reading

    @property
    def decoder(self) -> Decoder:
        """What decodes the next message."""
        return self._decoder

    def decode_by(self, decoder: Decoder) -> None:
        """Decodes by this from the next message on. What is in hand is decoded already."""
        self._decoder = decoder
        self._gate.decode_by(decoder)

    def receive(self, session: Acknowledger, messages: Sequence[Message]) -> None:
        """Takes what one read brought, in order. Never waits, never raises for what a message holds.

        The time of receipt advances with each sample: two that bring no time of their own are two samples.
        """
        received_at, arrived = max(clock.now_microseconds(), self._received_at), clock.monotonic()
        # `watched` is mostly empty: then no quota is asked for any message, and all are charged below.
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
                rows = self._gate.decode_watched(batch, message, received_at, arrived, used)
            else:
                try:
                    rows = decode(topic, payload, received_at, is_retained=is_retained)
                except DecodeError as error:
                    rows = None
                    self._gate.take_undecodable(batch, message, error, used)
            if rows is None and len(batch.dead) == dead_before:
                size = MESSAGE_OVERHEAD_BYTES  # it was dropped: nothing of it is held
            elif rows:
                if not watched:  # else the gate has charged each message
                    charge_rows(used, rows, weigh(topic, payload) if unpacks else len(payload))
                add_rows(batch, rows, message, received_at)
                received_at += len(rows)
                size += (len(rows) - 1) * SAMPLE_OVERHEAD_BYTES
            elif rows is not None:
                size += self._take_without_samples(batch, message, received_at, used)
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
        self._add_in_hand(session, taken_bytes, taken)
        self._charge(used, arrived)

    def _take_without_samples(
        self, batch: MessageBatch, message: Message, received_at: int, used: Used
    ) -> int:
        """Takes a message of which nothing was decoded. Returns how many bytes are held for it beside its
        payload.

        Some mean something all the same: a mark ends its batch, and a message of Sparkplug is read when the
        batch is committed. The others are only counted: an empty message, which clears what the broker had
        retained; one of a topic that its source leaves out; and a retained one without a time of its own,
        which was not measured now.
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
        node_topic = self._decoder.node_topic_of(topic)
        if node_topic is not None and self._host is not None:
            weight = self._decoder.weight(topic, payload)
            if node_topic.customer not in self._quotas.watched:  # else the gate has charged it
                charge(used, node_topic.customer, weight)
            unread = UnreadMessage(
                topic=topic,
                payload=payload,
                received_at=received_at,
                is_retained=is_retained,
                node_topic=node_topic,
            )
            batch.unread.append(unread)
            return weight * UNREAD_FACTOR
        if self._on_no_telemetry is not None:
            self._on_no_telemetry(topic, payload)
        batch.ignored += 1
        return 0

    def receive_skipped(
        self, session: Acknowledger, packet_id: int | None, topic: str, kept: bytes, reason: str, detail: str
    ) -> None:
        """Takes, in the order of receipt, a packet that could not be read: what is kept of it becomes a dead
        letter.
        """
        batch = self._batch_for(session)
        if packet_id is not None:
            batch.acks += b"\x40\x02" + packet_id.to_bytes(2, "big")
            batch.arrivals.append((clock.monotonic(), 1))
        customer = self._decoder.customer_of(topic)
        now = clock.monotonic()
        is_watched = customer in self._quotas.watched
        kind = self._quotas.refusal(customer, len(kept), now) if is_watched else None
        message = (topic, kept, packet_id, False)
        if kind is None:
            batch.dead.append(self._gate.dead_letter(message, reason, detail, customer))
        else:  # only a part of the message is left, which could not be tried again anyway
            self._gate.keep_or_drop(batch, kind, customer, message, now)
        size = len(topic) + len(kept) + MESSAGE_OVERHEAD_BYTES
        batch.count += 1
        batch.bytes += size
        self._add_in_hand(session, size, 1)
        self._charge({} if is_watched else {customer: [1, len(kept)]}, now)

    @property
    def quotas(self) -> Quotas:
        """The quotas by which messages are taken."""
        return self._quotas

    def grant_grace(self, seconds: float) -> None:
        """Nothing could be read for so many seconds: what devices sent meanwhile counts as no flood."""
        self._quotas.grant_grace(seconds, clock.monotonic())

    async def run(self) -> None:
        """Commits batches until cancelled. What is in hand then is not acknowledged: the broker keeps it.

        Raises LeaseLost when a batch is a successor's to store.
        """
        try:
            while True:
                await self._filled.wait()
                self._filled.clear()
                while (batch := self._next_batch()) is not None:
                    self._committing = batch
                    with tracing.span("ingest.batch", messages=batch.count, samples=len(batch.samples)):
                        await self._committer.commit(batch)
                    if batch.marks:
                        await self._committer.note_marks(batch.marks)
                    self._acknowledge(batch)
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

    def _add_in_hand(self, session: Acknowledger, size: int, count: int) -> None:
        self._idle.clear()
        self._filled.set()
        self._in_hand.add(session, size, count)

    def _charge(self, used: Used, now: float) -> None:
        slowed = self._quotas.charge(used, now)
        if slowed is not None:
            self._in_hand.slow(slowed)

    def _next_batch(self) -> MessageBatch | None:
        if self._full:
            return self._full.popleft()
        batch = self._open
        if batch is None or not batch.count:
            return None
        self._open = None
        return batch

    def _acknowledge(self, batch: MessageBatch) -> None:
        if batch.acks and batch.session.acknowledge(bytes(batch.acks)):
            now = clock.monotonic()
            if batch.arrivals:
                self._pressure.note(now - batch.arrivals[0][0], now=now)
            for arrived, count in batch.arrivals:
                if count:
                    metrics.ACK_SECONDS.observe(now - arrived, count)
        self._in_hand.remove(batch)
