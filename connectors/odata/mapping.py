"""Readings to entities of a customer's own set and back. Pure: no network, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from connectors.kit.numbers import to_number
from connectors.kit.odata.batch import BatchRequest
from connectors.kit.odata.query import target
from connectors.kit.odata.values import decode_instant, decode_number, text_literal
from connectors.odata.settings import Meters, ODataSettings
from gateway.model.connector import RemoteReading
from gateway.model.exchange import RemoteMeter
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading
from gateway.model.sample import Value

_KEYS = 20  # of one question: its address stays under 2,000 characters


def to_operation(settings: ODataSettings, reading: Reading) -> BatchRequest | Rejected:
    """The change to send, or why it is not sent."""
    names = settings.properties
    body: dict[str, object] = {
        **settings.constants,
        names.meter: reading.meter,
        names.time: _instant(reading.window_start),
    }
    texts: dict[str, str | None] = {"meter": reading.meter, "unit": reading.unit if names.unit else None}
    if isinstance(reading.value, str) and names.text is not None:
        body[names.text] = texts["value"] = reading.value
    else:
        number = to_number(reading.value)
        if isinstance(number, Rejected):
            return number
        body[names.value] = number
    for what, text in texts.items():
        if text is not None and (not text.isprintable() or len(text) > settings.max_text):
            return Rejected(
                code="invalid_text",
                message=f"the {what} is not printable or has more than {settings.max_text} characters",
            )
    if not reading.meter:
        return Rejected(code="unknown_meter", message="the meter has no name")
    if names.unit and reading.unit is not None:
        body[names.unit] = reading.unit
    if names.key:
        body[names.key] = reading.key
    return BatchRequest(target=settings.entity_set, body=orjson.dumps(body))


def to_questions(settings: ODataSettings, keys: Sequence[str]) -> list[BatchRequest]:
    """Queries for what the system holds of these keys."""
    names = settings.properties
    key = names.key or ""
    wanted = [name for name in (names.id, names.key, names.time, names.value, names.text) if name is not None]
    parts = (keys[begin : begin + _KEYS] for begin in range(0, len(keys), _KEYS))
    return [
        BatchRequest(
            target=target(
                settings.entity_set,
                where=" or ".join(f"{key} eq {text_literal(one)}" for one in part),
                select=wanted,
            )
        )
        for part in parts
    ]


def to_held(settings: ODataSettings, rows: Iterable[Mapping[str, object]]) -> dict[str, list[RemoteReading]]:
    """What the rows say that the system holds, by key."""
    names = settings.properties
    held: dict[str, list[RemoteReading]] = {}
    for row in rows:
        key, at, number, text = (
            row.get(names.key or ""),
            decode_instant(row.get(names.time)),
            row.get(names.value),
            row.get(names.text or ""),
        )
        value: Value | None = text if isinstance(text, str) and text else decode_number(number)
        if isinstance(key, str) and value is not None and at is not None:
            held.setdefault(key, []).append(
                RemoteReading(value=value, at=at, remote_id=identity(settings, row))
            )
    return held


def identity(settings: ODataSettings, row: Mapping[str, object]) -> str | None:
    """The system's own id of an entity, where the settings name it."""
    value = row.get(settings.properties.id or "")
    return str(value) if isinstance(value, str | int) and value != "" else None


def pick(reading: Reading, held: Sequence[RemoteReading]) -> RemoteReading:
    """The one with the reading's value, as the reading has it; else the last."""
    same = next((remote for remote in held if is_same(reading.value, remote.value)), None)
    return RemoteReading(value=reading.value, at=same.at, remote_id=same.remote_id) if same else held[-1]


def is_same(value: Value, held: Value) -> bool:
    """Texts as they are; numbers exactly, whatever type the property has. A decimal property that rounds is
    another value.
    """
    if isinstance(value, str) or isinstance(held, str):
        return isinstance(value, str) and isinstance(held, str) and value == held
    return value == held


def to_meter(settings: Meters, row: Mapping[str, object]) -> RemoteMeter | None:
    """None for a row without a name."""
    meter, title, unit = (
        str(row.get(name) or "") if name else "" for name in (settings.meter, settings.title, settings.unit)
    )
    return RemoteMeter(meter=meter, title=title, unit=unit or None) if meter else None


def _instant(at: datetime) -> str:
    """UTC; fractions of a second only where there are any."""
    text = (
        at.astimezone(UTC)
        .replace(tzinfo=None)
        .isoformat(timespec="milliseconds" if at.microsecond else "seconds")
    )
    return f"{text}Z"
