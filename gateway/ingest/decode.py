"""Decode: a topic and a payload to samples, or a DecodeError that says why not. The hot path: its caches and
plain tuples are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

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
"""Of the topics that are remembered."""


_Way = tuple[str | None, str | None, str | None, Parse | None, CompiledSource, bool, str | None]
"""What is known of a topic: customer and device (None: the payload names it), metric, the fast parser where
the source is plain, the source, whether the topic is to be ignored, and the device's name where that is no
id.
"""

Introduce = Callable[[str, str, str | None, str], None]
"""Told customer, device, its name where that is not its id, and the source's topic."""


def unheard(skipped: Skipped) -> None:
    """For who does not ask what was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerIntake:
    """Sources whose filters are unsubscribed, and customers whose own filters are."""

    sources: tuple[CompiledSource, ...] = ()
    customers: frozenset[str] = frozenset()


def unknown(_customer: str, _device: str, _title: str | None, _source: str) -> None:
    """For who does not ask whose devices there are."""


class Decoder:
    """Decodes messages of the configured sources for the known customers.

    `skip` is told of each field, and each item of a list, that was left out of a message of which the rest
    was taken. `introduce` is told of each device that a topic names when the topic is first met, and of each
    that a payload names with its sample. `former`: what was configured before, for messages that were sent by
    the broker, or queued, for filters that are unsubscribed; it takes what the sources do not match.
    `defers_sparkplug`: what is of Sparkplug is taken by who knows what is stored of its nodes (`mail_of`);
    without it only by what this decoder has seen. `beside`: topics that are subscribed beside
    the sources, and are no telemetry.
    """

    def __init__(
        self,
        telemetry: TelemetrySettings,
        sources: Sequence[CompiledSource],
        customers: Collection[str],
        *,
        skip: Skip = unheard,
        former: FormerIntake | None = None,
        introduce: Introduce = unknown,
        defers_sparkplug: bool = False,
        beside: Collection[str] = (),
    ) -> None:
        self._defers = defers_sparkplug
        self._beside = frozenset(beside)
        self._mails: dict[str, sparkplug.Mail] = {}
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
        self._ways: dict[str, _Way] = {}
        self._characters = 0
        self.unpacks = any(
            one.shape.encoding is not None or one.source.format == sparkplug.FORMAT for one in self._compiled
        )

    def decode(self, topic: str, payload: bytes, received_at: int, *, is_retained: bool = False) -> list[Row]:
        """The samples of one message. Raises DecodeError when there is none, and nothing else: a fault of
        ours is a dead letter `internal_error` of that message, for the next one is another device's.

        `received_at` in microseconds stands for a missing time, one more for each further sample of the
        message. Of what the broker had retained nobody knows when it was measured: samples without a time of
        their own are left out, and there may be none.
        """
        try:
            way_of = self._ways.get(topic) or self._learn(topic)
            customer, device, metric, parse, way, is_ignored, title = way_of
            if is_ignored:
                return []
            if len(payload) > MAX_PAYLOAD_BYTES:
                _refuse_large(payload)
            if parse is not None and not (is_retained and way.retained != "own_time"):
                assert customer is not None and device is not None
                try:
                    return self._fast(parse(payload, metric), customer, device, received_at, is_retained)
                except DecodeError:
                    if way.is_strict:
                        raise
                    # something in it is amiss: what can be taken of it is taken, by the slow way
            elif topic in self._mails:
                return self._by_sparkplug(topic, payload, received_at, is_retained)
            return self._by_shape(way, customer, device, title, metric, payload, received_at, is_retained)
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
        way: CompiledSource,
        customer: str | None,
        device: str | None,
        title: str | None,
        metric: str | None,
        payload: bytes,
        received_at: int,
        is_retained: bool,
    ) -> list[Row]:
        if is_retained and way.retained == "skip":
            return []
        skipped: list[Skipped] = []
        pieces = way.shape.read(payload, metric, received_at=received_at, skip=skipped.append)
        if skipped and way.is_strict:
            raise DecodeError(skipped[0].reason, skipped[0].detail)
        rows: list[Row] = []
        refused: DecodeError | None = None
        untimed = 0
        for piece in pieces:
            if piece.at is None and is_retained and way.retained == "own_time":
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
                self._introduce(row[0], row[1], name, way.source.topic)
        if refused is not None and (way.is_strict or not (rows or untimed)):
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
        """Which times are taken."""
        return sparkplug.Bounds(max_future=self._max_future, retention=self._retention)

    def recall_by(self, nodes: Mapping[tuple[str, str], Node]) -> None:
        """From now on messages of these edge nodes, and of no others, are read as those that come late: by
        what is known of the node, which they do not change.
        """
        self._recalled = nodes

    def mail_of(self, topic: str) -> sparkplug.Mail | None:
        """Whose message of Sparkplug a topic that was decoded is of; None where it is none."""
        return self._mails.get(topic)

    def weight(self, topic: str, payload: bytes) -> int:
        """How many bytes a message is when it is unpacked, of a topic that was decoded: what it costs to read
        is by them, and not by those that were sent.
        """
        way = self._ways.get(topic) if self.unpacks else None
        if way is None:
            return len(payload)
        if (encoding := way[4].shape.encoding) is not None:
            return document.unpacked_bytes(payload, encoding)
        return wire.unpacked_bytes(payload) if topic in self._mails else len(payload)

    def tells(self, taken: sparkplug.TakenMessage) -> None:
        """Tells what was left out of a message of Sparkplug."""
        for one in taken.skipped:
            self._skip(one)

    def meets(self, mail: sparkplug.Mail, device: str) -> None:
        """Tells of a device of Sparkplug."""
        self._introduce(mail.customer, mail.device(device), mail.title(device), mail.source.source.topic)

    def _by_sparkplug(self, topic: str, payload: bytes, received_at: int, is_retained: bool) -> list[Row]:
        mail = self._mails[topic]
        if is_retained and mail.source.retained == "skip":
            return []
        message = sparkplug.arrival(mail, topic, payload, received_at)
        if (known := self._recalled.get(mail.node)) is not None:
            late = sparkplug.recall(known, mail, message, self.bounds)
            self.tells(late)
            return list(late.rows)
        node = self._nodes.setdefault(mail.node, Node())
        rows: list[Row] = []
        for taken in sparkplug.take(node, mail, message, self.bounds, is_retained=is_retained):
            if taken.refusal is not None and taken.arrival is message:
                raise taken.refusal
            self.tells(taken)
            rows += taken.rows
        return rows

    def route(self, topic: str) -> Route:
        """Whose device the topic names, its names made ids. Raises DecodeError."""
        return self._naming.identify(self._naming.route(topic))

    def source_of(self, topic: str) -> CompiledSource | None:
        """The source that a topic belongs to, None where it is none's."""
        try:
            return self._compiled[self._naming.route(topic).place]
        except DecodeError:
            return None

    def _pattern_of(self, topic: str) -> str:
        """What a fault is told by: there are as many of them as sources."""
        found = self.source_of(topic)
        return "" if found is None else found.source.topic

    def is_ignored(self, topic: str) -> bool:
        """Whether the topic is one that its source leaves out. Raises nothing for one that was decoded."""
        return topic in self._ways and self._ways[topic][5]

    def met_former(self) -> bool:
        """Whether a message came, since this was asked last, that only what was
        configured before could take.
        """
        met = bool(self._former_topics)
        for topic in self._former_topics:
            self._ways.pop(topic, None)  # learned again when the next one comes
        self._former_topics.clear()
        return met

    def customer_of(self, topic: str) -> str | None:
        """Whose topic it is, for what cannot be decoded; None where it is nobody's that is known."""
        try:
            return (self._ways.get(topic) or self._learn(topic))[0]
        except DecodeError:
            return None

    def _learn(self, topic: str) -> _Way:
        if len(self._ways) >= CACHED_TOPICS or self._characters >= CACHED_CHARACTERS:
            self._ways.clear()
            self._mails.clear()
            self._characters = 0
        if topic in self._beside:
            ours: _Way = (None, None, None, None, self._compiled[0], True, None)
            self._remember(topic, ours)
            return ours
        named = self._naming.route(topic)
        if named.format == sparkplug.FORMAT:
            return self._learn_sparkplug(topic, named)
        found = self._naming.identify(named)
        way = self._compiled[found.place]
        self._note_former(topic, found)
        names_both = found.customer is not None and found.device is not None
        is_fast = way.is_plain and names_both and (found.metric is None) == (found.format == "json")
        parse = FORMATS[found.format] if is_fast else None
        title = None if found.device is None else title_of(named.device or "", found.device)
        entry: _Way = (found.customer, found.device, found.metric, parse, way, found.is_ignored, title)
        self._remember(topic, entry)
        if found.customer is not None and found.device is not None and not found.is_ignored:
            self._introduce(found.customer, found.device, title, way.source.topic)
        return entry

    def _remember(self, topic: str, way: _Way) -> None:
        self._ways[topic] = way
        self._characters += len(topic)

    def _note_former(self, topic: str, found: Route) -> None:
        is_former = found.place >= self._former_from or found.customer in self._former_customers
        if is_former and len(self._former_topics) < CACHED_TOPICS:
            self._former_topics.add(topic)

    def _learn_sparkplug(self, topic: str, named: Route) -> _Way:
        """What others tell, and this host itself, is no telemetry, and its group no customer."""
        way = self._compiled[named.place]
        levels = topic.split("/")
        is_ours = (
            levels[way.source.group_place] != STATE
            and levels[way.source.group_place + 1] not in COMMANDS
            and not named.is_ignored
        )
        if is_ours:
            found = self._naming.identify(named)
            assert found.customer is not None
            self._note_former(topic, found)
            self._mails[topic] = sparkplug.mail(topic, found.customer, way)
        customer = self._mails[topic].customer if is_ours else None
        entry: _Way = (customer, None, None, None, way, self._defers or not is_ours, None)
        self._remember(topic, entry)
        return entry


def _refuse_large(payload: bytes) -> NoReturn:
    raise DecodeError(
        Reason.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
    )
