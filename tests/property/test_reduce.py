"""What a system holds in the end is what a plain reading of all samples gives, whatever
order they came in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.meter_settings import MeterSettings
from gateway.model.arithmetic import PLAIN, Arithmetic
from gateway.model.meter import REDUCTIONS, MeterRule, Reduce
from gateway.model.sample import Value
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

WINDOW = 10 * MINUTE
HOLD = 15 * MINUTE
ARITHMETIC = {
    "mean": Arithmetic(valid=(-1000.0, 1000.0), scale=0.1, offset=-5.0),
    "last": Arithmetic(valid=(0.0, 40.0), scale=2.0),
    "first": Arithmetic(valid=(0.0, 40.0)),
    "each": Arithmetic(scale=10.0, offset=1.0),
    "min": Arithmetic(valid=(0.0, 40.0)),
    "max": Arithmetic(scale=0.5),
    "sum": Arithmetic(valid=(0.0, 40.0), scale=0.25),
    "count": Arithmetic(valid=(0.0, 40.0)),
    "delta": Arithmetic(valid=(0.0, 1000.0), rollover=1024.0, reset_below=100.0, scale=0.5),
    "cycles": Arithmetic(valid=(0.0, 1000.0), threshold=25.0),
    "run_time": Arithmetic(valid=(0.0, 1000.0), threshold=25.0, hold=HOLD),
    "time_weighted_mean": Arithmetic(valid=(0.0, 1000.0), hold=HOLD, scale=4.0),
}
CONVERTED: dict[str, tuple[dict[str, str], Callable[[float], float]]] = {
    **{
        reduce: ({"from": "degF", "to": "CEL"}, lambda number: (number - 32) * 5 / 9)
        for reduce in ("last", "first", "each", "mean", "min", "max", "time_weighted_mean")
    },
    "delta": ({"from": "degF", "to": "CEL"}, lambda number: number * 5 / 9),
    "sum": ({"from": "lb", "to": "KGM"}, lambda number: number * 0.45359237),
    "run_time": ({"to": "DAY"}, lambda seconds: seconds / 86400),
}
"""By reduction: the units, and what becomes of the reduced number."""


def converted(reduce: Reduce, units: dict[str, str]) -> MeterRule:
    wanted = {"device": "d", "metric": "t", "meter": "m", "reduce": reduce, "valid": (-1e5, 1e5), **units}
    made = MeterSettings.model_validate(wanted)
    return MeterRule(
        device="d",
        metric="t",
        meter=f"{reduce} converted",
        unit=made.told_unit,
        reduce=reduce,
        every=WINDOW,
        arithmetic=made.arithmetic,
    )


RULES = (
    tuple(
        MeterRule(device="d", metric="t", meter=reduce, reduce=reduce, every=WINDOW) for reduce in REDUCTIONS
    )
    + tuple(
        MeterRule(
            device="d",
            metric="t",
            meter=f"{reduce} reckoned",
            unit="HUR" if reduce == "run_time" else None,
            reduce=reduce,
            every=WINDOW,
            arithmetic=ARITHMETIC[reduce],
        )
        for reduce in REDUCTIONS
    )
    + tuple(converted(reduce, CONVERTED[reduce][0]) for reduce in REDUCTIONS if reduce in CONVERTED)
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


def within(arithmetic: Arithmetic, value: Value) -> bool:
    return (
        isinstance(value, bool | str)
        or arithmetic.valid is None
        or arithmetic.valid[0] <= value <= arithmetic.valid[1]
    )


def used(rule: MeterRule, samples: Samples) -> list[tuple[datetime, Value]]:
    return [(at, value) for at, value in sorted(samples.items()) if within(rule.arithmetic, value)]


NO_TEXT = ("mean", "min", "max", "sum", "cycles", "run_time", "time_weighted_mean")


def unusable(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> bool:
    """Whether a sample of the window is no number for a reduction, or a scale, that needs one."""
    found = [value for at, value in used(rule, samples) if start <= at < until]
    is_scaled = (rule.arithmetic.scale, rule.arithmetic.offset) != (1.0, 0.0) or is_converted(rule)
    match rule.reduce:
        case "last" | "each":
            return is_scaled and bool(found) and isinstance(found[-1], bool | str)
        case "first":
            return is_scaled and bool(found) and isinstance(found[0], bool | str)
        case "delta":
            return any(isinstance(value, bool | str) for value in found)
        case _:
            return rule.reduce in NO_TEXT and any(isinstance(value, str) for value in found)


def step(arithmetic: Arithmetic, prior: float, current: float) -> float:
    """The increase of a counter between two readings of it."""
    if current >= prior:
        return current - prior
    end = arithmetic.rollover
    if end is not None and current >= 0 and prior <= end and prior - current > end / 2:
        return end - prior + current
    limit = prior / 2 if arithmetic.reset_below is None else arithmetic.reset_below
    began_again = current < limit
    if prior < 0 and arithmetic.reset_below is None:
        began_again = True
    return max(current, 0.0) if began_again else 0.0


def delta(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> float | None:
    numbers = [
        (at, made)
        for at, value in used(rule, samples)
        if at < until and (made := number(value, booleans=False)) is not None
    ]
    total = None
    for (_, prior), (at, current) in itertools.pairwise(numbers):
        if at >= start:
            total = (total or 0.0) + step(rule.arithmetic, prior, current)
    return total


def is_on(rule: MeterRule, value: Value) -> bool:
    return value if isinstance(value, bool) else float(value) > rule.arithmetic.threshold


def cycles(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> float | None:
    states = [
        (at, is_on(rule, value))
        for at, value in used(rule, samples)
        if at < until and not isinstance(value, str)
    ]
    edges = [now and not before for (_, before), (at, now) in itertools.pairwise(states) if at >= start]
    return float(sum(edges)) if edges else None


def pieces(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> list[tuple[Value, float]]:
    """What the metric is over the window: values and for how many seconds."""
    held = rule.arithmetic.hold or timedelta(days=1)
    known = [(at, value) for at, value in used(rule, samples) if not isinstance(value, str)]
    ends = [*(at for at, _ in known[1:]), datetime.max.replace(tzinfo=UTC)][: len(known)]
    found = []
    for (at, value), following in zip(known, ends, strict=True):
        begins, ends_at = max(at, start), min(following, at + held, until)
        if begins < ends_at:
            found.append((value, (ends_at - begins).total_seconds()))
    return found if start <= max(samples) else []


def over_time(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> float | None:
    found = pieces(rule, samples, start, until)
    if not found:
        return None
    if rule.reduce == "run_time":
        on = math.fsum(seconds for value, seconds in found if is_on(rule, value))
        return on / 3600 if rule.unit == "HUR" else on
    return math.fsum(float(v) * seconds for v, seconds in found) / math.fsum(s for _, s in found)


def reduced(rule: MeterRule, samples: Samples, start: datetime, until: datetime) -> Value | None:
    inside = [value for at, value in used(rule, samples) if start <= at < until]
    if unusable(rule, samples, start, until):
        return None
    numbers = [made for value in inside if (made := number(value, booleans=True)) is not None]
    match rule.reduce:
        case "last":
            return inside[-1] if inside else None
        case "first":
            return inside[0] if inside else None
        case "count":
            return float(len(inside)) if inside else None
        case "delta":
            return delta(rule, samples, start, until)
        case "cycles":
            return cycles(rule, samples, start, until)
        case "run_time" | "time_weighted_mean":
            return over_time(rule, samples, start, until)
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


def is_converted(rule: MeterRule) -> bool:
    return rule.meter.endswith(" converted")


def reading(rule: MeterRule, value: Value) -> Value:
    arithmetic = rule.arithmetic
    if is_converted(rule):
        return CONVERTED[rule.reduce][1](float(value))
    if (arithmetic.scale, arithmetic.offset) == (1.0, 0.0):
        return value
    return float(value) * arithmetic.scale + arithmetic.offset


STARTS = [BASE + number * WINDOW for number in range(-1, 7)]


def expected(samples: Samples) -> dict[tuple[str, datetime], Value]:
    wanted = {}
    for rule in RULES:
        if rule.reduce == "each":
            for at, value in used(rule, samples):
                is_plain = rule.arithmetic == PLAIN and not is_converted(rule)
                if is_plain or not isinstance(value, bool | str):
                    wanted[rule.meter, at] = reading(rule, value)
            continue
        for start in STARTS:
            value = reduced(rule, samples, start, start + WINDOW)
            if value is not None:
                wanted[rule.meter, start] = reading(rule, value)
    return wanted


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
    bad = {
        (rule.meter, start)
        for rule in RULES
        if rule.reduce != "each"
        for start in STARTS
        if unusable(rule, stored, start, start + WINDOW)
    }
    assert bad <= dead.keys(), "what has no value is told"
    assert delivered.keys() - wanted.keys() <= {key for key in dead if dead[key] == "withdrawn"}
    held = {(reading.meter, reading.window_start): reading.value for reading in connector.taken}
    assert held == delivered, "what we believe of the system is what it holds"
    assert [row for row in await rig.due() if row["closes_at"] <= datetime.now(UTC)] == []
    for before, after in itertools.pairwise([r for r in connector.taken if r.meter == "last"]):
        assert before.key != after.key or before.value != after.value, "an equal value is not sent again"
