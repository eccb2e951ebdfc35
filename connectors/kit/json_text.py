"""Reads the JSON of systems: what comes out can be walked, shown and written again without harm. Pure."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from itertools import islice

import orjson

from gateway.model.inbound import Exact, Mended
from gateway.model.record import digits_of

MAX_UNSEEN_LEVELS = 100  # a document has no more levels than brackets that open
MAX_LEVELS = 250
MAX_DIGITS = 300
MAX_LOOKED_AT = 50_000
"""Long decimals of one answer that are compared with what a double makes of them: each takes a microsecond,
and it is everybody's.
"""

_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG = b"0" * 16
_SAFE_DIGITS = 15
"""Of a decimal that every double keeps."""
_BEYOND_64_BITS = re.compile(rb'(?<![\d.eE+"-])(?:-\d{19,}|\d{20,})(?![\d.eE])')
_DECIMAL = re.compile(rb"(?<![0-9.])(?=[0-9.]{17})[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?")
"""With more digits than `_SAFE_DIGITS`."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(body: bytes) -> object:
    """The document; None for nothing, for what is not JSON, and for one nested deeper than can be written.

    Integers are exact, however long, and so is what is written of an `Exact` decimal. One character or number
    that nothing can hold spoils no document: a `Mended` text stands for it. The reader takes 1024 levels, the
    writer 254 and Python's own `str` not many more, so a document between them would raise in whoever shows
    it.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    # orjson makes a double of an integer beyond 64 bits, and of every decimal, and says nothing
    if _LONG in body.translate(_DIGITS, b".") and (_BEYOND_64_BITS.search(body) or _is_changed(body)):
        return _parse_exactly(body)
    try:
        document = orjson.loads(body)
        if isinstance(document, dict | list) and body.count(b"[") + body.count(b"{") > MAX_UNSEEN_LEVELS:
            orjson.dumps(document)
    except orjson.JSONDecodeError:
        return _parse_exactly(body) if body.strip() else None
    except orjson.JSONEncodeError:
        return None
    return document


def write_json(document: object, *, is_sorted: bool = False) -> bytes:
    """What `parse_json` gave, or a part of it, as JSON again; integers of any length."""
    try:
        return orjson.dumps(document, default=digits_of, option=orjson.OPT_SORT_KEYS if is_sorted else None)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(document, sort_keys=is_sorted, default=str).encode()


def _parse_exactly(body: bytes) -> object:
    """As `parse_json`, of what orjson cannot read whole. Slow."""
    try:
        document = json.loads(
            body.decode(errors="surrogateescape"),
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse,
        )
        return _mended(document, 0)
    except (ValueError, RecursionError):
        return None


def _integer(text: str) -> object:
    return int(text) if len(text) <= MAX_DIGITS else Mended(text)


def _float(text: str) -> object:
    found = float(text)
    if not math.isfinite(found):
        return Mended(text)
    if not _is_lost(text):
        return found
    return Exact(text) if found and len(text) <= MAX_DIGITS else Mended(text)


def _is_changed(body: bytes) -> bool:
    """Whether a decimal in it is not what a double makes of it."""
    looked_at = islice(_DECIMAL.finditer(body), MAX_LOOKED_AT)
    texts = (found.group().decode() for found in looked_at)
    # as most programs print a double, or with all of its digits
    return any(repr(float(text)) != text and _is_lost(text) for text in texts)


def _is_lost(text: str) -> bool:
    """Whether a double has not all digits of a decimal: written with as many it reads otherwise."""
    digits = len(text.lower().lstrip("-").partition("e")[0].replace(".", "").lstrip("0"))
    if not _SAFE_DIGITS < digits <= MAX_DIGITS:
        return digits > MAX_DIGITS
    held = float(text)
    if "e" in text or "E" in text:
        return math.isfinite(held) and Decimal(f"{held:.{digits - 1}e}") != Decimal(text)
    return f"{held:.{len(text) - text.index('.') - 1}f}" != text


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _mended(value: object, depth: int) -> object:
    """With U+FFFD for what no text may hold; in a name it is written out, so that no two become one."""
    if depth > MAX_LEVELS:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        return Mended(_SURROGATE.sub("\ufffd", value)) if _SURROGATE.search(value) else value
    if isinstance(value, list):
        return [_mended(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {
            name.encode(errors="backslashreplace").decode(): _mended(each, depth + 1)
            for name, each in value.items()
        }
    return value
