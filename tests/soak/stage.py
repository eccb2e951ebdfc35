"""Everything that runs for one seed: a broker, two database clusters, the receivers, and replicas of the real
daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.daemon import Daemon, Tree, handles, processes
from benchmarks.servers import Mosquitto, Postgres, wait_until
from tests.soak.cutter import Cutter
from tests.soak.disk import Disk
from tests.soak.oracle import Held, Value, Window
from tests.soak.paused import Span
from tests.soak.receivers import Receiver
from tests.soak.shape import WORKPLACE, Link, Shape

# InternalClientError: what asyncpg says of a session that was killed in the middle of a statement
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
CLUSTER = {
    "fsync": "off",
    "deadlock_timeout": "300ms",
    "shared_buffers": "64MB",
    "log_min_duration_statement": "-1",
}


class Broker(Mosquitto):
    """One that can be told to save, so that a kill loses nothing of what was acknowledged before."""

    async def save(self) -> None:
        """Returns when everything that it holds is on the disk."""
        assert self._process is not None
        path = self._directory / "mosquitto.db"
        before = path.stat().st_mtime_ns if path.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        await wait_until(
            lambda: path.exists() and path.stat().st_mtime_ns > before, what="mosquitto has saved", seconds=10
        )


class Cluster(Postgres):
    """One that may end by itself."""

    @property
    def has_ended(self) -> bool:
        """Whether it was started and runs no more, and nobody stopped it."""
        return self._process is not None and self._process.poll() is not None


class Replica:
    """A daemon, and whether its end is somebody's doing."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.lock = asyncio.Lock()
        """Of whoever does something to it."""
        self.is_wanted = False
        self.stood: list[Span] = []
        """When it was frozen, by the monotonic clock."""
        self._frozen_monotonic = 0.0

    def start(self) -> None:
        """Starts it; from now on it is expected to run."""
        self.daemon.start()
        self.is_wanted = True

    async def kill(self) -> None:
        """SIGKILL."""
        self.is_wanted = False
        await self.daemon.kill()

    async def stop(self) -> int | None:
        """SIGTERM; the exit code."""
        self.is_wanted = False
        return await self.daemon.stop()

    def signal(self, number: signal.Signals) -> None:
        """To the daemon and the process beside it; to what has ended meanwhile, nothing."""
        if not self.daemon.is_started or self.daemon.exit_code is not None:
            return
        if number == signal.SIGSTOP:
            self._frozen_monotonic = time.monotonic()
        elif number == signal.SIGCONT:
            self.stood.append((self._frozen_monotonic, time.monotonic()))
        for pid in processes(self.daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def hang_up(self) -> None:
        """SIGHUP, to the daemon only, once it handles that: what starts later reads the new file anyway."""
        if self.is_wanted and self.daemon.exit_code is None and handles(self.daemon.pid, signal.SIGHUP):
            os.kill(self.daemon.pid, signal.SIGHUP)


@dataclass(kw_only=True)
class Stage:
    """What the faults act upon."""

    shape: Shape
    directory: Path
    broker: Broker
    disk: Disk
    """Of the gateway's cluster."""
    gateway: Cluster
    sink: Cluster
    dsn: str
    sink_databases: dict[str, str] = field(default_factory=dict)
    cutters: dict[str, Cutter] = field(default_factory=dict)
    receivers: dict[str, Receiver] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    files: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the connections file is being changed or a replica is started, which reads it."""
    servers: dict[str, asyncio.Lock] = field(
        default_factory=lambda: {name: asyncio.Lock() for name in ("broker", "gateway", "sink", "api")}
    )
    ended: list[str] = field(default_factory=list)
    """Ends of daemons that nobody asked for."""
    replayed: dict[str, dict[Window, str]] = field(default_factory=dict)
    """Dead letters that were there before somebody had them tried again, by connection; why they were."""
    documents: list[dict[str, Any]] = field(default_factory=list)
    """The connections file."""

    # databases

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """From the gateway's database, on a session of its own. Raises what is in `AWAY`."""
        return await _fetch(self.dsn, query, *arguments)

    async def held(self, link: Link) -> Held:
        """What the system of the link holds."""
        if link.system != "postgres":
            return self.receivers[link.name].held
        dsn = self.sink_databases[link.name]
        held = Held()
        try:
            rows = await _fetch(dsn, "select * from fieldgate_reading where connection = $1", link.name)
            journal = await _fetch(
                dsn, "select * from fieldgate_reading_journal where connection = $1 order by entry", link.name
            )
        except asyncpg.UndefinedTableError:
            return held
        held.values = {
            window_of(row): value_of(row)
            for row in rows
            if row["value"] is not None or row["text_value"] is not None
        }
        for row in journal:
            held.told.setdefault(window_of(row), []).append(value_of(row))
        return held

    async def dead_letters(self, link: Link) -> dict[Window, str]:
        """Windows of readings that are dead letters, and why."""
        rows = await self.fetch(
            """select meter, (extract(epoch from window_start) * 1000000)::bigint as at, reason, detail, first_at
            from dead_letter where kind = 'reading' and connection_id = $1""",
            link.name,
        )
        return {
            (
                row["meter"],
                row["at"],
            ): f"{row['reason']}: {row['detail'][:160]} (first {row['first_at']:%H:%M:%S})"
            for row in rows
        }

    def deadlocks(self) -> list[str]:
        """What both clusters wrote of deadlocks."""
        found = []
        for name, server in (("gateway", self.gateway), ("sink", self.sink)):
            text = server.log_path.read_text(errors="replace")
            for match in re.finditer(r"deadlock detected", text):
                part = text[match.start() : match.start() + 1500]
                found.append(f"{name}: {part}")
        return found

    # the API

    async def ask(
        self, method: str, path: str, body: Tree | None = None, *, of: Replica | None = None
    ) -> tuple[int, Any]:
        """Of whichever replica answers, or of one only, since what is not answered may be done all the same;
        (0, None) where none does.
        """
        for replica in self.replicas if of is None else [of]:
            status, document = await asyncio.to_thread(_request, replica.daemon.port, method, path, body)
            if status:
                return status, document
        return 0, None

    async def insist(self, path: str, body: Tree | None = None, *, seconds: float = 45.0) -> int:
        """Posts until somebody answers something definite; the status."""
        status = 0

        async def answered() -> bool:
            nonlocal status
            status, _ = await self.ask("POST", path, body)
            return status not in (0, 500, 502, 503, 504)

        with contextlib.suppress(TimeoutError):
            await wait_until(answered, seconds=seconds, what=path, every=0.3)
        return status

    async def state(self, name: str) -> str:
        """Of the connection, as it is stored."""
        rows = await self.fetch("select state from connection where connection_id = $1", name)
        return str(rows[0][0]) if rows else "missing"

    # replicas and their files

    async def start(self, replica: Replica) -> None:
        """Starts it with the connections file as it is."""
        async with self.files:
            replica.start()

    async def declare(self, *, broken: bool = False) -> None:
        """Writes the connections file of every replica and hangs up on those that run."""
        by_name = {link.name: link for link in self.shape.links}
        for document in self.documents:
            document["meters"] = by_name[document["id"]].meters
        text = "connections: [ {" if broken else json.dumps({"connections": self.documents}, indent=1)
        for replica in self.replicas:
            path = self.directory / f"{replica.daemon.name}.connections.yaml"
            part = path.with_suffix(".part")
            part.write_text(text)
            part.replace(path)
        for replica in self.replicas:
            replica.hang_up()

    async def holder(self) -> Replica | None:
        """A replica that works on a stream now, by what the leases say."""
        with contextlib.suppress(*AWAY):
            rows = await self.fetch(
                "select split_part(lease_owner, '/', 1) from stream where lease_until > now() order by"
                " random() limit 1"
            )
            for replica in self.replicas:
                if rows and replica.daemon.name == rows[0][0]:
                    return replica
        return None

    async def waiting(self, locker: asyncpg.Connection[asyncpg.Record], of: str) -> Replica | None:
        """The replica with a session that waits for a lock of `locker` in a statement that matches `of`."""
        rows = await locker.fetch(
            """select client_port from pg_stat_activity
            where pg_backend_pid() = any(pg_blocking_pids(pid)) and query ~* $1 and client_port is not null""",
            of,
        )
        ports = {row["client_port"] for row in rows}
        for replica in self.replicas:
            with contextlib.suppress(psutil.Error):
                held = (
                    psutil.Process(replica.daemon.pid).net_connections(kind="tcp")
                    if replica.is_wanted
                    else []
                )
                if any(each.laddr and each.laddr.port in ports for each in held):
                    return replica
        return None

    async def guard(self) -> None:
        """Notices daemons that end by themselves, and starts them again."""
        while True:
            for replica in self.replicas:
                if replica.is_wanted and not replica.lock.locked() and replica.daemon.exit_code is not None:
                    tail = replica.daemon.log[-1200:]
                    self.ended.append(
                        f"{stamp()} {replica.daemon.name} ended with {replica.daemon.exit_code}: {tail}"
                    )
                    await self.start(replica)
            await asyncio.sleep(0.25)

    def crashes(self) -> Counter[str]:
        """Faults of the product's own that its logs tell of, by event and error."""
        found: Counter[str] = Counter()
        for replica in self.replicas:
            for line in replica.daemon.log.splitlines() if replica.daemon.log_path.exists() else ():
                if "Traceback" in line or '"level":"critical"' in line or "run_crashed" in line:
                    found[_crash(line)] += 1
        return found


@asynccontextmanager
async def staged(shape: Shape, directory: Path) -> AsyncIterator[Stage]:
    """Everything started and ready, every connection active; ended the hard way."""
    directory.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        broker = Broker(directory / "broker", persistent=True, extra="autosave_interval 1800")
        disk = Disk()
        stack.callback(disk.remove)
        gateway = Cluster(disk.path, **{**CLUSTER, "max_wal_size": "128MB", "wal_keep_size": "0"})
        sink = Cluster(None, **CLUSTER)
        stage = Stage(
            shape=shape, directory=directory, broker=broker, disk=disk, gateway=gateway, sink=sink, dsn=""
        )
        stack.push_async_callback(_down, stage)
        await asyncio.gather(broker.start(), gateway.start(), sink.start())
        stage.dsn = await gateway.create("fieldgate")
        for number, link in enumerate(shape.links):
            if link.system == "postgres":
                stage.sink_databases[link.name] = await sink.create(link.name)
                stage.cutters[link.name] = await stack.enter_async_context(Cutter(sink.port))
            else:
                receiver = Receiver(link.system, seed=shape.seed * 31 + number)
                stage.receivers[link.name] = await stack.enter_async_context(receiver)
        declared = [_declared(stage, link) for link in shape.links]
        for number in range(shape.replicas):
            stage.replicas.append(Replica(_daemon(stage, f"replica-{number}", declared)))
        first = directory / f"{stage.replicas[0].daemon.name}.connections.yaml"
        stage.documents = json.loads(first.read_text())["connections"]
        for replica in stage.replicas:
            await stage.start(replica)
        for replica in stage.replicas:
            await replica.daemon.ready(90)
        await wait_until(lambda: _all_active(stage), seconds=60, what="every connection is active", every=0.3)
        yield stage


async def _all_active(stage: Stage) -> bool:
    rows = await stage.fetch("select connection_id from connection where state = 'active'")
    return len(rows) == len(stage.shape.links)


async def _down(stage: Stage) -> None:
    for replica in stage.replicas:
        if replica.daemon.is_started:
            replica.signal(signal.SIGCONT)
            await replica.kill()
    await stage.broker.stop()
    for server, name in ((stage.gateway, "gateway"), (stage.sink, "sink")):
        await server.stop()
        if server.log_path.exists():
            (stage.directory / f"{name}.postgres.log").write_text(server.log_path.read_text(errors="replace"))
        server.remove()


def _daemon(stage: Stage, name: str, connections: Sequence[Tree]) -> Daemon:
    return Daemon(
        stage.directory,
        broker_url=stage.broker.url,
        dsn=stage.dsn,
        customers=(*stage.shape.customers, WORKPLACE),
        connections=connections,
        name=name,
        sync=stage.shape.sync,
        broker={"url": stage.broker.url, "partitions": stage.shape.partitions},
        http={"authentication": False},
        egress={"allow": ["127.0.0.0/8"]},
    )


def _declared(stage: Stage, link: Link) -> dict[str, object]:
    made: dict[str, object] = {
        "id": link.name,
        "customer": link.customer,
        "sync": {"interval": "1s", "initial_days": 30},
        "meters": link.meters,
    }
    if link.system == "postgres":
        dsn = f"postgresql://postgres:postgres@127.0.0.1:{stage.cutters[link.name].port}/{link.name}"
        return {
            **made,
            "system": "postgres",
            "settings": {"journal": True, "max_items": 400},
            "credentials": {"type": "dsn", "dsn": dsn},
        }
    return {**made, "system": "http_json", "settings": stage.receivers[link.name].settings}


def window_of(row: asyncpg.Record) -> Window:
    """Meter and start of a row of the table sink."""
    at: datetime = row["window_start"]
    return str(row["meter"]), int(at.replace(microsecond=0).timestamp()) * 1_000_000 + at.microsecond


def value_of(row: asyncpg.Record) -> Value:
    """What a row of the table sink says."""
    if row["text_value"] is not None:
        return str(row["text_value"])
    return float(row["value"])


def stamp() -> str:
    """The time, to find things in logs."""
    return datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]


async def _fetch(dsn: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return list(await connection.fetch(query, *arguments, timeout=60))
    finally:
        with contextlib.suppress(*AWAY):
            await connection.close(timeout=5)


def _request(port: int, method: str, path: str, body: Tree | None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.read()[:300]
    except (OSError, ValueError, urllib.error.URLError):
        return 0, None


def _crash(line: str) -> str:
    try:
        said = json.loads(line)
    except ValueError:
        return line[:120]
    trace = str(said.get("exception", "")).strip().splitlines()
    return f"{said.get('event')} {trace[-1][:160] if trace else ''}".strip()
