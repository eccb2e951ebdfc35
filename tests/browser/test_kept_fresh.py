"""A page that is open says as of when it is, goes on being refreshed while somebody stands in it, and says so
when it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from playwright.async_api import Page, expect

from benchmarks.servers import wait_until
from gateway.model.access import Principal, Role
from gateway.model.connection import State
from gateway.model.status import ConnectionStatus
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


async def test_a_change_that_is_told_while_the_page_asks_is_on_it_a_second_later() -> None:
    """And not with what is asked for every five seconds."""
    made = world()
    assert made.mounted.services is not None
    live = made.mounted.services.live
    session = await made.access.open_session(Principal(name="ann", role=Role.ADMIN), "t")
    may_answer, is_asked = asyncio.Event(), asyncio.Event()
    read = made.reader.status

    async def held(names: Sequence[str]) -> list[ConnectionStatus]:
        found = await read(names)  # as it is now: the answer is on its way when it changes
        is_asked.set()
        await may_answer.wait()
        return found

    async with eyes() as looking, serving(Well(), services=made.mounted.services, seconds=150) as client:
        cookie = {"name": "fieldgate_session", "value": session.secret, "url": str(client.base_url)}
        async with looking.of(str(client.base_url), cookies=[cookie]) as page:
            await page.clock.install()
            await page.goto("/connections/acme-2")
            # a second line, by which it is known that the page's own has heard
            await page.evaluate(
                "() => { window.told = new Promise(done => new EventSource('/live').addEventListener('changed', done)); }"
            )
            await wait_until(lambda: len(live._watchers) == 2, what="both lines are held")
            made.reader.status = held  # type: ignore[method-assign]
            await page.clock.run_for(5_100)
            await wait_until(is_asked.is_set, what="the page asks")
            made.reader.put(described("acme-2", "acme", state=State.DEGRADED, reason="Meanwhile"))
            for watcher in live._watchers:
                watcher.tell()
            await page.evaluate("() => window.told.then(() => true)")
            made.reader.status = read  # type: ignore[method-assign]
            async with page.expect_response("**/connections/acme-2"):
                may_answer.set()
            await page.clock.run_for(1_500)
            await shows_now(page, "Meanwhile")


async def test_an_overview_that_shows_the_same_says_as_of_now_and_is_not_replaced() -> None:
    made = world()
    assert made.mounted.services is not None
    session = await made.access.open_session(Principal(name="ann", role=Role.ADMIN), "t")
    async with eyes() as looking, serving(Well(), services=made.mounted.services, seconds=150) as client:
        cookie = {"name": "fieldgate_session", "value": session.secret, "url": str(client.base_url)}
        async with looking.of(str(client.base_url), cookies=[cookie]) as page:
            answers: list[int] = []
            page.on(
                "response", lambda answer: answers.append(answer.status) if answer.url.endswith("/") else None
            )
            await page.goto("/")
            await page.evaluate("document.getElementById('live').dataset.mine = 'yes'")
            before = await page.locator("#asof").inner_text()
            await expect(page.locator("#asof")).not_to_have_text(before)
            assert 304 in answers
            await expect(page.locator("#live")).to_have_attribute("data-mine", "yes")
            made.reader.put(described("acme-2", "acme", state=State.DEGRADED, reason="Another thing"))
            await shows_now(page, "Another thing")
            await expect(page.locator("#stale")).to_be_empty()
