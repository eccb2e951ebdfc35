"""Measures what the status route costs ingest: requests a second while 2,000 messages a second are taken in,
and PUBLISH to PUBACK with and without them.

One daemon with its HTTP process, both on one core that nothing else here uses; an active connection that
delivers all the while. The phases `quiet` (no requests), `fixed` (520 requests a second) and `closed` (as
many as are answered) are interleaved in one run and the median of the rounds counts, so that growth is a
ratio of the same minutes. A hundredth of a phase is a dozen hiccups of the machine: many short rounds tell
more than few long ones, and a TMPDIR in memory leaves out those of the disk.

Keys of the JSON document: `phases` by kind: `requests_per_second`, `request_seconds` {p50, p99} (none of
`quiet`), `ack_seconds` {p50, p99}, `messages_per_second`, `cpu_share` of that core; `ack_p99_growth` {fixed,
closed}: of the median p99 over that of `quiet`, less 1; `own_ack_p99_seconds` by kind: the daemon's own
measure, from receipt to PUBACK, over all rounds (on a line within a bucket of its histogram); `rounds`: the
same by kind, each round; `settings`, `machine` (with `load_average` at start and end), `versions`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.daemon import CpuMeter, Daemon, postgres_connection
from benchmarks.mqtt import Publisher
from benchmarks.report import machine, quantile, versions
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database

DEVICES = 100
STEADY_RATE = 2000
FIXED_RATE = 520
SETTLE_SECONDS = 0.7
CONNECTION = "bench"
STATUS = f"/v1/connections/{CONNECTION}/status"
METERS = [{"device": "*", "metric": "metric0", "meter": "{device}/metric0", "every": "10s", "reduce": "mean"}]
OWN = 'fieldgate_mqtt_ack_seconds_bucket{le="'
KINDS = {"quiet": None, "fixed": float(FIXED_RATE), "closed": 0.0}
"""The rate of requests; 0: as many as are answered."""

Round = dict[str, float]
Measured = tuple[dict[str, list[Round]], dict[str, float]]
"""Rounds by kind, and the daemon's own p99 by kind."""

Buckets = Counter[float]
"""Observations at most so long, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each phase is, how often they come round, and over how many keep-alive
    connections is asked.
    """

    seconds: float = 5.0
    rounds: int = 12
    connections: int = 8


class Program:
    """One of our programs beside us: lines in, lines of JSON out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Program:
        """Runs the module."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26, cwd=Path(__file__).parents[1],
            )
        )  # fmt: skip

    def tell(self, line: str) -> None:
        """Writes a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def hear(self) -> object:
        """The next line. Raises RuntimeError when the program has ended instead."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a program of the benchmark ended early; its own words are above")
        return json.loads(line)

    async def end(self) -> None:
        """Closes its input, and waits."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.communicate()


@dataclass(slots=True, kw_only=True)
class Bench:
    """What runs while it is measured, and how many messages were published."""

    plan: Plan
    daemon: Daemon
    relay: Program
    asker: Program
    publisher: Publisher[None]
    cpu: CpuMeter
    published: int = 0
    own: dict[str, Buckets] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})

    async def buckets(self) -> Buckets:
        """The daemon's own histogram, so far."""
        found = await self.daemon.metrics()
        return Counter(
            {float(name[len(OWN) : -2]): count for name, count in found.items() if name.startswith(OWN)}
        )


async def run(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """Everything, on servers of its own; the JSON document of `bench api`."""
    directory = Path(tempfile.mkdtemp(prefix="fg-bench-"))
    broker, postgres = Mosquitto(directory / "broker", persistent=False), Postgres()
    before, pinned = os.getloadavg(), ExitStack()
    core = pinned.enter_context(_elsewhere())
    try:
        progress("starting Mosquitto and PostgreSQL")
        await broker.start()
        await postgres.start()
        rounds, own = await _measure(
            plan,
            core,
            broker,
            await postgres.create("fieldgate"),
            await postgres.create("target"),
            directory,
            progress,
        )
    finally:
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
        pinned.close()
    load = {"start": [round(load, 2) for load in before], "end": [round(load, 2) for load in os.getloadavg()]}
    return _document(plan, rounds, own, load)


async def _measure(
    plan: Plan,
    core: int,
    broker: Mosquitto,
    dsn: str,
    target_dsn: str,
    directory: Path,
    progress: Callable[[str], None],
) -> Measured:
    relay = await Program.start("benchmarks.relay", str(broker.port))
    daemon = Daemon(
        directory, broker_url=f"mqtt://127.0.0.1:{await relay.hear()}", dsn=dsn, logging={"level": "warning"}
    )
    asker = await Program.start("benchmarks.http_load", str(daemon.port), STATUS, str(plan.connections))
    daemon.start()
    _pin(daemon.pid, core)
    try:
        await daemon.ready()
        token = await _connect(daemon, dsn, target_dsn)
        asker.tell(f"Bearer {token}")
        async with Publisher[None](broker.port, "bench-publisher") as publisher, CpuMeter(daemon.pid) as cpu:
            bench = Bench(plan=plan, daemon=daemon, relay=relay, asker=asker, publisher=publisher, cpu=cpu)
            publishing = asyncio.create_task(_publish(bench))
            try:
                return await _rounds(bench, progress)
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
    finally:
        await asker.end()
        await daemon.stop()
        await relay.end()


@contextmanager
def _elsewhere() -> Iterator[int]:
    """Keeps us, and the servers and programs that we start, off one core: the daemon's own. Where there is
    only one, it is everybody's.
    """
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, cores - {core} or cores)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)


def _pin(pid: int, core: int) -> None:
    """Every thread that is there, and what they start."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


async def _connect(daemon: Daemon, dsn: str, target_dsn: str) -> str:
    """Makes a token, and with it the connection; returns when that is active."""
    database = await Database.open(dsn, size=1, application_name="bench")
    try:
        token = (await access.create(database, name="bench", role=Role.ADMIN)).token
    finally:
        await database.close()
    wanted = postgres_connection(CONNECTION, "acme", target_dsn, METERS)
    await asyncio.to_thread(_ask, daemon, token, "/v1/connections", json.dumps(wanted).encode())

    async def is_active() -> bool:
        return (await asyncio.to_thread(_ask, daemon, token, STATUS))["state"] == "active"

    await wait_until(is_active, what="the connection is active")
    return token


def _ask(daemon: Daemon, token: str, path: str, body: bytes | None = None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}{path}", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        document: dict[str, object] = json.load(answer)
    return document


async def _publish(bench: Bench) -> None:
    started, base = time.perf_counter(), bench.published
    while True:
        while bench.published - base < (time.perf_counter() - started) * STEADY_RATE:
            number = bench.published
            metrics = {
                f"metric{metric}": round(20 + number * (metric + 1) % 1000 / 100, 2) for metric in range(3)
            }
            payload = json.dumps(
                {"ts": time.time_ns() // 1_000_000, "metrics": metrics}, separators=(",", ":")
            ).encode()
            await bench.publisher.publish(f"acme/devices/device{number % DEVICES}/telemetry", payload, None)
            bench.published += 1
        await asyncio.sleep(0.001)


async def _rounds(bench: Bench, progress: Callable[[str], None]) -> Measured:
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    await asyncio.sleep(SETTLE_SECONDS * 5)  # partitions, plans and the first windows are no phase's
    kinds = list(KINDS)
    for number in range(bench.plan.rounds):
        for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            progress(f"round {number + 1} of {bench.plan.rounds}: {kind}")
            before = await bench.buckets()
            rounds[kind].append(await _phase(bench, KINDS[kind]))
            bench.own[kind].update(
                {bound: count - before[bound] for bound, count in (await bench.buckets()).items()}
            )
    return rounds, {kind: _p99(buckets) for kind, buckets in bench.own.items()}


def _p99(buckets: Buckets) -> float:
    """By a line within the bucket; the longest bound where it is beyond that."""
    wanted, low, below = 0.99 * max(buckets.values()), 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted:
            return low if bound == math.inf else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    raise AssertionError("the last bucket holds everything")


async def _phase(bench: Bench, rate: float | None) -> Round:
    await asyncio.sleep(SETTLE_SECONDS)
    bench.relay.tell("")
    await bench.relay.hear()
    since, seconds = time.time(), bench.plan.seconds
    if rate is None:
        await asyncio.sleep(seconds)
        asked: dict[str, object] = {"since": since, "until": time.time(), "seconds": []}
    else:
        bench.asker.tell(f"{seconds} {rate}")
        answer = await bench.asker.hear()
        assert isinstance(answer, dict)
        asked = answer
    bench.relay.tell("")
    acks = await bench.relay.hear()
    await asyncio.sleep(0.1)  # a CPU sample past the end
    began, until, took = asked["since"], asked["until"], asked["seconds"]
    assert (
        isinstance(began, float)
        and isinstance(until, float)
        and isinstance(took, list)
        and isinstance(acks, list)
    )
    figures = {
        "ack_p50": quantile(acks, 0.5),
        "ack_p99": quantile(acks, 0.99),
        "messages_per_second": len(acks) / (until - began),
        "cpu_share": bench.cpu.between(began, until) / (until - began),
    }
    if rate is None:
        return figures
    return {
        **figures,
        "requests_per_second": len(took) / (until - began),
        "request_p50": quantile(took, 0.5),
        "request_p99": quantile(took, 0.99),
    }


def _document(
    plan: Plan, rounds: Mapping[str, list[Round]], own: Mapping[str, float], load: Mapping[str, list[float]]
) -> dict[str, object]:
    medians = {
        kind: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for kind, found in rounds.items()
    }
    quiet = medians["quiet"]["ack_p99"]
    return {
        "machine": {**machine(), "load_average": load},
        "versions": versions(),
        "settings": {
            "seconds": plan.seconds, "rounds": plan.rounds, "connections": plan.connections, "messages_per_second": STEADY_RATE, "devices": DEVICES,
            "fixed_requests_per_second": FIXED_RATE, "pinned": "the daemon and its HTTP process, to one core that nothing else here uses",
        },
        "phases": {kind: _phase_document(found) for kind, found in medians.items()},
        "ack_p99_growth": {kind: round(found["ack_p99"] / quiet - 1, 3) for kind, found in medians.items() if kind != "quiet"},
        "own_ack_p99_seconds": {kind: round(found, 6) for kind, found in own.items()},
        "rounds": {kind: [_phase_document(one) for one in found] for kind, found in rounds.items()},
    }  # fmt: skip


def _phase_document(found: Round) -> dict[str, object]:
    asked = {} if "request_p50" not in found else {
        "requests_per_second": round(found["requests_per_second"], 1),
        "request_seconds": {"p50": round(found["request_p50"], 6), "p99": round(found["request_p99"], 6)},
    }  # fmt: skip
    return {
        **asked,
        "ack_seconds": {"p50": round(found["ack_p50"], 6), "p99": round(found["ack_p99"], 6)},
        "messages_per_second": round(found["messages_per_second"], 1),
        "cpu_share": round(found["cpu_share"], 3),
    }


def rows(document: Mapping[str, object]) -> list[Mapping[str, str]]:
    """The document as lines of a table."""
    phases, growth, own = document["phases"], document["ack_p99_growth"], document["own_ack_p99_seconds"]
    assert isinstance(phases, dict) and isinstance(growth, dict) and isinstance(own, dict)
    titles = {
        "quiet": "no requests",
        "fixed": f"{FIXED_RATE} requests/s",
        "closed": "as many as are answered",
    }
    shown: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
        "requests/s": lambda _, found: (
            f"{found['requests_per_second']:,.0f}" if "requests_per_second" in found else ""
        ),
        "request, p50 / p99": lambda _, found: _milliseconds(found.get("request_seconds")),
        "messages/s": lambda _, found: f"{found['messages_per_second']:,.0f}",
        "PUBLISH to PUBACK, p50 / p99": lambda _, found: _milliseconds(found["ack_seconds"]),
        "its p99 grows by": lambda kind, _: f"{growth[kind]:+.0%}" if kind in growth else "",
        "receipt to PUBACK by its own metric, p99": lambda kind, _: f"{own[kind] * 1000:.1f} ms",
        "CPU of both processes": lambda _, found: f"{found['cpu_share']:.0%}",
    }
    return [
        {"what": what, **{titles[kind]: show(kind, found) for kind, found in phases.items()}}
        for what, show in shown.items()
    ]


def _milliseconds(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['p50'] * 1000:.1f} / {found['p99'] * 1000:.1f} ms"
