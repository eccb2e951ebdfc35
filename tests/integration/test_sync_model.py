"""A random machine of lost answers, kills, stale leases and corrections, against a model of the system: in
the end it holds exactly what telemetry says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from gateway.model.connector import Capabilities
from gateway.model.errors import LeaseLost, OutcomeUnknown, StoreUnavailable, Unavailable
from gateway.model.outcome import Outcome, Unknown
from gateway.model.reading import Batch
from gateway.model.sample import Value
from gateway.settings import SyncSettings
from gateway.store import deliveries
from gateway.store.pool import Database
from tests.fixtures.scripted import CLIENT_REF, UPSERT, Keeper
from tests.fixtures.sync_rig import BASE, HOUR, Rig

WORLDS, STEPS = 6, 60
VALUES = (1.0, 2.0, 3.0)
PLACES = [(meter, BASE + hour * HOUR) for meter in ("a", "b", "c") for hour in range(2)]
SETTINGS = SyncSettings(
    backoff_base=timedelta(milliseconds=1),
    backoff_cap=timedelta(milliseconds=1),
    unknown_wait=timedelta(0),
    max_attempts=1_000,
)


class Killed(BaseException):
    """A process that is gone: nothing of it runs any more."""


@dataclass
class World:
    """One connection, its system, and what has happened to both. `truth` is what telemetry says."""

    rig: Rig
    keeper: Keeper
    dice: random.Random
    truth: dict[tuple[str, datetime], Value] = field(default_factory=dict)
    asleep: list[tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    calm: bool = False

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """The call, and what goes wrong with it."""
        what = (
            "taken"
            if self.calm
            else self.dice.choice(("taken", "taken", "lost", "never", "503", "half", "asleep", "killed"))
        )
        self.story.append(
            f"  push {[(r.meter, r.window_start.hour, r.value) for r in batch.readings]} {what}"
        )
        match what:
            case "lost":
                self.keeper.take(batch)
                raise OutcomeUnknown("cut after it was taken")
            case "never":
                raise OutcomeUnknown("cut before it was taken")
            case "503":
                raise Unavailable("not now")
            case "half":
                outcomes = self.keeper.take(batch)
                return [o if self.dice.random() < 0.5 else Unknown(message="?") for o in outcomes]
            case "asleep":
                return await self._sleep(batch)
            case "killed":
                if self.dice.random() < 0.5:
                    self.keeper.take(batch)
                raise Killed
        return self.keeper.take(batch)

    async def _sleep(self, batch: Batch) -> Sequence[Outcome]:
        """Stopped at the system's door; goes through it when it wakes, whoever works the stream by then."""
        wake, task = asyncio.Event(), asyncio.current_task()
        assert task is not None
        self.asleep.append((wake, task))
        await wake.wait()
        self.story.append(
            f"  arrives late {[(r.meter, r.window_start.hour, r.value) for r in batch.readings]}"
        )
        return self.keeper.take(batch)

    async def commit_fault(self) -> str:
        return "" if self.calm else self.dice.choice(("", "", "", "", "", "before", "after"))

    async def correct(self) -> None:
        meter, at = self.dice.choice(PLACES)
        value = self.dice.choice(VALUES)
        self.truth[meter, at] = value
        self.story.append(f"{meter} {at.hour} is {value}")
        await self.rig.store((meter, at, value))

    async def run(self) -> None:
        """A run by one of two replicas, whoever holds the lease: until it ends, or sleeps."""
        if self.dice.random() < 0.7 or self.calm:
            await self.rig.arrived()
        await self.rig.execute(
            "update stream set lease_until = now(), attempts = 0 where connection_id = $1", self.rig.name
        )
        await self.rig.execute(
            "update meter_mapping set retry_at = null where connection_id = $1", self.rig.name
        )
        rig = self.rig.replica(self.dice.choice(("replica-a", "replica-b")))
        before = len(self.asleep)
        self.story.append(f"run of {rig.owner}")
        task = asyncio.create_task(self._work(rig))
        while not task.done() and len(self.asleep) == before:
            await asyncio.wait({task}, timeout=0.005)
        if task.done():
            task.result()

    async def _work(self, rig: Rig) -> None:
        with suppress(LeaseLost, StoreUnavailable, Killed):
            await rig.runner().run(await rig.claim(), rig.link)

    async def wake(self) -> None:
        if self.asleep:
            wake, task = self.asleep.pop(self.dice.randrange(len(self.asleep)))
            self.story.append("one wakes")
            wake.set()
            await task

    async def play(self) -> None:
        """Everything that can happen, in any order; then peace, in which all that is left must come right."""
        for _ in range(STEPS):
            await self.dice.choice((self.correct, self.correct, self.run, self.run, self.wake))()
        self.calm = True
        while self.asleep:
            await self.wake()
        for _ in range(5):
            await self.run()

    async def check(self) -> None:
        held = {(reading.meter, reading.window_start): reading.value for reading in self.keeper.held.values()}
        story = "\n".join(self.story)
        assert held == self.truth, f"{story}\nheld {held}\ntruth {self.truth}"
        assert await self.rig.delivered() == self.truth, story
        assert await self.rig.due() == [] and await self.rig.dead() == [], story


@pytest.mark.parametrize(
    "capabilities",
    [UPSERT, replace(UPSERT, keeps_latest=True), CLIENT_REF],
    ids=["upsert", "keeps_latest", "client_ref"],
)
async def test_the_system_ends_with_what_telemetry_says(
    database: Database, monkeypatch: pytest.MonkeyPatch, capabilities: Capabilities
) -> None:
    worlds: dict[str, World] = {}
    for seed in range(WORLDS):
        keeper = Keeper(capabilities=replace(capabilities, max_items=3))
        rig = Rig(database, keeper, name=f"world-{seed}", customer=f"customer-{seed}", settings=SETTINGS)
        worlds[rig.name] = World(await rig.activate(), keeper, random.Random(seed))
        keeper.answer = worlds[rig.name].push
    commit = deliveries.commit

    async def faulty(database: Database, claim: object, *given: object, **named: object) -> object:
        fault = await worlds[claim.connection].commit_fault()  # type: ignore[attr-defined]
        if fault == "before":
            raise StoreUnavailable("the commit failed")
        made = await commit(database, claim, *given, **named)  # type: ignore[arg-type]
        if fault == "after":
            raise StoreUnavailable("the answer to the commit was lost")
        return made

    monkeypatch.setattr(deliveries, "commit", faulty)
    await asyncio.gather(*(world.play() for world in worlds.values()))
    for world in worlds.values():
        await world.check()
    assert sum(len(world.keeper.pushes) for world in worlds.values()) > WORLDS * 5
