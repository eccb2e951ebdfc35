"""Measures how fast a QoS 1 backlog becomes committed rows, beside other consumers of an equal backlog in the
same run.

Rounds are interleaved and the median counts. Every consumer has its own persistent session, filled while it
is away. Ours is the daemon: from the receipt of the first message (its own stamp, `received_at`) to the last
commit (PostgreSQL's commit timestamps), so no polling disturbs or rounds it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.daemon import CpuMeter, Daemon, cpu_seconds, peak_memory_bytes
from benchmarks.mqtt import Publisher, drop_session, open_session
from benchmarks.peers import PEERS
from benchmarks.report import machine, quantile, versions
from benchmarks.servers import Mosquitto, Postgres, wait_until
from benchmarks.shapes import PLAIN, SHAPES, Message, Sample
from benchmarks.standby import Standby, release_standby, require_standby

DEVICES = 100
STEADY_RATE = 2000
BACKLOG_MILLISECONDS = 6 * 3600 * 1000
SLOW_PEERS = ("aiomqtt_asyncpg_rows",)
OURS = "acme/devices"
WITH_STANDBY = "fieldgate, synchronous standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure. `metrics`: numbers in each message, which set its size. `sources`: also the same samples
    as they come by other sources.
    """

    messages: int = 60_000
    metrics: int = 3
    rounds: int = 3
    peers: bool = False
    persistent: bool = False
    standby: bool = False
    sources: bool = False
    steady_seconds: float = 10.0


@dataclass(slots=True, kw_only=True)
class Bench:
    """The servers of one run, and what was measured so far."""

    plan: Plan
    broker: Mosquitto
    postgres: Postgres
    dsn: str
    peers_dsn: str
    directory: Path
    progress: Callable[[str], None]
    since: int = field(default_factory=lambda: time.time_ns() // 1_000_000 - BACKLOG_MILLISECONDS)
    written: int = 0
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_microseconds: dict[str, list[float]] = field(default_factory=dict)
    peak_memory: int = 0
    standby_acks: list[float] = field(default_factory=list)

    def sample(self) -> Sample:
        """The next one; no two have one time."""
        self.written += 1
        return self.since + self.written, {
            f"metric{number}": round(20 + (self.written * (number + 1)) % 1000 / 100, 2)
            for number in range(self.plan.metrics)
        }

    def payload(self) -> bytes:
        """The next sample as plain JSON."""
        at, metrics = self.sample()
        return json.dumps({"ts": at, "metrics": metrics}, separators=(",", ":")).encode()

    def plain(self, prefix: str, count: int) -> Iterator[Message]:
        """So many messages under `prefix`."""
        for number in range(count):
            yield f"{prefix}/device{number % DEVICES}/telemetry", self.payload()

    async def fill(self, messages: Iterator[Message]) -> None:
        """Publishes a backlog and waits until the broker has accepted all of it."""
        async with Publisher[None](self.broker.port, "bench-publisher") as publisher:
            for topic, payload in messages:
                await publisher.publish(topic, payload, None)
            await publisher.flush()

    def daemon(self, broker_url: str | None = None) -> Daemon:
        """Ours, with its defaults, and with the sources of what is measured beside them."""
        sources = {"sources": [PLAIN, *(shape.source for shape in SHAPES)]} if self.plan.sources else {}
        return Daemon(
            self.directory,
            broker_url=broker_url or self.broker.url,
            dsn=self.dsn,
            logging={"level": "warning"},
            telemetry=sources,
        )


async def run(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """Everything, on servers of its own; the JSON document of `bench ingest`."""
    directory = Path(tempfile.mkdtemp(prefix="fg-bench-"))
    broker = Mosquitto(directory / "broker", persistent=plan.persistent)
    postgres = Postgres(track_commit_timestamp="on")
    standby = Standby(postgres, track_commit_timestamp="on") if plan.standby else None
    try:
        progress("starting Mosquitto and PostgreSQL")
        await broker.start()
        await postgres.start()
        dsn, peers_dsn = await postgres.create("fieldgate"), await postgres.create("peers")
        bench = Bench(
            plan=plan,
            broker=broker,
            postgres=postgres,
            dsn=dsn,
            peers_dsn=peers_dsn,
            directory=directory,
            progress=progress,
        )
        if standby is not None:
            progress("copying a standby")
            await standby.follow()
            await release_standby(postgres)
        await _rounds(bench)
        progress(f"steady {STEADY_RATE} messages a second for {plan.steady_seconds:g} s")
        acks = await _steady(bench)
        if standby is not None:
            progress("steady, with the standby")
            await require_standby(postgres)
            bench.standby_acks = await _steady(bench)
            await release_standby(postgres)
        progress("idle")
        idle = await _idle(bench)
        return _document(bench, acks, idle)
    finally:
        await broker.stop()
        await postgres.stop()
        if standby is not None:
            await standby.stop()
            standby.remove()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


async def _rounds(bench: Bench) -> None:
    shapes = {shape.name: shape for shape in SHAPES}
    names = ["fieldgate", *([WITH_STANDBY] if bench.plan.standby else [])]
    if bench.plan.sources:
        names += shapes
    if bench.plan.peers:
        names += ["mosquitto_sub", *PEERS]
    daemon = bench.daemon()
    daemon.start()  # once before: it makes its session and its tables
    await daemon.ready()
    await daemon.stop()
    for number in range(bench.plan.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            bench.progress(f"round {number + 1} of {bench.plan.rounds}: {name}")
            count = bench.plan.messages
            if name == "fieldgate":
                rate = await _drain_ours(bench, daemon, name, bench.plain(OURS, count))
            elif name in shapes:
                samples = (bench.sample() for _ in range(count))
                rate = await _drain_ours(bench, daemon, name, shapes[name].messages(samples, DEVICES))
            elif name == WITH_STANDBY:
                await require_standby(bench.postgres)
                rate = await _drain_ours(bench, daemon, name, bench.plain(OURS, count))
                await release_standby(bench.postgres)
            else:
                rate = await _drain_peer(bench, name)
            bench.rates.setdefault(name, []).append(rate)


async def _drain_ours(bench: Bench, daemon: Daemon, name: str, messages: Iterator[Message]) -> float:
    count, before = bench.plan.messages, bench.since + bench.written
    await bench.fill(messages)
    store = await asyncpg.connect(bench.dsn)
    try:
        daemon.start()
        async with CpuMeter(daemon.pid) as cpu:
            stored = (
                "select count(*) from telemetry where ts > timestamptz 'epoch' + $1::bigint * interval '1"
                " millisecond'"
            )

            async def is_drained() -> bool:
                return bool(await store.fetchval(stored, before) == count)

            await wait_until(is_drained, seconds=120, what=f"all {count} messages are rows", every=0.25)
            row = await store.fetchrow(
                """select extract(epoch from min(received_at))::float8, extract(epoch from max(pg_xact_commit_timestamp(xmin)))::float8
                from telemetry where ts > timestamptz 'epoch' + $1::bigint * interval '1 millisecond'""",
                before,
            )
            assert row is not None
            first, last = row
            await asyncio.sleep(0.1)  # a CPU sample past the last commit
        bench.cpu_microseconds.setdefault(name, []).append(cpu.between(first, last) / count * 1e6)
        bench.peak_memory = max(bench.peak_memory, peak_memory_bytes(daemon.pid))
    finally:
        await store.close()
        await daemon.stop()
    return float(count / (last - first))


async def _drain_peer(bench: Bench, name: str) -> float:
    count = bench.plan.messages // 6 if name in SLOW_PEERS else bench.plan.messages
    prefix = f"{name}/machine"  # not a source of ours: its session must not fill with the peers' messages
    topic_filter = f"{prefix}/+/telemetry"
    await open_session(bench.broker.port, name, topic_filter)
    await bench.fill(bench.plain(prefix, count))
    try:
        if name == "mosquitto_sub":
            return count / await _mosquitto_sub(bench.broker.port, name, topic_filter, count)
        peer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.peers", name, str(bench.broker.port), name, topic_filter, str(count), bench.peers_dsn,
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        answer, _ = await asyncio.wait_for(peer.communicate(), 300)
        times = json.loads(answer)
        return float(count / (times["last"] - times["first"]))
    finally:
        await drop_session(bench.broker.port, name)


async def _mosquitto_sub(port: int, client: str, topic_filter: str, count: int) -> float:
    """Seconds from its start to its end (starting takes it a few milliseconds)."""
    options = ["-V", "mqttv5", "-D", "connect", "receive-maximum", "65534", "-x", "3600", "-c", "-q", "1"]
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-i",
        client,
        "-t",
        topic_filter,
        "-C",
        str(count),
        *options,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await asyncio.wait_for(process.wait(), 120)
    return time.perf_counter() - started


async def _steady(bench: Bench) -> list[float]:
    """Seconds from PUBLISH to PUBACK of each message, as a relay between broker and daemon sees them: its own
    delay counts against us.
    """
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.relay", str(bench.broker.port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert relay.stdout is not None and relay.stdin is not None
    daemon = bench.daemon(f"mqtt://127.0.0.1:{int(await relay.stdout.readline())}")
    daemon.start()
    try:
        await daemon.ready()
        async with Publisher[None](bench.broker.port, "bench-publisher") as publisher:
            started, sent = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - started) < bench.plan.steady_seconds:
                while sent < elapsed * STEADY_RATE:
                    await publisher.publish(
                        f"acme/devices/device{sent % DEVICES}/telemetry", bench.payload(), None
                    )
                    sent += 1
                await asyncio.sleep(0.001)
            await publisher.flush()

        async def is_acknowledged() -> bool:
            return (await daemon.metrics())["fieldgate_mqtt_ack_seconds_count"] >= sent

        await wait_until(is_acknowledged, what="the steady messages are acknowledged")
        bench.peak_memory = max(bench.peak_memory, peak_memory_bytes(daemon.pid))
    finally:
        await daemon.stop()
        relay.stdin.close()
        seconds: list[float] = json.loads(await relay.stdout.readline())
        await relay.wait()
    return seconds


async def _idle(bench: Bench) -> float:
    """The share of one core that a connected daemon without work uses, over 10 s."""
    daemon = bench.daemon()
    daemon.start()
    try:
        await daemon.ready()
        await asyncio.sleep(2.0)  # what starting left behind is not idling
        before = cpu_seconds(daemon.pid)
        await asyncio.sleep(10.0)
        return (cpu_seconds(daemon.pid) - before) / 10.0
    finally:
        await daemon.stop()


def _document(bench: Bench, acks: list[float], idle: float) -> dict[str, object]:
    cpu = {name: round(statistics.median(used), 2) for name, used in bench.cpu_microseconds.items()}
    medians = {name: statistics.median(rates) for name, rates in bench.rates.items()}
    ours = medians["fieldgate"]
    return {
        "machine": machine(),
        "versions": versions(("mosquitto_sub", "--version")),
        "settings": {
            "messages": bench.plan.messages, "rounds": bench.plan.rounds, "payload_bytes": len(bench.payload()), "devices": DEVICES,
            "broker_persistence": bench.plan.persistent, "synchronous_commit": "on", "fsync": "on", "receive_maximum": 65534,
        },
        "rates": {name: round(rate) for name, rate in medians.items()},
        "rounds": {name: [round(rate) for rate in rates] for name, rates in bench.rates.items()},
        "ratios": {name: round(ours / rate, 3) for name, rate in medians.items() if name != "fieldgate"},
        "sources": {
            shape.name: {"rate": round(medians[shape.name] / ours, 3), "cpu": round(cpu[shape.name] / cpu["fieldgate"], 3)}
            for shape in SHAPES if bench.plan.sources
        },
        "cpu_microseconds_per_message": cpu["fieldgate"],
        "ack_seconds": {"p50": quantile(acks, 0.5), "p99": quantile(acks, 0.99), "max": max(acks), "messages": len(acks), "rate": STEADY_RATE},
        "standby_ack_seconds": {"p50": quantile(bench.standby_acks, 0.5), "p99": quantile(bench.standby_acks, 0.99)} if bench.standby_acks else None,
        "peak_memory_bytes": bench.peak_memory,
        "idle_cpu_share": round(idle, 4),
    }  # fmt: skip


def rows(document: Mapping[str, object]) -> list[Mapping[str, str]]:
    """The document as lines of a table."""
    rates, ratios, acks = document["rates"], document["ratios"], document["ack_seconds"]
    sources = document["sources"]
    assert isinstance(rates, dict) and isinstance(ratios, dict) and isinstance(acks, dict)
    assert isinstance(sources, dict)
    memory, idle = document["peak_memory_bytes"], document["idle_cpu_share"]
    assert isinstance(memory, int) and isinstance(idle, float)
    lines = [
        {"what": name, "figure": f"{rate:,} msg/s", "ours to it": str(ratios.get(name, ""))}
        for name, rate in rates.items()
        if name not in sources
    ]
    second = document["standby_ack_seconds"]
    assert second is None or isinstance(second, dict)
    figures = {
        "CPU of the daemon": f"{document['cpu_microseconds_per_message']} us/message",
        f"PUBLISH to PUBACK at {acks['rate']}/s, p50": f"{acks['p50'] * 1000:.2f} ms",
        f"PUBLISH to PUBACK at {acks['rate']}/s, p99": f"{acks['p99'] * 1000:.2f} ms",
        **(
            {}
            if second is None
            else {
                f"the same with a synchronous standby, {name}": f"{second[name] * 1000:.2f} ms"
                for name in ("p50", "p99")
            }
        ),
        "peak memory of the daemon": f"{memory / 1e6:.0f} MB",
        "idle CPU of the daemon": f"{idle:.2%}",
    }
    figures |= {
        f"{name}, to plain JSON": (
            f"{rates[name]:,} msg/s: {share['rate']:.2f} times, CPU {share['cpu']:.2f} times"
        )
        for name, share in sources.items()
    }
    return [*lines, *({"what": what, "figure": figure, "ours to it": ""} for what, figure in figures.items())]
