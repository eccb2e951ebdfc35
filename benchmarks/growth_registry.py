"""What telling of devices costs ingest: an equal backlog of many devices is drained with the registry and without it,
in turns; `python -m benchmarks.growth_registry`. The rate counts from the receipt of the first message to the last
commit; CPU time is that of the process and of PostgreSQL. Collections of unreachable objects are those of the daemon.

A busy machine moves both by more than the registry costs. What it costs is therefore also taken by itself: the time
of its notes during a backlog, the CPU time of its sessions at PostgreSQL, and what the process takes to write a device,
with nothing else in the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks import report
from benchmarks.daemon import cpu_seconds
from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway import metrics
from gateway.ingest import Ingest
from gateway.ingest.registry import Registry
from gateway.model.pressure import Pressure
from gateway.processes.collector import spare_what_is_loaded
from gateway.settings import Settings
from gateway.store.connections import register_customers
from gateway.store.devices import Seen
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.telemetry import Sample

CUSTOMER = "acme"
SESSIONS = "registry"
LIMITLESS = {"messages_per_second": 1e6, "bytes_per_second": 1e9, "devices": 1_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one backlog took: messages a second, and CPU microseconds a message of the process and of
    PostgreSQL. Of these are, as far as they can be told apart, `notes` in the process and `sessions` at
    PostgreSQL, and `writes` in the process.
    """

    rate: float
    process: float
    database: float
    notes: float = 0.0
    writes: float = 0.0
    sessions: float = 0.0

    @property
    def registry(self) -> float:
        """CPU microseconds a message that are the registry's."""
        return self.notes + self.writes + self.sessions


class Accounted(Registry):
    """Knows how long its notes took, and how many devices it wrote."""

    def __init__(self, database: Database, pressure: Pressure) -> None:
        super().__init__(database, pressure)
        self.noted_seconds = 0.0
        self.written = 0

    def note(self, samples: Iterable[Sample], unheard: float | None = None) -> None:
        began = time.thread_time()
        super().note(samples, unheard)
        self.noted_seconds += time.thread_time() - began

    async def _write(self, part: list[Seen], payloads: list[bytes]) -> None:
        await super()._write(part, payloads)
        self.written += len(part)

    async def seconds_to_write(self) -> float:
        """What the process takes to write a device, with nothing else in the loop."""
        before, began = self.written, time.process_time()
        await self.flush()
        return (time.process_time() - began) / (self.written - before)


async def main(arguments: argparse.Namespace) -> None:
    found: dict[bool, list[Drained]] = {False: [], True: []}
    server = Postgres(track_commit_timestamp="on")
    with tempfile.TemporaryDirectory(prefix="fg-registry-") as folder:
        broker = Mosquitto(Path(folder) / "mosquitto", persistent=False)
        try:
            await server.start()
            await broker.start()
            settings = Settings.model_validate({
                "broker": {"url": broker.url},
                "customers": [CUSTOMER],
                "quotas": LIMITLESS,
                "security": {"encryption_keys": ["k" * 32]},
            })  # fmt: skip
            dsn = await server.create("fieldgate")
            database = await Database.open(dsn, size=4)
            beside = await Database.open(dsn, size=4, application_name=SESSIONS)
            await migrate(database)
            await register_customers(database, settings.customers)
            bench = _Bench(settings, broker, server, database, beside, arguments)
            await bench.connect()
            spare_what_is_loaded()
            await bench.drain(tells=True)  # the devices and the plans
            for number in range(arguments.rounds):
                for tells in (False, True) if number % 2 == 0 else (True, False):
                    found[tells].append(await bench.drain(tells=tells))
            await database.close()
            await beside.close()
        finally:
            await broker.stop()
            await server.stop()
            server.remove()
    rows = [_row(found, tells=tells) for tells in (False, True)]
    report.show(f"a backlog of {arguments.devices} devices", rows, Console(width=120))
    report.write(
        arguments.json,
        {
            "machine": report.machine(),
            "devices": arguments.devices,
            "drained": {str(tells): [asdict(one) for one in each] for tells, each in found.items()},
            "rows": rows,
        },
    )


def _row(found: dict[bool, list[Drained]], *, tells: bool) -> dict[str, str]:
    def median(of: Callable[[Drained], float], which: bool) -> float:
        return statistics.median(map(of, found[which]))

    def both(one: Drained) -> float:
        return one.process + one.database

    return {
        "registry": "yes" if tells else "no",
        "msg/s": f"{median(lambda one: one.rate, tells):,.0f}",
        "process, CPU us/message": f"{median(lambda one: one.process, tells):.1f}",
        "PostgreSQL, CPU us/message": f"{median(lambda one: one.database, tells):.1f}",
        "rate to without": f"{median(lambda one: one.rate, tells) / median(lambda one: one.rate, False):.3f}",
        "CPU to without": f"{median(both, tells) / median(both, False):.3f}",
        "of it the registry": f"{median(lambda one: one.registry, tells) / median(both, False):.3f}",
    }


class _Bench:
    def __init__(
        self,
        settings: Settings,
        broker: Mosquitto,
        server: Postgres,
        database: Database,
        beside: Database,
        arguments: argparse.Namespace,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._server = server
        self._database = database
        self._beside = beside
        self._devices: int = arguments.devices
        self._messages: int = arguments.messages
        self._at = (int(time.time()) - 6 * 3600) * 1000

    async def connect(self) -> None:
        """Makes the session that the backlogs wait in."""
        ingest = Ingest(self._settings, self._database, "bench")
        running = asyncio.create_task(ingest.run())
        await wait_until(lambda: ingest.connected, seconds=30, what="it is connected")
        await ingest.stop()
        await _ended(running)

    async def drain(self, *, tells: bool) -> Drained:
        """One backlog of messages."""
        before = self._at
        async with Publisher[None](self._broker.port, "fleet") as publisher:
            for number in range(self._messages):
                self._at += 1
                payload = b'{"ts":%d,"metrics":{"a":%d,"b":21.5,"on":true}}' % (self._at, number)
                await publisher.publish(
                    f"{CUSTOMER}/devices/device{number % self._devices}/telemetry", payload, None
                )
            await publisher.flush()
        pressure = Pressure()
        registry = Accounted(self._beside, pressure) if tells else None
        ingest = Ingest(self._settings, self._database, "bench", pressure=pressure, registry=registry)
        gc.collect()
        stored, sessions = _stored(), await self._sessions()
        own = sum(map(cpu_seconds, sessions))
        process, server = time.process_time(), cpu_seconds(self._server.pid)
        tasks = [asyncio.create_task(ingest.run())]
        if registry is not None:
            tasks.append(asyncio.create_task(registry.run()))
        await wait_until(
            lambda: _stored() - stored == self._messages, seconds=300, what="the backlog is stored"
        )
        process, server = time.process_time() - process, cpu_seconds(self._server.pid) - server
        own = sum(map(cpu_seconds, sessions)) - own
        written = 0 if registry is None else registry.written
        async with self._beside.connection() as connection:
            seconds = await connection.fetchval(
                "select extract(epoch from max(pg_xact_commit_timestamp(xmin)) - min(received_at))::float8"
                " from telemetry where ts > timestamptz 'epoch' + $1::bigint * interval '1 millisecond'",
                before,
            )
        await ingest.stop()
        for task in tasks:
            await _ended(task)
        each = 1e6 / self._messages
        return Drained(
            rate=self._messages / seconds,
            process=process * each,
            database=server * each,
            notes=0.0 if registry is None else registry.noted_seconds * each,
            writes=0.0 if registry is None else written * await registry.seconds_to_write() * each,
            sessions=0.0 if registry is None else own * each,
        )

    async def _sessions(self) -> list[int]:
        """Processes of PostgreSQL that serve the registry."""
        async with self._beside.connection() as connection:
            rows = await connection.fetch(
                "select pid from pg_stat_activity where application_name = $1", SESSIONS
            )
        return [row["pid"] for row in rows]


def _stored() -> float:
    """Rows that this process has committed, of all sessions."""
    return metrics.REGISTRY.get_sample_value("fieldgate_telemetry_rows_total") or 0.0


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_registry", description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_const", dest="messages", const=20_000)
    parser.add_argument("--json", type=Path)
    uvloop.run(main(parser.parse_args()))
