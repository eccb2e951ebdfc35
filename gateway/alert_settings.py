"""Alert rules as they are written: a device or a pattern, one condition on it, and what an alert becomes at
the system. What a rule says by itself is checked here; whether the system raises such a thing, by
`gateway.configuration.alerts`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, model_validator

from gateway.model.alert_rule import MAX_HOLD_OFF, MAX_LASTS, MAX_WITHIN
from gateway.settings_base import Duration, Identifier, PositiveDuration, Seconds, Section

Number = Annotated[float, Field(allow_inf_nan=False)]

_CONDITIONS = ("above", "below", "outside", "equals", "rises_by", "falls_by", "silent_for")
"""An alert has exactly one of these fields."""

_GOES_WITH = {
    "clear_below": ("above",),
    "clear_above": ("below",),
    "clear_inside": ("outside",),
    "within": ("rises_by", "falls_by"),
}
"""What may be said only beside one of these conditions."""


class AlertSettings(Section):
    """One alert rule: a device or a pattern, one condition, and what it becomes at the system."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    id: Identifier
    device: str = Field(min_length=1, max_length=200)
    metric: str | None = Field(None, min_length=1, max_length=200)
    above: Number | None = None
    clear_below: Number | None = Field(
        None, description="Of `above`: over once it is less. Default: no longer above."
    )
    below: Number | None = None
    clear_above: Number | None = Field(None, description="Of `below`: over once it is greater.")
    outside: tuple[Number, Number] | None = None
    clear_inside: tuple[Number, Number] | None = Field(
        None, description="Of `outside`: over once it is in there."
    )
    equals: StrictBool | int | float | str | None = None
    rises_by: Annotated[Number, Field(gt=0)] | None = None
    falls_by: Annotated[Number, Field(gt=0)] | None = None
    within: PositiveDuration | None = Field(None, description="Of `rises_by` and `falls_by`: at most 1d.")
    silent_for: Seconds | None = Field(None, description="Nothing was received for so long.")
    lasts: Duration = Field(
        timedelta(0), alias="for", description="How long it must hold, by device time; at most 7d."
    )
    hold_off: Duration = Field(
        timedelta(0), description="After it was over, nothing is raised for so long; at most 30d."
    )
    kind: str = Field(alias="raise", min_length=1, description="One of the kinds that the system raises.")
    severity: Literal["low", "medium", "high"] = "medium"
    title: str = Field("", max_length=200, description="Template of {device}, {metric}, {value} and {since}.")
    text: str = Field("", max_length=2000, description="As title.")

    @model_validator(mode="after")
    def _one_condition(self) -> AlertSettings:
        given = [name for name in _CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an alert has one condition: {', '.join(_CONDITIONS)} (here: {', '.join(given) or 'none'})"
            )
        condition = given[0]
        if self.metric is None and condition != "silent_for":
            raise ValueError(f"`{condition}` needs the metric that it looks at")
        for name, wanted in _GOES_WITH.items():
            if getattr(self, name) is not None and condition not in wanted:
                raise ValueError(f"`{name}` goes with {' or '.join(wanted)}, not with {condition}")
        if condition in ("rises_by", "falls_by") and self.within is None:
            raise ValueError(f"`{condition}` needs `within`")
        if condition == "silent_for" and self.lasts:
            raise ValueError("`silent_for` says itself how long; `for` goes with the other conditions")
        self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        for name, value, most in (
            ("for", self.lasts, MAX_LASTS),
            ("hold_off", self.hold_off, MAX_HOLD_OFF),
            ("within", self.within or timedelta(0), MAX_WITHIN),
        ):
            if value > most:
                raise ValueError(f"{name}: at most {most.days}d")
        if self.above is not None and self.clear_below is not None and self.clear_below > self.above:
            raise ValueError("clear_below: at most the limit of `above`, or it would be over while it holds")
        if self.below is not None and self.clear_above is not None and self.clear_above < self.below:
            raise ValueError("clear_above: at least the limit of `below`, or it would be over while it holds")
        for name, pair in (("outside", self.outside), ("clear_inside", self.clear_inside)):
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name}: the lower end first")
        if (
            self.outside
            and self.clear_inside
            and not (self.outside[0] <= self.clear_inside[0] and self.clear_inside[1] <= self.outside[1])
        ):
            raise ValueError("clear_inside: within the ends of `outside`, or it would be over while it holds")
