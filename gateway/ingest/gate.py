"""The gate decides what of a message becomes part of its batch: its samples, a dead letter where it cannot be
decoded or is over a quota of its customer, or only a count where there is no room for a dead letter either.
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
    """The gate of one partition. A reload replaces its decoder."""

    def __init__(self, decoder: Decoder, quotas: Quotas) -> None:
        self.decoder = decoder
        self._quotas = quotas

    def decode_by(self, decoder: Decoder) -> None:
        """Decodes by this from the next message on."""
        self.decoder = decoder

    def decode_watched(
        self, batch: MessageBatch, message: Message, received_at: int, arrived: float, used: Used
    ) -> list[Row] | None:
        """Decodes a message while some customer is watched. Returns the rows that are taken, None where none
        is. Watched customers are charged here, message by message; what the others sent is added to `used`.
        """
        topic, payload, _, is_retained = message
        watched = self._quotas.watched
        named = self.decoder.customer_of(topic)  # None where only the payload names the customer
        weight = self.decoder.weight(topic, payload)
        if named is not None and named in watched:
            kind = self._quotas.refusal(named, weight, arrived)
            if kind is not None:
                self.keep_or_drop(batch, kind, named, message, arrived)
                return None
        try:
            rows = self.decoder.decode(topic, payload, received_at, is_retained=is_retained)
        except DecodeError as error:
            if named is None and named in watched:
                kind = self._quotas.refusal(None, weight, arrived)
                if kind is not None:
                    self.keep_or_drop(batch, kind, None, message, arrived)
                    return None
            self.take_undecodable(batch, message, error, {} if named in watched else used)
            return None
        for customer, count in samples_of(rows).items():
            if customer not in watched:
                charge(used, customer, weight, count)
                continue
            if named is not None:  # charged for one sample above, before it was decoded
                self._quotas.add(customer, count - 1, arrived)
                continue
            kind = self._quotas.refusal(customer, weight, arrived, count)
            if kind is not None:
                self.keep_or_drop(batch, kind, customer, message, arrived)
                rows = [row for row in rows if row[0] != customer]
                if not rows:
                    return None
        return rows

    def take_undecodable(self, batch: MessageBatch, message: Message, error: DecodeError, used: Used) -> None:
        """Takes a message of which nothing can be decoded: as a dead letter, or as one over quota where the
        customer already has too many of these.
        """
        topic, payload, _, _ = message
        customer, now = self.decoder.customer_of(topic), clock.monotonic()
        charge(used, customer, self.decoder.weight(topic, payload))
        if self._quotas.takes_dead_letter(customer, topic, len(payload), now):
            batch.dead.append(self.dead_letter(message, error.reason, error.detail, customer))
        else:
            self.keep_or_drop(batch, QuotaKind.BYTES, customer, message, now)

    def keep_or_drop(
        self,
        batch: MessageBatch,
        kind: QuotaKind,
        customer: str | None,
        message: Message,
        now: float,
        *,
        reason: Reason = Reason.OVER_QUOTA,
    ) -> None:
        """Takes a message that is over a quota: keeps it as a dead letter where there is room, and drops it
        where there is none. The batch counts both.
        """
        tally = batch.excess.get((customer, kind))
        if tally is None:
            tally = batch.excess[customer, kind] = Tally(self._quotas.of(customer).allowed(kind))
        size = len(message[1])
        if self._quotas.takes_over_quota(customer, message[0], size, now):
            tally.dead_letters += 1
            detail = f"over quotas.{kind} of its customer ({tally.allowed:g})"
            batch.dead.append(self.dead_letter(message, reason, detail, customer))
        else:
            tally.dropped += 1
            tally.dropped_bytes += size

    def dead_letter(self, message: Message, reason: str, detail: str, customer: str | None) -> DeadMessage:
        """The dead letter of a message, with the source that its topic belongs to."""
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

    def take_unreadable(self, batch: MessageBatch, dead: DeadMessage) -> None:
        """As `take_undecodable`, for a message of Sparkplug, which is read when its batch is committed. One
        that waits for a birth is always kept: it may be read yet.
        """
        now, message = clock.monotonic(), (dead.topic, dead.payload, None, False)
        waits = dead.reason in WAITS_FOR_BIRTH
        if waits or self._quotas.takes_dead_letter(dead.customer, dead.topic, len(dead.payload), now):
            batch.dead.append(self.dead_letter(message, dead.reason, dead.detail, dead.customer))
        else:
            self.keep_or_drop(batch, QuotaKind.BYTES, dead.customer, message, now)


def charge(used: Used, customer: str | None, size: int, count: int = 1) -> None:
    """Adds a message of this customer to `used`; it counts as `count` messages."""
    mine = used.get(customer)
    if mine is None:
        used[customer] = [count, size]
    else:
        mine[0] += count
        mine[1] += size


def samples_of(rows: Sequence[Row]) -> Mapping[str, int]:
    """How many samples of each customer. A message counts as so many messages, for a sample costs the
    database the same in whichever message it came.
    """
    return Counter(row[0] for row in rows)


def charge_rows(used: Used, rows: Sequence[Row], size: int) -> None:
    """Adds a decoded message to `used`: for each of its customers as many messages as samples."""
    if len(rows) == 1:  # most messages: they do without the calls below, which cost more than the rest
        mine = used.get(rows[0][0])
        if mine is None:
            used[rows[0][0]] = [1, size]
        else:
            mine[0] += 1
            mine[1] += size
        return
    for customer, count in samples_of(rows).items():
        charge(used, customer, size, count)
