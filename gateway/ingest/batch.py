"""What one transaction stores: messages of one connection, and those that sent them."""

from __future__ import annotations

from typing import Protocol

from gateway import clock
from gateway.ingest.host import Letter
from gateway.model.quota import Excess, QuotaKind
from gateway.model.sample import Metrics
from gateway.store.telemetry import DeadMessage, Key

Message = tuple[str, bytes, int | None, bool]
"""topic, payload, packet id (None at QoS 0), whether the broker had it retained."""


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
    """What of a batch is over one quota: counted message by message, in a flood."""

    __slots__ = ("allowed", "dead_letters", "dropped", "dropped_bytes")

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.dead_letters = self.dropped = self.dropped_bytes = 0


class Batch:
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
        "letters",
        "messages",
        "modified",
        "qos0",
        "retained",
        "samples",
        "session",
        "since",
    )

    def __init__(self, session: Acknowledger) -> None:
        self.session = session
        self.since = clock.now_microseconds()
        self.samples: dict[Key, tuple[Metrics, int]] = {}
        self.messages: list[tuple[Key, Message]] = []  # whence each sample came, to bury the right one
        self.dead: list[DeadMessage] = []
        self.letters: list[Letter] = []  # of Sparkplug: read when the batch is committed
        self.excess: dict[tuple[str | None, QuotaKind], Tally] = {}
        self.acks = bytearray()
        self.arrivals: list[tuple[float, int]] = []  # (monotonic receipt, QoS 1 messages)
        self.bytes = 0
        self.count = 0
        self.qos0 = 0
        self.duplicates = 0
        self.modified = 0
        self.empty = 0
        self.ignored = 0
        self.retained = 0


def excesses(batch: Batch) -> list[Excess]:
    """What of it was over quotas."""
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


def add(batch: Batch, key: Key, values: Metrics, received_at: int) -> None:
    """Two samples of one key in a batch become one, merged in the order of receipt."""
    held = batch.samples.get(key)
    if held is None:
        batch.samples[key] = (values, received_at)
    elif all(
        name in held[0] and held[0][name] == value and type(held[0][name]) is type(value)
        for name, value in values.items()
    ):
        batch.duplicates += 1
    else:
        batch.samples[key] = ({**held[0], **values}, received_at)
        batch.modified += 1
