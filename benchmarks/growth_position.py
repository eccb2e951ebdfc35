"""Measures what the log position costs and what it gives: the database's CPU a row written, a message scanned
for one connection and for fifty, and a message written and scanned at 10^5 to 10^7 stored samples over 100
days.

`python -m benchmarks.growth_position [--small] [--against TREE] [--json FILE]`. TREE is another checkout, of
before: what it writes is measured in turns with ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.servers import Postgres
from gateway.model.sample import Metrics
from gateway.store.migrate import migrate
from gateway.store.pool import Connection, Database
from gateway.store.telemetry import Key, TelemetryStore

TICK = os.sysconf("SC_CLK_TCK")
DAYS = 100
SHAPES = ((4000, 1), (4000, 1000), (400, 100), (10, 10), (1, 1))
"""Rows of a commit, and customers that they are of."""
Document = dict[str, object]


def backend_seconds(pid: int) -> float:
    """CPU of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def cpu(database: Database) -> float:
    """Of the one session of the pool."""
    async with database.connection() as connection:
        return backend_seconds(await connection.fetchval("select pg_backend_pid()"))


async def write(dsn: str, rows: int, size: int, customers: int, start: datetime) -> float:
    """Microseconds of the database's CPU a row, written in commits of `size` by the
    gateway that is imported.
    """
    database = await Database.open(dsn, size=1)
    try:
        await migrate(database)
        store = TelemetryStore(database, register_customers=True)
        known = [(f"c{n}", f"d{n}") for n in range(customers)]
        at = int(start.timestamp() * 1e6)
        await store.write([((*who, at), {"t": 1.0}, at) for who in known], [])
        before, number = await cpu(database), 0
        while number < rows:
            batch: list[tuple[Key, Metrics, int]] = [
                (
                    (*known[n % customers], at + (n + 1) * 1000),
                    {"t": n % 997 / 10, "u": n % 31, "v": n % 7},
                    at,
                )
                for n in range(number, number + size)
            ]
            await store.write(batch, [])
            number += size
        return (await cpu(database) - before) / number * 1e6
    finally:
        await database.close()


def written_by(tree: Path, dsn: str, rows: int, size: int, customers: int, start: datetime) -> float:
    """As `write`, by the gateway of another checkout."""
    command = [
        sys.executable,
        __file__,
        "--write",
        dsn,
        str(rows),
        str(size),
        str(customers),
        start.isoformat(),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, check=True)
    return float(done.stdout)


async def rows_written(
    postgres: Postgres, trees: Mapping[str, Path], rows: int, rounds: int
) -> list[Document]:
    """Each shape, the checkouts in turns; the median of the rounds."""
    found: list[Document] = []
    dsns = {name: await postgres.create(f"write_{name}") for name in trees}
    for number, (size, customers) in enumerate(SHAPES):
        costs: dict[str, list[float]] = {name: [] for name in trees}
        count = rows if size > 10 else rows // 10 if size > 1 else rows // 40
        for turn in range(rounds):
            start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number * rounds + turn)
            for name, tree in trees.items():
                costs[name].append(
                    await asyncio.to_thread(written_by, tree, dsns[name], count, size, customers, start)
                )
        medians = {name: round(statistics.median(each), 2) for name, each in costs.items()}
        ratio = round(medians["ours"] / medians["before"], 3) if "before" in medians else None
        found.append({"rows": size, "customers": customers, "us_a_row": medians, "ratio": ratio})
    return found


async def prepare_connections(connection: Connection, count: int, devices: int) -> None:
    """Connections of `acme` that each map three metrics of every device, scanned to where the log ends."""
    await connection.execute(
        """insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
        select 'k' || n, 'acme', 'postgres', 'cloud', 1, 'active', '' from generate_series(1, $1) n""",
        count,
    )
    await connection.execute(
        """insert into stream (connection_id, name, phase, watermark, device_watermark)
        select 'k' || n, 'readings', 'incremental', position, position from generate_series(1, $1) n, customer_log""",
        count,
    )
    await connection.execute(
        """insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span)
        select 'k' || n, d || m, 'd' || d, m, 'mean', interval '15 minutes'
        from generate_series(1, $1) n, generate_series(0, $2 - 1) d, unnest(array['t', 'u', 'v']) m""",
        count,
        devices,
    )


async def main_scan(dsn: str, count: int, messages: int, batch: int, devices: int) -> float:
    """Microseconds of the database's CPU a message, written and scanned for `count` connections, by slices of
    5,000.
    """
    from gateway.store import windows
    from gateway.store.streams import Claim
    from gateway.store.windows import SliceReader

    database = await Database.open(dsn, size=1)
    try:
        await migrate(database)
        store = TelemetryStore(database, register_customers=True)
        at = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
        await store.write([(("acme", f"d{n}", at), {"t": 1.0}, at) for n in range(devices)], [])
        async with database.connection() as connection:
            await prepare_connections(connection, count, devices)
        claim = Claim(
            connection="k1", customer="acme", name="readings", phase="incremental", fence=0, attempts=0
        )
        beside = {f"k{n}": 0 for n in range(2, count + 1)}
        number, before = 0, 0.0
        for step in range(messages // 5000 + 1):
            if step == 1:
                before = await cpu(database)  # the first one plans
            for _ in range(5000 // batch):
                rows: list[tuple[Key, Metrics, int]] = [
                    (("acme", f"d{n % devices}", at + n * 1000), {"t": 1.5, "u": n % 31, "v": n % 7}, at)
                    for n in range(number + 1, number + batch + 1)
                ]
                await store.write(rows, [])
                number += batch
            async with database.transaction() as connection:
                mark = await connection.fetchval("select watermark from stream where connection_id = 'k1'")
                part = await windows.next_slice(connection, "acme", mark, 20_000)
                along = await windows.along(connection, claim, part, beside) if beside else {}
                readers = [
                    SliceReader(connection=name, past=part.after, lateness=timedelta(0))
                    for name in ["k1", *along]
                ]
                seen = await windows.mark_changed(connection, "acme", part, readers, with_neighbours=False)
                assert len(readers) == count and seen >= 5000
                await windows.advance(connection, claim, part, along)
        return (await cpu(database) - before) / (number - 5000) * 1e6
    finally:
        await database.close()


async def stored(dsn: str, sizes: Sequence[int]) -> list[Document]:
    """What a message costs to write and to scan when so many are stored already, spread over 100 days."""
    from gateway.store import windows
    from gateway.store.streams import Claim
    from gateway.store.windows import SliceReader

    database = await Database.open(dsn, size=1)
    found: list[Document] = []
    try:
        await migrate(database)
        store = TelemetryStore(database, register_customers=True)
        now = datetime(2026, 6, 1, 12, tzinfo=UTC)
        at, held, number = int(now.timestamp() * 1e6), 0, 0
        await store.write([(("acme", f"d{n}", at), {"t": 1.0}, at) for n in range(100)], [])
        async with database.connection() as connection:
            await prepare_connections(connection, 1, 100)
        claim = Claim(
            connection="k1", customer="acme", name="readings", phase="incremental", fence=0, attempts=0
        )
        for size in sizes:
            async with database.connection() as connection:
                await fill(connection, now, held, size)
            held = size
            costs: dict[str, list[float]] = {"write": [], "scan": []}
            for turn in range(12):
                before = await cpu(database)
                for _ in range(40):
                    rows: list[tuple[Key, Metrics, int]] = [
                        (("acme", f"d{n % 100}", at + n * 1000), {"t": 1.5, "u": n % 31, "v": n % 7}, at)
                        for n in range(number + 1, number + 501)
                    ]
                    await store.write(rows, [])
                    number += 500
                middle = await cpu(database)
                async with database.connection() as connection:
                    await connection.execute("update stream set watermark = watermark")
                for _ in range(40):
                    async with database.transaction() as connection:
                        mark = await connection.fetchval("select watermark from stream")
                        part = await windows.next_slice(connection, "acme", mark, 499)
                        reader = SliceReader(connection="k1", past=part.after, lateness=timedelta(0))
                        await windows.mark_changed(connection, "acme", part, [reader], with_neighbours=False)
                        await windows.advance(connection, claim, part)
                if turn > 1:
                    costs["write"].append((middle - before) / 20_000 * 1e6)
                    costs["scan"].append((await cpu(database) - middle) / 20_000 * 1e6)
            found.append(
                {"stored": size, **{name: round(statistics.median(each), 2) for name, each in costs.items()}}
            )
    finally:
        await database.close()
    return found


async def fill(connection: Connection, now: datetime, held: int, size: int) -> None:
    """As many more samples, over the days before today. They count as scanned."""
    for day in range(DAYS):
        start = now.replace(hour=0) - timedelta(days=day + 1)
        await connection.execute("select ensure_partition('telemetry', $1)", start.date())
        each = (size - held) // DAYS
        await connection.execute(
            """insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision)
            select 'acme', 'd' || n % 100, $1::timestamptz + (n + $2) * interval '1 millisecond', '{"t": 1.5, "u": 3, "v": 4}', now(), 1
            from generate_series(1, $3) n""",
            start,
            held // DAYS,
            each,
            timeout=600,
        )


async def run(arguments: argparse.Namespace) -> Document:
    """Everything, on one throw-away server."""
    small, here = arguments.small, Path(__file__).parents[1]
    trees = {"ours": here} if arguments.against is None else {"before": arguments.against, "ours": here}
    postgres = Postgres(fsync="off")
    try:
        await postgres.start()
        document: Document = {"machine": report.machine()}
        document["write"] = await rows_written(
            postgres, trees, 20_000 if small else 200_000, 3 if small else 5
        )
        counts, messages = (1, 10, 50), 20_000 if small else 100_000
        document["connections"] = [
            {
                "connections": count,
                "us_a_message": round(
                    await main_scan(await postgres.create(f"scan_{count}"), count, messages, 500, 100), 2
                ),
            }
            for count in counts
        ]
        sizes = (10**4, 10**5, 10**6) if small else (10**5, 10**6, 10**7)
        document["stored"] = await stored(await postgres.create("stored"), sizes)
        return document
    finally:
        await postgres.stop()
        postgres.remove()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        dsn, rows, size, customers, start = arguments.write
        print(asyncio.run(write(dsn, int(rows), int(size), int(customers), datetime.fromisoformat(start))))
        return
    document = asyncio.run(run(arguments))
    for title in ("write", "connections", "stored"):
        rows = document[title]
        assert isinstance(rows, list)
        report.show(
            title, [{key: json.dumps(value) for key, value in row.items()} for row in rows], Console()
        )
    report.write(arguments.json, document)


if __name__ == "__main__":
    main()
