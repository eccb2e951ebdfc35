"""Decodes a topic and a payload into samples, or raises a DecodeError that says why it cannot. This is the
hot path of ingest: its caches and plain tuples were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from gateway import bulkhead
from gateway.ingest import sparkplug
from gateway.ingest.naming import Naming, device_id, title_of
from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics
from gateway.model.topics import Route
from gateway.payloads import document
from gateway.payloads.fields import Skip, Skipped
from gateway.payloads.formats import FORMATS, Parse
from gateway.payloads.formats.values import MAX_PAYLOAD_BYTES, Measurement, Reason
from gateway.payloads.shape import Piece
from gateway.payloads.sources import CompiledSource, only
from gateway.payloads.sparkplug import wire
from gateway.payloads.sparkplug.node import Node
from gateway.payloads.sparkplug.topic import COMMANDS, STATE
from gateway.settings import TelemetrySettings

Row = tuple[str, str, int, Metrics]
"""customer, device, device time in microseconds since the epoch, metrics."""

CACHED_TOPICS = 100_000
CACHED_CHARACTERS = 16_000_000
"""How many topics are remembered, and how many characters they have together."""


_KnownTopic = tuple[str | None, str | None, str | None, Parse | None, CompiledSource, bool, str | None]
"""What is known of a topic: customer and device (None: the payload names it), metric, the fast parser where
the source is plain, the source, whether the topic is ignored, and the device's name where that is not its id.
A plain tuple, for it is unpacked for each message.
"""
_CUSTOMER: Final = 0
_SOURCE: Final = 4
_IS_IGNORED: Final = 5

Introduce = Callable[[str, str, str | None, str], None]
"""Called with the customer, the device, its name where that is not its id, and the topic of the source."""


def ignore_skipped(skipped: Skipped) -> None:
    """The default of `skip`: nobody asks which fields were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerIntake:
    """What was configured before: sources whose filters are being unsubscribed, and customers whose filters
    are.
    """

    sources: tuple[CompiledSource, ...] = ()
    customers: frozenset[str] = frozenset()


def ignore_device(_customer: str, _device: str, _title: str | None, _source: str) -> None:
    """The default of `introduce`: nobody asks which devices are met."""


class Decoder:
    """Decodes messages of the configured sources for the known customers.

    - `skip` is called with each field, and each item of a list, that was left out of a message of which the
      rest was taken.
    - `introduce` is called with each device: one that a topic names when the topic is first met, one that a
      payload names with each of its samples.
    - `former` decodes messages that the sources do not match: the broker had sent or queued them for filters
      that are now unsubscribed.
    - `defers_sparkplug`: `decode` makes no samples of Sparkplug. The caller reads these messages later, by
      what is stored of their nodes (`node_topic_of`). Without it they are read by what this decoder has seen.
    - `beside`: topics that are subscribed beside the sources, and are no telemetry.
    """

    def __init__(
        self,
        telemetry: TelemetrySettings,
        sources: Sequence[CompiledSource],
        customers: Collection[str],
        *,
        skip: Skip = ignore_skipped,
        former: FormerIntake | None = None,
        introduce: Introduce = ignore_device,
        defers_sparkplug: bool = False,
        beside: Collection[str] = (),
    ) -> None:
        self._defers = defers_sparkplug
        self._beside = frozenset(beside)
        self._node_topics: dict[str, sparkplug.NodeTopic] = {}
        self._nodes: dict[tuple[str, str], Node] = {}
        self._recalled: Mapping[tuple[str, str], Node] = {}
        self._former_from = len(sources)
        self._compiled = (*sources, *(former.sources if former else ()))
        self._former_customers = former.customers if former else frozenset()
        self._former_topics: set[str] = set()
        known = None if telemetry.auto_register_customers else frozenset(customers)
        self._naming = Naming(only(self._compiled), known, self._former_customers)
        self._max_future = int(telemetry.max_future.total_seconds() * 1e6)
        self._retention = int(telemetry.retention.total_seconds() * 1e6)
        self._skip = skip
        self._introduce = introduce
        self._topics: dict[str, _KnownTopic] = {}
        self._characters = 0
        self.unpacks = any(
            one.shape.encoding is not None or one.source.format == sparkplug.FORMAT for one in self._compiled
        )

    def decode(self, topic: str, payload: bytes, received_at: int, *, is_retained: bool = False) -> list[Row]:
        """The samples of one message. Raises DecodeError where none can be made, and nothing else: a fault of
        ours is an `internal_error` of this message, for the next one is another device's.

        A sample without a time has the time `received_at` (microseconds), one more for each further sample of
        the message. Nobody knows when a retained message was measured: its samples without a time are left
        out, so the list may be empty.
        """
        try:
            known = self._topics.get(topic) or self._learn(topic)
            customer, device, metric, parse, source, is_ignored, title = known
            if is_ignored:
                return []
            if len(payload) > MAX_PAYLOAD_BYTES:
                _refuse_large(payload)
            if parse is not None and not (is_retained and source.retained != "own_time"):
                assert customer is not None and device is not None
                try:
                    return self._fast(parse(payload, metric), customer, device, received_at, is_retained)
                except DecodeError:
                    if source.is_strict:
                        raise
                    # The fast parser knows no exceptions. The slow way below takes what can be taken.
            elif topic in self._node_topics:
                return self._by_sparkplug(topic, payload, received_at, is_retained)
            return self._by_shape(source, customer, device, title, metric, payload, received_at, is_retained)
        except DecodeError:
            raise
        except Exception as error:
            fault = bulkhead.note("decode", self._pattern_of(topic), error)
            raise DecodeError(Reason.INTERNAL_ERROR, fault.text) from error

    def _fast(
        self,
        measured: Sequence[Measurement],
        customer: str,
        device: str,
        received_at: int,
        is_retained: bool,
    ) -> list[Row]:
        rows: list[Row] = []
        for device_time, metrics in measured:
            if device_time is None and is_retained:
                continue
            at = received_at + len(rows) if device_time is None else device_time
            if not -self._retention <= at - received_at <= self._max_future:
                raise self._out_of_time(at, received_at)
            rows.append((customer, device, at, metrics))
        return rows

    def _by_shape(
        self,
        source: CompiledSource,
        customer: str | None,
        device: str | None,
        title: str | None,
        metric: str | None,
        payload: bytes,
        received_at: int,
        is_retained: bool,
    ) -> list[Row]:
        if is_retained and source.retained == "skip":
            return []
        skipped: list[Skipped] = []
        pieces = source.shape.read(payload, metric, received_at=received_at, skip=skipped.append)
        if skipped and source.is_strict:
            raise DecodeError(skipped[0].reason, skipped[0].detail)
        rows: list[Row] = []
        refused: DecodeError | None = None
        untimed = 0
        for piece in pieces:
            if piece.at is None and is_retained and source.retained == "own_time":
                untimed += 1
                continue
            try:
                row = self._row(piece, customer, device, received_at, len(rows))
            except DecodeError as error:
                refused = refused or error
                skipped.append(Skipped(name="", reason=Reason(error.reason), detail=error.detail))
                continue
            rows.append(row)
            if customer is None or device is None:
                name = title if device is not None else title_of(piece.device or "", row[1])
                self._introduce(row[0], row[1], name, source.source.topic)
        if refused is not None and (source.is_strict or not (rows or untimed)):
            raise refused
        for one in skipped:
            self._skip(one)
        return rows

    def _row(
        self, piece: Piece, customer: str | None, device: str | None, received_at: int, place: int
    ) -> Row:
        at = received_at + place if piece.at is None else piece.at
        if not received_at - self._retention <= at <= received_at + self._max_future:
            raise self._out_of_time(at, received_at)
        if customer is None:
            customer = self._naming.customer(piece.customer or "")
        if device is None:
            device = device_id(piece.device or "")
        return (customer, device, at, piece.metrics)

    def _out_of_time(self, at: int, received_at: int) -> DecodeError:
        if at > received_at:
            return DecodeError(
                Reason.TIMESTAMP_IN_FUTURE,
                f"ts is {(at - received_at) / 1e6:.0f} s ahead of the gateway; check the device's clock",
            )
        return DecodeError(
            Reason.TIMESTAMP_TOO_OLD,
            f"ts is {(received_at - at) / 86_400e6:.1f} days old; telemetry.retention is shorter",
        )

    @property
    def bounds(self) -> sparkplug.Bounds:
        """Which times of samples are taken."""
        return sparkplug.Bounds(max_future=self._max_future, retention=self._retention)

    def recall_by(self, nodes: Mapping[tuple[str, str], Node]) -> None:
        """From now on messages of these edge nodes, and of no others, are read like late ones: by what is
        known of the node, without changing it.
        """
        self._recalled = nodes

    def node_topic_of(self, topic: str) -> sparkplug.NodeTopic | None:
        """What a topic of Sparkplug says, once `decode` has met it; None for any other topic."""
        return self._node_topics.get(topic)

    def weight(self, topic: str, payload: bytes) -> int:
        """How many bytes the payload has when it is unpacked, once `decode` has met the topic. What a message
        costs to read depends on these bytes, not on those that were sent.
        """
        known = self._topics.get(topic) if self.unpacks else None
        if known is None:
            return len(payload)
        encoding = known[_SOURCE].shape.encoding
        if encoding is not None:
            return document.unpacked_bytes(payload, encoding)
        return wire.unpacked_bytes(payload) if topic in self._node_topics else len(payload)

    def tell_skipped(self, taken: sparkplug.TakenMessage) -> None:
        """Calls `skip` with what was left out of a message of Sparkplug."""
        for one in taken.skipped:
            self._skip(one)

    def introduce(self, node_topic: sparkplug.NodeTopic, device: str) -> None:
        """Calls `introduce` with a device of Sparkplug."""
        source = node_topic.source.source.topic
        self._introduce(node_topic.customer, node_topic.device(device), node_topic.title(device), source)

    def _by_sparkplug(self, topic: str, payload: bytes, received_at: int, is_retained: bool) -> list[Row]:
        node_topic = self._node_topics[topic]
        if is_retained and node_topic.source.retained == "skip":
            return []
        message = sparkplug.arrival(node_topic, topic, payload, received_at)
        known = self._recalled.get(node_topic.node)
        if known is not None:
            late = sparkplug.recall(known, node_topic, message, self.bounds)
            self.tell_skipped(late)
            return list(late.rows)
        node = self._nodes.setdefault(node_topic.node, Node())
        rows: list[Row] = []
        for taken in sparkplug.take(node, node_topic, message, self.bounds, is_retained=is_retained):
            if taken.refusal is not None and taken.arrival is message:
                raise taken.refusal
            self.tell_skipped(taken)
            rows += taken.rows
        return rows

    def route(self, topic: str) -> Route:
        """What a topic names, with its names made ids. Raises DecodeError."""
        return self._naming.identify(self._naming.route(topic))

    def source_of(self, topic: str) -> CompiledSource | None:
        """The source that takes a topic; None where none does."""
        try:
            return self._compiled[self._naming.route(topic).place]
        except DecodeError:
            return None

    def _pattern_of(self, topic: str) -> str:
        """The topic of its source, by which faults are told apart: there are as many of them as sources, not
        as topics.
        """
        found = self.source_of(topic)
        return "" if found is None else found.source.topic

    def is_ignored(self, topic: str) -> bool:
        """Whether `decode` ignores the topic. False for a topic that `decode` has not met."""
        return topic in self._topics and self._topics[topic][_IS_IGNORED]

    def met_former(self) -> bool:
        """Whether a message that only `former` takes has come since this was asked last."""
        met = bool(self._former_topics)
        for topic in self._former_topics:
            self._topics.pop(topic, None)  # learned again when the next one comes
        self._former_topics.clear()
        return met

    def customer_of(self, topic: str) -> str | None:
        """The customer that the topic names; None where it names none that is known."""
        try:
            return (self._topics.get(topic) or self._learn(topic))[_CUSTOMER]
        except DecodeError:
            return None

    def _learn(self, topic: str) -> _KnownTopic:
        if len(self._topics) >= CACHED_TOPICS or self._characters >= CACHED_CHARACTERS:
            self._topics.clear()
            self._node_topics.clear()
            self._characters = 0
        if topic in self._beside:
            ours: _KnownTopic = (None, None, None, None, self._compiled[0], True, None)
            self._remember(topic, ours)
            return ours
        named = self._naming.route(topic)
        if named.format == sparkplug.FORMAT:
            return self._learn_sparkplug(topic, named)
        found = self._naming.identify(named)
        source = self._compiled[found.place]
        self._note_former(topic, found)
        names_both = found.customer is not None and found.device is not None
        is_fast = source.is_plain and names_both and (found.metric is None) == (found.format == "json")
        parse = FORMATS[found.format] if is_fast else None
        title = None if found.device is None else title_of(named.device or "", found.device)
        entry: _KnownTopic = (
            found.customer,
            found.device,
            found.metric,
            parse,
            source,
            found.is_ignored,
            title,
        )
        self._remember(topic, entry)
        if found.customer is not None and found.device is not None and not found.is_ignored:
            self._introduce(found.customer, found.device, title, source.source.topic)
        return entry

    def _remember(self, topic: str, entry: _KnownTopic) -> None:
        self._topics[topic] = entry
        self._characters += len(topic)

    def _note_former(self, topic: str, found: Route) -> None:
        is_former = found.place >= self._former_from or found.customer in self._former_customers
        if is_former and len(self._former_topics) < CACHED_TOPICS:
            self._former_topics.add(topic)

    def _learn_sparkplug(self, topic: str, named: Route) -> _KnownTopic:
        """Commands and what hosts tell of themselves are no telemetry, and their group is no customer."""
        source = self._compiled[named.place]
        levels = topic.split("/")
        group_place = source.source.group_place
        is_telemetry = (
            levels[group_place] != STATE and levels[group_place + 1] not in COMMANDS and not named.is_ignored
        )
        customer: str | None = None
        if is_telemetry:
            found = self._naming.identify(named)
            assert found.customer is not None
            self._note_former(topic, found)
            self._node_topics[topic] = sparkplug.node_topic(topic, found.customer, source)
            customer = found.customer
        is_ignored = self._defers or not is_telemetry
        entry: _KnownTopic = (customer, None, None, None, source, is_ignored, None)
        self._remember(topic, entry)
        return entry


def _refuse_large(payload: bytes) -> NoReturn:
    raise DecodeError(
        Reason.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
    )
