"""What is done to a meter's values beside their reduction: limits, scale, offset, and how a counter begins
again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from gateway.model.sample import Value

MAX_EXACT = 2**53
"""From there on a double may stand for its neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """From one unit to another: `factor` times the number, plus `offset`, which is zero of a difference."""

    source: str
    target: str
    factor: Fraction
    offset: Fraction = Fraction(0)

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
    """`scale` and `offset` are applied to the reduced value, and `conversion` to what they make of it.
    `valid`: the lowest and highest number, as sent, that is used at all.

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

    def reading(self, value: float) -> float | None:
        """What a reduced number is told as: as a person reckons it, in fractions, rounded once. None where a
        double does not hold it: beyond its range, or an integer past 2^53 that would be changed.
        """
        factor, offset = _line(self.scale, self.offset, self.conversion)
        exact = factor * _fraction(value) + offset
        try:
            made = float(exact)
        except OverflowError:
            return None
        return None if abs(exact) > MAX_EXACT and exact.denominator == 1 and made != exact else made

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


class Reduced(NamedTuple):
    """What the samples of a window make. `value`: None where they make none. `unfit`: one of them that cannot
    take part in it; `is_beyond`: a double does not hold what they make. `noise`: by how much the value of an
    earlier version, which added doubles, may differ from it.
    """

    value: Value | None = None
    unfit: Value | None = None
    is_beyond: bool = False
    noise: float | None = None


def told(reduced: Reduced, arithmetic: Arithmetic, reduce: str) -> Reduced:
    """As the system is told it."""
    value, unfit, is_beyond, noise = reduced
    if value is None or not arithmetic.is_scaled:
        return reduced
    if isinstance(value, bool | str):
        return Reduced(None, value, is_beyond)
    reading = arithmetic.reading(value)
    # An increase that a double may have lost one of does not become exact by a smaller scale.
    is_lossy = reduce == "delta" and abs(value) >= MAX_EXACT
    if noise and reading is not None:
        factor, _ = _line(arithmetic.scale, arithmetic.offset, arithmetic.conversion)
        noise = abs(float(factor)) * noise + ROUNDING * abs(reading)
    return Reduced(reading, unfit, is_beyond or is_lossy or reading is None, noise)


ROUNDING = 2.0**-50
"""Of two numbers, more than what their difference as a double may be wrong by."""


def is_above_by(number: float, other: float, by: float) -> bool:
    """Whether `number` is `by` or more above `other`, as a person reckons: 0.3 is 0.1 above 0.2, though the
    difference of the doubles is less.
    """
    difference = number - other
    if abs(difference - by) > ROUNDING * (abs(number) + abs(other) + by):
        return difference >= by
    return _fraction(number) - _fraction(other) >= _fraction(by)


@lru_cache(maxsize=1_000)
def _line(scale: float, offset: float, conversion: Conversion | None) -> tuple[Fraction, Fraction]:
    """The factor and the offset of all that is done to a reduced number."""
    factor, shift = _fraction(scale), _fraction(offset)
    if conversion is None:
        return factor, shift
    return conversion.factor * factor, conversion.factor * shift + conversion.offset


def _fraction(number: float) -> Fraction:
    """The number that a person wrote: 0.1 is a tenth."""
    return Fraction(Decimal(repr(number)))
