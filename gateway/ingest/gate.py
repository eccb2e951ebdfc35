"""Where a message becomes a part of its batch, or does not: decoded as far as its customer's quotas go, a
dead letter where it cannot be decoded or is over one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gateway import clock
from gateway.ingest.batch import Message, MessageBatch, Tally
from gateway.ingest.decode import Decoder, Row
from gateway.ingest.quotas import Quotas, Used
from gateway.model.errors import DecodeError
from gateway.model.quota import QuotaKind
from gateway.payloads.formats.values import WAITS_FOR_BIRTH, Reason
from gateway.store.dead_messages import DeadMessage


class Gate:
    """One partition's: a decoder, which a reload replaces, under its quotas."""

    def __init__(self, decoder: Decoder, quotas: Quotas) -> None:
        self.decoder = decoder
        self._quotas = quotas

    def decode_by(self, decoder: Decoder) -> None:
        """From the next message on."""
        self.decoder = decoder

    def watched(
        self, batch: MessageBatch, message: Message, received_at: int, arrived: float, used: Used
    ) -> list[Row] | None:
        """As decoding it, while somebody is over quota: None where nothing of the message is taken. Who is
        watched is charged here, message by message.
        """
        topic, payload, _, is_retained = message
        watched, named = self._quotas.watched, self.decoder.customer_of(topic)
        weight = self.decoder.weight(topic, payload)
        if (
            named is not None
            and named in watched
            and (kind := self._quotas.refusal(named, weight, arrived)) is not None
        ):
            self.over(batch, kind, named, message, arrived)
            return None
        try:
            rows = self.decoder.decode(topic, payload, received_at, is_retained=is_retained)
        except DecodeError as error:
            if named is None and named in watched:
                kind = self._quotas.refusal(None, weight, arrived)
                if kind is not None:
                    self.over(batch, kind, None, message, arrived)
                    return None
            self.refused(batch, message, error, {} if named in watched else used)
            return None
        for customer, count in samples_of(rows).items():
            if customer not in watched:
                charge(used, customer, weight, count)
            elif named is not None:  # for one it was charged already
                self._quotas.add(customer, count - 1, arrived)
            elif (kind := self._quotas.refusal(customer, weight, arrived, count)) is not None:
                self.over(batch, kind, customer, message, arrived)
                rows = [row for row in rows if row[0] != customer]
                if not rows:
                    return None
        return rows

    def refused(self, batch: MessageBatch, message: Message, error: DecodeError, used: Used) -> None:
        """Nothing of the message can be taken: it becomes a dead letter, unless too much is that already."""
        topic, payload, _, _ = message
        customer, now = self.decoder.customer_of(topic), clock.monotonic()
        charge(used, customer, self.decoder.weight(topic, payload))
        if self._quotas.takes_dead_letter(customer, topic, len(payload), now):
            batch.dead.append(self.dead(message, error.reason, error.detail, customer))
        else:
            self.over(batch, QuotaKind.BYTES, customer, message, now)

    def over(
        self,
        batch: MessageBatch,
        kind: QuotaKind,
        customer: str | None,
        message: Message,
        now: float,
        *,
        reason: Reason = Reason.OVER_QUOTA,
    ) -> None:
        """The message is over a quota: it is told with its batch, kept as a dead letter where there is room,
        and dropped where not.
        """
        tally = batch.excess.get((customer, kind))
        if tally is None:
            tally = batch.excess[customer, kind] = Tally(self._quotas.of(customer).allowed(kind))
        size = len(message[1])
        if self._quotas.keeps(customer, message[0], size, now):
            tally.dead_letters += 1
            detail = f"over quotas.{kind} of its customer ({tally.allowed:g})"
            batch.dead.append(self.dead(message, reason, detail, customer))
        else:
            tally.dropped += 1
            tally.dropped_bytes += size

    def dead(self, message: Message, reason: str, detail: str, customer: str | None) -> DeadMessage:
        """A message that is kept as a dead letter, with the source that its topic belongs to."""
        topic, payload, _, is_retained = message
        source = self.decoder.source_of(topic)
        return DeadMessage(
            topic=topic,
            payload=payload,
            reason=reason,
            detail=detail,
            customer=customer,
            source=None if source is None else source.source.topic,
            is_retained=is_retained,
        )

    def unread(self, batch: MessageBatch, dead: DeadMessage) -> None:
        """A message of Sparkplug, read with its batch, is a dead letter, unless too much is that already. One
        that waits for what comes before it is kept: it may be read yet.
        """
        now, message = clock.monotonic(), (dead.topic, dead.payload, None, False)
        waits = dead.reason in WAITS_FOR_BIRTH
        if waits or self._quotas.takes_dead_letter(dead.customer, dead.topic, len(dead.payload), now):
            batch.dead.append(self.dead(message, dead.reason, dead.detail, dead.customer))
        else:
            self.over(batch, QuotaKind.BYTES, dead.customer, message, now)


def charge(used: Used, customer: str | None, size: int, count: int = 1) -> None:
    """Notes a message of this customer, which counts as `count`."""
    mine = used.get(customer)
    if mine is None:
        used[customer] = [count, size]
    else:
        mine[0] += count
        mine[1] += size


def samples_of(rows: Sequence[Row]) -> Mapping[str, int]:
    """How many samples of each customer. So many messages a message counts as: in the database a sample costs
    what it costs, however it came.
    """
    return Counter(row[0] for row in rows)


def charge_rows(used: Used, rows: Sequence[Row], size: int) -> None:
    """A message counts for each customer that it names, mostly one, as often as it has samples of it."""
    if len(rows) == 1:  # as most messages have: without a call for each
        mine = used.get(rows[0][0])
        if mine is None:
            used[rows[0][0]] = [1, size]
        else:
            mine[0] += 1
            mine[1] += size
        return
    for customer, count in samples_of(rows).items():
        charge(used, customer, size, count)
