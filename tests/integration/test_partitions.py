"""Daily partitions are made by whoever writes first, also when two are first at once."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from gateway.store.pool import Database


async def test_two_that_make_one_day_at_once_both_go_on(database: Database) -> None:
    async def make(day: date, holding: asyncio.Event) -> None:
        async with database.transaction() as connection:
            await connection.execute("select ensure_partition('delivery', $1)", day)
            await holding.wait()

    for number in range(10):
        day, first, second = date(2026, 1, 1) + timedelta(days=number), asyncio.Event(), asyncio.Event()
        second.set()
        one = asyncio.create_task(make(day, first))
        other = asyncio.create_task(make(day, second))
        await asyncio.sleep(0.05)  # one holds the lock, the other waits for it
        first.set()
        await asyncio.gather(one, other)
    async with database.connection() as connection:
        assert (
            await connection.fetchval(
                "select count(*) from pg_inherits where inhparent = 'delivery'::regclass"
            )
            == 10
        )
