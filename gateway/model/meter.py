"""Meter mappings: which device metric feeds which meter, and how it is reduced. Pure: rules in, concrete
mappings out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import time, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import orjson

from gateway.model.arithmetic import PLAIN, Arithmetic
from gateway.model.calendar import Calendar, Period, written
from gateway.model.sample import Value, literal

Reduce = Literal[
    "last",
    "mean",
    "min",
    "max",
    "sum",
    "count",
    "delta",
    "each",
    "first",
    "time_weighted_mean",
    "run_time",
    "cycles",
]
REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)
MAX_METERS = 200_000
"""Of one connection. Rules times devices may be any number; what they make is work for
everybody's gateway.
"""

MAX_MATCHED_METRICS = 1_000
"""Of one device, that patterns take: one that puts times or numbers into names would fill its connection."""

MATERIALISED_AS = 1
"""One more whenever `materialise` makes something else of the same rules and devices: stored meters are then
made anew once.
"""

MAX_COMPARISONS = 2_000_000
"""Of devices and metrics with rules that make no meter of them, in one go."""

FOLLOWED: frozenset[Reduce] = frozenset({"delta", "cycles"})
"""Reductions whose window depends on the last usable sample before it."""

HELD: frozenset[Reduce] = frozenset({"run_time", "time_weighted_mean"})
"""Reductions in which a value counts until the next one: also over windows that have no sample."""

RUN_TIME_UNITS = frozenset({"HUR", "MIN"})
"""Units in which the store itself tells a run time; in any other it is of seconds."""

MAX_HOLD = timedelta(days=1)
MAX_HELD_WINDOWS = 1_000
"""A value counts for a day, and over so many windows, at most: what one sample makes due is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRule:
    """One line of configuration. `device` may be a glob (`*`, `?`, `[...]`), and `metric` one of `*` and `?`;
    `meter` is a template of `{device}` and `{metric}`.

    `every` is the window: so long, counted from 1970, or of the local calendar; zero for `each`. `deadband`
    is in the unit of the reading; zero delivers every change. After `max_silence` a value is delivered
    although it lies within the deadband.
    """

    device: str
    metric: str
    meter: str
    unit: str | None = None
    reduce: Reduce = "last"
    every: timedelta | Calendar = timedelta(minutes=15)
    deadband: float = 0.0
    create: bool = False
    """The system is asked to make the meter before its first reading."""
    max_silence: timedelta | None = None
    arithmetic: Arithmetic = PLAIN

    @property
    def is_glob(self) -> bool:
        """Whether the rule needs to know the customer's devices."""
        return any(character in self.device for character in "*?[")

    def matches(self, device: str) -> bool:
        """Case-sensitive shell-style match of the whole device id."""
        return fnmatchcase(device, self.device) if self.is_glob else device == self.device

    @property
    def is_metric_glob(self) -> bool:
        """Whether the rule needs to know the metrics of devices. Brackets are none: names have them."""
        return "*" in self.metric or "?" in self.metric

    def feeds_from(self, device: str, metric: str) -> bool:
        """Whether the rule takes this metric of this device."""
        if not self.matches(device):
            return False
        return (
            bool(_metric_pattern(self.metric).fullmatch(metric))
            if self.is_metric_glob
            else metric == self.metric
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterMapping:
    """A rule applied to one device: concrete, stored, joined in SQL. One meter is fed by exactly one (device,
    metric).

    `window` is `every`, or for `each` the system's resolution: samples that the system cannot tell apart
    share a window. `arithmetic.hold` is set for the reductions that hold a value, and for no other.
    """

    meter: str
    device: str
    metric: str
    reduce: Reduce
    window: timedelta | Calendar
    deadband: float
    unit: str | None
    create: bool = field(default=False, compare=False)
    """Whether the system is to make the meter; what is fed is the same either way."""
    max_silence: timedelta | None = None
    arithmetic: Arithmetic = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterConflict:
    """Two rules want to feed one meter; the first stays."""

    meter: str
    kept: MeterMapping
    refused: MeterMapping

    def __str__(self) -> str:
        return (
            f"meter {self.meter!r} is already fed by {self.kept.device}/{self.kept.metric};"
            f" {self.refused.device}/{self.refused.metric} is ignored: give it another meter, or use"
            " {device} or {metric} in the template"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetersRefused:
    """A connection's rules and devices make more meters than it may have; the first ones stay. `device`: of
    whose metrics patterns would take more than of any device; None where it is the connection's limit.
    """

    limit: int
    device: str | None = None

    def __str__(self) -> str:
        if self.device is not None:
            return (
                f"patterns match more than {self.limit} metrics of {self.device}, and the further ones are"
                " ignored: use narrower patterns of metrics"
            )
        return (
            f"rules and devices make more than {self.limit} meters, and the further ones are ignored: "
            "use fewer rules, or narrower patterns of devices"
        )


def materialise(
    rules: Iterable[MeterRule],
    devices: Iterable[str],
    *,
    resolution: timedelta,
    metrics: Mapping[str, Collection[str]] = MappingProxyType({}),
    limit: int = MAX_METERS,
    max_comparisons: int = MAX_COMPARISONS,
) -> tuple[dict[str, MeterMapping], list[MeterConflict | MetersRefused]]:
    """Mappings by meter, at most `limit`, and what was refused. A rule without a glob needs no known device;
    `metrics`, by device, are those that patterns are compared with. A rule that names its metric wins over a
    pattern, else the earlier one. Takes a few seconds at the limit: call it in a thread where it may be
    large.
    """
    known, sending = sorted(devices), sorted(device for device, names in metrics.items() if names)
    comparisons = 0
    mappings: dict[str, MeterMapping] = {}
    conflicts: list[MeterConflict | MetersRefused] = []
    fed: set[tuple[str, str, str]] = set()
    # A rule that names its metric feeds from the beginning, a pattern once the metric is seen: in this order
    # it is the same rule that feeds a meter, whenever it is asked.
    for rule in sorted(rules, key=lambda rule: rule.is_metric_glob):
        takes_all = rule.device == "*" and (rule.metric == "*" or not rule.is_metric_glob)
        for device, metric in _offered(rule, known, sending, metrics):
            comparisons += 1
            if len(mappings) >= limit or comparisons - len(mappings) > max_comparisons:
                conflicts.append(MetersRefused(limit=limit))
                return mappings, conflicts
            if not (takes_all or rule.feeds_from(device, metric)):
                continue
            mapping = apply_rule(rule, device, metric, resolution=resolution)
            feed = (mapping.meter, device, metric)
            if feed in fed:
                continue
            kept = mappings.setdefault(mapping.meter, mapping)
            if kept is mapping:
                fed.add(feed)
            else:
                conflicts.append(MeterConflict(meter=mapping.meter, kept=kept, refused=mapping))
    return mappings, conflicts


def _offered(
    rule: MeterRule, devices: Sequence[str], sending: Sequence[str], metrics: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str]]:
    """What the rule is compared with. `sending`: the devices with metrics."""
    if not rule.is_metric_glob:
        for device in devices if rule.is_glob else (rule.device,):
            yield device, rule.metric
        return
    for device in sending if rule.is_glob else (rule.device,):
        for metric in sorted(metrics.get(device, ())):
            yield device, metric


def apply_rule(
    rule: MeterRule, device: str, metric: str | None = None, *, resolution: timedelta
) -> MeterMapping:
    """The mapping that a rule makes for one metric of one device; None: the metric that it names."""
    metric = rule.metric if metric is None else metric
    if isinstance(rule.every, Calendar):
        window: timedelta | Calendar = rule.every
    else:
        window = resolution if rule.reduce == "each" else max(rule.every, resolution)
    return MeterMapping(
        meter=rule.meter.replace("{device}", device).replace("{metric}", metric),
        device=device,
        metric=metric,
        reduce=rule.reduce,
        window=window,
        deadband=rule.deadband,
        unit=rule.unit,
        create=rule.create,
        max_silence=rule.max_silence,
        arithmetic=replace(rule.arithmetic, hold=_hold(rule, window)),
    )


_APART = re.compile(r"[^{}]*\{(?:device|metric)\}[^{}]*[^A-Za-z0-9._{}-][^{}]*\{(?:device|metric)\}[^{}]*")


def tells_apart(template: str) -> bool:
    """Whether no two metrics of devices make the same meter by a template of both: each stands there once,
    and between them a character that no device's id has. What precedes the first such character, or follows
    the last one, is the device then, and the rest is the metric.
    """
    return template.count("{device}") == template.count("{metric}") == 1 and bool(_APART.fullmatch(template))


@lru_cache(maxsize=1_000)
def _metric_pattern(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def refusal(mapping: MeterMapping, value: Value) -> str | None:
    """Why a value is not used by a meter, or what becomes of its window; None where it is used."""
    if not mapping.arithmetic.uses(value):
        return f"{value:g} lies outside valid, and is not used"
    takes_text = mapping.reduce == "count" or (
        mapping.reduce in ("last", "first", "each") and not mapping.arithmetic.is_scaled
    )
    takes_boolean = takes_text or mapping.reduce not in ("last", "first", "each", "delta")
    if (isinstance(value, str) and not takes_text) or (isinstance(value, bool) and not takes_boolean):
        return (
            f"{literal(value)} is no number for {mapping.reduce}: its window becomes a dead letter"
            " (unusable_value)"
        )
    return None


def _hold(rule: MeterRule, window: timedelta | Calendar) -> timedelta | None:
    if rule.reduce not in HELD:
        return None
    wanted = rule.arithmetic.hold or MAX_HOLD
    # a day has few shifts: over so many windows of a calendar nothing is held anyway
    return min(wanted, MAX_HOLD if isinstance(window, Calendar) else MAX_HELD_WINDOWS * window)


def to_document(rule: MeterRule) -> dict[str, object]:
    """The rule as it is stored: JSON, durations in seconds. What is not set is left out, so a rule is of the
    same digest in every version that makes the same meters of it.
    """
    document: dict[str, object] = {
        "device": rule.device,
        "metric": rule.metric,
        "meter": rule.meter,
        "unit": rule.unit,
        "reduce": rule.reduce,
        "every": rule.every.period if isinstance(rule.every, Calendar) else rule.every.total_seconds(),
        "deadband": rule.deadband,
    }
    if isinstance(rule.every, Calendar):
        document["zone"] = rule.every.zone
        if rule.every.shifts:
            document["shifts"] = [written(at) for at in rule.every.shifts]
    if rule.create:
        document["create"] = True
    if rule.max_silence is not None:
        document["max_silence"] = rule.max_silence.total_seconds()
    if rule.arithmetic != PLAIN:
        document["arithmetic"] = rule.arithmetic.to_document()
    return document


def from_document(document: Mapping[str, Any]) -> MeterRule:
    """A stored rule."""
    silence, every = document.get("max_silence"), document["every"]
    window: timedelta | Calendar
    if isinstance(every, str):
        shifts = tuple(map(time.fromisoformat, document.get("shifts", ())))
        window = Calendar(period=cast("Period", every), zone=document["zone"], shifts=shifts)
    else:
        window = timedelta(seconds=every)
    return MeterRule(
        **{
            **{name: value for name, value in document.items() if name not in ("zone", "shifts")},
            "every": window,
            "max_silence": None if silence is None else timedelta(seconds=silence),
            "arithmetic": Arithmetic.from_document(document.get("arithmetic", {})),
        }
    )


def made_of(rules: Sequence[MeterRule], resolution: timedelta) -> str:
    """A digest of what meters are made of, and of how."""
    body = orjson.dumps(
        [MATERIALISED_AS, resolution.total_seconds(), [to_document(rule) for rule in rules]],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.blake2b(body, digest_size=16).hexdigest()
