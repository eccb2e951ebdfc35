"""Measures what open pages cost telemetry: PUBLISH to PUBACK while 1,000 messages a second are taken in, with nobody
looking, with the overview of 5,000 connections open in 20 tabs, and with topics looked at live. `python -m
benchmarks.pages_beside [--seconds N] [--rounds N]`

A tab does what the page's script does: it holds `/live` and asks for the page every five seconds, or a second after it
was told of a change; a topic's page is asked for every second. Phases are interleaved, so that growth is a ratio of the
same minutes.

Keys of the JSON document: `phases` by kind (`quiet`, `overview`, `topics`): `ack_seconds` {p50, p99, window_p99: the
median of that of each round}, `page_seconds` {p50, p99} and `page_bytes` (none of `quiet`), `messages_per_second`,
`cpu_share` (of a core, of both processes); `growth`: of each over quiet, of `ack_seconds`; `settings`, `machine`,
`versions`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvloop
from rich.console import Console

from benchmarks.api import Program
from benchmarks.daemon import Daemon, cpu_seconds
from benchmarks.mqtt import Publisher
from benchmarks.records_beside import publish
from benchmarks.report import machine, quantile, show, versions, write
from benchmarks.servers import Mosquitto, Postgres
from gateway.model.access import Principal, Role
from gateway.store import access
from gateway.store.pool import Database

CONNECTIONS = 5_000
TABS = 20
TOPICS = 4
EVERY_SECONDS = 5.0
SETTLE_SECONDS = 2.0
KINDS = ("quiet", "overview", "topics")
INSERT = """
with customers as (insert into customer (customer_id) select 'c' || n from generate_series(1, 500) n)
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
select 'n' || n, 'c' || n % 500 + 1, 'postgres', 'cloud', 1, 'paused', '' from generate_series(1, $1::int) n
"""


@dataclass(slots=True)
class Kind:
    """What was measured in the phases of one kind."""

    acks: list[list[float]] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)
    page_bytes: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def document(self) -> dict[str, object]:
        """Its part of the report."""
        every = [value for part in self.acks for value in part]
        shown: dict[str, object] = {}
        if self.pages:
            times = {"p50": quantile(self.pages, 0.5), "p99": quantile(self.pages, 0.99)}
            shown = {"page_seconds": times, "page_bytes": self.page_bytes}
        return {
            "ack_seconds": {
                "p50": quantile(every, 0.5),
                "p99": quantile(every, 0.99),
                "window_p99": statistics.median(quantile(part, 0.99) for part in self.acks),
            },
            **shown,
            "messages_per_second": round(len(every) / self.seconds, 1),
            "cpu_share": round(self.cpu / self.seconds, 3),
        }


async def look(client: httpx.AsyncClient, path: str, every: float, kind: Kind) -> None:
    """A page that is open: asked for again and again."""
    while True:
        began = time.perf_counter()
        answer = await client.get(path)
        answer.raise_for_status()
        kind.pages.append(time.perf_counter() - began)
        kind.page_bytes = max(kind.page_bytes, len(answer.content))
        await asyncio.sleep(every)


async def hold(client: httpx.AsyncClient) -> None:
    """The line by which a page is told."""
    while True:
        with suppress(httpx.TransportError):
            async with client.stream("GET", "/live", timeout=None) as answer:
                async for _ in answer.aiter_bytes():
                    pass
        await asyncio.sleep(1.0)


async def open_pages(name: str, client: httpx.AsyncClient, kind: Kind) -> list[asyncio.Task[None]]:
    """The pages of a phase."""
    if name == "overview":
        lines = [asyncio.create_task(hold(client)) for _ in range(TABS)]
        return lines + [asyncio.create_task(look(client, "/", EVERY_SECONDS, kind)) for _ in range(TABS)]
    if name == "topics":
        paths = [
            "/topics?filter=%23",
            *(f"/topics?filter=acme/devices/device{n}/%23" for n in range(1, TOPICS)),
        ]
        return [asyncio.create_task(look(client, path, 1.0, kind)) for path in paths]
    return []


async def phases(
    kinds: Mapping[str, Kind], *, rounds: int, seconds: float, daemon: Daemon, relay: Program, cookie: str
) -> None:
    """All of them, one after another, so many times."""
    base = f"http://127.0.0.1:{daemon.port}"
    for number in range(rounds * len(KINDS)):
        name = KINDS[number % len(KINDS)]
        kind = kinds[name]
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=base, cookies={"fieldgate_session": cookie}, timeout=30, limits=limits
        ) as client:
            tasks = await open_pages(name, client, kind)
            await asyncio.sleep(SETTLE_SECONDS)
            await _acks(relay)
            began, cpu = time.perf_counter(), cpu_seconds(daemon.pid)
            await asyncio.sleep(seconds)
            kind.acks.append(await _acks(relay))
            kind.seconds += time.perf_counter() - began
            kind.cpu += cpu_seconds(daemon.pid) - cpu
            for task in tasks:
                if task.done():
                    task.result()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _acks(relay: Program) -> list[float]:
    relay.tell("")
    found = await relay.hear()
    assert isinstance(found, list)
    return found


async def run(*, rounds: int, seconds: float) -> dict[str, object]:
    """Everything, on servers of its own."""
    directory, load = Path(tempfile.mkdtemp(prefix="fg-bench-")), os.getloadavg()
    broker, postgres = Mosquitto(directory / "broker", persistent=False), Postgres()
    kinds = {name: Kind() for name in KINDS}
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        await broker.start()
        stack.push_async_callback(broker.stop)
        await postgres.start()
        stack.callback(postgres.remove)
        stack.push_async_callback(postgres.stop)
        dsn = await postgres.create("fieldgate")
        relay = await Program.start("benchmarks.relay", str(broker.port))
        stack.push_async_callback(relay.end)
        address = f"mqtt://127.0.0.1:{await relay.hear()}"
        daemon = Daemon(directory, broker_url=address, dsn=dsn, logging={"level": "warning"})
        daemon.start()
        stack.push_async_callback(daemon.stop)
        await daemon.ready(60)
        database = await Database.open(dsn, size=1, application_name="bench")
        stack.push_async_callback(database.close)
        async with database.connection() as connection:
            await connection.execute(INSERT, CONNECTIONS)
        token = await access.create(database, name="bench", role=Role.VIEWER)
        session = await access.open_session(
            database, Principal(name="bench", role=Role.VIEWER), token.token_id
        )
        publisher = await stack.enter_async_context(Publisher[None](broker.port, "bench-publisher"))
        publishing = asyncio.create_task(publish(publisher))
        try:
            await asyncio.sleep(5)  # the first partitions and plans are no phase's
            await phases(
                kinds, rounds=rounds, seconds=seconds, daemon=daemon, relay=relay, cookie=session.secret
            )
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
    found = {name: kind.document() for name, kind in kinds.items()}
    return {
        "phases": found,
        "growth": {name: _growth(found[name], found["quiet"]) for name in KINDS[1:]},
        "settings": {
            "connections": CONNECTIONS,
            "tabs": TABS,
            "topics": TOPICS,
            "rounds": rounds,
            "seconds": seconds,
        },
        "machine": {**machine(), "load_average": {"start": load, "end": os.getloadavg()}},
        "versions": versions(),
    }


def _growth(more: Mapping[str, Any], less: Mapping[str, Any]) -> dict[str, float]:
    return {
        which: round(more["ack_seconds"][which] / less["ack_seconds"][which], 3)
        for which in less["ack_seconds"]
    }


def rows(found: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """For people."""
    return [
        {
            "pages": name,
            "PUBLISH to PUBACK, p50 / p99": f"{phase['ack_seconds']['p50'] * 1000:.2f} / {phase['ack_seconds']['window_p99'] * 1000:.1f} ms",
            "times quiet": " / ".join(f"{found['growth'][name][which]:.2f}" for which in ("p50", "window_p99")) if name in found["growth"] else "",
            "a page, p50 / p99": f"{phase['page_seconds']['p50'] * 1000:.0f} / {phase['page_seconds']['p99'] * 1000:.0f} ms" if "page_seconds" in phase else "",
            "its size": f"{phase['page_bytes'] / 1000:.0f} kB" if "page_bytes" in phase else "",
            "CPU": f"{phase['cpu_share']:.0%}",
        }
        for name, phase in found["phases"].items()
    ]  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a phase")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = uvloop.run(run(rounds=arguments.rounds, seconds=arguments.seconds))
    show("Open pages beside telemetry", rows(found), Console())
    write(arguments.json, found)


if __name__ == "__main__":
    main()
