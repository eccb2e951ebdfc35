"""The API on an engine and a real database, and the customer's way back from a refused credential, link by
link.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from benchmarks.servers import wait_until
from gateway.connections import ending, lifecycle, next_look
from gateway.connections.reauthorization import MAX_ATTEMPTS, Reauthorization
from gateway.credentials.tokens import Tokens
from gateway.events.documents import status_document
from gateway.http import services as adapters
from gateway.http import status_fast_path
from gateway.model.access import Role
from gateway.model.address import ANYWHERE
from gateway.model.connection import Trigger
from gateway.model.connector import ProbeResult
from gateway.model.errors import AuthRefused, RequestRefused, Unavailable
from gateway.settings import CredentialSettings, CreditsSettings
from gateway.store import access, status
from gateway.store.connections import Cause
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World, credentials, wanted
from tests.fixtures.http_fakes import NOW
from tests.fixtures.http_rig import served
from tests.fixtures.oauth_server import WEB, OAuthServer
from tests.integration.test_access import dump


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(next_look, "RETRY_CAP_SECONDS", 0.02)
    monkeypatch.setattr(ending, "DRAIN_SECONDS", 0.02)


@pytest.fixture
async def world(database: Database) -> World:
    await sync_capacity(database, CreditsSettings())
    return World(database)


# The API


async def test_a_change_made_elsewhere_is_seen_within_a_tenth_of_a_second_and_a_revoked_token_within_one(
    world: World, database: Database
) -> None:
    await world.service.create(wanted("acme-1"), CALLER)
    async with served(world, Role.VIEWER) as client:
        first = await client.get("/v1/connections/acme-1/status")
        async with database.connection() as connection:
            await connection.execute("update connection set version = version + 1")
        await asyncio.sleep(status_fast_path.HELD_SECONDS)
        second = await client.get("/v1/connections/acme-1/status")
        assert second.json()["version"] == first.json()["version"] + 1
        assert await access.revoke(database, "viewer-None")

        async def is_refused() -> bool:
            return (await client.get("/v1/connections/acme-1/status")).status_code == 401

        await wait_until(is_refused, what="the token is refused", seconds=adapters.TRUST_SECONDS + 1.0)


async def test_what_was_read_of_a_connection_can_be_given_back(world: World) -> None:
    meters = [
        {"device": "pump-*", "metric": "t", "meter": "{device} t", "reduce": "mean", "every": "90s"},
        {"device": "pump-1", "metric": "alarm", "meter": "alarm", "reduce": "last", "every": "1500ms"},
        {"device": "pump-2", "metric": "alarm", "meter": "alarm 2", "reduce": "each"},
    ]
    async with served(world, Role.ADMIN) as client:
        body = {
            "id": "acme-1",
            "customer": "acme",
            "system": "scripted",
            "credentials": {"type": "api_key", "api_key": "canary"},
            "meters": meters,
        }
        assert (await client.post("/v1/connections", json=body)).status_code == 201
        read = (await client.get("/v1/connections/acme-1")).json()
        assert [meter["every"] for meter in read["meters"]] == ["90s", "1500ms", "0ms"]
        for parts in (("meters",), ("sync",), ("settings",), ("meters", "sync", "settings")):
            again = await client.patch("/v1/connections/acme-1", json={part: read[part] for part in parts})
            assert again.status_code == 200, again.text
            assert {part: again.json()[part] for part in parts} == {part: read[part] for part in parts}


async def test_a_connection_from_creation_to_its_end(world: World) -> None:
    async with served(world, Role.ADMIN) as client, world.living():
        body = {
            "id": "acme-1",
            "customer": "acme",
            "system": "scripted",
            "credentials": {"type": "api_key", "api_key": "canary"},
        }
        created = await client.post("/v1/connections", json=body)
        assert (created.status_code, created.json()["state"], created.headers["Location"]) == (
            201,
            "verifying",
            "/v1/connections/acme-1",
        )
        assert (await client.post("/v1/connections", json=body)).json()["code"] == "request.conflict"
        await world.reaches("active")
        told = await client.get("/v1/connections/acme-1/status")
        [stored] = await status.read(world.database, ["acme-1"])
        assert without_time(told.content) == without_time(status_document(stored, now=stored.since).payload())
        again = await client.get(
            "/v1/connections/acme-1/status", headers={"If-None-Match": told.headers["ETag"]}
        )
        assert again.status_code == 304
        changed = await client.patch("/v1/connections/acme-1", json={"sync": {"interval": "5m"}})
        assert changed.json()["sync"]["interval"] == "5m"
        for act, state in (
            ("sync", "active"),
            ("pause", "paused"),
            ("resume", "active"),
            ("recheck", "active"),
        ):
            done = await client.post(f"/v1/connections/acme-1/{act}", json={} if act == "sync" else None)
            assert (done.status_code, done.json()["state"]) == (202, state)
        assert (await client.get("/v1/connections/acme-1/meters")).json()["code"] == "request.unsupported"
        used = (await client.get("/v1/credits")).json()
        assert (used["posted"], used["by_customer"]) == (1, {"acme": 1})
        lines = (await client.get("/v1/credits/transfers")).json()["items"]
        assert [(line["kind"], line["customer"]) for line in lines] == [("post", "acme"), ("hold", "acme")]
        events = (await client.get("/v1/events")).json()
        assert [event["type"] for event in events["items"]][:2] == [
            "fieldgate.connection.created",
            "fieldgate.connection.activated",
        ]
        assert (await client.get("/v1/incidents")).json() == {"items": [], "next": None}
        assert (await client.delete("/v1/connections/acme-1")).status_code == 202
        await world.reaches("disconnected")
        gone = await client.post("/v1/connections/acme-1/pause")
        assert (gone.status_code, gone.json()["code"], gone.json()["connection"]) == (
            410,
            "connection.disconnected",
            "acme-1",
        )
        everything = [
            await client.get(path)
            for path in ("/v1/connections", "/v1/connections/acme-1", "/v1/events", "/metrics")
        ]
    assert all("canary" not in answer.text for answer in everything)
    [actor] = {
        row["actor"]
        for row in await world.rows("select actor from connection_audit where actor <> 'gateway'")
    }
    assert actor == "token:admin-None"


def without_time(payload: bytes) -> bytes:
    return re.sub(rb'"updated":"[^"]+"', b"", payload)


async def test_a_bound_token_on_a_real_database(world: World) -> None:
    await world.active("acme-1")
    await world.active("globex-1", customer="globex")
    async with served(world, Role.ADMIN, "globex") as client:
        assert [item["id"] for item in (await client.get("/v1/connections")).json()["items"]] == ["globex-1"]
        other, none = await client.get("/v1/connections/acme-1"), await client.get("/v1/connections/nobody")
        assert {**other.json(), "request_id": ""} == {
            **none.json(),
            "request_id": "",
        } and other.status_code == 404
        for path in ("/v1/events", "/v1/credits", "/v1/credits/transfers", "/v1/incidents", "/v1/webhooks"):
            answer = await client.get(path)
            assert answer.status_code == 200 and "acme" not in answer.text, path
        assert "globex-1" in (await client.get("/v1/events")).text


async def test_a_webhook_from_its_making_to_its_end(world: World) -> None:
    await world.active()
    async with served(world, Role.ADMIN) as client, served(world, Role.ADMIN, "globex") as other:
        made = await client.post(
            "/v1/webhooks",
            json={"url": "https://hooks.example.com/a", "customer": "acme", "events": ["connection.paused"]},
        )
        assert (made.status_code, made.json()["secret"][:6]) == (201, "whsec_")
        path = f"/v1/webhooks/{made.json()['id']}"
        for answer in (
            await other.delete(path),
            await other.post(f"{path}/secret"),
            await other.post(f"{path}/replay", params={"from": NOW.isoformat()}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "request.not_found")
        assert (await client.get("/v1/webhooks")).json()["items"][0]["events"] == ["connection.paused"]
        new = (await client.post(f"{path}/secret")).json()["secret"]
        assert new[:6] == "whsec_" and new != made.json()["secret"]
        assert new not in (await client.get("/v1/webhooks")).text
        assert (await client.post(f"{path}/replay", params={"from": NOW.isoformat()})).json() == {
            "replayed": 0
        }
        assert (await client.post("/v1/webhooks", json={"url": "https://127.0.0.1/"})).json()[
            "code"
        ] == "request.invalid"
        assert [(await client.delete(path)).status_code for _ in range(2)] == [204, 404]


async def test_dead_letters_are_paged_and_go_out_again(world: World) -> None:
    await world.active()
    await world.execute(
        "insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span) values ('acme-1',"
        " 'm', 'd', 't', 'last', '15 min')"
    )
    await world.execute(
        "insert into dead_letter (kind, digest, connection_id, meter, window_start, reason, detail, last_at)"
        " select 'reading', n::text::bytea, 'acme-1', case when n = 5 then 'unmapped' else 'm' end,"
        " '2026-01-01Z'::timestamptz + n * interval '15 min', 'no', 'x',"
        " '2026-02-01Z'::timestamptz + (n / 2) * interval '1 h' from generate_series(1, 5) n"
    )
    await world.execute("select ensure_partition('telemetry', '2026-01-01')")
    await world.execute(
        "insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision) select 'acme',"
        " 'd', '2026-01-01Z'::timestamptz + n * interval '15 min', '{\"t\": 1}', now(), 0 from"
        " generate_series(1, 5) n"
    )
    async with served(world, Role.OPERATOR) as client:
        seen, cursor = [], None
        while True:
            page = (
                await client.get(
                    "/v1/connections/acme-1/dead-letters",
                    params={"limit": 2, **({"cursor": cursor} if cursor else {})},
                )
            ).json()
            seen += [item["id"] for item in page["items"]]
            if (cursor := page["next"]) is None:
                break
        assert seen == [5, 4, 3, 2, 1]
        one = await client.post("/v1/connections/acme-1/dead-letters/replay", json={"ids": [1, 5, 999]})
        rest = await client.post("/v1/connections/acme-1/dead-letters/replay", json={})
        assert [one.json()["replayed"], rest.json()["replayed"]] == [1, 3]
        left = (await client.get("/v1/connections/acme-1/dead-letters")).json()["items"]
    assert [item["id"] for item in left] == [5]
    assert (
        len(await world.rows("select from due_window where connection_id = 'acme-1' and closes_at <= now()"))
        == 4
    )


HOSTILE = ("\0", "a\0b", "'; drop table connection; --", "𝕏" * 60, "%", "\ud7ff", "9" * 400)


LISTS = (
    "/v1/connections/acme-1/readings",
    "/v1/connections/acme-1/runs",
    "/v1/connections",
    "/v1/events",
    "/v1/incidents",
    "/v1/credits/transfers",
)


async def test_hostile_values_reach_the_database_as_values_or_not_at_all(world: World) -> None:
    await world.active()
    async with served(world, Role.ADMIN) as client:
        for value in HOSTILE:
            for path in (
                "/v1/connections/acme-1/readings",
                "/v1/connections/acme-1/runs",
                "/v1/connections",
                "/v1/events",
                "/v1/incidents",
                "/v1/credits/transfers",
            ):
                for name in ("cursor", "after", "meter", "customer", "system", "limit"):
                    answer = await client.get(path, params={name: value})
                    assert answer.status_code in (200, 422), (path, name, value, answer.text)
            for path in (
                "/v1/connections/{}",
                "/v1/incidents/{}",
                "/v1/connections/{}/status",
                "/reauthorize/{}",
                "/login/{}",
            ):
                answer = await client.get(path.format(httpx.QueryParams({"": value})).replace("=", ""))
                assert answer.status_code in (200, 404, 422), (path, value)
            client.cookies.set("fieldgate_login", "x")
            callback = await client.get("/oauth/callback", params={"state": value, "code": value})
            assert callback.status_code in (404, 422)
        assert (
            await client.get("/v1/connections/acme-1", headers={"Authorization": b"Bearer \xff\xfe"})
        ).status_code == 401


async def test_the_dashboard_on_a_real_database(world: World) -> None:
    await world.active()
    await world.active("globex-1", customer="globex")
    await refused(world)
    secret = await access.create_login(world.database, name="demo", role=Role.OPERATOR)
    async with served(world) as browser:
        assert (await browser.get("/")).headers["location"].startswith("/login")
        assert (await browser.post("/login", data={"link": secret})).status_code == 303
        overview = await browser.get("/")
        assert "Scripted refuses the credential of acme-1" in overview.text and "globex-1" in overview.text
        page = await browser.get("/connections/acme-1")
        assert (
            "401 key revoked" in page.text
            and "auth refused" in page.text
            and "Ask the script for a new key." in page.text
        )
        csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
        assert csrf is not None
        link = await browser.post("/connections/acme-1/reauthorization", data={"csrf": csrf[1]})
        assert "http://gateway.test/reauthorize/" in link.text
        paused = await browser.post("/connections/globex-1/pause", data={"csrf": csrf[1]})
        assert paused.status_code == 303 and await world.state("globex-1") == "paused"
        assert (await browser.post("/connections/acme-1/sync", data={"csrf": csrf[1]})).status_code == 409
        assert (await browser.get("/status")).status_code == 200
    assert [
        row["actor"]
        for row in await world.rows("select actor from connection_audit where trigger = 'pause_asked'")
    ] == ["dashboard:demo"]


# Reconnecting


async def refused(world: World) -> None:
    """The system refuses the credential for good."""
    async with world.engine.transitions.transaction(world.database) as connection:
        await world.engine.transitions.move(
            connection, "acme-1", Trigger.AUTH_REFUSED, Cause(reason="401 key revoked")
        )
    assert await world.state() == "reauthorization_required"


async def invited(world: World) -> str:
    """The path of a new link, made by an operator."""
    async with served(world, Role.OPERATOR) as client:
        answer = await client.post("/v1/connections/acme-1/reauthorization")
    await world.execute("update api_token set revoked_at = now()")
    assert answer.status_code == 201
    return str(answer.json()["url"]).removeprefix("http://gateway.test")


async def test_refused_then_accepted_then_used_up(world: World) -> None:
    await world.active()
    await refused(world)
    path = await invited(world)
    async with served(world) as customer:
        before = await dump(world.database), await world.rows("select * from connection")
        for _ in range(3):
            page = await customer.get(path)
            assert "401 key revoked" in page.text and "is delivered from where it stopped" in page.text
        assert before == (
            await dump(world.database),
            await world.rows("select * from connection"),
        ), "looking changed something"
        world.connector.probe_error = AuthRefused("401 still not")
        await world.service.give_credentials("acme-1", credentials("operator's"), CALLER)
        async with world.living():
            await world.reaches("reauthorization_required")
        await submit(world, path, "wrong")
        assert await world.state() == "verifying" and "Checking" in (await customer.get(path)).text
        async with world.living():
            await world.reaches("reauthorization_required")
            assert "401 still not" in (await customer.get(path)).text
            world.connector.probe_error = None
            await submit(world, path, "right")
            await world.reaches("active")
        page = await customer.get(path)
        assert "is connected again" in page.text and "<form" not in page.text
        with pytest.raises(RequestRefused, match="has been used"):
            await submit(world, path, "again")
    assert await world.state() == "active"
    assert (await world.events())[-1] == "connection.reauthorized"
    assert {
        row["actor"]
        for row in await world.rows("select actor from connection_audit where trigger = 'credentials_given'")
    } == {"test"}


def reauthorization(world: World) -> Reauthorization:
    return Reauthorization(
        world.database,
        world.service,
        public_url="http://gateway.test",
        vault=world.engine.vault,
        login=None,
        reach=lambda *_: ANYWHERE,
    )  # type: ignore[arg-type]


async def submit(world: World, path: str, key: str) -> None:
    await reauthorization(world).submit(path.rpartition("/")[2], credentials(key), CALLER)


async def test_another_account_is_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe(account: str) -> ProbeResult:
        return ProbeResult(account=account)

    monkeypatch.setattr(type(world.connector), "probe", lambda _: probe("acme"))
    await world.active()
    await refused(world)
    path = await invited(world)
    monkeypatch.setattr(type(world.connector), "probe", lambda _: probe("somebody"))
    await submit(world, path, "of somebody else")
    async with world.living():
        await world.reaches("reauthorization_required")
    async with served(world) as customer:
        assert "belong to another account" in (await customer.get(path)).text


async def test_a_system_that_cannot_be_reached_is_no_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.active()
    await refused(world)
    path = await invited(world)
    world.connector.probe_error = Unavailable("no route")
    await submit(world, path, "new")
    await world.execute("update connection set verify_until = now()")
    async with world.living():
        await world.reaches("reauthorization_required")
    async with served(world) as customer:
        assert "could not be reached" in (await customer.get(path)).text


async def test_a_new_link_voids_the_old_and_both_end(world: World) -> None:
    await world.active()
    await refused(world)
    old, new = await invited(world), await invited(world)
    async with served(world) as customer:
        assert [(await customer.get(path)).status_code for path in (old, new)] == [404, 200]
        await world.execute("update reauthorization_link set expires_at = now()")
        assert (await customer.get(new)).status_code == 404
        for path in (old, new):
            with pytest.raises(RequestRefused, match="not valid"):
                await submit(world, path, "late")
    assert await world.state() == "reauthorization_required"
    assert old.rpartition("/")[2] not in await dump(world.database)


async def test_attempts_are_bounded_also_at_once(world: World) -> None:
    await world.active()
    await refused(world)
    path = await invited(world)
    given = 0

    class Counting:
        async def check_credentials(self, *_: object, **__: object) -> None:
            pass

        async def give_credentials(self, *_: object, **__: object) -> None:
            nonlocal given
            given += 1

    service = Reauthorization(
        world.database,
        Counting(),
        public_url="http://gateway.test",
        vault=world.engine.vault,
        login=None,
        reach=lambda *_: ANYWHERE,
    )  # type: ignore[arg-type]
    secret = path.rpartition("/")[2]
    results = await asyncio.gather(
        *(service.submit(secret, credentials("x"), CALLER) for _ in range(3 * MAX_ATTEMPTS)),
        return_exceptions=True,
    )
    assert given == MAX_ATTEMPTS
    assert sum(isinstance(result, RequestRefused) for result in results) == 2 * MAX_ATTEMPTS
    async with served(world) as customer:
        assert "tried too often" in (await customer.get(path)).text


async def test_a_link_is_of_its_connection_only(world: World) -> None:
    await world.active()
    await world.active("globex-1", customer="globex")
    await refused(world)
    path = await invited(world)
    async with served(world) as customer:
        assert "globex" not in (await customer.get(path)).text
        assert "set-cookie" not in (await customer.get(path)).headers
    await submit(world, path, "new")
    states = await world.rows("select connection_id, state from connection order by 1")
    assert [tuple(row.values()) for row in states] == [("acme-1", "verifying"), ("globex-1", "active")]


# The system's own login page


@pytest.fixture
async def authorization(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as server:
        yield server


async def test_a_login_on_a_real_authorization_server(world: World, authorization: OAuthServer) -> None:
    capabilities = replace(world.system.manifest.capabilities, auth=("oauth2_authorization_code",))
    world.system.manifest = replace(world.system.manifest, capabilities=capabilities)
    values = {**authorization.endpoints, **WEB, "scope": "read"}
    given = CredentialSettings.model_validate(
        {"type": "oauth2_authorization_code", **{name: SecretStr(value) for name, value in values.items()}}
    )
    await world.service.create(wanted().model_copy(update={"credentials": given}), CALLER)
    world.connector.probe_error = AuthRefused("no token yet")
    async with world.living():
        await world.reaches("pending")
    world.connector.probe_error = None
    path = await invited(world)
    async with served(world) as customer, served(world) as thief, world.living():
        page = await customer.get(path)
        assert "Log in to Scripted" in page.text and 'type="password"' not in page.text
        leaving = await customer.post(f"{path}/login")
        address = re.search(r'href="(http[^"]+/o/authorize/[^"]+)"', leaving.text)
        assert address is not None
        url = address[1].replace("&amp;", "&")
        query = httpx.URL(url).params
        assert (query["code_challenge_method"], query["redirect_uri"]) == (
            "S256",
            "http://gateway.test/oauth/callback",
        )
        assert query["state"] not in await dump(world.database)
        code = await authorization.code(url)
        for wrong in ({"state": "other", "code": code}, {"state": query["state"], "code": code}):
            assert (await thief.get("/oauth/callback", params=wrong)).status_code == 404
        assert (
            await customer.get("/oauth/callback", params={"state": "other", "code": code})
        ).status_code == 404
        back = await customer.get("/oauth/callback", params={"state": query["state"], "code": code})
        assert (back.status_code, back.headers["location"]) == (303, path)
        await world.reaches("active")
        assert "is connected again" in (await customer.get(path)).text
        assert (
            await customer.get("/oauth/callback", params={"state": query["state"], "code": code})
        ).status_code == 404
    held = await world.rows(
        "select c.generation, t.sealed from connection c join token t using (connection_id) where"
        " t.generation = c.generation"
    )
    assert len(held) == 1 and held[0]["sealed"] is not None
    assert isinstance(world.engine.tokens, Tokens)


async def test_a_code_that_is_refused_leaves_the_link_usable(
    world: World, authorization: OAuthServer
) -> None:
    capabilities = replace(world.system.manifest.capabilities, auth=("oauth2_authorization_code",))
    world.system.manifest = replace(world.system.manifest, capabilities=capabilities)
    values = {**authorization.endpoints, **WEB, "scope": "read"}
    given = CredentialSettings.model_validate(
        {"type": "oauth2_authorization_code", **{name: SecretStr(value) for name, value in values.items()}}
    )
    world.connector.probe_error = AuthRefused("no token yet")
    await world.service.create(wanted().model_copy(update={"credentials": given}), CALLER)
    async with world.living():
        await world.reaches("pending")
    path = await invited(world)
    async with served(world) as customer:
        for query, says in (
            ({"code": "invented"}, "did not confirm"),
            ({"error": "access_denied"}, "was not completed"),
        ):
            leaving = await customer.post(f"{path}/login")
            state = re.search(r"state=([\w-]+)", leaving.text)
            assert state is not None
            back = await customer.get("/oauth/callback", params={"state": state[1], **query})
            assert says in (await customer.get(back.headers["location"])).text
    assert await world.state() == "pending"


async def test_links_last_a_week(world: World) -> None:
    await world.active()
    invitation = await reauthorization(world).invite("acme-1")
    [row] = await world.rows("select expires_at - created_at as lasts from reauthorization_link")
    assert row["lasts"] == timedelta(days=7)
    assert invitation.url not in repr(invitation)


async def test_what_moved_is_said_after_the_commit_and_what_was_rolled_back_is_not(world: World) -> None:
    await world.active()
    transitions, cause = world.engine.transitions, Cause(reason="401 key revoked")
    with capture_logs() as logs:
        with pytest.raises(ZeroDivisionError):
            async with transitions.transaction(world.database) as connection:
                assert await transitions.move(connection, "acme-1", Trigger.AUTH_REFUSED, cause) is not None
                raise ZeroDivisionError
        assert await world.state() == "active" and not logs
        async with transitions.transaction(world.database) as connection:
            await transitions.move(connection, "acme-1", Trigger.AUTH_REFUSED, cause)
            assert not logs
        assert [(each["event"], each["to_state"]) for each in logs] == [
            ("connection.state_changed", "reauthorization_required")
        ]
        with pytest.raises(LookupError):  # nobody would hear of it
            async with world.database.transaction() as connection:
                await transitions.move(connection, "acme-1", Trigger.DISCONNECT_ASKED, cause)
    assert await world.state() == "reauthorization_required"
