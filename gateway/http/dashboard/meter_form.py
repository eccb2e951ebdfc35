"""The step that says which metric feeds which meter: rows of the form, suggestions, and a preview of what the
last hour would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.http.dashboard.credential_form import sentence
from gateway.model.errors import RequestRefused
from gateway.model.exchange import RemoteMeter
from gateway.model.sample import Value
from gateway.model.suggest import suggested
from gateway.store.devices import DeviceMetric, Devices, SeriesBucket

MAX_ROWS = 60
MAX_PREVIEWED = 20
"""Each reads an hour of its metric's samples."""

REDUCTIONS = ("last", "mean", "min", "max", "count")
PREVIEWED = frozenset(REDUCTIONS)
WINDOWS: Mapping[str, timedelta] = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
}
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """A metric of a device, and the meter that it feeds; none where that is empty."""

    device: str
    title: str | None
    metric: str
    value: Value | None
    at: datetime | None
    meter: str = ""
    unit: str = ""
    reduce: str = "last"
    every: str = "15m"
    is_suggested: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """What a row would have given in the last hour, by the beginning of the window."""

    row: MeterRow
    readings: tuple[tuple[datetime, Value | None], ...]


def meter_rows(
    metrics: Sequence[tuple[str, str | None, DeviceMetric]],
    mapped: Sequence[Mapping[str, object]],
    meters: Sequence[RemoteMeter],
    *,
    suggest: bool,
) -> list[MeterRow]:
    """A row for each metric: as it is mapped, or with a suggestion where nothing was chosen yet. A meter is
    suggested once.
    """
    chosen = {(str(meter["device"]), str(meter["metric"])): meter for meter in mapped}
    free = [meter for meter in meters if meter.meter not in {each["meter"] for each in mapped}]
    rows: list[MeterRow] = []
    for device, title, metric in metrics:
        row = MeterRow(device=device, title=title, metric=metric.name, value=metric.value, at=metric.at)
        held = chosen.get((device, metric.name))
        if held is not None:
            row = _filled(row, {name: str(value) for name, value in held.items() if value is not None})
        elif suggest and (found := suggested(device, title, metric.name, free)) is not None:
            free.remove(found)
            row = _filled(row, {"meter": found.meter, "unit": found.unit or ""}, is_suggested=True)
        rows.append(row)
    return rows


def given_rows(given: Mapping[str, str]) -> list[MeterRow]:
    """The rows that a form sent."""
    rows: list[MeterRow] = []
    for number in range(MAX_ROWS):
        if f"m{number}.device" not in given:
            continue
        part = {
            name: given.get(f"m{number}.{name}", "").strip() for name in ("meter", "unit", "reduce", "every")
        }
        row = MeterRow(
            device=given[f"m{number}.device"],
            title=None,
            metric=given.get(f"m{number}.metric", ""),
            value=None,
            at=None,
        )
        rows.append(_filled(row, part))
    return rows


def merged(mapped: Sequence[Mapping[str, object]], rows: Sequence[MeterRow]) -> list[dict[str, object]]:
    """What is mapped with these rows in place of what was said of the same metrics. Others, found by another
    search, stay.
    """
    shown = {(row.device, row.metric) for row in rows}
    kept = [dict(meter) for meter in mapped if (meter["device"], meter["metric"]) not in shown]
    return kept + [
        {
            "device": row.device,
            "metric": row.metric,
            "meter": row.meter,
            "unit": row.unit or None,
            "reduce": row.reduce,
            "every": row.every,
        }
        for row in rows
        if row.meter
    ]


def meter_faults(error: RequestRefused, mapped: Sequence[Mapping[str, object]]) -> dict[tuple[str, str], str]:
    """What is wrong, by the device and metric of the row."""
    found: dict[tuple[str, str], str] = {}
    for fault in getattr(error.__cause__, "faults", ()):
        if fault.path[:1] == ("meters",) and len(fault.path) > 1 and fault.path[1] < len(mapped):
            meter = mapped[fault.path[1]]
            said = sentence(fault.message.replace(" (request)", ""))
            found.setdefault((str(meter["device"]), str(meter["metric"])), said)
    return found


async def preview(
    devices: Devices, customer: str, rows: Sequence[MeterRow], now: datetime
) -> list[Previewed]:
    """The readings of the windows that ended within the last hour, as they would be reduced."""
    found = []
    for row in [row for row in rows if row.meter and row.every in WINDOWS][:MAX_PREVIEWED]:
        width = WINDOWS[row.every]
        until = datetime.fromtimestamp(
            now.timestamp() // width.total_seconds() * width.total_seconds(), now.tzinfo
        )
        series = await devices.series(
            customer, row.device, row.metric, since=until - HOUR, until=until, buckets=HOUR // width
        )
        readings = tuple((bucket.start, _reduced(row.reduce, bucket)) for bucket in series.buckets)
        found.append(Previewed(row=row, readings=readings))
    return found


def _reduced(reduce: str, bucket: SeriesBucket) -> Value | None:
    match reduce:
        case "mean":
            return bucket.mean
        case "min":
            return bucket.min
        case "max":
            return bucket.max
        case "count":
            return bucket.samples
        case _:
            return bucket.last


def _filled(row: MeterRow, part: Mapping[str, str], *, is_suggested: bool = False) -> MeterRow:
    return MeterRow(
        device=row.device,
        title=row.title,
        metric=row.metric,
        value=row.value,
        at=row.at,
        meter=part.get("meter", "")[:200],
        unit=part.get("unit", "")[:40],
        reduce=part["reduce"] if part.get("reduce") in REDUCTIONS else "last",
        every=part["every"] if part.get("every") in WINDOWS else "15m",
        is_suggested=is_suggested,
    )
