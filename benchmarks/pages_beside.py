"""Measures what open pages cost telemetry: PUBLISH to PUBACK while 1,000 messages a second are taken in, with nobody
looking, with the overview of 5,000 connections open in 20 tabs, and with topics looked at live. `python -m
benchmarks.pages_beside [--seconds N] [--rounds N]`

A tab does what the page's script does: it holds `/live`, asks for the page when it is told of a change (once a second at
most) or at the beat, and says what it shows already; a topic's page is asked for every second. Phases are interleaved, so
that growth is a ratio of the same minutes. A second that something else takes from the machine decides the p99 of all of
them alone: so the p99 of each window of five seconds is measured too, and the median of those is compared. How far two
medians of the same are apart is told by those of the quiet windows, every other one against the rest (`noise`).

Keys of the JSON document: `phases` by kind (`quiet`, `overview`, `topics`): `ack_seconds` {p50, p99, window_p99: the
median of that of each window}, `page_seconds` {p50, p99} and `page_bytes` (none of `quiet`), `messages_per_second`,
`cpu_share` (of a core, by `daemon`, `http` and `postgresql`); `growth`: of each over quiet, of `ack_seconds`, and
`cpu_share_a_page`: what all three use more, for each page that is open; `noise`; `settings`, `machine`, `versions`.
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
from benchmarks.daemon import Daemon, cpu_seconds, processes, tree_seconds
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
SOONEST_SECONDS = 1.0
WINDOW_SECONDS = 5.0
SETTLE_SECONDS = 2.0
KINDS = ("quiet", "overview", "topics")
PAGES = {"overview": TABS, "topics": TOPICS}
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
    cpu: dict[str, float] = field(default_factory=dict)

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
            "cpu_share": {name: round(spent / self.seconds, 4) for name, spent in self.cpu.items()},
        }


async def look(client: httpx.AsyncClient, path: str, every: float, kind: Kind) -> None:
    """A topic's page that is open: asked for again and again."""
    while True:
        await ask(client, path, kind, None)
        await asyncio.sleep(every)


async def ask(client: httpx.AsyncClient, path: str, kind: Kind, shown: str | None) -> str | None:
    """The tag of what the page shows now; `shown`: before."""
    began = time.perf_counter()
    tags = {} if shown is None else {"If-None-Match": shown}
    answer = await client.get(path, headers={"Fieldgate-Live": "1", **tags})
    if answer.status_code != httpx.codes.NOT_MODIFIED:
        answer.raise_for_status()
        kind.page_bytes = max(kind.page_bytes, len(answer.content))
        shown = answer.headers.get("ETag")
    kind.pages.append(time.perf_counter() - began)
    return shown


async def tab(client: httpx.AsyncClient, kind: Kind) -> None:
    """An overview that is open."""
    shown: str | None = None
    while True:
        with suppress(httpx.TransportError):
            async with client.stream("GET", "/live", timeout=None) as answer:
                began = time.perf_counter() - SOONEST_SECONDS
                async for line in answer.aiter_lines():
                    if line.startswith("event:"):
                        await asyncio.sleep(began + SOONEST_SECONDS - time.perf_counter())
                        began = time.perf_counter()
                        shown = await ask(client, "/", kind, shown)
        await asyncio.sleep(1.0)


def open_pages(name: str, client: httpx.AsyncClient, kind: Kind) -> list[asyncio.Task[None]]:
    """The pages of a phase."""
    if name == "overview":
        return [asyncio.create_task(tab(client, kind)) for _ in range(TABS)]
    if name == "topics":
        paths = [
            "/topics?filter=%23",
            *(f"/topics?filter=acme/devices/device{n}/%23" for n in range(1, TOPICS)),
        ]
        return [asyncio.create_task(look(client, path, 1.0, kind)) for path in paths]
    return []


def cpu(daemon: Daemon, postgres: Postgres) -> dict[str, float]:
    """What each has used so far, in seconds."""
    http = sum((cpu_seconds(pid) for pid in processes(daemon.pid)[1:]), 0.0)
    return {
        "daemon": cpu_seconds(daemon.pid) - http,
        "http": http,
        "postgresql": tree_seconds(postgres.pid),
    }


async def phases(
    kinds: Mapping[str, Kind],
    *,
    rounds: int,
    seconds: float,
    daemon: Daemon,
    postgres: Postgres,
    relay: Program,
    cookie: str,
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
            tasks = open_pages(name, client, kind)
            await asyncio.sleep(SETTLE_SECONDS)
            await _acks(relay)
            began, before = time.perf_counter(), cpu(daemon, postgres)
            for _ in range(max(1, round(seconds / WINDOW_SECONDS))):
                await asyncio.sleep(WINDOW_SECONDS)
                kind.acks.append(await _acks(relay))
            kind.seconds += time.perf_counter() - began
            for part, spent in cpu(daemon, postgres).items():
                kind.cpu[part] = kind.cpu.get(part, 0.0) + spent - before[part]
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


async def run(*, rounds: int, seconds: float, root: Path | None = None) -> dict[str, object]:
    """Everything, on servers of its own. `root`: of another checkout, whose gateway is measured."""
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
        daemon = Daemon(directory, broker_url=address, dsn=dsn, root=root, logging={"level": "warning"})
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
                kinds,
                rounds=rounds,
                seconds=seconds,
                daemon=daemon,
                postgres=postgres,
                relay=relay,
                cookie=session.secret,
            )
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
    found = {name: kind.document() for name, kind in kinds.items()}
    return {
        "phases": found,
        "growth": {name: _growth(found[name], found["quiet"], pages) for name, pages in PAGES.items()},
        "noise": _noise(kinds["quiet"].acks),
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


def _growth(more: Mapping[str, Any], less: Mapping[str, Any], pages: int) -> dict[str, float]:
    spent = sum(more["cpu_share"].values()) - sum(less["cpu_share"].values())
    return {
        **{
            which: round(more["ack_seconds"][which] / less["ack_seconds"][which], 3)
            for which in less["ack_seconds"]
        },
        "cpu_share_a_page": round(spent / pages, 5),
    }


def _noise(windows: list[list[float]]) -> float:
    """The greater of two medians of the quiet windows' p99 over the other."""
    every = [quantile(window, 0.99) for window in windows]
    medians = sorted(statistics.median(part) for part in (every[::2], every[1::2]) if part)
    return round(medians[-1] / medians[0], 3)


def rows(found: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """For people."""
    return [
        {
            "pages": name,
            "PUBLISH to PUBACK, p50 / p99": f"{phase['ack_seconds']['p50'] * 1000:.2f} / {phase['ack_seconds']['window_p99'] * 1000:.1f} ms",
            "times quiet": " / ".join(f"{found['growth'][name][which]:.2f}" for which in ("p50", "window_p99")) if name in found["growth"] else "",
            "a page, p50 / p99": f"{phase['page_seconds']['p50'] * 1000:.0f} / {phase['page_seconds']['p99'] * 1000:.0f} ms" if "page_seconds" in phase else "",
            "its size": f"{phase['page_bytes'] / 1000:.0f} kB" if "page_bytes" in phase else "",
            "CPU, daemon / http / postgresql": " / ".join(f"{share:.1%}" for share in phase["cpu_share"].values()),
            "more a page": f"{found['growth'][name]['cpu_share_a_page']:.3%}" if name in found["growth"] else "",
        }
        for name, phase in found["phases"].items()
    ]  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a phase")
    parser.add_argument("--root", type=Path, help="another checkout, whose gateway is measured")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = uvloop.run(run(rounds=arguments.rounds, seconds=arguments.seconds, root=arguments.root))
    console = Console()
    show("Open pages beside telemetry", rows(found), console)
    console.print(f"the same twice: {found['noise']:.2f}")
    write(arguments.json, found)


if __name__ == "__main__":
    main()
