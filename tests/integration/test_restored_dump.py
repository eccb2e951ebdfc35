"""A logical dump goes into another cluster: there is nothing to do, nothing is lost and
nothing comes twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from benchmarks.servers import Postgres
from gateway.model.event import EventType, NewEvent
from gateway.store import outbox
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.dumps import dump, restore
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, HOUR, Rig, values


@pytest.mark.parametrize("ahead", [True, False])
async def test_a_dump_goes_on_in_another_cluster(
    database: Database, dsn: str, make_postgres: Callable[..., Awaitable[Postgres]], ahead: bool
) -> None:
    """Whichever of the clusters has done more transactions."""
    other = await make_postgres(fsync="off")
    target_dsn = await other.create("restored")
    await _pass_transactions(dsn if ahead else target_dsn, 3_000)
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.store(("d1", BASE, 1.0), ("d2", BASE, 2.0))
    await rig.run()
    await _tell(database, "before")
    told = await outbox.read(database, customer=None)
    # not scanned when the dump is made: a change, an addition, a day long ago, a device that nobody knows
    await rig.store(("d1", BASE, 3.0), ("d2", BASE + HOUR, 4.0), ("d2", BASE - timedelta(days=9), 5.0))
    await rig.store(("d3", BASE, 6.0))
    await _tell(database, "unread")

    await restore(target_dsn, await dump(dsn))
    restored = await Database.open(target_dsn, size=4)
    try:
        assert await migrate(restored) == []
        rig = replace(rig, database=restored)
        await rig.run()
        expected = [("d1", 1.0), ("d1", 3.0), ("d2", 2.0), ("d2", 4.0), ("d2", 5.0), ("d3", 6.0)]
        assert sorted(values(connector)) == expected
        await rig.store(("d1", BASE + HOUR, 7.0), ("d4", BASE, 8.0), ("d1", BASE, 3.0))
        await rig.run(times=2)
        assert sorted(values(connector)) == sorted([*expected, ("d1", 7.0), ("d4", 8.0)])
        assert await rig.due() == []
        await _tell(restored, "after")
        later = await outbox.read(restored, customer=None, after=told[-1].position)
        assert [event.data["n"] for event in later if event.customer is None] == ["unread", "after"]
    finally:
        await restored.close()


async def _tell(database: Database, name: str) -> None:
    async with database.transaction() as connection:
        event = NewEvent(
            type=EventType.CONNECTION_ACTIVATED, customer=None, connection=None, data={"n": name}
        )
        await outbox.append(connection, event)


async def _pass_transactions(dsn: str, count: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(count):
            await connection.execute("select pg_current_xact_id()")
    finally:
        await connection.close()
