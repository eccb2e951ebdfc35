"""The plan loses nothing, doubles nothing, and sends only what the system takes and does not hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.connector import Capabilities
from gateway.model.delivery import DueWindow, batch_limit, batch_sizes, chunks, plan, reordered

START = datetime(2026, 3, 1, tzinfo=UTC)
values = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-5, 5, allow_nan=False)
    | st.sampled_from(["on", "off"])
)
kinds = st.frozensets(st.sampled_from(["number", "boolean", "text"]), min_size=1)


@st.composite
def windows(draw: st.DrawFn) -> list[DueWindow]:
    places = draw(st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=25))
    return [
        DueWindow(
            meter=meter,
            window_start=START + timedelta(hours=hour),
            mark=1,
            attempts=draw(st.integers(0, 2)),
            unit=None,
            deadband=draw(st.sampled_from([0.0, 0.0, 2.0])),
            reduce="last",
            value=draw(values),
            delivered=draw(values),
            previous=draw(values),
        )
        for meter, hour in sorted(places)
    ]


@given(due=windows(), takes=kinds, oldest=st.none() | st.integers(0, 20), silently=st.booleans())
def test_each_window_has_exactly_one_fate(
    due: list[DueWindow], takes: frozenset[str], oldest: int | None, silently: bool
) -> None:
    capabilities = Capabilities(push="bulk_partial", values=takes)  # type: ignore[arg-type]
    limit = None if oldest is None else START + timedelta(hours=oldest)
    made = plan("c", due, capabilities=capabilities, oldest=limit, clip_silently=silently)
    fates = [window for window, _ in made.send] + made.settled
    fates += [refusal.due for refusal in made.refused] + [window for window, _ in made.withheld]
    assert sorted((w.meter, w.window_start) for w in fates) == [(w.meter, w.window_start) for w in due]
    for window, reading in made.send:
        kind = {bool: "boolean", str: "text"}.get(type(reading.value), "number")
        assert kind in takes
        assert limit is None or window.window_start >= limit
        assert type(reading.value) is not type(window.delivered) or reading.value != window.delivered
        assert reading.modified is (window.delivered is not None)
        assert (reading.meter, reading.window_start) == (window.meter, window.window_start)
    assert [(r.meter, r.window_start) for _, r in made.send] == sorted(
        (r.meter, r.window_start) for _, r in made.send
    )
    if silently:
        assert all(limit is None or refusal.due.window_start >= limit for refusal in made.refused)
    holds: dict[str, list[tuple[datetime, object]]] = {}
    for window in due:
        sent = next((r.value for w, r in made.send if w is window), window.delivered)
        if sent is not None:
            holds.setdefault(window.meter, []).append((window.window_start, sent))
    for window, reference in made.withheld:
        before = [value for at, value in holds.get(window.meter, []) if at < window.window_start]
        assert reference == (before[-1] if before else window.previous)
        assert isinstance(window.value, float | int) and abs(window.value - reference) < window.deadband


@given(due=windows())
def test_a_second_plan_after_delivery_sends_nothing(due: list[DueWindow]) -> None:
    capabilities = Capabilities(push="bulk_partial", values=frozenset({"number", "boolean", "text"}))
    first = plan("c", due, capabilities=capabilities, oldest=None, clip_silently=False)
    held = {(r.meter, r.window_start): r.value for _, r in first.send}
    again = [
        replace(w, delivered=held.get((w.meter, w.window_start), w.delivered))
        for w in due
        if (w.meter, w.window_start) in held
    ]
    assert plan("c", again, capabilities=capabilities, oldest=None, clip_silently=False).send == []


@given(due=windows(), size=st.integers(1, 30), failures=st.integers(0, 1_000), ascending=st.booleans())
def test_parts_and_order_keep_every_reading(
    due: list[DueWindow], size: int, failures: int, ascending: bool
) -> None:
    capabilities = Capabilities(push="bulk_partial", values=frozenset({"number", "boolean", "text"}))
    send = plan("c", due, capabilities=capabilities, oldest=None, clip_silently=False).send
    parts = list(chunks(send, repeat(size)))
    assert [pair for part in parts for pair in part] == send
    assert all(1 <= len(part) <= size for part in parts)
    ordered = reordered(send, failures=failures, ascending=ascending)
    assert sorted(r.key for _, r in ordered) == sorted(r.key for _, r in send)
    for meter in "abc" if ascending else "":
        of_meter = [r.window_start for _, r in ordered if r.meter == meter]
        assert of_meter == sorted(of_meter)
    suspects = {w.meter for w, _ in send if w.attempts}
    flags = [w.meter in suspects if ascending else w.attempts > 0 for w, _ in ordered]
    assert flags == sorted(flags)


@given(most=st.integers(1, 10_000), failures=st.integers(0, 1_000), count=st.integers(0, 20_000))
def test_batches_grow_to_the_most_and_lose_nothing(most: int, failures: int, count: int) -> None:
    pairs: list[Any] = list(range(count))
    parts = list(chunks(pairs, batch_sizes(most, failures, is_searching=False)))
    assert [one for part in parts for one in part] == pairs
    assert all(len(part) <= most for part in parts)
    assert len(parts) <= 15 + count // most


@given(most=st.integers(1, 10_000), failures=st.integers(0, 1_000))
def test_a_batch_shrinks_to_one_and_never_below(most: int, failures: int) -> None:
    limit = batch_limit(most, failures)
    assert 1 <= limit <= most
    assert batch_limit(most, failures + 1) <= limit
    assert failures >= 3 or limit == most
    assert batch_limit(most, 20) == 1
