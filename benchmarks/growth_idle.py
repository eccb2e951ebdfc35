"""What connections cost that have nothing to do: queries, CPU of daemon and database, memory, time to ready
after a restart, and how late probes are. `python -m benchmarks.growth_idle --connections 100 1000 5000`.

The connections are seeded as active, so nothing is verified; their system is a stand-in in another process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import asyncpg
from rich.console import Console

from benchmarks import report
from benchmarks.daemon import Daemon, cpu_seconds, processes, tree_seconds
from benchmarks.servers import Mosquitto, Postgres, accepts, end, free_port, wait_until
from gateway.connections.building import credential_binding
from gateway.credentials.vault import Vault
from gateway.model.meter import from_document, made_of
from gateway.store.migrate import migrate
from gateway.store.pool import Database

KEY = "bm90LWEtc2VjcmV0LW9ubHktZm9yLXRocm93LWF3YXktc2VydmVycw=="  # as the daemon of benchmarks has it
PROBE_SECONDS = 50.0
RESOLUTION = timedelta(microseconds=1)  # of http_json, by its default settings
PER_CUSTOMER = 5
METERS = [{"device": "*", "metric": "t", "meter": "{device}", "unit": None, "reduce": "last", "every": 900.0,
           "deadband": 0.0}]  # fmt: skip


async def main(arguments: argparse.Namespace) -> None:
    rows = []
    for connections in arguments.connections:
        rows.append(await _measured(connections, arguments))
        print(json.dumps(rows[-1]), file=sys.stderr)
    shown = [{name: f"{value:g}" if isinstance(value, float | int) else str(value) for name, value in row.items()}
             for row in rows]  # fmt: skip
    report.show("idle connections", shown, Console(width=220))
    report.write(arguments.json, {"machine": report.machine(), "rows": rows})


async def _measured(connections: int, arguments: argparse.Namespace) -> Mapping[str, object]:
    server = Postgres(fsync="off")
    with tempfile.TemporaryDirectory(prefix="fg-idle-") as folder:
        directory = Path(folder)
        broker = Mosquitto(directory / "mosquitto", persistent=True)
        port = free_port()
        await server.start()
        await broker.start()
        system = subprocess.Popen([sys.executable, "-m", "benchmarks.growth_idle", "--serve", str(port)])
        try:
            await wait_until(lambda: accepts(port), what="the stand-in system answers")
            dsn = await server.create("fieldgate")
            customers = await _seed(dsn, connections, port, arguments)
            daemon = Daemon(directory, broker_url=broker.url, dsn=dsn, customers=customers)
            return await _run(daemon, server, dsn, connections, port, arguments)
        finally:
            await broker.stop()
            await server.stop()
            server.remove()
            await end(system, signal.SIGTERM)


async def _run(
    daemon: Daemon, server: Postgres, dsn: str, connections: int, port: int, arguments: argparse.Namespace
) -> Mapping[str, object]:
    started = time.monotonic()
    daemon.start()
    try:
        await daemon.ready(seconds=600)
        ready = time.monotonic() - started
        await wait_until(
            lambda: _asked(port)["connections"] >= connections,
            seconds=900,
            what="every connection was probed once",
            every=0.5,
        )
        probed = time.monotonic() - started
        start_cpu = cpu_seconds(daemon.pid)
        await asyncio.sleep(arguments.settle)
        _asked(port, reset=True)
        before = await _counts(dsn, server, daemon)
        begun = time.monotonic()
        await asyncio.sleep(arguments.seconds)
        seconds = time.monotonic() - begun
        after = await _counts(dsn, server, daemon)
        asked = _asked(port)
    finally:
        await daemon.stop()
    used = {name: after[name] - before[name] for name in before}
    return {
        "connections": connections,
        "ready s": round(ready, 1),
        "all probed s": round(probed, 1),
        "CPU until then s": round(start_cpu, 1),
        "daemon %": round(100 * used["daemon"] / seconds, 2),
        "http %": round(100 * used["http"] / seconds, 2),
        "database %": round(100 * used["database"] / seconds, 2),
        "queries/s": round(used["queries"] / seconds, 1),
        "daemon MB": round(after["rss"] / 1e6),
        "http MB": round(after["http rss"] / 1e6),
        "probes/s": round(asked["requests"] / seconds, 1),
        "latest probe s": round(max(0.0, asked["longest"] - PROBE_SECONDS), 1),
        "opened": asked["opened"],
    }


async def _counts(dsn: str, server: Postgres, daemon: Daemon) -> dict[str, float]:
    connection = await asyncpg.connect(dsn)
    try:
        queries = await connection.fetchval(
            "select sum(xact_commit + xact_rollback)::float8 from pg_stat_database"
        )
    finally:
        await connection.close()
    own, *others = processes(daemon.pid)
    return {
        "queries": queries,
        "daemon": _own_seconds(own),
        "http": sum(_own_seconds(pid) for pid in others),
        "database": tree_seconds(server.pid),
        "rss": _resident(own),
        "http rss": sum(_resident(pid) for pid in others),
    }


def _own_seconds(pid: int) -> float:
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    ) / 1e9  # fmt: skip


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024


# What there is before the daemon starts


async def _seed(dsn: str, connections: int, port: int, arguments: argparse.Namespace) -> Sequence[str]:
    """Active connections, as a lifecycle leaves them; probed at some time within the interval."""
    database = await Database.open(dsn, size=2)
    try:
        await migrate(database)
        names = [f"c{number:05}" for number in range(connections)]
        customers = [f"k{number:05}" for number in range(-(-connections // PER_CUSTOMER))]
        owners = [customers[number // PER_CUSTOMER] for number in range(connections)]
        vault = Vault([KEY])
        sealed = [
            vault.seal({"api_key": f"key-{name}"}, credential_binding(customer, name, 1))
            for name, customer in zip(names, owners, strict=True)
        ]
        settings = {"base_url": f"http://127.0.0.1:{port}", "path": "/readings", "probe_path": "/probe"}
        async with database.transaction() as connection:
            await connection.execute(
                "insert into customer (customer_id) select unnest($1::text[])", customers
            )
            await connection.execute(
                """insert into connection (connection_id, customer_id, system, hosting, tier, state, settings, sync, meters,
                       credential_type, configuration, generation, generations, host, declared_digest, probe_at, meters_of)
                   select id, customer, 'http_json', 'cloud', 1, 'active', $3, $4, $5, 'api_key', 3, 1, 1, '127.0.0.1', '',
                          now() + random() * interval '50 seconds', 3
                   from unnest($1::text[], $2::text[]) as given (id, customer)""",
                names, owners, settings, {"interval": "60s", "initial_days": 0, "lateness": None}, METERS,
            )  # fmt: skip
            await connection.execute(
                """insert into stream (connection_id, name, phase, meters_of, next_run_at)
                   select unnest($1::text[]), 'readings', 'incremental', 3, now() + random() * interval '60 seconds'""",
                names,
            )
            for days in range(arguments.partitions):
                await connection.execute("select ensure_partition('telemetry', current_date - $1::int)", days)
            # a restart, not the first start of a version: what the meters were made of is known
            await connection.execute(
                "update connection set meters_digest = $1, meter_count = 0",
                made_of([from_document(meter) for meter in METERS], RESOLUTION),
            )
            await connection.execute("update stream set every = '60 seconds'")
            await connection.executemany(
                "insert into credential (connection_id, generation, type, sealed) values ($1, 1,"
                " 'api_key', $2)",
                list(zip(names, sealed, strict=True)),
            )
        async with database.connection() as connection:
            await connection.execute("analyze")
    finally:
        await database.close()
    return customers


# The stand-in system, in a process of its own


class _System:
    def __init__(self) -> None:
        self.last: dict[bytes, float] = {}
        self.reset()

    def reset(self) -> None:
        self.requests, self.longest, self.opened = 0, 0.0, 0

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /_"):
                    said = {"connections": len(self.last), "requests": self.requests, "longest": self.longest,
                            "opened": self.opened}  # fmt: skip
                    if b"reset" in head:
                        self.reset()
                    body = json.dumps(said).encode()
                else:
                    self._note(head)
                    body = b"{}"
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                             % (len(body), body))  # fmt: skip
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _note(self, head: bytes) -> None:
        key = next((line for line in head.split(b"\r\n") if b"key-c" in line), b"")
        now = time.monotonic()
        self.requests += 1
        if key in self.last:
            self.longest = max(self.longest, now - self.last[key])
        self.last[key] = now


async def _serve(port: int) -> None:
    system = _System()
    async with await asyncio.start_server(system.meet, "127.0.0.1", port, backlog=1024) as server:
        await server.serve_forever()


def _asked(port: int, *, reset: bool = False) -> dict[str, float]:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/_said{'?reset' if reset else ''}", timeout=10
    ) as answer:
        found: dict[str, float] = json.load(answer)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_idle", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--partitions", type=int, default=101, help="days of telemetry, all empty")
    parser.add_argument("--seconds", type=float, default=90.0, help="how long to measure")
    parser.add_argument("--settle", type=float, default=20.0)
    parser.add_argument("--small", action="store_true", help="100 connections for 20 s")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.small:
        found.connections, found.seconds, found.settle = [100], 20.0, 5.0
    return found


if __name__ == "__main__":
    given = _arguments()
    asyncio.run(_serve(given.serve) if given.serve else main(given))
