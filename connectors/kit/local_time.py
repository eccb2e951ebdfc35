"""Times of a wall clock without a zone, read back: which of them can lie in an interval, and which instant
one is. Pure.

In autumn an hour of the clock happens twice and nobody can tell which one is meant. A question is asked so
wide that both are in it, and such a time is no time of change: what cannot be known is not guessed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_TURN = timedelta(hours=3)
"""More than any clock was put back at once, so that a turn between shows at its ends."""


def walls_within(since: datetime | None, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, datetime]:
    """Naive bounds [lower, upper): every time that the clock showed in [since, until) lies in them, and
    around a turn of the clock some that it showed an hour before or after.
    """
    back = _offset(until - _TURN, zone) - _offset(until, zone)
    upper = until.astimezone(zone).replace(tzinfo=None) + max(back, timedelta(0))
    if since is None:
        return None, upper
    ahead = _offset(since, zone) - _offset(since + _TURN, zone)
    return since.astimezone(zone).replace(tzinfo=None) - max(ahead, timedelta(0)), upper


def instants_of(wall: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """In UTC, ascending: two for a time that happened twice or never, none for one beyond all calendars, else
    one.
    """
    try:
        found = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    except OverflowError:
        return ()
    return tuple(sorted(found))


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)
