"""What is kept of a record, whatever a system gives; and what is asked next."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.model.inbound import InboundRecord, InboundStream
from gateway.model.record import (
    CUT_BYTES,
    MAX_BODY_BYTES,
    MAX_KEY_BYTES,
    MAX_POSITION,
    Change,
    Cycle,
    Interval,
    LogPlace,
    change_of,
    halved,
    keep,
    latest,
    may_vanish,
    next_interval,
    next_slice,
    phases_of,
    read_cursor,
    topic_level,
    write_cursor,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(st.characters(codec=None))
    | st.just("\0"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
BODIES = st.dictionaries(st.text(st.characters(codec=None), max_size=8), VALUES, max_size=6)


@given(body=BODIES)
def test_whatever_a_body_holds_json_of_it_is_kept(body: dict[str, Any]) -> None:
    kept = keep(InboundRecord(key="a", modified_at=None, body=body))
    text = kept.body.decode()
    assert "\\u0000" not in text or "\\\\u0000" in text
    assert isinstance(orjson.loads(text) if len(text) < 10**6 else {}, dict)
    assert kept.truncated == (kept.fault is not None)


@given(body=BODIES)
def test_the_order_of_keys_means_nothing(body: dict[str, Any]) -> None:
    turned = dict(reversed(list(body.items())))
    records = [InboundRecord(key="a", modified_at=None, body=each) for each in (body, turned)]
    if len({str(key).encode(errors="replace") for key in body}) == len(body):
        assert keep(records[0]).hash == keep(records[1]).hash


def test_progress_and_reference_are_part_of_what_is_equal() -> None:
    plain = keep(InboundRecord(key="a", modified_at=None, body={}))
    closed = keep(InboundRecord(key="a", modified_at=None, body={}, progress="closed"))
    ours = keep(InboundRecord(key="a", modified_at=None, body={}, progress="closed", reference="r"))
    assert len({plain.hash, closed.hash, ours.hash}) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"a": "x" * 600_000, "id": 1},
        {f"k{number}": "y" * 100 for number in range(5_000)},
        {"id": 1, "deep": [[["z" * 600_000]]]},
    ],
)
def test_what_is_too_large_is_cut_to_what_fits(body: dict[str, Any]) -> None:
    kept = keep(InboundRecord(key="a", modified_at=None, body=body))
    assert kept.truncated and len(kept.body) <= MAX_BODY_BYTES and "bytes" in (kept.fault or "")
    assert set(orjson.loads(kept.body)) <= set(body)
    if "id" in body:
        assert orjson.loads(kept.body)["id"] == 1


def test_nesting_without_end_is_cut_off() -> None:
    deep: list[Any] = []
    inner = deep
    for _ in range(5_000):
        inner.append([])
        inner = inner[0]
    kept = keep(InboundRecord(key="a", modified_at=None, body={"deep": deep, "id": 1}))
    assert kept.truncated and orjson.loads(kept.body)["id"] == 1


@pytest.mark.parametrize("key", ["", "x" * 513, "a\0b", "\ud800"])
def test_a_key_that_names_nothing_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keep(InboundRecord(key=key, modified_at=None, body={}))


def test_of_equal_keys_the_latest_counts() -> None:
    def one(minutes: int | None, n: int) -> Any:
        at = None if minutes is None else NOW + timedelta(minutes=minutes)
        return keep(InboundRecord(key="a", modified_at=at, body={"n": n}))

    for given_, n in (
        ([one(1, 1), one(0, 2)], 1),
        ([one(1, 1), one(1, 2)], 2),
        ([one(None, 1), one(0, 2)], 2),
    ):
        assert [orjson.loads(kept.body) for kept in latest(given_)] == [{"n": n}]


@given(
    ahead=st.integers(-1000, 1000),
    settle=st.integers(0, 100),
    lookback=st.integers(0, 100),
    more=st.integers(0, 500),
)
def test_intervals_join_and_never_leave_the_past(ahead: int, settle: int, lookback: int, more: int) -> None:
    """What one ends with the next begins with, or before; and neither reaches what may not be visible yet."""
    gap = {"settle": timedelta(seconds=settle), "lookback": timedelta(seconds=lookback)}
    now = NOW + timedelta(seconds=ahead)
    first = next_interval(NOW, now, **gap)
    if first is None:
        assert now - gap["settle"] <= NOW
        return
    assert first.low is not None and first.low <= NOW < first.high <= now
    assert (first.low, first.high) == (NOW - gap["lookback"], now - gap["settle"])
    second = next_interval(first.high, now + timedelta(seconds=more), **gap)
    assert second is None or (second.low is not None and second.low <= first.high)


@given(days=st.integers(1, 90), hours=st.integers(1, 100))
def test_slices_cover_the_history_without_a_gap(days: int, hours: int) -> None:
    reached, count = NOW, 0
    while (part := next_slice(NOW, reached, days=days, slice_length=timedelta(hours=hours))) is not None:
        assert part.high == reached and part.low is not None and part.low < part.high
        reached, count = part.low, count + 1
    assert reached == NOW - timedelta(days=days) and count <= days * 24 / hours + 1


@given(seconds=st.floats(0, 10**7), fraction=st.integers(0, 999_999))
@example(seconds=2.0, fraction=0)
@example(seconds=2.0, fraction=999_999)
@example(seconds=1.999, fraction=0)
def test_half_of_an_interval_is_its_older_part(seconds: float, fraction: int) -> None:
    low = NOW.replace(microsecond=fraction)
    whole = Interval(low=low, high=low + timedelta(seconds=seconds))
    half = halved(whole)
    if whole.high - low < timedelta(seconds=2):
        assert half == whole
        return
    assert half.low == low < half.high < whole.high and half.high.microsecond == 0
    assert timedelta() <= low + (whole.high - low) / 2 - half.high < timedelta(seconds=1)


@given(seconds=st.floats(0.001, 10**6), lookback=st.floats(0, 10**7), halvings=st.integers(1, 10))
def test_what_was_read_already_is_not_halved(seconds: float, lookback: float, halvings: int) -> None:
    """Each part that is read moves what was read on."""
    low = NOW - timedelta(seconds=lookback)
    part = Interval(low=low, high=NOW + timedelta(seconds=seconds))
    for _ in range(halvings):
        part = halved(part, NOW)
    assert part.low == low and part.high > NOW


def test_what_has_no_beginning_has_no_half() -> None:
    whole = Interval(low=None, high=NOW)
    assert halved(whole) == whole


@given(lead=st.integers(0, 50), length=st.integers(1, 40))
def test_a_circle_is_told_within_a_few_rounds(lead: int, length: int) -> None:
    cycle, steps = Cycle(), 0
    while not cycle.closes(str(steps if steps < lead else lead + (steps - lead) % length)):
        steps += 1
        assert steps < 4 * (lead + length) + 8
    fresh = Cycle()
    assert not any(fresh.closes(str(number)) for number in range(1000))


POSITIONS = st.integers(0, MAX_POSITION)


@given(position=POSITIONS, epoch=POSITIONS, customer=st.text(max_size=64), began=POSITIONS)
@example(position=0, epoch=0, customer="", began=0)
@example(position=MAX_POSITION, epoch=MAX_POSITION, customer="acme", began=0)
@example(position=1, epoch=1, customer="acme", began=MAX_POSITION)
def test_a_cursor_is_read_as_it_was_written_for_its_customer_only(
    position: int, epoch: int, customer: str, began: int
) -> None:
    place = LogPlace(customer=customer, epoch=epoch, position=position, began=began)
    cursor = write_cursor(place)
    if began <= position:  # he has come to where he began
        place = replace(place, began=0)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)  # as it is, it is a part of an address
    assert read_cursor(cursor, customer=customer) == place
    with pytest.raises(ValueError, match="another customer"):
        read_cursor(cursor, customer=f"{customer}x")


def cursor_of(parts: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "", "!", "é", "WzQyXQ!", "WzQyXQ\n", " WzQyXQ", "Wz QyXQ", "WzQyX", "Wz", "A",
        *map(
            cursor_of,
            [
                42, [], {}, None, "42", [None], [True], [-1], [1.5], [MAX_POSITION + 1], [1, 2], [1, 2, None], [1, 2, 3],
                [1, None, "acme"], [True, 2, "acme"], [1, True, "acme"], [-1, 2, "acme"], [1, -2, "acme"], [1, 2, "acme", "4"],
                [1, 2, "acme", -4], [1, 2, "acme", True], [1, 2, "acme", 4, 5],
                [MAX_POSITION + 1, 2, "acme"], [1, MAX_POSITION + 1, "acme"],
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused_with_what_to_do(cursor: str) -> None:
    with pytest.raises(ValueError, match=r"cursor: .*next.*begin anew"):
        read_cursor(cursor, customer="acme")


def test_a_cursor_of_before_there_were_epochs_is_read() -> None:
    assert read_cursor("WzQyXQ", customer="acme") == LogPlace(customer=None, epoch=None, position=42)
    assert read_cursor(None, customer="acme").position == 0


@given(key=st.text(min_size=1).filter(lambda text: text.encode(errors="replace").decode() == text))
def test_a_key_is_one_level_of_a_topic(key: str) -> None:
    level = topic_level(key)
    assert level and not set(level) & set("/+#$\0") and level.isascii()


def test_a_fifth_may_go_and_one_record_always() -> None:
    assert may_vanish(1, 1) and may_vanish(2, 10) and not may_vanish(3, 10) and not may_vanish(2, 9)


@pytest.mark.parametrize(
    ("version", "deleted", "change"),
    [
        (1, False, "created"),
        (2, False, "modified"),
        (900, False, "modified"),
        (1, True, "deleted"),
        (2, True, "deleted"),
    ],
)
def test_what_the_last_change_was(version: int, deleted: bool, change: Change) -> None:
    assert change_of(version, deleted=deleted) == change


@pytest.mark.parametrize(
    ("cursor", "deletions", "phases"),
    [
        ("modified", "none", ["incremental", "initial"]),
        ("modified", "tombstones", ["incremental", "initial"]),
        ("modified", "keys", ["incremental", "initial", "reconcile"]),
        ("modified", "listing", ["incremental", "initial", "reconcile"]),
        ("id", "keys", ["incremental", "initial", "reconcile"]),
        ("listing", "none", ["incremental"]),
        ("listing", "listing", ["incremental"]),
        ("listing", "keys", ["incremental", "reconcile"]),
    ],
)
def test_a_stream_is_read_in_the_phases_that_it_needs(cursor: Any, deletions: Any, phases: list[str]) -> None:
    stream = InboundStream(name="s", title="S", cursor=cursor, deletions=deletions)
    other = InboundStream(name="t", title="T", cursor="id")
    found = phases_of([stream, other], initial_days=30)
    assert found == [*(("s", phase) for phase in phases), ("t", "incremental"), ("t", "initial")]
    without = [phase for phase in phases if phase != "initial"]
    assert phases_of([stream], initial_days=0) == [("s", phase) for phase in without]


@given(
    body=st.dictionaries(
        st.text("abcé", min_size=1, max_size=6), st.text("xü", max_size=700), min_size=1, max_size=12
    ),
    limit=st.integers(64, 4096),
)
@example(body={"a": "x" * CUT_BYTES, "b": "x" * (CUT_BYTES + 1), "c": "ü" * CUT_BYTES}, limit=1600)
def test_what_is_cut_keeps_the_first_fields_that_fit_with_their_beginnings(
    body: dict[str, str], limit: int
) -> None:
    kept = keep(InboundRecord(key="a", modified_at=None, body=body), max_body_bytes=limit)
    if len(orjson.dumps(body)) <= limit:
        assert not kept.truncated and orjson.loads(kept.body) == body
        return
    found = orjson.loads(kept.body)
    assert kept.truncated and len(kept.body) <= limit
    short = {key: text.encode()[:CUT_BYTES].decode(errors="ignore") for key, text in body.items()}
    assert found == {key: short[key] for key in found}
    for key in (
        body.keys() - found.keys()
    ):  # it would not have fitted; each field is reckoned two bytes longer
        before = {name: short[name] for name in [*(name for name in found if name < key), key]}
        assert len(orjson.dumps(before)) + 2 * len(before) > limit


def test_a_key_may_have_as_many_bytes_as_it_may() -> None:
    record = InboundRecord(key="ü" * (MAX_KEY_BYTES // 2), modified_at=None, body={})
    assert keep(record).key == record.key
