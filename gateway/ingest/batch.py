"""A batch: the messages of one connection to the broker that one transaction stores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from gateway import clock
from gateway.ingest.decode import Row
from gateway.ingest.host import UnreadMessage
from gateway.model.quota import Excess, QuotaKind
from gateway.model.sample import Metrics
from gateway.store.dead_messages import DeadMessage
from gateway.store.telemetry import Key, Sample

Message = tuple[str, bytes, int | None, bool]
"""topic, payload, packet id (None at QoS 0), whether the broker sent it as retained."""


class Acknowledger(Protocol):
    """One TCP connection: what arrived on it is acknowledged on it, or not at all."""

    def acknowledge(self, packets: bytes) -> bool:
        """Writes PUBACKs; False when the connection is gone (the broker will send the messages again)."""
        ...

    def pause(self) -> None:
        """Reads no more for now."""
        ...

    def resume(self) -> None:
        """Reads on."""
        ...


class Tally:
    """Counts the messages of a batch that are over one quota of one customer."""

    __slots__ = ("allowed", "dead_letters", "dropped", "dropped_bytes")

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.dead_letters = self.dropped = self.dropped_bytes = 0


class MessageBatch:
    """Messages of one connection that are committed together."""

    __slots__ = (
        "acks",
        "arrivals",
        "bytes",
        "count",
        "dead",
        "duplicates",
        "empty",
        "excess",
        "ignored",
        "marks",
        "messages",
        "modified",
        "opened_at",
        "qos0",
        "retained",
        "samples",
        "session",
        "unread",
    )

    def __init__(self, session: Acknowledger) -> None:
        self.session = session
        self.opened_at = clock.now_microseconds()
        self.samples: dict[Key, Sample] = {}
        # The message that each sample came with: the database may refuse the sample yet.
        self.messages: list[tuple[Key, Message]] = []
        self.dead: list[DeadMessage] = []
        self.unread: list[UnreadMessage] = []  # of Sparkplug, read when the batch is committed
        self.excess: dict[tuple[str | None, QuotaKind], Tally] = {}
        self.acks = bytearray()
        self.arrivals: list[tuple[float, int]] = []  # (monotonic receipt, QoS 1 messages) of each read
        # (customer, topic) of a mark that tells how far the session was read. A mark ends its batch.
        self.marks: list[tuple[str, str]] = []
        self.bytes = 0
        self.count = 0
        self.qos0 = 0
        self.duplicates = 0
        self.modified = 0
        self.empty = 0
        self.ignored = 0
        self.retained = 0

    def leave_out(self, customers: Collection[str]) -> None:
        """Drops the dead letters and the excesses of these customers, not their samples."""
        self.dead = [one for one in self.dead if one.customer not in customers]
        self.excess = {key: tally for key, tally in self.excess.items() if key[0] not in customers}


def excesses(batch: MessageBatch) -> list[Excess]:
    """What of the batch was over quotas, as it is stored."""
    return [
        Excess(
            customer=customer,
            kind=kind,
            allowed=tally.allowed,
            dead_letters=tally.dead_letters,
            dropped=tally.dropped,
            dropped_bytes=tally.dropped_bytes,
        )
        for (customer, kind), tally in batch.excess.items()
    ]


def add_rows(batch: MessageBatch, rows: Sequence[Row], message: Message, received_at: int) -> None:
    """Adds the samples of one message. Two with the same key become one, merged in the order of receipt."""
    for customer, device, at, values in rows:
        key = (customer, device, at)
        held = batch.samples.get(key)
        if held is None:
            batch.samples[key] = (key, values, received_at)
        elif _adds_nothing(held[1], values):
            batch.duplicates += 1
        else:
            batch.samples[key] = (key, {**held[1], **values}, received_at)
            batch.modified += 1
        batch.messages.append((key, message))


def _adds_nothing(held: Metrics, values: Metrics) -> bool:
    return all(
        name in held and held[name] == value and type(held[name]) is type(value)
        for name, value in values.items()
    )
