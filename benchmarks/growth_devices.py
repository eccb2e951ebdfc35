"""What devices cost a restart: the time from the start of the daemon until it works the connection of one
customer with many devices, and until the first reading of a device that is new. `python -m
benchmarks.growth_devices`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from rich.console import Console

from benchmarks import report
from benchmarks.daemon import Daemon, cpu_seconds, postgres_connection
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway.model.sample import Value, to_microseconds
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore

CUSTOMER, CONNECTION = "acme", "acme-1"
METRICS = ("a", "b", "c")
INTERVAL_SECONDS = 1.0
RULES = [
    {"device": "pump-*", "metric": metric, "meter": "{device}/{metric}", "reduce": "each"}
    for metric in METRICS
]
BATCH = 5_000


async def main(arguments: argparse.Namespace) -> None:
    rows = [await _measured(devices) for devices in arguments.devices]
    shown = [{name: f"{value:g}" for name, value in row.items()} for row in rows]
    report.show("restart and a new device", shown, Console(width=160))
    report.write(arguments.json, {"machine": report.machine(), "rows": rows})


async def _measured(devices: int) -> Mapping[str, float]:
    server = Postgres(fsync="off")
    with tempfile.TemporaryDirectory(prefix="fg-devices-") as folder:
        directory = Path(folder)
        broker = Mosquitto(directory / "mosquitto", persistent=True)
        await server.start()
        await broker.start()
        try:
            dsn, sink = await server.create("fieldgate"), await server.create("sink")
            database = await Database.open(dsn, size=2)
            await migrate(database)
            for start in range(0, devices, BATCH):
                await _store(database, range(start, min(start + BATCH, devices)))
            declared = postgres_connection(
                CONNECTION, CUSTOMER, sink, RULES, interval=f"{INTERVAL_SECONDS:g}s", initial_days=0
            )
            daemon = Daemon(directory, broker_url=broker.url, dsn=dsn, connections=[declared])
            first, _ = await _started(daemon, database)
            await daemon.stop()
            again, used = await _started(daemon, database)
            fresh = await _first_reading(database, sink, devices)
            await daemon.stop()
            await database.close()
            return {
                "devices": devices,
                "meters": devices * len(METRICS),
                "first start s": round(first, 2),
                "restart s": round(again, 2),
                "restart CPU s": round(used, 2),
                "new device's first reading s": round(fresh, 2),
            }
        finally:
            await broker.stop()
            await server.stop()
            server.remove()


async def _store(database: Database, numbers: range) -> None:
    at = to_microseconds(datetime.now(UTC))
    values: dict[str, Value] = dict.fromkeys(METRICS, 1.0)
    rows = [((CUSTOMER, f"pump-{n}", at), values, at) for n in numbers]
    await TelemetryStore(database, register_customers=True).write(rows, [])


async def _started(daemon: Daemon, database: Database) -> tuple[float, float]:
    """Seconds until a run of the connection succeeded, and the CPU that the daemon used."""
    async with database.connection() as connection:
        await connection.execute("update stream set next_run_at = now()")
        before = await connection.fetchval("select clock_timestamp()")
    begun = time.monotonic()
    daemon.start()

    async def works() -> bool:
        async with database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "select exists (select from stream where last_success_at > $1 and phase = 'incremental')",
                    before,
                )
            )

    await wait_until(works, seconds=600, what="the connection is worked", every=0.05)
    return time.monotonic() - begun, cpu_seconds(daemon.pid)


async def _first_reading(database: Database, sink: str, number: int) -> float:
    session = await asyncpg.connect(sink)
    try:
        begun = time.monotonic()
        await _store(database, range(number, number + 1))

        async def there() -> bool:
            return bool(
                await session.fetchval(
                    "select exists (select from fieldgate_reading where meter = $1)", f"pump-{number}/a"
                )
            )

        await wait_until(there, seconds=120, what="the first reading of a new device", every=0.02)
        return time.monotonic() - begun
    finally:
        await session.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_devices", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 10_000, 50_000])
    parser.add_argument("--small", action="store_const", dest="devices", const=[10, 2_000])
    parser.add_argument("--json", type=Path)
    asyncio.run(main(parser.parse_args()))
