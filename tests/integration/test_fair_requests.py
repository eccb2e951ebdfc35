"""What one customer asks by HTTP, and how often, keeps no other from an answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from benchmarks.servers import PATIENCE
from gateway.configuration import check
from gateway.model.access import Role
from gateway.settings import CreditsSettings
from gateway.store import turns
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import World
from tests.fixtures.http_rig import served

REQUESTS = 50


@pytest.fixture
async def world(database: Database) -> World:
    world = World(database)
    await sync_capacity(database, CreditsSettings())
    await world.execute("insert into customer values ('acme'), ('globex')")
    return world


async def test_requests_that_hang_leave_sessions_for_the_others(world: World) -> None:
    async with (
        served(world, Role.VIEWER, "acme") as acme,
        served(world, Role.VIEWER, "globex") as globex,
        world.database.pinned(silent_seconds=60) as locking,
    ):
        await locking.execute("begin; lock table device in access exclusive mode")
        hanging = [asyncio.create_task(acme.get("/v1/devices")) for _ in range(REQUESTS)]
        async with asyncio.timeout(15 * PATIENCE):
            while not await locking.fetchval(
                "select count(*) from pg_locks where not granted and relation = 'device'::regclass"
            ):
                await asyncio.sleep(0.01)
            for _ in range(3):
                assert (await globex.get("/v1/credits")).status_code == 200
        assert not [one for one in hanging if one.done()]
        await locking.execute("rollback")
        assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {200}


async def test_meters_that_take_long_to_check_hold_nobody_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def slow(*given: Any, **how: Any) -> Any:
        assert answered.wait(20 * PATIENCE), "nobody else was answered"
        return check(*given, **how)

    monkeypatch.setattr("gateway.connections.checking.check", slow)
    meters = [{"device": f"d{number}", "metric": "t", "meter": f"m{number}"} for number in range(201)]
    async with served(world, Role.ADMIN, "acme") as acme, served(world, Role.VIEWER, "globex") as globex:
        document = {"id": "acme-1", "customer": "acme", "system": "scripted", "meters": meters}
        creating = asyncio.create_task(acme.post("/v1/connections", json=document))
        await asyncio.sleep(0.1)
        assert (await globex.get("/v1/credits")).status_code == 200
        answered.set()
        assert (await creating).status_code == 201, (await creating).text


async def test_who_has_a_turn_needs_no_second(database: Database) -> None:
    """Else two that each want another session would wait for each other."""

    async def nested() -> int:
        turns.work_for("acme")
        async with database.connection(), database.transaction() as connection:
            return int(await connection.fetchval("select 1"))

    async with asyncio.timeout(15 * PATIENCE):
        assert await asyncio.gather(*(nested() for _ in range(20))) == [1] * 20
