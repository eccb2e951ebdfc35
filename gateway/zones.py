"""Time zones by their name: of the database of this machine, or of the `tzdata` package where it has none."""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def places() -> tuple[str, ...]:
    """Zones that are called by a place, and UTC, in the order of letters."""
    regions = {
        "Africa",
        "America",
        "Antarctica",
        "Arctic",
        "Asia",
        "Atlantic",
        "Australia",
        "Europe",
        "Indian",
        "Pacific",
    }
    return tuple(sorted(name for name in _names() if name.partition("/")[0] in regions or name == "UTC"))


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
