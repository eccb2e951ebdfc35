"""Backoff: bounds, growth, caps, and floors that a system sets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.model.backoff import full_jitter, put_off, waiting, with_floor


@pytest.mark.parametrize(
    ("attempt", "ceiling"), [(1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (10_000, 300.0)]
)
def test_the_wait_is_between_nothing_and_a_doubling_ceiling(attempt: int, ceiling: float) -> None:
    assert full_jitter(attempt, rand=0.0) == ceiling
    assert full_jitter(attempt, rand=0.5) == ceiling / 2
    assert 0 < full_jitter(attempt, rand=0.999999) < ceiling * 1e-5


def test_base_and_cap_are_the_callers() -> None:
    assert full_jitter(3, rand=0.0, base_seconds=5.0, cap_seconds=60.0) == 20.0
    assert full_jitter(8, rand=0.0, base_seconds=5.0, cap_seconds=60.0) == 60.0


@pytest.mark.parametrize(
    ("wait", "floor", "rand", "seconds"),
    [
        (3.0, None, 0.9, 3.0),
        (10.0, 5.0, 0.9, 10.0),
        (0.0, 5.0, 0.0, 5.0),
        (0.0, 5.0, 0.5, 5.5),
        (0.0, 100.0, 1.0, 110.0),
        (0.0, 0.0, 0.5, 0.0),
    ],
)
def test_a_retry_after_is_a_floor_with_jitter_above_it(
    wait: float, floor: float | None, rand: float, seconds: float
) -> None:
    assert with_floor(wait, floor_seconds=floor, rand=rand) == seconds


def test_a_retry_after_beyond_the_cap_is_the_cap() -> None:
    assert with_floor(0.0, floor_seconds=1e300, rand=0.0, cap_seconds=3600.0) == 3600.0
    assert with_floor(0.0, floor_seconds=1e300, rand=1.0, cap_seconds=3600.0) == 3240.0
    assert with_floor(0.0, floor_seconds=3500.0, rand=1.0, cap_seconds=3600.0) == 3600.0


@pytest.mark.parametrize(
    ("count", "asked", "seconds"), [(1, 0.0, 1.0), (4, 0.0, 8.0), (10_000, None, 300.0), (1, 50.0, 50.0)]
)
def test_who_is_put_off_again_and_again_waits_longer(count: int, asked: float | None, seconds: float) -> None:
    found = put_off(count, asked_seconds=asked, rand=0.0, growth_cap_seconds=300.0, cap_seconds=21600.0)
    assert found == seconds


def test_what_is_said_of_a_wait() -> None:
    at = datetime(2026, 11, 28, 18, 0, 7, tzinfo=UTC)
    assert waiting(172_800.0, until=at) == "the system asked for 2 d; trying again at 2026-11-28T18:00:07Z"
    assert waiting(0.0, until=at) == "the system asked to wait; trying again at 2026-11-28T18:00:07Z"
