"""Measuring points and notifications: to SAP's JSON and back. Pure: no network, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import orjson

from connectors.kit.inbound import key_of, pack, place_at, unpack
from connectors.kit.odata.query import modified_within
from connectors.kit.odata.values import (
    Version,
    decode_instant,
    encode_date,
    encode_time,
    instant_literal,
    text_literal,
)
from connectors.kit.sap.documents import UNIT_LENGTH
from connectors.kit.sap.local_time import wall_time
from connectors.kit.sap.records import DELETED_PHASE, PHASES, to_body
from connectors.sap_s4hana.settings import NewMeasuringPoint, Notification
from gateway.model.errors import CursorExpired
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.inbound import InboundRecord

POINT_SET, NOTIFICATION_SET = "MeasuringPoint", "MaintenanceNotification"
POSITION_LENGTH, REFERENCE_LENGTH = 20, 20
_DESCRIPTION_LENGTH, _TITLE_LENGTH, _TEXT_LENGTH = 40, 40, 1333
_CHANGED, _KEY, _PHASE = "LastChangeDateTime", "MaintenanceNotification", "NotifProcessingPhase"
_REFERENCE = "MaintNotifExtReferenceNumber"
_NEVER = datetime.min.replace(tzinfo=UTC)
StreamName = Literal["measurement_documents", "measuring_points", "notifications"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringPoint:
    """A measuring point. `object` is the equipment or functional location it belongs to, with SAP's word for
    which of them.
    """

    number: str
    position: str
    title: str
    unit: str | None
    object: str
    object_kind: str


POINT_FIELDS = (
    "MeasuringPoint",
    "MeasuringPointPositionNumber",
    "MeasuringPointDescription",
    "MeasurementRangeUnit",
    "MeasuringPointIsInactive",
    "Equipment",
    "FunctionalLocation",
)


def to_point(row: Mapping[str, object]) -> MeasuringPoint | None:
    """None for a row without a number."""
    number = _text(row, "MeasuringPoint")
    if not number:
        return None
    equipment = _text(row, "Equipment")
    return MeasuringPoint(
        number=number,
        position=_text(row, "MeasuringPointPositionNumber"),
        title=_text(row, "MeasuringPointDescription"),
        unit=_text(row, "MeasurementRangeUnit") or None,
        object=equipment or _text(row, "FunctionalLocation"),
        object_kind="EAMS_EQUI" if equipment else "EAMS_FL",
    )


def to_meter(point: MeasuringPoint, *, by_position: bool) -> RemoteMeter:
    """As a mapping calls it."""
    return RemoteMeter(
        meter=point.position if by_position else point.number, title=point.title, unit=point.unit
    )


def point_body(wanted: RemoteMeter, new: NewMeasuringPoint) -> bytes:
    """Of POST MeasuringPoint; SAP assigns the number."""
    body: dict[str, object] = {
        "MeasuringPointPositionNumber": wanted.meter,
        "MeasuringPointDescription": printable(wanted.title or wanted.meter)[:_DESCRIPTION_LENGTH],
        "MeasuringPointCategory": new.category,
        "TechnicalObjectType": new.technical_object_type,
        "MeasuringPointIsCounter": new.counter,
    }
    if wanted.unit:
        body["MeasurementRangeUnit"] = wanted.unit[:UNIT_LENGTH]
    optional = {
        "Equipment": new.equipment,
        "FunctionalLocation": new.functional_location,
        "MsrgPtInternalCharacteristic": new.characteristic,
    }
    return orjson.dumps({**body, **{name: value for name, value in optional.items() if value is not None}})


def notification_body(
    event: EventToRaise, settings: Notification, point: MeasuringPoint | None, zone: ZoneInfo
) -> bytes:
    """Of POST MaintenanceNotification. The event's reference is what it is found by again."""
    at = wall_time(event.at, zone)
    body: dict[str, object] = {
        _REFERENCE: event.reference,
        "NotificationType": settings.type,
        "NotificationText": printable(event.title)[:_TITLE_LENGTH],
        "MaintNotifLongTextForEdit": printable(f"{event.text}\n{event.meter}".strip())[:_TEXT_LENGTH],
        "MaintPriority": settings.priorities.get(event.severity, ""),
        "MalfunctionStartDate": encode_date(Version.V2, at.date()),
        "MalfunctionStartTime": encode_time(Version.V2, at.time()),
    }
    if settings.planning_plant is not None:
        body["MaintenancePlanningPlant"] = settings.planning_plant
    if point is not None and point.object:
        body |= {"TechnicalObject": point.object, "TechObjIsEquipOrFuncnlLoc": point.object_kind}
    return orjson.dumps({name: value for name, value in body.items() if value != ""})


def notification_reference(reference: str) -> str:
    """The filter that finds a notification by our reference."""
    return f"{_REFERENCE} eq {text_literal(reference)}"


def changed_after(cursor: str | None, since: datetime | None, until: datetime) -> str:
    """The filter of a page: changed in [since, until), and past the last record of the page before.

    Not by `$skip`: a notification that changes meanwhile leaves the interval, and all after it would move up
    by one. Bounds are whole seconds, as SAP's own times of change are.
    """
    since, until = None if since is None else since.replace(microsecond=0), until.replace(microsecond=0)
    if cursor is None:
        return modified_within(Version.V2, _CHANGED, since, until)
    at, key = _place(cursor)
    last = instant_literal(Version.V2, at)
    within = modified_within(Version.V2, _CHANGED, at, until)
    return f"{within} and ({_CHANGED} gt {last} or {_KEY} gt {text_literal(key)})"


def open_after(cursor: str | None) -> str:
    """The filter of a page: not completed and not deleted, past the last record of the page before."""
    closed = (phase for phase, progress in PHASES.items() if progress == "closed")
    parts = [f"{_PHASE} ne {text_literal(phase)}" for phase in closed]
    if cursor is not None:
        parts.append(f"{_KEY} gt {text_literal(_place(cursor)[1])}")
    return " and ".join(parts)


CHANGED_ORDER = (_CHANGED, _KEY)


def to_notification(row: Mapping[str, object]) -> InboundRecord:
    """The row without links and protocol."""
    phase, body = _text(row, _PHASE), to_body(row)
    return InboundRecord(
        key=key_of([row.get(_KEY)], body),
        modified_at=decode_instant(row.get(_CHANGED)),
        body=body,
        is_deleted=phase == DELETED_PHASE,
        progress=PHASES.get(phase),
        reference=_text(row, _REFERENCE) or None,
    )


def cursor_of(row: Mapping[str, object]) -> str:
    """What `changed_after` and `open_after` need to go on behind this row."""
    at = decode_instant(row.get(_CHANGED))
    return pack(at=None if at is None else at.isoformat(), key=_text(row, _KEY))


def _place(cursor: str) -> tuple[datetime, str]:
    parts = unpack(cursor)
    at, key = parts.get("at"), parts.get("key")
    moment = _NEVER if at is None else place_at(at)
    if not isinstance(key, str) or not key:
        raise CursorExpired("the cursor of the page cannot be read: the interval is read again")
    return moment, key


def printable(text: str) -> str:
    """Line ends and what can be printed; anything else is a blank."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""
