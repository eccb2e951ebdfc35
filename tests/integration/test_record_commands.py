"""`fieldgate records` and `fieldgate sync --stream`, on a real database, with a reader
that runs beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from gateway.model.errors import ConfigError, RequestRefused
from gateway.model.event import EventType
from gateway.store import inbound, status
from gateway.store.pool import Database
from gateway.sync.leased import LeasedWork
from gateway.sync.schedule import Scheduler
from tests.fixtures.inbound_rig import InboundRig
from tests.fixtures.source import NOON, Source
from tests.integration.test_operating import Shell


@pytest.fixture
def shell(tmp_path: Path, dsn: str, empty_dsn: str) -> Iterator[Shell]:
    yield Shell(tmp_path, dsn, empty_dsn)
    structlog.reset_defaults()


@asynccontextmanager
async def reading(rig: InboundRig) -> AsyncIterator[None]:
    """A replica that works the rig's streams."""
    work = LeasedWork(rig.database, inbound, rig.runner(), lease_seconds=15.0, owner=rig.owner)
    scheduler = Scheduler(work, lease_seconds=15.0)
    scheduler.serve({rig.name: rig.link})
    running = asyncio.create_task(scheduler.run())
    try:
        yield
    finally:
        await scheduler.stop(5)
        await running


async def test_records_are_listed_shown_read_now_and_confirmed(shell: Shell, database: Database) -> None:
    source = Source()
    for number in range(10):
        source.put(f"w-{number}", {"title": f"pump {number}"}, modified_at=NOON.replace(hour=3))
    rig = await InboundRig(database, source, initial_days=1).activate()
    await rig.execute("update connection set system = 'postgres', sync = '{\"initial_days\": 1}'")
    await rig.run()

    async with reading(rig):
        full = await asyncio.to_thread(
            shell.json, "sync", "acme-1", "--stream", "work_orders", "--full", "--yes"
        )
        assert (full["outcome"], full["records"]) == ("completed", 10)
        source.put("new", {"title": "fan"})
        source.pass_time(60)
        done = await asyncio.to_thread(shell.run, "sync", "acme-1", "--stream", "work_orders")
        assert (done.exit_code, done.exception) == (0, None) and "11 records held" in done.stdout

    listed = await asyncio.to_thread(
        shell.json, "records", "acme-1", "work_orders", "--holds", "pump", "--limit", "4"
    )
    assert [item["key"] for item in listed] == ["w-0", "w-1", "w-2", "w-3"]
    page = await asyncio.to_thread(shell.run, "records", "acme-1", "work_orders", "--after", "w-7")
    assert "w-8" in page.stdout and "w-7" not in page.stdout
    one = await asyncio.to_thread(shell.run, "records", "acme-1", "work_orders", "--key", "new")
    assert '"title": "fan"' in one.stdout and '"versions"' in one.stdout

    for arguments, code in (
        (("records", "acme-1", "nothing"), "request.not_found"),
        (("records", "acme-1", "work_orders", "--key", "nothing"), "request.not_found"),
        (("sync", "acme-1", "--stream", "nothing"), "request.invalid"),
        (("sync", "acme-1", "--stream", "work_orders", "--confirm-deletions", "--yes"), "request.conflict"),
    ):
        error = await asyncio.to_thread(shell.refused, *arguments)
        assert isinstance(error, RequestRefused) and error.code == code, arguments
    assert isinstance(
        await asyncio.to_thread(shell.refused, "sync", "acme-1", "--confirm-deletions", "--yes"), ConfigError
    )

    for key in ("w-1", "w-2", "w-3"):
        source.put(key, None)
    for _ in range(3):
        await rig.finish("reconcile")
    assert await rig.open_issues() == {"records_vanished"}
    (shown,) = await status.read(database, ["acme-1"])
    assert max(stream.records.vanished for stream in shown.streams if stream.records is not None) == 3
    async with reading(rig):
        await asyncio.to_thread(
            shell.run, "sync", "acme-1", "--stream", "work_orders", "--confirm-deletions", "--yes"
        )
    await rig.finish("reconcile")
    assert await rig.held() == source.holds()
    assert await rig.events(EventType.RECORDS_CHANGED)


async def test_the_status_shows_how_far_history_is(database: Database) -> None:
    source = Source()
    for number in range(10):
        source.put(f"w-{number}", {"n": number}, modified_at=NOON.replace(hour=3))
    rig = await InboundRig(database, source, initial_days=4).activate()
    await rig.run()
    source.pass_time(60)
    await rig.run()
    (before,) = await status.read(database, ["acme-1"])
    phases = {stream.phase: stream for stream in before.streams}
    assert set(phases) == {"incremental", "initial", "reconcile"}
    assert all(stream.direction == "inbound" for stream in before.streams) and before.lag_seconds == 0.0
    assert phases["incremental"].watermark and not phases["initial"].watermark
    await rig.finish("initial")
    (after,) = await status.read(database, ["acme-1"])
    records = {stream.phase: stream.records for stream in after.streams}
    assert records["initial"] is not None and records["incremental"] is not None
    assert (records["initial"].fraction, records["initial"].read, records["incremental"].held) == (
        1.0,
        10,
        10,
    )
