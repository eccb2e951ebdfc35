"""Meter mappings: which device metric feeds which meter, and how it is reduced. Pure: rules in, concrete
mappings out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import orjson

Reduce = Literal["last", "mean", "min", "max", "sum", "count", "delta", "each"]
REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)
MAX_METERS = 200_000
"""Of one connection. Rules times devices may be any number; what they make is work for everybody's gateway."""

MATERIALISED_AS = 1
"""One more whenever `materialise` makes something else of the same rules and devices: stored meters are then made
anew once.
"""

MAX_COMPARISONS = 2_000_000
"""Of devices with patterns, in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRule:
    """One line of configuration. `device` may be a glob (`*`, `?`, `[...]`); `meter` a template of `{device}`
    and `{metric}`.

    `every` is the window; zero for `each`. `deadband` is in the metric's own unit; zero delivers every
    change.
    """

    device: str
    metric: str
    meter: str
    unit: str | None = None
    reduce: Reduce = "last"
    every: timedelta = timedelta(minutes=15)
    deadband: float = 0.0
    create: bool = False
    """The system is asked to make the meter before its first reading."""

    @property
    def is_glob(self) -> bool:
        """Whether the rule needs to know the customer's devices."""
        return any(character in self.device for character in "*?[")

    def matches(self, device: str) -> bool:
        """Case-sensitive shell-style match of the whole device id."""
        return fnmatchcase(device, self.device) if self.is_glob else device == self.device


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterMapping:
    """A rule applied to one device: concrete, stored, joined in SQL. One meter is fed by exactly one (device,
    metric).

    `window` is `every`, or for `each` the system's resolution: samples that the system cannot tell apart
    share a window.
    """

    meter: str
    device: str
    metric: str
    reduce: Reduce
    window: timedelta
    deadband: float
    unit: str | None
    create: bool = field(default=False, compare=False)
    """Whether the system is to make the meter; what is fed is the same either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterConflict:
    """Two rules want to feed one meter; the first stays."""

    meter: str
    kept: MeterMapping
    refused: MeterMapping

    def __str__(self) -> str:
        return (
            f"meter {self.meter!r} is already fed by {self.kept.device}/{self.kept.metric}; "
            f"{self.refused.device}/{self.refused.metric} is ignored: give it another meter, or use {{device}} or {{metric}} in the template"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetersRefused:
    """A connection's rules and devices make more meters than it may have; the first ones stay."""

    limit: int

    def __str__(self) -> str:
        return (
            f"rules and devices make more than {self.limit} meters, and the further ones are ignored: "
            "use fewer rules, or narrower patterns of devices"
        )


def materialise(
    rules: Iterable[MeterRule],
    devices: Iterable[str],
    *,
    resolution: timedelta,
    limit: int = MAX_METERS,
) -> tuple[dict[str, MeterMapping], list[MeterConflict | MetersRefused]]:
    """Mappings by meter, at most `limit`, and what was refused. A rule without a glob needs no known device. Earlier
    rules win. Takes a few seconds at the limit: call it in a thread where it may be large.
    """
    known = sorted(devices)
    comparisons = 0
    mappings: dict[str, MeterMapping] = {}
    conflicts: list[MeterConflict | MetersRefused] = []
    fed: set[tuple[str, str, str]] = set()
    for rule in rules:
        is_every = rule.device == "*"
        for device in known if rule.is_glob else (rule.device,):
            comparisons += not is_every
            if len(mappings) >= limit or comparisons > MAX_COMPARISONS:
                conflicts.append(MetersRefused(limit=limit))
                return mappings, conflicts
            if not (is_every or rule.matches(device)):
                continue
            mapping = apply_rule(rule, device, resolution=resolution)
            feed = (mapping.meter, device, rule.metric)
            if feed in fed:
                continue
            kept = mappings.setdefault(mapping.meter, mapping)
            if kept is mapping:
                fed.add(feed)
            else:
                conflicts.append(MeterConflict(meter=mapping.meter, kept=kept, refused=mapping))
    return mappings, conflicts


def apply_rule(rule: MeterRule, device: str, *, resolution: timedelta) -> MeterMapping:
    """The mapping that a rule makes for one device."""
    window = resolution if rule.reduce == "each" else max(rule.every, resolution)
    return MeterMapping(
        meter=rule.meter.replace("{device}", device).replace("{metric}", rule.metric),
        device=device,
        metric=rule.metric,
        reduce=rule.reduce,
        window=window,
        deadband=rule.deadband,
        unit=rule.unit,
        create=rule.create,
    )


def to_document(rule: MeterRule) -> dict[str, object]:
    """The rule as it is stored: JSON, `every` in seconds."""
    document: dict[str, object] = {
        "device": rule.device,
        "metric": rule.metric,
        "meter": rule.meter,
        "unit": rule.unit,
        "reduce": rule.reduce,
        "every": rule.every.total_seconds(),
        "deadband": rule.deadband,
    }
    return {**document, "create": True} if rule.create else document


def from_document(document: Mapping[str, Any]) -> MeterRule:
    """A stored rule."""
    return MeterRule(**{**document, "every": timedelta(seconds=document["every"])})


def made_of(rules: Sequence[MeterRule], resolution: timedelta) -> str:
    """A digest of what meters are made of, and of how."""
    body = orjson.dumps(
        [MATERIALISED_AS, resolution.total_seconds(), [to_document(rule) for rule in rules]],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.blake2b(body, digest_size=16).hexdigest()
