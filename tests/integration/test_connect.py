"""A system is connected step by step, without script, against an authorization server and a system that we
did not write: by an operator, and by a customer through a connect link.
"""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.servers import wait_until
from connectors.registry import SYSTEMS
from gateway.connections import lifecycle, next_look
from gateway.connections.reauthorization import MAX_ATTEMPTS
from gateway.model.access import Principal, Role
from gateway.model.sample import to_microseconds
from gateway.settings import CreditsSettings, EgressSettings
from gateway.store import access
from gateway.store.credits import sync_capacity
from gateway.store.devices import Seen, write
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import CALLER, World, settings
from tests.fixtures.http_rig import served
from tests.fixtures.oauth_server import ASKING, WEB, OAuthServer
from tests.integration.test_access import dump

SECRETS = (WEB["client_secret"], ASKING["client_secret"])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(next_look, "RETRY_CAP_SECONDS", 0.02)


@pytest.fixture
async def world(database: Database) -> World:
    await sync_capacity(database, CreditsSettings())
    allowed = EgressSettings(allow=(ip_network("127.0.0.0/8"),))
    return World(database, settings=settings(egress=allowed), more_systems=SYSTEMS)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as started:
        yield started


@dataclass
class Browser:
    """Follows forms and redirects as a browser does, and looks at every page for what must not be there."""

    client: httpx.AsyncClient
    page: httpx.Response = field(init=False)
    secrets: list[str] = field(default_factory=lambda: list(SECRETS))

    async def get(self, path: str) -> httpx.Response:
        return self._seen(await self.client.get(path, follow_redirects=True))

    async def send(self, _action: str | None = None, /, **filled: str) -> httpx.Response:
        """The form of the page with this action (the first POST otherwise), filled in."""
        forms = re.findall(r"<form([^>]*)>(.*?)</form>", self.page.text, re.DOTALL)
        for attributes, body in forms:  # noqa: B007 - read after the loop
            action = html.unescape(re.search(r'action="([^"]*)"', attributes)[1])  # type: ignore[index]
            if 'method="post"' in attributes and action != "/logout" and _action in (None, action):
                break
        else:
            raise AssertionError(f"no form {_action}: {self.page.text}")
        values: dict[str, str] = {}
        for tag in re.findall(r"<input[^>]*>", body):
            name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
            if name and ('type="checkbox"' not in tag or " checked" in tag):
                values[html.unescape(name[1])] = html.unescape(value[1]) if value else ""
        for name, body_ in re.findall(r'<textarea[^>]*name="([^"]*)"[^>]*>(.*?)</textarea>', body, re.DOTALL):
            values[name] = html.unescape(body_)
        for name, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', body, re.DOTALL):
            chosen = re.search(r"<option selected>([^<]*)", options) or re.search(r"<option>([^<]*)", options)
            values[name] = html.unescape(chosen[1]) if chosen else ""
        return self._seen(await self.client.post(action, data={**values, **filled}, follow_redirects=True))

    def leaving(self) -> str:
        """Where the page leads to."""
        found = re.search(r'href="(http[^"]+/o/authorize/[^"]+)"', self.page.text)
        assert found is not None, self.page.text
        return html.unescape(found[1])

    def _seen(self, answer: httpx.Response) -> httpx.Response:
        assert answer.status_code < 500, answer.text
        assert not [secret for secret in self.secrets if secret in html.unescape(answer.text)]
        self.page = answer
        return answer


@asynccontextmanager
async def logged_in(world: World, customer: str | None = None) -> AsyncIterator[Browser]:
    token = await access.create(
        world.database, name=f"admin of {customer}", role=Role.ADMIN, customer=customer
    )
    principal = Principal(name="ada", role=Role.ADMIN, customer=customer)
    session = await access.open_session(world.database, principal, token.token_id)
    async with served(world, cookies={"fieldgate_session": session.secret}) as client:
        yield Browser(client)


@asynccontextmanager
async def stranger(world: World) -> AsyncIterator[Browser]:
    async with served(world) as client:
        yield Browser(client)


def where(server: OAuthServer) -> dict[str, Any]:
    return {
        "base_url": server.url,
        "path": "/api/readings",
        "probe_path": "/api/readings",
        "account": "account",
    }


def client_of(server: OAuthServer, client: dict[str, str] = WEB) -> dict[str, str]:
    return {**server.endpoints, **client, "scope": "read"}


async def to_credentials(browser: Browser, server: OAuthServer) -> None:
    await browser.get("/connect")
    await browser.send(customer="acme", system="http_json:cloud")
    assert "Where it is" in browser.page.text
    await browser.send(**where(server))
    assert str(browser.page.url).endswith("/credentials"), browser.page.text


async def to_login(browser: Browser, server: OAuthServer, client: dict[str, str] = WEB) -> str:
    """As far as the server's page; its address."""
    await to_credentials(browser, server)
    await browser.get(f"{browser.page.url}?as=oauth2_authorization_code")
    await browser.send(**client_of(server, client))
    return browser.leaving()


async def come_back(browser: Browser, url: str, **query: str) -> httpx.Response:
    state = httpx.URL(url).params["state"]
    return await browser.get(f"/oauth/callback?{httpx.QueryParams({'state': state, **query})}")


async def pumps(world: World) -> None:
    """An hour of two pumps."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    samples = [
        (
            ("acme", f"pump-{pump}", to_microseconds(now - timedelta(minutes=minute))),
            {"temperature": minute},
            0,
        )
        for pump in (1, 2)
        for minute in range(5, 120, 5)
    ]
    async with world.database.connection() as connection:
        await connection.execute("insert into customer values ('acme') on conflict do nothing")
    await TelemetryStore(world.database, register_customers=True).write(samples, ())
    at = to_microseconds(now)
    seen = [
        Seen(
            customer="acme",
            device=f"pump-{pump}",
            title=None,
            source=None,
            seen=at,
            first=at,
            last=at,
            values={"temperature": 21.5 + pump},
            times={"temperature": at},
            since=at,
        )
        for pump in (1, 2)
    ]
    await write(world.database, seen, [one.payload() for one in seen])


# Authorization code with PKCE, in the wizard


async def test_a_login_connects_and_its_token_is_renewed(world: World, server: OAuthServer) -> None:
    async with logged_in(world) as browser:
        url = await to_login(browser, server)
        assert httpx.URL(url).params["code_challenge_method"] == "S256"
        code = await server.code(url)
        await come_back(browser, url, code=code)
        assert "Logged in" in browser.page.text
        await browser.send()
        assert "takes them" in browser.page.text and "operator" in browser.page.text
        assert not await world.rows("select 1 from connection")
        await browser.get(str(browser.page.url).replace("/verify", "/meters"))
        await browser.send(do="next")
        assert "1 credit" in browser.page.text
        async with world.living():
            await browser.send(title="Acme's receiver", id="acme-1")
            assert str(browser.page.url).endswith("/connections/acme-1/first-sync")
            await world.reaches("active")
            await browser.get("/connections/acme-1/first-sync")
            assert "is connected" in browser.page.text and "Acme&#39;s receiver" in browser.page.text
            assert 'href="/connections/acme-1/meters"' in browser.page.text, "no meters were chosen"
            [held] = await world.rows("select title, account, credential_type, origin from connection")
            assert held == {
                "title": "Acme's receiver",
                "account": "operator",
                "credential_type": "oauth2_authorization_code",
                "origin": "trusted",
            }
            await renewed(world, server)
        assert not await world.rows("select 1 from connect_draft")
        stored = await dump(world.database)
        assert not [secret for secret in (*SECRETS, code) if secret in stored]


async def renewed(world: World, server: OAuthServer) -> None:
    """The access token ends: the connection gets another, under a refresh token that rotates, and goes on."""
    before = await server.token_requests()
    for turn in (1, 2):
        await server.lever(expire_access=True)
        await world.due_now()
        wanted = before + turn

        async def asked(wanted: int = wanted) -> bool:
            return await server.token_requests() >= wanted

        await wait_until(asked, what="a new token is asked for")
    await world.due_now()

    async def looked() -> bool:
        [row] = await world.rows("select probe_at > now() as ahead from connection")
        return bool(row["ahead"])

    await wait_until(looked, what="it was looked at")
    assert await world.state() == "active"
    assert (await server.lever())["refused_grants"] == 0


async def test_a_refused_consent_changes_nothing_and_can_be_given_again(
    world: World, server: OAuthServer
) -> None:
    async with logged_in(world) as browser:
        url = await to_login(browser, server, ASKING)
        denied = await server.decide(url, allow=False)
        assert denied["error"] == "access_denied"
        await browser.get(f"/oauth/callback?{httpx.QueryParams(denied)}")
        assert "was not completed" in browser.page.text
        assert not await world.rows("select 1 from connection")
        await browser.send()  # what was given is kept: every field may stay empty
        allowed = await server.decide(browser.leaving(), allow=True)
        await browser.get(f"/oauth/callback?{httpx.QueryParams(allowed)}")
        await browser.send()
        assert "takes them" in browser.page.text


async def test_a_wrong_account_is_seen_before_it_is_connected_and_not_taken_afterwards(
    world: World, server: OAuthServer
) -> None:
    async with logged_in(world) as browser:
        await server.lever(person="somebody")
        url = await to_login(browser, server)
        await come_back(browser, url, code=await server.code(url))
        await browser.send()
        assert "somebody" in browser.page.text and "Use another account" in browser.page.text
        await browser.get(str(browser.page.url).replace("/verify", "/credentials"))
        await browser.send()
        await server.lever(person="operator")
        again = browser.leaving()
        await come_back(browser, again, code=await server.code(again))
        await browser.send()
        assert "operator" in browser.page.text and "somebody" not in browser.page.text
        await browser.get(str(browser.page.url).replace("/verify", "/confirm"))
        async with world.living():
            await browser.send(id="acme-1")
            await world.reaches("active")
            async with stranger(world) as customer:
                await browser.get("/connections/acme-1")
                await browser.send("/connections/acme-1/reauthorization")
                link = re.search(r'value="http://gateway.test(/reauthorize/[^"]+)"', browser.page.text)
                assert link is not None
                await customer.get(link[1])
                await server.lever(person="somebody")
                await customer.send(f"{link[1]}/login")
                url = customer.leaving()
                await come_back(customer, url, code=await server.code(url))

                async def told() -> bool:
                    return "belong to another account" in (await customer.get(link[1])).text

                await wait_until(told, what="the other account is told")
                assert await world.state() == "active"
                await server.lever(person="operator")
                await customer.send(f"{link[1]}/login")
                url = customer.leaving()
                await come_back(customer, url, code=await server.code(url))

                async def done() -> bool:
                    return "is connected again" in (await customer.get(link[1])).text

                await wait_until(done, what="it is connected again")
                await renewed(world, server)


@pytest.mark.parametrize("lost", ["replayed", "too late", "another browser", "invented", "a newer login"])
async def test_an_answer_that_got_lost_is_explained(world: World, server: OAuthServer, lost: str) -> None:
    async with logged_in(world) as browser, stranger(world) as other:
        url = await to_login(browser, server)
        steps = str(browser.page.url)
        code, state = await server.code(url), httpx.URL(url).params["state"]
        coming = browser
        match lost:
            case "replayed":
                await come_back(browser, url, code=code)
                browser.client.cookies.set("fieldgate_login", "x", path="/oauth/callback")
            case "too late":
                await world.execute("update connect_draft set flow_until = now()")
            case "another browser":
                coming = other
            case "invented":
                state = "invented"
            case _:
                await browser.get(f"{steps.partition('?')[0]}?as=oauth2_authorization_code")
                await browser.send()
        spent = await server.token_requests()
        answer = await coming.get(f"/oauth/callback?{httpx.QueryParams({'state': state, 'code': code})}")
        assert answer.status_code == 404 and "This login was not taken" in answer.text
        assert "log in once more" in answer.text and await server.token_requests() == spent
        # and the way is free
        await browser.get(f"{steps.partition('?')[0]}?as=oauth2_authorization_code")
        await browser.send()
        again = browser.leaving()
        await come_back(browser, again, code=await server.code(again))
        assert "Logged in" in browser.page.text


async def test_a_code_that_the_server_refuses(world: World, server: OAuthServer) -> None:
    async with logged_in(world) as browser:
        url = await to_login(browser, server)
        await come_back(browser, url, code="invented")
        assert "did not confirm the login" in browser.page.text
        await browser.get(str(browser.page.url).partition("?")[0].replace("/credentials", "/verify"))
        assert "Nobody has logged in yet" in browser.page.text


# The steps


async def test_the_whole_way_without_script(world: World, server: OAuthServer) -> None:
    await pumps(world)
    async with logged_in(world) as browser:
        browser.secrets.append("canary-key")
        await to_credentials(browser, server)
        await server.lever(accepting=True)
        await browser.get(f"{browser.page.url}?as=api_key")
        await browser.send(api_key="canary-key")
        assert "refused the credentials" in browser.page.text and "401" in browser.page.text
        base = str(browser.page.url).removesuffix("/verify")
        for too_early in ("meters", "confirm"):
            assert str((await browser.get(f"{base}/{too_early}")).url).endswith("/verify")
        token = await access_token(server)
        browser.secrets.append(token)
        await browser.get(f"{base}/credentials?as=api_key")
        await browser.send(api_key=token)
        assert "takes them" in browser.page.text, browser.page.text
        await browser.get(f"{base}/meters")
        assert browser.page.text.count("temperature") >= 2
        await browser.send(**{"m0.meter": "P1", "m0.reduce": "max", "m0.unit": "CEL", "do": "preview"})
        assert "What the last hour would have given" in browser.page.text
        shown = re.findall(r'class="reading">.*?</span>\s*([\d.]+)', browser.page.text, re.DOTALL)
        assert len(shown) == 4, browser.page.text
        calendar = {"m0.every": "day", "m0.source": "degF"}
        await browser.send(f"{base}/meters".removeprefix("http://gateway.test"), do="next", **calendar)
        assert browser.page.status_code == 409 and "needs the `zone`" in browser.page.text
        pattern = re.findall(r'name="(m\d+)\.device" value="" placeholder', browser.page.text)[0]
        many = {"device": "pump-*", "metric": "temp*", "meter": "{device} {metric}", "reduce": "max"}
        filled = {"m0.zone": "Europe/Berlin", **{f"{pattern}.{name}": text for name, text in many.items()}}
        await browser.send(f"{base}/meters".removeprefix("http://gateway.test"), do="preview", **filled)
        page = browser.page.text
        assert "max of a day in Europe/Berlin" in page and "pump-2 temperature" in page, page
        twice = {"m0.meter": "same", "m1.meter": "same", "do": "next"}
        await browser.send(f"{base}/meters".removeprefix("http://gateway.test"), **twice)
        assert browser.page.status_code == 409 and 'class="fault"' in browser.page.text
        await browser.send(f"{base}/meters".removeprefix("http://gateway.test"), **{"m1.meter": "P2"})
        await browser.get(f"{base}/confirm")
        await browser.send(id="not an id", days="1000", title="x" * 121)
        assert browser.page.text.count('class="fault"') == 3
        async with world.living():
            await browser.send(id="acme-9", days="1", title="")
            await world.reaches("active", "acme-9")
        [held] = await world.rows("select meters, sync from connection")
        made = {meter["meter"]: meter for meter in held["meters"]}
        assert made.keys() == {"same", "P2", "{device} {metric}"}
        assert (made["same"]["every"], made["same"]["zone"]) == ("day", "Europe/Berlin")
        assert made["same"]["arithmetic"]["conversion"]["from"] == "degF"
        assert made["{device} {metric}"]["metric"] == "temp*"
        assert held["sync"]["initial_days"] == 1


async def access_token(server: OAuthServer) -> str:
    from connectors.kit.oauth import OAuthExchange
    from gateway.model.credential import Credential
    from tests.fixtures.oauth_server import MACHINE

    machine = Credential(
        generation=1,
        type="oauth2_client_credentials",
        values={**server.endpoints, **MACHINE, "scope": "read"},
    )
    return (await OAuthExchange().refresh(machine, None, timeout_seconds=10)).access_token


@pytest.mark.parametrize(
    ("filled", "field_", "says"),
    [
        ({"base_url": ""}, "base_url", "Please fill this in."),
        ({"base_url": "http://crm.example.com"}, "base_url", "use https"),
        ({"base_url": "https://x.example", "max_items": "many"}, "max_items", "not a number"),
        ({"base_url": "https://x.example", "max_items": "0"}, "max_items", "greater than or equal to 1"),
        ({"base_url": "https://x.example", "reading": "{"}, "reading", "not JSON"),
        ({"base_url": "https://x.example", "path": "no slash"}, "path", "pattern"),
        ({"base_url": "https://x.example", "streams": '{"a": {}}'}, "streams", "is missing"),
    ],
)
async def test_a_setting_that_cannot_be_is_refused_at_its_field(
    world: World, filled: dict[str, str], field_: str, says: str
) -> None:
    async with logged_in(world) as browser:
        await browser.get("/connect")
        await browser.send(customer="acme", system="http_json:cloud")
        await browser.send(**filled)
        assert browser.page.status_code == 409
        fault = re.search(rf'id="fault-{field_}">([^<]*)', browser.page.text)
        assert fault is not None and says in html.unescape(fault[1]), browser.page.text
        assert filled[field_] in html.unescape(browser.page.text)


async def test_a_customer_or_system_that_there_is_not(world: World) -> None:
    async with logged_in(world) as browser:
        await browser.get("/connect")
        await browser.send(customer="nobody", system="http_json:cloud")
        assert browser.page.status_code == 409 and "Choose one of the customers" in browser.page.text
        await browser.send(customer="acme", system="nonsense")
        assert browser.page.status_code == 409 and "Choose a system" in browser.page.text


async def test_what_was_entered_is_of_its_owner_and_ends(world: World, server: OAuthServer) -> None:
    async with logged_in(world) as browser, logged_in(world, "globex") as other:
        await to_credentials(browser, server)
        steps = str(browser.page.url)
        answer = await other.get(steps)
        assert answer.status_code == 404 and server.url not in answer.text
        assert server.url not in await dump(world.database), "what was entered is sealed"
        await world.execute("update connect_draft set expires_at = now()")
        assert "kept for two hours" in (await browser.get(steps)).text


async def test_of_many_that_are_begun_the_one_that_was_left_for_longest_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.connecting.MAX_DRAFTS", 2)
    async with logged_in(world) as operator, logged_in(world, "acme") as browser:
        await operator.get("/connect")
        await operator.send(customer="acme", system="http_json:cloud")
        steps = []
        for _ in range(3):
            await browser.get("/connect")
            await browser.send(system="http_json:cloud")
            steps.append(str(browser.page.url))
        assert [(await browser.get(step)).status_code for step in steps] == [404, 200, 200]
        assert (await operator.get(str(operator.page.url))).status_code == 200, "an operator's is another's"


async def test_a_bound_administrator_connects_its_own_customers_systems_only(world: World) -> None:
    async with logged_in(world, "globex") as browser:
        await browser.get("/connect")
        assert "acme" not in browser.page.text
        await browser.send(customer="acme", system="http_json:cloud")
        assert "For customer globex" in browser.page.text


async def test_credits_that_are_not_there_are_said_and_nothing_is_made(
    world: World, server: OAuthServer
) -> None:
    async with logged_in(world) as browser:
        url = await to_login(browser, server)
        await come_back(browser, url, code=await server.code(url))
        await browser.send()
        await sync_capacity(world.database, CreditsSettings(capacity=0))
        await browser.get(str(browser.page.url).replace("/verify", "/confirm"))
        await browser.send(id="acme-1")
        assert browser.page.status_code == 409 and "credits" in browser.page.text
        assert not await world.rows("select 1 from connection")
        assert await world.rows("select 1 from connect_draft")


# Connect links


async def link_for(world: World, server: OAuthServer | None, **wanted: Any) -> tuple[str, str]:
    """Id and path of a new link."""
    body: dict[str, Any] = {"customer": "acme", "systems": ["http_json"], **wanted}
    if server is not None:
        body |= {
            "settings": where(server),
            "credentials": {"type": "oauth2_authorization_code", **client_of(server)},
        }
    async with served(world, Role.ADMIN) as client:
        answer = await client.post("/v1/connect-links", json=body)
    await world.execute("update api_token set revoked_at = now()")
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], answer.json()["url"].removeprefix("http://gateway.test")


async def test_a_customer_connects_through_a_link_once(world: World, server: OAuthServer) -> None:
    _, path = await link_for(world, server, title="The receiver")
    assert path.rpartition("/")[2] not in await dump(world.database)
    async with stranger(world) as customer, world.living():
        for _ in range(3):
            await customer.get(path)
        assert not await world.rows("select 1 from connect_draft"), "looking changes nothing"
        await customer.send(path, system="http_json")
        await customer.send(base_url="https://evil.example", max_items="7")
        assert "Log in" in customer.page.text and 'name="client_id"' not in customer.page.text
        await customer.send()
        url = customer.leaving()
        await come_back(customer, url, code=await server.code(url))
        await customer.send()
        assert "operator" in customer.page.text
        await customer.get(f"{path}/confirm")
        assert "credit" not in customer.page.text and "The receiver" in customer.page.text
        await customer.send()
        assert str(customer.page.url).endswith(path), customer.page.text
        [held] = await world.rows(
            "select connection_id, customer_id, settings, origin, title from connection"
        )
        await world.reaches("active", held["connection_id"])
        assert held["settings"] == {**where(server), "max_items": 7}
        assert (held["customer_id"], held["origin"], held["title"]) == ("acme", "bound", "The receiver")
        await customer.get(path)
        assert "is connected" in customer.page.text and "/connections/" not in customer.page.text
        assert "no readings are sent yet" in customer.page.text, "no meters were chosen"
        for step in ("", "/settings", "/confirm"):
            again = await customer.client.post(f"{path}{step}", data={"system": "http_json"})
            assert again.status_code == 404
        assert len(await world.rows("select 1 from connection")) == 1


async def test_a_link_takes_no_other_system_and_no_other_site(world: World) -> None:
    _, path = await link_for(world, None, systems=["maintainx", "odata"])
    async with stranger(world) as customer:
        await customer.get(path)
        assert "HTTP receiver" not in customer.page.text
        await customer.send(path, system="http_json")
        assert customer.page.status_code == 409
        foreign = await customer.client.post(
            path, data={"system": "odata"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert foreign.status_code == 403


async def test_what_a_revoked_link_brought_does_not_come_back_with_the_answer_of_a_system(
    world: World, server: OAuthServer
) -> None:
    link, path = await link_for(world, None)
    verify = world.engine.verifier.verify

    async def revoked_meanwhile(*asked: Any, **how: Any) -> Any:
        found = await verify(*asked, **how)
        async with served(world, Role.ADMIN) as client:
            assert (await client.delete(f"/v1/connect-links/{link}")).status_code == 204
        return found

    world.engine.verifier.verify = revoked_meanwhile  # type: ignore[method-assign]
    async with stranger(world) as customer:
        await customer.get(path)
        await customer.send(path, system="http_json")
        await customer.send(**where(server))
        await customer.get(f"{path}/credentials?as=api_key")
        await customer.send(api_key="canary-key")
        assert customer.page.status_code in (404, 409), customer.page.text
    assert not await world.rows("select 1 from connect_draft")


async def test_a_customer_has_so_many_links_that_are_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.connecting.MAX_OPEN_LINKS", 2)
    monkeypatch.setattr("gateway.store.connecting.MAX_LISTED_LINKS", 3)
    async with served(world, Role.ADMIN, "acme") as client:

        async def made() -> httpx.Response:
            return await client.post("/v1/connect-links", json={"customer": "acme", "systems": ["http_json"]})

        for _ in range(6):
            assert (
                await client.delete(f"/v1/connect-links/{(await made()).json()['id']}")
            ).status_code == 204
        kept = [(await made()).json()["id"] for _ in range(2)]
        refused = await made()
        assert (refused.status_code, refused.json()["code"]) == (409, "request.conflict")
        listed = [item["id"] for item in (await client.get("/v1/connect-links")).json()["items"]]
        assert listed[:2] == kept[::-1]
    assert len(await world.rows("select 1 from connect_link")) == 4, "one more than are listed"


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_link_that_ended(world: World, server: OAuthServer, end: str) -> None:
    link, path = await link_for(world, server)
    async with stranger(world) as customer:
        await customer.get(path)
        await customer.send(path, system="http_json")
        if end == "revoked":
            async with served(world, Role.ADMIN) as client:
                assert (await client.delete(f"/v1/connect-links/{link}")).status_code == 204
                assert (await client.delete(f"/v1/connect-links/{link}")).status_code == 404
                [shown] = (await client.get("/v1/connect-links")).json()["items"]
            assert shown["state"] == "revoked" and "url" not in shown
            assert not await world.rows("select 1 from connect_draft")
        else:
            await world.execute("update connect_link set expires_at = now()")
        for answer in (await customer.client.get(path), await customer.client.get(f"{path}/settings")):
            assert answer.status_code == 404
        assert end in (await customer.get(path)).text


async def test_links_are_of_their_customer(world: World) -> None:
    link, _ = await link_for(world, None)
    async with served(world, Role.ADMIN, "globex") as client:
        assert (await client.get("/v1/connect-links")).json()["items"] == []
        assert (await client.delete(f"/v1/connect-links/{link}")).status_code == 404
        body = {"customer": "acme", "systems": ["odata"]}
        assert (await client.post("/v1/connect-links", json=body)).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"systems": ["nonsense"]}, "no system 'nonsense'"),
        ({"systems": ["odata", "http_json"], "settings": {"base_url": "https://x.example"}}, "name one"),
        ({"settings": {"base_url": "http://x.example"}}, "use https"),
        ({"settings": {"base_uri": "x"}}, "unknown key"),
        ({"credentials": {"type": "api_key", "api_key": "k"}}, "only an OAuth client"),
    ],
)
async def test_what_cannot_be_given_ahead(world: World, wanted: dict[str, Any], says: str) -> None:
    async with served(world, Role.ADMIN) as client:
        answer = await client.post(
            "/v1/connect-links", json={"customer": "acme", "systems": ["http_json"], **wanted}
        )
    assert answer.status_code == 422 and says in answer.json()["detail"], answer.text


# The customer's page


async def waiting(world: World) -> str:
    """A connection whose key the system refuses, and the path of its link."""
    from tests.integration.test_http_engine import invited, refused

    await world.active()
    await refused(world)
    return await invited(world)


async def test_what_cannot_be_sent_costs_no_attempt_and_is_said_at_the_field(world: World) -> None:
    path = await waiting(world)
    await world.execute(
        "update connection set system = 'http_json', settings = '{\"base_url\": \"https://x.example\"}'"
    )
    async with stranger(world) as customer:
        for key in ("", "é", "a\u00a0b", "x" * 9000):
            await customer.get(path)
            await customer.send(api_key=key)
            assert customer.page.status_code == 409 and "no attempt was used" in customer.page.text
            fault = re.search(r'id="fault-api_key">([^<]+)', customer.page.text)
            assert fault is not None and "validation" not in fault[1]
        assert f"{MAX_ATTEMPTS} attempts left" in customer.page.text


async def test_the_same_credential_is_tried_again(world: World) -> None:
    path = await waiting(world)
    async with stranger(world) as customer:
        await customer.get(path)
        await customer.send(f"{path}/again")
        assert "Checking" in customer.page.text
        async with world.living():
            await world.reaches("active")
        assert "is connected again" in (await customer.get(path)).text
    [row] = await world.rows("select count(*) as n from credential")
    assert row["n"] == 1


async def test_what_was_solved_meanwhile_is_told_also_by_an_old_link(world: World) -> None:
    path = await waiting(world)
    async with stranger(world) as customer:
        await world.service.retry_credentials("acme-1", CALLER)
        async with world.living():
            await world.reaches("active")
        assert "works again" in (await customer.get(path)).text
        assert "has not accepted" not in customer.page.text
        await world.execute("update reauthorization_link set expires_at = now()")
        assert "works again" in (await customer.get(path)).text and "<form" not in customer.page.text
        answer = await customer.client.post(path, data={"api_key": "new"})
        assert answer.status_code in (404, 409) and await world.state() == "active"
