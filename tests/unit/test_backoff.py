"""Backoff: bounds, growth, caps, and floors that a system sets."""

from __future__ import annotations

import pytest

from gateway.model.backoff import full_jitter, with_floor


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
