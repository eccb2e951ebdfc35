"""What the daemon does by the clock."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.servers import patient
from gateway import housekeeping
from gateway.model.errors import StoreRejected
from gateway.settings import Settings
from gateway.store import records, retention, sparkplug
from gateway.store.pool import Database


async def test_a_part_of_retention_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    done, last = list[str](), asyncio.Event()

    async def refused(*_: object, **__: object) -> list[str]:
        raise StoreRejected("a row that the statement cannot take")

    async def dropped(*_: object, **__: object) -> list[str]:
        done.append("dropped")
        return []

    async def forgotten(*_: object, **__: object) -> None:
        done.append("forgotten")

    async def expired(*_: object, **__: object) -> None:
        last.set()

    monkeypatch.setattr(retention, "tell_filling", refused)
    monkeypatch.setattr(retention, "drop_expired", dropped)
    monkeypatch.setattr(sparkplug, "forget", forgotten)
    monkeypatch.setattr(records, "expire", expired)
    anything: Any = SimpleNamespace(retention=None, buffer=None, public_url="", deleted_retention=None)
    settings = cast("Settings", SimpleNamespace(telemetry=anything, http=anything, records=anything))
    loops = housekeeping.loops(settings, cast("Database", None), lambda: False)
    for name, loop in loops.items():
        if name != "retention":
            loop.close()
    running = asyncio.ensure_future(loops["retention"])
    async with patient(5):
        await last.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert done == ["dropped", "forgotten"]
