"""What a seed decides: the customers, their devices, the rules of each connection, and the plan of faults.
Pure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.soak.oracle import Rule

SECOND = 1_000_000
FLIPS = ("mean", "max", "min", "last")
"""What the rule `flip` becomes at a reload."""

WORKPLACE = "initech"
"""The customer whose systems are read back, and get alerts; it has no links."""

System = Literal["postgres", "deduplicates", "asked", "blind"]


@dataclass(slots=True, kw_only=True)
class Link:
    """A connection of the campaign. Its rules change at reloads."""

    name: str
    customer: str
    system: System
    rules: list[Rule]

    @property
    def meters(self) -> list[dict[str, object]]:
        """As a connections file has them."""
        made = []
        for rule in self.rules:
            meter: dict[str, object] = {
                "device": "*",
                "metric": rule.metric,
                "meter": "{device}/" + rule.name,
                "reduce": rule.reduce,
            }
            if rule.every:
                meter["every"] = f"{rule.every // SECOND}s"
            if rule.deadband:
                meter["deadband"] = rule.deadband
            made.append(meter)
        return made

    def flip(self, to: str) -> None:
        """The rule `flip` reduces by something else from now on."""
        self.rules = [replace(rule, reduce=to) if rule.name == "flip" else rule for rule in self.rules]

    def extend(self, rule: Rule) -> None:
        """One more rule, for history too."""
        if all(rule.name != held.name for held in self.rules):
            self.rules = [*self.rules, rule]


FAULTS: tuple[tuple[str, float], ...] = (
    ("kill_replica", 3.0),
    ("stop_replica", 1.0),
    ("freeze_replica", 3.0),
    ("freeze_busy", 3.0),
    ("freeze_computing", 2.0),
    ("freeze_ingesting", 1.5),
    ("kill_during_push", 2.0),
    ("broker_restart", 1.0),
    ("broker_kill", 1.0),
    ("database_restart", 0.7),
    ("database_kill", 1.0),
    ("sessions_killed", 1.0),
    ("database_read_only", 0.7),
    ("sink_kill", 0.8),
    ("sink_read_only", 0.7),
    ("sink_locked", 2.0),
    ("sink_sessions_killed", 1.0),
    ("sink_cut", 1.5),
    ("sink_lost", 1.5),
    ("sink_hung", 0.8),
    ("back_and_forth", 4.0),
    ("receiver", 4.0),
    ("outage", 1.5),
    ("denied", 0.7),
    ("reload", 2.0),
    ("reload_broken", 0.5),
    ("pause", 1.5),
    ("pause_and_reload", 1.5),
    ("full_sync", 2.0),
    ("replay", 1.0),
    ("plant", 2.0),
    ("plant_clock", 1.5),
    ("tokens_end", 1.5),
    ("grant_revoked", 0.8),
    ("key_revoked", 0.8),
    ("shop", 3.0),
    ("disk_full", 0.8),
)
"""What happens, and how often, in shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of the plan. `seed` decides its particulars: whom, how long."""

    at: float
    """Seconds from the beginning of the load."""
    kind: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Everything that a seed decides before the servers start."""

    seed: int
    seconds: float
    replicas: int
    partitions: int
    customers: Sequence[str]
    devices: int
    rate: float
    links: Sequence[Link]
    faults: Sequence[Fault]
    sync: dict[str, object] = field(default_factory=dict)


def shape(
    seed: int, *, seconds: float, replicas: Sequence[int], rate: float, only: Sequence[str] = ()
) -> Shape:
    """The shape of a seed. `only`: just these kinds of faults."""
    chance = random.Random(seed)
    count = replicas[seed % len(replicas)]
    customers = ("acme", "globex")
    links = [
        Link(name="acme-table", customer="acme", system="postgres", rules=_rules(chance, refused=False)),
        Link(name="acme-keyed", customer="acme", system="deduplicates", rules=_rules(chance, refused=True)),
        Link(name="globex-table", customer="globex", system="postgres", rules=_rules(chance, refused=False)),
        Link(name="globex-asked", customer="globex", system="asked", rules=_rules(chance, refused=True)),
        Link(name="globex-blind", customer="globex", system="blind", rules=_rules(chance, refused=False)),
    ]
    return Shape(
        seed=seed,
        seconds=seconds,
        replicas=count,
        partitions=chance.choice((1, 2)),
        customers=customers,
        devices=chance.randint(3, 6),
        rate=rate,
        links=links,
        faults=_faults(random.Random(seed * 7919 + 1), seconds=seconds, only=only),
        sync={
            "lease": "2s",
            "lateness": chance.choice(("500ms", "1s", "2s")),
            "push_timeout": "2s",
            "unknown_wait": "2500ms",
            "backoff_base": "200ms",
            "backoff_cap": "1s",
            "probe_interval": "3s",
            "max_attempts": 8,
        },
    )


def extra_rule(chance: random.Random) -> Rule:
    """A rule that a reload adds; what is stored counts for it as well."""
    kind = chance.choice(("sum", "mean", "count", "delta", "min"))
    metric = "counter" if kind == "delta" else "value"
    return Rule(name=f"extra-{kind}", metric=metric, reduce=kind, every=chance.choice((2, 6, 15)) * SECOND)


def _rules(chance: random.Random, *, refused: bool) -> list[Rule]:
    def span() -> int:
        return chance.choice((1, 2, 3, 5, 10)) * SECOND

    rules = [
        *(
            Rule(name=kind, metric="value", reduce=kind, every=span())
            for kind in ("last", "mean", "min", "max")
        ),
        *(Rule(name=kind, metric="value", reduce=kind, every=span()) for kind in ("sum", "count")),
        Rule(name="delta", metric="counter", reduce="delta", every=span()),
        Rule(name="each", metric="value", reduce="each"),
        Rule(name="state", metric="state", reduce="each"),
        Rule(name="word", metric="state", reduce="last", every=span()),
        Rule(name="band", metric="level", reduce="last", every=span(), deadband=chance.choice((1.0, 2.0))),
        Rule(name="mixed", metric="mixed", reduce="mean", every=span()),
        Rule(name="huge", metric="huge", reduce="each"),
        Rule(name="flip", metric="value", reduce="mean", every=span(), flips=True),
    ]
    if refused:
        rules.append(Rule(name="refused", metric="value", reduce="max", every=10 * SECOND, refused=True))
    return rules


def _faults(chance: random.Random, *, seconds: float, only: Sequence[str]) -> list[Fault]:
    kinds = [(kind, share) for kind, share in FAULTS if not only or kind in only]
    if unknown := set(only) - {kind for kind, _ in FAULTS} - {"none"}:
        raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
    made: list[Fault] = []
    at = chance.uniform(5.0, 9.0)
    while kinds and at < seconds - 3.0:
        kind = chance.choices([kind for kind, _ in kinds], [share for _, share in kinds])[0]
        made.append(Fault(at=round(at, 2), kind=kind, seed=chance.randrange(1 << 30)))
        at += chance.uniform(1.5, 6.0)
    return made
