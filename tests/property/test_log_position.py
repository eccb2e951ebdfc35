"""The log of a customer has no gaps: whatever writers, readers, pauses and rollbacks do, what was read up to
a position is all there ever is up to it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from gateway.model.sample import Value, to_microseconds
from gateway.store import telemetry, windows
from gateway.store.pool import Connection, Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures import log

START = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
"""Half an hour before a day ends: samples of one commit are of two days."""
CUSTOMERS = ("acme", "Zeta", "globex", "zeta", "äther")
"""Names whose order differs between alphabets."""
WRITERS, READERS, SECONDS = 8, 3, 5.0
Row = tuple[str, str, datetime]


class Undo(Exception):
    """Rolls a writer's transaction back."""


@pytest.mark.parametrize("slice_rows", [3, 20_000])
async def test_no_row_is_ever_behind_a_reader(database: Database, slice_rows: int) -> None:
    """Many writers of the same customers with several samples each, late days, repeats and rollbacks; readers
    that begin at any time and page by slices. Each reader must have seen the last change of every row.
    """
    await _open_days(database, [START.date() + timedelta(days=n) for n in range(-40, 3)])
    async with database.connection() as connection:
        await log.begin(connection, *CUSTOMERS)
        # what a day reaches is rounded up to thousands: one is passed in the middle
        await connection.execute("update customer_log set position = 980")
    until = asyncio.get_running_loop().time() + SECONDS
    done = Counter[str]()

    async def write(seed: int) -> None:
        dice, number = random.Random(seed), 0
        while asyncio.get_running_loop().time() < until:
            number += 1
            batch = _drawn(dice, float(seed * 1_000_000 + number))
            undo = dice.random() < 0.15
            try:
                async with database.transaction() as connection:
                    await _write(connection, batch)
                    await asyncio.sleep(dice.choice([0, 0, 0.001, 0.03]))
                    if undo:
                        done["undone"] += 1
                        raise Undo
            except Undo:
                continue
            done["written"] += 1

    seen: list[dict[Row, float]] = [{} for _ in range(READERS)]
    marks: list[dict[str, int]] = [dict.fromkeys(CUSTOMERS, 900) for _ in range(READERS)]

    async def read(reader: int, *, to_the_end: bool = False) -> None:
        dice = random.Random(reader)
        async with database.connection() as connection:
            while to_the_end or asyncio.get_running_loop().time() < until:
                moved = False
                for customer in CUSTOMERS:
                    low = marks[reader][customer]
                    part = await windows.next_slice(connection, customer, low, slice_rows)
                    await asyncio.sleep(0 if to_the_end else dice.choice([0, 0, 0.005]))
                    if part.until == low:
                        continue
                    moved = True
                    for row in await connection.fetch(
                        "select * from telemetry_between($1, $2, $3)", customer, part.after, part.until
                    ):
                        seen[reader][customer, row["device_id"], row["ts"]] = row["metrics"]["t"]
                    marks[reader][customer] = part.until
                    done["slices"] += 1
                if to_the_end and not moved:
                    return

    await asyncio.gather(
        *(write(seed) for seed in range(1, WRITERS + 1)), *(read(number) for number in range(READERS))
    )
    for number in range(READERS):
        await read(number, to_the_end=True)
    async with database.connection() as connection:
        stored = {
            (row["customer_id"], row["device_id"], row["ts"]): row["metrics"]["t"]
            for row in await connection.fetch("select customer_id, device_id, ts, metrics from telemetry")
        }
        ahead = await connection.fetchval(
            "select count(*) from telemetry t join customer_log l using (customer_id) where t.revision >"
            " l.position or t.revision < 1"
        )
    assert ahead == 0 and len(stored) > 100 and min((await _positions(database)).values()) > 1000
    for number in range(READERS):
        assert seen[number] == stored
    assert done["written"] > 50 and done["undone"] > 5 and done["slices"] > 50


async def test_an_equal_sample_takes_no_position(database: Database) -> None:
    store = TelemetryStore(database, register_customers=True)
    at = to_microseconds(START)
    sample = (("acme", "d1", at), {"t": 1.0}, at)
    await store.write([sample], [])
    before = await _positions(database)
    assert (await store.write([sample], [])).stored == 0
    assert await _positions(database) == before
    assert (await store.write([(("acme", "d1", at), {"t": 2.0}, at)], [])).modified == 1
    assert await _positions(database) == {"acme": before["acme"] + 1}


async def test_one_commit_is_one_position_of_each_customer_that_it_changes(database: Database) -> None:
    store = TelemetryStore(database, register_customers=True)
    at = to_microseconds(START)
    known = [((customer, "d1", at), {"t": 1.0}, at) for customer in CUSTOMERS]
    await store.write(known, [])
    before = await _positions(database)
    fresh = [((customer, "d1", at + n), {"t": 2.0}, at) for customer in CUSTOMERS[:2] for n in range(1, 4)]
    await store.write([*known, *fresh], [])
    after = await _positions(database)
    assert {name: after[name] - before[name] for name in CUSTOMERS} == dict(
        zip(CUSTOMERS, [1, 1, 0, 0, 0], strict=True)
    )
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select customer_id, revision from telemetry where metrics @> '{\"t\": 2.0}'"
        )
    assert [(row["customer_id"], row["revision"]) for row in rows] == [
        (row["customer_id"], after[row["customer_id"]]) for row in rows
    ]


async def test_writers_of_the_same_customers_never_wait_in_a_circle(database: Database) -> None:
    """Some of them register devices, which locks logs too; none is ended as a deadlock."""
    until = asyncio.get_running_loop().time() + 3.0
    done = Counter[int]()

    async def work(seed: int) -> None:
        dice, store = random.Random(seed), TelemetryStore(database, register_customers=True)
        while asyncio.get_running_loop().time() < until:
            at = to_microseconds(START) + dice.randrange(10**9)
            names = dice.sample(CUSTOMERS, dice.randrange(1, len(CUSTOMERS) + 1))
            batch = [
                ((name, f"d{dice.randrange(10**6 if dice.random() < 0.3 else 3)}", at), {"t": 1.0}, at)
                for name in names
            ]
            await store.write(batch, [])  # raises StoreUnavailable for a deadlock
            done[seed] += 1

    await asyncio.gather(*(work(seed) for seed in range(8)))
    assert len(done) == 8


async def test_a_log_that_is_gone_is_opened_by_the_next_try(database: Database) -> None:
    """As after a restore of an older state: what the process remembers is no longer there. Nothing is
    refused.
    """
    store = TelemetryStore(database, register_customers=True)
    at = to_microseconds(START)
    await store.write([(("acme", "d1", at), {"t": 1.0}, at)], [])
    async with database.connection() as connection:
        await connection.execute("delete from customer_log")
    later = [(("acme", "d1", at + 1), {"t": 2.0}, at)]
    with pytest.raises(telemetry.LogMissing):
        await store.write(later, [])
    assert (await store.write(later, [])).stored == 1


def _drawn(dice: random.Random, fresh: float) -> dict[Row, Value]:
    """Few instants and devices: writers change each other's rows, and repeat them. Now and then of a day long
    ago.
    """
    batch: dict[Row, Value] = {}
    for _ in range(dice.choice([1, 1, 5, 40])):
        at = START + timedelta(minutes=dice.randrange(60))
        if dice.random() < 0.02:
            at -= timedelta(days=dice.randrange(40))
        batch[dice.choice(CUSTOMERS), f"d{dice.randrange(3)}", at] = dice.choice([1.0, fresh])
    return batch


async def _write(connection: Connection, batch: dict[Row, Value]) -> None:
    await log.write(
        connection, *((customer, device, at, value) for (customer, device, at), value in batch.items())
    )


async def _open_days(database: Database, days: list[date]) -> None:
    async with database.connection() as connection:
        for day in days:
            await connection.execute("select ensure_partition('telemetry', $1)", day)


async def _positions(database: Database) -> dict[str, int]:
    async with database.connection() as connection:
        return {
            row["customer_id"]: row["position"]
            for row in await connection.fetch("select customer_id, position from customer_log")
        }
