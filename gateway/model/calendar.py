"""Windows of the local calendar: days, weeks, months and shifts in a time zone. Pure: the zone is given.

A window begins at the first instant at which the zone's clocks show its start, or a later time. So a start
that occurs twice, when clocks are put back, is the first of the two; one that clocks skip is the instant of
the skip; a window that is skipped as a whole is none. Each ends where the next one begins: no instant lies in
two of them, or in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from itertools import pairwise
from typing import Literal, cast, get_args

Period = Literal["day", "week", "month", "shift"]
PERIODS: tuple[Period, ...] = get_args(Period)

Span = tuple[datetime, datetime]
"""The start of a window, and its end, which is the start of the next one. Both in UTC."""

MAX_SHIFTS = 24
MIN_SHIFT = timedelta(minutes=15)
MAX_CALENDARS = 50
"""Of one connection: windows of each are cut, and kept, for all days of which the customer has samples."""

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_DAYS: dict[Period, int] = {"day": 1, "week": 7, "month": 31, "shift": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """`zone` is a name of the IANA database; `shifts` are the starts of a day's shifts by local clocks,
    ascending, and the last one ends where the first one of the next day begins.
    """

    period: Period
    zone: str
    shifts: tuple[time, ...] = ()

    @property
    def key(self) -> str:
        """As it is stored: the same windows have the same key."""
        return " ".join([self.period, self.zone, *map(written, self.shifts)])

    @classmethod
    def from_key(cls, key: str) -> Calendar:
        """What `key` was made of."""
        period, zone, *shifts = key.split(" ")
        return cls(period=cast("Period", period), zone=zone, shifts=tuple(map(time.fromisoformat, shifts)))

    @property
    def longest(self) -> timedelta:
        """No window is longer, but for those over which a zone was moved."""
        if self.period != "shift":
            return timedelta(days=_DAYS[self.period], hours=1)
        begins = [timedelta(hours=at.hour, minutes=at.minute) for at in self.shifts]
        gaps = (after - before for before, after in pairwise([*begins, begins[0] + _DAY]))
        return max(gaps) + timedelta(hours=1)

    def __str__(self) -> str:
        if self.period == "shift":
            return f"shift from {', '.join(map(written, self.shifts))} in {self.zone}"
        return f"{self.period} in {self.zone}"


def written(at: time) -> str:
    """A time of day as it is configured."""
    return f"{at:%H:%M}"


def shifts_fault(shifts: tuple[time, ...]) -> str | None:
    """Why these starts make no shifts, and what to do; None where they do."""
    if not 1 <= len(shifts) <= MAX_SHIFTS:
        return f"expected 1 to {MAX_SHIFTS} starts"
    begins = [timedelta(hours=at.hour, minutes=at.minute) for at in shifts]
    if any(after - before < MIN_SHIFT for before, after in pairwise([*begins, begins[0] + _DAY])):
        return f"the starts ascend within a day, {MIN_SHIFT // timedelta(minutes=1)} minutes apart at least"
    return None


def window_of(at: datetime, calendar: Calendar, zone: tzinfo) -> Span:
    """The window that an aware instant falls into, by the rules of the zone."""
    start = _last(calendar, _shown(at, zone))
    begins = _begins(start, zone)
    while True:
        # clocks that are put back over a start show times before it once more: these are in its window
        following = _next(calendar, start)
        ends = _begins(following, zone)
        if at < ends:
            return begins, ends
        start, begins = following, ends


def windows(since: datetime, until: datetime, calendar: Calendar, zone: tzinfo) -> Iterator[Span]:
    """Every window that [since, until) touches, ascending."""
    while since < until:
        found = window_of(since, calendar, zone)
        yield found
        since = found[1]


def uncovered(
    since: datetime, until: datetime, calendar: Calendar, zone: tzinfo, *, cut: Span | None
) -> Iterator[Span]:
    """The windows that are still to be cut, so that all of [since, until) lies in one; `cut`: from where to
    where windows are cut already, None where nothing is.

    What is cut stays as it is. Where the zone's rules were others then, the window beside it is shorter or
    longer than it would be, and nothing lies in two windows, or in none.
    """
    if cut is None:
        yield from windows(since, until, calendar, zone)
        return
    first, last = cut
    for begin, end in windows(since, first, calendar, zone):
        yield begin, min(end, first)
    for begin, end in windows(last, until, calendar, zone):
        yield max(begin, last), end


def _last(calendar: Calendar, shown: datetime) -> datetime:
    """The start of a window that clocks showed last, when they show this."""
    midnight = datetime.combine(shown.date(), time())
    match calendar.period:
        case "day":
            return midnight
        case "week":
            return midnight - shown.weekday() * _DAY
        case "month":
            return midnight.replace(day=1)
        case "shift":
            begun = [at for at in calendar.shifts if at <= shown.time()]
            day = shown.date() if begun else shown.date() - _DAY
            return datetime.combine(day, begun[-1] if begun else calendar.shifts[-1])


def _next(calendar: Calendar, start: datetime) -> datetime:
    """The start after this one."""
    match calendar.period:
        case "day" | "week":
            return start + _DAYS[calendar.period] * _DAY
        case "month":
            return (start + 31 * _DAY).replace(day=1)
        case "shift":
            later = [at for at in calendar.shifts if at > start.time()]
            day = start.date() if later else start.date() + _DAY
            return datetime.combine(day, later[0] if later else calendar.shifts[0])


def _begins(start: datetime, zone: tzinfo) -> datetime:
    """The first instant at which the zone's clocks show `start`, or a later time."""
    found = start.replace(tzinfo=zone).astimezone(UTC)  # of two the first
    if _shown(found, zone) == start:
        return found
    # Skipped: by the offset before the skip it lies behind it, by the offset after it before. Offsets change
    # at whole seconds.
    before = start.replace(tzinfo=zone, fold=1).astimezone(UTC)
    low, high = 0, (found - before) // _SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if _shown(before + middle * _SECOND, zone) < start:
            low = middle
        else:
            high = middle
    return before + high * _SECOND


def _shown(at: datetime, zone: tzinfo) -> datetime:
    """What the zone's clocks show, without a zone."""
    return at.astimezone(zone).replace(tzinfo=None)
