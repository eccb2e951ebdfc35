"""Meter rules of a connection as rows of a form, and what a form that was sent makes of them. What a row does
not show stays as it is, and so does what was not touched. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from pydantic import ValidationError

from gateway.http.dashboard.credential_form import sentence
from gateway.http.dashboard.meter_form import MAX_ROWS, WINDOWS, MeterRow
from gateway.meter_settings import MeterSettings
from gateway.model.exchange import RemoteMeter
from gateway.model.meter import REDUCTIONS
from gateway.model.suggest import suggested
from gateway.store.devices import DeviceMetric

Given = Mapping[str, object]
"""A rule as a `PATCH` takes it."""

SHOWN = ("meter", "unit", "reduce", "every")
_NAMES = {"device", "metric", *SHOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRow:
    """A row of the form. `old`: what it showed when it was read, as the form keeps it; empty of a metric that
    no rule of its own has. `more`: what else its rule says. `fed`: meters that other rules feed with it.
    """

    row: MeterRow
    old: str = ""
    more: str = ""
    fed: tuple[str, ...] = ()
    suggestion: RemoteMeter | None = None

    @property
    def values(self) -> str:
        """What it shows now, as the form keeps it."""
        return kept(self.row)

    @property
    def is_touched(self) -> bool:
        """Whether somebody changed it since it was read."""
        return self.values != self.old if self.old else bool(self.row.meter)

    @property
    def windows(self) -> tuple[str, ...]:
        """What may be chosen: its own too."""
        return tuple(WINDOWS) if self.row.every in WINDOWS else (*WINDOWS, self.row.every)

    @property
    def was(self) -> tuple[str, str, str] | None:
        """Device, metric and meter of the rule that it shows; None of a new one."""
        return (self.row.device, self.row.metric, read(self.old)[0]) if self.old else None


def kept(row: MeterRow) -> str:
    """What a row shows of its rule, as a text of a hidden field."""
    return orjson.dumps([row.meter, row.unit, row.reduce, row.every]).decode()


def read(old: str) -> tuple[str, str, str, str]:
    """What `kept` made; nothing for what anybody else wrote."""
    try:
        meter, unit, reduce, every = orjson.loads(old)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return "", "", "", ""
    return str(meter), str(unit), str(reduce), str(every)


def is_row(rule: Given) -> bool:
    """Whether it is of one device, and so a row; the others are shown beside the form."""
    return not any(character in str(rule["device"]) for character in "*?[")


def edit_rows(
    metrics: Sequence[tuple[str, str | None, DeviceMetric]],
    rules: Sequence[Given],
    *,
    text: str,
    fed: Mapping[tuple[str, str], Sequence[str]],
    meters: Sequence[RemoteMeter] = (),
) -> list[EditRow]:
    """A row for each rule of one device, and for each metric that no such rule has. Rules of metrics that are
    not among these come last, where `text` is in them. `meters`: the system's, of which some are suggested.
    """
    own: dict[tuple[str, str], list[Given]] = {}
    for rule in filter(is_row, rules):
        own.setdefault((str(rule["device"]), str(rule["metric"])), []).append(rule)
    used = {str(rule["meter"]) for rule in rules} | {meter for each in fed.values() for meter in each}
    free = [meter for meter in meters if meter.meter not in used]
    found: list[EditRow] = []
    for device, title, metric in metrics:
        bare = MeterRow(device=device, title=title, metric=metric.name, value=metric.value, at=metric.at)
        held = own.pop((device, metric.name), [])
        others = tuple(fed.get((device, metric.name), ()))
        found += [_of_rule(bare, rule, others) for rule in held]
        if not held:
            suggestion = None if others else suggested(device, title, metric.name, free)
            if suggestion is not None:
                free.remove(suggestion)
            found.append(EditRow(row=bare, fed=others, suggestion=suggestion))
    for (device, name), left in own.items():
        bare = MeterRow(device=device, title=None, metric=name, value=None, at=None)
        found += [
            _of_rule(bare, rule, ())
            for rule in left
            if text.lower() in f"{device} {name} {rule['meter']}".lower()
        ]
    return found


def sent_rows(given: Mapping[str, str]) -> list[EditRow]:
    """The rows that a form sent."""
    found = []
    for number in range(MAX_ROWS):
        part = {
            name: given.get(f"m{number}.{name}", "").strip() for name in ("device", "metric", "old", *SHOWN)
        }
        if not (part["device"] and part["metric"]):
            continue
        row = MeterRow(
            device=part["device"],
            title=None,
            metric=part["metric"],
            value=None,
            at=None,
            meter=part["meter"],
            unit=part["unit"],
            reduce=part["reduce"],
            every=part["every"],
        )
        found.append(EditRow(row=row, old=part["old"]))
    return found


def changed(rules: Sequence[Given], rows: Sequence[EditRow]) -> list[dict[str, object]]:
    """The rules with what was touched in place of what it was: what a row does not show of a rule stays, and
    so does the order. A rule whose meter was emptied is gone.
    """
    touched = {row.was: row.row for row in rows if row.is_touched and row.was is not None}
    found: list[dict[str, object]] = []
    for rule in rules:
        key = (str(rule["device"]), str(rule["metric"]), str(rule["meter"]))
        row = touched.get(key) if is_row(rule) else None
        if row is None:
            found.append(dict(rule))
        elif row.meter:
            found.append({**rule, **_shown(row)})
    new = [row.row for row in rows if row.was is None and row.row.meter]
    return found + [{"device": row.device, "metric": row.metric, **_shown(row)} for row in new]


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


def overlaid(current: Sequence[EditRow], sent: Sequence[EditRow]) -> list[EditRow]:
    """The rows as they are now with what somebody typed into the old ones, and beside it what is in force
    where another changed the same one.
    """
    typed = {row.was: row for row in sent if row.is_touched and row.was is not None}
    new = {(row.row.device, row.row.metric): row for row in sent if row.is_touched and row.was is None}
    found: list[EditRow] = []
    for row in current:
        mine = (
            typed.pop(row.was, None)
            if row.was is not None
            else new.pop((row.row.device, row.row.metric), None)
        )
        if mine is None:
            found.append(row)
            continue
        fault = f"In force now: {summary(read(row.old))}." if row.old and row.old != mine.old else ""
        found.append(replace(row, row=_typed(row.row, mine.row, fault)))
    for mine in (*typed.values(), *new.values()):  # its rule is gone, or another has the metric now
        fault = (
            "Somebody else took this rule away."
            if mine.was is not None
            else "Somebody else maps this metric too."
        )
        found.append(EditRow(row=replace(mine.row, fault=fault)))
    return found


def summary(values: Sequence[str]) -> str:
    """Meter, unit, reduction and window, for a person."""
    meter, unit, reduce, every = values
    return f"{meter}{f' in {unit}' if unit else ''}, {reduce} of {every}"


def differences(before: Sequence[Given], after: Sequence[Given]) -> dict[str, list[str]]:
    """What a change adds, changes and takes away, by meter."""
    old, new = ({str(rule["meter"]): dict(rule) for rule in rules} for rules in (before, after))
    return {
        "new": sorted(new.keys() - old.keys()),
        "changed": sorted(
            meter for meter in new.keys() & old.keys() if _plain(new[meter]) != _plain(old[meter])
        ),
        "gone": sorted(old.keys() - new.keys()),
    }


def _plain(rule: Given) -> dict[str, object]:
    return {name: value for name, value in rule.items() if value not in (None, "")}


def _of_rule(bare: MeterRow, rule: Given, fed: Sequence[str]) -> EditRow:
    row = replace(
        bare,
        meter=str(rule["meter"]),
        unit=str(rule.get("unit") or ""),
        reduce=str(rule.get("reduce", "last")),
        every=str(rule.get("every", "15m")),
    )
    more = ", ".join(
        f"{name.replace('_', ' ')} {_told(value)}"
        for name, value in rule.items()
        if name not in _NAMES and value
    )
    others = tuple(meter for meter in fed if meter != row.meter)
    return EditRow(row=row, old=kept(row), more=more, fed=others)


def _told(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else "yes" if value is True else str(value)


def _shown(row: MeterRow) -> dict[str, object]:
    return {"meter": row.meter, "unit": row.unit or None, "reduce": row.reduce, "every": row.every}


def _typed(row: MeterRow, mine: MeterRow, fault: str) -> MeterRow:
    return replace(row, meter=mine.meter, unit=mine.unit, reduce=mine.reduce, every=mine.every, fault=fault)


__all__ = ["REDUCTIONS", "EditRow", "changed", "checked", "differences", "edit_rows", "overlaid", "sent_rows"]
