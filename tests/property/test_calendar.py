"""Windows of the calendar against clocks on a wall: an oracle that goes through every quarter of an hour of a year
and looks at what each zone's clocks show. It knows nothing of offsets, folds or gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.calendar import Calendar, Span, uncovered, window_of, windows

QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
SHIFTS = (time(2, 15), time(6, 0), time(14, 0), time(22, 0))
KINDS = {
    "day": (time(0),),
    "week": (time(0),),
    "month": (time(0),),
    "shift": SHIFTS,
}
ODD = [
    ("Europe/Berlin", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2025),  # half an hour
    ("Pacific/Apia", 2011),  # skipped 30 December
    ("Pacific/Kwajalein", 1993),  # skipped 21 August
    ("America/Sao_Paulo", 2017),  # clocks are changed at midnight
    ("America/Havana", 2023),
    ("Asia/Beirut", 2022),
    ("America/St_Johns", 2008),  # changed at 00:01: a minute of the next day, and the day once more
    ("Africa/Casablanca", 2024),  # changed for Ramadan
    ("Antarctica/Troll", 2024),  # two hours
    ("Asia/Kathmandu", 1986),  # by a quarter of an hour
    ("Africa/Monrovia", 1972),  # from an offset with seconds
    ("America/Caracas", 2007),
    ("Asia/Pyongyang", 2018),
    ("Europe/Volgograd", 2020),
    ("UTC", 2024),
]


def shown(at: datetime, zone: ZoneInfo) -> datetime:
    """What a clock on the wall shows."""
    return datetime.fromisoformat(at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S"))


def is_start(kind: str, day: date, at: time) -> bool:
    return (
        at in KINDS[kind]
        and (kind != "week" or day.strftime("%A") == "Monday")
        and (kind != "month" or day.day == 1)
    )


@cache
def starts_in(kind: str, since: datetime, until: datetime) -> tuple[datetime, ...]:
    """The times that a clock passes from one look to the next at which something begins."""
    found, day = [], since.date()
    while day <= until.date():
        for at in KINDS[kind]:
            moment = datetime.combine(day, at)
            if is_start(kind, day, at) and since < moment <= until:
                found.append(moment)
        day += DAY
    return tuple(found)


def boundaries(kind: str, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[datetime]:
    """Whenever a clock comes to a start, or past one, further than it ever was before."""
    furthest, at = shown(since, zone), since
    while at < until:
        following = at + QUARTER
        if shown(following, zone) > furthest:
            if starts_in(kind, furthest, shown(following, zone)):
                second = at
                while second < following:
                    second += SECOND
                    if (now := shown(second, zone)) > furthest:
                        if starts_in(kind, furthest, now):
                            yield second
                        furthest = now
            furthest = max(furthest, shown(following, zone))
        at = following


def calendar(kind: str, zone: str) -> Calendar:
    return Calendar(period=kind, zone=zone, shifts=SHIFTS if kind == "shift" else ())  # type: ignore[arg-type]


def of_year(kind: str, name: str, since: datetime, until: datetime) -> None:
    zone = ZoneInfo(name)
    begins = list(boundaries(kind, zone, since, until))
    made = list(windows(since, until, calendar(kind, name), zone))
    assert made[0][0] <= since < made[0][1] and made[-1][0] < until <= made[-1][1]
    assert [begin for begin, _ in made[1:]] == [begin for begin in begins if begin < until]
    assert all(before[1] == after[0] and before[0] < before[1] for before, after in pairwise(made))
    for begin, end in made:
        inside = (begin, begin + (end - begin) / 3, end - timedelta(microseconds=1))
        assert {window_of(at, calendar(kind, name), zone) for at in inside} == {(begin, end)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "year"), ODD)
def test_a_window_begins_when_clocks_first_come_to_its_start(kind: str, name: str, year: int) -> None:
    ends = year + 1
    zone, first, last = ZoneInfo(name), datetime(year, 1, 1, tzinfo=UTC), datetime(ends, 1, 1, tzinfo=UTC)
    moves = [
        at
        for at in (first + day * DAY for day in range((last - first).days))
        if at.astimezone(zone).utcoffset() != (at + DAY).astimezone(zone).utcoffset()
    ]
    for at in moves or [first]:
        of_year(kind, name, at - 2 * DAY, at + 3 * DAY)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(available_timezones())),
    kind=st.sampled_from(sorted(KINDS)),
    hour=st.integers(0, 68 * 365 * 24),
)
def test_of_any_zone_at_any_time(name: str, kind: str, hour: int) -> None:
    since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
    of_year(kind, name, since, since + 2 * DAY)


def hours(kind: str, name: str, at: datetime) -> float:
    begin, end = window_of(at, calendar(kind, name), ZoneInfo(name))
    return (end - begin) / timedelta(hours=1)


def test_days_are_as_long_as_they_are() -> None:
    berlin, howe = "Europe/Berlin", "Australia/Lord_Howe"
    assert hours("day", berlin, datetime(2026, 3, 29, 12, tzinfo=UTC)) == 23
    assert hours("day", berlin, datetime(2026, 10, 25, 12, tzinfo=UTC)) == 25
    assert hours("week", berlin, datetime(2026, 10, 25, 12, tzinfo=UTC)) == 7 * 24 + 1
    assert hours("month", berlin, datetime(2026, 3, 3, tzinfo=UTC)) == 31 * 24 - 1
    assert hours("shift", berlin, datetime(2026, 3, 29, 0, tzinfo=UTC)) == 4.0  # 22:00 to 03:00 by the clock
    assert hours("day", howe, datetime(2025, 10, 5, 3, tzinfo=UTC)) == 23.5
    apia = [begin for begin, _ in windows(
        datetime(2011, 12, 29, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC),
        calendar("day", "Pacific/Apia"), ZoneInfo("Pacific/Apia"),
    )]  # fmt: skip
    assert [f"{at.astimezone(ZoneInfo('Pacific/Apia')):%d}" for at in apia] == ["28", "29", "31", "01"]


def test_two_shifts_that_begin_within_a_skipped_hour_are_one() -> None:
    skipped = Calendar(period="shift", zone="Europe/Berlin", shifts=(time(2, 0), time(2, 30), time(14, 0)))
    found = list(
        windows(
            datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 10, tzinfo=UTC), skipped,
            ZoneInfo("Europe/Berlin"),
        )
    )  # fmt: skip
    assert [begin for begin, _ in found] == [
        datetime(2026, 3, 28, 13, tzinfo=UTC),
        datetime(2026, 3, 29, 1, tzinfo=UTC),
    ]


instants = st.integers(0, 3000).map(lambda hour: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour))


@settings(max_examples=80, deadline=None)
@given(
    needs=st.lists(
        st.tuples(instants, instants, st.sampled_from(["Europe/Berlin", "Europe/London", "Africa/Cairo"])),
        min_size=1, max_size=6,
    ),
    kind=st.sampled_from(sorted(KINDS)),
)  # fmt: skip
def test_what_is_cut_stays_and_what_is_added_joins_it_whatever_the_rules_have_become(
    needs: list[tuple[datetime, datetime, str]], kind: str
) -> None:
    held: list[Span] = []
    for one, other, rules in needs:  # each time by the rules of another zone: as if the zone's had changed
        since, until = min(one, other), max(one, other)
        if since == until:
            continue
        cut = (held[0][0], held[-1][1]) if held else None
        added = list(uncovered(since, until, calendar(kind, "Europe/Berlin"), ZoneInfo(rules), cut=cut))
        assert not {begin for begin, _ in held} & {begin for begin, _ in added}
        held = sorted(held + added)
        assert all(before[1] == after[0] for before, after in pairwise(held))
        assert all(begin < end for begin, end in held)
        assert held[0][0] <= since and until <= held[-1][1]
