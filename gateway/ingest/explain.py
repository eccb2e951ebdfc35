"""Explains a message by the code that takes messages in: no store, no broker, no clock. For the command line
and for customers over MQTT.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.ingest.decode import Decoder, Row
from gateway.model import alert_rule
from gateway.model.alert_rule import AlertRule, Changes
from gateway.model.errors import DecodeError, RequestRefused
from gateway.model.explanation import ExplainedSample, Explanation, Fed, Touched
from gateway.model.meter import MeterMapping, MeterRule, materialise
from gateway.model.sample import EPOCH, Value, from_microseconds, to_microseconds
from gateway.model.topics import compile_source, route
from gateway.settings import TelemetrySettings
from gateway.sync.link import Link

MAX_SAMPLES = 100
"""Samples of one message that are explained: an array may have thousands, and they fare alike."""

ADVICE = {
    "unmatched_topic": "publish to one of the sources of telemetry.sources, or add a source for this topic",
    "unknown_customer": "add the customer to `customers`, or set telemetry.auto_register_customers",
    "invalid_identifier": "rename the customer or the device in the topic",
    "timestamp_in_future": "set the device's clock, or raise telemetry.max_future",
    "timestamp_too_old": "raise telemetry.retention if such old samples are wanted",
    "payload_too_large": "split the message; 1 MiB is the limit",
}
"""What to do about a dead letter, by reason; for the others the detail says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """What has to be known of a connection to say which of its meters a sample feeds. `resolution` is its
    system's.
    """

    connection: str
    customer: str
    system: str
    rules: Sequence[MeterRule]
    resolution: timedelta
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
) -> Explanation:
    """What the gateway would do with the message, were it received at `now`."""
    sources = [compile_source(source.topic, source.format) for source in telemetry.sources]
    source = next((source for source in sources if source.match(topic.split("/")) is not None), None)
    found = route(topic, sources)
    start = Explanation(
        topic=topic,
        source=None if source is None else source.topic,
        format=None if source is None else source.format,
        customer=None if found is None else found.customer,
        device=None if found is None else found.device,
    )
    try:
        rows = Decoder(telemetry, sources, customers).decode(topic, payload, to_microseconds(now))
    except DecodeError as error:
        reason = str(error.reason)
        return replace(
            start, dead_letter=reason, detail=error.detail, advice=ADVICE.get(reason, "correct the payload")
        )
    fed_by = [
        (connected, mapping)
        for connected in connections
        if connected.customer == start.customer
        for mapping in _mappings(connected, start.device)
    ]
    judged_by = [
        (connected, rule)
        for connected in connections
        if connected.customer == start.customer and start.device is not None
        for rule in connected.alerts
        if rule.matches(start.device)
    ]
    samples = tuple(_sample(row, fed_by, judged_by) for row in rows[:MAX_SAMPLES])
    return replace(start, samples=samples, more_samples=len(rows) - len(samples))


def explain_for(
    customer: str,
    topic: str,
    payload: bytes,
    *,
    telemetry: TelemetrySettings,
    customers: Collection[str],
    links: Iterable[Link],
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


def connected_by(link: Link) -> Connected:
    """What the link of a connection tells."""
    return Connected(
        connection=link.connection,
        customer=link.customer,
        system=link.system,
        rules=link.rules,
        resolution=link.connector.capabilities.resolution,
        lateness=link.lateness,
        alerts=link.alerts,
    )


def window_of(at: datetime, span: timedelta) -> datetime:
    """The start of the window that an instant falls into: windows are counted from 1970, as PostgreSQL's
    date_bin does it.
    """
    return at - (at - EPOCH) % span


def _sample(
    row: Row,
    fed_by: Sequence[tuple[Connected, MeterMapping]],
    judged_by: Sequence[tuple[Connected, AlertRule]],
) -> ExplainedSample:
    _, _, at_microseconds, metrics = row
    at = from_microseconds(at_microseconds)
    meters = tuple(
        _fed(connected, mapping, at, metrics[mapping.metric])
        for connected, mapping in fed_by
        if mapping.metric in metrics
    )
    alerts = tuple(
        _touched(connected, rule, value)
        for connected, rule in judged_by
        if (value := alert_rule.observed(rule, metrics)) is not None
    )
    return ExplainedSample(at=at, metrics=metrics, meters=meters, alerts=alerts)


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


def _mappings(connected: Connected, device: str | None) -> list[MeterMapping]:
    if device is None:
        return []
    mappings, _ = materialise(connected.rules, [device], resolution=connected.resolution)
    return [mapping for mapping in mappings.values() if mapping.device == device]


def _fed(connected: Connected, mapping: MeterMapping, at: datetime, value: Value) -> Fed:
    start = window_of(at, mapping.window)
    end = start + mapping.window
    return Fed(
        connection=connected.connection,
        system=connected.system,
        meter=mapping.meter,
        metric=mapping.metric,
        value=value,
        unit=mapping.unit,
        reduce=mapping.reduce,
        deadband=mapping.deadband,
        window_start=start,
        window_end=end,
        due_at=end if mapping.reduce == "each" else end + connected.lateness,
    )
