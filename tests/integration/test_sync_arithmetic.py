"""Counters, limits, states and silence as devices really send them, through the scan and the delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.meter_settings import MeterSettings
from gateway.model.alone import alone
from gateway.model.arithmetic import Arithmetic
from gateway.model.meter import REDUCTIONS, MeterRule, Reduce, apply_rule
from gateway.model.sample import Value
from gateway.store.pool import Database
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
