"""What a meter makes of a metric, laid over the metric's chart: a step for each window, as it is reduced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from gateway.model.sample import EPOCH
from gateway.store.devices import Devices, FedMeter, SeriesBucket

MAX_STEPS = 400
"""Narrower ones could not be told apart."""

LEVELS = frozenset({"last", "mean", "min", "max"})
"""Reductions whose value is one of the metric's own scale."""


def laid_over(meters: Sequence[FedMeter], *, span: timedelta) -> FedMeter | None:
    """The first meter whose windows can be shown on a chart of this time."""
    return next(
        (
            meter
            for meter in meters
            if meter.is_plain
            and meter.reduce in LEVELS
            and meter.span
            and 2 <= span // meter.span <= MAX_STEPS
        ),
        None,
    )


async def steps(
    devices: Devices,
    customer: str,
    device: str,
    metric: str,
    meter: FedMeter,
    *,
    since: datetime,
    until: datetime,
) -> list[tuple[float, float, float]]:
    """Begin, end and value of each window that has ended, begin and end as parts of the chart."""
    assert meter.span is not None
    first = since + -(since - EPOCH) % meter.span  # windows are counted from 1970
    count = (until - first) // meter.span
    if count < 1:
        return []
    series = await devices.series(
        customer, device, metric, since=first, until=first + count * meter.span, buckets=count
    )
    whole, found = until - since, []
    for bucket in series.buckets:
        value = reduced(meter.reduce, bucket)
        if value is not None:
            start = (bucket.start - since) / whole
            found.append((start, start + meter.span / whole, value))
    return found


def reduced(reduce: str, bucket: SeriesBucket) -> float | None:
    """The number that a window of these samples becomes; None for none."""
    value = {"mean": bucket.mean, "min": bucket.min, "max": bucket.max}.get(reduce, bucket.last)
    return float(value) if isinstance(value, int | float) else None
