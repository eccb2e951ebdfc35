"""Tryton's mapping: drafts, types, times, what is in force, and what is no record. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.tryton.mapping import (
    ControlPoint,
    HeldInspection,
    from_value,
    resolve,
    to_catalogue,
    to_drafts,
    to_held,
    to_points,
    to_remote,
    to_text,
    to_time,
    to_value,
)
from connectors.tryton.records import STREAMS, changed, plain, to_record, unfinished
from gateway.model.errors import CursorExpired
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading, reading_key
from gateway.model.sample import Value

AT = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)


def point(name: str, *, control: int = 1, company: int | None = 1, kind: str = "float") -> ControlPoint:
    return ControlPoint(
        control=control, company=company, meter=f"pump/{name}", name=name, title="", kind=kind
    )


def reading(name: str, value: Value, at: datetime = AT) -> Reading:
    return Reading(
        key=reading_key("c", f"pump/{name}", at), meter=f"pump/{name}", window_start=at, value=value
    )


def held(number: int, points: dict[str, object], *, is_pending: bool = True) -> HeldInspection:
    return HeldInspection(id=number, reference="r", is_pending=is_pending, at=AT, points=points)


def test_readings_of_one_time_share_a_draft_and_others_do_not() -> None:
    catalogue = to_catalogue([point("a"), point("b")])
    sent = [
        reading("a", 1.0),
        reading("b", 2.0),
        reading("a", 3.0, AT + timedelta(minutes=15)),
        reading("c", 4.0),
    ]
    refused, drafts = to_drafts("c", sent, catalogue, company=None)
    assert [draft.values for draft in drafts.values()] == [{"a": 1.0, "b": 2.0}, {"a": 3.0}]
    assert all(len(reference) == 20 for reference in drafts)
    assert refused.keys() == {sent[3].key}
    _, elsewhere = to_drafts("another connection", sent, catalogue, company=None)
    assert not drafts.keys() & elsewhere.keys()


def test_a_control_of_no_company_needs_the_setting_and_a_name_twice_is_no_name() -> None:
    catalogue = to_catalogue([point("a", company=None), point("b"), point("b", control=2)])
    assert isinstance(resolve("pump/a", catalogue, company=None), Rejected)
    assert resolve("pump/a", catalogue, company=7) == (catalogue.points["pump/a"], 7)
    ambiguous = resolve("pump/b", catalogue, company=None)
    assert isinstance(ambiguous, Rejected) and ambiguous.code == "ambiguous_meter"


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("float", True, 1.0),
        ("float", 2**53, float(2**53)),
        ("integer", 4.0, 4),
        ("numeric", 0.1, {"__class__": "Decimal", "decimal": "0.1"}),
        ("numeric", 7, {"__class__": "Decimal", "decimal": "7"}),
        ("boolean", 1.0, True),
        ("boolean", False, False),
    ],
)
def test_a_value_has_its_points_type(kind: str, value: Value, wanted: object) -> None:
    written = to_value(kind, value)
    assert (written, type(written)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", 1.5),
        ("boolean", 0.5),
        ("selection", 1.0),
        ("float", "x"),
        ("float", float("inf")),
        ("numeric", 10**38),
        ("float", 2**53 + 1),
        ("integer", 2**60),
    ],
)
def test_what_a_point_cannot_hold_is_refused(kind: str, value: Value) -> None:
    assert isinstance(to_value(kind, value), Rejected)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_decimal_comes_back_as_the_number_that_was_sent(number: float) -> None:
    written = to_value("numeric", number)
    assert not isinstance(written, Rejected)
    assert from_value(written) == number


@given(st.integers(-(10**38) + 1, 10**38 - 1))
def test_a_decimal_holds_whole_numbers_exactly(number: int) -> None:
    written = to_value("numeric", number)
    assert isinstance(written, dict)
    assert int(written["decimal"]) == number
    assert from_value(written) == number


def test_times_are_naive_utc_to_the_second() -> None:
    assert (
        to_text(datetime(2026, 11, 2, 11, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1))))
        == "2026-11-02T10:00:00"
    )
    tagged = {
        "__class__": "datetime",
        "year": 2026,
        "month": 11,
        "day": 2,
        "hour": 10,
        "minute": 0,
        "second": 0,
        "microsecond": 0,
    }
    assert to_time(tagged) == AT


@pytest.mark.parametrize(
    "tagged",
    [
        None,
        3,
        {},
        {"__class__": "datetime"},
        {"__class__": "datetime", "year": 2026, "month": "x", "day": 1},
        {"__class__": "date", "year": 2026},
    ],
)
def test_what_is_no_time_is_none(tagged: object) -> None:
    assert to_time(tagged) is None


def test_the_newest_inspection_with_the_point_is_in_force() -> None:
    inspections = [held(1, {"a": 1.0, "b": 5.0}, is_pending=False), held(2, {"a": 2.0}), held(3, {"b": None})]
    remote = to_remote(reading("a", 2.0), inspections)
    assert remote is not None and (remote.value, remote.remote_id) == (2.0, "2")
    older = to_remote(reading("b", 6.0), inspections)
    assert older is not None and (older.value, older.remote_id) == (5.0, "1")
    assert to_remote(reading("c", 1.0), inspections) is None


@pytest.mark.parametrize("row", [None, 3, {}, {"id": "x"}])
def test_strange_rows_are_no_crash(row: object) -> None:
    assert to_held(row) is None
    assert to_points(row) == []
    assert to_points({"id": 1, "points": "x"}) == []
    assert (
        to_points({"id": 1, "name": "n", "points": [None, {"name": "p", "type_": "float"}]})[0].meter == "n/p"
    )
    assert from_value({"__class__": "Decimal", "decimal": "x"}) is None
    record = to_record("quality_alerts", {"id": 1}, {})
    assert (record.key, record.modified_at, record.progress, record.reference) == ("1", None, None, None)


def test_an_interval_goes_on_behind_the_last_record() -> None:
    stream = STREAMS["quality_alerts"]
    assert changed(stream, AT, AT, after="7") == [
        ["last_modified_at", ">=", "2026-11-02T10:00:00.000000"],
        ["last_modified_at", "<", "2026-11-02T10:00:00.000000"],
        ["id", ">", 7],
    ]
    assert changed(stream, None, AT, after=None) == [
        ["last_modified_at", "<", "2026-11-02T10:00:00.000000"],
        ["id", ">", 0],
    ]
    assert unfinished(stream, after=None)[0] == ["state", "in", ["open", "processing", "deferred"]]
    for cursor in ("", "x", "-1", "1.5", "\u0661"):
        with pytest.raises(CursorExpired):
            changed(stream, AT, AT, after=cursor)


def test_tags_become_plain_json() -> None:
    tagged = {
        "at": {"__class__": "datetime", "year": 2026, "month": 11, "day": 2},
        "n": [{"__class__": "Decimal", "decimal": "1.50"}],
        "x": None,
    }
    assert plain(tagged) == {"at": "2026-11-02T00:00:00Z", "n": ["1.50"], "x": None}
