"""Bounds: total over everything that can be given, and what comes out is held by Python and by PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

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
