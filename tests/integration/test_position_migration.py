"""A database in use takes positions: what was scanned stays scanned, what was not is scanned, and nothing of
telemetry's size is rewritten.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import asyncpg
import pytest

from gateway.model.sample import to_microseconds
from gateway.store import outbox, windows
from gateway.store.migrate import migrate, migrations
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.telemetry import TelemetryStore

BEFORE = "0020"
# Two connections of one customer that have scanned differently far, a customer whose connection has scanned
# all, one without a connection. Revisions are far ahead of the cluster's transactions for one of them, as
# after a restore that nobody has rebased.
OLD = """
insert into customer (customer_id) values ('acme'), ('globex'), ('zeta');
insert into device (customer_id, device_id, revision) values
    ('acme', 'old', '900000001'), ('acme', 'new', '900000007'), ('globex', 'fan', '4'), ('zeta', 'z', '5');
select ensure_partition('telemetry', day) from (values (date '2026-01-01'), ('2026-01-02'), ('2026-01-03')) d (day);
insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision) values
    ('acme', 'old', '2026-01-01 00:00Z', '{"t": 1}', now(), '900000001'),
    ('acme', 'old', '2026-01-01 00:01Z', '{"t": 2}', now(), '900000004'),
    ('acme', 'old', '2026-01-02 00:00Z', '{"t": 3}', now(), '900000005'),
    ('acme', 'new', '2026-01-02 00:02Z', '{"t": 4}', now(), '900000008'),
    ('globex', 'fan', '2026-01-03 00:00Z', '{"t": 5}', now(), '6'),
    ('zeta', 'z', '2026-01-03 00:00Z', '{"t": 6}', now(), '7');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest) values
    ('ahead', 'acme', 'postgres', 'cloud', 1, 'active', ''), ('behind', 'acme', 'postgres', 'cloud', 1, 'paused', ''),
    ('done', 'globex', 'postgres', 'cloud', 1, 'active', '');
insert into stream (connection_id, name, phase, watermark, device_watermark) values
    ('ahead', 'readings', 'incremental', '900000006', '900000006'), ('behind', 'readings', 'incremental', '900000004', '900000004'),
    ('done', 'readings', 'incremental', '7', '7'), ('done', 'readings', 'initial', '0', '0');
insert into due_window (connection_id, meter, window_start, phase, closes_at) values ('done', 'm', '2026-01-01', 'incremental', now());
insert into delivery_doubt (connection_id, meter, window_start, value, ask_at) values ('done', 'm', '2026-01-01', '1', now());
insert into event (type, lane, data, revision) values
    ('connection.activated', '/', '{"n": 1}', '90'), ('connection.activated', '/', '{"n": 0}', '80'),
    ('connection.activated', '/', '{"n": 2}', '900000009');
"""


async def test_what_was_not_scanned_is_scanned_and_nothing_else(empty_dsn: str) -> None:
    database = await _of_before(empty_dsn)
    try:
        files = await _files(database)
        await migrate(database)
        assert await _files(database) == files, "telemetry was written anew"
        assert await _next(database, "ahead", "acme") == ([4], ["new"])
        assert await _next(database, "behind", "acme") == ([2, 3, 4], ["new"])
        assert await _next(database, "done", "globex") == ([], [])
        at = datetime(2026, 1, 1, tzinfo=UTC)
        late = [
            ((customer, device, to_microseconds(at)), {"t": 7}, to_microseconds(at))
            for customer, device in (("acme", "old"), ("globex", "fan"), ("zeta", "added"))
        ]
        written = await TelemetryStore(database, register_customers=True).write(late, [])
        assert (written.stored, written.modified) == (2, 1)
        assert await _next(database, "ahead", "acme") == ([7, 4], ["new"])
        assert await _next(database, "done", "globex") == ([7], [])
    finally:
        await database.close()


async def test_the_index_of_a_day_is_made_where_it_is_needed(empty_dsn: str) -> None:
    database = await _of_before(empty_dsn)
    try:
        await migrate(database)
        assert await _indexed(database) == {"telemetry_20260101", "telemetry_20260102"}
        async with database.connection() as connection:
            await connection.execute("select ensure_partition('telemetry', $1)", date(2026, 1, 3))
            await connection.execute("select ensure_partition('telemetry', $1)", date(2026, 1, 4))
        assert await _indexed(database) == {f"telemetry_2026010{day}" for day in range(1, 5)}
    finally:
        await database.close()


async def test_marks_and_the_order_of_events_are_kept(empty_dsn: str) -> None:
    database = await _of_before(empty_dsn)
    try:
        await migrate(database)
        first, *_ = events = await outbox.read(database, customer=None)
        assert [event.data["n"] for event in events] == [0, 1, 2]
        async with database.transaction() as connection:
            await connection.execute(
                "insert into event (type, lane, data) values ('connection.activated', '/', '{\"n\": 3}')"
            )
        later = await outbox.read(database, customer=None, after=first.position)
        assert [event.data["n"] for event in later] == [1, 2, 3]
        async with database.connection() as connection:
            before = await connection.fetchval("select mark from due_window")
            await connection.execute(sql("due_recompute"), "done", ["m"])
            assert await connection.fetchval("select mark from due_window") != before
            assert await connection.fetchval("select mark from delivery_doubt") == 0
    finally:
        await database.close()


async def test_a_replica_of_before_loses_nothing_to_the_dead_letters(empty_dsn: str) -> None:
    """Its statement names a transaction id, which the column no longer takes: that is no fault of the data,
    so it waits.
    """
    database = await _of_before(empty_dsn)
    old = (
        "insert into telemetry as held (customer_id, device_id, ts, metrics, received_at) values ('acme',"
        " 'old', now(), '{}', now()) on conflict (customer_id, device_id, ts) do update set metrics ="
        " excluded.metrics, revision = pg_current_xact_id()"
    )
    try:
        await migrate(database)
        connection = await asyncpg.connect(empty_dsn)
        try:
            with pytest.raises(asyncpg.DatatypeMismatchError):
                await connection.execute(old)
        finally:
            await connection.close()
    finally:
        await database.close()


async def _of_before(dsn: str) -> Database:
    database = await Database.open(dsn, size=3)
    async with database.transaction() as connection:
        await connection.execute(
            "create table migration (name text primary key, applied_at timestamptz not null default now())"
        )
        for name, text in migrations():
            if name < BEFORE:
                await connection.execute(text)
                await connection.execute("insert into migration (name) values ($1)", name)
    async with database.connection() as connection:
        await connection.execute(OLD)
    return database


async def _next(database: Database, name: str, customer: str) -> tuple[list[int], list[str]]:
    """Values and devices that the connection's next scan finds."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "select watermark, device_watermark from stream where connection_id = $1 and phase ="
            " 'incremental'",
            name,
        )
        assert row is not None
        part = await windows.next_slice(connection, customer, row["watermark"], 1_000)
        found = await connection.fetch(
            "select metrics from telemetry_between($1, $2, $3) order by ts", customer, part.after, part.until
        )
        devices = await connection.fetch(sql("devices_new"), customer, row["device_watermark"], part.end)
    return [item["metrics"]["t"] for item in found], [item["device_id"] for item in devices]


async def _files(database: Database) -> list[tuple[str, int]]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select c.relname, c.relfilenode::bigint from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent = 'telemetry'::regclass order by 1"
        )
    return [(row["relname"], row["relfilenode"]) for row in rows]


async def _indexed(database: Database) -> set[str]:
    """Days with an index that is led by the customer and the position."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_index x on"
            " x.indrelid = c.oid where i.inhparent = 'telemetry'::regclass and pg_get_indexdef(x.indexrelid)"
            " like '%(customer_id, revision)%'"
        )
    return {row["relname"] for row in rows}
