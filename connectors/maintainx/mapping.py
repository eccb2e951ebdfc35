"""Readings to MaintainX's JSON and back. Pure: no network, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from connectors.kit.numbers import to_number
from gateway.model.connector import RemoteReading
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading

MAX_AGE = timedelta(days=3)
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A meter as GET /meters lists it."""

    id: int
    name: str
    last_at: datetime | None
    last_value: float | None
    unit: str | None = None
    asset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterCatalogue:
    """Meters by what a mapping may call them. A name that several meters bear is in `ambiguous` and resolves
    to none.
    """

    by_id: Mapping[int, Meter]
    by_name: Mapping[str, int]
    ambiguous: frozenset[str]


def meter_id(meter: str) -> int | None:
    """The id that a mapping's `meter` stands for, where it is one: digits only."""
    return int(meter) if meter.isascii() and meter.isdigit() and len(meter) <= 15 else None


def resolve(meter: str, catalogue: MeterCatalogue | None) -> int | Rejected:
    """The id of a meter given by id or by name. Only a name needs the catalogue."""
    number = meter_id(meter)
    if number is not None:
        return number
    if catalogue is not None and meter in catalogue.ambiguous:
        return Rejected(
            code="ambiguous_meter",
            message=f"several MaintainX meters are named {meter!r}: map to the id instead",
        )
    if catalogue is not None and meter in catalogue.by_name:
        return catalogue.by_name[meter]
    return Rejected(
        code="unknown_meter", message=f"MaintainX has no meter named {meter!r}, or this key may not see it"
    )


def to_item(
    reading: Reading, catalogue: MeterCatalogue | None, *, system_time: datetime | None
) -> dict[str, object] | Rejected:
    """The element of POST /meterreadings, or why it need not be sent. `system_time` is MaintainX's clock,
    where known.
    """
    if system_time is not None and system_time - reading.window_start > MAX_AGE:
        return Rejected(
            code="older_than_max_backfill",
            message="MaintainX takes no reading older than three days on an automated meter",
        )
    number = to_number(reading.value)
    if isinstance(number, Rejected):
        return number
    meter = resolve(reading.meter, catalogue)
    if isinstance(meter, Rejected):
        return meter
    return {"meterId": meter, "value": number, "readingDate": to_text(reading.window_start)}


def to_text(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def to_time(text: object) -> datetime | None:
    """Aware UTC, or None for anything that is not a time."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def to_meter(item: object) -> Meter | None:
    """A meter of GET /meters; None for what has no id."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), int):
        return None
    last = item.get("lastReading")
    last = last if isinstance(last, dict) else {}
    value, asset = last.get("value"), item.get("asset")
    return Meter(
        id=item["id"],
        name=str(item.get("name", "")),
        unit=item["unit"] if isinstance(item.get("unit"), str) and item["unit"] else None,
        asset=asset["id"] if isinstance(asset, dict) and isinstance(asset.get("id"), int) else None,
        last_at=to_time(last.get("readingDate")),
        last_value=float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None,
    )


def to_catalogue(meters: Iterable[Meter]) -> MeterCatalogue:
    """By id and by name."""
    by_id = {meter.id: meter for meter in meters}
    by_name: dict[str, int] = {}
    ambiguous: set[str] = set()
    for meter in by_id.values():
        if by_name.setdefault(meter.name, meter.id) != meter.id:
            ambiguous.add(meter.name)
    return MeterCatalogue(by_id=by_id, by_name=by_name, ambiguous=frozenset(ambiguous))


def proven(readings: Sequence[Reading], catalogue: MeterCatalogue) -> dict[str, RemoteReading]:
    """Which of these readings MaintainX certainly holds, by key.

    Only a meter's last reading can be seen. Readings go out in one array, ascending per meter, and an array
    is taken whole or not at all: where the newest of a meter's readings is the one that MaintainX shows, the
    earlier ones are there too.
    """
    newest: dict[str, Reading] = {}
    for reading in readings:
        known = newest.get(reading.meter)
        if known is None or reading.window_start >= known.window_start:
            newest[reading.meter] = reading
    held = {name for name, reading in newest.items() if _is_last(reading, catalogue)}
    return {
        reading.key: RemoteReading(value=reading.value, at=reading.window_start)
        for reading in readings
        if reading.meter in held
    }


def _is_last(reading: Reading, catalogue: MeterCatalogue) -> bool:
    number, meter = to_number(reading.value), resolve(reading.meter, catalogue)
    if isinstance(number, Rejected) or isinstance(meter, Rejected) or meter not in catalogue.by_id:
        return False
    shown = catalogue.by_id[meter]
    if (
        shown.last_at is None
        or shown.last_value is None
        or to_text(shown.last_at) != to_text(reading.window_start)
    ):
        return False
    return math.isclose(shown.last_value, number, rel_tol=_TOLERANCE, abs_tol=1e-12)
