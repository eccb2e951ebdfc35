"""Values that are no number, too large, or gone: told, and never changed or dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model.meter import MeterRule, Reduce
from gateway.store.pool import Database
from gateway.store.views import Views
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, CUSTOMER, HOUR, MINUTE, Rig

NUMERIC: tuple[Reduce, ...] = ("mean", "min", "max", "sum", "delta")


def rule(reduce: Reduce) -> MeterRule:
    return MeterRule(device="d", metric="t", meter=reduce, reduce=reduce, every=HOUR)


async def told(rig: Rig) -> dict[str, tuple[str, str]]:
    return {row["meter"]: (row["reason"], row["detail"]) for row in await rig.dead()}


async def events(rig: Rig) -> list[dict[str, Any]]:
    rows = await rig.rows("select data from event where type = 'reading.dead_lettered' order by position")
    return [row["data"] for row in rows]


async def test_a_text_under_a_numeric_reduction_is_a_dead_letter_and_not_silence(database: Database) -> None:
    connector = Scripted()
    rules = [rule(reduce) for reduce in (*NUMERIC, "count", "last")]
    rig = await Rig(database, connector, rules=tuple(rules)).activate()
    await rig.store(("d", BASE - HOUR, 1.0), ("d", BASE, 40.0), ("d", BASE + MINUTE, "41.2"))
    await rig.run()
    letters = await told(rig)
    assert {meter: reason for meter, (reason, _) in letters.items()} == dict.fromkeys(
        NUMERIC, "unusable_value"
    )
    assert all("'41.2'" in detail and "send a number" in detail for _, detail in letters.values())
    held = {meter: value for (meter, at), value in (await rig.delivered()).items() if at == BASE}
    assert held == {"count": 2, "last": "41.2"}
    assert sum(event["count"] for event in await events(rig)) == len(NUMERIC)
    await rig.store(("d", BASE + MINUTE, 41.25))
    await rig.run()
    held = {meter: value for (meter, at), value in (await rig.delivered()).items() if at == BASE}
    assert held == {
        "count": 2, "last": 41.25, "mean": 40.625, "min": 40, "max": 41.25, "sum": 81.25, "delta": 40.25,
    }  # fmt: skip
    assert await Views(database).replay(rig.name, None) == len(NUMERIC)
    await rig.run()
    assert await rig.dead() == [] and len(connector.taken) == len({r.key for r in connector.taken}) + 1


async def test_a_boolean_is_0_or_1_and_no_counter(database: Database) -> None:
    rig = await Rig(database, rules=tuple(rule(reduce) for reduce in NUMERIC)).activate()
    await rig.store(("d", BASE, True), ("d", BASE + MINUTE, False))
    await rig.run()
    assert {meter: value for (meter, _), value in (await rig.delivered()).items()} == {
        "mean": 0.5, "min": 0, "max": 1, "sum": 1,
    }  # fmt: skip
    assert {meter: reason for meter, (reason, _) in (await told(rig)).items()} == {"delta": "unusable_value"}


@pytest.mark.parametrize("reduce", NUMERIC)
async def test_a_window_that_is_corrected_to_nothing_is_told(database: Database, reduce: Reduce) -> None:
    rig = await Rig(database, rules=(rule(reduce),)).activate()
    await rig.store(("d", BASE - HOUR, 1.0), ("d", BASE, 4.0))
    await rig.run()
    delivered = await rig.delivered()
    await rig.store(("d", BASE, "fault"))
    await rig.run()
    ((reason, detail),) = (await told(rig)).values()
    assert reason == "withdrawn" and "'fault'" in detail
    assert f"still holds {delivered[reduce, BASE]!r}" in detail
    assert [event["reasons"] for event in await events(rig)] == [{"withdrawn": 1}]
    assert await rig.delivered() == delivered and await rig.due() == []
    await rig.store(("d", BASE, 5.0))
    await rig.run()
    assert (await rig.delivered())[reduce, BASE] == (4 if reduce == "delta" else 5)


async def test_an_increase_whose_beginning_is_corrected_away_is_told(database: Database) -> None:
    rig = await Rig(database, rules=(rule("delta"),)).activate()
    await rig.store(("d", BASE - HOUR, 1.0), ("d", BASE, 4.0))
    await rig.run()
    assert await rig.delivered() == {("delta", BASE): 3}
    await rig.store(("d", BASE - HOUR, "fault"))
    await rig.run()
    letters = {row["window_start"]: (row["reason"], row["detail"]) for row in await rig.dead()}
    assert letters[BASE - HOUR][0] == "unusable_value"
    assert letters[BASE][0] == "withdrawn" and "still holds 3" in letters[BASE][1]


async def test_what_retention_has_taken_is_not_withdrawn(database: Database) -> None:
    rig = await Rig(database, rules=(rule("mean"),)).activate()
    await rig.store(("d", BASE, 4.0))
    await rig.run()
    await rig.execute("delete from telemetry")
    await rig.execute(
        "insert into due_window (connection_id, meter, window_start, phase, closes_at)"
        " values ($1, 'mean', $2, 'incremental', now())",
        rig.name,
        BASE,
    )
    await rig.run()
    assert await rig.dead() == [] and await rig.due() == []


@pytest.mark.parametrize(
    ("reduce", "samples", "value"),
    [
        ("sum", [2**53 - 2, 1], 2**53 - 1),
        ("sum", [2**53, 1], None),
        ("sum", [2**53, 1, -2], None),
        ("sum", [-(2**53), -1], None),
        ("delta", [0, 2**53, 0, 5], None),
        ("delta", [0, 2**53 - 1], 2**53 - 1),
        ("delta", [0, 2**53, 0, 1], None),
        ("mean", [2**53, 2**53], 2**53),
        ("mean", [1e200, 1.0], None),
        ("sum", [1e200, -1e200], None),
        ("max", [1e200, 1.0], 1e200),
        ("min", [1e200, 1.0], 1.0),
        ("max", [1e20, 1.0], 1e20),
        ("last", [1.0, 1e20], 1e20),
        ("sum", [0.1, 0.2], 0.3),
    ],
)
async def test_what_is_made_of_numbers_is_exact_or_refused(
    database: Database, reduce: Reduce, samples: list[float], value: float | None
) -> None:
    rig = await Rig(database, rules=(rule(reduce),)).activate()
    await rig.store(*[("d", BASE + number * MINUTE, sample) for number, sample in enumerate(samples)])
    await rig.run()
    if value is None:
        assert [reason for reason, _ in (await told(rig)).values()] == ["not_exact"]
        assert await rig.delivered() == {}
    else:
        assert await rig.delivered() == {(reduce, BASE): value} and await rig.dead() == []


@pytest.mark.parametrize("reduce", [*NUMERIC, "last"])
async def test_an_integer_that_was_stored_before_they_were_refused_is_not_changed_either(
    database: Database, reduce: Reduce
) -> None:
    rig = await Rig(database, rules=(rule(reduce),)).activate()
    await rig.store(("d", BASE - HOUR, 1.0), ("d", BASE, 1.0))
    await rig.execute(
        "update telemetry set metrics = '{\"t\": 89882390000123456789}' where customer_id = $1 and ts = $2",
        CUSTOMER,
        BASE,
    )
    await rig.run()
    assert [(reason, meter) for meter, (reason, _) in (await told(rig)).items()] == [("not_exact", reduce)]
    assert (reduce, BASE) not in await rig.delivered()
