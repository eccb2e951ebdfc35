"""Fieldgate itself, on a broker that is killed in the middle: how much of what publishers were told is taken
arrives in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from benchmarks.servers import Postgres, accepts, end, free_port, wait_until
from gateway import metrics
from gateway.ingest import Ingest
from gateway.settings import Settings
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.interop.adapters import Broker, Missing
from tests.interop.client import Client, Refused
from tests.interop.suite import NODE_SECONDS, SESSION_SECONDS

WINDOW = 200
QUIET_SECONDS = 20.0
POLL_SECONDS = 0.5
STALL_SECONDS = 40.0
"""Without an acknowledgement, and the broker stands still. One that goes on may take as long as it likes."""


class Fleet:
    """Publishes numbered samples at QoS 1; what a lost connection left unacknowledged is published again."""

    def __init__(self, port: Callable[[], int], count: int) -> None:
        self._port = port
        self._left = list(range(count))
        self._start = int(time.time()) - 2 * count
        self.acknowledged: set[int] = set()

    async def run(self) -> None:
        while self._left:
            try:
                await self._converse()
            except (OSError, TimeoutError, Refused):
                await asyncio.sleep(0.2)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Raises TimeoutError, which names `what`, where the broker stands still before."""
        while not holds():
            had = len(self.acknowledged)
            await wait_until(
                lambda: holds() or len(self.acknowledged) > had,  # noqa: B023
                what=what,
                seconds=STALL_SECONDS,
            )

    async def _converse(self) -> None:
        client = await Client(self._port(), "fleet").connect()
        try:
            while self._left:
                batch = self._left[:WINDOW]
                payloads = [b'{"ts":%d,"a":%d}' % (self._start + number, number) for number in batch]
                await client.publish("acme/devices/pump/telemetry", *payloads)
                self.acknowledged.update(batch)
                del self._left[:WINDOW]
        finally:
            await client.abort()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """`is_away`: no gateway runs until the kill is over, so that the queue is the broker's to keep.
    `is_balanced`: gateway and fleet know one address, of a HAProxy.
    """

    count: int
    is_away: bool = False
    is_balanced: bool = False


async def killed_in_the_middle(make: Callable[[], Broker], trial: Trial) -> dict[str, object]:
    """How many messages were acknowledged to the publisher, stored, and missing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    broker, server = make(), Postgres(Path("/tmp"), fsync="off")  # its user has to get there
    began = time.monotonic()
    try:
        await broker.start()
        await server.start()
        database = await Database.open(await server.create("fieldgate"), size=6)
        try:
            await migrate(database)
            return {**await _tried(broker, database, trial), "seconds": round(time.monotonic() - began, 1)}
        finally:
            await database.close()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await broker.remove()
        await server.stop()
        server.remove()


async def _tried(broker: Broker, database: Database, trial: Trial) -> dict[str, object]:
    if not trial.is_balanced:
        return await _run(broker, database, trial, broker.ports)
    async with balancer(broker.folder, broker.ports) as port:
        return await _run(broker, database, trial, [port])


@asynccontextmanager
async def balancer(folder: Path, ports: Sequence[int]) -> AsyncIterator[int]:
    """HAProxy with time-outs of 20 s, below which the keepalive has to stay; the first that is well is used."""
    port = free_port()
    servers = "".join(
        f"  server n{place} 127.0.0.1:{one} check inter 500ms fall 2 rise 2 on-marked-down shutdown-sessions"
        f"{' backup' if place else ''}\n"
        for place, one in enumerate(ports)
    )
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 20s\n  timeout server 20s\n"
        f"listen mqtt\n  bind 127.0.0.1:{port}\n{servers}"
    )
    path = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Missing("`make packages` brings HAProxy")
    process = subprocess.Popen([path, "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        await wait_until(lambda: accepts(port), what="HAProxy accepts")
        yield port
    finally:
        await end(process, signal.SIGKILL)


async def _run(broker: Broker, database: Database, trial: Trial, ports: Sequence[int]) -> dict[str, object]:
    count = trial.count
    urls = [f"mqtt://127.0.0.1:{port}" for port in ports]
    settings = Settings.model_validate({
        "broker": {"url": urls, "return_interval": None, "keepalive": "5s"},
        "security": {"encryption_keys": ["k"]},
        "telemetry": {"auto_register_customers": True},
    })  # fmt: skip
    fleet = Fleet((lambda: ports[0]) if trial.is_balanced else lambda: broker.port, count)
    publishing: asyncio.Task[None] | None = None
    running = await _up(settings, database)
    try:
        node = _holder(broker)
        await asyncio.sleep(SESSION_SECONDS)
        if trial.is_away:
            await _down(running)
        publishing = asyncio.create_task(fleet.run())
        await fleet.until(lambda: len(fleet.acknowledged) >= count // 3, "a third is published")
        if broker.nodes > 1:
            await broker.stop_node(node, signal.SIGKILL)
        else:
            await broker.stop(signal.SIGKILL)
            await broker.start()
        before = len(fleet.acknowledged)
        await fleet.until(lambda: len(fleet.acknowledged) > before, "publishing goes on")
        if trial.is_away:
            running = await _up(settings, database)
        await fleet.until(publishing.done, "all is published")
        publishing.result()
        stored = await _settled(database, count, quiet_seconds(broker.nodes))
        held = await _numbers(database)
        return {
            "messages": count,
            "acknowledged": len(fleet.acknowledged),
            "stored": stored,
            "lost": len(fleet.acknowledged - held),
            "killed": "the node with the session" if broker.nodes > 1 else "the broker, started again",
        }
    finally:
        await _down(running, publishing)


async def _up(settings: Settings, database: Database) -> asyncio.Task[None]:
    ingest = Ingest(settings, database, "interop")
    running = asyncio.create_task(ingest.run())
    await wait_until(
        lambda: ingest.connected or running.done(), what="the session is up", seconds=STALL_SECONDS
    )
    if running.done():
        running.result()
    return running


async def _down(*tasks: asyncio.Task[None] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _holder(broker: Broker) -> int:
    """The node that the session is with."""
    for node, port in enumerate(broker.ports):
        labels = {"partition": "0", "broker": f"mqtt://127.0.0.1:{port}"}
        if metrics.REGISTRY.get_sample_value("fieldgate_mqtt_broker", labels) == 1:
            return node
    return 0


def quiet_seconds(nodes: int) -> float:
    """How long nothing more comes until what is missing is lost."""
    return NODE_SECONDS if nodes > 1 else QUIET_SECONDS


async def _settled(database: Database, count: int, quiet: float) -> int:
    """How many rows there are, once there are all or no more came for `quiet` seconds: what comes late is not
    lost.
    """
    stored, since = -1, time.monotonic()
    while stored < count and time.monotonic() - since < quiet:
        async with database.connection() as connection:
            now: int = await connection.fetchval("select count(*) from telemetry")
        if now != stored:
            stored, since = now, time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
    return stored


async def _numbers(database: Database) -> set[int]:
    async with database.connection() as connection:
        return {row["a"] for row in await connection.fetch("select (metrics->>'a')::int as a from telemetry")}
