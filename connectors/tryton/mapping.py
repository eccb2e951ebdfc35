"""Readings to quality inspections and back. Pure: no network, no clock.

A mapping's `meter` is `control/point`. The readings of one control and one time become one inspection with
several points; its reference is derived from both, so what is held of a reading is found again by asking for
the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from connectors.kit.numbers import to_number
from gateway.model.connector import RemoteReading
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading, reading_key
from gateway.model.sample import Value

MAX_ID_DIGITS = 18
MAX_DIGITS = 38  # of a decimal that is written or read exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPoint:
    """A point of a control. `kind` is Tryton's type: boolean, integer, float or numeric. `company` is None
    for a control of all companies.
    """

    control: int
    company: int | None
    meter: str
    name: str
    title: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCatalogue:
    """Points by meter. A meter that several controls have is in `ambiguous` and resolves to none."""

    points: Mapping[str, ControlPoint]
    ambiguous: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionDraft:
    """An inspection to be. `values` are in Tryton's JSON, by point."""

    reference: str
    control: int
    company: int
    at: datetime
    readings: tuple[Reading, ...]
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldInspection:
    """An inspection that Tryton holds. `points` in its JSON."""

    id: int
    reference: str
    is_pending: bool
    at: datetime | None
    points: Mapping[str, object]


def whole(text: str) -> int | None:
    """The id that a text is; None for what can be none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS else None


def split(meter: str) -> tuple[str, str]:
    """The names of control and point; an empty control where there is no slash."""
    control, _, point = meter.rpartition("/")
    return control, point


def reference_of(connection: str, reading: Reading) -> str:
    """Of the inspection that holds this reading: 20 characters, the same for ever."""
    return reading_key(connection, split(reading.meter)[0], reading.window_start)


def to_catalogue(points: Iterable[ControlPoint]) -> PointCatalogue:
    """By meter."""
    found: dict[str, ControlPoint] = {}
    ambiguous: set[str] = set()
    for point in points:
        if found.setdefault(point.meter, point) is not point:
            ambiguous.add(point.meter)
    return PointCatalogue(points=found, ambiguous=frozenset(ambiguous))


def resolve(
    meter: str, catalogue: PointCatalogue, *, company: int | None
) -> tuple[ControlPoint, int] | Rejected:
    """The point of a meter and the company that its inspections belong to. Tryton itself would store a point
    that does not exist.
    """
    if meter in catalogue.ambiguous:
        return Rejected(
            code="ambiguous_meter",
            message=f"several quality controls have {meter[:80]!r}: set settings.company, or rename one",
        )
    point = catalogue.points.get(meter)
    if point is None:
        message = (
            f"Tryton has no quality control with the point {meter[:80]!r}, or this user may not see it; a"
            " meter is written control/point"
        )
        return Rejected(code="unknown_meter", message=message)
    owner = point.company or company
    if owner is None:
        return Rejected(
            code="no_company",
            message=f"the quality control of {meter[:80]!r} belongs to no company: set settings.company",
        )
    return point, owner


def to_value(kind: str, value: Value) -> object | Rejected:
    """Tryton's JSON for a point of this type. A whole number is a decimal's digits, however many they are."""
    if kind == "numeric" and isinstance(value, int) and abs(value) < 10**MAX_DIGITS:
        return {"__class__": "Decimal", "decimal": str(int(value))}
    number = to_number(value)
    if isinstance(number, Rejected):
        return number
    match kind:
        case "boolean":
            if number in (0, 1):
                return bool(number)
            return Rejected(
                code="unsupported_value", message=f"the point is yes or no, and the reading is {number!r}"
            )
        case "integer":
            if isinstance(number, int) or number.is_integer():
                return to_number(int(number))
            return Rejected(
                code="unsupported_value",
                message=f"the point holds whole numbers, and the reading is {number!r}",
            )
        case "float":
            return float(number)
        case "numeric":
            return {"__class__": "Decimal", "decimal": str(Decimal(repr(number)))}
        case _:
            return Rejected(
                code="unsupported_value", message=f"Fieldgate does not write points of the type {kind[:20]!r}"
            )


def to_drafts(
    connection: str, readings: Sequence[Reading], catalogue: PointCatalogue, *, company: int | None
) -> tuple[dict[str, Rejected], dict[str, InspectionDraft]]:
    """What need not be sent, by the reading's key; and the inspections of the others, by reference."""
    refused: dict[str, Rejected] = {}
    drafts: dict[str, InspectionDraft] = {}
    for reading in readings:
        found = resolve(reading.meter, catalogue, company=company)
        if isinstance(found, Rejected):
            refused[reading.key] = found
            continue
        point, owner = found
        value = to_value(point.kind, reading.value)
        if isinstance(value, Rejected):
            refused[reading.key] = value
            continue
        reference = reference_of(connection, reading)
        before = drafts.get(reference)
        drafts[reference] = InspectionDraft(
            reference=reference,
            control=point.control,
            company=owner,
            at=reading.window_start,
            readings=(*(before.readings if before else ()), reading),
            values={**(before.values if before else {}), point.name: value},
        )
    return refused, drafts


def to_record(draft: InspectionDraft) -> dict[str, object]:
    """Of the `vlist` of a create."""
    return {
        "company": draft.company,
        "control": draft.control,
        "reference": draft.reference,
        "processed_at": to_text(draft.at),
        "points": draft.values,
    }


def to_text(at: datetime) -> str:
    """In UTC without a zone, to the second: of an offset Tryton drops or keeps the hours as its database
    likes.
    """
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def to_points(control: object) -> list[ControlPoint]:
    """The points of a listed control; none for what is no control."""
    if not isinstance(control, dict) or not isinstance(number := control.get("id"), int):
        return []
    company, name, rows = control.get("company"), control.get("name"), control.get("points")
    owner = company.get("id") if isinstance(company, dict) else company
    return [
        ControlPoint(
            control=number,
            company=owner if isinstance(owner, int) else None,
            meter=f"{name}/{row.get('name')}",
            name=str(row.get("name")),
            title=str(row.get("string") or ""),
            kind=str(row.get("type_")),
        )
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    ]


def to_held(row: object) -> HeldInspection | None:
    """None for what is no inspection."""
    if not isinstance(row, dict) or not isinstance(number := row.get("id"), int):
        return None
    points = row.get("points")
    return HeldInspection(
        id=number,
        reference=str(row.get("reference") or ""),
        is_pending=row.get("state") == "pending",
        at=to_time(row.get("processed_at")),
        points=points if isinstance(points, dict) else {},
    )


def holder(point: str, held: Sequence[HeldInspection]) -> HeldInspection | None:
    """The newest inspection that has the point: what it says is what is in force. `held` ascends by id."""
    return next(
        (inspection for inspection in reversed(held) if inspection.points.get(point) is not None), None
    )


def to_remote(reading: Reading, held: Sequence[HeldInspection]) -> RemoteReading | None:
    """What is in force of this reading. Its own value where Tryton holds just that, whatever the point's type
    made of it.
    """
    point = split(reading.meter)[1]
    inspection = holder(point, held)
    if inspection is None:
        return None
    value = from_value(inspection.points[point])
    if value is None:
        return None
    same = is_same(reading.value, value)
    return RemoteReading(
        value=reading.value if same else value,
        at=inspection.at or reading.window_start,
        remote_id=str(inspection.id),
    )


def is_same(value: Value, held: Value) -> bool:
    """Exactly, but for the type: a decimal comes back as the number that was sent, digit for digit."""
    if (
        isinstance(value, str)
        or isinstance(held, str)
        or not (isinstance(value, int) or math.isfinite(value))
    ):
        return False
    return held == value or Decimal(repr(held + 0)) == Decimal(repr(value + 0))


def from_value(value: object) -> float | int | None:
    """The number of a point in Tryton's JSON; None for anything else."""
    if isinstance(value, dict):
        value = to_decimal(value)
    if isinstance(value, Decimal):
        return _number(value)
    return value if isinstance(value, bool | int | float) else None


def _number(value: Decimal) -> float | int | None:
    """The double that is written so; else a whole number with all its digits, which no double has."""
    if not value.is_finite():
        return None
    number = float(value)
    if math.isfinite(number) and Decimal(repr(number)) == value:
        return number
    if value.adjusted() < MAX_DIGITS and value == value.to_integral_value():
        return int(value)
    return number if math.isfinite(number) else None


def to_decimal(tagged: Mapping[str, object]) -> Decimal | None:
    """Of `{"__class__": "Decimal", "decimal": "1.5"}`; None for anything else."""
    try:
        return Decimal(str(tagged.get("decimal"))) if tagged.get("__class__") == "Decimal" else None
    except InvalidOperation:
        return None


def to_time(tagged: object) -> datetime | None:
    """Aware UTC of `{"__class__": "datetime", "year": ...}`; None for anything else."""
    if not isinstance(tagged, dict) or tagged.get("__class__") != "datetime":
        return None
    names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    parts = [tagged.get(name, 0) for name in names]
    # -1 is in no date: it is refused below
    year, month, day, hour, minute, second, micro = (part if isinstance(part, int) else -1 for part in parts)
    try:
        return datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
