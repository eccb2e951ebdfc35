"""The pages of links, webhooks, tokens, credits, incidents and dead letters on fakes; and that an open page is
told of changes.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway.http.dashboard import live as live_page
from gateway.http.dashboard.charts import bars, spark
from gateway.http.live import Live
from gateway.model.access import Principal, Role
from gateway.model.connection import State
from gateway.model.errors import RequestRefused, StoreUnavailable
from gateway.store.access import BrowserSession
from gateway.store.views import Hour
from tests.fixtures.http_fakes import HOUR, NOW, Well, described, serving, world
from tests.unit.test_http_pages import browser

PAGES = ("/connect-links", "/webhooks", "/webhooks/wh-acme", "/access")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_what_gives_access_is_for_admins(role: Role) -> None:
    made = world()
    async with browser(made, role) as (client, csrf):
        for path in PAGES:
            assert (await client.get(path)).status_code == 403, path
            assert f'href="{path}"' not in (await client.get("/")).text
        for path in (
            "/connect-links",
            "/webhooks",
            "/access",
            "/access/revoke",
            "/access/end",
            "/connect-links/withdraw",
            "/webhooks/wh-acme/test",
        ):
            assert (await client.post(path, data={"csrf": csrf})).status_code == 403, path
    assert not made.webhooks.asked


async def test_who_is_logged_in_is_shown_and_logged_out_at_once() -> None:
    made = world()
    theirs = await made.access.open_session(
        Principal(name="eve@x.example", role=Role.VIEWER, customer="globex"), "t"
    )
    async with browser(made, customer="acme") as (bound, csrf):
        page = (await bound.get("/access")).text
        assert "this browser" in page and "eve@x.example" not in page  # of another customer
        answer = await bound.post("/access/end", data={"csrf": csrf, "session": theirs.session_id})
        assert answer.status_code == 404
    async with browser(made) as (client, csrf):
        assert "eve@x.example" in (await client.get("/access")).text
        assert (await client.post("/access/end", data={"session": theirs.session_id})).status_code == 403
        ended = await client.post("/access/end", data={"csrf": csrf, "session": theirs.session_id})
        assert ended.headers["location"] == "/access?ended=1"
        shown = (await client.get("/access?ended=1")).text
        assert "eve@x.example" not in shown and "The session is ended." in shown
        for session in (theirs.session_id, ""):
            gone = await client.post("/access/end", data={"csrf": csrf, "session": session})
            assert gone.status_code == 404


# Connect links


async def test_a_connect_link_is_made_shown_once_and_withdrawn() -> None:
    made = world()
    async with browser(made) as (client, csrf):
        form = {
            "csrf": csrf,
            "customer": "acme",
            "system.odata": "1",
            "system.tryton": "1",
            "days": "3",
            "title": "ERP",
        }
        shown = (await client.post("/connect-links", data=form)).text
        (address,) = re.findall(r'readonly value="([^"]+)"', shown)
        secret = address.rpartition("/")[2]
        link = made.connecting.held[secret]
        assert (link.customer, link.systems, link.created_by) == ("acme", ("odata", "tryton"), "dashboard:b")
        assert made.connecting.ahead[secret].title == "ERP"
        listed = (await client.get("/connect-links")).text
        assert address not in listed and f'value="{link.id}"' in listed
        gone = await client.post("/connect-links/withdraw", data={"csrf": csrf, "link": link.id})
        assert gone.headers["location"] == "/connect-links?withdrawn=1"
        assert f'value="{link.id}"' not in (await client.get("/connect-links")).text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system.odata": None}, "Choose a system"),
        ({"customer": ""}, "Choose a customer"),
        ({"days": "91"}, "from 1 to 90"),
        ({"days": "soon"}, "from 1 to 90"),
        ({"system.nonsense": "1"}, "no system"),
        ({"hosting": "moon"}, "Choose a customer"),
    ],
)
async def test_a_link_that_cannot_be_made_says_why_and_keeps_what_was_typed(
    change: dict[str, Any], said: str
) -> None:
    made = world()
    before = len(made.connecting.held)
    form = {"customer": "acme", "system.odata": "1", "days": "3", "title": "The & ERP", **change}
    async with browser(made) as (client, csrf):
        answer = await client.post(
            "/connect-links", data={"csrf": csrf, **{k: v for k, v in form.items() if v is not None}}
        )
    assert answer.status_code == 409 and said in answer.text and 'value="The &amp; ERP"' in answer.text
    assert len(made.connecting.held) == before


async def test_a_customers_admin_makes_links_of_that_customer_alone() -> None:
    made = world()
    async with browser(made, Role.ADMIN, "globex") as (client, csrf):
        assert "acme" not in (await client.get("/connect-links")).text
        await client.post(
            "/connect-links", data={"csrf": csrf, "customer": "acme", "system.odata": "1", "days": "7"}
        )
        stolen = await client.post(
            "/connect-links/withdraw", data={"csrf": csrf, "link": made.connecting.held["link-of-acme"].id}
        )
        assert stolen.status_code == 404
    newest = list(made.connecting.held.values())[-1]
    assert newest.customer == "globex" and made.connecting.held["link-of-acme"].is_open


# Webhooks


async def test_every_button_of_a_webhook_does_what_it_says() -> None:
    made = world()
    async with browser(made) as (client, csrf):
        page = (await client.get("/webhooks/wh-acme")).text
        assert "503: &lt;b&gt;no&lt;/b&gt;" in page and "<b>no" not in page
        sent = {"csrf": csrf, "event": "e-1", "back": "24"}
        for act in ("test", "disable", "enable", "resend", "replay"):
            answer = await client.post(f"/webhooks/wh-acme/{act}", data=sent)
            assert answer.headers["location"] == f"/webhooks/wh-acme?done={act}"
            assert 'role="status"' in (await client.get(answer.headers["location"])).text
        secret = (await client.post("/webhooks/wh-acme/secret", data=sent)).text
        assert 'value="whsec_bmV3"' in secret and "whsec" not in (await client.get("/webhooks/wh-acme")).text
        assert (
            await client.post("/webhooks/wh-acme/replay", data={**sent, "back": "1e9"})
        ).status_code == 409
        assert (await client.post("/webhooks/wh-acme/dance", data=sent)).status_code == 404
        gone = await client.post("/webhooks/wh-acme/delete", data=sent)
        assert gone.headers["location"] == "/webhooks?removed=1"
    assert [asked for asked, _ in made.webhooks.asked] == [
        "test", "disable", "enable", "resend e-1", "replay", "rotate", "delete",
    ]  # fmt: skip


async def test_a_webhook_is_added_with_its_secret_once_and_a_bad_address_is_said() -> None:
    made = world()
    async with browser(made) as (client, csrf):
        form = {
            "csrf": csrf,
            "url": "https://hooks.example.com/x",
            "customer": "acme",
            "type.connection.activated": "1",
        }
        shown = (await client.post("/webhooks", data=form)).text
        assert 'value="whsec_c2VjcmV0"' in shown
        for wrong in ({"url": "javascript:alert(1)"}, {"url": ""}, {"type.nonsense": "1"}):
            answer = await client.post("/webhooks", data={**form, **wrong})
            assert answer.status_code == 409 and "alert" in answer.text
    newest = list(made.webhooks.held.values())[-1]
    assert (newest.url, newest.customer) == ("https://hooks.example.com/x", "acme")


async def test_a_customers_admin_adds_webhooks_of_that_customer_alone() -> None:
    made = world()
    async with browser(made, Role.ADMIN, "globex") as (client, csrf):
        await client.post(
            "/webhooks", data={"csrf": csrf, "url": "https://x.example.com/", "customer": "acme"}
        )
        assert (await client.post("/webhooks/wh-acme/test", data={"csrf": csrf})).status_code == 404
    assert list(made.webhooks.held.values())[-1].customer == "globex" and not made.webhooks.asked


# Tokens


async def test_a_token_is_made_shown_once_and_revoked() -> None:
    made = world()
    async with browser(made) as (client, csrf):
        form = {"csrf": csrf, "name": "grafana", "role": "viewer", "customer": "acme", "life": "30"}
        shown = (await client.post("/access", data=form)).text
        assert (
            'value="fg_secret-of-grafana"' in shown and "fg_secret" not in (await client.get("/access")).text
        )
        again = await client.post("/access", data=form)
        assert again.status_code == 409 and "is in use" in again.text
        for wrong in ({"name": "a b"}, {"role": "god"}, {"customer": "../x"}, {"life": "45"}):
            assert (await client.post("/access", data={**form, **wrong})).status_code == 409
        revoked = await client.post("/access/revoke", data={"csrf": csrf, "token": "grafana"})
        assert revoked.headers["location"] == "/access?revoked=1"
        assert (
            await client.post("/access/revoke", data={"csrf": csrf, "token": "nobody"})
        ).status_code == 404
    token = made.access.made[-1]
    assert (token.name, token.role, token.customer) == ("grafana", Role.VIEWER, "acme") and token.revoked_at
    assert token.expires_at is not None and timedelta(days=29) < token.expires_at - NOW < timedelta(days=31)


async def test_a_customers_admin_makes_and_revokes_tokens_of_that_customer_alone() -> None:
    made = world()
    async with browser(made, Role.ADMIN, "globex") as (client, csrf):
        await client.post(
            "/access", data={"csrf": csrf, "name": "mine", "role": "admin", "customer": "acme", "life": ""}
        )
        assert (
            await client.post("/access/revoke", data={"csrf": csrf, "token": "acme-ci"})
        ).status_code == 404
    assert made.access.made[-1].customer == "globex" and made.access.made[-1].expires_at is None
    assert not any(token.revoked_at for token in made.access.made)


# Dead letters


async def test_dead_letters_that_are_chosen_are_tried_again_or_let_go() -> None:
    made = world()
    async with browser(made, Role.OPERATOR) as (client, csrf):
        base = "/connections/acme-2/dead-letters"
        nothing = await client.post(f"{base}/replay", data={"csrf": csrf})
        assert nothing.headers["location"] == f"{base}?none=1"
        assert "Nothing was chosen" in (await client.get(f"{base}?none=1")).text
        again = await client.post(f"{base}/replay", data={"csrf": csrf, "letter.7": "1", "letter.9": "1"})
        assert again.headers["location"] == f"{base}?replayed=2&of=2"
        everything = await client.post(f"{base}/replay-all", data={"csrf": csrf})
        assert everything.headers["location"] == f"{base}?replayed=0&of=0"
        gone = await client.post(f"{base}/discard", data={"csrf": csrf, "letter.9": "1"})
        assert gone.headers["location"] == f"{base}?discarded=1"
        for wrong in ("letter.x", "letter.-1", "letter.99999999999999999999"):
            assert (await client.post(f"{base}/discard", data={"csrf": csrf, wrong: "1"})).status_code == 422
    assert made.reader.replayed == [("acme-2", [7, 9]), ("acme-2", None)]
    assert made.reader.discarded == [("acme-2", [9])]


@pytest.mark.parametrize("state", [State.PENDING, State.DISCONNECTING, State.DISCONNECTED])
async def test_nothing_is_tried_again_for_a_connection_that_delivers_nothing(state: State) -> None:
    made = world()
    made.reader.put(described("acme-3", "acme", state=state))
    async with browser(made) as (client, csrf):
        answer = await client.post("/connections/acme-3/dead-letters/replay-all", data={"csrf": csrf})
    assert answer.status_code in (409, 410) and not made.reader.replayed


async def test_a_viewer_and_another_customer_touch_no_dead_letter() -> None:
    made = world()
    for role, customer in ((Role.VIEWER, None), (Role.ADMIN, "globex")):
        async with browser(made, role, customer) as (client, csrf):
            for act in ("replay", "replay-all", "discard"):
                answer = await client.post(
                    f"/connections/acme-2/dead-letters/{act}", data={"csrf": csrf, "letter.1": "1"}
                )
                assert answer.status_code in (403, 404)
    assert not made.reader.replayed and not made.reader.discarded


# Events


async def test_events_are_shown_the_newest_first_with_their_documents() -> None:
    made = world()
    async with browser(made, Role.VIEWER) as (client, _):
        everything = (await client.get("/events")).text
        narrowed = (await client.get("/events?connection=globex-1&type=nonsense&span=ages")).text
    subjects = re.findall(r'href="/connections/([^"]+)"', everything)
    assert subjects == ["acme-1", "globex-1", "acme-1"] and "&#34;specversion&#34;" in everything
    assert re.findall(r'href="/connections/([^"]+)"', narrowed) == ["globex-1"]
    async with browser(made, Role.ADMIN, "globex") as (client, _):
        assert "acme" not in (await client.get("/events")).text
        assert "acme" not in (await client.get("/events?customer=acme")).text.replace('value="acme"', "")


# Pages that anybody may see


async def test_whoever_is_logged_in_keeps_the_way_to_the_other_pages() -> None:
    made = world()
    async with browser(made) as (client, _):
        for path in ("/status", "/docs", "/no/such/page", "/connections/nobody"):
            assert 'href="/devices"' in (await client.get(path)).text, path
        assert (
            "Everything works" not in (await client.get("/status")).text
            and "1 connection needs a person" in (await client.get("/status")).text
        )
    async with browser(made, None) as (client, _):
        for path in ("/status", "/docs", "/no/such/page"):
            assert 'href="/devices"' not in (await client.get(path)).text, path
        assert "needs a person" not in (await client.get("/status")).text


async def test_a_list_of_thousands_is_a_small_page() -> None:
    made = world()
    made.reader.put(*(described(f"acme-{number}", "acme") for number in range(5_000)))
    async with browser(made) as (client, _):
        page = (await client.get("/")).text
    assert page.count("<tr>") == 101 and len(page) < 200_000


# Live


async def lines_of(answer: httpx.Response, count: int) -> list[str]:
    found = []
    async for line in answer.aiter_lines():
        if line.startswith("event:"):
            found.append(line)
            if len(found) == count:
                break
    return found


async def test_a_page_is_told_of_changes_and_lets_the_server_end() -> None:
    made = world()
    services = made.mounted.services
    assert services is not None
    session = await made.access.open_session(Principal(name="ann", role=Role.VIEWER), "t")
    async with serving(Well(), services=services) as client:
        client.cookies.set("fieldgate_session", session.secret)
        async with client.stream("GET", "/live") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for watcher in services.live._watchers:
                watcher.tell()
            assert await lines_of(answer, 1) == ["event: changed"]
            began = asyncio.get_running_loop().time()
            services.live.leave()
        assert asyncio.get_running_loop().time() - began < 2
    assert not services.live._watchers, "whoever has gone holds no place"


async def test_only_who_is_logged_in_is_told_and_only_as_many_as_there_is_room_for() -> None:
    made = world()
    async with browser(made, None) as (client, _):
        assert (await client.get("/live")).headers["location"].startswith("/login")
    services = made.mounted.services
    assert services is not None
    services.live.leave()
    async with browser(made, Role.VIEWER) as (client, _):
        refused = await client.get("/live")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "30"
    live = Live(None, limit=1)  # type: ignore[arg-type]
    live._listening = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    with live.watching(None), pytest.raises(RequestRefused, match="live at once"), live.watching(None):
        pass
    with live.watching("acme") as watcher:
        assert await watcher.changed(0.01) is False
        watcher.tell()
        assert await watcher.changed(5) is True


async def test_the_open_pages_of_one_customer_keep_no_place_from_another() -> None:
    live = Live(None, limit=3)  # type: ignore[arg-type]
    live._listening = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    with live.watching("acme") as first, live.watching("acme") as second, live.watching("acme") as third:
        with live.watching("globex") as globex:
            assert await first.changed(5), "whoever looked the longest is told at once that it is over"
            assert [one.is_over for one in (first, second, third, globex)] == [True, False, False, False]
            assert not live.has_room("acme"), "a place does not go to and fro"
            assert not live.has_room("globex") and live.has_room("umbra")
        assert live.has_room("acme")
    assert not live._watchers


async def test_a_line_ends_where_nobody_can_say_that_the_session_still_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_page, "SESSION_SECONDS", 0.0)
    made = world()
    services = made.mounted.services
    assert services is not None
    session = await made.access.open_session(Principal(name="ann", role=Role.VIEWER), "t")

    async def away(secret: str) -> BrowserSession:
        if asked.append(secret) or len(asked) == 1:
            return session
        raise StoreUnavailable("the database is away")

    asked: list[str] = []
    monkeypatch.setattr(made.access, "identify_session", away)
    async with serving(Well(), services=services) as client:
        client.cookies.set("fieldgate_session", session.secret)
        async with client.stream("GET", "/live") as answer:
            for watcher in services.live._watchers:
                watcher.tell()
            assert await lines_of(answer, 1) == [], "it ends as one that is over, and not as one that broke"
    assert len(asked) == 2 and not services.live._watchers


# Charts


def hour(back: int, delivered: int = 1, rejected: int = 0) -> Hour:
    return Hour(start=NOW.replace(minute=0, second=0) - back * HOUR, delivered=delivered, rejected=rejected)


def test_bars_are_of_what_lies_in_their_time_and_the_highest_fills_the_box() -> None:
    drawn = bars([hour(0, 5), hour(1, 10, 10), hour(30, 99)], now=NOW, span=timedelta(hours=24), bar=HOUR)
    assert (drawn.total, drawn.total_rejected, drawn.most, drawn.width) == (15, 10, 20, 24)
    assert drawn.delivered == "M22.5 100V50M23.5 100V75" and drawn.rejected == "M22.5 50V0"


def test_bars_of_many_hours_are_added_and_what_there_is_at_all_is_seen() -> None:
    drawn = bars(
        [hour(0, 1), hour(1, 1), hour(11, 1_000_000)], now=NOW, span=timedelta(days=30), bar=12 * HOUR
    )
    assert drawn.width == 60 and drawn.total == 1_000_002
    lengths = [100 - float(top) for top in re.findall(r"V([\d.]+)", drawn.delivered)]
    assert min(lengths) >= 2 and max(lengths) == 100


def test_a_line_of_small_bars_is_empty_for_nothing() -> None:
    assert spark([], now=NOW) == "" and spark([hour(40, 5)], now=NOW) == ""
    assert spark([hour(0, 5)], now=NOW) == "M23.5 20V0"
