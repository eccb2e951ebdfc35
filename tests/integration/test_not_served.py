"""A connection that nothing is built of (a setting that its system cannot take any more, a credential that no key
opens) says so where its people look, with what to do; and no more once it is put right.
"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from pydantic import SecretStr
from rich.console import Console

from benchmarks.servers import wait_until
from gateway import clock
from gateway.cli.connection_screen import show_facts
from gateway.model.access import Role
from gateway.model.connector import Connector, ConnectorSettings
from gateway.model.errors import BadConfiguration
from gateway.model.status import Trouble
from gateway.settings import CreditsSettings, SecuritySettings
from gateway.store import access
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from gateway.store.views import Views
from tests.fixtures.connection_rig import World, settings
from tests.fixtures.http_rig import served

WORDS = "this machine does not know the time zone 'Europe/Atlantis'"


def refusing(built_from: ConnectorSettings) -> Connector:
    raise BadConfiguration(WORDS)


async def troubles(database: Database) -> tuple[Trouble, ...]:
    (found,) = await Views(database).status(["acme-1"])
    return tuple(found.troubles)


async def page(world: World) -> str:
    secret = await access.create_login(world.database, name="ann", role=Role.OPERATOR)
    session = await access.redeem_login(world.database, secret)
    assert session is not None
    async with served(world, cookies={"fieldgate_session": session.secret}) as client:
        return (await client.get("/connections/acme-1")).text


async def test_what_cannot_be_built_says_why_and_what_to_do(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sync_capacity(database, CreditsSettings())
    world = await World(database).active()
    beside = world.replica("replica-b")
    monkeypatch.setattr(beside.system, "build", refusing)
    await beside.engine.lifecycle.refresh()
    (trouble,) = await troubles(database)
    assert trouble.part == "build" and trouble.detail.startswith(WORDS)
    assert "Nothing is sent or read meanwhile" in trouble.detail and "correct the settings" in trouble.detail
    shown = await page(world)
    assert "It cannot be served: this machine does not know the time zone" in shown
    (found,) = await Views(database).status(["acme-1"])
    output = io.StringIO()
    show_facts(Console(file=output, width=300), found, clock.now())
    assert f"build: {WORDS}" in output.getvalue()

    again = world.replica("replica-c")  # after a restart on a machine that knows it

    async def over() -> bool:
        return not await troubles(database)

    async with again.living():
        await wait_until(over, what="the trouble is over", seconds=20)
    assert "It cannot be served" not in await page(world)


async def test_a_credential_that_no_key_opens_is_said_with_the_connection(database: Database) -> None:
    await sync_capacity(database, CreditsSettings())
    world = await World(database).active()
    other = settings().model_copy(
        update={
            "security": SecuritySettings(encryption_keys=(SecretStr("another key of 32 bytes, or more"),))
        }
    )
    beside = replace(world, settings=other, owner="replica-b")
    await beside.engine.lifecycle.refresh()
    (trouble,) = await troubles(database)
    assert trouble.part == "build" and "put that key back" in trouble.detail
    # and where it is about to be verified: nothing is tried, and its state says only that it is
    await world.execute("update connection set state = 'verifying', probe_at = now()")

    async def said() -> bool:
        return {one.part for one in await troubles(database)} == {"build", "verification"}

    async with beside.living():
        await wait_until(said, what="the verification says it too", seconds=20)
    assert "put that key back" in await page(world)
