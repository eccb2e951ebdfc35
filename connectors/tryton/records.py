"""What Fieldgate pulls from Tryton and what it raises there: inspections and alerts, as plain JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from connectors.kit.inbound import key_of
from connectors.tryton.mapping import ControlPoint, to_decimal, to_text, to_time, whole
from gateway.model.errors import CursorExpired
from gateway.model.exchange import EventToRaise
from gateway.model.inbound import InboundRecord, Progress

_CHANGED = "last_modified_at"
ALERTS, INSPECTIONS = "quality_alerts", "quality_inspections"
_TITLE_LENGTH, _TEXT_LENGTH, REFERENCE_LENGTH = 120, 4000, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind:
    """A kind of record and its fields; `names` are those of others that are shown in place of their ids.
    progress: how far people are, by the word in `state`. everything: a clause without which Tryton leaves
    some out.
    """

    model: str
    fields: tuple[str, ...]
    names: tuple[str, ...]
    progress: Mapping[str, Progress] = field(default_factory=dict)
    everything: tuple[object, ...] = ()


STREAMS: Mapping[str, RecordKind] = MappingProxyType(
    {
        INSPECTIONS: RecordKind(
            model="quality.inspection",
            fields=("number", "reference", "state", "points", "processed_at"),
            names=("control.name", "company.rec_name"),
            progress={"pending": "open", "passed": "closed", "failed": "closed"},
        ),
        ALERTS: RecordKind(
            model="quality.alert",
            fields=("number", "title", "description", "state"),
            names=("origin.rec_name", "company.rec_name"),
            progress={
                "open": "open",
                "processing": "acknowledged",
                "deferred": "acknowledged",
                "resolved": "closed",
            },
        ),
        # Machines and spare parts. The template has what people change; what was deactivated is shown as
        # such.
        "products": RecordKind(
            model="product.template",
            fields=("name", "code", "type", "active"),
            names=("default_uom.symbol",),
            everything=(["active", "in", [True, False]],),
        ),
    }
)


def fields_of(stream: RecordKind) -> list[str]:
    """What to ask for."""
    return [_CHANGED, *stream.fields, *stream.names, *(["origin"] if stream is STREAMS[ALERTS] else [])]


def changed(
    stream: RecordKind, since: datetime | None, until: datetime, *, after: str | None
) -> list[object]:
    """The domain of a page: changed in [since, until), behind the record `after`."""
    domain = [[_CHANGED, "<", _stamp(until)], *held(stream, after=after)]
    return domain if since is None else [[_CHANGED, ">=", _stamp(since)], *domain]


def unfinished(stream: RecordKind, *, after: str | None) -> list[object]:
    """The domain of a page: what nobody has closed yet."""
    words = [word for word, progress in stream.progress.items() if progress != "closed"]
    return [["state", "in", words], *held(stream, after=after)]


def held(stream: RecordKind, *, after: str | None) -> list[object]:
    """The domain of a page of everything. By id, so that nothing moves while it is walked. Raises
    CursorExpired for a cursor that is none.
    """
    number = 0 if after is None else whole(after)
    if number is None:
        raise CursorExpired("the cursor of the page is no id: the interval is read again")
    return [*stream.everything, ["id", ">", number]]


def to_record(name: str, row: Mapping[str, object], references: Mapping[str, str]) -> InboundRecord:
    """`references`: of inspections, by their ids, for the alerts that began with them."""
    stream = STREAMS[name]
    body = {field: plain(row.get(field)) for field in stream.fields}
    for path in stream.names:
        owner, _, part = path.partition(".")
        related = row.get(f"{owner}.")
        body[owner] = related.get(part) if isinstance(related, dict) else None
    state, reference = row.get("state"), row.get("reference")
    if name == ALERTS:
        reference = references.get(str(inspection_of(row)))
    return InboundRecord(
        key=key_of([row.get("id")], body),
        modified_at=to_time(row.get(_CHANGED)),
        body=body,
        progress=stream.progress.get(state) if isinstance(state, str) else None,
        reference=reference if isinstance(reference, str) and reference else None,
    )


def inspection_of(row: Mapping[str, object]) -> int | None:
    """The id of the inspection that an alert began with."""
    related = row.get("origin.")
    number = related.get("id") if isinstance(related, dict) else None
    model, _, named = str(row.get("origin") or "").partition(",")
    if model != "quality.inspection":
        return None
    return number if isinstance(number, int) else whole(named)


def plain(value: object) -> object:
    """JSON without Tryton's tags: times in ISO 8601, decimals as texts, so that no digit is lost."""
    if isinstance(value, dict):
        if (at := to_time(value)) is not None:
            return at.isoformat().replace("+00:00", "Z")
        if (number := to_decimal(value)) is not None:
            return str(number)
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def event_record(event: EventToRaise, point: ControlPoint, company: int) -> dict[str, object]:
    """An inspection without a value that bears the event's reference, and its alert: one request, taken whole
    or not at all.
    """
    alert = {
        "company": company,
        "title": _printable(f"{event.severity}: {event.title}")[:_TITLE_LENGTH],
        "description": _printable(f"{event.text}\n{event.meter}".strip())[:_TEXT_LENGTH],
    }
    return {
        "company": company,
        "control": point.control,
        "reference": event.reference,
        "processed_at": to_text(event.at),
        "points": {},
        "alerts": [["create", [alert]]],
    }


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
