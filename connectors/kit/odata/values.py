"""Dates, times and numbers as OData writes them, in JSON and in queries, version 2 and 4. Pure.

Source: OData Version 4.0 ABNF (literals) and JSON Format; OData Version 2 "Overview", "URI Conventions",
"JSON Format".
"""

from __future__ import annotations

import enum
import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import assert_never

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_V2_DATE = re.compile(r"/Date\((-?\d{1,17})(?:[+-]\d{1,4})?\)/")
_V2_TIME = re.compile(r"PT(?:(\d{1,2})H)?(?:(\d{1,2})M)?(?:(\d{1,2})(?:\.\d+)?S)?")


class Version(enum.Enum):
    """Which OData a service speaks."""

    V2 = 2
    V4 = 4


def text_literal(text: str) -> str:
    """In a query, not yet percent-encoded."""
    return "'" + text.replace("'", "''") + "'"


def date_literal(version: Version, day: date) -> str:
    """In a query."""
    match version:
        case Version.V2:
            return f"datetime'{day.isoformat()}T00:00:00'"
        case Version.V4:
            return day.isoformat()
        case _:
            assert_never(version)


def time_literal(version: Version, at: time) -> str:
    """In a query; whole seconds."""
    match version:
        case Version.V2:
            return f"time'{encode_time(version, at)}'"
        case Version.V4:
            return encode_time(version, at)
        case _:
            assert_never(version)


def instant_literal(version: Version, at: datetime) -> str:
    """An aware instant in a query, in UTC; fractions of a second only where there are any."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    match version:
        case Version.V2:
            return f"datetimeoffset'{text}'"
        case Version.V4:
            return text
        case _:
            assert_never(version)


def encode_date(version: Version, day: date) -> str:
    """In JSON. Version 2: midnight as if in UTC, in milliseconds."""
    match version:
        case Version.V2:
            return f"/Date({(day - _EPOCH.date()).days * 86_400_000})/"
        case Version.V4:
            return day.isoformat()
        case _:
            assert_never(version)


def encode_time(version: Version, at: time) -> str:
    """In JSON; whole seconds."""
    match version:
        case Version.V2:
            return f"PT{at.hour:02d}H{at.minute:02d}M{at.second:02d}S"
        case Version.V4:
            return f"{at.hour:02d}:{at.minute:02d}:{at.second:02d}"
        case _:
            assert_never(version)


def encode_number(version: Version, number: float) -> float | str:
    """In JSON. Version 2 writes numbers as texts, plain where that is short, so that a decimal takes them as
    well as a double.
    """
    match version:
        case Version.V2:
            return (
                f"{Decimal(repr(number)):f}"
                if number == 0 or 1e-9 <= abs(number) < 1e17
                else repr(float(number))
            )
        case Version.V4:
            return number
        case _:
            assert_never(version)


def decode_date(value: object) -> date | None:
    """Of either version; None for anything that is no date."""
    at = decode_instant(value)
    if at is not None:
        return at.date()
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def decode_time(value: object) -> time | None:
    """Of either version, to the second; None for anything that is no time."""
    if not isinstance(value, str):
        return None
    try:
        if (found := _V2_TIME.fullmatch(value)) is not None:
            hours, minutes, seconds = (int(part or 0) for part in found.groups())
            return time(hours, minutes, seconds)
        return time.fromisoformat(value).replace(microsecond=0, tzinfo=None)
    except ValueError:
        return None


def decode_instant(value: object) -> datetime | None:
    """Aware UTC of a point in time of either version; None for anything else. A version 2 offset is for
    display only.
    """
    if not isinstance(value, str):
        return None
    try:
        if (found := _V2_DATE.fullmatch(value)) is not None:
            return _EPOCH + timedelta(milliseconds=int(found[1]))
        if "T" not in value:
            return None
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def decode_number(value: object) -> float | None:
    """Finite, from a number or from a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
