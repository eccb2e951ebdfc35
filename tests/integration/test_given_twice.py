"""The same credentials, given once more, as by a program that repeats a request of which it heard nothing. A
refresh token is good once: two generations of it would redeem it twice, and a server that rotates tokens then
takes all of them for stolen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.registry import SYSTEMS
from gateway.configuration import DeclaredConnection
from gateway.connections import lifecycle, next_look
from gateway.connections.apply import apply
from gateway.connections.giving import FILE
from gateway.model.access import Caller, Origin
from gateway.model.errors import AuthRefused, Unavailable
from gateway.settings import ConnectionPatch, CredentialSettings, CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World, credentials, wanted
from tests.fixtures.oauth_server import WEB, OAuthServer
from tests.fixtures.scripted import Scripted
from tests.integration.test_oauth_server import consented, credential


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
async def _prepared(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are credits, and what is due is looked at soon."""
    await sync_capacity(database, CreditsSettings())
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(next_look, "RETRY_CAP_SECONDS", 0.02)


async def generations(world: World) -> tuple[int, int | None, int]:
    """In use, to be verified, and how many there ever were."""
    (row,) = await world.rows("select generation, candidate, generations from connection")
    return row["generation"], row["candidate"], row["generations"]


async def logged_in(server: OAuthServer) -> CredentialSettings:
    """What a person's consent gave, with its first refresh token."""
    web = credential(server, WEB)
    grant = await consented(server, web)
    values = {**web.values, "refresh_token": grant.refresh_token}
    return CredentialSettings.model_validate({"type": web.type, **values})


def http_json(server: OAuthServer, given: CredentialSettings) -> Any:
    where = {"base_url": server.url, "path": "/api/readings", "probe_path": "/api/readings"}
    made = wanted(system="http_json", settings=where, meters=[])
    return made.model_copy(update={"credentials": given})


async def test_a_refresh_token_that_is_given_again_is_redeemed_once(
    database: Database, server: OAuthServer
) -> None:
    world, given = World(database, more_systems=SYSTEMS), await logged_in(server)
    await world.service.create(http_json(server, given), CALLER)
    async with world.living():
        await world.reaches("active")
        redeemed = await server.token_requests()
        for _ in range(2):
            await world.service.change("acme-1", ConnectionPatch(credentials=given), CALLER)
            await world.reaches("active")
            assert await generations(world) == (1, None, 1)
        assert await server.token_requests() == redeemed
        assert (await server.lever())["families"] == 1, "nothing was revoked"
        # another login is another credential
        await world.service.change("acme-1", ConnectionPatch(credentials=await logged_in(server)), CALLER)
        await world.reaches("active")
    assert await generations(world) == (2, None, 2)


async def test_a_refresh_token_is_not_redeemed_again_for_a_verification_that_is_put_off(
    database: Database, server: OAuthServer
) -> None:
    """The system takes no token of the server's for now: whoever gives the same again means the same login."""
    world, given = World(database, more_systems=SYSTEMS), await logged_in(server)
    await server.lever(accepting=False)
    await world.service.create(http_json(server, given), CALLER)
    async with world.living():
        await world.reaches("pending")
        await server.lever(accepting=True)
        await world.service.change("acme-1", ConnectionPatch(credentials=given), CALLER)
        await world.reaches("active")
    assert await generations(world) == (1, None, 1)
    assert (await server.lever())["families"] == 1


async def test_a_refresh_token_in_use_is_given_again_while_another_waits(
    database: Database, server: OAuthServer
) -> None:
    """Whoever takes back what was given last means the login that works."""
    world, given = World(database, more_systems=SYSTEMS), await logged_in(server)
    await world.service.create(http_json(server, given), CALLER)
    async with world.living():
        await world.reaches("active")
    other = ConnectionPatch(credentials=await logged_in(server))
    await world.service.change("acme-1", other, CALLER)  # nobody verifies it now
    assert await generations(world) == (1, 2, 2)
    await world.service.change("acme-1", ConnectionPatch(credentials=given), CALLER)
    async with world.living():
        await world.reaches("active")
    assert await generations(world) == (1, None, 2)


async def test_another_end_of_the_same_refresh_token_is_in_force(
    database: Database, server: OAuthServer
) -> None:
    world, given = World(database, more_systems=SYSTEMS), await logged_in(server)
    await world.service.create(http_json(server, given), CALLER)
    end = datetime(2031, 1, 2, tzinfo=UTC)
    async with world.living():
        await world.reaches("active")
        later = given.model_copy(update={"expires_at": end.isoformat()})
        await world.service.change("acme-1", ConnectionPatch(credentials=later), CALLER)
        await world.reaches("active")
    rows = await world.rows("select generation, expires_at from credential")
    assert [tuple(row.values()) for row in rows] == [(1, end)]


async def test_a_refresh_token_that_the_server_refused_is_tried_again_when_it_is_given_again(
    database: Database, server: OAuthServer
) -> None:
    world, given = World(database, more_systems=SYSTEMS), await logged_in(server)
    await server.lever(revoke_all=True)
    await world.service.create(http_json(server, given), CALLER)
    async with world.living():
        await world.reaches("pending")
        asked = await server.token_requests()
        await world.service.change("acme-1", ConnectionPatch(credentials=given), CALLER)
        await world.reaches("pending")
    assert (await generations(world))[2] == 2 and await server.token_requests() > asked


async def test_a_login_that_never_came_into_use_is_revoked_at_the_end(
    database: Database, server: OAuthServer
) -> None:
    world, web = World(database, more_systems=SYSTEMS), credential(server, WEB)
    given = CredentialSettings.model_validate({"type": web.type, **web.values})
    declared = await world.service.check(http_json(server, given), CALLER)
    await server.lever(accepting=False)
    await world.service.create_declared(
        declared, CALLER, managed_by="api", grant=await consented(server, web)
    )
    async with world.living():
        await world.reaches("pending")
        assert (await server.lever())["families"] == 1
        await world.service.disconnect("acme-1", CALLER)
        await world.reaches("disconnected")
    assert (await server.lever())["families"] == 0


async def test_what_waits_to_be_verified_or_works_is_not_given_anew(database: Database) -> None:
    connector = Scripted(probe_error=Unavailable("down"))
    world = World(database, connector)
    await world.service.create(wanted(), CALLER)
    await world.service.give_credentials("acme-1", credentials("key-1"), CALLER)
    assert await generations(world) == (0, 1, 1)
    connector.probe_error = None
    async with world.living():
        await world.reaches("active")
        await world.service.give_credentials("acme-1", credentials("key-1"), CALLER)
        await world.reaches("active")
        assert await generations(world) == (1, None, 1)
        await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
        await world.reaches("active")
    assert await generations(world) == (2, None, 2)


async def test_what_was_refused_or_comes_of_somebody_else_is_another_generation(database: Database) -> None:
    connector = Scripted(probe_error=AuthRefused("no such key", final=True))
    world = World(database, connector)
    await world.service.create(wanted(), CALLER)
    async with world.living():
        await world.reaches("pending")
        connector.probe_error = None
        await world.service.give_credentials("acme-1", credentials("key-1"), CALLER)
        await world.reaches("active")
        assert await generations(world) == (2, None, 2)
        bound = Caller(name="ann", origin=Origin.BOUND)
        await world.service.give_credentials("acme-1", credentials("key-1"), bound)
        await world.reaches("active")
        assert await generations(world) == (3, None, 3)
        ends = CredentialSettings.model_validate(
            {"type": "api_key", "api_key": "key-1", "expires_at": "2099-01-01T00:00:00Z"}
        )
        for _ in range(2):
            await world.service.give_credentials("acme-1", ends, bound)
            await world.reaches("active")
    assert await generations(world) == (4, None, 4)


async def test_an_end_that_was_stated_is_kept_and_another_one_is_in_force(database: Database) -> None:
    """By the file too, and where a credential that was refused is tried once more."""
    world = World(database)

    async def declared(end: str) -> None:
        given = {"type": "api_key", "api_key": "key-1", "expires_at": end}
        item = DeclaredConnection(settings=wanted(credentials=given), rules=())
        await apply(database, world.service, [item])
        async with world.living():
            await world.reaches("active")

    async def ends() -> list[datetime]:
        return [row["expires_at"] for row in await world.rows("select expires_at from credential")]

    for year in (2031, 2032):
        await declared(f"{year}-01-02T00:00:00Z")
        assert await ends() == [datetime(year, 1, 2, tzinfo=UTC)]
    await world.engine.lifecycle.refresh()
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("a mistake", final=True), attempts=1)
    await world.service.retry_credentials("acme-1", CALLER)
    async with world.living():
        await world.reaches("active")
    assert await ends() == [datetime(2032, 1, 2, tzinfo=UTC)]


async def test_a_file_that_declares_what_was_given_elsewhere_gives_nothing_new(database: Database) -> None:
    world = await World(database).active()
    async with world.living():
        await world.service.give_credentials("acme-1", credentials("key-1"), Caller(name=FILE))
        await world.reaches("active")
    assert await generations(world) == (1, None, 1)
    (row,) = await world.rows("select declared_digest from connection")
    assert row["declared_digest"] == world.service.digest(credentials("key-1"))
