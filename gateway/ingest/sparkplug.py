"""Messages of Sparkplug B to samples: by what is known of their edge nodes, as the rules of their source want
it. No store, no broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics
from gateway.payloads.fields import Skipped
from gateway.payloads.formats.values import MAX_METRICS, Reason
from gateway.payloads.sources import CompiledSource
from gateway.payloads.sparkplug import wire
from gateway.payloads.sparkplug.arrival import Arrival
from gateway.payloads.sparkplug.node import Node, Outcome
from gateway.payloads.sparkplug.topic import Address, address, device_id, title

Row = tuple[str, str, int, Metrics]
FORMAT = "sparkplug_b"

NO_FAULT = frozenset({Reason.NULL, Reason.TRANSIENT, Reason.BAD_QUALITY})
"""Reasons to skip a metric that a node gives on purpose. A message of which all metrics are skipped for them
is no dead letter.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTopic:
    """What the topic of a message says: its customer, its edge node or device, and its source."""

    customer: str
    address: Address
    source: CompiledSource

    @property
    def node(self) -> tuple[str, str]:
        """The edge node's key."""
        return self.customer, self.address.node

    @property
    def with_group(self) -> bool:
        """Whether the group is part of the ids: where it is the customer it is not."""
        return self.source.source.levels[self.source.source.group_place].text != "{customer}"

    def device(self, name: str) -> str:
        """The id of one of the node's devices, or of itself."""
        return device_id(self.address, name, with_group=self.with_group)

    def title(self, name: str) -> str | None:
        """The name of one of the node's devices, where that is not its id."""
        shown = title(self.address, name, with_group=self.with_group)
        return None if shown == self.device(name) else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far from its receipt the time of a sample may be, in microseconds."""

    max_future: int
    retention: int

    def refusal(self, at: int, received_at: int) -> DecodeError | None:
        """Why a sample of this time is refused; None where it is taken. Both times in microseconds."""
        if at - received_at > self.max_future:
            return DecodeError(
                Reason.TIMESTAMP_IN_FUTURE,
                f"ts is {(at - received_at) / 1e6:.0f} s ahead of the gateway; check the device's clock",
            )
        if received_at - at > self.retention:
            return DecodeError(
                Reason.TIMESTAMP_TOO_OLD,
                f"ts is {(received_at - at) / 86_400e6:.1f} days old; telemetry.retention is shorter",
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenMessage:
    """What comes of one message. `refusal`: why it is kept as a dead letter beside the rows."""

    arrival: Arrival
    rows: Sequence[Row]
    skipped: Sequence[Skipped]
    refusal: DecodeError | None
    was_held: bool


def node_topic(topic: str, customer: str, source: CompiledSource) -> NodeTopic:
    """Reads a topic of Sparkplug. Raises DecodeError for any other."""
    found = address(topic, source.source.group_place)
    return NodeTopic(customer=customer, address=found, source=source)


def arrival(found: NodeTopic, topic: str, payload: bytes, received_at: int) -> Arrival:
    """The message, parsed. Raises DecodeError."""
    kind = found.address.kind
    assert kind is not None
    return Arrival(
        kind=kind,
        device=found.address.device,
        payload=wire.parse(payload),
        received_at=received_at,
        topic=topic,
        raw=payload,
    )


def take(
    node: Node, found: NodeTopic, message: Arrival, bounds: Bounds, *, is_retained: bool = False
) -> list[TakenMessage]:
    """What comes of a message and of those that waited for it; `node` knows it afterwards."""
    return [
        _taken(outcome, found, bounds, is_retained=is_retained)
        for outcome in node.take(message, stable=found.source.has_stable_aliases)
    ]


def recall(node: Node, found: NodeTopic, message: Arrival, bounds: Bounds) -> TakenMessage:
    """What a dead letter can be read as now. Raises DecodeError."""
    taken = _taken(node.recall(message), found, bounds, is_retained=False)
    if taken.refusal is not None:
        raise taken.refusal
    return taken


def _taken(outcome: Outcome, found: NodeTopic, bounds: Bounds, *, is_retained: bool) -> TakenMessage:
    message, read = outcome.arrival, outcome.read
    skipped = list(read.skipped)
    rows: list[Row] = []
    device = found.device(message.device)
    for milliseconds, values in read.samples.items():
        if milliseconds is None and is_retained and found.source.retained == "own_time":
            continue
        at = message.received_at if milliseconds is None else milliseconds * 1000
        if (refusal := bounds.refusal(at, message.received_at)) is not None:
            skipped.append(Skipped(name="", reason=Reason(refusal.reason), detail=refusal.detail))
            continue
        if metrics := _metrics(found.source, values, skipped):
            rows.append((found.customer, device, at, metrics))
    refused = outcome.refusal
    if refused is None and (not rows or found.source.is_strict):
        refused = _fault(skipped, is_birth=message.kind in ("NBIRTH", "DBIRTH"))
    return TakenMessage(
        arrival=message,
        rows=[] if refused is not None and found.source.is_strict else rows,
        skipped=skipped,
        refusal=refused,
        was_held=outcome.was_held,
    )


def _metrics(source: CompiledSource, values: dict[str, object], skipped: list[Skipped]) -> Metrics:
    """The metrics that the source's rules take. A birth may hold thousands of them, more than the rules take
    at once: it is read in parts, which make one sample together.
    """
    items = list(values.items())
    metrics: Metrics = {}
    for start in range(0, len(items), MAX_METRICS):
        part = dict(items[start : start + MAX_METRICS])
        try:
            taken = source.shape.fields.take(part, skipped.append)
        except DecodeError as error:  # a table, or a structure, of more than that
            skipped.append(Skipped(name="", reason=Reason(error.reason), detail=error.detail))
            continue
        for name, value in taken.items():
            metrics.setdefault(name, value)
    return metrics


def _fault(skipped: Sequence[Skipped], *, is_birth: bool) -> DecodeError | None:
    """Why a message of which nothing was taken is a dead letter; None where it is none. Old values in a birth
    are no fault: it repeats what is long known.
    """
    for one in skipped:
        if one.reason not in NO_FAULT and not (is_birth and one.reason == Reason.TIMESTAMP_TOO_OLD):
            return DecodeError(one.reason, one.detail)
    return None
