"""Readings: a key's value is a contract with every system that stores it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.model.reading import Reading, make_batch, reading_key

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def reading(meter: str, at: datetime = AT, value: float | bool | str = 1.0) -> Reading:
    return Reading(key=reading_key("acme-1", meter, at), meter=meter, window_start=at, value=value)


def test_a_key_never_changes() -> None:
    """Systems hold these keys: another algorithm would deliver everything again."""
    assert reading_key("acme-1", "boiler-1", AT) == "WEU2VL7HQWXUKNIG6FGA"


def test_parts_of_a_key_cannot_run_into_each_other() -> None:
    assert reading_key("a", "bc", AT) != reading_key("ab", "c", AT)
    assert reading_key("a", "b", AT) != reading_key("a", "b", AT + timedelta(microseconds=1))


def test_a_batch_ascends_by_meter_and_time() -> None:
    later = AT + timedelta(hours=1)
    batch = make_batch("acme-1", [reading("b"), reading("a", later), reading("a")])
    assert [(r.meter, r.window_start) for r in batch.readings] == [("a", AT), ("a", later), ("b", AT)]


def test_a_batch_id_tells_values_of_different_kinds_apart() -> None:
    ids = {make_batch("acme-1", [reading("a", value=value)]).id for value in (1.0, 2.0, True, "1.0", "True")}
    assert len(ids) == 5


def test_a_correction_that_returns_is_another_batch_and_a_repetition_is_not() -> None:
    """A receiver that knows batches by their ids would ignore the return of a value as
    something that it had.
    """
    first = reading("a", value=1.0)
    assert make_batch("acme-1", [first], 1).id == make_batch("acme-1", [first], 2).id
    again = replace(first, modified=True)
    assert make_batch("acme-1", [again], 1).id != make_batch("acme-1", [again], 2).id
