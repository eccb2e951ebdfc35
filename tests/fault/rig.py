"""A broker with persistence, a database server and daemons as processes, all of one test, all killable."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.daemon import Daemon, Tree, postgres_connection
from benchmarks.mqtt import Publisher
from benchmarks.servers import PATIENCE, Mosquitto, Postgres, wait_until
from tests.fixtures import sink
from tests.fixtures.memory import in_memory

CUSTOMER = "acme"
EACH: Sequence[Tree] = ({"device": "*", "metric": "value", "meter": "{device}/value", "reduce": "each"},)
Tag = tuple[str, int, float]
"""device, device time in milliseconds, value."""


LIVE = """
select exists (select from connection) and not exists (
    select from connection c
    where not exists (select from stream s where (s.connection_id, s.phase) = (c.connection_id, 'incremental'))
        or exists (select from stream s where (s.connection_id, s.phase) = (c.connection_id, 'initial') and s.state <> 'done')
)
"""
"""Whether every connection is up and has no history to deliver: that has runs of its own, beside the live ones."""


@dataclass(kw_only=True)
class Rig:
    """What a fault test needs; every daemon made here is ended with it."""

    directory: Path
    broker: Mosquitto
    postgres: Postgres
    dsn: str
    sink_dsn: str
    daemons: list[Daemon] = field(default_factory=list)

    def daemon(
        self,
        name: str = "daemon",
        *,
        broker_url: str | None = None,
        connections: Sequence[Tree] | None = None,
        **sections: Tree,
    ) -> Daemon:
        """A replica with a short lease; by default with one connection `sink`, `each`, journalled."""
        if connections is None:
            connections = [self.connection("sink")]
        sync = {"lease": "2s", "lateness": "1s", "push_timeout": "5s", **sections.pop("sync", {})}
        daemon = Daemon(
            self.directory,
            broker_url=broker_url or self.broker.url,
            dsn=self.dsn,
            customers=[CUSTOMER],
            connections=connections,
            name=name,
            sync=sync,
            **sections,
        )
        self.daemons.append(daemon)
        return daemon

    def connection(
        self, name: str, *, dsn: str | None = None, meters: Sequence[Tree] = EACH, initial_days: int = 30
    ) -> dict[str, object]:
        """A connection to the table sink, which also writes down each insert and each change."""
        declared = postgres_connection(
            name, CUSTOMER, dsn or self.sink_dsn, meters, initial_days=initial_days
        )
        return {**declared, "settings": {"journal": True}}

    async def fetch(self, query: str, *arguments: object, dsn: str | None = None) -> list[asyncpg.Record]:
        """From the gateway's database, on a session of its own: servers are killed here."""
        connection = await asyncpg.connect(dsn or self.dsn, timeout=10 * PATIENCE)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def count(self, table: str, *, dsn: str | None = None) -> int:
        """Rows of a table; -1 while it cannot be asked."""
        try:
            return int((await self.fetch(f"select count(*) from {table}", dsn=dsn))[0][0])
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return -1

    async def reaches(self, table: str, rows: int, *, dsn: str | None = None, seconds: float = 60.0) -> None:
        """Waits until the table has at least so many rows."""

        async def has() -> bool:
            return await self.count(table, dsn=dsn) >= rows

        await wait_until(has, seconds=seconds, what=f"{table} has {rows} rows", every=0.25)

    async def live(self) -> None:
        """Waits until each connection has only live readings to deliver: from then on those of a device go one
        way, and arrive in order.
        """

        async def is_live() -> bool:
            return bool((await self.fetch(LIVE))[0][0])

        await wait_until(is_live, seconds=60.0, what="the connections are live", every=0.25)

    async def stored(self) -> dict[tuple[str, int], float]:
        """Telemetry as {(device, milliseconds): value}."""
        rows = await self.fetch(
            "select device_id, round(extract(epoch from ts) * 1000)::bigint as at, (metrics ->>"
            " 'value')::float8 as value from telemetry order by ts"
        )
        held = {(row["device_id"], row["at"]): row["value"] for row in rows}
        assert len(held) == len(rows), "telemetry holds a sample twice"
        return held

    async def delivered(self, connection: str = "sink") -> dict[tuple[str, int], float]:
        """The sink as {(device, milliseconds): value}; fails when a reading was written twice or changed."""
        return await sink.delivered(self.sink_dsn, connection)

    async def down(self) -> None:
        """Ends whatever runs, the hard way: a test that wants it clean has done so."""
        for daemon in self.daemons:
            await daemon.kill()
        await self.broker.stop()
        await self.postgres.stop()
        self.postgres.remove()


@asynccontextmanager
async def started(directory: Path, *, persistent: bool = True, anonymous: bool = True) -> AsyncIterator[Rig]:
    """A rig with its servers up."""
    broker = Mosquitto(directory / "broker", persistent=persistent, anonymous=anonymous)
    postgres = Postgres(in_memory())
    rig = Rig(directory=directory, broker=broker, postgres=postgres, dsn="", sink_dsn="")
    try:
        await broker.start()
        await postgres.start()
        rig.dsn, rig.sink_dsn = await postgres.create("fieldgate"), await postgres.create("sink")
        yield rig
    finally:
        await rig.down()


class Fleet:
    """Devices that publish `value` at QoS 1 and write down what the broker acknowledged."""

    def __init__(self, port: int, *, devices: Sequence[str] | int = 20, client_id: str = "fleet") -> None:
        self.acknowledged: dict[tuple[str, int], float] = {}
        self.sent = 0
        self._devices = (
            [f"d{number}" for number in range(devices)] if isinstance(devices, int) else list(devices)
        )
        self._publisher: Publisher[Tag] = Publisher(port, client_id, window=500, acknowledged=self._note)
        self._at = dict.fromkeys(self._devices, 0)

    async def __aenter__(self) -> Fleet:
        await self._publisher.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._publisher.__aexit__(*error)

    async def publish(self, count: int, *, rate: float) -> None:
        """`count` samples at about `rate` a second; of a device one a millisecond of its time at most, no two
        the same.
        """
        started = time.perf_counter()
        for number in range(count):
            ahead = number / rate - (time.perf_counter() - started)
            if ahead > 0.002:
                await asyncio.sleep(ahead)
            device, value = self._devices[self.sent % len(self._devices)], float(self.sent)
            at = self._at[device] = max(self._at[device] + 1, time.time_ns() // 1_000_000 - 1000)
            await self._publisher.publish(
                f"{CUSTOMER}/devices/{device}/telemetry", self.body(at, value), (device, at, value)
            )
            self.sent += 1

    async def publish_until(self, stopping: asyncio.Event, *, rate: float) -> None:
        """Publishes until the event is set, then waits for the acknowledgements."""
        while not stopping.is_set():
            await self.publish(max(1, int(rate / 10)), rate=rate)
        await self.flush()

    async def flush(self) -> None:
        """Waits until the broker has acknowledged everything."""
        await self._publisher.flush()

    def body(self, at: int, value: float) -> bytes:
        """The payload of one sample."""
        return json.dumps({"ts": at, "metrics": {"value": value}}).encode()

    def _note(self, tag: Tag) -> None:
        device, at, value = tag
        self.acknowledged[device, at] = value


def size(name: str, default: int) -> int:
    """A size of a long test, from the environment."""
    return int(os.environ.get(f"FAULT_{name}", default))
