"""Charts of what connections delivered and of the days of systems, drawn here as SVG: pages have no script
for them. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gateway.store.views import Hour

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HISTORY_DAYS = 90
SPARK_HOURS = 24
SPARK_HEIGHT = 20


class Lasted(Protocol):
    """What lasted from a time to another, or still does, at some systems."""

    @property
    def systems(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def since(self) -> datetime: ...  # noqa: D102
    @property
    def closed_at(self) -> datetime | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars from `since` to `until`. `delivered` and `rejected` are paths of vertical strokes, one unit of
    width each, in a box of `width` by 100; `most` is what a bar of full height stands for.
    """

    since: datetime
    until: datetime
    width: int
    delivered: str
    rejected: str
    total: int
    total_rejected: int
    most: int
    bar: timedelta


def bars(hours: Sequence[Hour], *, now: datetime, span: timedelta, bar: timedelta) -> Bars:
    """The bars of this time; the last one is of the hours that are under way."""
    until = now.replace(minute=0, second=0, microsecond=0) + HOUR
    count = round(span / bar)
    since = until - count * bar
    delivered, rejected = [0] * count, [0] * count
    for hour in hours:
        place = (hour.start - since) // bar
        if 0 <= place < count:
            delivered[place] += hour.delivered
            rejected[place] += hour.rejected
    most = max(1, *(good + bad for good, bad in zip(delivered, rejected, strict=True)))
    return Bars(
        since=since,
        until=until,
        width=count,
        delivered=_strokes([(0, good) for good in delivered], most, height=100),
        rejected=_strokes(
            [(good, bad) for good, bad in zip(delivered, rejected, strict=True)], most, height=100
        ),
        total=sum(delivered),
        total_rejected=sum(rejected),
        most=most,
        bar=bar,
    )


def spark(hours: Sequence[Hour], *, now: datetime) -> str:
    """The path of small bars: what was delivered in each of the last 24 hours. Empty for nothing."""
    drawn = bars(hours, now=now, span=SPARK_HOURS * HOUR, bar=HOUR)
    if not drawn.total:
        return ""
    counts = [0] * SPARK_HOURS
    for hour in hours:
        if 0 <= (place := (hour.start - drawn.since) // HOUR) < SPARK_HOURS:
            counts[place] = hour.delivered
    return _strokes([(0, count) for count in counts], max(counts), height=SPARK_HEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemDays:
    """The last days of a system, the oldest first: a stroke for each, in a box of HISTORY_DAYS by 20. `bad`:
    those on which there was an incident.
    """

    system: str
    good: str
    bad: str
    bad_days: int


def system_days(incidents: Sequence[Lasted], *, now: datetime) -> list[SystemDays]:
    """Of each system that had an incident, by its name; the last day is the one that is under way."""
    first = now.replace(hour=0, minute=0, second=0, microsecond=0) - (HISTORY_DAYS - 1) * DAY
    found: dict[str, set[int]] = {}
    for incident in incidents:
        start, end = (incident.since - first) // DAY, ((incident.closed_at or now) - first) // DAY
        for system in incident.systems:
            days = found.setdefault(system, set())
            days.update(range(max(0, start), min(HISTORY_DAYS - 1, end) + 1))
    return [
        SystemDays(
            system=system,
            good="".join(f"M{day}.5 20V0" for day in range(HISTORY_DAYS) if day not in days),
            bad="".join(f"M{day}.5 20V0" for day in sorted(days)),
            bad_days=len(days),
        )
        for system, days in sorted(found.items())
        if days
    ]


def _strokes(values: Sequence[tuple[int, int]], most: int, *, height: int) -> str:
    """A stroke for each (from, length) that has a length, upwards. What there is at all is seen: two units at
    the least.
    """
    parts = []
    for place, (below, value) in enumerate(values):
        if value > 0:
            foot = height - height * below / most
            parts.append(f"M{place}.5 {foot:.4g}V{max(0.0, foot - max(2.0, height * value / most)):.4g}")
    return "".join(parts)
