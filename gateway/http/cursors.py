"""Where a page of a list ended, as an opaque text that the next request gives back. Keyset: nothing is
skipped when rows come and go.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

import orjson

from gateway.model import bounds
from gateway.model.errors import RequestRefused
from gateway.store.listing import SortedPlace

MAX_LENGTH = 4096
"""Of the text: names that devices and meters have may be long, and a letter of theirs is four bytes."""

_MAX_INTEGER = 2**63 - 1


def write(*key: str | int | float | datetime) -> str:
    """The cursor of a row with this key."""
    return base64.urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()


def text_cursor(cursor: str | None, start: str = "") -> str:
    """The key of a list by a text. Raises RequestRefused for what is no cursor."""
    return start if cursor is None else _text(_parts(cursor, 1)[0])


def two_texts(cursor: str | None, start: tuple[str, str] = ("", "")) -> tuple[str, str]:
    """The key of a list by two texts."""
    if cursor is None:
        return start
    first, second = _parts(cursor, 2)
    return _text(first), _text(second)


def text_and_time(cursor: str | None, start: tuple[str, datetime]) -> tuple[str, datetime]:
    """The key of a list by a text and a time."""
    if cursor is None:
        return start
    text, at = _parts(cursor, 2)
    return _text(text), _time(at)


def time_and_number(cursor: str | None, start: tuple[datetime, int]) -> tuple[datetime, int]:
    """The key of a list by a time and a number."""
    if cursor is None:
        return start
    at, number = _parts(cursor, 2)
    return _time(at), _number(number)


def number_cursor(cursor: str | None, start: int) -> int:
    """The key of a list by a number."""
    return start if cursor is None else _number(_parts(cursor, 1)[0])


def number_and_texts(cursor: str | None, start: tuple[int, str, str]) -> tuple[int, str, str]:
    """The key of a list by a number and two texts."""
    if cursor is None:
        return start
    number, first, second = _parts(cursor, 3)
    return _number(number), _text(first), _text(second)


def of_place(place: SortedPlace) -> str:
    """The cursor of a place in a list that is sorted."""
    return write(place.number, place.word, place.id)


def sorted_place(cursor: str | None) -> SortedPlace | None:
    """The place in a list that is sorted; None: its beginning."""
    if cursor is None:
        return None
    number, word, name = _parts(cursor, 3)
    if not isinstance(number, float):
        raise _invalid()
    return SortedPlace(number=number, word=_text(word), id=_text(name))


def _parts(cursor: str, count: int) -> list[object]:
    try:
        parts = orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError) as error:
        raise _invalid() from error
    if not isinstance(parts, list) or len(parts) != count:
        raise _invalid()
    return parts


def _text(part: object) -> str:
    if not isinstance(part, str) or "\0" in part:
        raise _invalid()
    return part


def _number(part: object) -> int:
    if not isinstance(part, int) or isinstance(part, bool) or not -_MAX_INTEGER <= part <= _MAX_INTEGER:
        raise _invalid()
    return part


def _time(part: object) -> datetime:
    at = bounds.parsed_instant(_text(part))
    if at is None:
        raise _invalid()
    return at


def _invalid() -> RequestRefused:
    return RequestRefused(
        "request.invalid", "cursor: give back what `next` said, unchanged; or leave it out to begin anew."
    )
