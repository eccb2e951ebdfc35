"""Exponential backoff with full jitter. Pure: the caller brings the random number."""

from __future__ import annotations


def full_jitter(attempt: int, *, rand: float, base_seconds: float = 1.0, cap_seconds: float = 300.0) -> float:
    """Seconds to wait before attempt `attempt` + 1: uniform in (0, min(cap, base * 2^(attempt - 1))].

    `attempt` counts from 1; `rand` is uniform in [0, 1).
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 32))
    return ceiling * (1.0 - rand)


def with_floor(wait_seconds: float, *, floor_seconds: float | None, rand: float) -> float:
    """A Retry-After is a floor: at least that long, plus up to 10 % (at least 1 s) of jitter so that callers
    do not return together.
    """
    if floor_seconds is None or wait_seconds >= floor_seconds:
        return wait_seconds
    return floor_seconds + rand * max(1.0, 0.1 * floor_seconds)
