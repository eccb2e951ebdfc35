"""What a system whose meters hold numbers is told of a value: exactly that number, or nothing. Pure."""

from __future__ import annotations

import math
from typing import assert_never

from gateway.model.outcome import Rejected
from gateway.model.sample import Value

MAX_JSON_INTEGER = 2**53
"""Beyond it readers of JSON differ: many take the nearest double."""


def to_number(value: Value) -> float | int | Rejected:
    """A finite number that JSON carries exactly to any reader; booleans as 1 and 0."""
    number = _finite(value)
    if isinstance(number, int) and abs(number) > MAX_JSON_INTEGER:
        return _inexact("the number is beyond 2^53, and JSON would not carry it exactly")
    return number


def to_double(value: Value) -> float | Rejected:
    """A finite number as a column of double precision holds it exactly; booleans as 1 and 0."""
    number = _finite(value)
    if isinstance(number, Rejected):
        return number
    try:
        double = float(number)
    except OverflowError:
        return _inexact("the number does not fit into double precision")
    return double if double == number else _inexact("double precision would hold another number than this")


def _finite(value: Value) -> float | int | Rejected:
    match value:
        case bool():
            return int(value)
        case str():
            return Rejected(
                code="unsupported_value",
                message="a meter of this system holds numbers only, and this reading is a text",
            )
        case int():
            return value
        case float():
            return (
                value
                if math.isfinite(value)
                else Rejected(code="not_finite", message="the value is not a finite number")
            )
        case _:
            assert_never(value)


def _inexact(message: str) -> Rejected:
    return Rejected(code="not_exact", message=message)
