"""Exponential backoff with full jitter. Pure: the caller brings the random number."""

from __future__ import annotations

import math
from datetime import datetime

from gateway.model import bounds


def full_jitter(attempt: int, *, rand: float, base_seconds: float = 1.0, cap_seconds: float = 300.0) -> float:
    """Seconds to wait before attempt `attempt` + 1: uniform in (0, min(cap, base * 2^(attempt - 1))].

    `attempt` counts from 1; `rand` is uniform in [0, 1).
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 32))
    return ceiling * (1.0 - rand)


def with_floor(
    wait_seconds: float, *, floor_seconds: float | None, rand: float, cap_seconds: float = math.inf
) -> float:
    """A Retry-After is a floor: at least that long, plus up to 10 % (at least 1 s) of jitter so that callers
    do not return together. One above the cap is the cap, less up to 10 %.
    """
    if floor_seconds is None or wait_seconds >= floor_seconds:
        return min(wait_seconds, cap_seconds)
    if floor_seconds >= cap_seconds:
        return cap_seconds * (1.0 - 0.1 * rand)
    return min(cap_seconds, floor_seconds + rand * max(1.0, 0.1 * floor_seconds))


def put_off(
    count: int, *, asked_seconds: float | None, rand: float, growth_cap_seconds: float, cap_seconds: float
) -> float:
    """Seconds to wait after the system has put us off (429) `count` times in a row: what it asked for, and at
    least 1 s, 2 s, 4 s and so on.
    """
    grown = max(1.0, min(growth_cap_seconds, 2.0 ** min(count - 1, 32)))
    return with_floor(0.0, floor_seconds=max(grown, asked_seconds or 0.0), rand=rand, cap_seconds=cap_seconds)


def waiting(asked_seconds: float | None, *, until: datetime) -> str:
    """What is said of a wait that a system asked for."""
    asked = f"for {bounds.duration(asked_seconds)}" if asked_seconds else "to wait"
    return f"the system asked {asked}; trying again at {until:%Y-%m-%dT%H:%M:%SZ}"
