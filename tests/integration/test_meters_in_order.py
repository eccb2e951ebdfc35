"""Whoever adds meters, makes them at the system, or drops what was not read, takes a connection's rows in the one order in which every
change of a connection does: its own row, its streams, its meters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.model.meter import MeterRule
from gateway.store import connections, meters_in_force, meters_made, retention
from gateway.store.pool import Connection, Database
from gateway.store.streams import RunTally
from gateway.sync import initial, meters
from gateway.sync.scan import scan_slice
from tests.fixtures.alerting import MAKES, Takes
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, DAY, HOUR, Rig
from tests.integration.test_sync_locks import somebody_waits

PATTERN = MeterRule(device="*", metric="*", meter="{device} {metric}", every=HOUR)
DEVICES = MeterRule(device="*", metric="t", meter="{device}", every=HOUR)


async def changed_meanwhile(rig: Rig, work: Callable[[], Awaitable[object]], *rules: MeterRule) -> None:
    """Does the work while somebody has begun to change the connection, who goes on when the work waits."""
    database = rig.database
    async with database.transaction() as connection:
        await connections.lock(connection, rig.name)
        working = asyncio.create_task(work())
        await somebody_waits(database)
        await meters_in_force.begin(connection, rig.name, rig._outbound(*rules))
    await working


@pytest.mark.parametrize("rule", [PATTERN, DEVICES], ids=["metric", "device"])
async def test_a_scan_that_adds_meters_waits_for_a_change_of_the_connection_in_no_circle(
    database: Database, rule: MeterRule
) -> None:
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    await rig.store(("a", BASE, 1.0))
    claim = await rig.claim()

    async def scan() -> None:
        assert await scan_slice(database, claim, rig.link, RunTally())

    await changed_meanwhile(rig, scan)
    assert [row["metric"] for row in await rig.rows("select metric from meter_mapping")] == ["t"]


async def test_a_walk_that_adds_meters_waits_for_a_change_of_the_connection_in_no_circle(
    database: Database,
) -> None:
    rig = Rig(database, Scripted(), rules=(PATTERN,), initial_days=1)
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    claim = await rig.claim("initial")

    async def walk() -> None:
        while not await initial.mark_more(database, claim, rig.link, RunTally()):
            pass

    await changed_meanwhile(rig, walk)
    assert [row["metric"] for row in await rig.rows("select metric from meter_mapping")] == ["t"]


async def test_a_meter_that_is_made_waits_for_a_change_of_the_connection_in_no_circle(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = MeterRule(device="*", metric="t", meter="{device}", every=HOUR, create=True)
    mean = MeterRule(device="*", metric="t", meter="{device}", every=HOUR, create=True, reduce="mean")
    rig = Rig(database, Takes(capabilities=MAKES), rules=(rule,))
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    claim = await rig.claim()
    is_stored, goes_on = asyncio.Event(), asyncio.Event()
    made = meters_made.made

    async def slowly(connection: Connection, connection_id: str, meter: str, *, title: str) -> None:
        await made(connection, connection_id, meter, title=title)
        is_stored.set()
        await goes_on.wait()

    monkeypatch.setattr(meters_made, "made", slowly)
    making = asyncio.create_task(meters.make(database, claim, rig.link, settings=rig.settings))
    await is_stored.wait()

    async def change() -> None:
        async with database.transaction() as connection:
            await connections.lock(connection, rig.name)
            await meters_in_force.begin(connection, rig.name, rig._outbound(mean, configuration=1))

    changing = asyncio.create_task(change())
    await somebody_waits(database)
    goes_on.set()
    assert await making == 1
    await changing
    assert [row["reduce"] for row in await rig.rows("select reduce from meter_mapping")] == ["mean"]


async def test_a_day_that_is_dropped_unread_waits_for_a_change_of_the_connection_in_no_circle(
    database: Database,
) -> None:
    rig = await Rig(database, Scripted(), rules=(DEVICES,), lateness=100 * DAY).activate()
    now = datetime.now(UTC)
    await rig.store(("a", now - 40 * DAY, 1.0))
    await rig.run()

    async def drop() -> None:
        dropped = await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY)
        assert len(dropped) == 1

    await changed_meanwhile(rig, drop, replace(DEVICES, reduce="mean"))
    assert await rig.due() == []
