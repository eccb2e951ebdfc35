"""Keys and batch ids: the same reading always has the same one, and another never has it."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.reading import Reading, make_batch, reading_key

names = st.text(min_size=1, max_size=12).filter(lambda name: "\0" not in name and name.isprintable())
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
places = st.tuples(names, names, times)


@given(place=places)
def test_a_key_is_short_plain_and_the_same_again(place: tuple[str, str, datetime]) -> None:
    key = reading_key(*place)
    assert key == reading_key(*place) and len(key) == 20
    assert set(key) <= set(string.ascii_uppercase + "234567")


@given(left=places, right=places)
def test_different_places_have_different_keys(
    left: tuple[str, str, datetime], right: tuple[str, str, datetime]
) -> None:
    assert (reading_key(*left) == reading_key(*right)) is (left == right)


@given(place=places, hours=st.integers(-12, 12))
def test_a_key_does_not_know_time_zones(place: tuple[str, str, datetime], hours: int) -> None:
    connection, meter, at = place
    elsewhere = at.astimezone(timezone(timedelta(hours=hours)))
    assert reading_key(connection, meter, elsewhere) == reading_key(connection, meter, at)


@given(
    held=st.lists(
        st.tuples(names, times, st.floats(allow_nan=False)),
        min_size=1,
        max_size=10,
        unique_by=lambda r: r[:2],
    ),
    seed=st.integers(),
)
def test_a_batch_does_not_depend_on_the_order_of_its_readings(
    held: list[tuple[str, datetime, float]], seed: int
) -> None:
    readings = [
        Reading(key=reading_key("c", meter, at), meter=meter, window_start=at, value=value)
        for meter, at, value in held
    ]
    shuffled = readings[:]
    random.Random(seed).shuffle(shuffled)
    batch = make_batch("c", readings)
    assert make_batch("c", shuffled) == batch
    assert [(r.meter, r.window_start) for r in batch.readings] == sorted(
        (r.meter, r.window_start) for r in readings
    )
    changed = [replace(readings[0], value="other"), *readings[1:]]
    assert make_batch("c", changed).id != batch.id
