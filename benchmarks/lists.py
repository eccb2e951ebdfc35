"""Measures what a page of the long lists takes and costs: records, devices and dead messages over HTTP, and the
command `records` over MQTT, each at a place of its own. `fieldgate bench lists`

The tables are filled by SQL, and the daemon is asked by one client that does nothing else. How long an answer
takes depends on what else the machine does, so two more figures stand beside it: the time less what the
processes that have to do with it waited for a core, and not less than the CPU that they used, which is about
what a machine that is free would show; and the CPU of each of them. With `--beside` the daemon of another
checkout answers too, in turns, on the same tables: before and after in one run.

Keys of the JSON document: `lists` by the name of the checkout (`ours`, `beside`) and of the list: `seconds`
{p50, p99}, `unhindered_seconds` {p50, p99} (without the waiting for a core), `cpu_milliseconds` {answers,
database} of one page (`answers`: the process that answers HTTP, or for the command the daemon), `bytes` of the
last one; `settings`, `machine`, `versions`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiomqtt
import orjson
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.daemon import Daemon, processes
from benchmarks.report import machine, quantile, versions
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway.http import cursors
from gateway.model.access import Role
from gateway.model.command import PER_SECOND
from gateway.model.record import LogPlace, write_cursor
from gateway.store import access
from gateway.store.migrate import migrate
from gateway.store.pool import Database

CUSTOMER, CONNECTION = "acme", "bench"
WARM = 15
"""Pages of each list that are not measured: sessions are opened, and statements planned."""

AT_ONCE = 50_000
SAMPLE = "Bearing temperature above the limit since the last inspection of the line. "
COMMANDS = f"fieldgate/v1/customers/{CUSTOMER}/commands"

CONNECTED = f"""
insert into customer (customer_id) values ('{CUSTOMER}');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest, sync)
values ('{CONNECTION}', '{CUSTOMER}', 'http_json', 'cloud', 1, 'paused', '', '{{"publish_records": "off"}}');
"""
RECORDS = f"""
insert into record (customer_id, connection_id, stream, key, revision, body, hash, modified_at, source_modified_at,
    progress, changed_at)
select '{CUSTOMER}', '{CONNECTION}', 'work_orders', lpad(n::text, 8, '0'), n,
    jsonb_build_object('id', n, 'title', 'Pump ' || n % 97 || ' is hot', 'description', '{SAMPLE}{SAMPLE}',
        'status', 'OPEN', 'asset', jsonb_build_object('id', n % 1000, 'name', 'pump-' || n % 1000),
        'labels', jsonb_build_array('urgent', 'mechanical')),
    decode(md5(n::text), 'hex'), at, at, 'open', array[at]
from (select n, timestamptz '2026-01-01' + n * interval '1 ms' as at from generate_series($1::int, $2::int) n) own
"""
COUNTED = f"""
insert into record_log (customer_id, position, at) values ('{CUSTOMER}', $1, now());
"""
HELD = f"""
insert into inbound_count (customer_id, connection_id, stream, held, alive)
values ('{CUSTOMER}', '{CONNECTION}', 'work_orders', $1, $1)
"""
DEVICES = f"""
insert into device (customer_id, device_id, title, source)
select '{CUSTOMER}', 'pump-' || lpad(n::text, 8, '0'), 'Pump ' || n, '{{customer}}/devices/{{device}}/telemetry'
from generate_series($1::int, $2::int) n
"""
STATES = f"""
insert into device_state (customer_id, device_id, metrics, last_seen_at, last_sample_at)
select '{CUSTOMER}', 'pump-' || lpad(n::text, 8, '0'), '{{"temperature": [1, 20.5], "pressure": [1, 3]}}', now(), now()
from generate_series($1::int, $2::int) n
"""
MESSAGES = f"""
insert into dead_letter (kind, digest, customer_id, topic, source, reason, detail, payload)
select 'message', decode(md5('message' || n), 'hex'), '{CUSTOMER}', '{CUSTOMER}/devices/pump-' || n % 1000 || '/telemetry',
    '{{customer}}/devices/{{device}}/telemetry', 'invalid_json', 'unexpected character: line 1 column 1 (char 0)',
    convert_to('{{"ts": ' || n || ', "metrics": {{"temperature": 20.5, "note": "{SAMPLE}"', 'utf8')
from generate_series($1::int, $2::int) n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long the lists are, how many pages of each are asked for in a round, and in how many rounds.
    `beside`: another checkout.
    """

    records: int = 1_000_000
    devices: int = 100_000
    messages: int = 100_000
    pages: int = 100
    rounds: int = 3
    beside: Path | None = None


@dataclass(slots=True)
class Found:
    """What was measured of one list."""

    seconds: list[float] = field(default_factory=list)
    unhindered: list[float] = field(default_factory=list)
    answers_cpu: float = 0.0
    database_cpu: float = 0.0
    bytes: int = 0

    def document(self) -> dict[str, object]:
        """Its part of the report."""
        return {
            "seconds": _quantiles(self.seconds),
            "unhindered_seconds": _quantiles(self.unhindered),
            "cpu_milliseconds": {
                "answers": round(self.answers_cpu / len(self.seconds) * 1000, 2),
                "database": round(self.database_cpu / len(self.seconds) * 1000, 2),
            },
            "bytes": self.bytes,
        }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(quantile(values, 0.5), 6), "p99": round(quantile(values, 0.99), 6)}


class Asking(Protocol):
    """Asks for one page; its bytes. `pause`: between two, where the gateway allows so many a second."""

    pause: float

    async def __call__(self, question: str) -> bytes: ...


class Http:
    """One keep-alive connection: what a client library costs is not the gateway's."""

    pause = 0.0

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, question: str) -> bytes:
        """GET. Raises ValueError for anything but a 200."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._streams
        writer.write(
            f"GET {question} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer"
            f" {self._token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"{question}: {lines[0].decode()} {body[:300].decode(errors='replace')}")
        return body

    def close(self) -> None:
        """Ends the connection."""
        if self._streams is not None:
            self._streams[1].close()


class Command:
    """A customer that asks over MQTT."""

    pause = 1.1 / PER_SECOND

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client

    async def __call__(self, question: str) -> bytes:
        """The answer. Raises ValueError for one that is an error, TimeoutError for none."""
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = f"fieldgate/v1/customers/{CUSTOMER}/responses/bench"
        properties.CorrelationData = b"bench"
        await self._client.publish(f"{COMMANDS}/records", question, qos=1, properties=properties)
        async with asyncio.timeout(10):
            async for message in self._client.messages:
                assert isinstance(message.payload, bytes)
                if b'"items"' not in message.payload[:200]:
                    raise ValueError(message.payload[:300].decode(errors="replace"))
                return message.payload
        raise ValueError("the broker went")


class Cores:
    """What some processes used of the cores, and how long they waited for one, by the scheduler's count."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._paths = [task / "schedstat" for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]

    def used_and_waited(self) -> tuple[float, float]:
        """Seconds so far."""
        used = waited = 0
        for path in self._paths:
            try:
                first, second, _ = path.read_text().split()
            except OSError:
                continue  # a thread that ended
            used, waited = used + int(first), waited + int(second)
        return used / 1e9, waited / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A checkout, and what was found of it."""

    name: str
    root: Path | None
    found: dict[str, Found] = field(default_factory=dict)


async def run(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """Everything, on servers of its own; the JSON document."""
    directory = Path(tempfile.mkdtemp(prefix="fg-bench-"))
    postgres, broker = Postgres(), Mosquitto(directory / "broker", persistent=False)
    sides = [Side(name="ours", root=None)]
    if plan.beside is not None:
        sides.insert(0, Side(name="beside", root=plan.beside.resolve()))
    try:
        await postgres.start()
        await broker.start()
        dsn = await postgres.create("fieldgate")
        progress("filling the tables")
        token, epoch = await _filled(dsn, plan)
        asked = Questions(plan, epoch)
        for number in range(plan.rounds):
            for side in sides:
                progress(f"round {number + 1} of {plan.rounds}: {side.name}")
                await _round(side, asked, directory, broker, postgres, dsn, token)
    finally:
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
    return {
        "lists": {side.name: {name: one.document() for name, one in side.found.items()} for side in sides},
        "settings": {
            "records": plan.records, "devices": plan.devices, "messages": plan.messages,
            "pages": plan.pages, "rounds": plan.rounds,
        },
        "machine": {**machine(), "load_average": os.getloadavg()},
        "versions": versions(),
    }  # fmt: skip


async def _filled(dsn: str, plan: Plan) -> tuple[str, int]:
    """Returns a token and the epoch of the log."""
    database = await Database.open(dsn, size=1, application_name="bench")
    try:
        await migrate(database)
        token = (await access.create(database, name="bench", role=Role.VIEWER)).token
        async with database.connection() as connection:
            await connection.execute(CONNECTED)
            filled = ((RECORDS, plan.records), (DEVICES, plan.devices), (STATES, plan.devices))
            for statement, count in (*filled, (MESSAGES, plan.messages)):
                for first in range(1, count + 1, AT_ONCE):
                    await connection.execute(statement, first, min(count, first + AT_ONCE - 1), timeout=600)
            await connection.execute(COUNTED, plan.records)
            await connection.execute(HELD, plan.records)
            for table in ("record", "device", "device_state", "dead_letter"):
                await connection.execute(f"vacuum analyze {table}", timeout=600)
            epoch: int = await connection.fetchval("select epoch from record_log")
    finally:
        await database.close()
    return token, epoch


class Questions:
    """A page of each list, at a place of its own each time."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self._plan, self._epoch = plan, epoch
        self._dice = random.Random(1)

    @property
    def pages(self) -> int:
        """Of each list in a round."""
        return self._plan.pages

    def over_http(self) -> dict[str, Callable[[], str]]:
        """By the name of the list."""
        records = f"/v1/records?customer={CUSTOMER}"
        devices, messages = f"/v1/devices?customer={CUSTOMER}", f"/v1/messages?customer={CUSTOMER}"
        return {
            "records, 1,000": lambda: f"{records}&limit=1000&cursor={self._record(1_000)}",
            "records, 100": lambda: f"{records}&cursor={self._record(100)}",
            "records of a stream, 1,000": lambda: (
                f"{records}&connection={CONNECTION}&stream=work_orders&limit=1000&cursor={self._record(1_000)}"
            ),
            "devices, 500": lambda: f"{devices}&limit=500&cursor={self._device(500)}",
            "devices, 100": lambda: f"{devices}&cursor={self._device(100)}",
            "messages, 500": lambda: f"{messages}&limit=500&cursor={self._message(500)}",
            "messages, 100": lambda: f"{messages}&cursor={self._message(100)}",
        }

    def over_mqtt(self) -> dict[str, Callable[[], str]]:
        """The command."""
        return {
            "command records, 1,000": lambda: f'{{"limit": 1000, "cursor": "{self._record(1_000)}"}}',
            "command records, 100": lambda: f'{{"cursor": "{self._record(100)}"}}',
        }

    def _record(self, page: int) -> str:
        position = self._dice.randrange(max(1, self._plan.records - page))
        return write_cursor(LogPlace(customer=CUSTOMER, epoch=self._epoch, position=position))

    def _device(self, page: int) -> str:
        return cursors.write(CUSTOMER, f"pump-{self._dice.randrange(max(1, self._plan.devices - page)):08}")

    def _message(self, page: int) -> str:
        return cursors.write(self._dice.randrange(page, max(page + 1, self._plan.messages)))


async def _round(
    side: Side, asked: Questions, directory: Path, broker: Mosquitto, postgres: Postgres, dsn: str, token: str
) -> None:
    """A daemon of the checkout is started, asked for every list, and stopped."""
    daemon = Daemon(
        directory,
        broker_url=broker.url,
        dsn=dsn,
        customers=[CUSTOMER],
        name=side.name,
        root=side.root,
        logging={"level": "warning"},
    )
    daemon.start()
    http = Http(daemon.port, token)
    try:
        await daemon.ready(60)
        answering = processes(daemon.pid)[1:]
        for name, question in asked.over_http().items():
            await _measured(side, name, question, http, asked.pages, answering, postgres)
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(f"fieldgate/v1/customers/{CUSTOMER}/responses/bench", qos=1)
            command = Command(client)
            await wait_until(lambda: _answers(command), what="commands are answered")
            for name, question in asked.over_mqtt().items():
                await _measured(side, name, question, command, asked.pages, [daemon.pid], postgres)
    finally:
        http.close()
        await daemon.stop()


async def _answers(command: Command) -> bool:
    try:
        async with asyncio.timeout(1):
            await command('{"limit": 1}')
    except TimeoutError:
        return False
    return True


async def _measured(
    side: Side,
    name: str,
    question: Callable[[], str],
    ask: Asking,
    pages: int,
    answering: Sequence[int],
    postgres: Postgres,
) -> None:
    found = side.found.setdefault(name, Found())
    for _ in range(WARM):
        await asyncio.sleep(ask.pause)
        await ask(question())
    answers, database = Cores(answering), Cores(processes(postgres.pid)[1:])
    us = Cores([os.getpid()])
    for _ in range(pages):
        wanted = question()
        await asyncio.sleep(ask.pause)
        before = [each.used_and_waited() for each in (answers, database, us)]
        began = time.perf_counter()
        body = await ask(wanted)
        took = time.perf_counter() - began
        after = [each.used_and_waited() for each in (answers, database, us)]
        found.seconds.append(took)
        worked, waited = (
            sum(now[which] - then[which] for now, then in zip(after, before, strict=True)) for which in (0, 1)
        )
        found.unhindered.append(min(took, max(took - waited, worked)))
        found.answers_cpu += after[0][0] - before[0][0]
        found.database_cpu += after[1][0] - before[1][0]
        found.bytes = len(body)
        assert orjson.loads(body)["items"], wanted


def rows(document: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The document as lines of a table."""
    lists: Mapping[str, Mapping[str, Any]] = document["lists"]
    return [
        {
            "list": name,
            "of": side,
            "p50 / p99": _milliseconds(one["seconds"]),
            "on a free core": _milliseconds(one["unhindered_seconds"]),
            "CPU of who answers": f"{one['cpu_milliseconds']['answers']:.2f} ms",
            "of PostgreSQL": f"{one['cpu_milliseconds']['database']:.2f} ms",
            "KiB": f"{one['bytes'] / 1024:,.0f}",
        }
        for name in lists["ours"]
        for side, found in lists.items()
        for one in (found[name],)
    ]


def _milliseconds(found: Mapping[str, float]) -> str:
    return f"{found['p50'] * 1000:.1f} / {found['p99'] * 1000:.1f} ms"
