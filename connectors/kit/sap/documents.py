"""Readings to SAP's measurement documents and back: which property holds what, what is sent, what is asked.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import orjson

from connectors.kit.numbers import to_number
from connectors.kit.odata.batch import BatchRequest
from connectors.kit.odata.query import target
from connectors.kit.odata.values import (
    Version,
    date_literal,
    decode_date,
    decode_number,
    decode_time,
    encode_date,
    encode_number,
    encode_time,
    text_literal,
    time_literal,
)
from connectors.kit.sap.local_time import wall_time
from connectors.kit.sap.records import WallList
from gateway.model.connector import RemoteReading
from gateway.model.outcome import Rejected, Retry
from gateway.model.reading import Reading

METER_LENGTH, UNIT_LENGTH, READER_LENGTH = 12, 3, 12
_TEXT_LENGTH = 40
# SAP keeps the value in SI units as a double and converts it back: what is read is the sent value but for
# that.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The names of a measurement document's properties; those of S/4HANA by default. `reversed` is None where
    a service shows none.
    """

    number: str = "MeasurementDocument"
    meter: str = "MeasuringPoint"
    date: str = "MsmtRdngDate"
    time: str = "MsmtRdngTime"
    value: str = "MeasurementReadingInEntryUoM"
    unit: str = "MeasurementReadingEntryUoM"
    text: str | None = "MeasurementDocumentText"
    reader: str | None = "MsmtRdngByUser"
    reversed: str | None = "MsmtRdngIsReversed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one system writes its documents."""

    version: Version
    fields: Fields
    entity_set: str
    zone: ZoneInfo
    reader: str


Slot = tuple[str, datetime]
"""A measuring point and a wall time: SAP holds one document of it."""


def documents_list(version: Version, entity_set: str, fields: Fields, zone: ZoneInfo) -> WallList:
    """The documents in the order of their readings. SAP's service shows neither when a document was written
    nor when it was reversed: both are seen while the reading's own time is within the lookback.
    """
    return WallList(
        version=version,
        entity_set=entity_set,
        number=fields.number,
        date=fields.date,
        time=fields.time,
        zone=zone,
    )


def is_point(point: str) -> bool:
    """Whether a measuring point could have this number."""
    return point.isprintable() and 0 < len(point) <= METER_LENGTH


def slot_of(point: str, reading: Reading, zone: ZoneInfo) -> Slot:
    """Where SAP keeps this reading."""
    return point, wall_time(reading.window_start, zone)


def to_operation(
    form: Form, reading: Reading, point: str, *, now: datetime | None, skew: timedelta
) -> BatchRequest | Rejected | Retry:
    """The change to send, or why it is not sent. `now` is SAP's clock, where known: SAP takes nothing from
    its future.
    """
    number = to_number(reading.value)
    if isinstance(number, Rejected):
        return number
    if not is_point(point):
        return Rejected(
            code="unknown_meter",
            message=(
                f"a measuring point has 1 to {METER_LENGTH} printable characters, and {point[:40]!r} has not"
            ),
        )
    if reading.unit is not None and (not reading.unit.isprintable() or len(reading.unit) > UNIT_LENGTH):
        return Rejected(
            code="unknown_unit",
            message=f"SAP's units have at most {UNIT_LENGTH} characters, and {reading.unit[:40]!r} is none",
        )
    if now is not None and (early := (reading.window_start + skew - now).total_seconds()) > 0:
        return Retry(
            after_seconds=math.ceil(early),
            message=(
                f"not sent: SAP's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and it takes nothing from its"
                " future"
            ),
        )
    at, fields = wall_time(reading.window_start, form.zone), form.fields
    body: dict[str, object] = {
        fields.meter: point,
        fields.date: encode_date(form.version, at.date()),
        fields.time: encode_time(form.version, at.time()),
        fields.value: encode_number(form.version, number + 0.0 if isinstance(number, float) else number),
    }
    if reading.unit:
        body[fields.unit] = reading.unit
    if fields.text is not None:
        body[fields.text] = f"Fieldgate {reading.key}"[:_TEXT_LENGTH]
    if fields.reader is not None:
        body[fields.reader] = form.reader
    return BatchRequest(target=form.entity_set, body=orjson.dumps(body))


def to_questions(form: Form, slots: Iterable[Slot]) -> dict[tuple[str, str], BatchRequest]:
    """One query for each point and day, over the times between: what is held there. By point and day."""
    times: dict[tuple[str, str], list[datetime]] = {}
    for point, at in slots:
        times.setdefault((point, at.date().isoformat()), []).append(at)
    fields, version = form.fields, form.version
    wanted = [
        name
        for name in (fields.number, fields.date, fields.time, fields.value, fields.reversed)
        if name is not None
    ]
    questions = {}
    for (point, day), found in times.items():
        first, last = min(found), max(found)
        where = (
            f"{fields.meter} eq {text_literal(point)} and {fields.date} eq"
            f" {date_literal(version, first.date())}"
        )
        if first == last:
            where += f" and {fields.time} eq {time_literal(version, first.time())}"
        else:
            where += (
                f" and {fields.time} ge {time_literal(version, first.time())} and {fields.time} le"
                f" {time_literal(version, last.time())}"
            )
        questions[point, day] = BatchRequest(target=target(form.entity_set, where=where, select=wanted))
    return questions


def to_held(form: Form, point: str, rows: Iterable[Mapping[str, object]]) -> dict[Slot, list[RemoteReading]]:
    """What the rows say that SAP holds, by slot. Reversed documents do not count. The
    times are wall times.
    """
    held: dict[Slot, list[RemoteReading]] = {}
    fields = form.fields
    for row in rows:
        day, at, value = (
            decode_date(row.get(fields.date)),
            decode_time(row.get(fields.time)),
            decode_number(row.get(fields.value)),
        )
        if day is None or value is None or (fields.reversed is not None and row.get(fields.reversed) is True):
            continue
        when = datetime.combine(day, at or time(0))
        number = row.get(fields.number)
        held.setdefault((point, when), []).append(
            RemoteReading(
                value=value, at=when, remote_id=number if isinstance(number, str) and number else None
            )
        )
    return held


def is_same(reading: Reading, remote: RemoteReading) -> bool:
    """Whether SAP holds this reading's value, but for what its conversion of units does to a number."""
    number, value = to_number(reading.value), decode_number(remote.value)
    if isinstance(number, Rejected) or value is None:
        return False
    return math.isclose(number, value, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def pick(reading: Reading, held: Sequence[RemoteReading]) -> RemoteReading:
    """The document that is this reading's, else any: at the reading's own time, and with its own value where
    SAP holds that.
    """
    same = next((remote for remote in held if is_same(reading, remote)), None)
    chosen = same or held[0]
    value = reading.value if same else chosen.value
    return RemoteReading(value=value, at=reading.window_start, remote_id=chosen.remote_id)
