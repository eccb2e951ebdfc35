"""Measures records: how fast pages of a fast system are applied, what one costs this process, how memory
grows, and what an idle stream asks of the database. `python -m benchmarks.records [--small]`

A system in this process gives pages of 1,000 records of some 300 bytes; the walk, the guard and the store are
the daemon's. What a page of the log takes is measured by `benchmarks.lists`.

Keys of the JSON document: `sizes`: a list of `records`, `records_per_second`,
`own_cpu_milliseconds_per_record`, `peak_memory_bytes`, `idle_blocks` and `idle_requests` (of one run that
finds nothing), `again_records_per_second` (the same pages once more, which change nothing); `machine`,
`versions`.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.report import machine, show, versions, write
from benchmarks.servers import Postgres
from gateway.connections.guard import guarded
from gateway.inbound.run import InboundRunner
from gateway.model.connector import Capabilities, ProbeResult
from gateway.model.errors import ConnectorError
from gateway.model.inbound import InboundPage, InboundRecord, InboundStream
from gateway.model.operation import Operation
from gateway.settings import RecordsSettings, SyncSettings
from gateway.store import inbound
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

PAGE = 1_000
CAPABILITIES = Capabilities(push="single")
START = datetime(2026, 1, 1, tzinfo=UTC)
STREAM = InboundStream(name="work_orders", title="Work orders", cursor="modified", page=PAGE, default=True)


@dataclass
class System:
    """Holds `count` records that changed one after the other; its clock stands an hour later."""

    count: int
    requests: int = 0
    capabilities: Capabilities = CAPABILITIES
    inbound = (STREAM,)

    async def remote_now(self, stream: str) -> datetime:
        """Later with each look, so that there is always an interval."""
        self.requests += 1
        return START + timedelta(days=1, seconds=self.requests)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Its page; of what is after the first day there is nothing."""
        self.requests += 1
        if since is not None and since > START + timedelta(hours=12):
            return InboundPage(records=())
        first = int(cursor or 0)
        last = min(self.count, first + PAGE)
        records = [self._record(number) for number in range(first, last)]
        return InboundPage(records=records, cursor=None if last == self.count else str(last))

    def _record(self, number: int) -> InboundRecord:
        return InboundRecord(
            key=f"{number:08}",
            modified_at=START + timedelta(milliseconds=number),
            progress="open",
            body={
                "id": number,
                "title": f"Pump {number % 97} is hot",
                "description": (
                    "Bearing temperature above the limit since the last inspection of the line. " * 2
                ),
                "status": "OPEN",
                "asset": {"id": number % 1000, "name": f"pump-{number % 1000}"},
                "labels": ["urgent", "mechanical"],
            },
        )

    async def probe(self) -> ProbeResult:
        """Well."""
        return ProbeResult()

    async def push(self, batch: object) -> list[object]:
        """Nothing is pushed here."""
        return []

    async def find(self, readings: object) -> dict[str, object]:
        """Nor looked for."""
        return {}

    async def close(self) -> None:
        """Nothing to release."""


class Well:
    """Health of a connection that is always well."""

    async def admit(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> float | None:
        """At once."""
        return None

    async def succeeded(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """Noted by nobody."""

    async def unused(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """Noted by nobody."""

    async def failed(
        self,
        link: ServedConnection,
        error: ConnectorError,
        *,
        attempts: int,
        operation: Operation = Operation.PUSH,
    ) -> float:
        """A benchmark does not go on."""
        raise error

    async def probe(self, link: ServedConnection) -> ConnectorError | None:
        """Well."""
        return None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One connection that is read run by run."""

    database: Database
    system: System
    name: str

    async def begin(self) -> None:
        """The connection, where news begin on the first day."""
        async with self.database.transaction() as connection:
            await connection.execute(
                "insert into customer (customer_id) values ('acme') on conflict do nothing"
            )
            await connection.execute(
                "insert into connection (connection_id, customer_id, system, hosting, tier, state,"
                " declared_digest) values ($1, 'acme', 'bench', 'cloud', 1, 'active', '')",
                self.name,
            )
            phases = [("work_orders", "incremental")]
            await inbound.begin(connection, "acme", self.name, phases, initial_days=0)  # type: ignore[arg-type]
            await self._back(connection)

    async def _back(self, connection: object) -> None:
        await connection.execute(  # type: ignore[attr-defined]
            "update inbound_stream set origin = $2, high = $2 where connection_id = $1", self.name, START
        )

    async def again(self) -> None:
        """The next run reads everything once more."""
        async with self.database.connection() as connection:
            await self._back(connection)

    async def run(self) -> None:
        """Runs until the interval is read."""
        troubles = Troubles(self.database)
        runner = InboundRunner(
            self.database,
            SyncSettings(),
            RecordsSettings(per_connection=10_000_000),
            Well(),
            troubles,
            public_url="",
        )
        connector = guarded(
            self.system,  # type: ignore[arg-type]
            self.name,
            secrets=(),
            max_wait_seconds=60.0,
            left_behind=set(),
        )
        link = ServedConnection(
            connection=self.name, customer="acme", system="bench", connector=connector, rules=(),
            interval=timedelta(minutes=1), lateness=timedelta(0), initial_days=0, inbound=(STREAM,),
        )  # fmt: skip
        while True:
            async with self.database.connection() as connection:
                await connection.execute("update inbound_stream set next_run_at = now()")
            (claim,) = await inbound.claim(self.database, "bench", 60.0, [self.name], 1, in_hand=())
            await runner.run(claim, link)
            (stream,) = await inbound.progress(self.database, [self.name])
            if stream.state == "idle":
                return


async def run(sizes: Sequence[int]) -> dict[str, object]:
    """The JSON document."""
    postgres = Postgres()
    try:
        await postgres.start()
        dsn = await postgres.create("records")
        database = await Database.open(dsn, size=4)
        await migrate(database)
        measured = [await _measured(database, size) for size in sizes]
        await database.close()
    finally:
        await postgres.stop()
        postgres.remove()
    return {"sizes": measured, "machine": machine(), "versions": versions()}


async def _measured(database: Database, size: int) -> dict[str, float]:
    await database_execute(
        database, "truncate record, record_log, inbound_stream, inbound_count, event cascade"
    )
    reading = Reading(database=database, system=System(size), name=f"bench-{size}")
    await reading.begin()
    began, cpu = time.perf_counter(), time.process_time()
    await reading.run()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    await reading.again()
    began = time.perf_counter()
    await reading.run()
    again = time.perf_counter() - began
    await database_execute(database, "analyze record")
    requests, blocks = reading.system.requests, await _blocks(database)
    await reading.run()
    idle = await _blocks(database) - blocks
    return {
        "records": size,
        "records_per_second": round(size / wall),
        "own_cpu_milliseconds_per_record": round(cpu * 1000 / size, 4),
        "again_records_per_second": round(size / again),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "idle_requests": reading.system.requests - requests,
        "idle_blocks": idle,
    }


async def database_execute(database: Database, query: str) -> None:
    """One statement, however long it takes."""
    async with database.connection() as connection:
        await connection.execute(query, timeout=600)


async def _blocks(database: Database) -> int:
    """Blocks that this database's sessions have looked at."""
    async with database.connection() as connection:
        await connection.execute("select pg_stat_force_next_flush()")
        await connection.fetchval("select pg_stat_clear_snapshot()")
        found = await connection.fetchval(
            "select sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read,"
            " 0)) from pg_statio_user_tables where relname like 'record%' or relname like 'inbound%'"
        )
    return int(found or 0)


def rows(document: Mapping[str, object]) -> list[Mapping[str, str]]:
    """For people."""
    sizes = document["sizes"]
    assert isinstance(sizes, list)
    return [
        {
            "records": f"{size['records']:,}",
            "applied/s": f"{size['records_per_second']:,}",
            "own CPU ms": f"{size['own_cpu_milliseconds_per_record']:.4f}",
            "equal/s": f"{size['again_records_per_second']:,}",
            "peak MiB": f"{size['peak_memory_bytes'] / 2**20:.0f}",
            "idle requests": f"{size['idle_requests']}",
            "idle blocks": f"{size['idle_blocks']:,}",
        }
        for size in sizes
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--small", action="store_true", help="up to 100,000 records")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = (1_000, 10_000, 100_000) if arguments.small else (1_000, 10_000, 100_000, 1_000_000)
    document = uvloop.run(run(sizes))
    show("Records of a fast system", rows(document), Console())
    write(arguments.json, document)


if __name__ == "__main__":
    main()
