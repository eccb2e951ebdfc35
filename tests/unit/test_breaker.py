"""When a breaker opens, what it holds back, and how long who meets it waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.breaker import (
    CallHealth,
    CallingConnections,
    Key,
    Scope,
    probe_interval_seconds,
    wait_seconds,
)
from gateway.model.operation import Operation

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SYSTEM: Key = (Scope.SYSTEM, "erp")
PUSH, PULL, PROBE = Operation.PUSH, Operation.PULL, Operation.PROBE


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


WELL = CallHealth(
    connection="c",
    customer="acme",
    system="erp",
    host="erp.example",
    last_success_at=None,
    last_failure_at=None,
    failing_since=None,
    failures=0,
)
FAILS = replace(WELL, last_failure_at=ago(10), failing_since=ago(20), failures=1, operations=("push",))


@pytest.mark.parametrize(
    ("attempt", "rand", "seconds"),
    [
        (0, 0.0, 2.0),
        (1, 0.0, 4.0),
        (2, 0.5, 4.0),
        (4, 0.0, 32.0),
        (5, 0.0, 60.0),
        (5, 0.5, 30.0),
        (900, 0.0, 60.0),
        (0, 0.75, 1.0),
        (900, 0.999, 1.0),
    ],
)
def test_an_open_breaker_is_tried_after_a_growing_rest(attempt: int, rand: float, seconds: float) -> None:
    assert probe_interval_seconds(attempt, rand=rand) == seconds


@pytest.mark.parametrize(
    ("until_trial", "rand", "seconds"),
    [
        (-3.0, 0.0, 0.0),
        (-3.0, 0.5, 0.5),
        (0.5, 0.0, 0.5),
        (0.5, 0.5, 1.0),
        (2.0, 0.5, 2.5),
        (4.0, 0.5, 5.0),
        (5.0, 0.0, 5.0),
        (60.0, 0.0, 5.0),
        (60.0, 0.5, 6.25),
    ],
)
def test_who_meets_an_open_breaker_comes_back_soon_and_spread(
    until_trial: float, rand: float, seconds: float
) -> None:
    assert wait_seconds(until_trial, rand=rand) == seconds


@pytest.mark.parametrize(
    ("changed", "is_failing", "is_open"),
    [
        ({}, True, False),
        ({"failures": 2}, True, False),
        ({"failures": 3}, True, True),
        ({"failures": 4}, True, True),
        ({"failing_since": ago(59)}, True, False),
        ({"failing_since": ago(60)}, True, True),
        ({"failures": 3, "last_failure_at": ago(300), "failing_since": ago(400)}, True, True),
        ({"failures": 3, "last_failure_at": ago(301), "failing_since": ago(400)}, False, False),
        ({"failures": 3, "last_failure_at": None}, False, False),
        ({"failures": 3, "failing_since": None}, False, False),
    ],
)
def test_three_failures_or_a_minute_of_them_open_a_breaker_for_as_long_as_they_are_recent(
    changed: dict[str, object], is_failing: bool, is_open: bool
) -> None:
    health = replace(FAILS, **changed)  # type: ignore[arg-type]
    assert (health.is_failing(NOW), health.is_open(NOW)) == (is_failing, is_open)


@pytest.mark.parametrize("field", ["last_success_at", "last_probe_at", "last_pull_at", "last_failure_at"])
def test_whoever_called_within_five_minutes_is_seen(field: str) -> None:
    assert not WELL.is_seen(NOW)
    assert replace(WELL, **{field: ago(300)}).is_seen(NOW)  # type: ignore[arg-type]
    assert not replace(WELL, **{field: ago(301)}).is_seen(NOW)  # type: ignore[arg-type]


PROVED = replace(WELL, last_success_at=ago(30), last_pull_at=ago(20), last_probe_at=ago(10))


@pytest.mark.parametrize(
    ("health", "operations", "proved_at"),
    [
        (PROVED, ["push"], ago(30)),
        (PROVED, ["pull"], ago(20)),
        (PROVED, ["probe"], ago(10)),
        (PROVED, ["probe", "push"], ago(30)),
        (PROVED, ["pull", "push"], None),
        (PROVED, [], ago(10)),
        (replace(PROVED, last_probe_at=None), ["probe"], ago(20)),
        (replace(PROVED, last_probe_at=ago(99)), ["probe"], ago(20)),
        (replace(PROVED, last_success_at=None), ["push"], None),
        (WELL, ["probe"], None),
    ],
)
def test_work_proves_probes_and_itself_and_a_probe_only_itself(
    health: CallHealth, operations: list[str], proved_at: datetime | None
) -> None:
    assert health.proved_at(operations) == proved_at


@pytest.mark.parametrize(
    ("healths", "held_back"),
    [
        # pushes fail, and a probe was answered since then: pulls go on
        ([FAILS, replace(WELL, last_probe_at=ago(19))], PUSH),
        ([FAILS, replace(WELL, last_pull_at=ago(19))], PUSH),
        ([replace(FAILS, last_probe_at=ago(19))], PUSH),
        ([replace(FAILS, operations=("pull",)), replace(WELL, last_success_at=ago(19))], PULL),
        ([FAILS, replace(WELL, last_probe_at=ago(20))], PROBE),
        ([FAILS, replace(FAILS, failing_since=ago(30)), replace(WELL, last_probe_at=ago(25))], PUSH),
        ([FAILS, WELL], PROBE),
        ([FAILS, replace(FAILS, operations=("pull",)), replace(WELL, last_probe_at=ago(1))], PROBE),
        ([replace(FAILS, operations=("probe",)), replace(WELL, last_probe_at=ago(1))], PROBE),
        ([replace(FAILS, operations=("push", "pull")), replace(WELL, last_probe_at=ago(1))], PROBE),
        ([replace(WELL, last_probe_at=ago(1))], PROBE),
    ],
)
def test_what_fails_is_held_back_alone_where_the_system_answers_otherwise(
    healths: list[CallHealth], held_back: Operation
) -> None:
    assert CallingConnections(healths, now=NOW).held_back(SYSTEM) is held_back


def customers(failing: int, well: int, **changed: object) -> list[CallHealth]:
    """Each a connection of a customer of its own; the well ones succeeded long ago."""
    fails = {"last_failure_at": ago(1), "failing_since": ago(60), "failures": 9, **changed}
    return [
        replace(FAILS, connection=f"f{number}", customer=f"f{number}", **fails)  # type: ignore[arg-type]
        for number in range(failing)
    ] + [
        replace(WELL, connection=f"w{number}", customer=f"w{number}", last_success_at=ago(200))
        for number in range(well)
    ]


@pytest.mark.parametrize(
    ("healths", "systemic"),
    [
        (customers(3, 0), True),
        (customers(2, 0), False),
        (customers(3, 7), True),
        (customers(3, 8), False),
        (customers(4, 9), True),
        (customers(3, 0, failing_since=ago(59)), False),
        ([*customers(3, 0, failing_since=ago(59)), *customers(1, 0)], True),
        ([*customers(3, 0), replace(PROVED, last_success_at=ago(60))], True),
        ([*customers(3, 0), replace(PROVED, last_success_at=ago(59))], False),
        ([*customers(3, 0), replace(PROVED, last_success_at=None)], True),  # probes prove no push
        ([*customers(3, 0), *(replace(one, last_success_at=ago(301)) for one in customers(0, 20))], True),
    ],
)
def test_a_system_is_at_fault_when_enough_customers_fail_for_a_minute_without_a_success(
    healths: list[CallHealth], systemic: bool
) -> None:
    fleet = CallingConnections(healths, now=NOW)
    assert fleet.is_systemic(SYSTEM) is systemic
    assert not fleet.is_systemic((Scope.SYSTEM, "cmms"))


def test_who_is_well_again_is_counted_by_what_it_proved_and_when() -> None:
    fleet = CallingConnections(
        [
            replace(PROVED, connection="a"),
            replace(PROVED, connection="b", last_success_at=ago(50)),
            replace(PROVED, connection="c", last_success_at=None),
            replace(FAILS, connection="d", last_success_at=ago(5)),
        ],
        now=NOW,
    )
    assert [fleet.well_since(SYSTEM, ago(since), ["push"]) for since in (60, 50, 49, 30)] == [2, 1, 1, 0]
    assert fleet.well_since(SYSTEM, ago(15), ["probe"]) == 3
    assert fleet.well_since(SYSTEM, ago(60)) == 3
    assert fleet.well_since((Scope.HOST, "elsewhere"), ago(60)) == 0
    assert fleet.failing_keys(Scope.HOST) == [(Scope.HOST, "erp.example")]
    assert fleet.failing_keys(Scope.CONNECTION) == [(Scope.CONNECTION, "d")]
    assert fleet.succeeded_since(SYSTEM, ago(31)) and not fleet.succeeded_since(SYSTEM, ago(5))


def test_a_host_without_a_name_is_none() -> None:
    assert CallingConnections([replace(FAILS, host="")], now=NOW).failing_keys(Scope.HOST) == []
