"""What is kept equals what is there, after every kind of statement that adds or removes, and at any moment in
between.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers import patient
from gateway.store import counts
from gateway.store.migrate import migrations
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.retention import trim_dead_letters
from gateway.store.views import Views

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("one", "two", "three")
METERS = ("a", "b", "c")

WORLD = """
insert into customer (customer_id) values ('acme');
select ensure_partition('telemetry', '2026-01-01');
select ensure_partition('telemetry', '2026-01-02');
insert into customer_log (customer_id, position) values ('acme', 1000);
insert into customer_day (customer_id, day, reaches) values ('acme', '2026-01-01', 1000), ('acme', '2026-01-02', 1000);
select ensure_partition('withheld', '2026-01-01');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
select name, 'acme', 'postgres', 'cloud', 1, 'active', '' from unnest($1::text[]) name
"""
BEGIN = """
insert into stream (connection_id, name, phase) values ($1, 'readings', 'incremental'), ($1, 'readings', 'initial')
on conflict do nothing
"""
MAP = """
insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span)
select $1, meter, meter, 'x', 'mean', interval '1 minute' from unnest($2::text[]) meter on conflict do nothing
"""
SAMPLE = """
insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision) values ('acme', $1, $2, '{"x": 1}', now(), 7)
on conflict (customer_id, device_id, ts) do update set revision = 8
"""

DIFFERENCES = """
with kept as (
    select kind, connection_id, part, sum(number) as number
    from (select kind, connection_id, part, number from kept_count union all select kind, connection_id, part, change from count_change) each
    group by kind, connection_id, part having sum(number) <> 0
), counted as (
    select 'window' as kind, connection_id, phase as part, count(*)::numeric as number from due_window group by connection_id, phase
    union all
    select 'dead_letter', coalesce(connection_id, ''), reason, count(*) from dead_letter group by coalesce(connection_id, ''), reason
)
select (select json_agg(k) from (select * from kept except select * from counted) k)::text as kept,
       (select json_agg(c) from (select * from counted except select * from kept) c)::text as counted
"""


async def check(connection: Connection, after: str) -> None:
    """In one statement, so of one instant."""
    row = await connection.fetchrow(DIFFERENCES)
    assert row is not None
    assert (row["kept"], row["counted"]) == (None, None), f"after {after}: {dict(row)}"


class Random:
    """Does anything that adds or removes windows or dead letters, by the statements of the product."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.chance = random.Random(seed)
        self.kinds: tuple[Callable[[Connection, str], Awaitable[object]], ...] = (
            self.scan,
            self.scan,
            self.walk,
            self.walk,
            self.hand_over,
            self.deliver,
            self.deliver,
            self.retry,
            self.withhold,
            self.doubt,
            self.refuse,
            self.refuse,
            self.refuse_message,
            self.forget_letter,
            self.expire,
            self.drop_day,
            self.change_meters,
            self.recompute,
            self.clear,
        )

    async def step(self) -> str:
        name, kind = self.chance.choice(NAMES), self.chance.choice(self.kinds)
        if self.chance.random() < 0.1:
            await Views(self.database).replay(name, None)
            return "replay"
        if self.chance.random() < 0.1:
            await trim_dead_letters(
                self.database,
                now=datetime.now(UTC),
                retention=timedelta(days=9),
                max_bytes=self.chance.choice([1, 600]),
            )
            return "trim"
        async with self.database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await kind(connection, name)
            if self.chance.random() < 0.15:
                await transaction.rollback()
            else:
                await transaction.commit()
        return kind.__name__

    def moment(self) -> datetime:
        if self.chance.random() < 0.5:  # in a window that is refused now and then
            return START + timedelta(minutes=self.chance.randrange(4))
        return START + timedelta(seconds=self.chance.randrange(0, 2 * 86_400, 20))

    async def scan(self, connection: Connection, name: str) -> None:
        await connection.execute(BEGIN, name)
        await connection.execute(MAP, name, list(METERS))
        for _ in range(self.chance.randrange(5)):
            await connection.execute(SAMPLE, self.chance.choice(METERS), self.moment())
        await connection.fetchval(
            sql("scan_mark"),
            "acme",
            0,
            2**62,
            [name],
            [0],
            [timedelta(minutes=1)],
            self.chance.random() < 0.5,
        )

    async def walk(self, connection: Connection, name: str) -> None:
        await connection.execute(MAP, name, list(METERS))
        await connection.execute(SAMPLE, self.chance.choice(METERS), self.moment())
        await connection.fetchrow(
            sql("initial_mark"), name, "acme", START, START + timedelta(days=2), timedelta()
        )

    async def hand_over(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("initial_hand_over"), name)

    async def _some(self, connection: Connection, name: str) -> tuple[list[str], list[datetime], list[int]]:
        rows = await connection.fetch(
            "select meter, window_start, mark::text::bigint as mark from due_window where connection_id = $1",
            name,
        )
        rows = [row for row in rows if self.chance.random() < 0.5]
        return (
            [row["meter"] for row in rows],
            [row["window_start"] for row in rows],
            [row["mark"] - (self.chance.random() < 0.1) for row in rows],
        )

    async def deliver(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("due_remove"), name, *await self._some(connection, name))

    async def retry(self, connection: Connection, name: str) -> None:
        meters, starts, _ = await self._some(connection, name)
        await connection.execute(sql("due_retry"), name, meters, starts)

    async def recompute(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("due_recompute"), name, [self.chance.choice(METERS)])

    async def withhold(self, connection: Connection, name: str) -> None:
        await connection.execute(
            "insert into withheld values ($1, $2, $3, true) on conflict do nothing", name, "a", START
        )
        phase = self.chance.choice(["initial", "incremental"])
        await connection.execute(sql("withheld_mark"), name, phase)

    async def doubt(self, connection: Connection, name: str) -> None:
        starts = [START + timedelta(minutes=self.chance.randrange(1440)) for _ in METERS]
        await connection.execute(sql("doubt_mark"), name, list(METERS), starts)

    async def refuse(self, connection: Connection, name: str) -> None:
        starts = [START + timedelta(minutes=self.chance.randrange(4)) for _ in METERS]
        reasons = [self.chance.choice(["no_value", "meter_unknown"]) for _ in METERS]
        digests = [
            hashlib.sha256(f"{name}{meter}{at}".encode()).digest()
            for meter, at in zip(METERS, starts, strict=True)
        ]
        await connection.execute(
            sql("reading_dead_letter"), "acme", name, list(METERS), starts, reasons, reasons, digests, digests
        )

    async def refuse_message(self, connection: Connection, name: str) -> None:
        digests = [bytes([self.chance.randrange(5)]) for _ in METERS]
        reasons = [self.chance.choice(["invalid_json", "unknown_topic"]) for _ in METERS]
        customers = [self.chance.choice(["acme", None]) for _ in METERS]
        await connection.execute(
            sql("telemetry_dead_letter"),
            digests,
            reasons,
            reasons,
            reasons,
            digests,
            customers,
            [None] * len(METERS),
            [False] * len(METERS),
        )

    async def forget_letter(self, connection: Connection, name: str) -> None:
        for row in await connection.fetch("select dead_letter_id, occurrences from dead_letter limit 2"):
            await connection.fetchval(sql("dead_letter_remove"), *row.values())

    async def expire(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("dead_letters_expire"), datetime.now(UTC))

    async def drop_day(self, connection: Connection, name: str) -> None:
        await connection.fetchrow(sql("buffer_lose"), name, "acme", START.date())

    async def change_meters(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("mapping_remove"), name, self.chance.sample(METERS, 2))

    async def clear(self, connection: Connection, name: str) -> None:
        await connection.execute(sql("connection_clear"), name)


async def prepare(database: Database) -> None:
    first, last = WORLD.rsplit("insert into", 1)
    async with database.connection() as connection:
        await connection.execute(first)
        await connection.execute("insert into" + last, list(NAMES))


KINDS = {
    "scan", "walk", "hand_over", "deliver", "withhold", "doubt", "refuse", "refuse_message", "forget_letter",
    "expire", "drop_day", "change_meters", "clear", "replay", "trim",
}  # fmt: skip
"""That add, remove or move something."""


@pytest.mark.parametrize("seed", range(4))
async def test_counts_agree_after_anything(database: Database, seed: int) -> None:
    await prepare(database)
    does, effective = Random(database, seed), set[str]()
    async with database.connection() as connection:
        for _ in range(1000):
            before = await connection.fetchval("select count(*) from count_change")
            did = await does.step()
            await check(connection, did)
            if await connection.fetchval("select count(*) from count_change") > before:
                effective.add(did)
            if effective >= KINDS:
                break
            if does.chance.random() < 0.2:
                await counts.fold(database)
                await check(connection, "fold")
        assert effective >= KINDS
        # windows that go with their connection, by its foreign keys
        await connection.execute(
            "delete from connection_audit; delete from connection where connection_id = 'one'"
        )
        await check(connection, "the end of a connection")


async def test_counts_agree_at_any_moment_while_many_write(database: Database) -> None:
    await prepare(database)
    done = asyncio.Event()

    async def write(name: str, seed: int) -> None:
        chance = random.Random(seed)
        for turn in range(60):
            async with database.transaction() as connection:
                await connection.execute(
                    """insert into due_window (connection_id, meter, window_start, phase, closes_at)
                    select $1, $2, '2026-01-01Z'::timestamptz + n * interval '1 s', 'incremental', now() from generate_series(1, $3) n
                    on conflict (connection_id, meter, window_start) do update set mark = excluded.mark""",
                    name, f"m{turn}", chance.randrange(1, 9),
                )  # fmt: skip
                await connection.execute(
                    "delete from due_window where connection_id = $1 and meter <> $2", name, f"m{turn}"
                )

    async def fold() -> None:
        while not done.is_set():
            await asyncio.gather(counts.fold(database), counts.fold(database))

    async def look() -> int:
        looked = 0
        while not done.is_set():
            async with database.connection() as connection:
                await check(connection, "a moment")
            looked += 1
        return looked

    async with asyncio.TaskGroup() as group:
        folding, looking = group.create_task(fold()), group.create_task(look())
        await asyncio.gather(*(write(name, seed) for seed, name in enumerate(NAMES)))
        done.set()
    await folding
    assert await looking > 3
    await counts.fold(database)
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from count_change") == 0
        await check(connection, "the last fold")


async def test_whoever_writes_waits_for_no_fold_and_no_fold_for_whoever_writes(database: Database) -> None:
    await prepare(database)
    insert = (
        "insert into due_window (connection_id, meter, window_start, phase, closes_at) values ('one', $1,"
        " now(), 'incremental', now())"
    )
    async with patient(20), database.transaction() as first:
        await first.execute(insert, "a")
        async with database.connection() as second:
            await second.execute(insert, "b")
        await counts.fold(database)
        async with database.transaction() as folding:
            await folding.execute(sql("counts_fold"))
            async with database.connection() as third:
                await third.execute(insert, "c")
                await check(third, "three that write")


async def test_a_database_in_use_begins_with_what_it_holds(empty_dsn: str) -> None:
    database = await Database.open(empty_dsn, size=2)
    try:
        async with database.connection() as connection:
            for name, text in migrations():
                if name >= "0023":
                    break
                await connection.execute(text)
            await connection.execute(WORLD.rsplit("insert into", 1)[0])
            await connection.execute("insert into" + WORLD.rsplit("insert into", 1)[1], list(NAMES))
            await connection.execute(
                """insert into due_window (connection_id, meter, window_start, phase, closes_at)
                select name, 'm', '2026-01-01Z'::timestamptz + n * interval '1 s', phase, now()
                from unnest($1::text[]) name, generate_series(1, 5) n, unnest(array['initial', 'incremental']) phase
                where (phase = 'initial') = (n % 2 = 0)""",
                list(NAMES),
            )
            await connection.execute("""insert into dead_letter (kind, digest, connection_id, reason, detail)
                values ('reading', 'a', 'one', 'no_value', ''), ('message', 'b', null, 'invalid_json', '')""")
            for name, text in migrations():
                if name >= "0023":
                    await connection.execute(text)
            await check(connection, "the migration")
            assert await connection.fetchval("select sum(number) from kept_count") == 17
            # of each the documents are yet to be said
            queued = await connection.fetch("select connection_id from retained_change order by 1")
            assert [row["connection_id"] for row in queued] == sorted(NAMES)
    finally:
        await database.close()
