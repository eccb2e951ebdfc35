"""Time zones by their name: of the database of this machine, or of the `tzdata` package where it has none."""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones())


def zone(name: str) -> ZoneInfo | None:
    """The zone; None where it is not known here. What stands in the database beside zones (`right/...`, whose
    clocks count leap seconds; `localtime`) is none.
    """
    if name not in _names():
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
