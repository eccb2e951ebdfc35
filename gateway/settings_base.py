"""The base of every part of the configuration tree."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]

NAMES_A_CUSTOMER = object()
"""Marks what says something of a customer, so that one who is not listed is found wherever that is."""

CustomerId = Annotated[Identifier, NAMES_A_CUSTOMER]


_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_MAX_MICROSECONDS = 40_000 * _UNITS["d"]  # more than anybody waits; a time plus or minus this is still a time


def parse_duration(value: object) -> object:
    """`30s`, `2m`, `1.5h`, `7d`, `200ms` to a timedelta; a bare number is refused, for
    nobody knows its unit.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value.strip())):
        microseconds = Decimal(match[1]) * _UNITS[match[2]]  # a double would be another one beyond some years
        if microseconds <= _MAX_MICROSECONDS:
            return timedelta(microseconds=int(microseconds.to_integral_value()))
    raise ValueError("a duration is a number and a unit: 200ms, 30s, 5m, 2h or 7d")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$", "examples": ["30s", "15m", "7d"]}
    ),
]


def at_least(least: str) -> AfterValidator:
    """A duration that is shorter is refused: below it nothing would work as it is meant."""
    shortest = parse_duration(least)
    assert isinstance(shortest, timedelta)

    def check(value: timedelta) -> timedelta:
        if value < shortest:
            raise ValueError(f"must be at least {least}")
        return value

    return AfterValidator(check)


PositiveDuration = Annotated[Duration, at_least("1ms")]
Seconds = Annotated[Duration, at_least("1s")]


class Section(BaseModel):
    """Base of every part of the tree: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
