"""Bringing a connection up, with PostgreSQL failing at each step of it: it is tried again until it is up, and
seen meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from benchmarks.servers import Postgres, wait_until
from gateway.connections import following, lifecycle, links, next_look
from gateway.model.errors import RequestRefused, StoreError, StoreUnavailable
from gateway.model.sample import to_microseconds
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.telemetry import TelemetryStore
from gateway.sync import runs
from tests.conftest import TEMPLATE
from tests.fixtures.connection_rig import CALLER, World, settings, wanted
from tests.fixtures.failing import COMMIT, COMMITTED, Failing
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE

SECONDS = 20.0
TOGETHER = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lifecycle, following):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    for module in (next_look, links, runs):
        monkeypatch.setattr(module, "full_jitter", lambda *_, **__: 0.05)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    engine = world.engine
    loops = [asyncio.create_task(engine.lifecycle.run()), asyncio.create_task(engine.scheduler.run())]
    try:
        yield
        assert not any(loop.done() for loop in loops)
    finally:
        await engine.scheduler.stop(5.0)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def created(world: World) -> None:
    """By whoever asks until it is there."""
    while True:
        try:
            await world.service.create(wanted(sync={"interval": "100ms", "lateness": "0s"}), CALLER)
            return
        except StoreError:
            await asyncio.sleep(0.01)
        except RequestRefused as error:
            if error.code != "connection.exists" and "taken" not in str(error) and "exists" not in str(error):
                raise
            return


async def brought_up(plain: Database, failing: Failing, *, is_new: bool) -> None:
    """Created and verified, or served by a replica that starts after its meters were changed: a reading is
    delivered.
    """
    connector = Scripted()
    sync = {"push_timeout": timedelta(seconds=1)}
    world = World(failing, connector, settings(sync=sync), owner=f"replica-{is_new}")
    if is_new:
        await World(plain).engine.prepare()
        await created(world)
    async with running(world):
        await World(plain).reaches("active", seconds=SECONDS)
        at = to_microseconds(BASE) + 900_000_000 * is_new
        writer = TelemetryStore(plain, register_customers=True)
        await writer.write([(("acme", "pump", at), {"t": 7.0 + is_new}, at)], [])
        await wait_until(
            lambda: 7.0 + is_new in {reading.value for reading in connector.taken},
            seconds=SECONDS,
            what="a reading is delivered",
        )


class Databases:
    """Made as they are asked for, each from a template."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._made = 0

    @asynccontextmanager
    async def new(self, template: str = TEMPLATE, name: str = "") -> AsyncIterator[Database]:
        self._made += 1
        name = name or f"bring_up_{self._made}"
        admin = await asyncpg.connect(self._server.dsn())
        await admin.execute(f"create database {name} template {template}")
        database = await Database.open(self._server.dsn(name), size=6)
        try:
            yield database
        finally:
            await database.close()
            if not name.startswith("kept"):
                await admin.execute(f"drop database {name} with (force)")
            await admin.close()


async def prepared(databases: Databases) -> None:
    """An active connection that no replica serves, with meters that changed meanwhile, as `kept_active`."""
    async with databases.new(name="kept_active") as plain:
        await brought_up(plain, Failing(plain), is_new=True)
        async with plain.connection() as connection:
            await connection.execute(
                "update stream set lease_owner = null, lease_until = null, next_run_at = now()"
            )
            await connection.execute(
                "update connection set configuration = configuration + 1, probe_at = now(),"
                " meters = jsonb_set(meters, '{0,every}', '60')"
            )


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_failure_at_any_step_is_tried_again_until_the_connection_is_up(
    postgres_server: Postgres, is_new: bool
) -> None:
    databases = Databases(postgres_server)
    template = TEMPLATE if is_new else "kept_active"
    if not is_new:
        await prepared(databases)
    async with databases.new(template) as plain:
        healthy = Failing(plain)
        await brought_up(plain, healthy, is_new=is_new)
    steps = [*healthy.asked]
    assert len(steps) > 30 and {COMMIT, COMMITTED} <= healthy.asked.keys()
    places, struck, stuck = asyncio.Semaphore(TOGETHER), 0, list[str]()

    async def struck_at(number: int, statement: str) -> None:
        nonlocal struck
        async with places, databases.new(template) as plain:
            failing = Failing(plain, fail=(statement, 1))
            failing.error = (StoreUnavailable, StoreError)[number % 2]
            try:
                await brought_up(plain, failing, is_new=is_new)
            except (TimeoutError, AssertionError) as error:
                stuck.append(f"{failing.error.__name__} at {statement[:70]!r}: {error}")
            struck += failing.failed

    async with asyncio.TaskGroup() as group:
        for number, statement in enumerate(steps):
            group.create_task(struck_at(number, statement))
    assert not stuck, "\n".join([f"{len(stuck)} of {len(steps)}", *stuck])
    assert struck > 0.8 * len(steps)


@pytest.mark.parametrize("error", [StoreError, StoreUnavailable])
async def test_what_keeps_failing_is_seen_with_the_connection_until_it_is_up(
    database: Database, error: type[StoreError]
) -> None:
    world = World(database)
    await world.engine.prepare()
    await world.active()
    await world.execute("update connection set configuration = configuration + 1")
    failing = Failing(database, fail=(sql("stream_take_all"), 0))
    failing.error = error
    other = World(failing, owner="replica-b")

    async def troubles() -> list[str]:
        return [row["part"] for row in await world.rows("select part from connection_trouble")]

    async def seen() -> bool:
        return await troubles() == ["refresh"] and failing.failed > 2

    async def over() -> bool:
        return not await troubles() and "acme-1" in other.engine.links.current

    async with running(other):
        await wait_until(seen, what="it is seen that the connection is not served")
        assert "acme-1" not in other.engine.links.current
        failing.fail = None
        await wait_until(over, what="it is served, and nothing is seen any more")
