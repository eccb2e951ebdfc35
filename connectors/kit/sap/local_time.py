"""The time that SAP is told: date and time of a wall clock, without a zone, in whole seconds. Pure.

The hour that a zone has twice in autumn is written at half pace: its two real hours share the one on the
clock. So order is kept, and two instants at least two seconds apart never become one; each stands at most
half an hour beside its true time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)


def wall_time(at: datetime, zone: ZoneInfo) -> datetime:
    """Naive, in whole seconds, for an aware instant. Ascending instants never give descending times."""
    local = at.astimezone(zone)
    before, after = local.replace(fold=0).utcoffset(), local.replace(fold=1).utcoffset()
    if before is None or after is None or before <= after:
        return local.replace(tzinfo=None, microsecond=0)
    overlap = before - after
    begin = _turn(at, zone, overlap) - overlap
    return begin.astimezone(zone).replace(tzinfo=None) + (at - begin) // 2 // _SECOND * _SECOND


def _turn(at: datetime, zone: ZoneInfo, overlap: timedelta) -> datetime:
    """The instant at which the clock goes back, which lies within `overlap` of `at`."""
    early = at.astimezone(UTC).replace(microsecond=0) - overlap
    offset, steps, width = early.astimezone(zone).utcoffset(), 0, 2 * overlap // _SECOND + 1
    while width > 1:
        half = width // 2
        if (early + (steps + half) * _SECOND).astimezone(zone).utcoffset() == offset:
            steps += half
            width -= half
        else:
            width = half
    return early + (steps + 1) * _SECOND
