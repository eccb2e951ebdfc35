"""Values from outside, brought within what Python and PostgreSQL both hold: a wait, a time, a text. Pure and
total: nothing here raises, whatever it is given.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

MAX_SECONDS = 40_000 * 86400.0
"""More than anybody waits; a time of this century plus or minus this is still a time."""

EARLIEST = datetime(1, 1, 3, tzinfo=UTC)
LATEST = datetime(9999, 12, 29, tzinfo=UTC)
"""Two days from the ends of the calendar: in every time zone they are still times."""

MAX_TEXT = 4000


def seconds(value: object) -> float | None:
    """A number of seconds from 0 to `MAX_SECONDS`; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or _is_nan(value):
        return None
    return float(min(max(value, 0), MAX_SECONDS))


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)  # an int may be too large for a float


def lifetime(value: float | None) -> float | None:
    """Seconds that something lives on, negative where it has ended; None where nobody said, or no number."""
    if value is None or _is_nan(value):
        return None
    return min(max(value, -MAX_SECONDS), MAX_SECONDS)


def instant(at: datetime) -> datetime:
    """The time in UTC, at the nearest end of the calendar where that is beyond it. `at` is aware."""
    naive = at.replace(tzinfo=None)
    offset = at.utcoffset() or timedelta()
    if naive <= EARLIEST.replace(tzinfo=None) + timedelta(days=1):
        return EARLIEST
    if naive >= LATEST.replace(tzinfo=None) - timedelta(days=1):
        return LATEST
    return (naive - offset).replace(tzinfo=UTC)


def parsed_instant(written: str) -> datetime | None:
    """A time in ISO 8601 with its zone, in UTC; None for anything else, and for one
    that UTC does not hold.
    """
    try:
        at = datetime.fromisoformat(written)
        return None if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def text(value: object) -> str:
    """What PostgreSQL, JSON and MQTT can hold of a text; empty for what is none."""
    if not isinstance(value, str):
        return ""
    if is_plain(value):
        return value
    return value[:MAX_TEXT].replace("\0", "\ufffd").encode(errors="replace").decode()


def is_plain(value: str) -> bool:
    """Whether a text can be stored as it is, as nearly every one can."""
    return len(value) <= MAX_TEXT and value.isascii() and "\0" not in value


def duration(value: float) -> str:
    """Seconds as a person reads them."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} s"
