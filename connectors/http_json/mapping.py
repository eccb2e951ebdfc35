"""Readings to the receiver's JSON and its answers to outcomes. Pure: no network, no clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_never

from connectors.http_json.settings import ReadBack, RefusedWhen, Results, Signature
from connectors.kit.numbers import to_number
from gateway.model.connector import RemoteReading
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Superseded
from gateway.model.reading import Reading
from gateway.model.sample import Value

TimeFormat = Literal["iso", "epoch_seconds", "epoch_milliseconds"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RETRY_SECONDS = 30.0


def resolution(written: TimeFormat) -> timedelta:
    """What {time} distinguishes."""
    match written:
        case "iso":
            return timedelta(microseconds=1)
        case "epoch_milliseconds":
            return timedelta(milliseconds=1)
        case "epoch_seconds":
            return timedelta(seconds=1)
        case _:
            assert_never(written)


def to_time(at: datetime, written: TimeFormat) -> str | int:
    """What {time} stands for."""
    if written == "iso":
        return at.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    return (at - _EPOCH) // resolution(written)


def to_values(
    reading: Reading, *, connection: str, time: TimeFormat, position: int = 0
) -> Mapping[str, object] | Rejected:
    """The placeholders of a reading, or why JSON could not carry it."""
    value: object = reading.value
    if not isinstance(reading.value, bool | str):
        value = to_number(reading.value)
        if isinstance(value, Rejected):
            return value
    for name, text in (("meter", reading.meter), ("value", value), ("unit", reading.unit)):
        if isinstance(text, str) and not _is_storable(text):
            return Rejected(
                code="invalid_text", message=f"the {name} has a NUL character or is not valid Unicode"
            )
    return {
        "connection": connection,
        "key": reading.key,
        "meter": reading.meter,
        "position": position,
        "time": to_time(reading.window_start, time),
        "unit": reading.unit,
        "value": value,
    }


def sign(secret: str, body: bytes, signature: Signature) -> str:
    """The header's value. Source: RFC 2104, with SHA-256."""
    digest = hmac.new(secret.encode("utf-8", "surrogatepass"), body, hashlib.sha256).digest()
    return signature.prefix + (
        digest.hex() if signature.encoding == "hex" else base64.b64encode(digest).decode()
    )


def read(document: object, path: str) -> object:
    """The part of an answer at a dotted path of names, None where there is none; `$` is the whole."""
    if path == "$":
        return document
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def to_refusal(document: object, refused: RefusedWhen | None) -> tuple[str, str] | None:
    """Code and words, where an answer with 2xx says that the request was refused; None where it does not."""
    if refused is None:
        return None
    word = read(document, refused.path)
    if type(word) is not type(refused.word) or word != refused.word:
        return None
    code = _text(read(document, refused.code)) or "refused"
    return code, _text(read(document, refused.message)) or words(document) or "the receiver gave no reason"


def to_account(document: object, path: str | None) -> str | None:
    """Whose data an answer says that it shows; None where it says nothing that could be compared."""
    found = None if path is None else read(document, path)
    if isinstance(found, bool) or not isinstance(found, int | str):
        return None
    return str(found)[:200] or None


def to_outcomes(
    document: object, results: Results, *, expected: int, clean: Callable[[str], str]
) -> list[Outcome] | None:
    """One for each reading; None for an answer that does not tell of each. `clean` blacks out secrets."""
    items = read(document, results.items)
    if not isinstance(items, list) or len(items) != expected:
        return None
    return [_outcome(item, results, clean) for item in items]


def _outcome(item: object, results: Results, clean: Callable[[str], str]) -> Outcome:
    word = read(item, results.status)
    remote_id = _text(read(item, results.remote_id))[:400] or None
    message = clean(_text(read(item, results.message))) or "the receiver gave no reason"
    if word == results.accepted:
        return Accepted(remote_id=remote_id)
    if word == results.duplicate:
        return Duplicate(remote_id=remote_id)
    if word == results.retry:
        return Retry(after_seconds=_RETRY_SECONDS, message=message)
    if word == results.superseded:
        return Superseded(message=message)
    return Rejected(code=clean(_text(read(item, results.code)))[:60] or "refused", message=message)


def to_found(
    document: object, settings: ReadBack, readings: Mapping[str, Reading]
) -> dict[str, RemoteReading] | None:
    """What the receiver holds of these, by key; None for an answer that lists nothing. At the reading's own
    time, which its key stands for.
    """
    items = read(document, settings.items)
    if not isinstance(items, list):
        return None
    found: dict[str, RemoteReading] = {}
    for item in items:
        key, value = read(item, settings.key), read(item, settings.value)
        if isinstance(key, str) and key in readings and isinstance(value, bool | int | float | str):
            found[key] = RemoteReading(
                value=_as_sent(readings[key].value, value), at=readings[key].window_start
            )
    return found


def words(document: object) -> str:
    """What a refusal says, in the usual members."""
    for path in ("detail", "message", "error.message", "error", "title"):
        if text := _text(read(document, path)):
            return text
    return ""


def _as_sent(sent: Value, held: Value) -> Value:
    """A number that came back as a text, or a whole one without its fraction, is still the number."""
    if isinstance(sent, bool) or not isinstance(sent, int | float) or isinstance(held, bool):
        return held
    try:
        return sent if float(held) == sent else held
    except (ValueError, OverflowError):
        return held


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _text(value: object) -> str:
    return str(value)[:20_000] if isinstance(value, str | int) and not isinstance(value, bool) else ""
