"""What a stored sample costs on disk, by the shape of its payload and by what PostgreSQL has to make it
smaller.

`python -m benchmarks.growth_disk [--small] [--no-checkpoints] [--binaries DIR] [--json FILE]`. The wheel's
server has no lz4; that of a distribution (`--binaries /usr/lib/postgresql/15/bin`) has. Counts bytes, not
seconds: other load does not disturb it. Samples go the way of the daemon (`TelemetryStore.write`), in time
order over the devices, in batches of 1,000. Values walk at random and are rounded, as those of sensors are: random digits
would compress worse, equal ones better.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from rich.console import Console

from benchmarks.report import machine, show, write
from benchmarks.servers import Postgres
from gateway.model.sample import Metrics
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.telemetry import Key, TelemetryStore

DEVICES = 100
BATCH = 1000
RECORD = 128 << 10
"""A compressing file system's unit (ZFS's default)."""

SIZES = """
select coalesce(sum(pg_relation_size(c.oid)), 0)::bigint as heap,
       coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint as indexes,
       coalesce(sum(pg_relation_size(nullif(c.reltoastrelid, 0))), 0)::bigint as toast
from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'telemetry'::regclass
"""
PACKED = """
create table packed (customer_id text, device_id text, hour timestamptz, at int[] compression {how}, metrics jsonb compression {how},
                     primary key (customer_id, device_id, hour));
with hours as materialized (
    select customer_id, device_id, date_trunc('hour', ts) as hour, ts, metrics from telemetry
), series as (
    select customer_id, device_id, hour, key, jsonb_agg(value order by ts) as series
    from hours cross join jsonb_each(metrics) group by customer_id, device_id, hour, key
)
insert into packed
select customer_id, device_id, hour, times.at, columns.metrics
from (
    select customer_id, device_id, hour, array_agg((extract(epoch from ts - hour) * 1000)::int order by ts) as at
    from hours group by customer_id, device_id, hour
) times
join (
    select customer_id, device_id, hour, jsonb_object_agg(key, series) as metrics from series group by customer_id, device_id, hour
) columns using (customer_id, device_id, hour)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A payload. `rows`: samples written, for each of the two sizes of a run."""

    name: str
    metrics: int
    rows: tuple[int, int]


SHAPES = (
    Shape(name="1 metric", metrics=1, rows=(20_000, 200_000)),
    Shape(name="3 metrics", metrics=3, rows=(20_000, 200_000)),
    Shape(name="30 metrics", metrics=30, rows=(10_000, 100_000)),
    Shape(name="200 metrics", metrics=200, rows=(4_000, 20_000)),
)
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as it is installed": {},
    "wal_compression = lz4": {"wal_compression": "lz4"},
    "toast lz4, wal lz4": {"wal_compression": "lz4", "default_toast_compression": "lz4"},
}


async def run(*, small: bool, checkpoints: bool, programs: Path | None) -> dict[str, object]:
    """Every shape under every setting that the server has; bytes a sample."""
    found: list[dict[str, object]] = []
    methods = await _methods(programs)
    for setting, options in SETTINGS.items():
        if not methods.issuperset(options.values()):
            continue
        server = _server(programs, **options)
        try:
            await server.start()
            for number, shape in enumerate(SHAPES):
                dsn = await server.create(f"disk{number}")
                found.append(
                    {
                        "setting": setting,
                        **await _measure(server, dsn, shape, methods, small=small, checkpoints=checkpoints),
                    }
                )
        finally:
            await server.stop()
            server.remove()
    return {"machine": machine(), "compression": sorted(methods), "samples": found}


def _server(programs: Path | None, **options: str) -> Postgres:
    server = Postgres(None, fsync="off", **options)
    server.programs = programs
    return server


async def _methods(programs: Path | None) -> set[str]:
    """Which compressions the server was built with."""
    server = _server(programs)
    try:
        await server.start()
        connection = await asyncpg.connect(server.dsn())
        try:
            row = await connection.fetchval(
                "select enumvals from pg_settings where name = 'default_toast_compression'"
            )
            return set(row)
        finally:
            await connection.close()
    finally:
        await server.stop()
        server.remove()


async def _measure(
    server: Postgres, dsn: str, shape: Shape, methods: set[str], *, small: bool, checkpoints: bool
) -> dict[str, object]:
    count = shape.rows[0 if small else 1]
    database = await Database.open(dsn, size=2)
    plain = await asyncpg.connect(dsn)
    try:
        await migrate(database)
        before = await plain.fetchval("select pg_current_wal_insert_lsn()")
        await _write(database, plain, shape, count, checkpoints=checkpoints)
        wal = await plain.fetchval("select pg_current_wal_insert_lsn() - $1::pg_lsn", before)
        await plain.execute("vacuum (freeze, analyze) telemetry")
        sizes = await plain.fetchrow(SIZES)
        assert sizes is not None
        bytes_of = {name: round(size / count, 1) for name, size in (*sizes.items(), ("wal", int(wal)))}
        packed = {how: await _packed(plain, how) / count for how in sorted(methods)}
        await plain.execute("checkpoint")
        return {
            "shape": shape.name, "rows": count, "payload": await plain.fetchval("select avg(length(metrics::text))::int from telemetry"),
            **bytes_of, "disk": round(sum(sizes) / count, 1), "file_system": await _on_file_system(plain, server, count),
            "brin": await _brin(plain) / count, **{f"packed_{how}": round(size, 1) for how, size in packed.items()},
        }  # fmt: skip
    finally:
        await plain.close()
        await database.close()


async def _write(
    database: Database,
    plain: asyncpg.Connection[asyncpg.Record],
    shape: Shape,
    count: int,
    *,
    checkpoints: bool,
) -> None:
    """`checkpoints`: ten of them, after each of which a page's first change writes the page whole into the log."""
    store = TelemetryStore(database, register_customers=True)
    rand = random.Random(1)
    values = {device: [20.0 + rand.random() * 50 for _ in range(shape.metrics)] for device in range(DEVICES)}
    start = time.time_ns() // 1000 // 86_400_000_000 * 86_400_000_000
    step = 86_000_000_000 // (count // DEVICES + 1)
    batch: list[tuple[Key, Metrics, int]] = []
    for number in range(count):
        device = number % DEVICES
        held = values[device]
        for metric in range(shape.metrics):
            held[metric] += rand.uniform(-0.2, 0.2)
        at = start + number // DEVICES * step + device
        metrics: Metrics = {f"metric{name}": round(value, 2) for name, value in enumerate(held)}
        batch.append((("acme", f"device-{device:04d}", at), metrics, at))
        if len(batch) == BATCH:
            await store.write(batch, [])
            batch = []
        if checkpoints and (number + 1) % (count // 10) == 0:
            await plain.execute("checkpoint")
    if batch:
        await store.write(batch, [])


async def _packed(plain: asyncpg.Connection[asyncpg.Record], how: str) -> int:
    """Bytes of the same samples with an hour of a device in a row, a column a metric: what a rewrite of old
    days could give, and about what TimescaleDB's compression does.
    """
    await plain.execute(PACKED.format(how=how), timeout=1800)
    size: int = await plain.fetchval("select pg_total_relation_size('packed')")
    await plain.execute("drop table packed")
    return size


async def _brin(plain: asyncpg.Connection[asyncpg.Record]) -> int:
    """Bytes of a BRIN on the time, which a B-tree on the same costs some 20 a sample for."""
    day = await plain.fetchval("select max(tableoid::regclass::text) from telemetry")
    await plain.execute(f"create index brin on {day} using brin (ts)")
    size: int = await plain.fetchval("select pg_relation_size('brin')")
    await plain.execute("drop index brin")
    return size


async def _on_file_system(plain: asyncpg.Connection[asyncpg.Record], server: Postgres, count: int) -> float:
    """Bytes a sample where the file system compresses records of 128 KB, with gzip's fastest level."""
    paths = await plain.fetch("""select pg_relation_filepath(o) as path from (
            select c.oid as o from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'telemetry'::regclass
            union all select x.indexrelid from pg_inherits i join pg_index x on x.indrelid = i.inhrelid where i.inhparent = 'telemetry'::regclass
            union all select c.reltoastrelid from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'telemetry'::regclass and c.reltoastrelid > 0
        ) all_of_it""")
    total = 0
    for row in paths:
        content = await asyncio.to_thread(Path(server.data / row["path"]).read_bytes)
        total += sum(
            len(zlib.compress(content[begin : begin + RECORD], 1)) for begin in range(0, len(content), RECORD)
        )
    return round(total / count, 1)


def rows(document: Mapping[str, object]) -> list[Mapping[str, str]]:
    """The document as lines of a table, in bytes a sample."""
    lines = document["samples"]
    assert isinstance(lines, list)
    columns = (
        "payload",
        "heap",
        "toast",
        "indexes",
        "disk",
        "wal",
        "file_system",
        "packed_pglz",
        "packed_lz4",
    )
    return [
        {
            "setting": line["setting"],
            "shape": line["shape"],
            **{name: f"{line[name]:,.0f}" if name in line else "-" for name in columns},
        }
        for line in lines
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the samples")
    parser.add_argument(
        "--no-checkpoints", dest="checkpoints", action="store_false", help="the log of samples alone"
    )
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument(
        "--binaries",
        type=Path,
        default=None,
        help="the directory of another PostgreSQL's initdb and postgres",
    )
    asked = parser.parse_args()
    document = asyncio.run(run(small=asked.small, checkpoints=asked.checkpoints, programs=asked.binaries))
    show("Bytes a sample", rows(document), Console())
    write(asked.json, document)


if __name__ == "__main__":
    main()
