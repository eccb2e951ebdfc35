"""Meter rules of a connection as rows of a form, and what a form that was sent makes of them. What a row does
not show stays as it is, and so does what was not touched. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import orjson

from gateway.http.dashboard.meter_form import (
    BLANK,
    MAX_ROWS,
    SHOWN,
    Filled,
    Given,
    MeterRow,
    free_row,
    is_free,
    numbered_rows,
)
from gateway.model.exchange import RemoteMeter
from gateway.model.suggest import suggested
from gateway.store.devices import DeviceMetric

_NAMES = {"device", "metric", "from", *SHOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRow:
    """A row of the form. `old`: what it showed when it was read, as the form keeps it; empty where no rule is
    its own. `more`: what else its rule says. `fed`: meters that other rules feed with it.
    """

    row: MeterRow
    old: str = ""
    more: str = ""
    fed: tuple[str, ...] = ()
    suggestion: RemoteMeter | None = None

    @property
    def is_touched(self) -> bool:
        """Whether somebody changed it since it was read."""
        if self.old:
            return kept(self.row) != self.old
        return not self.row.is_blank if self.row.is_free else bool(self.row.filled.meter)

    @property
    def was(self) -> tuple[str, str, str] | None:
        """Device, metric and meter of the rule that it shows; None of a new one."""
        if not self.old:
            return None
        device, metric, filled = read(self.old)
        return device, metric, filled.meter


def kept(row: MeterRow) -> str:
    """What a row shows of its rule, as a text of a hidden field."""
    return orjson.dumps([*astuple(row.filled), row.device, row.metric]).decode()


def read(old: str) -> tuple[str, str, Filled]:
    """What `kept` made: device, metric, and the others; nothing for what anybody else wrote."""
    try:
        *filled, device, metric = map(str, orjson.loads(old))
        return device, metric, Filled(*filled)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return "", "", Filled()


def edit_rows(
    metrics: Sequence[tuple[str, str | None, DeviceMetric]],
    rules: Sequence[Given],
    *,
    text: str,
    fed: Mapping[tuple[str, str], Sequence[str]],
    meters: Sequence[RemoteMeter] = (),
) -> list[EditRow]:
    """A row for each rule of one metric of a device, and for each metric that no such rule has. Rules of
    metrics that are not among these, and of patterns, come last, where `text` is in them, then blank ones.
    `meters`: the system's, of which some are suggested.
    """
    own: dict[tuple[str, str], list[Given]] = {}
    for rule in rules:
        if is_free(rule):
            continue
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
        bare = MeterRow(device=device, metric=name)
        found += [_of_rule(bare, rule, ()) for rule in left if _has(rule, text)]
    free_rows = [_of_rule(free_row(rule), rule, ()) for rule in rules if is_free(rule) and _has(rule, text)]
    return found[: MAX_ROWS + 1] + free_rows + [EditRow(row=MeterRow(is_free=True))] * BLANK


def _has(rule: Given, text: str) -> bool:
    return text.lower() in f"{rule['device']} {rule['metric']} {rule['meter']}".lower()


def sent_rows(given: Mapping[str, str]) -> list[EditRow]:
    """The rows that a form sent."""
    return [
        EditRow(row=row, old=given.get(f"m{number}.old", "").strip()) for number, row in numbered_rows(given)
    ]


def changed(rules: Sequence[Given], rows: Sequence[EditRow]) -> list[dict[str, object]]:
    """The rules with what was touched in place of what it was: what a row does not show of a rule stays, and
    so does the order. A rule whose meter was emptied is gone.
    """
    touched = {row.was: row.row for row in rows if row.is_touched and row.was is not None}
    found: list[dict[str, object]] = []
    for rule in rules:
        row = touched.get((str(rule["device"]), str(rule["metric"]), str(rule["meter"])))
        if row is None:
            found.append(dict(rule))
        elif row.filled.meter:
            found.append({**rule, **_given(row)})
    return found + [_given(row.row) for row in rows if row.was is None and row.is_touched]


def overlaid(
    current: Sequence[EditRow], sent: Sequence[EditRow], *, is_outdated: bool = False
) -> list[EditRow]:
    """The rows as they are now with what somebody typed into the old ones; `is_outdated`: and beside it what
    is in force where another changed the same one.
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
        fault = f"In force now: {read(row.old)[2]}." if row.old and row.old != mine.old else ""
        found.append(replace(row, row=_typed(row.row, mine.row, fault)))
    for mine in (
        *typed.values(),
        *new.values(),
    ):  # its rule is gone, another has the metric now, or it is new
        fault = (
            "Somebody else took this rule away."
            if mine.was is not None
            else "Somebody else maps this metric too."
        )
        is_others = is_outdated and not (mine.was is None and mine.row.is_free)
        found.append(EditRow(row=replace(mine.row, fault=fault if is_others else "")))
    return found


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
    row = replace(bare, filled=Filled.of(rule))
    more = ", ".join(
        f"{name.replace('_', ' ')} {_told(value)}"
        for name, value in rule.items()
        if name not in _NAMES and value
    )
    others = tuple(meter for meter in fed if meter != row.filled.meter)
    return EditRow(row=row, old=kept(row), more=more, fed=others)


def _told(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_told, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "yes" if value is True else str(value)


def _given(row: MeterRow) -> dict[str, object]:
    return {"device": row.device, "metric": row.metric, **row.filled.given}


def _typed(row: MeterRow, mine: MeterRow, fault: str) -> MeterRow:
    return replace(row, device=mine.device, metric=mine.metric, filled=mine.filled, fault=fault)
