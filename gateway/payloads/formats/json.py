"""JSON: `{"ts": T, "metrics": {...}}`, flat `{"ts": T, "temperature": 21.5}`, or an array of these."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import orjson

from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import (
    Measurement,
    Reason,
    Unfit,
    as_number,
    check_metrics,
    parse_time,
)

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?|[+-]?\b(?:nan|inf(?:inity)?)\b(?:\(ind\))?', re.IGNORECASE)
"""A text, or what programs print for a number that is none."""

MAX_UNFIT = 10_000
"""Numbers of one message that are none, or cannot be held: each is looked at slowly."""

MAX_WORDS = 100_000
"""Texts and words among which such numbers are looked for."""

_RUNS = bytes(
    ord({"e": "e", "-": "-"}.get(chr(byte).lower(), "0" if byte in b"0123456789" else " "))
    for byte in range(256)
)
_LONG, _SMALL = b"0" * 16, b"e-000"
_SPACE = ord(" ")
_NUMBER = re.compile(
    rb"(?<![0-9.])-?[0-9][0-9.]{15,}[0-9.eE+-]*|(?<![0-9.])-?[0-9][0-9.]{0,800}[eE]-[0-9]{3,}"
)


def parse(payload: bytes, _metric: str | None = None) -> list[Measurement]:
    """The samples of one message, in its order. Raises DecodeError."""
    document = load(payload)
    return [_sample(document)] if type(document) is dict else _samples(document)


def _keys_of(document: object) -> int:
    """How many keys its objects have, at every depth."""
    if type(document) is not dict and type(document) is not list:
        return 0
    keys, items = (len(document), document.values()) if type(document) is dict else (0, document)
    for item in items:
        if type(item) is dict or type(item) is list:
            keys += _keys_of(item)
    return keys


def _refuse_repeated_keys(payload: bytes) -> None:
    """Raises DecodeError for an object that has a key twice: parsers keep either value, and say nothing.
    Slow.
    """
    with suppress(ValueError, RecursionError):  # whoever could read it has said so
        json.loads(payload, object_pairs_hook=_each_once, parse_int=float)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names, twice = set[str](), ""
        for twice, _ in pairs:
            if twice in names:
                break
            names.add(twice)
        raise DecodeError(Reason.SAME_NAME, f"the key {twice[:40]!r} comes twice in one object: send it once")
    return document


def load(payload: bytes) -> object:
    """The document, with an `Unfit` for each number that a double cannot hold as it was sent. Raises
    DecodeError, also for an object that has a key twice.
    """
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        if not payload.strip():
            raise DecodeError(Reason.EMPTY, "the payload is empty") from None
        raise _why_not(payload, error) from None
    return document if _comes_back(document, payload) else _looked_at(document, payload)


def _comes_back(document: object, payload: bytes) -> bool:
    """Whether the document, written again, is the payload byte for byte, as that of most devices is: then no
    number in it has changed, and no key came twice.
    """
    if _SPACE in payload:
        return False
    try:
        return orjson.dumps(document) == payload
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return False


def _looked_at(document: object, payload: bytes) -> object:
    """As `load`, of what is written in another way than we write."""
    # Whether a number in it may not be what was sent any more: only one of 16 digits or more, or next to
    # zero.
    runs = payload.translate(_RUNS, b".")
    if (_LONG in runs or _SMALL in runs) and _has_changed(payload):
        document = _as_sent(payload.decode())
    # a key that comes twice hides behind one whose colon does not follow at once
    is_spaced = b'" ' in payload or b'"\n' in payload or b'"\t' in payload or b'"\r' in payload
    if is_spaced or _keys_of(document) != payload.count(b'":'):
        _refuse_repeated_keys(payload)
    return document


def _samples(document: object) -> list[Measurement]:
    if type(document) is dict:
        return [_sample(document)]
    if type(document) is list:
        if not document:
            raise DecodeError(Reason.EMPTY, "the array is empty")
        return [_sample(item) for item in document]
    raise DecodeError(
        Reason.WRONG_SHAPE,
        f"the payload is a JSON {type(document).__name__}; send an object or an array of objects",
    )


def load_words(payload: bytes) -> object:
    """As `load`, of a document with NaN, Infinity or a number that is none in it: an `Unfit` stands for each.
    Raises ValueError, RecursionError, and DecodeError for a document of nothing else.
    """
    return _as_sent(_TEXT.sub(_as_constant, payload.decode(), count=MAX_WORDS))


def _has_changed(payload: bytes) -> bool:
    """Whether one has. Integers of up to 64 bits are whole, and looked at later."""
    return any(_is_changed(found.group().decode()) for found in _NUMBER.finditer(payload))


def _is_changed(text: str) -> bool:
    try:
        if repr(float(text)) == text or (len(text) < 20 and text.lstrip("-").isdigit()):
            return False
        return type(as_number(text)) is Unfit
    except ValueError:
        return False  # a date, an address: it stands in a text


def _as_sent(text: str) -> object:
    """The document, with an `Unfit` for each number that a double cannot hold as it was sent. Slow. Raises
    DecodeError where there are too many.
    """
    left = MAX_UNFIT

    def number(literal: str) -> object:
        nonlocal left
        made = as_number(literal)
        if type(made) is Unfit:
            left -= 1
            if left < 0:
                raise DecodeError(made.reason, f"more than {MAX_UNFIT} numbers that cannot be taken")
        return made

    def integer(literal: str) -> object:
        return int(literal) if len(literal) < 20 else number(literal)

    return json.loads(text, parse_float=number, parse_int=integer, parse_constant=number)


def _why_not(payload: bytes, error: orjson.JSONDecodeError) -> DecodeError:
    """Why bytes are no JSON: for a number that is not finite, where nothing else is wrong with them."""
    try:
        _samples(load_words(payload))
    except DecodeError as refused:
        if refused.reason == Reason.NOT_FINITE:
            return refused
    except (ValueError, RecursionError):
        pass
    return DecodeError(Reason.INVALID_JSON, str(error))


def _as_constant(found: re.Match[str]) -> str:
    """As Python's parser knows it; texts stay as they are."""
    word = found.group()
    if word.startswith('"'):
        return word
    if "n" in word.lower()[:2] and "a" in word.lower()[:3]:
        return "NaN"
    return "-Infinity" if word.startswith("-") else "Infinity"


def _sample(document: object) -> Measurement:
    if type(document) is not dict:
        raise DecodeError(Reason.WRONG_SHAPE, "an item of the array is not an object")
    ts = document.pop("ts", None)
    nested = document.get("metrics")
    if type(nested) is dict:
        if len(document) > 1:
            others = ", ".join(sorted(key for key in document if key != "metrics"))[:80]
            raise DecodeError(Reason.WRONG_SHAPE, f"beside `metrics` only `ts` may stand; here: {others}")
        document = nested
    return (None if ts is None else parse_time(ts), check_metrics(document))
