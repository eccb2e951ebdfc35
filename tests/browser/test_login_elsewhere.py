"""Authorization code with PKCE as a person meets it: in a real browser, from a connect link to an authorization
server that we did not write and back; consent refused, another account, the way back lost; and later again, to
reconnect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.async_api import Page, expect

from benchmarks.daemon import Daemon
from benchmarks.servers import Mosquitto, free_port, wait_until
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database
from tests.fixtures.browser import Eyes, api_of, eyes, needs_chromium
from tests.fixtures.oauth_server import ASKING, PEOPLE, OAuthServer

pytestmark = needs_chromium


async def to_the_login(page: Page, server: OAuthServer) -> None:
    """From the link to the server's own page."""
    await page.get_by_role("button").first.click()
    await page.get_by_label("Base URL").fill(server.url)
    await page.get_by_label("Probe path").fill("/api/readings")
    await page.get_by_text("further settings").click()
    await page.locator("#f-path").fill("/api/readings")
    await page.locator("#f-account").fill("account")
    await page.get_by_role("button", name="Next: credentials").click()
    await page.get_by_role("link", name="Log in on its page").click()
    for label, value in {
        "Authorization URL": server.endpoints["authorization_url"],
        "Token URL": server.endpoints["token_url"],
        "Client ID": ASKING["client_id"],
        "Client secret": ASKING["client_secret"],
        "Scope": "read",
    }.items():
        await page.get_by_label(label).fill(value)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{server.url}/o/authorize/**")


@dataclass
class Scene:
    """Everything that runs, and the phone of the customer's administrator."""

    url: str
    server: OAuthServer
    api: httpx.AsyncClient
    eyes: Eyes
    page: Page

    async def allow(self) -> None:
        await self.page.locator("input[name=allow]").click()

    async def reaches(self, connection: str, state: str) -> None:
        async def is_there() -> bool:
            found = await self.api.request("GET", f"/v1/connections/{connection}/status")
            return bool(found.json()["state"] == state)

        await wait_until(is_there, what=state, seconds=30)


@asynccontextmanager
async def staged(tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        daemon = Daemon(
            tmp_path,
            broker_url=mosquitto.url,
            dsn=dsn,
            sync={"probe_interval": "2s", "backoff_cap": "1s"},
            egress={"allow": ["127.0.0.0/8"]},
        )
        daemon.start()
        stack.push_async_callback(daemon.kill)
        url = f"http://127.0.0.1:{daemon.port}"
        # By another name it is another site: the cookie of the way back has to survive that.
        server = OAuthServer(tmp_path, redirect=f"{url}/oauth/callback", host="localhost")
        await stack.enter_async_context(server)
        looking = await stack.enter_async_context(eyes())
        await daemon.ready()
        token = (await access.create(database, name="walk", role=Role.ADMIN)).token
        api = await stack.enter_async_context(api_of(url, token))
        page = await stack.enter_async_context(looking.of(url, phone=True))
        yield Scene(url, server, api, looking, page)


async def consent_is_refused(scene: Scene) -> None:
    page = scene.page
    await page.get_by_role("button", name="Cancel").or_(page.locator("input[value=Cancel]")).click()
    await expect(page.get_by_role("alert")).to_contain_text("was not completed")
    await scene.eyes.look(page, "login-refused")


async def another_account_is_seen(scene: Scene) -> None:
    page = scene.page
    await scene.server.lever(person="somebody")
    await page.get_by_role("button", name="Log in").click()
    await scene.allow()
    await page.wait_for_url("**/verify")
    await page.get_by_role("button", name="Check the connection").click()
    await expect(page.get_by_text("somebody")).to_be_visible()
    await scene.eyes.look(page, "login-another-account")
    await page.get_by_role("link", name="Use another account").click()
    await scene.server.lever(person="operator")


async def the_way_back_is_of_one_browser(scene: Scene) -> None:
    page = scene.page
    async with page.expect_request("**/oauth/callback?*") as came_back:
        await page.get_by_role("button", name="Log in").click()
        await scene.allow()
    await page.wait_for_url("**/verify")
    async with scene.eyes.of(scene.url) as stranger:  # who finds the address gets nothing by it
        await stranger.goto((await came_back.value).url)
        await expect(stranger.get_by_role("heading", name="This login was not taken")).to_be_visible()
        await scene.eyes.look(stranger, "login-lost")


async def it_is_connected(scene: Scene) -> str:
    page = scene.page
    await page.get_by_role("button", name="Check the connection").click()
    await expect(page.get_by_text("operator")).to_be_visible()
    await page.get_by_role("link", name="Next: meters").click()
    await page.get_by_role("button", name="Next: confirm").click()
    await page.get_by_role("button", name="Connect", exact=True).click()
    await expect(page.get_by_text("is connected.")).to_be_visible()
    [connection] = (await scene.api.request("GET", "/v1/connections")).json()["items"]
    return str(connection["id"])


async def it_is_connected_again(scene: Scene, connection: str) -> None:
    page = scene.page
    await scene.server.lever(revoke_all=True)
    await scene.reaches(connection, "reauthorization_required")
    again = await scene.api.request("POST", f"/v1/connections/{connection}/reauthorization")
    await page.goto(again.json()["url"])
    await scene.eyes.look(page, "login-reconnect")
    await page.get_by_role("button", name="Log in to").click()
    await scene.allow()
    await expect(page.get_by_text("is connected again")).to_be_visible()
    await scene.reaches(connection, "active")


async def test_a_customer_logs_in_at_the_system_and_later_once_more(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database
) -> None:
    async with staged(tmp_path, mosquitto, dsn, database) as scene:
        wanted = {"customer": "acme", "systems": ["http_json"], "days": 1}
        link = (await scene.api.request("POST", "/v1/connect-links", json=wanted)).json()["url"]
        await scene.page.goto(link)
        await to_the_login(scene.page, scene.server)
        await consent_is_refused(scene)
        await another_account_is_seen(scene)
        await the_way_back_is_of_one_browser(scene)
        connection = await it_is_connected(scene)
        await it_is_connected_again(scene, connection)


async def test_people_log_in_by_their_identity_provider_and_out_again(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database
) -> None:
    """The session's cookie is of our own pages only, and the way back is one that another site began."""
    async with AsyncExitStack() as stack:
        # By another name it is another site, as providers are.
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        server = OAuthServer(tmp_path, people_redirect=f"{url}/login/oidc/callback", host="localhost")
        await stack.enter_async_context(server)
        daemon = Daemon(
            tmp_path,
            broker_url=mosquitto.url,
            dsn=dsn,
            oidc={
                "issuer": server.issuer,
                "client_id": PEOPLE["client_id"],
                "client_secret": "${env:OIDC_SECRET}",
                "title": "Acme",
                "roles": {"operator": ["staff"]},
            },
            http={"listen": f"127.0.0.1:{port}", "public_url": url},
        )
        daemon._environment["OIDC_SECRET"] = PEOPLE["client_secret"]
        daemon.port = port
        daemon.start()
        stack.push_async_callback(daemon.kill)
        looking = await stack.enter_async_context(eyes())
        await daemon.ready()
        page = await stack.enter_async_context(looking.of(url))
        jane = {"email": "jane@acme.example", "email_verified": True, "groups": ["staff"]}
        await server.lever(claims={**jane, "groups": []})
        await page.goto("/devices")
        await looking.look(page, "login-by-provider")
        await page.get_by_role("link", name="Log in with Acme").click()
        await expect(page.get_by_role("alert")).to_contain_text("has no role here")
        await server.lever(claims=jane)
        await page.goto("/devices")
        await page.get_by_role("link", name="Log in with Acme").click()
        await page.wait_for_url("**/devices")
        await expect(page.get_by_text("jane@acme.example · operator")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("link", name="Log out there")).to_be_visible()
        await looking.look(page, "logged-out")
        await page.goto("/devices")
        await page.wait_for_url("**/login?next=%2Fdevices")
