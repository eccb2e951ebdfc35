"""Bounds: total over everything that can be given, and what comes out is held by Python and by PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.model import bounds
from gateway.model.backoff import put_off, waiting, with_floor

OFFSETS = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
)
TIMES = st.builds(lambda at, offset: at.replace(tzinfo=timezone(offset)), st.datetimes(), OFFSETS)
NUMBERS = st.floats() | st.integers() | st.sampled_from([10**400, -(10**400)])
ANYTHING = NUMBERS | st.none() | st.text() | st.booleans() | st.binary() | st.lists(st.integers())
NOW = datetime(2026, 11, 28, tzinfo=UTC)


@given(ANYTHING)
@example(float("nan"))
def test_seconds_are_a_wait_or_nothing(value: object) -> None:
    found = bounds.seconds(value)
    if found is not None:
        assert 0.0 <= found <= bounds.MAX_SECONDS and isinstance(found, float)
        assert NOW + timedelta(seconds=found) > datetime(2000, 1, 1, tzinfo=UTC)
        if isinstance(value, int | float) and 0 <= value <= bounds.MAX_SECONDS:
            assert found == value


@given(NUMBERS | st.none())
def test_a_lifetime_is_a_time_to_come_or_gone(value: float | None) -> None:
    found = bounds.lifetime(value)
    assert found is None or abs(found) <= bounds.MAX_SECONDS
    assert found is None or NOW + timedelta(seconds=found)


@given(TIMES)
@example(datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))))
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))
def test_an_instant_is_the_same_or_the_end_of_the_calendar(at: datetime) -> None:
    found = bounds.instant(at)
    assert bounds.EARLIEST <= found <= bounds.LATEST and found.tzinfo is UTC
    assert found == at or found in (bounds.EARLIEST, bounds.LATEST)
    for hours in (-23, 23):
        found.astimezone(timezone(timedelta(hours=hours)))
    if datetime(2, 1, 1, tzinfo=UTC) < at.replace(tzinfo=UTC) < datetime(9998, 1, 1, tzinfo=UTC):
        assert found == at


@given(TIMES.map(datetime.isoformat) | st.text())
def test_what_is_written_is_a_time_in_utc_or_nothing(written: str) -> None:
    found = bounds.parsed_instant(written)
    assert found is None or found.tzinfo is UTC


@given(ANYTHING | st.text(st.characters(codec=None), min_size=1))
@example("\0\ud800" * 5000)
def test_a_text_can_be_stored(value: object) -> None:
    found = bounds.text(value)
    assert "\0" not in found and len(found) <= bounds.MAX_TEXT
    assert found.encode().decode() == found


@given(
    st.integers(1, 10**6), st.floats(0, bounds.MAX_SECONDS) | st.none(), st.floats(0, 1), st.floats(30, 1e6)
)
def test_a_wait_that_a_system_asks_for_has_a_floor_and_a_cap(
    count: int, asked: float | None, rand: float, cap: float
) -> None:
    wait = put_off(count, asked_seconds=asked, rand=rand, growth_cap_seconds=20.0, cap_seconds=cap)
    assert 1.0 <= wait <= cap
    assert wait >= min(2.0 ** min(count - 1, 4), cap * 0.9)
    assert wait >= min(asked or 0.0, cap * 0.9)
    assert with_floor(0.5, floor_seconds=asked, rand=rand, cap_seconds=cap) <= cap
    waiting(asked, until=NOW + timedelta(seconds=wait))


@pytest.mark.parametrize(
    ("value", "seconds", "lifetime"),
    [
        (0, 0.0, 0.0),
        (1.5, 1.5, 1.5),
        (-3.0, 0.0, -3.0),
        (bounds.MAX_SECONDS, bounds.MAX_SECONDS, bounds.MAX_SECONDS),
        (float("inf"), bounds.MAX_SECONDS, bounds.MAX_SECONDS),
        (float("-inf"), 0.0, -bounds.MAX_SECONDS),
        (10**400, bounds.MAX_SECONDS, bounds.MAX_SECONDS),
        (float("nan"), None, None),
        (None, None, None),
    ],
)
def test_a_number_is_itself_or_the_nearest_that_is_held(
    value: float | None, seconds: float | None, lifetime: float | None
) -> None:
    assert (bounds.seconds(value), bounds.lifetime(value)) == (seconds, lifetime)


@pytest.mark.parametrize("value", [True, "1", b"1", [1]])
def test_what_is_no_number_is_no_wait(value: object) -> None:
    assert bounds.seconds(value) is None


TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("hours", [-23, 0, 14])
@pytest.mark.parametrize(
    ("wall", "is_end"),
    [
        (datetime(1, 1, 4), True),
        (datetime(1, 1, 4) + TICK, False),
        (datetime(9999, 12, 28) - TICK, False),
        (datetime(9999, 12, 28), True),
    ],
)
def test_a_day_from_each_end_of_the_calendar_a_time_is_itself(
    wall: datetime, is_end: bool, hours: int
) -> None:
    at = wall.replace(tzinfo=timezone(timedelta(hours=hours)))
    found = bounds.instant(at)
    assert found == ((bounds.EARLIEST if wall.year == 1 else bounds.LATEST) if is_end else at)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("2026-11-28T12:00:00+02:00", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        ("2026-11-28T12:00:00Z", datetime(2026, 11, 28, 12, tzinfo=UTC)),
        ("2026-11-28T12:00:00", None),
        ("9999-12-31T23:59:59-12:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("never", None),
    ],
)
def test_a_time_is_read_with_its_zone(written: str, found: datetime | None) -> None:
    assert bounds.parsed_instant(written) == found


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("plain", "plain"),
        ("K\u00fcche", "K\u00fcche"),
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a?b"),
        ("x" * bounds.MAX_TEXT, "x" * bounds.MAX_TEXT),
        ("x" * (bounds.MAX_TEXT + 1), "x" * bounds.MAX_TEXT),
        (7, ""),
        (None, ""),
    ],
)
def test_what_of_a_text_is_stored(given: object, stored: str) -> None:
    assert bounds.text(given) == stored
    assert not isinstance(given, str) or not bounds.is_plain(given) or given == stored


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "0.25 s"), (119, "119 s"), (120, "2 min"), (5400, "90 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_a_duration_is_in_the_largest_unit_that_it_has_two_of(seconds: float, said: str) -> None:
    assert bounds.duration(seconds) == said
