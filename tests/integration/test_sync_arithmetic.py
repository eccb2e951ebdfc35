"""Counters, limits, states and silence as devices really send them, through the scan and the delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from gateway.meter_settings import MeterSettings
from gateway.model.alone import alone
from gateway.model.arithmetic import PLAIN, Arithmetic
from gateway.model.meter import HELD, REDUCTIONS, MeterRule, Reduce, apply_rule
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch
from gateway.model.sample import Value
from gateway.store.pool import Database
from gateway.store.views import Views
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig


async def taken(
    database: Database,
    values: list[tuple[timedelta, Value]],
    reduce: Reduce,
    arithmetic: Arithmetic,
    *,
    unit: str | None = None,
) -> dict[int, Value]:
    """What the system holds by the hour, after one run for each sample."""
    rule = MeterRule(
        device="d", metric="t", meter="m", unit=unit, reduce=reduce, every=HOUR, arithmetic=arithmetic
    )
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    for at, value in values:
        await rig.store(("d", BASE + at, value))
        await rig.run()
    return {(start - BASE) // HOUR: value for (_, start), value in (await rig.delivered()).items()}


def every_hour(*values: Value) -> list[tuple[timedelta, Value]]:
    return [(index * HOUR, value) for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "arithmetic", "total"),
    [
        ((1000.02, 1000.01, 1000.03), Arithmetic(), 0.02),
        ((65535, 3), Arithmetic(rollover=65536.0), 4.0),
        ((20000, 3), Arithmetic(rollover=65536.0), 3.0),
        ((1000, 7, 9), Arithmetic(), 9.0),
        ((1000, 400, 450), Arithmetic(reset_below=100.0), 50.0),
        ((1000, 1001, 0, 1002), Arithmetic(valid=(1.0, 1e9)), 2.0),
        ((10, 14, 20), Arithmetic(scale=0.1), 1.0),
    ],
)
async def test_a_counter_counts_what_it_counted(
    database: Database, values: tuple[float, ...], arithmetic: Arithmetic, total: float
) -> None:
    found = await taken(database, every_hour(*values), "delta", arithmetic)
    assert all(isinstance(value, int | float) and value >= 0 for value in found.values())
    assert sum(float(value) for value in found.values()) == pytest.approx(total)


async def test_a_machine_that_reports_changes_alone_has_run_in_the_hours_between(database: Database) -> None:
    values: list[tuple[timedelta, Value]] = [(30 * MINUTE, True), (3 * HOUR + 15 * MINUTE, False)]
    assert await taken(database, values, "run_time", Arithmetic(), unit="HUR") == {
        0: 0.5,
        1: 1.0,
        2: 1.0,
        3: 0.25,
    }


async def test_a_value_counts_no_longer_than_it_is_held(database: Database) -> None:
    values: list[tuple[timedelta, Value]] = [(30 * MINUTE, 12.0), (3 * HOUR, 0.0)]
    arithmetic = Arithmetic(threshold=10.0, hold=HOUR)
    assert await taken(database, values, "run_time", arithmetic) == {0: 1800.0, 1: 1800.0, 3: 0.0}


async def test_a_late_sample_corrects_the_hours_that_it_is_held_over(database: Database) -> None:
    values: list[tuple[timedelta, Value]] = [(timedelta(0), 10.0), (3 * HOUR, 10.0), (30 * MINUTE, 20.0)]
    assert await taken(database, values, "time_weighted_mean", Arithmetic()) == {
        0: 15.0,
        1: 20.0,
        2: 20.0,
        3: 10.0,
    }


async def test_edges_are_counted_over_the_ends_of_windows(database: Database) -> None:
    assert await taken(database, every_hour(0, 3, 4, 1, 9), "cycles", Arithmetic(threshold=2.0)) == {
        1: 1.0,
        2: 0.0,
        3: 0.0,
        4: 1.0,
    }


async def test_a_value_that_is_corrected_to_nonsense_is_withdrawn(database: Database) -> None:
    rule = MeterRule(
        device="d",
        metric="t",
        meter="m",
        reduce="mean",
        every=HOUR,
        arithmetic=Arithmetic(valid=(-40.0, 85.0)),
    )
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    await rig.store(("d", BASE, 20.0), ("d", BASE + HOUR, 1e9))
    await rig.run()
    assert await rig.delivered() == {("m", BASE): 20.0}
    await rig.store(("d", BASE, 850.0))
    await rig.run()
    assert [row["reason"] for row in await rig.dead()] == ["withdrawn"]


async def test_a_text_under_a_scale_is_told(database: Database) -> None:
    rule = MeterRule(
        device="d", metric="t", meter="m", reduce="last", every=HOUR, arithmetic=Arithmetic(scale=2.0)
    )
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    await rig.store(("d", BASE, "on"))
    await rig.run()
    assert [row["reason"] for row in await rig.dead()] == ["unusable_value"]


async def test_an_unchanged_value_is_sent_again_after_the_silence(database: Database) -> None:
    rule = MeterRule(
        device="d", metric="t", meter="m", every=HOUR, deadband=1.0, max_silence=timedelta(hours=2)
    )
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    for hour in range(5):
        await rig.store(("d", BASE + hour * HOUR, 20.0))
        await rig.run()
    assert {(start - BASE) // HOUR for _, start in await rig.delivered()} == {0, 2, 4}


async def test_a_changed_factor_corrects_what_was_delivered(database: Database) -> None:
    rule = MeterRule(device="d", metric="t", meter="m", every=HOUR)
    rig = await Rig(database, Scripted(), rules=(rule,), initial_days=1).activate()
    await rig.store(("d", BASE, 215))
    await rig.run()
    await rig.change_rules(
        MeterRule(device="d", metric="t", meter="m", every=HOUR, arithmetic=Arithmetic(scale=0.1))
    )
    await rig.run("initial")
    assert await rig.delivered() == {("m", BASE): 21.5}


def converted(**given: object) -> MeterRule:
    made = MeterSettings.model_validate({"device": "d", "metric": "t", "meter": "m", "every": "1h", **given})
    return MeterRule(
        device="d",
        metric="t",
        meter="m",
        unit=made.told_unit,
        reduce=made.reduce,
        every=HOUR,
        deadband=made.deadband,
        arithmetic=made.arithmetic,
    )


async def test_the_system_is_told_the_unit_and_the_deadband_is_in_it(database: Database) -> None:
    """68.8 °F is 0.44 °C above 68 °F, and 68.95 °F is 0.53 °C above."""
    system = Scripted()
    rule = converted(**{"from": "degF", "to": "CEL", "deadband": 0.5, "valid": [-40, 212]})
    rig = await Rig(database, system, rules=(rule,)).activate()
    for hour, value in enumerate([68.0, 68.8, 68.95, 212.5]):
        await rig.store(("d", BASE + hour * HOUR, value))
        await rig.run()
    assert await rig.delivered() == {("m", BASE): 20.0, ("m", BASE + 2 * HOUR): (68.95 * 100 - 3200) / 180}
    assert {reading.unit for reading in system.taken} == {"CEL"}


async def test_a_rise_in_another_unit_has_no_zero(database: Database) -> None:
    found = await rises(database, {"from": "degF", "to": "CEL", "reduce": "delta"}, 50, 59, 77)
    assert found == {1: 5.0, 2: 10.0}


async def rises(database: Database, given: dict[str, object], *values: float) -> dict[int, Value]:
    rig = await Rig(database, Scripted(), rules=(converted(**given),)).activate()
    for at, value in every_hour(*values):
        await rig.store(("d", BASE + at, value))
        await rig.run()
    return {(start - BASE) // HOUR: value for (_, start), value in (await rig.delivered()).items()}


async def test_another_unit_corrects_what_was_delivered_and_takes_texts_back(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(converted(),), initial_days=1).activate()
    await rig.store(("d", BASE, 212), ("d", BASE + HOUR, "warm"))
    await rig.run()
    await rig.change_rules(converted(**{"from": "degF", "to": "CEL"}))
    await rig.run("initial")
    assert (await rig.delivered())["m", BASE] == 100.0
    assert {(row["window_start"], row["reason"]) for row in await rig.dead()} == {(BASE + HOUR, "withdrawn")}


async def test_a_number_that_another_unit_cannot_hold_is_refused(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(converted(**{"from": "km", "to": "mm"}),)).activate()
    await rig.store(("d", BASE, 2**53 - 1), ("d", BASE + HOUR, 3))
    await rig.run()
    assert await rig.delivered() == {("m", BASE + HOUR): 3e6}
    assert [row["reason"] for row in await rig.dead()] == ["not_exact"]


WHOLE = [reduce for reduce in REDUCTIONS if reduce != "time_weighted_mean"]
"""Reductions that tell 2^53 + 1 from 2^53."""


@pytest.mark.parametrize("value", [2120, 21.7, True, "on", 2**53 + 1, 2**53 + 3, 1e160])
async def test_what_is_explained_of_a_sample_is_what_is_delivered(database: Database, value: Value) -> None:
    """By every reduction, plain and with all that is done to a number."""
    system, rules = Scripted(), []
    for reduce in REDUCTIONS if value != 2**53 + 1 else WHOLE:
        units = (
            {} if reduce in ("count", "cycles", "run_time") else {"from": "psi", "to": "BAR", "scale": 0.1}
        )
        for meter, given in ((reduce, {}), (f"{reduce} in bar", units)):
            rules.append(replace(converted(reduce=reduce, **given), meter=meter))
    rig = await Rig(database, system, rules=tuple(rules)).activate()
    await rig.store(("d", BASE, value))
    await rig.run()
    found = {
        rule.meter: alone(
            "c", apply_rule(rule, "d", resolution=timedelta(0)), value, BASE, system.capabilities
        )
        for rule in rules
    }
    told = {meter: one.reading for meter, one in found.items() if one.reading is not None}
    delivered = {meter: reading for (meter, _), reading in (await rig.delivered()).items()}
    if not isinstance(value, str):  # a device that says "on" has run until the window ended
        delivered = {meter: one for meter, one in delivered.items() if not meter.startswith("run_time")}
    assert delivered == told
    assert {row["meter"] for row in await rig.dead()} == {
        meter for meter, one in found.items() if one.refused is not None
    }


async def test_a_window_without_samples_that_was_refused_can_be_tried_again(database: Database) -> None:
    """Its value is held from before it."""
    connector = Scripted()
    rule = MeterRule(
        device="d",
        metric="t",
        meter="m",
        reduce="time_weighted_mean",
        every=10 * MINUTE,
        arithmetic=Arithmetic(hold=HOUR),
    )
    rig = await Rig(database, connector, rules=(rule,)).activate()

    async def refuse(batch: Batch) -> list[Outcome]:
        return [Rejected(code="closed", message="not now") for _ in batch.readings]

    connector.answer = refuse
    await rig.store(("d", BASE, 5.0), ("d", BASE + 30 * MINUTE, 7.0))
    await rig.run()
    refused = [row["window_start"] for row in await rig.dead()]
    assert refused == [BASE + 10 * minutes * MINUTE for minutes in range(4)]
    connector.answer = None
    assert await Views(database).replay(rig.name, None) == 4
    await rig.run()
    assert [value for _, value in sorted((await rig.delivered()).items())] == [5.0, 5.0, 5.0, 7.0]
    assert await rig.dead() == []


@pytest.mark.parametrize(
    ("reduce", "values", "wanted", "former"),
    [
        ("mean", (44.97, 44.99, 44.95), 44.97, 44.970000000000006),
        ("mean", (44.95, 44.95, 44.95), 44.95, 44.95000000000001),
        ("sum", (0.1, 0.2), 0.3, 0.30000000000000004),
        ("delta", (1000.02, 1000.03), 0.01, 0.009999999999990905),
        ("delta", (65535.9, 0.3), 0.4, 0.3999999999985448),
        ("time_weighted_mean", (0.2, 1.1, 1.1), 1.085, 1.0850000000000002),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.1])
async def test_numbers_are_added_as_people_add_them(
    database: Database, reduce: Reduce, values: tuple[float, ...], wanted: float, former: float, scale: float
) -> None:
    """And what an earlier version delivered with the noise of doubles is left as it is, until a sample changes
    it. What this one delivered is corrected, however little differs.
    """
    system = Scripted()
    arithmetic = Arithmetic(rollover=65536.0 if reduce == "delta" else None, scale=scale)
    if reduce in HELD:
        arithmetic = replace(arithmetic, hold=HOUR)
    rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, every=HOUR, arithmetic=arithmetic)
    rig = await Rig(database, system, rules=(rule,)).activate()
    await rig.store(*[("d", BASE + at * MINUTE, value) for at, value in enumerate(values)])
    await rig.run()
    assert await rig.delivered() == {("m", BASE): arithmetic.reading(wanted)}
    noisy = arithmetic.reading(former)
    await rig.execute("update delivery set value = to_jsonb($1::float8), delivered_at = '2026-01-01'", noisy)
    await rig.execute(
        "insert into due_window (connection_id, meter, window_start, phase, closes_at)"
        " values ($1, 'm', $2, 'incremental', now())",
        rig.name,
        BASE,
    )
    await rig.run()
    assert (await rig.delivered())["m", BASE] == noisy and len(system.taken) == 1 and not await rig.due()
    await rig.store(("d", BASE + HOUR / 2, values[-1] + 0.01))
    await rig.run()
    assert len(system.taken) == 2


async def test_a_small_correction_of_a_large_sum_is_told(database: Database) -> None:
    """The sum of a day has more digits than what was measured: none of them is noise."""
    system = Scripted()
    rule = MeterRule(device="d", metric="t", meter="m", reduce="sum", every=HOUR)
    rig = await Rig(database, system, rules=(rule,)).activate()
    await rig.store(*[("d", BASE + at * MINUTE / 60, 1_000_064.567123) for at in range(2999)])
    await rig.run()
    await rig.store(("d", BASE + HOUR / 2 + MINUTE / 120, 0.0005))
    await rig.run()
    first, second = (reading.value for reading in system.taken)
    assert isinstance(first, float) and isinstance(second, float)
    assert second - first == pytest.approx(0.0005, abs=1e-5)


@pytest.mark.parametrize("reduce", ["mean", "sum", "delta"])
async def test_what_is_less_than_a_double_holds_is_no_failure(database: Database, reduce: Reduce) -> None:
    values: list[tuple[timedelta, Value]] = [(timedelta(0), 0.0), (MINUTE, 5e-324), (2 * MINUTE, 0.0)]
    found = await taken(database, values, reduce, PLAIN)
    assert found == {0: 0.0 if reduce == "mean" else 5e-324}


@pytest.mark.parametrize("reduce", ["mean", "sum", "delta", "time_weighted_mean"])
@pytest.mark.parametrize("number", [2**53 + 1, 10**16 + 1])
async def test_a_whole_number_that_no_double_holds_is_not_rounded(
    database: Database, reduce: Reduce, number: int
) -> None:
    arithmetic = Arithmetic(hold=HOUR) if reduce in HELD else PLAIN
    rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, every=HOUR, arithmetic=arithmetic)
    rig = await Rig(database, rules=(rule,)).activate()
    await rig.store(("d", BASE, number))
    await rig.run()
    assert await rig.delivered() == {} and [row["reason"] for row in await rig.dead()] == ["not_exact"]


@settings(max_examples=1, suppress_health_check=list(HealthCheck), deadline=None)
@drawn(
    windows=st.lists(
        st.lists(
            st.decimals(-9999, 9999, places=3).map(float) | st.floats(-1e100, 1e100) | st.booleans(),
            min_size=1,
            max_size=7,
        ),
        min_size=60,
        max_size=60,
    )
)
async def test_mean_and_sum_are_the_fractions_rounded_once(
    database: Database, windows: list[list[float]]
) -> None:
    rules = tuple(
        MeterRule(device="d", metric="t", meter=reduce, reduce=reduce, every=MINUTE)
        for reduce in ("mean", "sum")
    )
    rig = await Rig(database, Scripted(), rules=rules).activate()
    samples = [
        ("d", BASE + place * MINUTE + timedelta(seconds=at), value)
        for place, values in enumerate(windows)
        for at, value in enumerate(values)
    ]
    await rig.store(*samples)
    await rig.run()
    found = await rig.delivered()
    for place, values in enumerate(windows):
        total = sum(Fraction(Decimal(repr(value + 0))) for value in values)
        start = BASE + place * MINUTE
        if not 0 < abs(total) < Fraction(1, 10**15):
            assert found["mean", start] == float(total / len(values))
        if sum(map(abs, values)) < 2**53:
            assert found["sum", start] == float(total)
