"""What is kept of a record, whatever a system gives; and what is asked next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.inbound import InboundRecord
from gateway.model.record import (
    MAX_BODY_BYTES,
    Cycle,
    Interval,
    LogPlace,
    halved,
    keep,
    latest,
    may_vanish,
    next_interval,
    next_slice,
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
    second = next_interval(first.high, now + timedelta(seconds=more), **gap)
    assert second is None or (second.low is not None and second.low <= first.high)


@given(days=st.integers(1, 90), hours=st.integers(1, 100))
def test_slices_cover_the_history_without_a_gap(days: int, hours: int) -> None:
    reached, count = NOW, 0
    while (part := next_slice(NOW, reached, days=days, slice_length=timedelta(hours=hours))) is not None:
        assert part.high == reached and part.low is not None and part.low < part.high
        reached, count = part.low, count + 1
    assert reached == NOW - timedelta(days=days) and count <= days * 24 / hours + 1


@given(seconds=st.integers(0, 10**7))
def test_half_of_an_interval_is_its_older_part(seconds: int) -> None:
    whole = Interval(low=NOW, high=NOW + timedelta(seconds=seconds))
    half = halved(whole)
    assert (
        half.low == whole.low and whole.low is not None and whole.low < half.high <= whole.high
    ) or seconds < 2


@given(lead=st.integers(0, 50), length=st.integers(1, 40))
def test_a_circle_is_told_within_a_few_rounds(lead: int, length: int) -> None:
    cycle, steps = Cycle(), 0
    while not cycle.closes(str(steps if steps < lead else lead + (steps - lead) % length)):
        steps += 1
        assert steps < 4 * (lead + length) + 8
    fresh = Cycle()
    assert not any(fresh.closes(str(number)) for number in range(1000))


@given(position=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**53), customer=st.text(max_size=64))
def test_a_cursor_is_read_as_it_was_written_for_its_customer_only(
    position: int, epoch: int, customer: str
) -> None:
    place = LogPlace(customer=customer, epoch=epoch, position=position)
    assert read_cursor(write_cursor(place), customer=customer) == place
    with pytest.raises(ValueError, match="another customer"):
        read_cursor(write_cursor(place), customer=f"{customer}x")


def test_a_cursor_of_before_there_were_epochs_is_read() -> None:
    assert read_cursor("WzQyXQ", customer="acme") == LogPlace(customer=None, epoch=None, position=42)
    assert read_cursor(None, customer="acme").position == 0


@given(key=st.text(min_size=1).filter(lambda text: text.encode(errors="replace").decode() == text))
def test_a_key_is_one_level_of_a_topic(key: str) -> None:
    level = topic_level(key)
    assert level and not set(level) & set("/+#$\0") and level.isascii()


def test_a_fifth_may_go_and_one_record_always() -> None:
    assert may_vanish(1, 1) and may_vanish(2, 10) and not may_vanish(3, 10) and not may_vanish(2, 9)
