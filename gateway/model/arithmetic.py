"""What is done to a meter's values beside their reduction: limits, scale, offset, and how a counter begins
again. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from gateway.model.sample import Value

MAX_EXACT = 2**53
"""From there on a double may stand for its neighbour."""

_EXACT = Context(prec=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """From one unit to another: `factor` times the number, plus `offset`, which is zero of a difference."""

    source: str
    target: str
    factor: Fraction
    offset: Fraction = Fraction(0)

    def of(self, value: float) -> float | None:
        """The number in the other unit, rounded once. None where a double does not hold it, as `scaled`."""
        exact = self.factor * Fraction(_decimal(value)) + self.offset
        try:
            made = float(exact)
        except OverflowError:
            return None
        return None if abs(exact) > MAX_EXACT and exact.denominator == 1 and made != exact else made

    def to_document(self) -> dict[str, object]:
        """JSON; the numbers as texts of fractions, for no double holds 5/9."""
        return {
            "from": self.source,
            "to": self.target,
            "factor": str(self.factor),
            "offset": str(self.offset),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Conversion:
        """What `to_document` made."""
        return cls(
            source=document["from"],
            target=document["to"],
            factor=Fraction(document["factor"]),
            offset=Fraction(document["offset"]),
        )

    def __str__(self) -> str:
        how = f"times {self.factor}" + (f", plus {self.offset}" if self.offset else "")
        return f"{self.source} to {self.target} ({how})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """`scale` and `offset`, or the `conversion`, are applied to the reduced value. `valid`: the lowest and
    highest number, as sent, that is used at all.

    A counter that falls by more than half of `rollover` went on at zero behind it; one that falls below
    `reset_below` (None: half of what it was) began again at zero; any other fall is noise. A number above
    `threshold` counts as true. `hold`: for how long a value counts while none follows.
    """

    scale: float = 1.0
    offset: float = 0.0
    rollover: float | None = None
    reset_below: float | None = None
    threshold: float = 0.0
    valid: tuple[float, float] | None = None
    hold: timedelta | None = None
    conversion: Conversion | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether a reading differs from the reduced value."""
        return self.scale != 1.0 or self.offset != 0.0 or self.conversion is not None

    def uses(self, value: Value) -> bool:
        """Whether the value lies within the limits. They are of numbers: a text or a boolean passes."""
        if self.valid is None or isinstance(value, bool | str):
            return True
        return self.valid[0] <= value <= self.valid[1]

    def to_document(self) -> dict[str, object]:
        """JSON of what is not as it is by default."""
        document: dict[str, object] = {}
        for name in ("scale", "offset", "rollover", "reset_below", "threshold"):
            if (value := getattr(self, name)) != getattr(PLAIN, name):
                document[name] = value
        if self.valid is not None:
            document["valid"] = list(self.valid)
        if self.hold is not None:
            document["hold"] = self.hold.total_seconds()
        if self.conversion is not None:
            document["conversion"] = self.conversion.to_document()
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Arithmetic:
        """What `to_document` made."""
        valid, hold, conversion = (document.get(name) for name in ("valid", "hold", "conversion"))
        return cls(
            **{
                **document,
                "valid": None if valid is None else (valid[0], valid[1]),
                "hold": None if hold is None else timedelta(seconds=hold),
                "conversion": None if conversion is None else Conversion.from_document(conversion),
            }
        )

    def __str__(self) -> str:
        """For a person; empty where nothing is done."""
        parts = []
        if self.valid is not None:
            parts.append(f"numbers outside {self.valid[0]:g} to {self.valid[1]:g} are not used")
        if self.rollover is not None:
            parts.append(f"goes on at zero behind {self.rollover:g}")
        if self.reset_below is not None:
            parts.append(f"began again where it falls below {self.reset_below:g}")
        if self.threshold:
            parts.append(f"true above {self.threshold:g}")
        if self.scale != 1.0:
            parts.append(f"times {self.scale:g}")
        if self.offset:
            parts.append(f"plus {self.offset:g}")
        if self.conversion is not None:
            parts.append(str(self.conversion))
        return ", ".join(parts)


PLAIN = Arithmetic()

_LEVELS = frozenset({"last", "first", "each", "mean", "time_weighted_mean", "min", "max"})
_TAKES: dict[str, frozenset[str]] = {
    "scale": _LEVELS | {"sum", "delta", "cycles"},
    "offset": _LEVELS,
    "rollover": frozenset({"delta"}),
    "reset_below": frozenset({"delta"}),
    "threshold": frozenset({"run_time", "cycles"}),
    "hold": frozenset({"run_time", "time_weighted_mean"}),
    "conversion": _LEVELS | {"sum", "delta", "run_time"},
}
"""Which reductions each part means something for. `valid` is for all."""


def misfit(arithmetic: Arithmetic, reduce: str) -> str | None:
    """Why the arithmetic makes no sense for the reduction, and what to do; None where it does."""
    set_here = [name for name in _TAKES if getattr(arithmetic, name) != getattr(PLAIN, name)]
    for name in set_here:
        if reduce not in _TAKES[name]:
            does = "`from` and `to` do" if name == "conversion" else f"`{name}` does"
            return f"{does} nothing for reduce: {reduce}; it is for {', '.join(sorted(_TAKES[name]))}"
    conversion = arithmetic.conversion
    if conversion is not None and (arithmetic.scale != 1.0 or arithmetic.offset != 0.0):
        return "`from` and `to` say what is done to a number: leave `scale` and `offset` out"
    if conversion is not None and conversion.offset and reduce == "sum":
        return (
            f"a sum of {conversion.source} cannot be told in {conversion.target}, whose zero is another: use"
            " mean, min or max"
        )
    if arithmetic.scale == 0:
        return "`scale: 0` makes every reading the same"
    if arithmetic.scale < 0 and reduce in ("min", "max"):
        return (
            f"a negative `scale` is applied after {reduce}: reduce by {'max' if reduce == 'min' else 'min'}"
            " instead"
        )
    if arithmetic.valid is not None and arithmetic.valid[0] > arithmetic.valid[1]:
        return "`valid` is [lowest, highest]"
    return None


def scaled(value: float, scale: float, offset: float) -> float | None:
    """`value * scale + offset` as a person reckons it: in decimals, rounded once. None where a double does
    not hold it: beyond its range, or an integer past 2^53 that would be changed.
    """
    product = _EXACT.fma(_decimal(value), _decimal(scale), _decimal(offset))
    made = float(product)
    if not math.isfinite(made):
        return None
    if abs(product) > MAX_EXACT and product == product.to_integral_value() and Decimal(made) != product:
        return None
    return made


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))
