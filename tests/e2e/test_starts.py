"""Starts that cannot work end with one line and exit code 2; a signal that comes too early ends nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.daemon import Daemon, handles
from benchmarks.servers import Mosquitto, wait_until
from gateway.store.pool import Database

pytestmark = pytest.mark.usefixtures("started_alone")


async def _ends(daemon: Daemon) -> int:
    daemon.start()
    await wait_until(lambda: daemon.exit_code is not None, seconds=30, what="the daemon stops by itself")
    code = daemon.exit_code
    assert code is not None
    return code


@pytest.fixture
async def made(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> AsyncIterator[list[Daemon]]:
    """Daemons that are ended with the test."""
    daemons = [Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn, name=name) for name in ("one", "two")]
    yield daemons
    for daemon in daemons:
        if daemon._process is not None:
            await daemon.kill()


def _said(daemon: Daemon) -> list[str]:
    """What a person reads: neither the log of JSON lines."""
    return [line for line in daemon.log.splitlines() if not line.startswith("{")]


async def test_a_fault_within_the_task_group_is_one_line(
    tmp_path: Path, postgres_server: object, dsn: str
) -> None:
    daemon = Daemon(
        tmp_path,
        broker_url="mqtt://127.0.0.1:1",
        dsn=f"{dsn.partition('?')[0].rpartition('/')[0]}/nowhere?{dsn.partition('?')[2]}",
    )
    assert await _ends(daemon) == 2
    assert len(_said(daemon)) == 1 and _said(daemon)[0].startswith("fieldgate: database.dsn")


async def test_a_port_that_is_taken_is_told_before_anything_is_taken_over(
    made: list[Daemon], database: Database
) -> None:
    """A second daemon by mistake: the first one keeps its session at the broker and its place in the
    database.
    """
    first, second = made
    first.start()
    await first.ready()
    connected = first.log.count("ingest.connected")
    second._path.write_text(second._path.read_text().replace(f":{second.port}", f":{first.port}"))
    assert await _ends(second) == 2
    assert len(_said(second)) == 1 and "http.listen" in _said(second)[0]
    assert "gateway.database_opened" not in second.log and "ingest." not in second.log
    assert first.log.count("ingest.connected") == connected and "ingest.disconnected" not in first.log
    assert await first.status("/readyz") == 200
    async with database.connection() as connection:
        assert await connection.fetchval("select count(distinct split_part(owner, '/', 1)) from lease") == 1


@pytest.mark.parametrize("delay", [0.06, 0.2, 0.5, 0.9])
async def test_a_hangup_during_the_start_is_remembered_and_done_when_up(
    made: list[Daemon], delay: float
) -> None:
    daemon = made[0]
    daemon.start()
    # any moment will do, so the time is not waited for as a condition: from the first import of ours on
    await wait_until(
        lambda: handles(daemon.pid, signal.SIGHUP), seconds=10, what="SIGHUP is handled", every=0.002
    )
    await asyncio.sleep(delay - 0.06)
    os.kill(daemon.pid, signal.SIGHUP)
    await daemon.ready()
    await wait_until(lambda: "gateway.reloaded" in daemon.log, seconds=10, what="the reload is done")
    events = [json.loads(line)["event"] for line in daemon.log.splitlines() if line.startswith("{")]
    assert events.index("gateway.started") < events.index("gateway.reloaded")
    assert await daemon.stop() == 0


async def test_a_hangup_while_it_waits_for_its_database_and_while_it_stops(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn="postgresql://nobody@127.0.0.1:1/nowhere")
    daemon.start()
    await wait_until(lambda: "gateway.database_awaited" in daemon.log, seconds=20, what="it waits")
    stopping = asyncio.create_task(daemon.stop())
    while not stopping.done():
        if daemon.exit_code is None:
            os.kill(daemon.pid, signal.SIGHUP)
        await asyncio.sleep(0.002)
    assert await stopping == 0
