"""Writers of the same windows never wait for each other in a circle, and a day's partition is made without
waiting for any of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import asyncpg
import pytest

from benchmarks.servers import patient, wait_until
from gateway.model.delivery import Refusal
from gateway.model.errors import LeaseLost, StoreUnavailable
from gateway.model.meter import MeterRule
from gateway.store import connections, deliveries, migrate, streams, windows
from gateway.store.deliveries import BatchResults
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.telemetry import TelemetryStore
from gateway.store.views import Views
from gateway.store.windows import Slice
from gateway.sync import initial
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

DELTA = MeterRule(device="*", metric="t", meter="{device}", every=15 * MINUTE, reduce="delta")
MEAN = MeterRule(device="*", metric="t", meter="{device}/mean", every=15 * MINUTE, reduce="mean")
FEWER = MeterRule(device="[dD]1*", metric="t", meter="{device}/mean", every=15 * MINUTE, reduce="mean")
SECONDS = 6.0


@pytest.fixture
async def rig(database: Database) -> Rig:
    """Thirty meters with forty windows each, in both phases; names whose order differs between alphabets."""
    rig = Rig(database, rules=(DELTA, MEAN), initial_days=1, owner="replica-a")
    devices = [f"{'dD'[number % 2]}{number}" for number in range(15)]
    for step in range(40):
        await rig.store(*[(device, BASE + 5 * step * MINUTE, float(step)) for device in devices])
    return await rig.activate()


async def test_writers_of_the_same_windows_never_deadlock(database: Database, rig: Rig) -> None:
    """Scans, the walk of the history, deliveries of both phases, dead letters, replays, changes of meters,
    hand-overs.
    """
    whole = Slice(after=0, until=2**62, end=2**62)
    incremental, walk = await rig.claim(), await rig.claim("initial")
    begun = asyncio.get_running_loop().time()
    deadlocks: list[str] = []
    done = Counter[str]()

    async def scan(dice: random.Random) -> None:
        async with database.transaction() as connection:
            await streams.read(connection, incremental)
            reader = windows.SliceReader(connection=rig.name, past=0, lateness=timedelta(0))
            await windows.mark_changed(connection, rig.customer, whole, [reader], with_neighbours=True)
            await streams.prove(connection, incremental)

    async def walked(dice: random.Random) -> None:
        async with database.transaction() as connection:
            await streams.read(connection, walk)
            day = timedelta(days=1)
            await windows.mark_initial(
                connection, walk, BASE - day, BASE + day, timedelta(0), total=1, walked=1
            )
            await streams.prove(connection, walk)

    async def deliver(dice: random.Random) -> None:
        claim = dice.choice([incremental, walk])
        async with database.connection() as connection:
            due = await windows.compute_due(connection, claim, 5_000)
        dice.shuffle(due)
        cut, more = len(due) // 3, len(due) // 2
        dead = [Refusal(due=window, reason="test", detail="") for window in due[:cut]]
        await deliveries.commit(
            database, claim, BatchResults(dead=dead, retried=due[cut:more], settled=due[more:])
        )

    async def replay(dice: random.Random) -> None:
        await Views(database).replay(rig.name, None)

    async def meters(dice: random.Random) -> None:
        await rig.change_rules(*dice.choice([(DELTA, MEAN), (DELTA, FEWER)]))

    async def hand_over(dice: random.Random) -> None:
        await initial.finish(database, walk)

    async def writer(seed: int, work: Callable[[random.Random], Awaitable[None]]) -> None:
        dice = random.Random(seed)
        while asyncio.get_running_loop().time() < begun + SECONDS:
            try:
                with suppress(LeaseLost):
                    await work(dice)
                    done[work.__name__] += 1
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                    raise
                deadlocks.append(f"{work.__name__}: {error}")

    works = [scan, walked, deliver, deliver, replay, meters, hand_over]
    await asyncio.gather(*(writer(seed, work) for seed, work in enumerate(works)))
    assert deadlocks == [] and done.keys() == {work.__name__ for work in works}


async def test_a_partition_waits_for_no_reader_and_none_for_it(database: Database) -> None:
    async with database.transaction() as reading:
        await reading.fetch("select * from telemetry, delivery")
        async with patient(5), database.connection() as making:
            await making.execute("select ensure_partition('telemetry', $1)", date(2026, 1, 1))
            await making.execute("select ensure_partition('delivery', $1)", date(2026, 1, 1))
    async with database.connection() as connection:
        for parent in ("telemetry", "delivery"):
            columns = await connection.fetch(
                "select attname, atttypid, attnotnull from pg_attribute where attrelid = $1::text::regclass"
                " and attnum > 0 and not attisdropped order by attnum",
                parent,
            )
            assert columns == await connection.fetch(
                "select attname, atttypid, attnotnull from pg_attribute where attrelid = $1::text::regclass"
                " and attnum > 0 and not attisdropped order by attnum",
                f"{parent}_20260101",
            )
            indexes = "select count(*) from pg_index where indrelid = $1::text::regclass and indisvalid"
            assert await connection.fetchval(indexes, parent) == await connection.fetchval(
                indexes, f"{parent}_20260101"
            )


async def test_no_batch_makes_a_partition_in_its_own_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest and deliveries: the day is there for everybody before a row of the batch is written."""
    inside: list[str] = []
    execute = asyncpg.Connection.execute

    async def seen(self: object, query: str, *arguments: object, **more: object) -> object:
        if "ensure_partition" in query and self.is_in_transaction():  # type: ignore[attr-defined]
            inside.append(query)
        return await execute(self, query, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncpg.Connection, "execute", seen)
    rig = await Rig(database).activate()
    await rig.store(("a", BASE - timedelta(days=3), 1.0), ("a", BASE, 2.0))
    await rig.run()
    assert len(await rig.delivered()) == 2 and inside == []


async def test_a_day_that_retention_dropped_is_made_again(database: Database) -> None:
    writer = TelemetryStore(database, register_customers=True)
    sample = (("acme", "d", 1_700_000_000_000_000), {"t": 1.0}, 1_700_000_000_000_000)
    await writer.write([sample], [])
    async with database.connection() as connection:
        await connection.execute("drop table telemetry_20231114")
    with suppress(Exception):
        await writer.write([sample], [])
    assert (await writer.write([sample], [])).stored == 1


@pytest.mark.parametrize("statement", ["scan_bounds", "alert_samples"])
async def test_days_are_locked_after_their_table(database: Database, statement: str) -> None:
    """Whoever has the table whole and wants a day waits for nobody who has the day and wants the table."""
    rig = await Rig(database).activate()
    await rig.store(("d1", BASE, 1.0))
    wanted = {"scan_bounds": (rig.customer, 0, 100), "alert_samples": (rig.customer, 0, 10**9)}[statement]
    async with database.transaction() as reading, database.transaction() as owner:
        pid = await reading.fetchval("select pg_backend_pid()")
        for _ in range(7):  # also by a plan that is kept
            await reading.fetch(sql(statement), *wanted)
        held = await owner.fetch(
            "select relation::regclass::text as name, mode from pg_locks where pid = $1 and locktype ="
            " 'relation'",
            pid,
        )
        assert "telemetry" in {row["name"] for row in held}
    async with database.transaction() as owner:
        await owner.execute("lock table telemetry in access exclusive mode")
        waiting = asyncio.create_task(_read(database, statement, wanted))
        async with patient(20):
            while not await owner.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.02)
        held = await owner.fetch(
            "select relation::regclass::text as name from pg_locks where granted and pid <> pg_backend_pid()"
            " and locktype = 'relation' and relation::regclass::text like 'telemetry\\_2%'"
        )
        assert held == []
    await waiting


async def _read(database: Database, statement: str, wanted: tuple[object, ...]) -> None:
    async with database.transaction() as connection:
        await connection.fetch(sql(statement), *wanted)


async def somebody_waits(database: Database) -> None:
    """Returns when a session of this database waits for a lock."""
    query = """select exists (select from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock')"""

    async def is_waiting() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval(query))

    await wait_until(is_waiting, seconds=10, what="a session waits", every=0.01)


async def waits_for(database: Database, touch: str, statement: str, *arguments: object) -> None:
    """Runs the statement while somebody else has just changed what it is about, who commits when it waits."""
    async with database.pinned() as other, database.pinned() as ours:
        await other.execute("begin")
        await other.execute(touch)
        running = asyncio.create_task(ours.execute(sql(statement), *arguments))
        await somebody_waits(database)
        await other.execute("commit")
        await running


async def test_a_window_that_is_marked_while_the_history_ends_is_handed_over(
    database: Database, rig: Rig
) -> None:
    """It stayed of the phase that was done, and nobody computed it again."""
    claim = await rig.claim("initial")
    link = rig.link
    while not await initial.mark_more(database, claim, link, streams.RunTally()):
        pass
    marks = "update due_window set mark = default where meter = 'd0'"
    await waits_for(database, marks, "initial_hand_over", rig.name)
    async with database.connection() as connection:
        phases = await connection.fetch("select phase, count(*) from due_window group by 1")
    assert [row["phase"] for row in phases] == ["incremental"]


async def test_a_scan_moves_a_stream_whose_lease_is_renewed_meanwhile(database: Database, rig: Rig) -> None:
    renews = "update stream set lease_until = now()"
    await waits_for(database, renews, "scan_advance", "another", "readings", 99, 99, [rig.name])
    async with database.connection() as connection:
        marks = await connection.fetch("select watermark from stream where phase = 'incremental'")
    assert [row["watermark"] for row in marks] == [99]


async def test_bytes_of_a_day_count_that_ingest_writes_to_meanwhile(database: Database, rig: Rig) -> None:
    async with database.connection() as connection:
        [(day, before)] = await connection.fetch("select day, bytes from customer_day limit 1")
    writes = "update customer_day set reaches = reaches + 1000"
    await waits_for(database, writes, "stored_note", [rig.customer], [day], [100])
    async with database.connection() as connection:
        assert await connection.fetchval("select bytes from customer_day where day = $1", day) == before + 100
    await waits_for(database, writes, "customer_days_drop", day)
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from customer_day where day = $1", day) == 0


async def test_a_connection_that_ends_takes_the_windows_of_the_run_along_that_it_waits_for(
    database: Database, rig: Rig
) -> None:
    claim = await rig.claim()
    whole = Slice(after=0, until=2**62, end=2**62)
    async with database.pinned() as other:
        await other.execute("begin")
        await streams.hold(other, claim)
        reader = windows.SliceReader(connection=rig.name, past=0, lateness=timedelta(0))
        await windows.mark_changed(other, rig.customer, whole, [reader], with_neighbours=True)

        async def ends() -> None:
            async with database.transaction() as connection:
                await connections.clear(connection, rig.name)

        ending = asyncio.create_task(ends())
        await somebody_waits(database)
        await other.execute("commit")
        await ending
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from due_window") == 0


async def test_windows_that_were_left_with_a_history_that_is_done_are_computed_after_the_migration(
    database: Database, rig: Rig
) -> None:
    claim = await rig.claim("initial")
    while not await initial.mark_more(database, claim, rig.link, streams.RunTally()):
        pass
    heals = (Path(migrate.__file__).parent / "migrations" / "0041_handed_over.sql").read_text()
    async with database.connection() as connection:
        await connection.execute(heals)
        counted = "select count(*) from due_window where phase = 'initial'"
        assert await connection.fetchval(counted) > 0, "it goes on"
        await connection.execute("update stream set state = 'done' where phase = 'initial'")
        await connection.execute(heals)
        assert await connection.fetchval(counted) == 0
