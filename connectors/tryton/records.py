"""What Fieldgate pulls from Tryton and what it raises there: inspections and alerts, as plain JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from connectors.tryton.mapping import Point, to_decimal, to_text, to_time
from gateway.model.exchange import Event, Record

_CHANGED = "last_modified_at"
_TITLE_LENGTH, _TEXT_LENGTH, REFERENCE_LENGTH = 120, 4000, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A kind of record and its fields; `names` are those of others that are shown in place of their ids."""

    model: str
    fields: tuple[str, ...]
    names: tuple[str, ...]


STREAMS: Mapping[str, Stream] = MappingProxyType(
    {
        "inspections": Stream(
            model="quality.inspection",
            fields=("number", "reference", "state", "points", "processed_at"),
            names=("control.name", "company.rec_name"),
        ),
        "alerts": Stream(
            model="quality.alert",
            fields=("number", "title", "description", "state"),
            names=("origin.rec_name", "company.rec_name"),
        ),
    }
)


def fields_of(stream: Stream) -> list[str]:
    """What to ask for."""
    return [_CHANGED, *stream.fields, *stream.names]


def changed(
    since: datetime | None, until: datetime, *, overlap: timedelta, after: str | None
) -> list[object]:
    """The domain of a page: changed in [since, until), behind the record `after`.

    The stamp is that of the transaction's begin: one that lasts commits behind records that were pulled
    already. So each pull looks back.
    """
    domain: list[object] = [[_CHANGED, "<", _stamp(until)], ["id", ">", int(after or 0)]]
    return domain if since is None else [[_CHANGED, ">=", _stamp(since - overlap)], *domain]


def to_record(name: str, row: Mapping[str, object]) -> Record | None:
    """None for a row without an id or a time of change."""
    key, at = row.get("id"), to_time(row.get(_CHANGED))
    if not isinstance(key, int) or at is None:
        return None
    stream = STREAMS[name]
    body = {field: plain(row.get(field)) for field in stream.fields}
    for path in stream.names:
        owner, _, field = path.partition(".")
        related = row.get(f"{owner}.")
        body[owner] = related.get(field) if isinstance(related, dict) else None
    return Record(stream=name, key=str(key), modified_at=at, body=body)


def plain(value: object) -> object:
    """JSON without Tryton's tags: times in ISO 8601, decimals as texts, so that no digit is lost."""
    if isinstance(value, dict):
        if (at := to_time(value)) is not None:
            return at.isoformat().replace("+00:00", "Z")
        if (number := to_decimal(value)) is not None:
            return str(number)
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def event_record(event: Event, point: Point, company: int) -> dict[str, object]:
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
