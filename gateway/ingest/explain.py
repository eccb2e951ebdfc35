"""Explains a message by the code that takes messages in: no store, no broker, no clock. For the command line
and for customers over MQTT.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from gateway import zones
from gateway.ingest.decode import Decoder, Row
from gateway.model import alert_rule, calendar
from gateway.model.alert_rule import AlertRule, Changes
from gateway.model.alone import alone
from gateway.model.calendar import Calendar, Span
from gateway.model.connector import Capabilities
from gateway.model.errors import DecodeError, RequestRefused
from gateway.model.explanation import ExplainedSample, Explanation, Fed, SkippedField, Touched
from gateway.model.meter import MeterMapping, MeterRule, materialise
from gateway.model.names import identifier
from gateway.model.sample import EPOCH, Value, from_microseconds, to_microseconds
from gateway.model.topics import route
from gateway.payloads.fields import Skipped
from gateway.payloads.formats.values import parse_time
from gateway.payloads.sources import CompiledSource, compile_sources, only
from gateway.payloads.sparkplug.node import Node
from gateway.settings import TelemetrySettings
from gateway.sync.link import ServedConnection

MAX_SAMPLES = 100
"""Samples of one message that are explained: an array may have thousands, and they fare alike."""

ADVICE = {
    "unmatched_topic": "publish to one of the sources of telemetry.sources, or add a source for this topic",
    "unknown_customer": "add the customer to `customers`, or set telemetry.auto_register_customers",
    "invalid_identifier": "rename the customer or the device in the topic",
    "timestamp_in_future": "set the device's clock, or raise telemetry.max_future",
    "timestamp_too_old": "raise telemetry.retention if such old samples are wanted",
    "over_quota": "send less, or raise quotas of the customer; then it can be tried again",
    "too_many_devices": "remove devices that are not used, or raise quotas.devices of the customer",
    "oversized_packet": "only its first bytes were kept: the device has to send it again, in parts",
    "before_birth": (
        "what comes under an alias is named by a birth: explain the message with its NBIRTH, or DBIRTH,"
        " before it (`--after`)"
    ),
    "unknown_alias": (
        "the birth has to define every alias: correct the edge node; the daemon asks it for a new birth"
    ),
    "sequence_gap": (
        "the daemon asks the node for a birth; a node that never gives an alias another name can have"
        " `aliases: stable`"
    ),
    "payload_too_large": "split the message; 1 MiB is the limit",
}
"""What to do about a dead letter, by reason; for the others the detail says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """What has to be known of a connection to say which of its meters a sample feeds, and with what.
    `capabilities` are its system's.
    """

    connection: str
    customer: str
    system: str
    rules: Sequence[MeterRule]
    capabilities: Capabilities
    lateness: timedelta
    alerts: Sequence[AlertRule] = ()


def explain(
    topic: str,
    payload: bytes,
    *,
    telemetry: TelemetrySettings,
    customers: Collection[str],
    connections: Sequence[Connected],
    now: datetime,
    is_retained: bool = False,
    after: Sequence[tuple[str, bytes]] = (),
    nodes: Mapping[tuple[str, str], Node] = MappingProxyType({}),
) -> Explanation:
    """What the gateway would do with the message, were it received at `now`; `is_retained`: as one that the
    broker had kept. `after`: messages before it, topic and payload, where what it means depends on them.
    `nodes`: edge nodes of Sparkplug with what is stored of them, by which a message that comes late is read.
    """
    explainer = Explainer(telemetry, customers)
    for earlier, content in after:
        explainer.hear(earlier, content, now)
    explainer.recall_by(nodes)
    return explainer.explain(topic, payload, connections=connections, now=now, is_retained=is_retained)


class Explainer:
    """Explains messages one after another, each by what came before it."""

    def __init__(self, telemetry: TelemetrySettings, customers: Collection[str]) -> None:
        self._skipped: list[Skipped] = []
        compiled = compile_sources(telemetry.sources)
        self._sources = only(compiled)
        self._decoder = Decoder(telemetry, compiled, customers, skip=self._skipped.append)

    def hear(self, topic: str, payload: bytes, now: datetime) -> None:
        """A message that came before, where what another means depends on it."""
        with suppress(DecodeError):
            self._decoder.decode(topic, payload, to_microseconds(now))

    def recall_by(self, nodes: Mapping[tuple[str, str], Node]) -> None:
        """Edge nodes of Sparkplug, with what is stored of them."""
        self._decoder.recall_by(nodes)

    def owner_of(self, topic: str) -> str | None:
        """The customer that the topic names, or its source; None where a payload would have to, or no source
        takes it.
        """
        source, found = self._decoder.source_of(topic), route(topic, self._sources)
        return (
            None if source is None or source.shape.customer is not None or found is None else found.customer
        )

    def explain(
        self,
        topic: str,
        payload: bytes,
        *,
        connections: Sequence[Connected] = (),
        now: datetime,
        is_retained: bool = False,
    ) -> Explanation:
        """As the function of this name."""
        self._skipped.clear()
        source, found = self._decoder.source_of(topic), route(topic, self._sources)
        start = Explanation(
            topic=topic,
            source=None if source is None else _shown(source),
            format=None if source is None else source.source.format,
            customer=None if found is None else found.customer,
            device=None if found is None or found.device is None else identifier(found.device),
            device_name=None if found is None else found.device,
        )
        try:
            rows = self._decoder.decode(topic, payload, to_microseconds(now), is_retained=is_retained)
        except DecodeError as error:
            reason = str(error.reason)
            return replace(
                start,
                dead_letter=reason,
                detail=error.detail,
                advice=ADVICE.get(reason, "correct the payload"),
            )
        if not rows:
            return replace(start, ignored=_why_ignored(self._decoder, topic, is_retained=is_retained))
        return self._of_rows(
            replace(start, customer=rows[0][0], device=rows[0][1]), source, rows, connections
        )

    def _of_rows(
        self,
        start: Explanation,
        source: CompiledSource | None,
        rows: Sequence[Row],
        connections: Sequence[Connected],
    ) -> Explanation:
        ours = [connected for connected in connections if connected.customer == start.customer]
        fed_by = _feeds(ours, rows[:MAX_SAMPLES])
        judged_by = [(one, rule) for one in ours for rule in one.alerts]
        samples = tuple(_sample(row, fed_by, judged_by) for row in rows[:MAX_SAMPLES])
        return replace(
            start,
            samples=samples,
            more_samples=len(rows) - len(samples),
            skipped=tuple(
                SkippedField(name=one.name, reason=str(one.reason), detail=one.detail)
                for one in self._skipped[:MAX_SAMPLES]
            ),
            hints=tuple(_hints(source, rows)),
        )


TIME_NAMES = frozenset(
    {"time", "timestamp", "ts", "datetime", "date", "timestamp_ms", "received_at", "epoch", "t"}
)
"""Names under which devices send their time."""


def _shown(source: CompiledSource) -> str:
    topic = source.source.topic
    return topic if source.preset is None else f"{topic} (preset {source.preset})"


def _why_ignored(decoder: Decoder, topic: str, *, is_retained: bool) -> str:
    if decoder.is_ignored(topic):
        return "the source leaves this topic out (`ignore`)"
    if is_retained:
        return (
            "the broker had kept the message, and it has no time of its own: nobody knows when it was"
            " measured"
        )
    return "there is nothing in it to take"


def _hints(source: CompiledSource | None, rows: Sequence[Row]) -> Iterator[str]:
    """What a person probably did not mean."""
    if source is None:
        return
    metrics = rows[0][3]
    for name, value in metrics.items():
        last = name.rpartition(".")[2].lower()
        if last in TIME_NAMES and source.shape.time_path is None and (_is_time(value)):
            yield (
                f"{name} looks like the device's time and is taken as a metric: set `time: {{path: {name}}}`"
            )
        elif isinstance(value, str) and source.shape.fields.text == "keep" and _looks_numeric(value):
            yield f"{name} is the text {value[:40]!r}: `text: numbers` makes numbers of such texts"
    if all(name.startswith("values.") for name in metrics):
        yield "every metric begins with `values.`: `root: values` takes that away"


def _is_time(value: Value) -> bool:
    try:
        return parse_time(value) > _MIN_TIME
    except DecodeError:
        return False


def _looks_numeric(text: str) -> bool:
    return (
        text[:1] in "+-0123456789" and any(character.isdigit() for character in text[:2]) and len(text) < 20
    )


_MIN_TIME = to_microseconds(datetime(2000, 1, 1, tzinfo=UTC))


def explain_for(
    customer: str,
    topic: str,
    payload: bytes,
    *,
    telemetry: TelemetrySettings,
    customers: Collection[str],
    links: Iterable[ServedConnection],
    now: datetime,
) -> Explanation:
    """As `explain`, for this customer: nothing of another one shows, not even whether it exists. Raises
    RequestRefused for a topic of another.
    """
    ours = [connected_by(link) for link in links if link.customer == customer]
    known = [name for name in customers if name == customer]
    found = explain(topic, payload, telemetry=telemetry, customers=known, connections=ours, now=now)
    if found.customer not in (None, customer):
        raise RequestRefused("request.invalid", f"the topic is not one of customer {customer!r}")
    return found


def connected_by(link: ServedConnection) -> Connected:
    """What the link of a connection tells."""
    return Connected(
        connection=link.connection,
        customer=link.customer,
        system=link.system,
        rules=link.rules,
        capabilities=link.connector.capabilities,
        lateness=link.lateness,
        alerts=link.alerts,
    )


def window_of(at: datetime, window: timedelta | Calendar) -> Span:
    """The window that an instant falls into. Those of a duration are counted from 1970, as PostgreSQL's
    date_bin does it; those of a calendar are as the zone's rules of today cut them.
    """
    if isinstance(window, Calendar):
        zone = zones.zone(window.zone)
        assert zone is not None, "a meter of a zone that is not known here is refused before"
        return calendar.window_of(at, window, zone)
    start = at - (at - EPOCH) % window
    return start, start + window


def _sample(
    row: Row,
    fed_by: Sequence[tuple[Connected, MeterMapping]],
    judged_by: Sequence[tuple[Connected, AlertRule]],
) -> ExplainedSample:
    _, device, at_microseconds, metrics = row
    at = from_microseconds(at_microseconds)
    meters = tuple(
        _fed(connected, mapping, at, metrics[mapping.metric])
        for connected, mapping in fed_by
        if mapping.device == device and mapping.metric in metrics
    )
    alerts = tuple(
        _touched(connected, rule, value)
        for connected, rule in judged_by
        if rule.matches(device) and (value := alert_rule.observed(rule, metrics)) is not None
    )
    return ExplainedSample(device=device, at=at, metrics=metrics, meters=meters, alerts=alerts)


def _touched(connected: Connected, rule: AlertRule, value: Value) -> Touched:
    alone = not isinstance(rule.condition, Changes)
    return Touched(
        connection=connected.connection,
        system=connected.system,
        rule=rule.id,
        condition=alert_rule.summary(rule),
        metric=rule.metric,
        value=value,
        holds=alert_rule.breaches(rule.condition, value, ()) if alone else None,
        distance=alert_rule.distance(rule, value),
        lasts_seconds=rule.lasts.total_seconds(),
        kind=rule.kind,
        severity=rule.severity,
    )


def _feeds(connections: Sequence[Connected], rows: Sequence[Row]) -> list[tuple[Connected, MeterMapping]]:
    """The meters of the devices and metrics that come."""
    named: dict[str, set[str]] = {}
    for _, device, _, metrics in rows:
        named.setdefault(device, set()).update(metrics)
    return [
        (one, mapping)
        for one in connections
        for device in sorted(named)
        for mapping in _mappings(one, device, named[device])
    ]


def _mappings(connected: Connected, device: str, metrics: Collection[str]) -> list[MeterMapping]:
    mappings, _ = materialise(
        connected.rules, [device], resolution=connected.capabilities.resolution, metrics={device: metrics}
    )
    return [mapping for mapping in mappings.values() if mapping.device == device]


def _fed(connected: Connected, mapping: MeterMapping, at: datetime, value: Value) -> Fed:
    start, end = window_of(at, mapping.window)
    found = alone(connected.connection, mapping, value, start, connected.capabilities)
    return Fed(
        connection=connected.connection,
        system=connected.system,
        meter=mapping.meter,
        metric=mapping.metric,
        value=value,
        reading=found.reading,
        unit=mapping.unit,
        reduce=mapping.reduce,
        calendar=str(mapping.window) if isinstance(mapping.window, Calendar) else None,
        deadband=mapping.deadband,
        arithmetic=str(mapping.arithmetic),
        refused=found.refused,
        window_start=start,
        window_end=end,
        due_at=end if mapping.reduce == "each" else end + connected.lateness,
    )
