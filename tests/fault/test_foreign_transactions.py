"""A transaction that somebody else leaves open delays no reading and no event: in the same database, in
another one of the cluster, a prepared one, a dump.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from benchmarks.servers import Postgres
from gateway.model.event import EventType, NewEvent
from gateway.store import outbox
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.dumps import begin_dump
from tests.fixtures.sync_rig import BASE, DAY, MINUTE, Rig

KINDS = ("same", "other", "prepared", "dump")
SHORT = 0.5
START = BASE - 10 * DAY
"""However fast the machine is: each window of the test has closed."""


@pytest.mark.parametrize("kind", KINDS)
async def test_readings_and_events_are_not_later(
    make_postgres: Callable[..., Awaitable[Postgres]], kind: str
) -> None:
    await _compare(make_postgres, kind, SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
async def test_readings_and_events_are_not_later_for_a_minute(
    make_postgres: Callable[..., Awaitable[Postgres]], kind: str
) -> None:
    await _compare(make_postgres, kind, 60.0)


async def _compare(make_postgres: Callable[..., Awaitable[Postgres]], kind: str, seconds: float) -> None:
    """Each sample is delivered by the run after it, each event is read by the next who asks, while it is
    open.
    """
    server = await make_postgres(fsync="off", max_prepared_transactions="2")
    dsn = await server.create("fieldgate")
    database = await Database.open(dsn, size=4)
    try:
        await migrate(database)
        rig = await Rig(database).activate()
        await rig.store(("known", START - MINUTE, 1.0))
        async with _open_elsewhere(server, dsn, kind):
            began, number, cursor = time.monotonic(), 0, 0
            while number < 3 or time.monotonic() < began + seconds:
                number += 1
                device = ("known", f"new-{number}")[number % 2]
                await rig.store((device, START + number * 15 * MINUTE, float(number)))
                await rig.run()
                assert (await rig.delivered())[(device, START + number * 15 * MINUTE)] == number
                await _tell(database, number)
                found = await outbox.read(database, customer=None, after=cursor)
                cursor = found[-1].position
                assert found[-1].data == {"n": number}
                await asyncio.sleep(seconds / 50)
    finally:
        await database.close()


@asynccontextmanager
async def _open_elsewhere(server: Postgres, dsn: str, kind: str) -> AsyncIterator[None]:
    """A transaction with an id, or a dump, that stays open."""
    if kind == "dump":
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "create table much as select repeat('x', 100) as x from generate_series(1, 50000)"
        )
        process = await begin_dump(dsn)
        assert process.stdout is not None
        await process.stdout.readexactly(100)
        try:
            yield
            assert process.returncode is None
        finally:
            process.kill()
            await process.communicate()
            await connection.close()
        return
    connection = await asyncpg.connect(await server.create("elsewhere") if kind == "other" else dsn)
    try:
        await connection.execute("begin")
        await connection.execute("create table theirs (n int)")
        if kind == "prepared":
            await connection.execute("prepare transaction 'theirs'")
        yield
    finally:
        if kind == "prepared":
            await connection.execute("rollback prepared 'theirs'")
        await connection.close()


async def _tell(database: Database, number: int) -> None:
    async with database.transaction() as connection:
        event = NewEvent(
            type=EventType.CONNECTION_ACTIVATED, customer=None, connection=None, data={"n": number}
        )
        await outbox.append(connection, event)
