"""What every connector shares in reading records back: keys, wall times, cursors, words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.http_json.streams import ListStream
from connectors.http_json.times import TimeForm
from connectors.kit.inbound import MAX_KEY_LENGTH, DeletedWords, ProgressWords, key_of, pack, page_at, unpack
from connectors.kit.local_time import instants_of, walls_within
from connectors.kit.odata.values import Version
from connectors.kit.sap.records import WallList
from connectors.maintainx.records import reference_of
from gateway.model.errors import BadConfiguration, CursorExpired
from tests.fixtures.source import instant_of

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Casablanca",
    "UTC",
)
# Around the turns of the year, where it matters, and everywhere else.
INSTANTS = st.one_of(
    st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1)),
    st.sampled_from(
        [
            datetime(2026, 10, 25, 1),
            datetime(2026, 3, 29, 1),
            datetime(2026, 11, 1, 6),
            datetime(2026, 4, 4, 15),
            datetime(2011, 12, 30, 10),
        ]
    ).flatmap(
        lambda turn: st.timedeltas(-timedelta(hours=5), timedelta(hours=5)).map(lambda off: turn + off)
    ),
).map(lambda at: at.replace(tzinfo=UTC))
SECOND = timedelta(seconds=1)


@given(st.sampled_from(ZONES), INSTANTS, st.timedeltas(timedelta(0), timedelta(days=2)), st.floats(0, 1))
def test_every_time_that_the_clock_showed_lies_in_the_bounds(
    name: str, since: datetime, long: timedelta, part: float
) -> None:
    zone, until = ZoneInfo(name), since + long + SECOND
    at = since + (until - since - SECOND / 1000) * part
    lower, upper = walls_within(since, until, zone)
    shown = at.astimezone(zone).replace(tzinfo=None)
    assert lower is not None and lower <= shown < upper
    assert walls_within(None, until, zone) == (None, upper)
    assert upper - lower <= until - since + timedelta(hours=50), "and no wider than a turn"


@given(st.sampled_from(ZONES), INSTANTS)
def test_a_wall_time_is_an_instant_or_none_at_all(name: str, at: datetime) -> None:
    zone = ZoneInfo(name)
    shown = at.astimezone(zone).replace(tzinfo=None)
    assert at in instants_of(shown, zone)
    assert instant_of(shown, zone) in (at, None)


@given(
    st.sampled_from(ZONES),
    INSTANTS,
    st.sampled_from(
        [
            ("local", None),
            ("iso", "%d.%m.%Y %H:%M"),
            ("iso", "%Y-%m-%dT%H:%M:%S%z"),
            ("iso", None),
            ("epoch_seconds", None),
            ("epoch_milliseconds", None),
        ]
    ),
)
def test_what_a_list_is_asked_is_what_it_is_read_by(name: str, at: datetime, form: Any) -> None:
    times = TimeForm(kind=form[0], pattern=form[1], zone=ZoneInfo(name))
    written = times.bounds(at, at + SECOND)[0]
    read = times.read(written)
    assert read, (written, form)
    assert read[0] <= at, "a bound is never later than it was asked for"
    assert at - read[0] <= times.unit + timedelta(hours=48 if times.is_local else 0)


def test_a_time_beyond_all_calendars_is_none() -> None:
    berlin, york = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
    assert instants_of(datetime.min, berlin) == instants_of(datetime.max, york) == ()
    assert instant_of(datetime.min, berlin) is None
    rows = [{"N": "1", "D": "0001-01-01", "T": "00:00:00"}, {"N": "2", "D": "x", "T": None}, {}]
    listed = WallList(version=Version.V4, entity_set="S", number="N", date="D", time="T", zone=berlin)
    assert [record.modified_at for record in listed.records(rows, datetime.now(UTC))] == [None, None, None]


@pytest.mark.parametrize("value", [None, True, [], {}, "x", "", "2026-13-01", 1e400, "9" * 400, -(10**30)])
def test_what_is_no_time_is_none(value: object) -> None:
    for kind in ("iso", "local", "epoch_seconds", "epoch_milliseconds"):
        form = TimeForm(kind=kind, pattern=None, zone=ZoneInfo("UTC"))  # type: ignore[arg-type]
        assert form.read(value) == ()


@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=300), st.integers(), st.booleans()), min_size=1, max_size=3
    )
)
def test_every_key_can_be_stored_and_shown(parts: list[object]) -> None:
    key = key_of(parts, {"a": 1})
    assert key.isprintable() and 0 < len(key) <= MAX_KEY_LENGTH
    assert key_of(parts, {"a": 1}) == key


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_different_keys_stay_different(one: str, other: str) -> None:
    assert (key_of([one], None) == key_of([other], None)) == (one == other)


def test_a_record_without_a_key_is_called_by_its_body() -> None:
    assert key_of([None], {"a": 1}) != key_of([None], {"a": 2})
    assert key_of(["x", None], {"b": 1, "a": 1}) == key_of([None, "x"], {"a": 1, "b": 1})
    assert key_of(["a", "b"], None) == '["a","b"]' != key_of(["ab"], None)


def test_a_part_of_a_key_may_be_empty() -> None:
    """As the variant of an article that has none: its record is called the same whatever is in it, and by a
    walk that reads keys alone.
    """
    assert key_of(["A1", ""], {"n": 1}) == key_of(["A1", ""], None) == '["A1",""]'
    assert len({key_of(parts, None) for parts in (["A1", ""], ["", "A1"], ["A1"], ["A1", "A1"])}) == 4
    for parts in (["A1", None], ["", ""], [""]):
        assert key_of(parts, {"n": 1}) != key_of(parts, {"n": 2}), "nothing says that these are one"


@given(
    st.lists(st.text(max_size=3), min_size=2, max_size=3),
    st.lists(st.text(max_size=3), min_size=2, max_size=3),
)
def test_keys_of_several_parts_are_one_where_every_part_is(one: list[str], other: list[str]) -> None:
    if any(one) and any(other):
        assert (key_of(one, {"n": 1}) == key_of(other, {"n": 2})) == (one == other)


def test_a_cursor_comes_back_as_it_was_packed() -> None:
    assert unpack(pack(a=1, b=None)) == {"a": 1, "b": None}
    for cursor in ("", "x", "[]", "1", '"a"'):
        with pytest.raises(CursorExpired):
            unpack(cursor)


def test_only_behind_the_first_page_a_cursor_expires() -> None:
    with pytest.raises(BadConfiguration), page_at(None):
        raise BadConfiguration("404")
    with pytest.raises(CursorExpired, match="404"), page_at("x"):
        raise BadConfiguration("404")


def test_words_of_progress_and_deletion() -> None:
    words = ProgressWords(path="s", open=("new", "true"), acknowledged=("3",), closed=("done",))
    assert [words.of(value) for value in ("new", True, 3, "done", "else", None)] == [
        "open", "open", "acknowledged", "closed", None, None,
    ]  # fmt: skip
    assert DeletedWords(path="x", words=("gone",)).say("gone")
    anything = DeletedWords(path="x")
    assert [anything.say(value) for value in ("2026-01-01", True, None, "", False, 0)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "path"),
        ({"path": "no slash"}, "pattern"),
        ({"path": "/x", "query": {"since": "{sinse}"}}, "unknown placeholder sinse"),
        ({"path": "/x", "ordered": True}, "needs `modified`"),
        ({"path": "/x", "modified": "m", "ordered": True}, "needs `modified`"),
        ({"path": "/x", "deletions": "keys"}, "read whole"),
        ({"path": "/x", "paging": {"kind": "page"}}, "needs `parameter`"),
        ({"path": "/x", "paging": {"kind": "next"}}, "needs `path`"),
        ({"path": "/x", "time_zone": "Europe/Nowhere"}, "no time zone"),
        ({"path": "/x", "time_zone": "right/Europe/Berlin"}, "no time zone"),
        ({"path": "/x", "time_format": "yyyy-mm-dd"}, "pattern"),
        ({"path": "/x", "progress": {"path": "s", "open": ["a"], "closed": ["a"]}}, "two things"),
        ({"path": "/x", "no_such": 1}, "Extra inputs"),
    ],
)
def test_settings_of_a_list_that_cannot_work_are_named(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        ListStream.model_validate(settings)


def test_a_list_that_cannot_be_asked_since_is_read_whole() -> None:
    whole = ListStream.model_validate({"path": "/x", "modified": "m"}).stream("things")
    assert (whole.cursor, whole.deletions, whole.lookback) == ("listing", "listing", timedelta(0))
    timed = ListStream.model_validate({"path": "/x", "modified": "m", "query": {"s": "{since}"}}).stream(
        "things"
    )
    assert (timed.cursor, timed.deletions, timed.lookback) == ("modified", "none", timedelta(seconds=120))
    marked = {"path": "/x", "modified": "m", "query": {"s": "{since}"}, "deleted": {"path": "gone"}}
    assert ListStream.model_validate(marked).stream("things").deletions == "tombstones"


def test_a_page_of_sap_goes_on_behind_date_time_and_number() -> None:
    listed = WallList(
        version=Version.V4, entity_set="S", number="N", date="D", time="T", zone=ZoneInfo("UTC")
    )
    cursor = listed.cursor({"N": "o'1", "D": "2026-11-02", "T": "10:00:00"})
    asked = listed.page(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC), cursor)
    assert "D%20gt%202026-11-02%20or" in asked and "N%20gt%20%27o%27%271%27" in asked
    for bad in ("", "{}", '{"at": "x", "number": "1"}', '{"at": null}'):
        with pytest.raises(CursorExpired):
            listed.page(None, datetime(2026, 11, 3, tzinfo=UTC), bad)


@pytest.mark.parametrize(
    ("description", "reference"),
    [
        ("hot\n\nFieldgate reference: ABC", "ABC"),
        ("Fieldgate reference: FAKE\n\nFieldgate reference: TRUE  \n", "TRUE"),
        ("see Fieldgate reference: ABC", None),
        ("Fieldgate reference: " + "x" * 21, None),
        (None, None),
    ],
)
def test_the_last_line_is_the_reference(description: object, reference: str | None) -> None:
    assert reference_of(description) == reference
