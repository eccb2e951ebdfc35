"""Gauges and readiness from a real database."""

from __future__ import annotations

import re

from gateway import metrics
from gateway.events.backlog import Backlog
from gateway.processes.readiness import Readiness
from gateway.store import status
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from tests.fixtures.http_fakes import serving, world
from tests.fixtures.statuses import every_status

ROWS = """
insert into customer (customer_id) values ('acme');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
values ('sink', 'acme', 'postgres', 'cloud', 1, 'reauthorization_required', ''), ('other', 'acme', 'postgres', 'cloud', 1, 'active', '');
insert into stream (connection_id, name, phase, last_success_at) values ('sink', 'readings', 'incremental', '2026-01-01Z');
insert into due_window (connection_id, meter, window_start, phase, closes_at)
values ('sink', 'm', '2026-01-01Z', 'incremental', now() - interval '100 s'), ('sink', 'm', '2026-01-02Z', 'incremental', now() + interval '1 h');
insert into dead_letter (kind, digest, reason, detail) values ('message', 'a', 'invalid_json', ''), ('message', 'b', 'invalid_json', '');
insert into dead_letter (kind, digest, connection_id, reason, detail) values ('reading', 'c', 'sink', 'meter_unknown', '');
"""


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"fieldgate_{name}", labels)


async def test_the_gauges_mirror_the_database(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(ROWS)
    backlog = Backlog(database)
    await backlog.refresh()
    assert (value("dead_letters", reason="invalid_json"), value("dead_letters", reason="meter_unknown")) == (
        2,
        1,
    )
    async with database.connection() as connection:
        await connection.execute("delete from dead_letter")
    await backlog.refresh()
    assert value("dead_letters", reason="invalid_json") is None


async def test_a_status_is_read_with_its_streams(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(ROWS)
    [found] = await status.read(database, ["sink"])
    assert (found.pending, found.dead_letters, found.version) == (2, 1, 1)
    assert [stream.name for stream in found.streams] == ["readings"]
    assert 100 <= found.lag_seconds < 130
    assert [(one.connection, one.pending, len(one.streams)) for one in await every_status(database)] == [
        ("other", 0, 0),
        ("sink", 2, 1),
    ]
    assert await status.read(database, ["nobody"]) == []


async def test_the_windows_of_others_are_not_read_for_one_status(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(ROWS)
        await connection.execute(f"prepare one(text[]) as {sql('status_read')}")
        plan = "\n".join(row[0] for row in await connection.fetch("explain execute one('{sink}')"))
    conditions = re.findall(
        r"on (kept_count|count_change|stream|connection c|dead_letter|due_window)\b.*\n\s+Index Cond:"
        r" \(connection_id = ",
        plan,
    )
    assert sorted(conditions) == ["connection c", "count_change", "kept_count", "stream"], plan
    oldest = (
        r"on due_window d .*\n\s+Index Cond: .*connection_id = .* AND \(phase = .* AND \(closes_at <="
        r" now\(\)\)\)"
    )
    assert re.search(oldest, plan), plan
    assert plan.count("due_window d") == 1 and "dead_letter" not in plan.replace("'dead_letter'", ""), plan


async def test_a_status_costs_the_same_with_however_many_windows(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(ROWS)
        few = await _buffers(connection)
        await connection.execute(
            """insert into due_window (connection_id, meter, window_start, phase, closes_at)
            select 'sink', 'm' || n, '2026-01-01Z', 'incremental', now() from generate_series(1, 20000) n"""
        )
        await connection.execute("analyze due_window")
        [found] = await status.read(database, ["sink"])
        assert found.pending == 20002
        many = await _buffers(connection)
    assert many < few + 30


async def test_alerts_and_meters_are_counted_from_those_that_are_not_over(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(ROWS)
        few = await _buffers(connection)
        await connection.execute(
            """insert into alert (alert_id, customer_id, connection_id, rule_id, device_id, kind, severity, title, text, value, begun_at,
                                  since, opened_at, well_at, state)
            select 'a' || n, 'acme', 'sink', 'hot', 'd' || n, 'task', 'low', '', '', '1', now(), now(), now(), now(),
                   case when n <= 3 then 'raised' else 'cleared' end
            from generate_series(1, 20000) n"""
        )
        await connection.execute("""insert into meter_made (connection_id, meter, state, due_at)
            select 'sink', 'm' || n, case n when 1 then 'refused' when 2 then 'wanted' else 'made' end, null
            from generate_series(1, 20000) n""")
        await connection.execute("analyze alert, meter_made")
        [found] = await status.read(database, ["sink"])
        assert (found.open_alerts, found.meters_refused, found.meters_waiting) == (3, 1, 1)
        assert await _buffers(connection) < few + 30


async def _buffers(connection: Connection) -> int:
    """Pages that one status reads."""
    async with connection.transaction():
        plan = await connection.fetch(
            "explain (analyze, buffers) " + sql("status_read").replace("$1", "'{sink}'")
        )
    found = [int(hit) for row in plan for hit in re.findall(r"shared hit=(\d+)", row[0])]
    return max(found)


async def test_replicas_are_counted_while_they_are_heard(database: Database) -> None:
    assert await status.beat(database, "one", silent_seconds=15) == 1
    assert await status.beat(database, "two", silent_seconds=15) == 2
    async with database.connection() as connection:
        await connection.execute(
            "update announced_replica set last_seen_at = now() - interval '20 s' where replica_id = 'one'"
        )
    assert await status.beat(database, "two", silent_seconds=15) == 1
    await status.beat(database, "one", silent_seconds=15)
    await status.leave(database, "one")
    assert await status.beat(database, "two", silent_seconds=15) == 1


async def test_ready_only_with_broker_database_and_migrations(database: Database, empty_dsn: str) -> None:
    readiness, connected = Readiness(), False
    async with serving(readiness) as client:
        assert (await client.get("/readyz")).json()["checks"]["api"] is False
    async with serving(readiness, services=world(fresh=True).mounted.services) as client:

        async def failing() -> tuple[int, set[str]]:
            answer = await client.get("/readyz")
            return answer.status_code, {name for name, well in answer.json()["checks"].items() if not well}

        readiness.serve(database, lambda: connected)
        assert await failing() == (503, {"broker"})
        connected = True
        assert await failing() == (200, set())
        bare = await Database.open(empty_dsn, size=3)
        readiness.serve(bare, lambda: connected)
        assert await failing() == (503, {"migrations"})
        await bare.close()
        assert await failing() == (503, {"database", "migrations"})
        readiness.serve(database, lambda: connected)
        readiness.draining()
        assert await failing() == (503, {"accepting"})
