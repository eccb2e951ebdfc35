"""Alert rules: which device, which condition, for how long, and what it becomes at the system. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, assert_never, cast

from gateway.model.arithmetic import is_above_by
from gateway.model.exchange import Severity
from gateway.model.sample import MICROSECOND, Metrics, Value, literal

MAX_RULES = 100
"""Of one connection: each is judged for each message of each device that it matches."""

MAX_WITHIN = timedelta(days=1)
MAX_LASTS = timedelta(days=7)
MAX_HOLD_OFF = timedelta(days=30)
MAX_NUMBER = 1e150
"""As for meters: what is further is no measurement, and cannot be reckoned with."""

MAX_TITLE, MAX_ALERT_TEXT, MAX_SHOWN = 200, 2000, 100
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
PLACEHOLDERS = ("device", "metric", "value", "since")


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """A number greater than `limit`; over once it is less than `clear`, or no longer greater where that is
    None.
    """

    limit: float
    clear: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """A number less than `limit`; over once it is greater than `clear`."""

    limit: float
    clear: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A number less than `low` or greater than `high`; over once it is in [clear_low, clear_high]."""

    low: float
    high: float
    clear_low: float
    clear_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Equals:
    """This very value: a number, a text, true or false."""

    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A number that is `by` or more above the least (`rises`), or below the greatest, of the time `within`
    before it.
    """

    by: float
    within: timedelta
    rises: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """Nothing was received for this long, of the metric where the rule names one."""

    after: timedelta


Condition = Above | Below | Outside | Equals | Changes | Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """One line of `alerts:`. `device` may be a glob; `lasts` is `for`; `kind` is `raise`, one of the
    manifest's `raises`.

    Title and text are templates of {device}, {metric}, {value} and {since}.
    """

    id: str
    device: str
    metric: str | None
    condition: Condition
    lasts: timedelta = timedelta(0)
    hold_off: timedelta = timedelta(0)
    kind: str
    severity: Severity = "medium"
    title: str = ""
    text: str = ""

    def matches(self, device: str) -> bool:
        """Case-sensitive shell-style match of the whole device id."""
        return fnmatchcase(device, self.device)

    def judges_as(self, other: AlertRule) -> bool:
        """Whether both make the same of the same telemetry: the rest is only words."""
        plain = {"kind": "", "severity": "medium", "title": "", "text": ""}
        return replace(self, **cast("Any", plain)) == replace(other, **cast("Any", plain))


def observed(rule: AlertRule, metrics: Metrics) -> Value | None:
    """What a sample says to the rule; None where it says nothing: the metric is missing, or is no number
    where one is compared.
    """
    if rule.metric is None:
        return True if isinstance(rule.condition, Silent) else None
    value = metrics.get(rule.metric)
    if value is None or not compares_numbers(rule):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        return None
    return value


def compares_numbers(rule: AlertRule) -> bool:
    """Whether a text, a boolean or a number of `MAX_NUMBER` says nothing to the rule."""
    return not isinstance(rule.condition, Equals | Silent)


def breaches(condition: Condition, value: Value, recent: tuple[tuple[int, float], ...]) -> bool:
    """Whether the condition holds of this value. `recent`: the extremes of `Changes`, oldest first, this one
    included.
    """
    match condition:
        case Equals():
            return isinstance(value, bool) is isinstance(condition.value, bool) and value == condition.value
        case Silent():
            return False
        case Above() | Below() | Outside() | Changes():
            assert not isinstance(value, str)
            return _compares(condition, value, recent)
        case _:
            assert_never(condition)


def _compares(
    condition: Above | Below | Outside | Changes, value: float, recent: tuple[tuple[int, float], ...]
) -> bool:
    match condition:
        case Above():
            return value > condition.limit
        case Below():
            return value < condition.limit
        case Outside():
            return not condition.low <= value <= condition.high
        case Changes():
            before = recent[0][1]
            high, low = (value, before) if condition.rises else (before, value)
            return is_above_by(high, low, condition.by)
        case _:
            assert_never(condition)


def clears(condition: Condition, value: Value, recent: tuple[tuple[int, float], ...]) -> bool:
    """Whether an open alert is over with this value. Never where the condition holds."""
    match condition:
        case Above(clear=float() | int() as clear):
            return cast("float", value) < clear
        case Below(clear=float() | int() as clear):
            return cast("float", value) > clear
        case Outside():
            return condition.clear_low <= cast("float", value) <= condition.clear_high
        case _:
            return not breaches(condition, value, recent)


def remember(
    condition: Condition, recent: tuple[tuple[int, float], ...], at: int, value: Value
) -> tuple[tuple[int, float], ...]:
    """The extremes that a later sample may be compared with, this one included: each greater (`rises`) or
    less than the one before it.
    """
    if not isinstance(condition, Changes):
        return ()
    assert not isinstance(value, str)
    start, sign = at - condition.within // MICROSECOND, 1 if condition.rises else -1
    kept = [pair for pair in recent if pair[0] >= start]
    while kept and sign * kept[-1][1] >= sign * value:
        kept.pop()
    return (*kept, (at, value))


def distance(rule: AlertRule, value: Value) -> str:
    """How far the value is from the condition, for people."""
    match rule.condition:
        case Above(limit=limit) if not isinstance(value, str):
            return (
                f"{value:g} is above {limit:g}"
                if value > limit
                else f"{limit - value:g} more is the limit of {limit:g}"
            )
        case Below(limit=limit) if not isinstance(value, str):
            return (
                f"{value:g} is below {limit:g}"
                if value < limit
                else f"{value - limit:g} less is the limit of {limit:g}"
            )
        case Outside(low=low, high=high) if not isinstance(value, str):
            if not low <= value <= high:
                return f"{value:g} is outside [{low:g}, {high:g}]"
            return f"{min(value - low, high - value):g} from the ends of [{low:g}, {high:g}]"
        case Equals(value=wanted):
            return f"{'equals' if breaches(rule.condition, value, ()) else 'is not'} {literal(wanted)}"
        case Changes(by=by, within=within, rises=rises):
            way = "rise" if rises else "fall"
            return f"compared with what came before: a {way} by {by:g} within {_said(within)} is the limit"
        case Silent(after=after):
            return f"the device is heard: {_said(after)} of silence is the limit"
        case _:
            return "says nothing to this rule"


def worded(rule: AlertRule, *, device: str, value: Value, since: datetime) -> tuple[str, str]:
    """Title and text of an alert: the templates with what is known of it, each placeholder once."""
    shown = str(value)
    if isinstance(value, bool):
        shown = shown.lower()
    elif isinstance(value, float):
        shown = f"{value:.15g}"
    words = {
        "device": device,
        "metric": rule.metric or "-",
        "value": shown[:MAX_SHOWN],
        "since": f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
    }
    title, text = (
        _PLACEHOLDER.sub(lambda found: words.get(found[1], found[0]), template)
        for template in (rule.title or default_title(rule), rule.text or default_text(rule))
    )
    return title[:MAX_TITLE], text[:MAX_ALERT_TEXT]


def default_title(rule: AlertRule) -> str:
    """Where the rule has none."""
    if isinstance(rule.condition, Silent):
        return "{device} is silent"
    return "{device}: {metric} is {value}"


def default_text(rule: AlertRule) -> str:
    """Where the rule has none."""
    if isinstance(rule.condition, Silent):
        return f"Nothing was received from {{device}} since {{since}} ({summary(rule)})."
    return f"{{metric}} of {{device}} is {{value}}, and has been {summary(rule)} since {{since}}."


def summary(rule: AlertRule) -> str:
    """The condition in words: `above 90 for 5m`."""
    match rule.condition:
        case Above(limit=limit):
            words = f"above {limit:g}"
        case Below(limit=limit):
            words = f"below {limit:g}"
        case Outside(low=low, high=high):
            words = f"outside [{low:g}, {high:g}]"
        case Equals(value=value):
            words = f"equal to {literal(value)}"
        case Changes(by=by, within=within, rises=rises):
            words = f"{'rising' if rises else 'falling'} by {by:g} within {_said(within)}"
        case Silent(after=after):
            words = f"silent for {_said(after)}"
        case _:
            assert_never(rule.condition)
    return f"{words} for {_said(rule.lasts)}" if rule.lasts else words


def _said(span: timedelta) -> str:
    seconds = span.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def to_document(rule: AlertRule) -> dict[str, object]:
    """The rule as it is stored: the keys of the file, durations in seconds, nothing that is not given."""
    made: dict[str, object] = {
        "id": rule.id,
        "device": rule.device,
        "metric": rule.metric,
        **_written(rule.condition),
    }
    made |= {"for": rule.lasts.total_seconds(), "hold_off": rule.hold_off.total_seconds()}
    return made | {"raise": rule.kind, "severity": rule.severity, "title": rule.title, "text": rule.text}


def _written(condition: Condition) -> dict[str, object]:
    match condition:
        case Above():
            return {"above": condition.limit, "clear_below": condition.clear}
        case Below():
            return {"below": condition.limit, "clear_above": condition.clear}
        case Outside():
            inside = [condition.clear_low, condition.clear_high]
            return {"outside": [condition.low, condition.high], "clear_inside": inside}
        case Equals():
            return {"equals": condition.value}
        case Changes():
            name = "rises_by" if condition.rises else "falls_by"
            return {name: condition.by, "within": condition.within.total_seconds()}
        case Silent():
            return {"silent_for": condition.after.total_seconds()}
        case _:
            assert_never(condition)


def from_document(document: Mapping[str, Any]) -> AlertRule:
    """A stored rule."""
    return AlertRule(
        id=document["id"],
        device=document["device"],
        metric=document.get("metric"),
        condition=_condition(document),
        lasts=timedelta(seconds=document["for"]),
        hold_off=timedelta(seconds=document["hold_off"]),
        kind=document["raise"],
        severity=document["severity"],
        title=document["title"],
        text=document["text"],
    )


def _condition(document: Mapping[str, Any]) -> Condition:
    match document:
        case {"above": limit}:
            return Above(limit=limit, clear=document.get("clear_below"))
        case {"below": limit}:
            return Below(limit=limit, clear=document.get("clear_above"))
        case {"outside": [low, high]}:
            clear_low, clear_high = document.get("clear_inside") or (low, high)
            return Outside(low=low, high=high, clear_low=clear_low, clear_high=clear_high)
        case {"equals": value}:
            return Equals(value=value)
        case {"rises_by": by, "within": within}:
            return Changes(by=by, within=timedelta(seconds=within), rises=True)
        case {"falls_by": by, "within": within}:
            return Changes(by=by, within=timedelta(seconds=within), rises=False)
        case {"silent_for": after}:
            return Silent(after=timedelta(seconds=after))
        case _:
            raise ValueError(f"alert {document.get('id')!r} has no condition")
