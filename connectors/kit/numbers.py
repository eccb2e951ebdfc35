"""What a system whose meters hold numbers is told of a value. Pure."""

from __future__ import annotations

import math
from typing import assert_never

from gateway.model.outcome import Rejected
from gateway.model.sample import Value


def to_number(value: Value) -> float | int | Rejected:
    """A finite number that JSON carries exactly; booleans as 1 and 0."""
    match value:
        case bool():
            return int(value)
        case str():
            return Rejected(
                code="unsupported_value",
                message="a meter of this system holds numbers only, and this reading is a text",
            )
        case int():
            return (
                value
                if abs(value) <= 2**53
                else Rejected(
                    code="out_of_range", message="the number is beyond 2^53: JSON would not carry it exactly"
                )
            )
        case float():
            return (
                value
                if math.isfinite(value)
                else Rejected(code="not_finite", message="the value is not a finite number")
            )
        case _:
            assert_never(value)
