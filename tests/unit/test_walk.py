"""The walk of an initial sync: it leaves nothing out, ends, and knows how far it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.walk import DAY, DayWalk

START = datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
offsets = st.integers(0, 20)
histories = st.dictionaries(offsets, st.integers(0, 10_000_000), max_size=10)


def days_of(history: dict[int, int]) -> dict[date, int]:
    return {(START + offset * DAY).date(): samples for offset, samples in history.items()}


@given(histories, st.integers(1, 20 * 24), st.lists(st.integers(0, 100_000), max_size=30))
def test_every_day_that_has_samples_is_walked_and_the_walk_ends(
    history: dict[int, int], hours: int, found: list[int]
) -> None:
    until = START + timedelta(hours=hours)
    days, walked, cursor = days_of(history), set[date](), START
    walk = DayWalk(START, until, days, enough=5_000)
    steps = 0
    while cursor < until:
        end = walk.step(cursor)
        assert cursor < end <= until
        if cursor.date() in days:
            walked.add(cursor.date())
            assert end <= datetime(cursor.year, cursor.month, cursor.day, tzinfo=UTC) + DAY
        else:
            passed = {day for day in days if cursor.date() < day <= (end - timedelta(microseconds=1)).date()}
            assert not passed, "a day that has samples is never skipped"
        walk.took(found[steps % len(found)] if found else 0)
        steps, cursor = steps + 1, end
        assert steps < 21 * 24 * 12 + 2
    assert walked == {
        day
        for day in days
        if START.date() <= day and datetime(day.year, day.month, day.day, tzinfo=UTC) < until
    }


@given(histories, st.integers(1, 20 * 24))
def test_what_is_behind_grows_from_nothing_to_all(history: dict[int, int], hours: int) -> None:
    until = START + timedelta(hours=hours)
    walk = DayWalk(START, until, days_of(history), enough=5_000)
    behind = [walk.behind(START + timedelta(hours=hour)) for hour in range(hours + 1)]
    assert behind[0] == 0 and behind[-1] == walk.total and behind == sorted(behind)


def test_a_step_brings_about_enough() -> None:
    walk = DayWalk(START, START + 20 * DAY, days_of(dict.fromkeys(range(21), 1_000_000)), enough=5_000)
    cursor, brought = START, list[int]()
    for _ in range(60):
        end = walk.step(cursor)
        windows = round((end - cursor) / DAY * 300_000)  # a third of the samples are of this connection
        walk.took(windows)
        if end.time() != time():  # the last of a day is as long as what is left of it
            brought.append(windows)
        cursor = end
    assert all(1_000 <= windows <= 5_001 for windows in brought[3:-1] if windows), brought


@given(st.integers(0, 24 * 60 - 1), st.integers(100_000, 10_000_000))
def test_a_day_that_has_all_its_samples_at_its_end_is_walked_in_steps(minute: int, samples: int) -> None:
    """A step after hours of nothing was as long as the rest of the day."""
    begin = START.replace(hour=0, minute=0)
    walk = DayWalk(begin, begin + DAY, {begin.date(): samples}, enough=5_000)
    first, cursor, brought = begin + timedelta(minutes=minute), begin, list[int]()
    rate = samples / ((begin + DAY - first) / timedelta(minutes=1))
    while cursor < begin + DAY:
        end = walk.step(cursor)
        brought.append(round(max(timedelta(0), end - max(cursor, first)) / timedelta(minutes=1) * rate))
        walk.took(brought[-1])
        cursor = end
    nonempty = [each for each in brought if each]
    # What comes first is not known: an hour at most. Then the shortest step, five minutes, is the only
    # excuse.
    assert all(each <= max(5_001, 60 * rate + 1) for each in nonempty[:2]), brought
    assert all(each <= max(2 * 5_000, 5 * rate + 1) for each in nonempty[2:]), brought


def test_after_nothing_a_step_is_short() -> None:
    walk = DayWalk(START, START + 20 * DAY, days_of(dict.fromkeys(range(21), 10)), enough=5_000)
    walk.took(0)
    assert walk.step(START) - START <= timedelta(hours=1)
