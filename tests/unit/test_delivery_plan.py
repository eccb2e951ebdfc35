"""The plan: what is sent, what needs no call, what could never be taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from gateway.model.connector import Capabilities
from gateway.model.delivery import DeliveryPlan, DueWindow, batch_limit, oldest_accepted, plan, reordered
from gateway.model.sample import Value

AT = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVERYTHING = Capabilities(push="bulk_partial", values=frozenset({"number", "boolean", "text"}))
NUMBERS = Capabilities(push="bulk_partial")
TEXT = Capabilities(push="bulk_partial", values=frozenset({"text"}))


def due(
    value: Value | None,
    *,
    hour: int = 0,
    meter: str = "m",
    delivered: Value | None = None,
    previous: Value | None = None,
    unfit: Value | None = None,
    is_beyond: bool = False,
    is_empty: bool = False,
    **more: float,
) -> DueWindow:
    return DueWindow(
        meter=meter,
        window_start=AT + hour * HOUR,
        mark=1,
        attempts=int(more.get("attempts", 0)),
        unit="C",
        deadband=more.get("deadband", 0.0),
        reduce="last",
        value=value,
        delivered=delivered,
        previous=previous,
        previous_at=None if previous is None else AT - HOUR,
        unfit=unfit,
        is_beyond=is_beyond,
        is_empty=is_empty,
    )


def made(
    *windows: DueWindow,
    capabilities: Capabilities = EVERYTHING,
    oldest: datetime | None = None,
    silently: bool = False,
) -> DeliveryPlan:
    return plan("c", windows, capabilities=capabilities, oldest=oldest, clip_silently=silently)


@pytest.mark.parametrize(
    ("value", "delivered", "sent"),
    [
        (1.0, None, True),
        (1.0, 1, False),
        (1.0, 2.0, True),
        ("a", "a", False),
        (True, True, False),
        (True, 1, True),
        (0, False, True),
        (None, None, False),
        ("", None, True),
    ],
)
def test_only_what_the_system_does_not_hold_is_sent(
    value: Value | None, delivered: Value | None, sent: bool
) -> None:
    result = made(due(value, delivered=delivered))
    assert (len(result.send), len(result.settled)) == ((1, 0) if sent else (0, 1))
    if sent:
        assert result.send[0][1].modified is (delivered is not None) and result.send[0][1].unit == "C"


@pytest.mark.parametrize(
    ("capabilities", "value", "becomes"),
    [
        (NUMBERS, True, 1.0),
        (NUMBERS, False, 0.0),
        (EVERYTHING, True, True),
        (NUMBERS, "on", None),
        (TEXT, 1.0, None),
        (TEXT, True, None),
        (TEXT, "on", "on"),
    ],
)
def test_a_value_is_sent_in_a_kind_that_the_system_takes(
    capabilities: Capabilities, value: Value, becomes: Value | None
) -> None:
    result = made(due(value), capabilities=capabilities)
    if becomes is None:
        assert [refusal.reason for refusal in result.refused] == ["unsupported_value"] and result.send == []
    else:
        sent = result.send[0][1].value
        assert sent == becomes and type(sent) is type(becomes)


def test_a_boolean_that_was_sent_as_a_number_is_equal_to_it() -> None:
    assert made(due(True, delivered=1.0), capabilities=NUMBERS).send == []


@pytest.mark.parametrize(
    ("window", "reason", "words"),
    [
        (due(None, unfit="41.2"), "unusable_value", ("'41.2'", "send a number")),
        (due(3.0, unfit="err", delivered=3.0), "withdrawn", ("'err'", "still holds 3.0")),
        (due(None, unfit=True), "unusable_value", ("True",)),
        (due(None, delivered=5.0), "withdrawn", ("corrected", "still holds 5.0")),
        (due(1e300, unfit=1e300), "not_exact", ("1e+300",)),
        (due(1e17, is_beyond=True), "not_exact", ("the sum", "smaller windows")),
        (due("on", unfit=None, delivered=1.0), "unsupported_value", ("still holds 1.0",)),
    ],
)
def test_what_has_no_value_to_tell_is_told_with_what_to_do(
    window: DueWindow, reason: str, words: tuple[str, ...]
) -> None:
    (refusal,) = made(window, capabilities=NUMBERS).refused
    assert refusal.reason == reason and all(word in refusal.detail for word in words)


def test_a_window_without_samples_any_more_says_nothing() -> None:
    """Their time of retention is over: what was delivered was right."""
    assert made(due(None, delivered=5.0, is_empty=True)).refused == []
    assert made(due(None)).refused == [], "the first reading of a counter"


def test_the_deadband_compares_with_the_nearest_window_before() -> None:
    """Another window, delivered earlier, may lie between those that are due."""
    between = replace(due(10.4, hour=5, previous=20.0, deadband=1.0), previous_at=AT + 3 * HOUR)
    result = made(due(10.0, deadband=1.0), between)
    assert [reading.value for _, reading in result.send] == [10.0, 10.4]
    beside = replace(between, previous_at=AT - HOUR)
    assert made(due(10.0, deadband=1.0), beside).withheld == [(beside, 10.0)]


def test_what_is_refused_is_still_what_the_system_holds() -> None:
    result = made(
        due("on", delivered=10.0, deadband=1.0), due(10.5, hour=1, deadband=1.0), capabilities=NUMBERS
    )
    assert [reference for _, reference in result.withheld] == [10.0] and result.send == []


def test_the_deadband_counts_from_the_last_value_that_was_sent() -> None:
    steps = [
        due(value, hour=hour, previous=10.0, deadband=1.0)
        for hour, value in enumerate([10.5, 10.9, 11.0, 11.9, 12.0])
    ]
    assert [reading.value for _, reading in made(*steps).send] == [11.0, 12.0]


@pytest.mark.parametrize(
    ("value", "previous"), [(0.3, 0.2), (0.2, 0.3), (8.2, 8.1), (1.1, 1.0), (-0.2, -0.3)]
)
def test_a_change_by_the_very_deadband_is_sent(value: float, previous: float) -> None:
    """0.3 - 0.2 is less than 0.1 as doubles reckon, and not as people do."""
    assert len(made(due(value, previous=previous, deadband=0.1)).send) == 1


@pytest.mark.parametrize(
    ("value", "previous"), [("on", 1.0), (1.0, "on"), (True, 1.0), (1.0, True), (1.0, None)]
)
def test_the_deadband_is_for_numbers_only(value: Value, previous: Value | None) -> None:
    assert len(made(due(value, previous=previous, deadband=100.0)).send) == 1


def test_a_correction_within_the_deadband_is_sent() -> None:
    assert len(made(due(1.1, delivered=1.0, previous=1.0, deadband=5.0)).send) == 1


def test_a_deadband_of_one_meter_is_not_anothers() -> None:
    assert len(made(due(1.0, meter="a", deadband=5.0), due(1.0, meter="b", deadband=5.0)).send) == 2


def test_what_is_too_old_is_clipped_in_silence_or_refused_with_a_reason() -> None:
    old, young = due(1.0), due(2.0, hour=1)
    assert [w for w, _ in made(old, young, oldest=AT + HOUR).send] == [young]
    assert [(r.due, r.reason) for r in made(old, young, oldest=AT + HOUR).refused] == [
        (old, "older_than_max_backfill")
    ]
    assert made(old, young, oldest=AT + HOUR, silently=True).settled == [old]


def test_the_oldest_follows_the_clock() -> None:
    assert oldest_accepted(NUMBERS, AT) is None
    assert oldest_accepted(Capabilities(push="single", max_backfill=HOUR), AT) == AT - HOUR


@pytest.mark.parametrize(("failures", "limit"), [(0, 100), (2, 100), (3, 50), (4, 25), (8, 1), (50, 1)])
def test_a_batch_is_halved_from_the_third_failure_on(failures: int, limit: int) -> None:
    assert batch_limit(100, failures) == limit


def test_what_failed_before_comes_last_where_meters_ascend_with_all_readings_of_its_meter() -> None:
    send = made(
        due(1.0, meter="a"), due(1.0, meter="b", attempts=1), due(2.0, meter="b", hour=1), due(1.0, meter="c")
    ).send
    assert [(w.meter, w.window_start) for w, _ in reordered(send, failures=0, ascending=True)] == [
        ("a", AT),
        ("c", AT),
        ("b", AT),
        ("b", AT + HOUR),
    ]
    assert [(w.meter, w.window_start) for w, _ in reordered(send, failures=0, ascending=False)] == [
        ("a", AT),
        ("b", AT + HOUR),
        ("c", AT),
        ("b", AT),
    ]


def test_each_failed_run_begins_with_another_reading() -> None:
    send = made(*[due(1.0, meter=f"m{number}") for number in range(7)]).send
    firsts = [reordered(send, failures=failures, ascending=False)[0][0].meter for failures in range(3, 23)]
    assert set(firsts) == {f"m{number}" for number in range(7)}
    assert all(one != other for one, other in pairwise(firsts))


@pytest.mark.parametrize(
    ("doubted", "delivered", "modified"), [(2.0, 1.0, True), (2.0, None, True), (1.0, None, False)]
)
def test_what_is_in_doubt_is_sent_whatever_was_delivered(
    doubted: float, delivered: float | None, modified: bool
) -> None:
    window = due(1.0, delivered=delivered, previous=1.0, deadband=10.0)
    result = made(replace(window, doubt=7, doubted=doubted))
    ((_, sent),) = result.send
    assert sent.value == 1.0 and sent.modified is modified and result.settled == []


def test_what_is_in_doubt_and_has_no_value_any_more_needs_no_call() -> None:
    assert made(replace(due(None, delivered=1.0), doubt=7, doubted=2.0)).send == []
