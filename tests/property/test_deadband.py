"""The deadband, by an oracle that knows only the samples, what the system was sent and what it answered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.model.meter import MeterRule
from gateway.model.outcome import Accepted, Outcome, Rejected, Retry
from gateway.model.reading import Batch, Reading
from gateway.model.sample import Value
from gateway.store.pool import Database
from gateway.store.views import Views
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

WINDOW = 10 * MINUTE
DEADBAND = 2.0
RULE = MeterRule(device="d", metric="t", meter="m", every=WINDOW, deadband=DEADBAND)
_names = itertools.count()


class Fickle(Scripted):
    """Refuses a reading, or puts it off, as the dice say: once each, so that it can come to rest."""

    def __init__(self, dice: Sequence[str]) -> None:
        super().__init__()
        self.answer = self._answer
        self.holds: dict[datetime, Value] = {}
        self._dice = iter(dice)

    async def _answer(self, batch: Batch) -> Sequence[Outcome]:
        return [self._one(reading) for reading in batch.readings]

    def _one(self, reading: Reading) -> Outcome:
        match next(self._dice, "take"):
            case "refuse":
                return Rejected(code="no", message="not this one")
            case "wait":
                return Retry(after_seconds=0.0, message="not now")
            case _:
                self.holds[reading.window_start] = reading.value
                self.taken.append(reading)
                return Accepted(remote_id=None)


@dataclass(frozen=True)
class Step:
    samples: dict[int, float]
    runs: bool
    replays: bool
    initial: bool


steps = st.lists(
    st.builds(
        Step,
        samples=st.dictionaries(st.integers(0, 9), st.integers(0, 8).map(float), min_size=1, max_size=6),
        runs=st.booleans(),
        replays=st.booleans(),
        initial=st.booleans(),
    ),
    min_size=1,
    max_size=7,
)


def faults(samples: dict[datetime, float], holds: dict[datetime, Value], dead: set[datetime]) -> list[str]:
    """What is wrong of what a system holds at rest, over all samples: each window's value is held, or was
    refused, or lies within the deadband of what the system holds for the nearest window before it.
    """
    found = []
    for start, value in sorted(samples.items()):
        if start in dead or holds.get(start) == value:
            continue
        before = [at for at in holds if at < start]
        if start in holds or not before or not isinstance(reference := holds[max(before)], float):
            found.append(f"{start:%H:%M} is {value}, and the system holds {holds.get(start)}")
        elif abs(value - reference) >= DEADBAND:
            found.append(f"{start:%H:%M} is {value}, too far from the {reference} before it")
    return found


def sent_needlessly(taken: Sequence[Reading], refused: bool) -> list[str]:
    """With nothing refused: new readings that lay within the deadband of what was held before them then."""
    found = []
    holds: dict[datetime, Value] = {}
    for reading in taken:
        before = [at for at in holds if at < reading.window_start]
        if before and reading.window_start not in holds and not refused:
            reference = holds[max(before)]
            assert isinstance(reference, float) and isinstance(reading.value, float)
            if abs(reading.value - reference) < DEADBAND:
                found.append(f"{reading.window_start:%H:%M} {reading.value} beside {reference}")
        holds[reading.window_start] = reading.value
    return found


async def rest(rig: Rig) -> None:
    """A meter that was put off is due again at once: the waits grow to minutes."""
    for _ in range(20):
        await rig.execute("update meter_mapping set retry_at = null where connection_id = $1", rig.name)
        if (await rig.stream("initial"))["state"] != "done":
            await rig.run("initial")
        await rig.run()
        waiting = await rig.rows("select from withheld where connection_id = $1 and again", rig.name)
        if not waiting and not [row for row in await rig.due() if row["closes_at"] <= datetime.now(UTC)]:
            return
    raise AssertionError("it never comes to rest")


@given(steps=steps, dice=st.lists(st.sampled_from(["take", "take", "refuse", "wait"]), max_size=12))
@example(  # a correction changes what two later windows were compared with
    steps=[
        Step(samples={0: 4.0, 1: 5.0, 2: 5.0, 3: 8.0}, runs=True, replays=False, initial=True),
        Step(samples={0: 0.0}, runs=True, replays=False, initial=False),
    ],
    dice=[],
)
@example(  # what is compared with was planned in the same batch, and refused
    steps=[Step(samples={0: 0.0, 1: 4.0, 2: 5.0}, runs=True, replays=False, initial=True)],
    dice=["take", "refuse"],
)
@example(  # a late sample between two windows
    steps=[
        Step(samples={0: 0.0, 2: 1.0}, runs=True, replays=False, initial=True),
        Step(samples={1: 8.0}, runs=True, replays=False, initial=False),
    ],
    dice=[],
)
@example(  # a dead letter that is taken after all
    steps=[
        Step(samples={0: 0.0, 1: 8.0, 2: 1.0}, runs=True, replays=False, initial=True),
        Step(samples={9: 0.0}, runs=False, replays=True, initial=False),
    ],
    dice=["take", "refuse"],
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_what_is_not_sent_lies_within_the_deadband_of_what_the_system_holds(
    database: Database, steps: list[Step], dice: list[str]
) -> None:
    connector = Fickle(dice)
    name = f"deadband{next(_names)}"
    rig = Rig(database, connector, name=name, customer=name, rules=(RULE,), initial_days=1)
    samples: dict[datetime, float] = {}
    await rig.activate()
    for step in steps:
        made = {BASE + window * WINDOW: value for window, value in step.samples.items()}
        await rig.store(*[("d", at, value) for at, value in made.items()])
        samples |= made
        if step.initial and (await rig.stream("initial"))["state"] != "done":
            await rig.run("initial")
        if step.runs:
            await rig.run()
        if step.replays:
            await Views(database).replay(rig.name, None)
    await rest(rig)
    dead = {row["window_start"] for row in await rig.dead()}
    assert faults(samples, connector.holds, dead) == []
    assert {at: value for (_, at), value in (await rig.delivered()).items()} == connector.holds
    assert sent_needlessly(connector.taken, refused=bool(set(dice) - {"take"})) == []
