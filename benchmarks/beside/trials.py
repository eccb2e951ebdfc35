"""Owns what every consumer is put through: a backlog, a live load, SIGKILLs, a restart of the database. The
same messages, the same broker, the same server, one consumer after the other.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.beside.consumers import Consumer, Ours, Theirs
from benchmarks.daemon import CpuMeter, cpu_seconds, peak_memory_bytes, tree_seconds
from benchmarks.mqtt import Publisher, drop_session, open_session
from benchmarks.report import quantile
from benchmarks.servers import Mosquitto, Postgres, wait_until

FLOWING_BYTES = 1024
SOON_SECONDS = 1.5
ESTABLISHED = "01"
STILL_SECONDS = 8.0
"""Nothing new for so long, and the consumer is taken to have stored all that it ever will."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """The servers of one run. `newest`: the latest time of a live message; `floor`: the earliest of the next,
    so that no two of a device have one time.
    """

    broker: Mosquitto
    postgres: Postgres
    directory: Path
    devices: int = 100
    dsns: dict[str, str] = field(default_factory=dict)
    written: int = 0
    floor: int = 0
    newest: int = 0
    since: int = field(default_factory=lambda: int(time.time() * 1000) - 6 * 3600 * 1000)

    def message(self, *, is_live: bool) -> tuple[str, bytes]:
        """Device and payload; no two have device and time in common. `is_live`: its time is now."""
        self.written += 1
        if self.written % self.devices == 0:  # a burst has more messages than devices in a millisecond
            self.floor = self.newest + 1
        moment = max(int(time.time() * 1000), self.floor) if is_live else self.since + self.written
        self.newest = max(moment, self.newest) if is_live else self.newest
        device = f"device{self.written % self.devices}"
        metrics = {f"metric{number}": 20 + self.written * (number + 1) % 1000 / 100 for number in range(3)}
        body = {"ts": moment, "device": device, "metrics": metrics}
        return device, json.dumps(body, separators=(",", ":")).encode()

    def times(self, *, is_live: bool) -> tuple[int, int]:
        """Between which times the messages are that come now; those of a backlog end hours ago."""
        moment = max(int(time.time() * 1000), self.newest + 1)
        return (
            (moment - 1, moment + 86_400_000) if is_live else (self.since + self.written, moment - 3_600_000)
        )


@asynccontextmanager
async def session(stage: Stage, consumer: Consumer, *, is_live: bool = True) -> AsyncIterator[Table]:
    """The consumer's session at the broker and its table, both empty; the session ends with it."""
    if isinstance(consumer, Theirs):
        consumer.clear()
        store = await asyncpg.connect(stage.dsns["peers"])
        await store.execute("drop table if exists sample")
        await store.execute(consumer.table)
        await store.close()
        await open_session(stage.broker.port, consumer.name, consumer.filter)
    dsn = stage.dsns["fieldgate" if isinstance(consumer, Ours) else "peers"]
    table = Table(consumer, dsn, stage.times(is_live=is_live))
    try:
        yield table
    finally:
        await consumer.stop()
        if isinstance(consumer, Theirs):
            await drop_session(stage.broker.port, consumer.name)


class Table:
    """What a consumer has stored, of messages between two times."""

    def __init__(self, consumer: Consumer, dsn: str, times: tuple[int, int]) -> None:
        self._consumer, self._dsn, self._times = consumer, dsn, times

    async def count(self) -> tuple[int, int]:
        """Rows, and messages among them."""
        answer = await self._fetch(self._consumer.count)
        return (answer[0][0], answer[0][1]) if answer else (0, 0)

    async def commits(self) -> list[tuple[float, int]]:
        """Of every row: when it was committed, and the time in it (milliseconds)."""
        return [(row["at"].timestamp(), row["sent"]) for row in await self._fetch(self._consumer.commits)]

    async def _fetch(self, query: str) -> list[asyncpg.Record]:
        store = await asyncpg.connect(self._dsn, timeout=30)
        try:
            with suppress(asyncpg.UndefinedTableError):  # Telegraf makes its own with its first batch
                return list(await store.fetch(query, *self._times))
            return []
        finally:
            await store.close()

    async def settled(
        self, wanted: int, tick: Callable[[], Awaitable[None]] | None = None, *, seconds: float = 150
    ) -> tuple[int, int]:
        """Waits until all `wanted` messages are there or nothing has come for a while; rows and messages."""
        changed, before, deadline = time.monotonic(), (-1, -1), time.monotonic() + seconds
        while True:
            if tick is not None:
                await tick()
            found = await self.count()
            if found != before:
                changed, before = time.monotonic(), found
            now = time.monotonic()
            if found[1] >= wanted or now - changed > STILL_SECONDS or now > deadline:
                return found
            await asyncio.sleep(0.25)


async def backlog(stage: Stage, consumer: Consumer, count: int) -> dict[str, float]:
    """Messages a second from the moment that the backlog flows until the last commit; CPU a
    message in that time, of the consumer and of PostgreSQL; its highest memory.
    """
    count = int(count * consumer.share)
    async with session(stage, consumer, is_live=False) as table:
        async with Publisher[None](stage.broker.port, "bench-publisher") as publisher:
            for _ in range(count):
                device, payload = stage.message(is_live=False)
                await publisher.publish(consumer.topic.format(device=device), payload, None)
            await publisher.flush()
        await asyncio.sleep(0.3)  # the broker lets the publisher go
        server = tree_seconds(stage.postgres.pid)
        consumer.start()
        async with CpuMeter(consumer.pid) as cpu:
            first = await flowing(stage.broker.port)
            _, stored = await table.settled(count)
            server = tree_seconds(stage.postgres.pid) - server
            commits = [at for at, _ in await table.commits()]
        if not commits:
            raise RuntimeError(f"{consumer.name} stored nothing of {count:,} messages")
        last = max(commits)
        memory = peak_memory_bytes(consumer.pid)
        return {
            "messages": count,
            "stored": stored,
            "rate": stored / (last - first),
            "cpu_microseconds": cpu.between(first, last) / stored * 1e6,
            "server_cpu_microseconds": server / stored * 1e6,
            "memory_bytes": memory,
        }


async def flowing(port: int, *, seconds: float = 60.0) -> float:
    """When the backlog began to flow to whoever connected to the port (wall-clock seconds): by the kernel's
    table of connections, so that nothing stands between the two.
    """
    ours, deadline, connected = f":{port:04X}", time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != ESTABLISHED or ours not in (fields[1][-5:], fields[2][-5:]):
                continue
            connected = connected or time.time()
            sending, _, receiving = fields[4].partition(":")
            if int(sending if fields[1].endswith(ours) else receiving, 16) > FLOWING_BYTES:
                return time.time()
        if connected and time.time() - connected > SOON_SECONDS:
            return connected  # it is so fast, or takes so few at a time, that nothing ever queued
        await asyncio.sleep(0.003)
    raise TimeoutError(f"nothing flowed from the broker within {seconds:g} s")


class Live:
    """A publisher at an even rate until it is told to end."""

    def __init__(self, stage: Stage, consumer: Consumer, rate: float) -> None:
        self._stage, self._consumer, self._rate = stage, consumer, rate
        self._ends = asyncio.Event()
        self.sent = 0

    async def run(self) -> None:
        """Returns when everything that was sent is acknowledged by the broker."""
        async with Publisher[None](self._stage.broker.port, "bench-live") as publisher:
            started = time.perf_counter()
            while not self._ends.is_set():
                while self.sent < (time.perf_counter() - started) * self._rate:
                    device, payload = self._stage.message(is_live=True)
                    await publisher.publish(self._consumer.topic.format(device=device), payload, None)
                    self.sent += 1
                await asyncio.sleep(0.002)
            await publisher.flush()

    def end(self) -> None:
        """No more messages."""
        self._ends.set()


@asynccontextmanager
async def live_load(stage: Stage, consumer: Consumer, rate: float) -> AsyncIterator[Live]:
    """A live load in the background, ended and flushed at the block's end."""
    load = Live(stage, consumer, rate)
    task = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.end()
        await task


async def live(stage: Stage, consumer: Consumer, rate: float, seconds: float) -> dict[str, float]:
    """Milliseconds from publishing to the commit, and CPU a message, at an even rate."""
    async with session(stage, consumer) as table:
        consumer.start()
        async with live_load(stage, consumer, rate) as load:
            await wait_until(lambda: _stores(table), seconds=60, what=f"{consumer.name} stores something")
            await asyncio.sleep(3.0)  # what gathered while it started is stored
            async with CpuMeter(consumer.pid) as cpu:
                await asyncio.sleep(0.1)
                start, servers = (
                    time.time(),
                    (tree_seconds(stage.postgres.pid), cpu_seconds(stage.broker.pid)),
                )
                await asyncio.sleep(seconds)
                until = time.time()
                server, broker = (
                    tree_seconds(stage.postgres.pid) - servers[0],
                    cpu_seconds(stage.broker.pid) - servers[1],
                )
                await asyncio.sleep(0.1)
                used = cpu.between(start, until)
        await table.settled(load.sent)
        delays = [
            at * 1000 - sent for at, sent in await table.commits() if start * 1000 <= sent < until * 1000
        ]
        return {
            "rate": rate,
            "messages": len(delays),
            "p50_milliseconds": quantile(delays, 0.5),
            "p99_milliseconds": quantile(delays, 0.99),
            **{
                name: seconds_used / max(len(delays), 1) * 1e6
                for name, seconds_used in (
                    ("cpu_microseconds", used),
                    ("server_cpu_microseconds", server),
                    ("broker_cpu_microseconds", broker),
                )
            },
        }


async def _stores(table: Table, *, more_than: int = 0) -> bool:
    return (await table.count())[1] > more_than


async def kills(stage: Stage, consumer: Consumer, rate: float, times: int, seed: int) -> dict[str, object]:
    """Under a live load, SIGKILL so many times, each up to a second after the consumer has stored again; then what is
    missing and what is there twice.
    """
    chance, ended = random.Random(seed), 0
    async with session(stage, consumer) as table:
        consumer.start()
        async with live_load(stage, consumer, rate) as load:
            for _ in range(times):
                ended += await _again(consumer, table)
                await asyncio.sleep(chance.uniform(0.05, 1.0))
                await consumer.kill()
                consumer.start()
            ended += await _again(consumer, table)
        return {"kills": times, **await _outcome(consumer, table, load.sent, ended)}


async def _again(consumer: Consumer, table: Table) -> int:
    """Waits until the consumer has stored something new; how often it had to be started because it ended by
    itself.
    """
    before, ended, deadline = (await table.count())[1], 0, time.monotonic() + 40
    while (await table.count())[1] <= before and time.monotonic() < deadline:
        ended += _supervised(consumer)
        await asyncio.sleep(0.1)
    return ended


def _supervised(consumer: Consumer) -> int:
    """Starts it again where it ended by itself, as a service manager does."""
    if consumer.is_running:
        return 0
    consumer.start()
    return 1


async def restart(stage: Stage, consumer: Consumer, rate: float) -> dict[str, object]:
    """Under a live load, the database is stopped for two seconds; then what is missing and what is there
    twice.
    """
    async with session(stage, consumer) as table:
        consumer.start()
        async with live_load(stage, consumer, rate) as load:
            await wait_until(lambda: _stores(table), seconds=60, what=f"{consumer.name} stores something")
            await asyncio.sleep(2.0)
            await stage.postgres.stop()
            await asyncio.sleep(2.0)
            await stage.postgres.start()
            ended = await _again(consumer, table)
            await asyncio.sleep(2.0)
        return await _outcome(consumer, table, load.sent, ended)


async def _outcome(consumer: Consumer, table: Table, sent: int, ended: int) -> dict[str, object]:
    async def tick() -> None:
        nonlocal ended
        ended += _supervised(consumer)

    rows, stored = await table.settled(sent, tick)
    if stored < sent:  # what it holds without an acknowledgement comes again to a new start
        await consumer.stop()
        consumer.start()
        rows, stored = await table.settled(sent, tick)
    return {
        "acknowledged": sent,
        "stored": stored,
        "lost": sent - stored,
        "duplicated": rows - stored,
        "ended_by_itself": ended,
    }
