"""A random life of a connection: samples late and corrected, meters that are edited, renamed and fed by another
device while windows are due, histories that are walked again, pushes and commits that end in the middle. In the
end the system holds what a plain reading of all samples gives for the meters that are in force.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.model.arithmetic import PLAIN, Arithmetic
from gateway.model.calendar import Calendar
from gateway.model.errors import LeaseLost, OutcomeUnknown, StoreUnavailable, Unavailable
from gateway.model.meter import HELD, REDUCTIONS, MeterRule
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch
from gateway.model.sample import Value
from gateway.store import streams
from gateway.store.pool import Database
from gateway.sync.link import READINGS
from tests.fixtures.scripted import UPSERT, Keeper
from tests.fixtures.sync_rig import BASE, DAY, HOUR, MINUTE, Rig
from tests.integration.test_sync_model import SETTINGS, Killed
from tests.property.test_calendar import boundaries
from tests.property.test_reduce import Samples, reading, reduced, same, unusable

FIRST = int(os.environ.get("EDIT_FIRST", "0"))
WORLDS = int(os.environ.get("EDIT_WORLDS", "4"))
STEPS = int(os.environ.get("EDIT_STEPS", "40"))
ZONE = "Europe/Berlin"
START = BASE - 2 * DAY
DAYS = Calendar(period="day", zone=ZONE)
WINDOWS = (10 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAYS)
ARITHMETIC = (
    PLAIN,
    PLAIN,
    Arithmetic(valid=(0.0, 40.0)),
    Arithmetic(scale=0.5),
    Arithmetic(scale=4.0, offset=-7.0),
)
VALUES: tuple[Value, ...] = (
    0,
    1,
    2,
    3,
    5,
    8,
    13,
    40,
    41,
    -3,
    -0.0,
    0.1,
    2.5,
    1e-300,
    1e12,
    True,
    False,
    "on",
)
DEVICES, METRICS, METERS = ("a", "b"), ("t", "u"), ("m0", "m1", "m2")
PATTERNS = {"{device} all": ("*", "t"), "{device}/{metric}": ("*", "*"), "b {metric}": ("b", "?")}
"""By meter: devices and metrics."""


@dataclass
class Life:
    rig: Rig
    keeper: Keeper
    dice: random.Random
    samples: dict[tuple[str, str], Samples] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    calm: bool = False

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        what = (
            "taken" if self.calm else self.dice.choice(("taken",) * 4 + ("lost", "503", "killed", "edited"))
        )
        match what:
            case "lost":
                self.keeper.take(batch)
                raise OutcomeUnknown("cut after it was taken")
            case "503":
                raise Unavailable("not now")
            case "killed":
                if self.dice.random() < 0.5:
                    self.keeper.take(batch)
                raise Killed
            case "edited":
                await self.edit()
        return self.keeper.take(batch)

    def rule(self, meter: str) -> MeterRule:
        reduce = self.dice.choice(REDUCTIONS)
        arithmetic = self.dice.choice(ARITHMETIC)
        if reduce in ("count", "cycles", "run_time"):
            arithmetic = replace(arithmetic, scale=1.0, offset=0.0)
        elif reduce in ("sum", "delta"):
            arithmetic = replace(arithmetic, offset=0.0)
        if reduce in HELD:
            arithmetic = replace(arithmetic, hold=self.dice.choice((15 * MINUTE, 2 * HOUR)))
        device, metric = PATTERNS.get(meter, (self.dice.choice(DEVICES), self.dice.choice(METRICS)))
        return MeterRule(
            device=device,
            metric=metric,
            meter=meter,
            reduce=reduce,
            every=timedelta(0) if reduce == "each" else self.dice.choice(WINDOWS),
            arithmetic=arithmetic,
        )

    async def edit(self) -> None:
        """Meters go, come, come back, or change what they are made of."""
        rules = {rule.meter: rule for rule in self.rig.rules}
        meter = self.dice.choice((*METERS, *METERS, *PATTERNS))
        plain = sorted(rules.keys() & set(METERS))
        if meter in rules and self.dice.random() < 0.3:
            del rules[meter]
        elif self.dice.random() < 0.2 and len(plain) > 1:
            one, other = self.dice.sample(plain, 2)
            rules[one], rules[other] = replace(rules[other], meter=one), replace(rules[one], meter=other)
        else:
            rules[meter] = self.rule(meter)
        self.story.append(f"edit {list(rules.values())}")
        await self.rig.change_rules(*rules.values())

    async def store(self) -> None:
        device, metric = self.dice.choice(DEVICES), self.dice.choice(METRICS)
        around = START + self.dice.randrange(48) * HOUR
        new: Samples = {}
        for _ in range(self.dice.randrange(1, 6)):
            at = around + self.dice.choice((0, 0, 10, 20, 59, 60, 180)) * MINUTE
            new[at + self.dice.choice((0, 0, 1, -1)) * timedelta(microseconds=1)] = self.dice.choice(VALUES)
        self.story.append(f"store {device} {metric} { {at.isoformat(): v for at, v in new.items()} }")
        await self.rig.store(*[(device, at, value) for at, value in new.items()], metric=metric)
        self.samples.setdefault((device, metric), {}).update(new)

    async def full(self) -> None:
        self.story.append("full")
        async with self.rig.database.transaction() as connection:
            await streams.begin_again(
                connection, self.rig.name, READINGS, days=4, max_backfill=None, max_future=5 * MINUTE
            )

    async def run(self, phase: streams.Phase | None = None) -> None:
        phase = phase or self.dice.choice(("incremental", "incremental", "initial"))
        await self.rig.execute(
            "update stream set lease_until = now(), attempts = 0 where connection_id = $1", self.rig.name
        )
        await self.rig.arrived()
        rig = self.rig.replica(self.dice.choice(("replica-a", "replica-b")))
        self.story.append(f"run {phase}")
        with suppress(LookupError, LeaseLost, StoreUnavailable, Killed):
            await rig.runner().run(await rig.claim(phase), rig.link)

    async def live(self) -> None:
        for _ in range(STEPS):
            step = self.dice.choice(
                (self.store, self.store, self.store, self.edit, self.run, self.run, self.run, self.full)
            )
            await step()
        self.calm = True
        for _ in range(4):
            await self.run("initial")
            await self.run("incremental")

    def windows(self, rule: MeterRule) -> Iterator[tuple[datetime, datetime]]:
        begin, end = START - 2 * DAY, datetime.now(UTC)
        if isinstance(rule.every, Calendar):
            edges = boundaries("day", ZoneInfo(ZONE), begin, end)
            yield from itertools.pairwise(edges)
            return
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        start = epoch + (begin - epoch) // rule.every * rule.every
        while start + rule.every <= end:
            yield start, start + rule.every
            start += rule.every

    def feeds(self) -> Iterator[tuple[MeterRule, Samples]]:
        """The rules in force, each of one metric of one device."""
        for rule in self.rig.rules:
            for (device, metric), samples in self.samples.items():
                if rule.feeds_from(device, metric):
                    meter = rule.meter.replace("{device}", device).replace("{metric}", metric)
                    yield replace(rule, device=device, metric=metric, meter=meter), samples

    def wanted(self) -> dict[tuple[str, datetime], Value]:
        found: dict[tuple[str, datetime], Value] = {}
        for rule, samples in self.feeds():
            if rule.reduce == "each":
                for at, value in samples.items():
                    is_used = rule.arithmetic.uses(value) and not (
                        rule.arithmetic.is_scaled and isinstance(value, bool | str)
                    )
                    if is_used:
                        found[rule.meter, at] = reading(rule, value)
                continue
            for start, end in self.windows(rule):
                if (
                    not unusable(rule, samples, start, end)
                    and (value := reduced(rule, samples, start, end)) is not None
                ):
                    found[rule.meter, start] = reading(rule, value)
        return found

    async def check(self) -> None:
        story = "\n".join([*self.story, f"rules {self.rig.rules}"])
        wanted, delivered = self.wanted(), await self.rig.delivered()
        held = {(each.meter, each.window_start): each.value for each in self.keeper.held.values()}
        wrong = {
            key: (held.get(key), value) for key, value in wanted.items() if not same(held.get(key), value)
        }
        assert wrong == {}, f"{story}\n{wrong}"
        for (
            doubted
        ) in await self.rig.doubts():  # of windows that are none any more: nobody asks what is held of them
            held.pop(doubted, None)
            delivered.pop(doubted, None)
        assert held == delivered, story
        assert [row for row in await self.rig.due() if row["closes_at"] <= datetime.now(UTC)] == [], story
        assert {row["reason"] for row in await self.rig.dead()} <= {"unusable_value", "withdrawn"}, story


@pytest.mark.parametrize("seed", range(FIRST, FIRST + WORLDS))
async def test_whatever_is_edited_meanwhile_the_system_ends_with_what_the_samples_make(
    database: Database, seed: int
) -> None:
    keeper = Keeper(capabilities=replace(UPSERT, max_items=7))
    rig = Rig(
        database, keeper, name=f"life-{seed}", customer=f"customer-{seed}", settings=SETTINGS, initial_days=4
    )
    life = Life(rig, keeper, random.Random(seed))
    rig.rules = tuple(life.rule(meter) for meter in METERS)
    keeper.answer = life.push
    for _ in range(3):
        await life.store()
    await rig.activate()
    await life.live()
    await life.check()
