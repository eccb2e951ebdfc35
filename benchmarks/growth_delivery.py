"""Measures what delivery costs where it used to grow: the recovery of a backlog, acknowledgements beside a
busy customer, many customers at once, the first window of a counter, an initial sync beside live readings.

`python -m benchmarks.growth_delivery [--small] [--against DIRECTORY] [--only ROW,...] [--json FILE]`. With
`--against` each row is measured with the daemon of that checkout too, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import asyncpg
from rich.console import Console

from benchmarks import sync
from benchmarks.daemon import Daemon, postgres_connection
from benchmarks.mqtt import Publisher
from benchmarks.report import machine, show, versions, write
from benchmarks.servers import Mosquitto, Postgres, wait_until

HERE = Path(__file__).resolve().parent.parent
EACH = [{"device": "*", "metric": "t", "meter": "{device}/t", "reduce": "each"}]
QUARTERS = [{"device": "*", "metric": "t", "meter": "{device}/t", "reduce": "mean", "every": "15m"}]
Figures = dict[str, float]
Store: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured; `seconds` of load."""

    recovery: Sequence[int]
    connections: int
    customers: int
    devices: int
    days: int
    seconds: float


FULL = Sizes(
    recovery=(10_000, 100_000, 1_000_000), connections=50, customers=1_000, devices=200, days=30, seconds=60
)
SMALL = Sizes(recovery=(2_000, 10_000), connections=5, customers=50, devices=50, days=10, seconds=10)


@dataclass(frozen=True, kw_only=True)
class World:
    """Throw-away servers, and a directory for one row."""

    broker: Mosquitto
    postgres: Postgres
    directory: Path
    sizes: Sizes

    @asynccontextmanager
    async def running(
        self, connections: Sequence[Mapping[str, object]], customers: Sequence[str], dsn: str
    ) -> AsyncIterator[tuple[Daemon, Store]]:
        """A daemon whose connections are active."""
        daemon = Daemon(
            self.directory,
            broker_url=self.broker.url,
            dsn=dsn,
            customers=customers,
            connections=connections,
            logging={"level": "warning"},
        )
        store = await asyncpg.connect(dsn)
        daemon.start()
        try:
            await daemon.ready(120)

            async def are_active() -> bool:
                query = "select count(*) from connection where state = 'active'"
                return bool(await store.fetchval(query) == len(connections))

            await wait_until(are_active, seconds=600, what="the connections are active", every=0.5)
            yield daemon, store
        finally:
            await daemon.stop()
            await store.close()


async def recovery(world: World) -> Figures:
    """Readings a second of a backlog, by size, and how far the sizes are apart."""
    figures = Figures()
    for size in world.sizes.recovery:
        world.directory.joinpath(str(size)).mkdir()
        run = await sync.deliver(size, world.broker, world.postgres, world.directory / str(size))
        figures[f"readings/s of {size:,}"] = run["readings_per_second"]
        figures[f"daemon CPU us a reading of {size:,}"] = run["cpu_microseconds_per_reading"]
    rates = [value for name, value in figures.items() if name.startswith("readings/s")]
    return {**figures, "spread": max(rates) / min(rates) - 1}


async def acknowledgements(world: World) -> Figures:
    """Seconds to the acknowledgement, of everybody: with nobody else, and beside a customer with many
    connections.
    """
    count, seconds = world.sizes.connections, world.sizes.seconds
    dsn, sink = await world.postgres.create("acks"), await world.postgres.create("acks_sink")
    connections = [postgres_connection(f"c{number}", "busy", sink, EACH) for number in range(count)]
    async with world.running(connections, ["busy", "quiet"], dsn) as (daemon, store):
        quiet = await _acknowledged(daemon, world.broker.port, ["quiet"], 400, seconds / 2)
        busy = await _acknowledged(daemon, world.broker.port, ["busy", "quiet"], 400, seconds)
        delivered = await store.fetchval("select coalesce(sum(delivered), 0)::float8 from sync_run")
    return {
        "quiet p50 ms": quiet(0.5),
        "quiet p99 ms": quiet(0.99),
        "busy p50 ms": busy(0.5),
        "busy p99 ms": busy(0.99),
        "readings/s meanwhile": delivered / seconds,
    }


async def customers(world: World) -> Figures:
    """Many customers with a connection each: how late streams are at an interval of 5 s, and what a run
    costs.
    """
    names = [f"customer{number}" for number in range(world.sizes.customers)]
    dsn, sink = await world.postgres.create("many"), await world.postgres.create("many_sink")
    connections = [postgres_connection(f"{name}-1", name, sink, EACH, interval="5s") for name in names]
    late = list[float]()
    async with world.running(connections, names, dsn) as (daemon, store):

        async def look() -> None:
            while True:
                await asyncio.sleep(1)
                query = """select coalesce(max(extract(epoch from now() - next_run_at)), 0)::float8 from stream
                           where phase = 'incremental' and lease_until is null and next_run_at < now()"""
                late.append(await store.fetchval(query))

        looking = asyncio.create_task(look())
        before, commits = await daemon.metrics(), await _commits(world.postgres, "many")
        acks = await _acknowledged(
            daemon, world.broker.port, names, world.sizes.customers, world.sizes.seconds
        )
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        after = await daemon.metrics()
        commits = await _commits(world.postgres, "many") - commits
    runs = sum(
        value - before.get(name, 0.0)
        for name, value in after.items()
        if name.startswith("fieldgate_sync_runs_total") and 'phase="incremental"' in name
    )
    return {
        "runs/s": runs / world.sizes.seconds,
        "transactions a run": commits / max(1.0, runs),
        "most late s": max(late),
        "ack p50 ms": acks(0.5),
        "ack p99 ms": acks(0.99),
    }


async def counters(world: World) -> Figures:
    """Computing the window of a counter over 100 days of partitions: of a device that was there before, and
    of a new one.
    """
    dsn, sink = await world.postgres.create("counters"), await world.postgres.create("counters_sink")
    rule = [{"device": "*", "metric": "t", "meter": "{device}/t", "reduce": "delta", "every": "15m"}]
    connection = postgres_connection("sink", "acme", sink, rule)
    now = datetime.now(UTC)
    async with world.running([connection], ["acme"], dsn) as (_, store):
        for day in range(100):
            await store.execute(
                "select ensure_partition('telemetry', $1)", (now - timedelta(days=day)).date()
            )
        async with Publisher[int](world.broker.port, "counters", window=100) as publisher:
            for device in ("old", "new"):
                at = now - timedelta(days=1 if device == "old" else 0, hours=1)
                payload = json.dumps({"ts": at.isoformat(), "metrics": {"t": 1}}).encode()
                await publisher.publish(f"acme/devices/{device}/telemetry", payload, 0)
            await publisher.flush()

        async def are_stored() -> bool:
            return bool(await store.fetchval("select count(*) = 2 from meter_mapping"))

        await wait_until(are_stored, what="both devices are mapped")
    return {f"us, {device} device": await _computed(dsn, device, now) for device in ("old", "new")}


async def history(world: World) -> Figures:
    """An initial sync beside live readings: its pace, how late live readings are, and how true the estimate
    was.
    """
    sizes = world.sizes
    dsn, sink_dsn = await world.postgres.create("history"), await world.postgres.create("history_sink")
    connection = postgres_connection("sink", "acme", sink_dsn, QUARTERS, initial_days=sizes.days)
    async with world.running([], ["acme"], dsn):
        pass  # migrates
    store = await asyncpg.connect(dsn)
    expected = await _history(store, sizes)
    await store.close()
    estimates = list[tuple[float, float]]()
    async with world.running([connection], ["acme"], dsn) as (_, store):
        query = """select state, initial_cursor, initial_until, initial_from, to_jsonb(s) ->> 'initial_walked' as walked,
                          to_jsonb(s) ->> 'initial_total' as total from stream s where phase = 'initial'"""
        while (row := await store.fetchrow(query)) is not None and row["state"] != "done":
            if row["walked"] and row["total"]:
                fraction = int(row["walked"]) / int(row["total"])
            else:
                fraction = (row["initial_cursor"] - row["initial_from"]) / (
                    row["initial_until"] - row["initial_from"]
                )
            estimates.append((time.time(), fraction))
            await asyncio.sleep(0.1)
        started, ended = await store.fetchrow(
            """select extract(epoch from min(started_at))::float8, extract(epoch from max(ended_at))::float8
            from sync_run where phase = 'initial'"""
        ) or (0.0, 0.0)
        took = ended - started
    errors = [
        abs((at - started) / fraction - took) / took for at, fraction in estimates if 0.05 <= fraction < 0.95
    ]
    return {
        "readings": float(expected),
        "readings/s": expected / took,
        "estimate off by, at most": max(errors, default=0.0),
    }


async def _history(store: Store, sizes: Sizes) -> int:
    """A sample each five minutes of each device; how many readings they make."""
    now = datetime.fromtimestamp(int(time.time()) // 900 * 900, UTC)
    for day in range(sizes.days + 1):
        await store.execute("select ensure_partition('telemetry', $1)", (now - timedelta(days=day)).date())
    await store.execute(
        "insert into device (customer_id, device_id) select 'acme', 'device' || g from generate_series(1,"
        " $1::int) g",
        sizes.devices,
    )
    await store.execute(
        """insert into telemetry (customer_id, device_id, ts, metrics, received_at)
        select 'acme', 'device' || d, t, jsonb_build_object('t', extract(epoch from t)::bigint % 977), t
        from generate_series($1::timestamptz, $2::timestamptz, '5 minutes') t, generate_series(1, $3::int) d""",
        now - timedelta(days=sizes.days) + timedelta(hours=1),
        now - timedelta(minutes=30),
        sizes.devices,
        timeout=600,
    )
    await store.execute("analyze telemetry")
    readings: int = await store.fetchval(
        "select count(distinct (device_id, date_bin('15 minutes', ts, 'epoch'))) from telemetry", timeout=600
    )
    return readings


async def _computed(dsn: str, device: str, now: datetime) -> float:
    """Microseconds of the statement for one window, the best of ten."""
    root = Path(os.environ.get("PYTHONPATH", HERE))
    statement = (root / "gateway/store/sql/due_compute.sql").read_text()
    store = await asyncpg.connect(
        dsn,
        server_settings={
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_sort": "off",
        },
    )
    try:
        await store.execute("delete from due_window")
        await store.execute(
            """insert into due_window (connection_id, meter, window_start, phase, closes_at)
            select 'sink', meter, date_bin('15 minutes', $2::timestamptz, 'epoch'), 'incremental', now() from meter_mapping where device_id = $1""",
            device,
            now - timedelta(hours=1),
        )
        prepared = await store.prepare(statement)
        best = float("inf")
        for _ in range(10):
            started = time.perf_counter()
            rows = await prepared.fetch("sink", "incremental", "acme", 10, datetime(1, 1, 1, tzinfo=UTC), "")
            best = min(best, time.perf_counter() - started)
            assert len(rows) == 1
    finally:
        await store.close()
    return best * 1e6


async def _acknowledged(
    daemon: Daemon, port: int, names: Sequence[str], rate: float, seconds: float
) -> Callable[[float], float]:
    """Publishes so many messages a second; the quantiles of what the daemon took to acknowledge them, in
    milliseconds.
    """
    before = await daemon.metrics()
    async with Publisher[int](port, f"load{len(names)}", window=20_000) as publisher:
        started, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds:
            while sent < elapsed * rate:
                name = names[sent % len(names)]
                payload = b'{"t": %d}' % (sent % 9973)
                await publisher.publish(f"{name}/devices/pump{sent % 7}/telemetry", payload, sent)
                sent += 1
            await asyncio.sleep(0.005)
        await publisher.flush()
    after = await daemon.metrics()
    buckets = sorted(
        (float(name.split('le="')[1].split('"')[0].replace("+Inf", "inf")), value - before.get(name, 0.0))
        for name, value in after.items()
        if name.startswith("fieldgate_mqtt_ack_seconds_bucket")
    )

    def quantile(share: float) -> float:
        """Within its bucket as far as the share is within the bucket's."""
        total, low, counted = buckets[-1][1], 0.0, 0.0
        for high, upto in buckets:
            if upto >= share * total > 0:
                part = (share * total - counted) / max(1.0, upto - counted)
                return 1000 * (low + part * (min(high, 60.0) - low))
            low, counted = high, upto
        return float("nan")

    return quantile


async def _commits(postgres: Postgres, database: str) -> float:
    store = await asyncpg.connect(postgres.dsn())
    try:
        return float(
            await store.fetchval("select xact_commit from pg_stat_database where datname = $1", database)
        )
    finally:
        await store.close()


ROWS: Mapping[str, Callable[[World], Awaitable[Figures]]] = {
    "recovery": recovery,
    "acknowledgements": acknowledgements,
    "customers": customers,
    "counters": counters,
    "history": history,
}


async def measure(row: str, sizes: Sizes, root: Path) -> Figures:
    """One row with the daemon of the checkout, and servers of its own."""
    directory = Path(tempfile.mkdtemp(prefix="fg-growth-"))
    broker = Mosquitto(directory / "broker", persistent=False)
    postgres = Postgres(track_commit_timestamp="on", max_connections="400")
    # of the daemon that is started; without the second the working directory would come first
    os.environ.update(PYTHONPATH=str(root), PYTHONSAFEPATH="1")
    try:
        await broker.start()
        await postgres.start()
        return await ROWS[row](World(broker=broker, postgres=postgres, directory=directory, sizes=sizes))
    finally:
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Prints a table for each row, and writes all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="sizes for a quick look")
    parser.add_argument("--against", type=Path, help="a checkout to compare with")
    parser.add_argument("--only", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, help="a file to write")
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else FULL
    roots = {"now": HERE} | ({"before": arguments.against.resolve()} if arguments.against else {})
    console, document = Console(), dict[str, object]()
    for row in arguments.only.split(",") if arguments.only else ROWS:
        found = {name: asyncio.run(measure(row, sizes, root)) for name, root in reversed(roots.items())}
        document[row] = found
        names = list(dict.fromkeys(figure for figures in found.values() for figure in figures))
        lines = [
            {
                "figure": figure,
                **{name: f"{figures.get(figure, float('nan')):,.2f}" for name, figures in found.items()},
            }
            for figure in names
        ]
        show(row, lines, console)
    write(arguments.json, {"machine": machine(), "versions": versions(), "rows": document})


if __name__ == "__main__":
    main()
