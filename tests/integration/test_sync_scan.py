"""Scan: nothing that was committed is ever left behind the watermark, and only what changed becomes due."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from gateway.model.meter import MeterRule
from gateway.store import mappings
from gateway.store.pool import Connection, Database
from gateway.store.streams import RunTally
from gateway.sync import scan
from gateway.sync.scan import scan_slice
from tests.fixtures import log
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, CUSTOMER, DAY, HOUR, MINUTE, Rig, values


async def test_two_transactions_at_once_are_both_scanned(database: Database) -> None:
    """Source: airbyte#85918; a watermark on a change stamp misses every row of the slower transaction."""
    rig = await Rig(database).activate()
    await rig.store(("d1", BASE - 3 * HOUR, 1.0), ("d2", BASE - 3 * HOUR, 1.0))
    await rig.store(("d3", BASE, 1.0))  # its day is there, though it may be the next one
    async with database.transaction() as slow:
        await log.write(slow, (CUSTOMER, "d1", BASE, 7.0))
        quick = asyncio.create_task(rig.store(("d2", BASE, 7.0)))
        await rig.run()
        assert ("d1", BASE) not in await rig.delivered()
    await quick
    await rig.run()
    delivered = await rig.delivered()
    assert delivered[("d1", BASE)] == 7 and delivered[("d2", BASE)] == 7


async def test_a_revision_larger_than_a_slice_is_taken_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SLICE_ROWS", 3)
    rig = await Rig(database).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.store(*[(f"d{number}", BASE + number * MINUTE, float(number)) for number in range(10)])
    await rig.store(*[("d1", BASE + HOUR + number * MINUTE, float(number)) for number in range(2)])
    claim, tally, slices = await rig.claim(), RunTally(), 1
    while not await scan_slice(database, claim, rig.link, tally):
        slices += 1
        assert slices < 20
    assert tally.samples == 13 and slices > 1
    assert {row["meter"] for row in await rig.due()} == {f"d{number}" for number in range(10)}


async def test_a_slice_ends_between_revisions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SLICE_ROWS", 1)
    rig = await Rig(database).activate()
    for number in range(5):
        await rig.store((f"d{number}", BASE, 1.0))
    await rig.run()
    assert len(await rig.delivered()) == 5


async def test_a_device_that_registers_later_gets_its_meters(database: Database) -> None:
    rig = await Rig(database).activate()
    await rig.store(("old", BASE, 1.0))
    await rig.run()
    await rig.store(("new", BASE, 2.0))
    await rig.run()
    assert await rig.delivered() == {("old", BASE): 1, ("new", BASE): 2}


async def test_a_device_that_registers_while_meters_are_read_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database)
    await rig.store(("known", BASE - HOUR, 1.0))
    read = mappings.devices

    async def meanwhile(connection: Connection, customer: str, **between: int) -> list[str]:
        found = await read(connection, customer, **between)
        await rig.store(("meanwhile", BASE - HOUR, 1.0))
        return found

    monkeypatch.setattr(mappings, "devices", meanwhile)
    await rig.activate()
    monkeypatch.undo()
    await rig.store(("meanwhile", BASE, 5.0))
    await rig.run()
    assert (await rig.delivered())[("meanwhile", BASE)] == 5


async def test_two_devices_that_want_one_meter_the_first_stays(database: Database) -> None:
    rig = await Rig(
        database, rules=(MeterRule(device="d*", metric="t", meter="one", every=15 * MINUTE),)
    ).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.run()
    await rig.store(("d2", BASE + HOUR, 2.0))
    await rig.run()
    assert await rig.delivered() == {("one", BASE): 1}


async def test_a_correction_is_delivered_again_and_an_equal_value_is_not(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.run()
    await rig.store(("d1", BASE, 2.0))
    await rig.run()
    await rig.store(("d1", BASE + MINUTE, 2.0))
    await rig.run()
    assert values(connector) == [("d1", 1), ("d1", 2)]
    assert [reading.modified for reading in connector.taken] == [False, True]
    assert await rig.due() == []


async def test_a_window_waits_for_its_end_and_the_lateness(database: Database) -> None:
    rig = await Rig(database, lateness=DAY).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.run()
    (due,) = await rig.due()
    assert due["closes_at"] == BASE + 15 * MINUTE + DAY and await rig.delivered() == {}
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    assert await rig.delivered() == {("d1", BASE): 1}


async def test_each_sample_is_a_reading_at_the_systems_resolution(database: Database) -> None:
    rule = MeterRule(device="*", metric="t", meter="{device}", reduce="each", every=timedelta(0))
    rig = await Rig(database, rules=(rule,), lateness=DAY).activate()
    first = BASE + timedelta(microseconds=1)
    await rig.store(("d1", first, 1.0), ("d1", first + timedelta(microseconds=1), 2.0))
    await rig.run()
    assert await rig.delivered() == {("d1", first): 1, ("d1", first + timedelta(microseconds=1)): 2}


async def test_a_late_sample_makes_the_next_delta_due(database: Database) -> None:
    rig = await Rig(
        database, rules=(MeterRule(device="*", metric="t", meter="{device}", reduce="delta", every=HOUR),)
    ).activate()
    await rig.store(("d1", BASE - HOUR, 10.0), ("d1", BASE, 20.0))
    await rig.run()
    assert (await rig.delivered())[("d1", BASE)] == 10
    await rig.store(("d1", BASE - MINUTE, 15.0), ("d1", BASE - MINUTE + timedelta(seconds=1), 18.0))
    await rig.run()
    assert (await rig.delivered())[("d1", BASE)] == 2


async def test_a_text_between_two_numbers_does_not_hide_the_next_delta(database: Database) -> None:
    rig = await Rig(
        database, rules=(MeterRule(device="*", metric="t", meter="{device}", reduce="delta", every=HOUR),)
    ).activate()
    await rig.store(("d1", BASE - 2 * HOUR, 10.0), ("d1", BASE, "offline"), ("d1", BASE + HOUR, 20.0))
    await rig.run()
    assert (await rig.delivered())[("d1", BASE + HOUR)] == 10
    await rig.store(("d1", BASE - HOUR, 15.0))
    await rig.run()
    assert (await rig.delivered())[("d1", BASE + HOUR)] == 5


async def test_numbers_that_no_sum_can_hold_do_not_stop_the_stream(database: Database) -> None:
    rules = tuple(
        MeterRule(device="*", metric="t", meter="{device}-" + reduce, reduce=reduce, every=HOUR)
        for reduce in ("sum", "mean", "delta", "max")
    )
    rig = await Rig(database, rules=rules).activate()
    await rig.store(
        ("bad", BASE, 1.7e308),
        ("bad", BASE + MINUTE, -1.7e308),
        ("bad", BASE + 2 * MINUTE, 1.7e308),
        ("bad", BASE + 3 * MINUTE, 3.0),
        ("good", BASE, 1.0),
    )
    assert (await rig.run())["last_error"] is None
    delivered = await rig.delivered()
    assert delivered[("good-sum", BASE)] == 1 == delivered[("good-mean", BASE)]
    assert {row["meter"]: row["reason"] for row in await rig.dead()} == {
        "bad-sum": "not_exact",
        "bad-mean": "not_exact",
        "bad-delta": "not_exact",
    }
