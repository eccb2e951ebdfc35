"""Every page that there is, in a real browser, wide and on a phone, light and dark: axe-core finds nothing,
nothing is wider than the screen, and no page does what its own rules refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from playwright.async_api import expect

from gateway.model.access import Principal, Role
from gateway.store.views import DeadReading
from tests.fixtures.browser import eyes, needs_chromium
from tests.fixtures.http_fakes import HOUR, NOW, Well, World, serving, world
from tests.unit.test_http_api import flat

pytestmark = needs_chromium

VALUES = {
    "connection": "acme-1",
    "customer": "acme",
    "device": "acme-pump-1",
    "message": "101",
    "stream": "work_orders",
    "key": "1",
    "link": "once",
    "secret": "link-1",
    "step": "settings",
    "name": "icon.svg",
    "webhook": "wh-acme",
    "incident": "inc-acme",
}
NO_PAGES = {"/static/{name}", "/integrator/logo", "/oauth/callback", "/live"}


def pages(made: World) -> Iterator[tuple[str, str]]:
    """A name and an address for each route of the pages that is read."""
    for route in flat(made.app.routes):
        if route.include_in_schema or "GET" not in route.methods or route.path in NO_PAGES:
            continue
        path = re.sub(r"\{(\w+)(:\w+)?\}", lambda found: VALUES[found[1]], route.path)
        yield re.sub(r"\W+", "-", route.path).strip("-") or "overview", path
    yield "overview-sorted", "/?sort=-name"


def letter(number: int) -> DeadReading:
    return DeadReading(
        id=number,
        meter="pump-1 t",
        window_start=NOW - HOUR,
        reason="rejected",
        detail="The meter takes no negative value",
        occurrences=number,
        first_at=NOW - HOUR,
        last_at=NOW,
    )


async def test_every_page_can_be_read_by_everybody() -> None:
    made = world()
    assert made.mounted.services is not None
    made.reader.letters = [letter(number) for number in (2, 1)]
    session = await made.access.open_session(Principal(name="ann", role=Role.ADMIN), "t")
    async with eyes() as looking, serving(Well(), services=made.mounted.services, seconds=150) as client:
        cookie = {"name": "fieldgate_session", "value": session.secret, "url": str(client.base_url)}
        async with looking.of(str(client.base_url), cookies=[cookie]) as page:
            for name, path in pages(made):
                answer = await page.goto(path)
                assert answer is not None and answer.status < 500, path
                await looking.look(page, name)
            await page.goto("/topics?filter=%23")
            await expect(page.locator("#message-4")).to_be_visible()  # without a reload
            await looking.look(page, "topics-live")
    assert len(looking.seen) > 20
