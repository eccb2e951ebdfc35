"""Measures what looking at connections costs, by their number and by what they hold: each figure as it was
(counted, whole, by the daemon) and as it is (kept, in pages, beside it), on one server, interleaved.

`python -m benchmarks.growth_observe [--small] [--json FILE]`; some six minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import asyncpg
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from rich.console import Console

from benchmarks import report
from benchmarks.daemon import Daemon, cpu_seconds, processes
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway import metrics
from gateway.http.exposition import set_gauges
from gateway.model.connection import State
from gateway.model.status import URGENCY
from gateway.store import counts, listing, observed, retained, status
from gateway.store.listing import Filter
from gateway.store.migrate import migrate
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

COUNTED = """
select c.connection_id, c.customer_id, c.system, c.state, flows.*,
       (select count(*) from dead_letter d where d.connection_id = c.connection_id) as dead_letters
from connection c
cross join lateral (
    with windows as (
        select phase, count(*) as pending, min(closes_at) filter (where closes_at <= now()) as oldest
        from due_window where connection_id = c.connection_id group by phase
    )
    select jsonb_agg(jsonb_build_object('name', s.name, 'phase', s.phase, 'lag', w.oldest, 'pending', w.pending)) as streams,
           (select coalesce(sum(pending), 0)::bigint from windows) as pending
    from stream s left join windows w on w.phase = s.phase
    where s.connection_id = c.connection_id
) flows
where c.connection_id = any(coalesce($1::text[], array(select connection_id from connection)))
order by c.connection_id
"""
"""What a status was read with."""

VERSIONS = """
select c.connection_id, c.version from connection c left join published_status p using (connection_id)
where c.state <> 'disconnected' or p.ended_at is null
"""
"""What was asked once a second."""

PREPARE = """
insert into customer (customer_id) select 'customer-' || n from generate_series(0, 99) n;
select ensure_partition('telemetry', '2026-01-01')
"""
CONNECTIONS = """
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest, settings)
select 'connection-' || to_char(n, 'FM00000'), 'customer-' || n % 100, case n % 3 when 0 then 'odata' else 'http_json' end, 'cloud', 1, 'pending', '',
       jsonb_build_object('url', 'https://receiver.example/' || n, 'text', repeat('x', 300))
from generate_series($1::int, $2::int) n
"""
STREAMS = """
insert into stream (connection_id, name, phase, last_success_at)
select connection_id, 'readings', phase, now() from connection cross join unnest(array['initial', 'incremental']) phase on conflict do nothing
"""
WINDOWS = """
insert into due_window (connection_id, meter, window_start, phase, closes_at)
select $1, 'm' || n % 1000, '2026-01-01Z'::timestamptz + n * interval '1 s', 'incremental', now() + (n - 5000) * interval '1 ms'
from generate_series($2::int, $3::int) n
"""
ROUNDS = 7

Rows = list[dict[str, str]]


async def milliseconds(work: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> float:
    """The median of some rounds, after one that warms."""
    await work()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await work()
        taken.append(1000 * (time.perf_counter() - begun))
    return report.quantile(taken, 0.5)


async def buffers(connection: Connection, query: str, argument: str) -> int:
    """Pages that a query touches when it is executed."""
    rows = await connection.fetch("explain (analyze, buffers) " + query.replace("$1", argument))
    return int(re.findall(r"shared hit=(\d+)", "\n".join(row[0] for row in rows))[0])


async def status_of_one(database: Database, sizes: tuple[int, ...]) -> Rows:
    """One connection's status while it holds so many windows."""
    rows: Rows = []
    held = 0
    async with database.connection() as connection:
        for size in sizes:
            await connection.execute(WINDOWS, "connection-00001", held + 1, size, timeout=600)
            held = size
            await connection.execute("vacuum analyze due_window", timeout=600)
            await counts.fold(database)
            old = await milliseconds(lambda: connection.fetch(COUNTED, ["connection-00001"]), 3)
            new = await milliseconds(lambda: status.read(database, ["connection-00001"]))
            name = "'{connection-00001}'"
            rows.append(
                {
                    "due windows": f"{size:,}",
                    "counted, ms": f"{old:.1f}",
                    "kept, ms": f"{new:.2f}",
                    "counted, pages": f"{await buffers(connection, COUNTED, name):,}",
                    "kept, pages": str(await buffers(connection, sql("status_read"), name)),
                }
            )
        await connection.execute("truncate due_window")
        await connection.execute("delete from kept_count; delete from count_change")
    return rows


async def cost_of_counting(postgres: Postgres, sizes: tuple[int, ...], rounds: int) -> Rows:
    """A scan and the removal of its windows, in a database with and in one without what counts and finds the
    oldest.
    """
    rows: Rows = []
    without, kept = await _database(postgres, "without"), await _database(postgres, "kept")
    try:
        async with without.connection() as connection:
            await connection.execute(
                "alter table due_window disable trigger user; drop index due_window_closes"
            )
        turn = 0
        for size in sizes:
            taken: list[tuple[float, float]] = []
            for _ in range(rounds):
                pair = [0.0, 0.0]
                for _ in range(max(1, 400 // size)):
                    turn += 1
                    # one after the other, and not always the same first: whatever else the machine does hits
                    # both
                    for place in (0, 1) if turn % 2 else (1, 0):
                        async with (without, kept)[place].connection() as connection:
                            pair[place] += await _scan_and_remove(connection, size, turn)
                taken.append((pair[0] / max(1, 400 // size), pair[1] / max(1, 400 // size)))
                for database in (without, kept):
                    async with database.connection() as connection:
                        await connection.execute("vacuum due_window")
                        await connection.execute("vacuum telemetry")
                        turn += 1
                        # plans are made anew after it, of which the next statements say nothing
                        await _scan_and_remove(connection, size, turn)
                await counts.fold(kept)
            before, now = (
                report.quantile([each[place] for each in taken], 0.5) * 1e6 / size for place in (0, 1)
            )
            rows.append(
                {
                    "windows a statement": f"{size:,}",
                    "without, us a window": f"{before:.2f}",
                    "with, us a window": f"{now:.2f}",
                    "more, us a window": f"{now - before:.2f}",
                    "more, us a statement": f"{(now - before) * size / 2:.0f}",
                }
            )
    finally:
        await without.close()
        await kept.close()
    return rows


async def _database(postgres: Postgres, name: str) -> Database:
    database = await Database.open(await postgres.create(name), size=1)
    await migrate(database)
    async with database.connection() as connection:
        await connection.execute(PREPARE)
        await connection.execute(CONNECTIONS, 1, 2)
        await connection.execute(
            """insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span)
            select 'connection-00002', 'd' || d, 'd' || d, 'm', 'each', interval '1 ms' from generate_series(1, 4000) d"""
        )
        for turn in range(3):
            await _scan_and_remove(connection, 10, -turn)
    return database


async def _scan_and_remove(connection: Connection, size: int, turn: int) -> float:
    """CPU seconds of the server's process for both: other work on the machine is not in it."""
    await connection.execute("delete from telemetry")
    await connection.execute(
        """insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision)
        select 'customer-2', 'd' || d, '2026-01-01 12:00Z'::timestamptz + $2::int * interval '10 ms', '{"m": 1}', now(), '100' from generate_series(1, $1::int) d""",
        size, turn,
    )  # fmt: skip
    name = "connection-00002"
    backend = [await connection.fetchval("select pg_backend_pid()")]
    begun = _cpu(backend)
    await connection.fetchval(sql("scan_mark"), name, "customer-2", "50", "200", timedelta(0), False)
    taken = _cpu(backend) - begun
    held = await connection.fetch(
        "select meter, window_start, mark::text::bigint as mark from due_window where connection_id = $1",
        name,
    )
    keys = tuple([row[column] for row in held] for column in ("meter", "window_start", "mark"))
    begun = _cpu(backend)
    await connection.execute(sql("due_remove"), name, *keys)
    return taken + _cpu(backend) - begun


async def looks(database: Database, size: int) -> Mapping[str, Rows]:
    """What the list, the metrics and the publisher cost with so many connections."""
    async with database.connection() as connection:
        await connection.execute("vacuum analyze connection, stream, kept_count")

        async def whole_list() -> object:
            rows = await connection.fetch(COUNTED, None)
            order = {state: place for place, state in enumerate(URGENCY)}
            return sorted(
                rows, key=lambda row: (order[row["state"]], row["customer_id"], row["connection_id"])
            )[:100]

        async def page() -> object:
            places = await listing.page(database, Filter(), limit=101)
            await listing.counts(database, Filter())
            return await status.read(database, [place.connection for place in places[:100]])

        old_list, new_list = await milliseconds(whole_list, 3), await milliseconds(page)
        old_idle = await milliseconds(lambda: connection.fetch(VERSIONS))
        new_idle = await milliseconds(lambda: retained.changes(database, limit=200))
        old_text = b""

        async def on_the_loop() -> None:
            nonlocal old_text
            old_text = _one_hot(await connection.fetch(COUNTED, None))

        old_metrics = await milliseconds(on_the_loop, 3)
        own = b""

        async def of_the_daemon() -> None:
            nonlocal own
            own = generate_latest(metrics.REGISTRY)

        daemon = await milliseconds(of_the_daemon)
        text = b""

        async def beside() -> None:
            nonlocal text
            set_gauges(await observed.read(database, connections=1000, customers=0), one_hot=False)
            text = generate_latest(metrics.CONNECTIONS)

        new_metrics = await milliseconds(beside)
        rows = await connection.fetch("select connection_id from connection order by 1 limit 100")
        names = [row["connection_id"] for row in rows]
        batch = await milliseconds(lambda: status.read(database, names))
    shown = f"{size:,}"
    return {
        "the list": [{"connections": shown, "whole, ms": f"{old_list:.1f}", "a page, ms": f"{new_list:.1f}"}],
        "the publisher, once a second": [
            {
                "connections": shown,
                "every version, ms": f"{old_idle:.2f}",
                "what changed, ms": f"{new_idle:.2f}",
                "100 documents read, ms": f"{batch:.1f}",
            }
        ],
        "metrics": [
            {
                "connections": shown,
                "as they were, on the daemon's loop, ms": f"{old_metrics:.0f}",
                "bytes": f"{len(old_text):,}",
                "the daemon's now, ms": f"{daemon:.1f}",
                "made beside it, ms": f"{new_metrics:.0f}",
                "bytes now": f"{len(own) + len(text):,}",
            }
        ],
    }


def _one_hot(rows: list[asyncpg.Record]) -> bytes:
    """Thirteen series a connection, as there were."""
    registry = CollectorRegistry()
    each = [
        Gauge(name, "x", ["connection"], registry=registry)
        for name in ("fieldgate_sync_lag_seconds", "fieldgate_sync_pending_readings", "fieldgate_sync_last_success_timestamp_seconds")
    ]  # fmt: skip
    labels = ["connection", "customer", "system"]
    required = Gauge("fieldgate_connection_reauthorization_required", "x", labels, registry=registry)
    states = Gauge("fieldgate_connection_state", "x", [*labels, "state"], registry=registry)
    for row in rows:
        name, customer, system = row["connection_id"], row["customer_id"], row["system"]
        for gauge in each:
            gauge.labels(name).set(float(str(row["pending"])))
        required.labels(name, customer, system).set(0)
        for state in State:
            states.labels(name, customer, system, state).set(row["state"] == state)
    return generate_latest(registry)


async def over_http(postgres: Postgres, dsn: str, size: int) -> Rows:
    """What a daemon answers, and what that costs its own process."""
    with tempfile.TemporaryDirectory(prefix="fg-observe-") as folder:
        broker = Mosquitto(Path(folder) / "mosquitto", persistent=False)
        await broker.start()
        daemon = Daemon(Path(folder), broker_url=broker.url, dsn=dsn, http={"authentication": False})
        daemon.start()
        try:
            await daemon.ready(180)
            await wait_until(lambda: _is_served(daemon), seconds=180, what="pages are served")
            rows = []
            for path in ("/", "/metrics"):
                taken, used, length = [], [], 0
                for _ in range(5):
                    own = [daemon.pid]
                    before, begun = _cpu(own), time.perf_counter()
                    length = len(await asyncio.to_thread(_get, daemon, path))
                    taken.append(1000 * (time.perf_counter() - begun))
                    used.append(1000 * (_cpu(own) - before))
                    await asyncio.sleep(5.2)  # what is held is read anew
                rows.append(
                    {
                        "path": path,
                        "connections": f"{size:,}",
                        "answered in, ms": f"{report.quantile(taken, 0.5):.0f}",
                        "the daemon's CPU meanwhile, ms": f"{report.quantile(used, 0.5):.1f}",
                        "bytes": f"{length:,}",
                    }
                )
            assert len(processes(daemon.pid)) > 1, cpu_seconds(daemon.pid)
            return rows
        finally:
            await daemon.stop()
            await broker.stop()


async def _is_served(daemon: Daemon) -> bool:
    return await daemon.status("/") == 200


def _cpu(pids: list[int]) -> float:
    """Of these processes alone, without those that they started."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for pid in pids
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


def _get(daemon: Daemon, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}{path}", timeout=60) as answer:
        body: bytes = answer.read()
        return body


async def run(*, small: bool, path: Path | None) -> None:
    """Prints the tables."""
    console = Console(width=160)
    sizes, held = (
        ((100, 1000), (1000, 10_000)) if small else ((100, 1000, 5000), (10_000, 100_000, 1_000_000))
    )
    postgres = Postgres(fsync="off")
    await postgres.start()
    tables: dict[str, Rows] = {}
    try:
        dsn = await postgres.create("observe")
        database = await Database.open(dsn, size=4)
        await migrate(database)
        done = 0
        async with database.connection() as connection:
            await connection.execute(PREPARE)
        for size in sizes:
            async with database.connection() as connection:
                await connection.execute(CONNECTIONS, done + 1, size)
                await connection.execute(STREAMS)
            done = size
            for title, rows in (await looks(database, size)).items():
                tables.setdefault(title, []).extend(rows)
        tables["the status of one connection"] = await status_of_one(database, held)
        tables["what counting costs whoever writes"] = await cost_of_counting(
            postgres, (1, 100, 4000), 5 if small else 15
        )
        async with database.connection() as connection:
            await connection.execute("delete from stream")
        await database.close()
        tables["over HTTP"] = await over_http(postgres, dsn, sizes[-1])
    finally:
        await postgres.stop()
        postgres.remove()
    for title, rows in tables.items():
        report.show(title, rows, console)
    report.write(path, {"machine": report.machine(), "versions": report.versions(), "tables": tables})


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="fewer connections and windows: a minute")
    parser.add_argument("--json", type=Path, help="also write the result there")
    options = parser.parse_args()
    asyncio.run(run(small=options.small, path=options.json))


if __name__ == "__main__":
    main()
