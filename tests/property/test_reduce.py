"""What a system holds in the end is what a plain reading of all samples gives, whatever order they came in."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.meter import REDUCTIONS, MeterRule
from gateway.model.sample import Value
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

WINDOW = 10 * MINUTE
RULES = tuple(
    MeterRule(device="d", metric="t", meter=reduce, reduce=reduce, every=WINDOW) for reduce in REDUCTIONS
)
_numbers = itertools.count()

Samples = dict[datetime, Value]

values = st.one_of(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(0, 50),
    st.booleans(),
    st.sampled_from(["on", "off", ""]),
)
counter = st.integers(0, 1000)
MICROSECOND = timedelta(microseconds=1)
inside = st.integers(0, 59).map(lambda step: BASE + step * MINUTE + timedelta(seconds=step))
boundaries = st.builds(
    lambda window, beside: BASE + window * WINDOW + beside * MICROSECOND,
    st.integers(0, 6),
    st.sampled_from([-1, 0, 0, 1]),
)
instants = inside | boundaries
transactions = st.lists(
    st.dictionaries(instants, values | counter, min_size=1, max_size=8), min_size=1, max_size=6
)


@dataclass(frozen=True)
class Step:
    """What happens after a transaction."""

    runs: bool
    initial: bool


def number(value: Value, *, booleans: bool) -> float | None:
    if isinstance(value, str) or (isinstance(value, bool) and not booleans):
        return None
    return float(value)


def unusable(reduce: str, samples: Samples, start: datetime) -> bool:
    """Whether a sample of the window is no number for a reduction that needs one."""
    kinds = {"mean": str, "min": str, "max": str, "sum": str, "delta": str | bool}
    found = [value for at, value in samples.items() if start <= at < start + WINDOW]
    return reduce in kinds and any(isinstance(value, kinds[reduce]) for value in found)


def delta(samples: Samples, start: datetime) -> float | None:
    numbers = [
        (at, made)
        for at, value in sorted(samples.items())
        if at < start + WINDOW and (made := number(value, booleans=False)) is not None
    ]
    total = None
    for (_, prior), (at, current) in itertools.pairwise(numbers):
        if at >= start:
            total = (total or 0.0) + (current if current < prior else current - prior)
    return total


def reduced(reduce: str, samples: Samples, start: datetime) -> Value | None:
    inside = [value for at, value in sorted(samples.items()) if start <= at < start + WINDOW]
    if unusable(reduce, samples, start):
        return None
    numbers = [made for value in inside if (made := number(value, booleans=True)) is not None]
    match reduce:
        case "last":
            return inside[-1] if inside else None
        case "count":
            return float(len(inside)) if inside else None
        case "delta":
            return delta(samples, start)
        case _ if not numbers:
            return None
        case "mean":
            return math.fsum(numbers) / len(numbers)
        case "min":
            return min(numbers)
        case "max":
            return max(numbers)
        case _:
            return math.fsum(numbers)


STARTS = [BASE + number * WINDOW for number in range(-1, 7)]


def expected(samples: Samples) -> dict[tuple[str, datetime], Value]:
    starts = STARTS
    windows = {
        (reduce, start): reduced(reduce, samples, start)
        for reduce in REDUCTIONS
        if reduce != "each"
        for start in starts
    }
    return {key: value for key, value in windows.items() if value is not None} | {
        ("each", at): value for at, value in samples.items()
    }


def same(left: Value | None, right: Value) -> bool:
    if isinstance(left, bool | str) or isinstance(right, bool | str) or left is None:
        return type(left) is type(right) and left == right
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-6)


@given(
    written=transactions,
    history=st.integers(0, 3),
    steps=st.lists(st.builds(Step, runs=st.booleans(), initial=st.booleans()), min_size=6, max_size=6),
)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_reduction_agrees_with_a_plain_one(
    database: Database, written: list[Samples], history: int, steps: list[Step]
) -> None:
    connector = Scripted()
    name = f"c{next(_numbers)}"
    # A hundred examples and their shrinking make more connections than the default pool has credits for.
    await sync_capacity(database, CreditsSettings(capacity=10_000_000))
    rig = Rig(database, connector, name=name, customer=name, rules=RULES, initial_days=1)
    stored: Samples = {}
    for samples in written[:history]:
        await rig.store(*[("d", at, value) for at, value in samples.items()])
        stored |= samples
    await rig.activate()
    done = False
    for samples, step in zip(written[history:], steps, strict=False):
        await rig.store(*[("d", at, value) for at, value in samples.items()])
        stored |= samples
        if step.runs:
            await rig.run()
        if step.initial and not done:
            done = (await rig.run("initial"))["state"] == "done"
    if not done:
        assert (await rig.run("initial"))["state"] == "done"
    await rig.run()
    wanted = expected(stored)
    delivered = await rig.delivered()
    assert {
        key: (delivered.get(key), value)
        for key, value in wanted.items()
        if not same(delivered.get(key), value)
    } == {}
    dead = {(row["meter"], row["window_start"]): row["reason"] for row in await rig.dead()}
    assert set(dead.values()) <= {"unusable_value", "withdrawn"}
    bad = {(reduce, start) for reduce in REDUCTIONS for start in STARTS if unusable(reduce, stored, start)}
    assert bad <= dead.keys(), "what has no value is told"
    assert delivered.keys() - wanted.keys() <= {key for key in dead if dead[key] == "withdrawn"}
    held = {(reading.meter, reading.window_start): reading.value for reading in connector.taken}
    assert held == delivered, "what we believe of the system is what it holds"
    assert [row for row in await rig.due() if row["closes_at"] <= datetime.now(UTC)] == []
    for before, after in itertools.pairwise([r for r in connector.taken if r.meter == "last"]):
        assert before.key != after.key or before.value != after.value, "an equal value is not sent again"
