"""What a person gives and what a system answers, as API and page say it: on a real engine."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.servers import wait_until
from connectors.maintainx.settings import MaintainXCredentials
from gateway.connections import lifecycle
from gateway.model.access import Role
from gateway.model.connector import ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    Unavailable,
)
from gateway.model.exchange import RemoteMeter
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World, credentials
from tests.fixtures.http_rig import served
from tests.fixtures.scripted import Scripted

PASTED = [
    ("kéy", "character 2 is outside of ASCII"),
    ("key\u00a0", "character 4 is a non-breaking space (U+00A0)"),
    ("key\u2028", "character 4 is a line separator (U+2028)"),
    ("key\n", "character 4 is a line break (U+000A)"),
    (" key", "character 1 is a space"),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)


class Listing(Scripted):
    """Can be asked for its meters, and refuses."""

    error: ConnectorError | None = None

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        if self.error is not None:
            raise self.error
        yield RemoteMeter(meter="m")


class Accounts(Scripted):
    """Says whose data it reaches, and how it said so before."""

    account, former = "role@a:5432/db", "db"

    async def probe(self) -> ProbeResult:
        self.probes += 1
        return ProbeResult(account=self.account, former_account=self.former)


async def strict(database: Database, connector: Scripted | None = None) -> World:
    """A world whose system takes an API key, by the rules of those that are real."""
    await sync_capacity(database, CreditsSettings())
    world = World(database, connector or Scripted())
    world.system.credentials_model = MaintainXCredentials
    return world


@pytest.mark.parametrize(("key", "said"), PASTED)
async def test_what_cannot_be_sent_is_refused_where_it_is_given_and_nothing_is_touched(
    database: Database, key: str, said: str
) -> None:
    world = await (await strict(database)).active()
    before = await world.rows("select * from connection"), await world.rows("select count(*) from credential")
    probes, built = world.connector.probes, len(world.system.built)
    with pytest.raises(RequestRefused, match=r"credentials\.api_key") as caught:
        await world.service.give_credentials("acme-1", credentials(key), CALLER)
    assert caught.value.code == "request.invalid" and said in str(caught.value)
    async with served(world, Role.ADMIN) as client:
        body = {
            "id": "acme-2",
            "customer": "acme",
            "system": "scripted",
            "credentials": {"type": "api_key", "api_key": key},
        }
        created = await client.post("/v1/connections", json=body)
        changed = await client.patch("/v1/connections/acme-1", json={"credentials": body["credentials"]})
        for answer in (created, changed):
            assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
            assert said in answer.text and "key" not in answer.json()["detail"].replace("api_key", "")
    assert before == (
        await world.rows("select * from connection"),
        await world.rows("select count(*) from credential"),
    )
    assert (world.connector.probes, len(world.system.built)) == (probes, built)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AuthRefused("401 key"), 409, "connection.reauthorization_required"),
        (AuthRefused("a login page", doubtful=True), 503, "upstream.unavailable"),
        (PermissionDenied("403 no"), 409, "connection.blocked"),
        (BadConfiguration("404 where"), 409, "connection.blocked"),
        (RateLimited("429 slow", retry_after=7.0), 429, "upstream.rate_limited"),
        (Unavailable("away"), 503, "upstream.unavailable"),
    ],
)
async def test_a_systems_refusal_to_list_meters_is_never_the_callers(
    database: Database, error: ConnectorError, status: int, code: str
) -> None:
    connector = Listing()
    world = await (await strict(database, connector)).active()
    async with served(world, Role.VIEWER) as client:
        assert (await client.get("/v1/connections/acme-1/meters")).status_code == 200
        connector.error = error
        answer = await client.get("/v1/connections/acme-1/meters")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert str(error) in answer.text


async def test_an_account_that_is_called_otherwise_now_is_the_same_and_no_other(database: Database) -> None:
    connector = Accounts()
    world = await (await strict(database, connector)).active()

    async def account() -> Any:
        (row,) = await world.rows("select account from connection")
        return row["account"]

    assert await account() == "role@a:5432/db"
    await world.execute("update connection set account = 'db'")  # as an earlier version left it
    async with world.living():
        await world.due_now()
        await wait_until(_holds(account, "role@a:5432/db"), what="the present name is stored")
        connector.account = "role@b:5432/db"
        await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
        probes = connector.probes
        await wait_until(lambda: connector.probes > probes, what="the other host was probed")
        await world.reaches("active")
    assert await account() == "role@a:5432/db"
    (row,) = await world.rows("select generation, candidate from connection")
    assert row == {"generation": 1, "candidate": None}


async def test_the_former_name_is_good_for_a_verification(database: Database) -> None:
    connector = Accounts()
    world = await (await strict(database, connector)).active()
    await world.execute("update connection set account = 'db'")
    async with world.living():
        await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)

        async def taken() -> bool:
            (row,) = await world.rows("select generation, account from connection")
            return bool(row["generation"] == 2 and row["account"] == "role@a:5432/db")

        await wait_until(taken, what="the credential is taken, and the account has its present name")


def _holds(ask: Any, value: str) -> Any:
    async def holds() -> bool:
        return bool(await ask() == value)

    return holds


@pytest.mark.parametrize(("key", "said"), PASTED[:3])
async def test_the_customers_page_says_which_character_and_that_nothing_was_sent(
    database: Database, key: str, said: str
) -> None:
    world = await (await strict(database)).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("revoked", final=True), attempts=1)
    async with served(world, Role.OPERATOR) as client:
        made = await client.post("/v1/connections/acme-1/reauthorization")
    path = str(made.json()["url"]).removeprefix("http://gateway.test")
    await world.execute("update api_token set revoked_at = now()")
    probes = world.connector.probes
    async with served(world) as customer:
        page = await customer.post(path, data={"api_key": key, "as": "api_key"})
        assert page.status_code == 409
        text = html.unescape(page.text)
        assert (
            said.lower() in text.lower()
            and "Nothing was sent to the system" in text
            and f'"{key}"' not in text
        )
        assert world.connector.probes == probes and await world.state() == "reauthorization_required"
        good = await customer.post(path, data={"api_key": "key-2", "as": "api_key"})
        assert good.status_code == 303 and await world.state() == "verifying"
