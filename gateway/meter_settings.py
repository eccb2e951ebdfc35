"""Meter rules as they are written: which metric of which device feeds which meter, and how."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import time, timedelta
from fractions import Fraction
from typing import Annotated

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway import units, zones
from gateway.model.arithmetic import Arithmetic, Conversion, misfit
from gateway.model.calendar import MAX_SHIFTS, PERIODS, Calendar, Period, shifts_fault, written
from gateway.model.meter import HELD, MAX_HELD_WINDOWS, MAX_HOLD, RUN_TIME_UNITS, Reduce
from gateway.settings_base import Seconds, Section, parse_duration

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _limits(value: object) -> object:
    """`-40..85`, as a table has it, to its two numbers."""
    return value.split("..") if isinstance(value, str) and value.count("..") == 1 else value


Limits = Annotated[tuple[Finite, Finite], BeforeValidator(_limits)]


def _every(value: object) -> object:
    """A duration, or what of the calendar."""
    if isinstance(value, str) and value.strip() in PERIODS:
        return value.strip()
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; windows of the calendar are {', '.join(PERIODS)}") from error


Every = Annotated[
    timedelta | Period,
    PlainValidator(_every),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"},
                {"type": "string", "enum": [*PERIODS]},
            ],
            "examples": ["15m", "1h", "day"],
        }
    ),
]


_TIME_OF_DAY = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"


def _shifts(value: object) -> object:
    """Times of day, also in one text, as a table has them."""
    given = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(
        isinstance(at, str) and re.fullmatch(_TIME_OF_DAY, at) for at in given
    ):
        # YAML reads 14:00 without quotes as 840
        raise ValueError('expected times of day in quotes: ["06:00", "14:00", "22:00"]')
    found = tuple(map(time.fromisoformat, given))
    if fault := shifts_fault(found):
        raise ValueError(fault)
    return found


Shifts = Annotated[
    tuple[time, ...],
    PlainValidator(_shifts),
    PlainSerializer(lambda shifts: [written(at) for at in shifts]),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "pattern": f"^({_TIME_OF_DAY})$"},
            "minItems": 1,
            "maxItems": MAX_SHIFTS,
            "examples": [["06:00", "14:00", "22:00"]],
        }
    ),
]


class MeterSettings(Section):
    """One meter rule, or `table`: a CSV file with the columns device, metric, meter (and optionally any of
    the other keys; `valid` as `low..high`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    table: str | None = None
    device: str | None = None
    metric: str | None = None
    meter: str | None = None
    unit: str | None = None
    from_: str | None = Field(None, alias="from", description="The unit in which the device sends.")
    to: str | None = Field(None, description="The unit of the readings; `unit` where nothing is said there.")
    reduce: Reduce = "last"
    every: Every = timedelta(minutes=15)
    zone: str | None = Field(None, description="Of `every: day`, `week`, `month` or `shift`.")
    shifts: Shifts | None = Field(None, description="Of `every: shift`: when they begin, by local clocks.")
    deadband: float = Field(0.0, ge=0)
    create: bool = Field(False, description="The system makes the meter where it is missing.")
    max_silence: Seconds | None = None
    scale: Finite = 1.0
    offset: Finite = 0.0
    valid: Limits | None = None
    rollover: Annotated[float, Field(gt=0, le=2**53)] | None = None
    reset_below: Finite | None = None
    threshold: Finite = 0.0
    hold: Seconds | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> MeterSettings:
        if self.table is not None:
            if self.model_fields_set != {"table"}:
                raise ValueError("`table` stands alone: the CSV file has the other columns")
        elif not (self.device and self.metric and self.meter):
            raise ValueError("a meter needs device, metric and meter (or a table)")
        self._check_window()
        self._check_units()
        if problem := misfit(self.arithmetic, self.reduce):
            raise ValueError(problem)
        if self.max_silence is not None and not self.deadband:
            raise ValueError("`max_silence` is for a meter with a deadband: without one every change is sent")
        if (
            self.reduce in HELD
            and self.hold is not None
            and self.hold > min(MAX_HOLD, MAX_HELD_WINDOWS * self._shortest)
        ):
            raise ValueError(f"`hold` is a day and {MAX_HELD_WINDOWS} windows at most")
        return self

    def _check_window(self) -> None:
        if isinstance(self.every, timedelta):
            if self.zone is not None or self.shifts is not None:
                raise ValueError(
                    "`zone` and `shifts` are for windows of the calendar, `every: day`, `week`, `month` or"
                    " `shift`; windows of a duration are counted from 1970 in UTC"
                )
            if self.reduce != "each" and self.every < timedelta(seconds=1):
                raise ValueError("a window is at least 1s (reduce: each delivers every sample)")
        elif self.reduce == "each":
            raise ValueError(f"`every: {self.every}` does nothing for reduce: each, which sends every sample")
        elif self.zone is None:
            raise ValueError(
                f"`every: {self.every}` needs the `zone` whose {self.every} it is, such as Europe/Berlin"
            )
        elif (self.every == "shift") != (self.shifts is not None):
            raise ValueError('`every: shift` has `shifts`, such as ["06:00", "14:00", "22:00"]; no other has')

    @property
    def window(self) -> timedelta | Calendar:
        """What the samples of are reduced together."""
        if isinstance(self.every, timedelta):
            return self.every
        assert self.zone is not None
        return Calendar(period=self.every, zone=self.zone, shifts=self.shifts or ())

    @property
    def _shortest(self) -> timedelta:
        return self.every if isinstance(self.every, timedelta) else MAX_HOLD

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, name: str | None) -> str | None:
        if name is not None and zones.zone(name) is None:
            raise ValueError(f"{name!r} is no time zone of the IANA database, such as Europe/Berlin")
        return name

    def _check_units(self) -> None:
        """Raises ValueError where units are half said, or do not go together."""
        if self.reduce == "run_time":
            if self.from_ is not None:
                raise ValueError(
                    "`from` does nothing for reduce: run_time, which is in seconds; `to` is enough"
                )
            if self.to is None and self.unit is not None and not units.is_time(self.unit):
                raise ValueError(
                    f"{self.unit!r} is no unit of time that is known, and run_time is one: `unit: HUR` makes"
                    " hours, and `to: HUR` does where the system has another word for them in `unit`"
                )
        elif (self.from_ is None) != (self.to is None):
            given, missing = ("from", "to") if self.to is None else ("to", "from")
            raise ValueError(f"`{given}` needs `{missing}`: numbers in one unit become numbers in the other")
        if self.to is not None and self.unit is not None and not units.same(self.unit, self.to):
            raise ValueError(
                f"the system would be told {self.unit} of numbers in {self.to}: `unit` is another word for"
                " `to`, or is left out"
            )

    @property
    def told_unit(self) -> str | None:
        """The unit that the system is told."""
        return self.to if self.unit is None else self.unit

    @property
    def _conversion(self) -> Conversion | None:
        """Of the reduced value. Run time in hours or minutes is reckoned with the samples."""
        if self.reduce == "run_time":
            if self.told_unit is None or self.told_unit in RUN_TIME_UNITS:
                return None
            made = units.conversion("SEC", self.to or self.told_unit)
            return None if made.factor == 1 else made
        if self.from_ is None or self.to is None:
            return None
        made = units.conversion(self.from_, self.to)
        # A rise by one degree is a rise by so many of the others, wherever their zero is.
        return replace(made, offset=Fraction(0)) if self.reduce == "delta" else made

    @property
    def arithmetic(self) -> Arithmetic:
        """What is done to the values beside the reduction. Raises UnitError."""
        return Arithmetic(
            scale=self.scale,
            offset=self.offset,
            rollover=self.rollover,
            reset_below=self.reset_below,
            threshold=self.threshold,
            valid=self.valid,
            hold=self.hold,
            conversion=self._conversion,
        )
