"""Measures readings a second from stored telemetry into the `postgres` sink, mapped with `each`, and what one
costs at each size.

The connection is active and idle when the daemon is stopped; the samples are then written as ingest writes
them (transactions of 4,000), and the daemon is started: it delivers the backlog incrementally. From the first
row's insert to the last row's commit, by PostgreSQL's own stamps.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from benchmarks.daemon import CpuMeter, Daemon, peak_memory_bytes, postgres_connection, tree_seconds
from benchmarks.report import machine, versions
from benchmarks.servers import Mosquitto, Postgres, wait_until

DEVICES = 100
BATCH = 4_000
SAMPLES_A_DAY = 50_000
METERS = [{"device": "*", "metric": "temperature", "meter": "{device}/temperature", "reduce": "each"}]
Row = tuple[str, str, datetime, str, datetime, int]


async def run(sizes: Sequence[int], progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """One run per size, each with databases of its own; the JSON document of `bench sync`."""
    directory = Path(tempfile.mkdtemp(prefix="fg-bench-"))
    broker, postgres = (
        Mosquitto(directory / "broker", persistent=False),
        Postgres(track_commit_timestamp="on"),
    )
    try:
        await broker.start()
        await postgres.start()
        runs = []
        for size in sizes:
            progress(f"{size:,} samples")
            runs.append(await deliver(size, broker, postgres, directory))
    finally:
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
    costs = [run["wall_microseconds_per_reading"] for run in runs]
    return {
        "machine": machine(),
        "versions": versions(),
        "sizes": runs,
        "cost_spread": round(max(costs) / min(costs) - 1, 3),
    }


async def deliver(size: int, broker: Mosquitto, postgres: Postgres, directory: Path) -> dict[str, float]:
    """One run: samples, readings a second, what one costs, the highest memory. The database's CPU includes
    the look for the end, some times a second.
    """
    dsn, sink_dsn = await postgres.create(f"fieldgate{size}"), await postgres.create(f"sink{size}")
    connection = postgres_connection("sink", "acme", sink_dsn, METERS)
    daemon = Daemon(
        directory,
        broker_url=broker.url,
        dsn=dsn,
        connections=[connection],
        name=f"daemon{size}",
        logging={"level": "warning"},
    )
    store, sink = await asyncpg.connect(dsn), await asyncpg.connect(sink_dsn)
    try:
        await _activate(daemon, store)
        await _fill(store, size)
        database_cpu = tree_seconds(postgres.pid)
        daemon.start()
        async with CpuMeter(daemon.pid) as cpu:

            async def is_delivered() -> bool:
                return bool(await sink.fetchval("select count(*) from fieldgate_reading") == size)

            await wait_until(
                is_delivered,
                seconds=60 + size / 1000,
                what=f"{size} readings are delivered",
                every=0.2 if size < 500_000 else 1.0,
            )
            database_cpu = tree_seconds(postgres.pid) - database_cpu
            first, last = await _stamps(sink)

            async def is_recorded() -> bool:
                return bool(
                    await store.fetchval("select coalesce(sum(delivered), 0) >= $1 from sync_run", size)
                )

            await wait_until(is_recorded, seconds=60, what="the runs are recorded")
            await daemon.ready()  # and a CPU sample past the last commit
        peak = peak_memory_bytes(daemon.pid)
        started = await store.fetchval(
            "select extract(epoch from min(started_at))::float8 from sync_run where delivered > 0"
        )
    finally:
        await daemon.stop()
        await store.close()
        await sink.close()
    first = min(first, started)
    return {
        "samples": size,
        "readings_per_second": round(size / (last - first)),
        "wall_microseconds_per_reading": round((last - first) / size * 1e6, 1),
        "cpu_microseconds_per_reading": round(cpu.between(first, last) / size * 1e6, 1),
        "database_cpu_microseconds_per_reading": round(database_cpu / size * 1e6, 1),
        "peak_memory_bytes": peak,
    }


async def _stamps(sink: asyncpg.Connection[asyncpg.Record]) -> tuple[float, float]:
    row = await sink.fetchrow(
        """select extract(epoch from min(updated_at))::float8, extract(epoch from max(pg_xact_commit_timestamp(xmin)))::float8, sum(changes)
        from fieldgate_reading"""
    )
    assert row is not None and row[2] == 0
    return row[0], row[1]


async def _activate(daemon: Daemon, store: asyncpg.Connection[asyncpg.Record]) -> None:
    """Runs the daemon until its initial sync, of nothing, is done."""
    daemon.start()
    await daemon.ready()

    async def is_done() -> bool:
        return bool(
            await store.fetchval(
                "select count(last_success_at) > 0 and bool_and(phase = 'incremental' or state = 'done') from"
                " stream"
            )
        )

    await wait_until(is_done, what="the initial sync is done")
    await daemon.stop()


async def _fill(store: asyncpg.Connection[asyncpg.Record], size: int) -> None:
    """Samples in the order of time, up to now, spread over as many days as a fleet takes for them."""
    now = datetime.fromtimestamp(int(time.time()), UTC)
    step = timedelta(days=1) / SAMPLES_A_DAY
    since = now - step * size
    for day in range((now - since).days + 2):
        await store.execute(
            "select ensure_partition('telemetry', $1::date)", (since + timedelta(days=day)).date()
        )
    end: int = await store.fetchval("select position from customer_log where customer_id = 'acme'") or 0
    await store.execute(
        "insert into device (customer_id, device_id, revision) select 'acme', 'device' || g, $2 from"
        " generate_series(0, $1) g",
        DEVICES - 1,
        end + 1,
    )
    for start in range(0, size, BATCH):
        end += 1
        rows: list[Row] = [
            (
                "acme",
                f"device{number % DEVICES}",
                since + step * number,
                '{"temperature": %.3f}' % (number % 9973 / 100),
                now,
                end,
            )
            for number in range(start, min(start + BATCH, size))
        ]
        await store.copy_records_to_table(
            "telemetry",
            records=rows,
            columns=["customer_id", "device_id", "ts", "metrics", "received_at", "revision"],
        )
    await store.execute(
        "insert into customer_log (customer_id, position) values ('acme', $1) on conflict (customer_id) do"
        " update set position = $1",
        end,
    )
    await store.execute(
        """insert into customer_day (customer_id, day, reaches)
        select 'acme', to_date(right(relname, 8), 'YYYYMMDD'), $1 from pg_inherits join pg_class on oid = inhrelid
        where inhparent = 'telemetry'::regclass
        on conflict (customer_id, day) do update set reaches = $1""",
        end,
    )
    await store.execute("analyze telemetry")


def rows(document: Mapping[str, object]) -> list[Mapping[str, str]]:
    """The document as lines of a table."""
    sizes = document["sizes"]
    assert isinstance(sizes, list)
    return [
        {
            "stored samples": f"{run['samples']:,}",
            "readings/s": f"{run['readings_per_second']:,}",
            "us a reading": str(run["wall_microseconds_per_reading"]),
            "CPU us a reading": str(run["cpu_microseconds_per_reading"]),
            "database CPU us": str(run["database_cpu_microseconds_per_reading"]),
            "peak memory": f"{run['peak_memory_bytes'] / 1e6:.0f} MB",
        }
        for run in sizes
    ]
