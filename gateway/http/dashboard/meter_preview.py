"""What meters would have made of the samples that are stored, for the pages on which they are edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway import zones
from gateway.http.dashboard.meter_form import is_free
from gateway.http.dashboard.rendering import window as window_text
from gateway.meter_settings import MeterSettings
from gateway.model.arithmetic import Reduced, told
from gateway.model.calendar import Calendar, window_of
from gateway.model.meter import MeterRule
from gateway.model.sample import EPOCH, MICROSECOND, Value
from gateway.store.devices import DeviceMetric, Devices, SeriesBucket

MAX_PREVIEWED = 20
"""Each reads an hour of its metric's samples."""

MAX_LONG = 5
"""Of them with windows of more than an hour, whose samples may be as many as one question reads."""

MAX_MATCHES = 3
"""Of a pattern that are shown."""

MAX_LOOKED_AT = 500
"""Metrics that patterns are compared with."""

PREVIEWED = frozenset({"last", "mean", "min", "max", "count"})
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """What a metric would have given a meter, by the beginning of the window, as it is shown. `is_cut`: there
    are more samples than are read here.
    """

    device: str
    metric: str
    meter: str
    unit: str | None
    how: str
    readings: tuple[tuple[str, Value | None], ...]
    is_cut: bool


async def preview(
    devices: Devices, customer: str, rules: Sequence[MeterSettings], now: datetime
) -> list[Previewed]:
    """The readings of the windows that ended within the last hour, or of the last one where windows are
    longer, as they would be reduced and converted. Patterns with some of the metrics that they match now.
    Rules that a chart of samples cannot tell are left out.
    """
    shown = [rule for rule in rules if rule.reduce in PREVIEWED and rule.valid is None and not rule.deadband]
    has_patterns = any(is_free({"device": rule.device, "metric": rule.metric}) for rule in shown)
    metrics = await devices.metrics(customer, limit=MAX_LOOKED_AT) if has_patterns else []
    long = [rule for rule in shown if _is_long(rule)][MAX_LONG:]
    wanted = [
        (rule, device, metric)
        for rule in shown
        if rule not in long
        for device, metric in _feeds(rule, metrics)
    ]
    return [
        await _previewed(devices, customer, rule, device, metric, now)
        for rule, device, metric in wanted[:MAX_PREVIEWED]
    ]


def _is_long(rule: MeterSettings) -> bool:
    return isinstance(rule.window, Calendar) or rule.window > HOUR


def _feeds(
    rule: MeterSettings, metrics: Sequence[tuple[str, str | None, DeviceMetric]]
) -> list[tuple[str, str]]:
    assert rule.device is not None
    assert rule.metric is not None
    if not is_free({"device": rule.device, "metric": rule.metric}):
        return [(rule.device, rule.metric)]
    pattern = MeterRule(device=rule.device, metric=rule.metric, meter="")
    found = [(device, one.name) for device, _, one in metrics if pattern.feeds_from(device, one.name)]
    return found[: 1 if _is_long(rule) else MAX_MATCHES]


async def _previewed(
    devices: Devices, customer: str, rule: MeterSettings, device: str, metric: str, now: datetime
) -> Previewed:
    since, until, count = _windows(rule.window, now)
    series = await devices.series(customer, device, metric, since=since, until=until, buckets=count)
    zone = zones.zone(rule.zone or "UTC")
    form = "{:%a %d %b %H:%M}" if _is_long(rule) else "{:%H:%M}"
    return Previewed(
        device=device,
        metric=metric,
        meter=str(rule.meter).replace("{device}", device).replace("{metric}", metric),
        unit=rule.told_unit,
        how=f"{rule.reduce} of {window_text(rule.window)}",
        readings=tuple(
            (form.format(bucket.start.astimezone(zone)), _reading(rule, bucket)) for bucket in series.buckets
        ),
        is_cut=not series.complete,
    )


def _windows(window: timedelta | Calendar, now: datetime) -> tuple[datetime, datetime, int]:
    """From when to when, and how many windows that is."""
    if isinstance(window, Calendar):
        zone = zones.zone(window.zone)
        assert zone is not None, "a rule of a zone that is not known here is refused before"
        until, _ = window_of(now, window, zone)
        since, _ = window_of(until - MICROSECOND, window, zone)
        return since, until, 1
    count = max(1, HOUR // window) if window >= timedelta(minutes=1) else 60
    until = now - (now - EPOCH) % window
    return until - count * window, until, count


def _reading(rule: MeterSettings, bucket: SeriesBucket) -> Value | None:
    """As the sync would tell it."""
    reduced = {"mean": bucket.mean, "min": bucket.min, "max": bucket.max, "count": bucket.samples}
    return told(Reduced(reduced.get(rule.reduce, bucket.last)), rule.arithmetic, rule.reduce).value
