"""A process or a database that stands still, or takes nothing in: nobody else waits for it longer than the
bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from benchmarks.mqtt import Publisher
from benchmarks.servers import wait_until
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fault.rig import Rig, started

LEASE_SECONDS = 3.0

FROZEN = """
import asyncio, sys
from gateway.store.pool import Database

async def main():
    database = await Database.open(sys.argv[1], size=1, lease_seconds=float(sys.argv[2]))
    async with database.transaction() as connection:
        await connection.execute(sys.argv[3])
        print("holding", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with started(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param("insert into customer values ('frozen')", id="the horizon behind which nobody reads"),
        pytest.param("select pg_advisory_xact_lock(439788366948)", id="the lock of migrations"),
        pytest.param("select from credit_pool for update", id="a row that many wait for"),
        pytest.param("lock table telemetry in access exclusive mode", id="a table"),
    ],
)
async def test_what_a_frozen_replica_holds_is_let_go_within_a_third_of_the_lease(dsn: str, hold: str) -> None:
    frozen = subprocess.Popen(
        [sys.executable, "-c", FROZEN, dsn, str(LEASE_SECONDS), hold], stdout=subprocess.PIPE
    )
    assert frozen.stdout is not None
    connection = await asyncpg.connect(dsn)
    try:
        assert await asyncio.to_thread(frozen.stdout.readline) == b"holding\n"
        os.kill(frozen.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        others = (
            "select count(*) from pg_stat_activity where datname = current_database() and pid <>"
            " pg_backend_pid() and xact_start is not null"
        )

        async def is_let_go() -> bool:
            return await connection.fetchval(others) == 0

        await wait_until(is_let_go, seconds=20, what="the transaction is ended")
        assert time.monotonic() - stopped_at < LEASE_SECONDS
    finally:
        await connection.close()
        frozen.kill()
        frozen.wait()


async def test_the_other_replica_goes_on_beside_a_frozen_one(rig: Rig) -> None:
    """The frozen one holds the horizon of a transaction that wrote, so no stream sees a sample behind it."""
    daemon = rig.daemon(sync={"lease": f"{LEASE_SECONDS:g}s"})
    daemon.start()
    await daemon.ready()
    holding = subprocess.Popen(
        [sys.executable, "-c", FROZEN, rig.dsn, str(LEASE_SECONDS), "insert into customer values ('frozen')"],
        stdout=subprocess.PIPE,
    )
    assert holding.stdout is not None
    try:
        assert await asyncio.to_thread(holding.stdout.readline) == b"holding\n"
        os.kill(holding.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        async with Publisher[None](rig.broker.port, "device") as publisher:
            for number in range(10):
                at = time.time_ns() // 1_000_000 - 60_000 + number
                payload = json.dumps({"ts": at, "metrics": {"value": number}}).encode()
                await publisher.publish("acme/devices/pump/telemetry", payload, None)
            await publisher.flush()
        await rig.reaches("fieldgate_reading", 10, dsn=rig.sink_dsn)
        assert time.monotonic() - stopped_at < 5 * LEASE_SECONDS, "sync waited for the frozen replica"
    finally:
        holding.kill()
        holding.wait()


async def _publish(rig: Rig, value: int) -> None:
    async with Publisher[None](rig.broker.port, "device") as publisher:
        payload = json.dumps({"ts": time.time_ns() // 1_000_000, "metrics": {"value": value}}).encode()
        await publisher.publish("acme/devices/pump/telemetry", payload, None)
        await publisher.flush()


@pytest.mark.parametrize("pinned", [False, True], ids=["the server", "sessions that were made meanwhile"])
async def test_a_database_that_turns_read_only_and_back(rig: Rig, pinned: bool) -> None:
    """A demoted primary; and a setting of the database, which a session keeps for its life."""
    daemon = rig.daemon(connections=[])
    daemon.start()
    await daemon.ready()
    name = rig.dsn.partition("?")[0].rpartition("/")[2]
    scope = f"database {name}" if pinned else "system"

    async def make(read_only: bool) -> None:
        connection = await asyncpg.connect(rig.postgres.dsn("postgres"))
        await connection.execute(
            f"alter {scope} set default_transaction_read_only = {'on' if read_only else 'off'}"
        )
        await connection.execute("select pg_reload_conf()")
        if pinned and read_only:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name
            )
        await connection.close()

    await make(read_only=True)
    await wait_until(lambda: _is(daemon, 503), seconds=10, what="it is not ready")
    await _publish(rig, 1)
    await wait_until(lambda: "ingest.commit_deferred" in daemon.log, seconds=20, what="the commit waits")
    assert await rig.count("telemetry") == 0
    await make(read_only=False)
    writable_at = time.monotonic()
    await rig.reaches("telemetry", 1, seconds=20)
    assert time.monotonic() - writable_at < 5.0
    await wait_until(lambda: _is(daemon, 200), seconds=10, what="it is ready again")
    assert daemon.exit_code is None


async def _is(daemon: object, status: int) -> bool:
    return bool(await daemon.status("/readyz") == status)  # type: ignore[attr-defined]


async def test_a_session_that_is_read_only_is_not_used_twice(dsn: str) -> None:
    database = await Database.open(dsn, size=2)
    store = TelemetryStore(database, register_customers=True)
    try:
        async with database.connection() as connection:
            await connection.execute("set default_transaction_read_only = on")
        assert not await database.is_ready()
        assert await database.is_ready(), "the session that could not write was kept"
        async with database.connection() as connection:
            await connection.execute("set default_transaction_read_only = on")
        sample = (("acme", "pump", time.time_ns() // 1000), {"value": 1.0}, time.time_ns() // 1000)
        with pytest.raises(Exception, match="ReadOnlySQLTransactionError"):
            await store.write([sample], [])
        assert (await store.write([sample], [])).stored == 1
    finally:
        await database.close()
