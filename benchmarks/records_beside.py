"""Measures what the initial sync of 100,000 work orders of 90 days costs telemetry: how late readings are at
the system, and PUBLISH to PUBACK, with and without it, while 1,000 messages a second are taken in. `python -m
benchmarks.records_beside [--small]`

One daemon; one connection that reads the work orders and is sent readings all the while. Each round has a
quiet phase and one in which the whole history is read and told over MQTT (the first makes the records, every
other changes each of them), so that growth is a ratio of the same minutes. The quantiles are over all phases of
a kind. A second that something else takes from the machine decides such a p99 alone: so the p99 of each window
of five seconds is measured too, and the median of those is compared.

Keys of the JSON document: `phases` by kind (`quiet`, `syncing`): `outbound_lag_seconds` from a reading's time
to its arrival and `ack_seconds`, each {p50, p99, window_p99: the median of that of each window},
`messages_per_second`, `seconds`, `resident_bytes` (the highest of a phase, of both processes), `cpu_share` (of
a core, of both processes); `growth`: of the p99, of the median p99 of a window and of the memory, syncing over
quiet; `syncs`: `records`, `seconds` and `requests` of each; `settings`, `machine` (with `load_average`),
`versions`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from benchmarks.api import Program
from benchmarks.daemon import Daemon, cpu_seconds, processes
from benchmarks.mqtt import Publisher
from benchmarks.report import machine, quantile, show, versions, write
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database

RATE = 1_000
DEVICES = 100
DAYS = 90
CONNECTION = "bench"
SETTLE_SECONDS = 3.0
WINDOW_SECONDS = 5.0
READ_BY = {
    "path": "/orders", "modified": "updatedAt", "page": 500, "paging": {"kind": "cursor", "path": "next", "parameter": "cursor"},
    "query": {"since": "{since}", "until": "{until}", "limit": "{page}"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many work orders, how many rounds, and how long a quiet phase is."""

    orders: int = 100_000
    rounds: int = 2
    seconds: float = 60.0


@dataclass(slots=True)
class Kind:
    """What was measured in the phases of one kind."""

    late: list[list[float]] = field(default_factory=list)
    acks: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    resident: int = 0

    def document(self) -> dict[str, object]:
        """Its part of the report."""
        return {
            "outbound_lag_seconds": _spread(self.late),
            "ack_seconds": _spread(self.acks),
            "messages_per_second": round(sum(map(len, self.acks)) / self.seconds, 1),
            "seconds": round(self.seconds, 1),
            "resident_bytes": self.resident,
            "cpu_share": round(self.cpu / self.seconds, 3),
        }


def _spread(windows: list[list[float]]) -> dict[str, float]:
    every = [value for window in windows for value in window]
    return {
        "p50": quantile(every, 0.5),
        "p99": quantile(every, 0.99),
        "window_p99": statistics.median(quantile(window, 0.99) for window in windows if window),
    }


class Bench:
    """What runs while it is measured."""

    def __init__(
        self, plan: Plan, daemon: Daemon, relay: Program, system: Program, database: Database
    ) -> None:
        self.plan, self.daemon, self.relay, self.system, self.database = plan, daemon, relay, system, database
        self.kinds = {"quiet": Kind(), "syncing": Kind()}
        self.syncs: list[dict[str, object]] = []
        self.token = ""

    async def connect(self, port: int) -> None:
        """Returns when the connection is active and its empty history is read."""
        self.token = (await access.create(self.database, name="bench", role=Role.ADMIN)).token
        settings = {
            "base_url": f"http://127.0.0.1:{port}", "probe_path": "/health", "deduplicates": True,
            "streams": {"work_orders": READ_BY},
        }  # fmt: skip
        meters = [{"device": "device1*", "metric": "metric0", "meter": "{device}/metric0", "reduce": "each"}]
        wanted = {
            "id": CONNECTION, "customer": "acme", "system": "http_json", "settings": settings, "meters": meters,
            "credentials": {"type": "api_key", "api_key": "bench-key"}, "sync": {"interval": "1s", "initial_days": DAYS},
        }  # fmt: skip
        await self.ask("/v1/connections", wanted)
        await wait_until(self.is_done, what="the connection reads", seconds=60)

    async def ask(self, path: str, body: object) -> None:
        """POST."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.daemon.port}{path}", data=json.dumps(body).encode(), headers=headers
        )

        def send() -> None:
            with urllib.request.urlopen(request, timeout=30):
                pass

        await asyncio.to_thread(send)

    async def is_done(self) -> bool:
        """Whether all history is read."""
        async with self.database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "select coalesce(bool_and(state = 'done'), false) from inbound_stream where phase ="
                    " 'initial'"
                )
            )

    async def is_told(self) -> bool:
        """Whether all history is read, and every record of it was told over MQTT."""
        async with self.database.connection() as connection:
            left = await connection.fetchval(
                "select count(*) from record_log l left join record_publication p using (customer_id) where"
                " l.position <> coalesce(p.position, 0)"
            )
        return left == 0 and await self.is_done()

    async def phase(self, name: str) -> None:
        """One of either kind, measured from its begin to its end."""
        await asyncio.sleep(SETTLE_SECONDS)
        await self._heard()
        began, kind = time.perf_counter(), self.kinds[name]
        if name == "syncing":
            self.system.tell("show")
            await self.system.hear()
            await self.ask(f"/v1/connections/{CONNECTION}/sync", {"mode": "full", "stream": "work_orders"})
        cpu, window = cpu_seconds(self.daemon.pid), began
        given = requests = 0
        is_over = False
        while not is_over:
            await asyncio.sleep(0.5)
            kind.resident = max(kind.resident, resident_bytes(self.daemon.pid))
            now = time.perf_counter()
            is_over = await self.is_told() if name == "syncing" else now - began >= self.plan.seconds
            if is_over or now - window >= WINDOW_SECONDS:
                acks, told = await self._heard()
                given, requests, window = given + told["given"], requests + told["requests"], now
                kind.acks.append(acks)
                kind.late.append(told["late"])
        took = time.perf_counter() - began
        kind.seconds += took
        kind.cpu += cpu_seconds(self.daemon.pid) - cpu
        if name == "syncing":
            count = await self._held()
            assert given >= self.plan.orders and count == self.plan.orders, (given, count)
            self.syncs.append({"records": count, "seconds": round(took, 1), "requests": requests})

    async def _held(self) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval("select count(*) from record"))

    async def _heard(self) -> tuple[list[float], dict[str, Any]]:
        self.relay.tell("")
        self.system.tell("")
        acks, told = await self.relay.hear(), await self.system.hear()
        assert isinstance(acks, list) and isinstance(told, dict)
        return acks, told


def resident_bytes(pid: int) -> int:
    """Of both processes, now."""
    total = 0
    for process in processes(pid):
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue  # one that ended
    return total


async def publish(publisher: Publisher[None]) -> None:
    """RATE messages a second, until cancelled."""
    started, sent = time.perf_counter(), 0
    while True:
        while sent < (time.perf_counter() - started) * RATE:
            payload = f'{{"ts":{time.time_ns() // 1_000_000},"metrics":{{"metric0":{20 + sent % 1000 / 100:.2f},"metric1":{sent % 7}}}}}'
            await publisher.publish(f"acme/devices/device{sent % DEVICES}/telemetry", payload.encode(), None)
            sent += 1
        await asyncio.sleep(0.001)


async def run(plan: Plan, console: Console) -> dict[str, object]:
    """Everything, on servers of its own."""
    directory, load = Path(tempfile.mkdtemp(prefix="fg-bench-")), os.getloadavg()
    broker, postgres = Mosquitto(directory / "broker", persistent=False), Postgres()
    programs: list[Program] = []
    daemon: Daemon | None = None
    database: Database | None = None
    try:
        await broker.start()
        await postgres.start()
        dsn = await postgres.create("fieldgate")
        relay = await Program.start("benchmarks.relay", str(broker.port))
        system = await Program.start("benchmarks.work_orders", str(plan.orders), str(DAYS))
        programs = [relay, system]
        address, port = await relay.hear(), await system.hear()
        daemon = Daemon(
            directory,
            broker_url=f"mqtt://127.0.0.1:{address}",
            dsn=dsn,
            logging={"level": "warning"},
            egress={"customers": {"allow": ["127.0.0.0/8"]}},
        )
        daemon.start()
        await daemon.ready(60)
        database = await Database.open(dsn, size=1, application_name="bench")
        bench = Bench(plan, daemon, relay, system, database)
        assert isinstance(port, int)
        await bench.connect(port)
        async with Publisher[None](broker.port, "bench-publisher") as publisher:
            publishing = asyncio.create_task(publish(publisher))
            try:
                await asyncio.sleep(10)  # partitions, plans and the first windows are no phase's
                for number in range(plan.rounds):
                    for name in ("quiet", "syncing"):
                        console.print(f"round {number + 1} of {plan.rounds}: {name}")
                        await bench.phase(name)
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
    finally:
        if database is not None:
            await database.close()
        for program in programs:
            await program.end()
        if daemon is not None:
            await daemon.stop()
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
    return document(bench, load)


def document(bench: Bench, load: tuple[float, float, float]) -> dict[str, object]:
    """The report."""
    quiet, syncing = bench.kinds["quiet"], bench.kinds["syncing"]
    return {
        "phases": {name: kind.document() for name, kind in bench.kinds.items()},
        "growth": {
            **{
                f"{what}_{which}": round(_spread(more)[which] / _spread(less)[which], 2)
                for what, more, less in (
                    ("outbound_lag", syncing.late, quiet.late),
                    ("ack", syncing.acks, quiet.acks),
                )
                for which in ("p99", "window_p99")
            },
            "resident": round(syncing.resident / quiet.resident, 2),
        },
        "syncs": bench.syncs,
        "settings": {
            "orders": bench.plan.orders,
            "rounds": bench.plan.rounds,
            "days": DAYS,
            "messages_per_second": RATE,
        },
        "machine": {**machine(), "load_average": {"start": load, "end": os.getloadavg()}},
        "versions": versions(),
    }


def rows(found: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """For people."""
    growth = found["growth"]
    shown = {"outbound lag": "outbound_lag", "PUBLISH to PUBACK": "ack"}
    said = {"p99": "p50 / p99", "window_p99": "p50 / median p99 of 5 s"}
    table: list[Mapping[str, str]] = [
        {
            "what": f"{title}, {words}",
            **{
                name: f"{phase[f'{key}_seconds']['p50'] * 1000:,.1f} / {phase[f'{key}_seconds'][which] * 1000:,.1f} ms"
                for name, phase in found["phases"].items()
            },
            "times": f"{growth[f'{key}_{which}']:.2f}",
        }
        for title, key in shown.items()
        for which, words in said.items()
    ]
    resident = {name: f"{phase['resident_bytes'] / 2**20:.0f} MiB" for name, phase in found["phases"].items()}
    cpu = {name: f"{phase['cpu_share']:.0%}" for name, phase in found["phases"].items()}
    rate = {name: f"{phase['messages_per_second']:,.0f}" for name, phase in found["phases"].items()}
    return [
        *table,
        {"what": "memory of both processes", **resident, "times": f"{growth['resident']:.2f}"},
        {"what": "CPU of both processes", **cpu, "times": ""},
        {"what": "messages/s", **rate, "times": ""},
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--small", action="store_true", help="10,000 work orders, two rounds")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of a quiet phase")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    plan = Plan(orders=10_000, rounds=2, seconds=10.0) if arguments.small else Plan(rounds=arguments.rounds)
    console = Console()
    found = uvloop.run(run(plan, console))
    show("The history of work orders beside telemetry", rows(found), console)
    console.print(f"each whole history: {found['syncs']}")
    write(arguments.json, found)


if __name__ == "__main__":
    main()
