"""A page that is open says as of when it is, goes on being refreshed while somebody stands in it, and says so
when it is not.
"""

from __future__ import annotations

from playwright.async_api import Page, expect

from gateway.model.access import Principal, Role
from gateway.model.connection import State
from tests.fixtures.browser import eyes, needs_chromium
from tests.fixtures.http_fakes import Well, described, serving, world

pytestmark = needs_chromium


async def shows_now(page: Page, text: str) -> None:
    await expect(page.locator("#live")).to_contain_text(text)


async def test_a_page_is_refreshed_while_somebody_stands_in_it_and_says_when_it_is_not() -> None:
    made = world()
    assert made.mounted.services is not None
    session = await made.access.open_session(Principal(name="ann", role=Role.ADMIN), "t")
    async with eyes() as looking, serving(Well(), services=made.mounted.services, seconds=150) as client:
        cookie = {"name": "fieldgate_session", "value": session.secret, "url": str(client.base_url)}

        def becomes(reason: str) -> None:
            made.reader.put(described("acme-2", "acme", state=State.DEGRADED, reason=reason))

        async with looking.of(str(client.base_url), cookies=[cookie]) as page:
            await page.goto("/connections/acme-2")
            await expect(page.locator("p.asof")).to_contain_text("As of")
            await page.locator("#live .scroll").first.focus()
            becomes("While somebody stands in it")
            await shows_now(page, "While somebody stands in it")
            await expect(page.locator("#live .scroll").first).to_be_focused()
            await expect(page.locator("#stale")).to_be_empty()
            # a field in the part that is refreshed, as some pages have one
            await page.evaluate(
                "document.getElementById('live').append(Object.assign(document.createElement('input'), {id: 'typed'}))"
            )
            await page.locator("#typed").focus()
            becomes("While somebody types")
            await expect(page.locator("#stale")).to_contain_text(
                "Not refreshed while a field is being filled in"
            )
            assert await page.locator("#typed").count() == 1, "what is typed is not taken away"
            await page.locator("#typed").blur()
            await shows_now(page, "While somebody types")
            await expect(page.locator("#stale")).to_be_empty()
