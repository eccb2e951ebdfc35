"""The rows of the pages that say which metric feeds which meter: what a form shows of a rule, what one that
was sent makes of it, and suggestions. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache

from pydantic import ValidationError

from gateway import units, zones
from gateway.http.dashboard.credential_form import sentence
from gateway.meter_settings import MeterSettings
from gateway.model.calendar import PERIODS
from gateway.model.errors import RequestRefused
from gateway.model.exchange import RemoteMeter
from gateway.model.meter import REDUCTIONS
from gateway.model.sample import Value
from gateway.model.suggest import suggested
from gateway.store.devices import DeviceMetric

MAX_ROWS = 60
MAX_FREE = 40
"""Rules of patterns that are shown as rows."""

BLANK = 2
"""Rows for rules that are not there yet."""

MAX_FIELDS = 1_500
MAX_TEXT = 200
WINDOWS = ("1m", "5m", "15m", "1h", *PERIODS)

Given = Mapping[str, object]
"""A rule as a `PATCH` takes it."""


@cache
def choices() -> Mapping[str, Sequence[str]]:
    """What a form offers to choose from. Made at the first call: zones are in hundreds of files."""
    return {
        "reductions": REDUCTIONS,
        "units": tuple(units.RECOMMENDATION_20),
        "zones": zones.places(),
    }


@dataclass(frozen=True, slots=True)
class Filled:
    """What a row shows of a rule, as texts: what of a rule is empty there is not said."""

    meter: str = ""
    unit: str = ""
    reduce: str = "last"
    every: str = "15m"
    source: str = ""
    to: str = ""
    zone: str = ""
    shifts: str = ""

    @classmethod
    def of(cls, rule: Given) -> Filled:
        """As the rule has it. A unit to convert to that is the system's need not be said twice."""
        found = {name: _text(rule.get(NAMES.get(name, name)) or "") for name in SHOWN}
        found["to"] = "" if found["to"] == found["unit"] else found["to"]
        return cls(**{name: text for name, text in found.items() if text})

    @property
    def given(self) -> dict[str, object]:
        """Of the rule; what is None is not said. Where no unit to convert to is named it is the system's."""
        said = {name: getattr(self, name) or None for name in SHOWN}
        if self.source and not self.to:
            said["to"] = self.unit or None
        return {NAMES.get(name, name): value for name, value in said.items()}

    @property
    def has_more(self) -> bool:
        """Whether it says anything of units or of the calendar."""
        return bool(self.source or self.to or self.zone or self.shifts) or self.every in PERIODS

    def __str__(self) -> str:
        """For a person."""
        unit = f" in {self.unit or self.to}" if self.unit or self.to else ""
        source = f" from {self.source}" if self.source else ""
        zone = f" in {self.zone}" if self.zone else ""
        shifts = f" from {self.shifts}" if self.shifts else ""
        return f"{self.meter}{unit}{source}, {self.reduce} of {self.every}{zone}{shifts}"


SHOWN = tuple(field.name for field in fields(Filled))
NAMES = {"source": "from"}
"""Of a rule, where a row has another word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """A metric of a device, and the meter that it feeds; none where that is empty. `is_free`: device and
    metric are written by a person, and may be patterns.
    """

    device: str = ""
    title: str | None = None
    metric: str = ""
    value: Value | None = None
    at: datetime | None = None
    filled: Filled = Filled()
    is_free: bool = False
    is_suggested: bool = False
    fault: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether nobody wrote anything into it."""
        return not (self.device or self.metric or self.filled.meter)

    @property
    def windows(self) -> Sequence[str]:
        """What may be chosen: its own too."""
        return WINDOWS if self.filled.every in WINDOWS else (*WINDOWS, self.filled.every)


def is_free(rule: Given) -> bool:
    """Whether the rule is of no single metric of one device, so that its row is one that a person writes."""
    device, metric = str(rule.get("device") or ""), str(rule.get("metric") or "")
    return not (device and metric) or any(one in device for one in "*?[") or "*" in metric or "?" in metric


def free_row(rule: Given) -> MeterRow:
    """The row of a rule of patterns."""
    device, metric = str(rule.get("device") or ""), str(rule.get("metric") or "")
    return MeterRow(device=device, metric=metric, filled=Filled.of(rule), is_free=True)


def meter_rows(
    metrics: Sequence[tuple[str, str | None, DeviceMetric]],
    mapped: Sequence[Given],
    meters: Sequence[RemoteMeter],
    *,
    suggest: bool,
    text: str = "",
) -> list[MeterRow]:
    """A row for each metric: as it is mapped, or with a suggestion where nothing was chosen yet. A meter is
    suggested once. Then what else is mapped and has `text` in it, the rules of patterns, and blank ones.
    """
    chosen = {(str(rule["device"]), str(rule["metric"])): rule for rule in mapped if not is_free(rule)}
    free = [meter for meter in meters if meter.meter not in {each["meter"] for each in mapped}]
    rows: list[MeterRow] = []
    for device, title, metric in metrics:
        row = MeterRow(device=device, title=title, metric=metric.name, value=metric.value, at=metric.at)
        held = chosen.pop((device, metric.name), None)
        if held is not None:
            row = replace(row, filled=Filled.of(held))
        elif suggest and (found := suggested(device, title, metric.name, free)) is not None:
            free.remove(found)
            filled = Filled(meter=found.meter, unit=found.unit or "")
            row = replace(row, filled=filled, is_suggested=True)
        rows.append(row)
    for (device, name), rule in chosen.items():
        if text.lower() in f"{device} {name} {rule['meter']}".lower():
            rows.append(MeterRow(device=device, metric=name, filled=Filled.of(rule)))
    free_rows = [free_row(rule) for rule in mapped if is_free(rule)]
    return rows[:MAX_ROWS] + free_rows + [MeterRow(is_free=True)] * BLANK


def given_rows(given: Mapping[str, str]) -> list[MeterRow]:
    """The rows that a form sent."""
    return [row for _, row in numbered_rows(given)]


def numbered_rows(given: Mapping[str, str]) -> Iterable[tuple[int, MeterRow]]:
    """The rows that a form sent, without blank ones, each with its number in the form."""
    for number in range(MAX_ROWS + MAX_FREE + BLANK):
        if f"m{number}.device" not in given:
            continue
        part = {
            name: given[f"m{number}.{name}"].strip()[:MAX_TEXT]
            for name in ("device", "metric", *SHOWN)
            if f"m{number}.{name}" in given
        }
        row = MeterRow(
            device=part.pop("device"),
            metric=part.pop("metric", ""),
            filled=Filled(**part),
            is_free=f"m{number}.free" in given,
        )
        if not row.is_blank or given.get(f"m{number}.old"):
            yield number, row


def merged(mapped: Sequence[Given], rows: Sequence[MeterRow]) -> list[dict[str, object]]:
    """What is mapped with these rows in place of what was said of the same metrics, and of all patterns.
    Others, found by another search, stay.
    """
    shown = {(row.device, row.metric) for row in rows}
    kept = [
        dict(rule) for rule in mapped if not is_free(rule) and (rule["device"], rule["metric"]) not in shown
    ]
    return kept + [
        {"device": row.device, "metric": row.metric, **row.filled.given}
        for row in rows
        if row.filled.meter or row.is_free
    ]


def checked(wanted: Sequence[Given]) -> tuple[list[MeterSettings], dict[tuple[str, str], str]]:
    """The rules as they are configured; and what is wrong, by device and metric."""
    made: list[MeterSettings] = []
    faults: dict[tuple[str, str], str] = {}
    for rule in wanted:
        try:
            made.append(MeterSettings.model_validate(rule))
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            faults.setdefault((str(rule["device"]), str(rule["metric"])), sentence(said))
    return made, faults


def meter_faults(error: RequestRefused, mapped: Sequence[Given]) -> dict[tuple[str, str], str]:
    """What is wrong, by the device and metric of the row."""
    found: dict[tuple[str, str], str] = {}
    for fault in getattr(error.__cause__, "faults", ()):
        if fault.path[:1] == ("meters",) and len(fault.path) > 1 and fault.path[1] < len(mapped):
            meter = mapped[fault.path[1]]
            said = sentence(fault.message.replace(" (request)", ""))
            found.setdefault((str(meter["device"]), str(meter["metric"])), said)
    return found


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
