"""The dashboard and the customer's page on fakes: logging in, forms of other sites, hostile texts, link by
link what the customer sees.
"""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.connections.login_page import Login
from gateway.http.dashboard import devices
from gateway.http.dashboard.credential_form import form_fields, form_values
from gateway.http.dashboard.markdown import instructions
from gateway.http.dashboard.rendering import interval, value
from gateway.model.access import Principal, Role
from gateway.model.connection import IssueCode, State
from gateway.model.errors import RequestRefused
from gateway.model.sample import Value
from gateway.model.status import ConnectionStatus
from gateway.store.access import BrowserSession
from gateway.store.devices import SeriesBucket
from gateway.store.issues import Issue
from gateway.store.views import DeadReading, Transition
from tests.fixtures.http_fakes import CATALOGUE, HOUR, NOW, World, alert_of, described, incident, link, world
from tests.unit.test_http_api import flat

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>`{{7*7}}`"
FORM = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


@asynccontextmanager
async def browser(
    made: World, role: Role | None = Role.ADMIN, customer: str | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client with a session, and the session's form token."""
    cookies, csrf = {}, ""
    if role is not None:
        session = await made.access.open_session(Principal(name="b", role=role, customer=customer), "t")
        cookies, csrf = {"fieldgate_session": session.secret}, session.csrf
    async with made.client(cookies=cookies) as client:
        client.headers.update(FORM)
        yield client, csrf


# Logging in


async def test_login_by_token_opens_a_session_in_a_careful_cookie() -> None:
    made = world()
    async with browser(made, None) as (client, _):
        assert (await client.get("/?state=paused")).headers["location"] == "/login?next=%2F%3Fstate%3Dpaused"
        wrong = await client.post("/login", data={"token": "nonsense"})
        right = await client.post("/login", data={"token": " viewer ", "next": "/?state=paused"})
        assert (wrong.status_code, "unknown, expired or revoked" in wrong.text) == (401, True)
        assert (right.status_code, right.headers["location"]) == (303, "/?state=paused")
        cookie = right.headers["set-cookie"]
        assert (
            all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="))
            and "Secure" not in cookie
        )
        assert (await client.get("/")).status_code == 200


def under_https() -> World:
    made = world()
    assert made.mounted.services is not None
    made.mounted.services = replace(made.mounted.services, public_url="https://gateway.test")
    return made


OF_THIS_HOST = re.compile(r"__Host-fieldgate_\w+=[^;]*; HttpOnly; Max-Age=\d+; Path=/; SameSite=\w+; Secure")


async def test_under_https_the_cookies_are_of_this_host_and_sent_over_tls_only() -> None:
    async with under_https().client(base_url="https://gateway.test") as client:
        client.headers.update(FORM)
        given = await client.post("/login", data={"token": "viewer"})
        assert OF_THIS_HOST.fullmatch(given.headers["set-cookie"])
        page = await client.get("/")
        assert page.status_code == 200
        csrf = page.text.partition('name="csrf" value="')[2].partition('"')[0]
        gone = (await client.post("/logout", data={"csrf": csrf})).headers["set-cookie"]
        assert OF_THIS_HOST.fullmatch(gone) and "Max-Age=0" in gone, "else a browser keeps it"
        leaving = await client.post("/reauthorize/link-1/login")
        assert OF_THIS_HOST.fullmatch(leaving.headers["set-cookie"])
        back = await client.get("/oauth/callback?state=s&code=c")
        assert back.status_code == 303 and OF_THIS_HOST.fullmatch(back.headers["set-cookie"])


async def test_under_https_a_cookie_that_a_host_beside_this_one_planted_is_not_looked_at() -> None:
    """A site below the same domain may set any cookie for all of the domain, but none with `__Host-`."""
    made = under_https()
    attacker = await made.access.open_session(Principal(name="attacker", role=Role.ADMIN), "t")
    planted = {"fieldgate_session": attacker.secret, "fieldgate_login": "browser-secret"}
    async with made.client(base_url="https://gateway.test", cookies=planted) as client:
        client.headers.update(FORM)
        assert (await client.get("/")).headers["location"] == "/login?next=%2F"
        assert (await client.get("/oauth/callback?state=s&code=c")).status_code == 404
        await client.post("/login", data={"token": "viewer"})
        assert len(made.access.sessions) == 2, "nor ended"


async def test_the_doctors_page_is_for_operators_of_everybody() -> None:
    made = world()
    async with browser(made, Role.OPERATOR) as (client, _):
        page = (await client.get("/doctor")).text
    assert (
        "1 problem, 0 warnings" in page and "The server takes no writes" in page and "Name a primary" in page
    )
    assert "<script>" not in page and "Not seen: &lt;script&gt;" in page
    for role, customer in ((Role.VIEWER, None), (Role.ADMIN, "acme")):
        async with browser(made, role, customer) as (client, _):
            refused = await client.get("/doctor")
            assert refused.status_code == 403 and "takes no writes" not in refused.text
            assert "/doctor" not in (await client.get("/")).text


async def test_a_viewer_makes_no_reconnect_link() -> None:
    made = world()
    async with browser(made, Role.VIEWER) as (client, csrf):
        answer = await client.post("/connections/acme-2/reauthorization", data={"csrf": csrf})
        assert answer.status_code == 403 and not made.reauthorizing.invited
    async with browser(made, Role.OPERATOR) as (client, csrf):
        answer = await client.post("/connections/acme-2/reauthorization", data={"csrf": csrf})
        assert answer.status_code == 200 and made.reauthorizing.invited


async def test_a_login_link_is_used_by_a_press_of_a_button_only_and_once() -> None:
    made = world()
    made.access.links["once"] = Principal(name="demo", role=Role.ADMIN)
    async with browser(made, None) as (client, _):
        for _ in range(3):  # mail scanners, previews
            seen = await client.get("/login/once")
            assert "set-cookie" not in seen.headers and made.access.links
        assert (await client.post("/login", data={"link": "once"})).status_code == 303
        assert (await client.post("/login", data={"link": "once"})).status_code == 401


async def test_a_session_that_was_planted_is_not_taken_over() -> None:
    made = world()
    async with browser(made, Role.VIEWER) as (client, _):
        [planted] = made.access.sessions
        answer = await client.post("/login", data={"token": "admin"})
        given = re.search(r"fieldgate_session=([^;]+)", answer.headers["set-cookie"])
        assert given is not None and given[1] != planted
        assert list(made.access.sessions) == [given[1]]


@pytest.mark.parametrize(
    "next_",
    [
        "//evil.example.com",
        "https://evil.example.com",
        "/\\evil.example.com",
        "javascript:alert(1)",
        "/\r\nSet-Cookie: a=b",
    ],
)
async def test_login_leads_to_no_other_site(next_: str) -> None:
    async with browser(world(), None) as (client, _):
        assert (await client.post("/login", data={"token": "viewer", "next": next_})).headers[
            "location"
        ] == "/"


async def test_logging_out_ends_the_session_in_the_database() -> None:
    made = world()
    async with browser(made) as (client, csrf):
        assert (await client.post("/logout", data={"csrf": csrf})).status_code == 303
        assert not made.access.sessions


# Forms


@pytest.mark.parametrize(
    "change",
    [
        {"csrf": ""},
        {"csrf": "é"},
        {"csrf": "0" * 64},
        {"headers": {"Sec-Fetch-Site": "cross-site"}},
        {"headers": {"Sec-Fetch-Site": "same-site"}},
        {"headers": {"Origin": "https://evil.example.com"}},
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/connections/acme-2/pause",
        "/connections/acme-2/disconnect",
        "/connections/acme-2/reauthorization",
        "/logout",
    ],
)
async def test_a_form_of_another_site_does_nothing(change: dict[str, Any], path: str) -> None:
    made = world()
    async with browser(made) as (client, csrf):
        answer = await client.post(
            path, data={"csrf": change.get("csrf", csrf)}, headers=change.get("headers")
        )
    assert answer.status_code == 403
    assert not made.service.asked and not made.reauthorizing.invited and made.access.sessions


async def test_every_form_of_the_dashboard_is_checked() -> None:
    """By introspection: a new form without the check is found out."""
    made = world()
    posts = [
        route.path
        for route in flat(made.app.routes)
        if "POST" in route.methods
        and not route.path.startswith(("/v1", "/login", "/reauthorize", "/connect/link"))
    ]
    assert len(posts) >= 3
    async with browser(made) as (client, _):
        for path in posts:
            filled = path.format(
                connection="acme-2", act="pause", secret="s", step="settings", message=101, webhook="wh-acme"
            )
            answer = await client.post(filled, data={"x": "y"})
            assert answer.status_code == 403, path


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, set()),
        (Role.OPERATOR, {"pause", "recheck", "sync", "full-sync", "resume"}),
        (Role.ADMIN, {"pause", "disconnect"}),
    ],
)
async def test_buttons_are_those_of_the_role(role: Role, may: set[str]) -> None:
    made = world()
    async with browser(made, role) as (client, csrf):
        page = (await client.get("/connections/acme-2")).text
        for act in ("pause", "recheck", "sync", "full-sync", "resume", "disconnect"):
            made.service.asked.clear()
            answer = await client.post(f"/connections/acme-2/{act}", data={"csrf": csrf})
            allowed = role is Role.ADMIN or act in may
            assert (answer.status_code, [asked[0] for asked in made.service.asked]) == (
                (303, [act]) if allowed else (403, [])
            )
            if not allowed:
                assert f"/connections/acme-2/{act}" not in page
        assert (await client.post("/connections/acme-2/nonsense", data={"csrf": csrf})).status_code == 404
        assert ((await client.get("/connections/acme-2/disconnect")).status_code == 200) is (
            role is Role.ADMIN
        )


async def test_what_the_lifecycle_refuses_is_said_on_the_page() -> None:
    made = world()
    made.service.refusal = RequestRefused(
        "connection.paused", "It is paused; resume it first.", connection="acme-2"
    )
    async with browser(made) as (client, csrf):
        answer = await client.post("/connections/acme-2/sync", data={"csrf": csrf})
    assert (answer.status_code, "It is paused; resume it first." in answer.text) == (409, True)


async def test_nothing_of_another_customer_is_on_any_page() -> None:
    made = world()
    pages = [
        (route.path, method)
        for route in flat(made.app.routes)
        if not route.include_in_schema and route.path != "/live"  # that one does not end, and says nothing
        for method in route.methods
    ]
    async with browser(made, Role.ADMIN, "globex") as (client, csrf):
        for path, method in pages:
            answer = await client.request(
                method,
                path.replace(":path}", "}").format(
                    connection="acme-2",
                    act="pause",
                    name="x",
                    secret="x",
                    link="x",
                    step="settings",
                    stream="x",
                    key="x",
                    customer="acme",
                    device="acme-pump-1",
                    message=101,
                    webhook="wh-acme",
                    incident="inc-acme",
                ),
                data={"csrf": csrf} if method == "POST" else None,
            )
            assert "acme" not in answer.text.replace("acme-s4", ""), (
                path
            )  # the example in the API's documentation
            if re.search(r"\{(connection|customer|message|webhook|incident)\}", path):
                assert answer.status_code == 404, path
    assert not made.service.asked and not made.messages.discarded
    assert all(bound == "globex" for _, bound in made.messages.replayed)


# Messages


async def test_messages_are_listed_with_their_first_bytes_and_nothing_is_a_tag() -> None:
    async with browser(world(), Role.VIEWER) as (client, _):
        listed = (await client.get("/messages")).text
        acme = (await client.get("/messages", params={"customer": "acme"})).text
        text = (await client.get("/messages/101")).text
        binary = (await client.get("/messages/102")).text
        none = await client.get("/messages/999")
    for page in (listed, acme, text, binary):
        assert not re.search(r"<(script>alert|b>pump|em>no|i>\{device)", page)
    assert "/messages/201" in listed and "/messages/201" not in acme and "00 ff 01" in listed
    assert "000000  00 ff 01" in binary and "&lt;script&gt;alert" in text and "no source" in text
    assert "/messages/discard" not in listed and "Try" not in text  # a viewer has no buttons
    assert none.status_code == 404


async def test_messages_are_tried_again_and_discarded_by_forms() -> None:
    made = world()
    async with browser(made, Role.OPERATOR) as (client, csrf):
        sent = {"csrf": csrf, "customer": "acme", "reason": "invalid_json"}
        forged = await client.post("/messages/replay", data={**sent, "csrf": "x"})
        more = (await client.post("/messages/replay", data=sent)).text
        after = re.search(r'name="after" value="([^"]+)"', more)
        assert after is not None
        done = await client.post("/messages/replay", data={**sent, "after": after[1]})
        stays = await client.post("/messages/101/replay", data={"csrf": csrf})
        asked = (await client.get("/messages/discard", params={"customer": "acme"})).text
        hidden = dict(re.findall(r'name="(up_to|expected|customer)" value="([^"]+)"', asked))
        wrong = await client.post("/messages/discard", data={"csrf": csrf, **hidden, "expected": "2"})
        silly = await client.post("/messages/discard", data={"csrf": csrf, "customer": "acme"})
        gone = await client.post("/messages/discard", data={"csrf": csrf, **hidden})
        one = await client.post("/messages/201/discard", data={"csrf": csrf})
    assert forged.status_code == 403 and [bound for _, bound in made.messages.replayed] == [None] * 3
    assert [getattr(wanted, "up_to", None) for wanted, _ in made.messages.replayed[:2]] == [103, 103]
    assert done.headers["location"].startswith("/messages?customer=acme&reason=invalid_json&replayed=2")
    assert stays.headers["location"] == "/messages/101?stays=1"
    assert hidden == {"customer": "acme", "up_to": "103", "expected": "3"}
    assert (wrong.status_code, silly.status_code) == (409, 422)
    assert gone.headers["location"] == "/messages?customer=acme&discarded=3"
    assert one.status_code == 303
    assert [count for _, count in made.messages.discarded] == [3, 1]


async def test_a_bound_session_sees_its_own_messages_and_quotas_only() -> None:
    async with browser(world(), Role.OPERATOR, "globex") as (client, _):
        for path in ("/messages", "/messages?customer=acme", "/messages/discard?customer=acme"):
            shown = (await client.get(path)).text.replace('value="acme"', "").replace("customer=acme", "")
            assert "acme" not in shown.replace("<dd>acme</dd>", ""), path
        assert (await client.get("/messages/101")).status_code == 404
        assert (await client.get("/messages/1")).status_code == 404, "what is nobody's is the operator's"


# Devices


async def test_devices_are_listed_and_shown_with_meters_and_a_chart_and_nothing_is_a_tag() -> None:
    made = world()
    async with browser(made, Role.VIEWER) as (client, _):
        listed = (await client.get("/devices", params={"customer": "acme"})).text
        found = (await client.get("/devices", params={"q": "pump-2"})).text
        one = (await client.get("/devices/acme/acme-pump-1", params={"span": "hour"})).text
        silent = (await client.get("/devices", params={"customer": "acme", "silent": "1"})).text
        none = await client.get("/devices/nobody/pump")
    assert listed.count(">silent</span>") == 1 and "acme-pump-1" not in silent and "acme-pump-3" in silent
    assert "60 s" in one and "Silent." not in one
    assert "/devices/acme/acme-pump-3" in listed and "globex" not in listed
    assert "/devices/globex/globex-pump-2" in found and "pump-1" not in found
    assert "<b>" not in listed and "<script>alert" not in one
    assert "acme-1</a>: m" in one and "unmapped" in one
    assert one.count("<polyline points") == 1 and one.count('class="step" points') == 2
    assert none.status_code == 404


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.498, "0.498 s"), (60.0, "60 s"), (119.0, "119 s"), (900.0, "15 min"), (86400.0, "1 d")],
)
def test_what_is_usual_between_two_messages_is_said_for_people(seconds: float, said: str) -> None:
    assert interval(seconds) == said


@pytest.mark.parametrize(("of", "said"), [(True, "true"), (False, "false"), (21.5, "21.5"), ("eco", "eco")])
def test_a_value_is_shown_as_devices_send_it(of: Value, said: str) -> None:
    assert value(of) == said


async def test_a_bound_session_sees_its_own_devices_only() -> None:
    async with browser(world(), Role.VIEWER, "globex") as (client, _):
        assert "acme" not in (await client.get("/devices")).text
        assert "acme-pump" not in (await client.get("/devices", params={"customer": "acme"})).text


PAGES = Path(__file__).parents[2] / "gateway" / "http" / "dashboard"


def test_a_box_to_tick_is_not_as_wide_as_a_field_and_stands_beside_its_words() -> None:
    """`input` is as wide as its form, and a filter's fields were as tall as the tallest of them."""
    style = (PAGES / "static" / "fieldgate.css").read_text()
    wide = style.index("input, select, textarea { width: 100%")
    box = re.search(
        r'^input\[type="checkbox"\][^{]*\{[^}]*width: [\d.]+rem[^}]*min-height: 0', style, re.MULTILINE
    )
    assert box is not None and box.start() > wide
    assert re.search(r"^form\.filter \{[^}]*align-items: end", style, re.MULTILINE)
    for path in (PAGES / "templates").glob("*.html"):
        text = path.read_text()
        beside = text.count('<label class="switch"><input type="checkbox"')
        assert text.count('type="checkbox"') == beside, path.name


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [-1.7e308, 1.7e308], [0.0, 5e-324], [None], [1.0, None, 2.0]]
)
def test_a_chart_stays_in_its_frame(values: list[float | None]) -> None:
    """Whatever numbers there are: between the least and the greatest that doubles hold, too."""
    since, width = NOW, timedelta(minutes=1)
    buckets = [
        SeriesBucket(start=since + place * width, samples=1, min=value, mean=value, max=value, last=0)
        for place, value in enumerate(values)
    ]
    chart = devices.drawn("t", buckets, since, since + devices.BUCKETS * width)
    points = [point.split(",") for line in chart.lines for point in line.split()]
    assert all(0 <= float(x) <= devices.WIDTH and 0 <= float(y) <= devices.HEIGHT for x, y in points)
    assert bool(points) == any(value is not None for value in values)


# What is shown


def hostile_world() -> World:
    made = world()
    issue = Issue(
        connection="acme-1",
        id="i1",
        code=IssueCode.BLOCKED,
        severity="error",
        since=NOW,
        title=HOSTILE,
        instructions=HOSTILE,
        action_url="javascript:alert(1)",
        request_id=HOSTILE,
    )
    made.reader.put(
        described(
            "acme-1",
            HOSTILE,
            state=State.BLOCKED,
            reason=HOSTILE,
            system=HOSTILE,
            account=HOSTILE,
            credential_type=HOSTILE,
            issues=(issue,),
        ),
        described("acme-3", HOSTILE, state=State.DEGRADED, reason=HOSTILE, system=HOSTILE),
    )
    made.reader.said = [
        Transition(
            at=NOW,
            from_state="active",
            to_state="blocked",
            trigger=HOSTILE,
            reason=HOSTILE,
            actor=HOSTILE,
            request_id=HOSTILE,
        )
    ]
    made.reader.raised = [
        alert_of(
            HOSTILE,
            1,
            title=HOSTILE,
            device=HOSTILE,
            rule=HOSTILE,
            kind=HOSTILE,
            remote_id=HOSTILE,
            error=HOSTILE,
            connection="acme-1",
        )
    ]
    made.reader.letters = [
        DeadReading(
            id=1,
            meter=HOSTILE,
            window_start=NOW,
            reason=HOSTILE,
            detail=HOSTILE,
            occurrences=1,
            first_at=NOW,
            last_at=NOW,
        )
    ]
    made.incidents.held = [
        (
            "acme",
            incident("i", "acme").model_copy(
                update={
                    "detail": HOSTILE,
                    "systems": (HOSTILE,),
                    "operations": (HOSTILE,),
                    "request_ids": (HOSTILE,),
                }
            ),
        )
    ]
    made.reauthorizing.links["link-1"] = link(reason=HOSTILE, system=HOSTILE, connection=HOSTILE)
    made.access.sessions["evil"] = BrowserSession(
        principal=Principal(name=HOSTILE, role=Role.ADMIN), secret="evil"
    )
    return made


@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"/?q={HOSTILE}&customer={HOSTILE}&state={HOSTILE}",
        "/connections/acme-1",
        "/alerts",
        f"/alerts?customer={HOSTILE[:30]}&state=all",
        "/reauthorize/link-1",
        f"/login?next=/{HOSTILE}",
        f"/login/{HOSTILE.replace('/', '')}",
        "/nowhere<script>alert(1)",
    ],
)
async def test_nothing_that_is_shown_becomes_markup(path: str) -> None:
    made = hostile_world()
    async with made.client(cookies={"fieldgate_session": "evil"}) as client:
        client.headers.update(FORM)
        answer = await client.get(path)
    assert answer.status_code in (200, 404)
    for start in ("<script>", "<img src=x", 'href="javascript', "onerror=alert(1)>"):
        assert start not in answer.text
    assert "{{7*7}}" in answer.text or path.startswith("/nowhere"), "it is shown as it is"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/connections/acme-1",
        "/login",
        "/status",
        "/docs",
        "/reauthorize/link-1",
        "/nowhere",
        "/v1/systems",
    ],
)
async def test_headers_keep_browsers_careful(path: str) -> None:
    made = world()
    made.reauthorizing.links["link-1"] = link()
    async with browser(made) as (client, _):
        answer = await client.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert (
        answer.headers["X-Content-Type-Options"],
        answer.headers["Cache-Control"],
        answer.headers["Referrer-Policy"],
    ) == (
        "nosniff",
        "no-store",
        "no-referrer",
    )
    for forbidden in ("<style", "style=", "javascript:", "onclick"):
        assert forbidden not in answer.text
    assert not re.search(r"<script(?! src=\"/static/)", answer.text)
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", answer.text):
        assert address.startswith(("/", "#")), "everything is loaded from here"
        if address.startswith("/static/"):
            async with made.client() as client:
                assert (await client.get(address)).status_code == 200


async def test_those_that_need_a_person_come_first_with_what_to_do() -> None:
    made = world()
    async with browser(made) as (client, _):
        text = (await client.get("/")).text
        assert (
            text.index("connections/acme-1")
            < text.index("connections/acme-2")
            < text.index("connections/globex-1")
        )
        assert (
            "MaintainX refuses the API key" in text
            and "<li>Open <code>Settings</code>.</li>" in text
            and "<strong>new</strong>" in text
        )
        only = (await client.get("/?state=reauthorization_required")).text
        assert "acme-1" in only and "acme-2" not in only
        assert "connections/globex-1" not in (await client.get("/?customer=acme")).text
        assert "No connection fits" in (await client.get("/?q=nothing-like-this")).text


async def test_while_a_backlog_goes_out_pages_say_more_than_active(monkeypatch: pytest.MonkeyPatch) -> None:
    made, late = world(), 0.0
    read = made.reader.status

    async def behind(names: Sequence[str]) -> list[ConnectionStatus]:
        return [
            replace(
                one, streams=(replace(one.streams[0], state="lagging", lag_seconds=late), *one.streams[1:])
            )
            for one in await read(names)
        ]

    monkeypatch.setattr(made.reader, "status", behind)
    async with browser(made) as (client, _):
        for path in ("/?customer=globex", "/connections/globex-1"):
            late = 4.0
            assert "catching up" not in (await client.get(path)).text
            late = 192.0
            text = (await client.get(path)).text
            assert "catching up" in text and "3 min" in text
        assert "the oldest reading is 3 min late, 36 wait" in text


async def test_hundreds_of_connections_are_paged() -> None:
    made = world()
    made.reader.put(*(described(f"many-{n:03}", "acme") for n in range(250)))
    async with browser(made) as (client, _):
        pages = [(await client.get("/")).text]
        while (further := re.search(r'href="([^"]+)" rel="next"', pages[-1])) is not None:
            pages.append((await client.get(html.unescape(further[1]))).text)
    assert len(pages) == 3
    names = [name for page in pages for name in re.findall(r'href="/connections/(many-\d+)"', page)]
    assert names == [f"many-{n:03}" for n in range(250)]
    assert "First page" not in pages[0] and "First page" in pages[1]


async def test_the_empty_dashboard_says_how_to_begin() -> None:
    made = world()
    made.reader.held.clear()
    async with browser(made) as (client, _):
        assert "Nothing is connected yet." in (await client.get("/")).text


async def test_the_status_page_names_no_customer() -> None:
    async with browser(world(), None) as (client, _):
        text = (await client.get("/status")).text
    assert "maintainx" in text and not re.search("acme|globex", text)


def test_instructions_are_marked_up_lightly() -> None:
    text = (
        "First line\ngoes on.\n1. Open it,\n   then wait.\n2. Press `a<b` or **this**.\nDone.\n\n- one\n- two"
    )
    assert (
        instructions(text)
        == "<p>First line goes on.</p>\n<ol><li>Open it, then wait.</li><li>Press <code>a&lt;b</code> or"
        " <strong>this</strong>.</li></ol>\n<p>Done.</p>\n<ul><li>one</li><li>two</li></ul>"
    )


# The customer's page


@asynccontextmanager
async def customer(made: World) -> AsyncIterator[httpx.AsyncClient]:
    async with made.client() as client:
        client.headers["Accept"] = "text/html"
        yield client


SUBMITTED = {"submitted_at": NOW - HOUR, "attempts": 1}


@pytest.mark.parametrize(
    ("stored", "says", "has_form"),
    [
        (link(), "takes nothing older than 3 days", True),
        (link(system="odata", credential_type="basic"), "is kept for 100 days", True),
        (link(state=State.ACTIVE, since=NOW), "works again", True),
        (link(state=State.PENDING, credential_type="none"), "waits to be connected", True),
        (link(state=State.ACTIVE), "works at the moment", True),
        (link(state=State.VERIFYING, **SUBMITTED), "Checking", False),
        (
            link(since=NOW, reason="401: another account", last_trigger="probe_refused", **SUBMITTED),
            "refused these credentials. Please try again",
            True,
        ),
        (
            link(
                since=NOW,
                reason="whatever it says",
                last_trigger="account_differs",
                **SUBMITTED,
            ),
            "belong to another account",
            True,
        ),
        (
            link(since=NOW, reason="timed out", last_trigger="verification_deferred", **SUBMITTED),
            "could not be reached",
            True,
        ),
        (link(state=State.ACTIVE, since=NOW, succeeded=True, **SUBMITTED), "is connected again", False),
        (link(state=State.PAUSED), "is paused", False),
        (link(state=State.DISCONNECTED), "has been ended", False),
        (link(attempts=5), "tried too often", False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_each_stage_of_a_link(stored: Any, says: str, has_form: bool) -> None:
    made = world()
    made.reauthorizing.links["link-1"] = stored
    async with customer(made) as client:
        answer = await client.get("/reauthorize/link-1")
    assert says in answer.text
    read = re.sub(r"<[^>]*>|\s+", " ", answer.text.partition("<main")[2])
    assert "Fieldgate connects your devices with" in read, "who reads it need not know what Fieldgate is"
    assert not re.findall(
        r"(?i)\b(mqtt|broker|telemetry|topics?|samples?|streams?|gateway|by themselves)\b", read
    )
    assert ('type="password"' in answer.text) is has_form
    assert ('http-equiv="refresh"' in answer.text) is (stored.state is State.VERIFYING)
    assert "globex" not in answer.text and "acme-2" not in answer.text and "set-cookie" not in answer.headers


async def test_looking_changes_nothing_and_submitting_hands_over() -> None:
    made = world()
    made.reauthorizing.links["link-1"] = link()
    async with customer(made) as client:
        for _ in range(3):
            assert (await client.get("/reauthorize/link-1")).status_code == 200
            assert (await client.head("/reauthorize/link-1")).status_code in (200, 405)
        assert not made.reauthorizing.submitted
        empty = await client.post("/reauthorize/link-1", data={"api_key": ""})
        given = await client.post(
            "/reauthorize/link-1", data={"api_key": "  new key ", "as": "dsn", "surprise": "x"}
        )
    assert (empty.status_code, "Please fill this in." in empty.text) == (409, True)
    assert (given.status_code, given.headers["location"]) == (303, "/reauthorize/link-1")
    assert made.reauthorizing.submitted == [("link-1", {"api_key": "  new key "})]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_link_that_is_void_says_so(method: str) -> None:
    async with customer(world()) as client:
        answer = await client.request(
            method, "/reauthorize/unknown", data={"api_key": "x"} if method == "POST" else None
        )
    assert (answer.status_code, "not valid (any more)" in answer.text) == (404, True)


async def test_a_login_on_the_systems_page_goes_and_comes_back() -> None:
    made = world()
    made.reauthorizing.links["link-1"] = link(credential_type="oauth2_authorization_code")
    async with customer(made) as client:
        page = await client.get("/reauthorize/link-1")
        assert "Log in to MaintainX" in page.text and "password" not in re.sub("Your password", "", page.text)
        refused = await client.post("/reauthorize/link-1", data={"api_key": "x"})
        assert refused.status_code == 409 and not made.reauthorizing.submitted
        leaving = await client.post("/reauthorize/link-1/login")
        assert 'href="https://login.example.com/authorize?state=s"' in leaving.text
        cookie = leaving.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/oauth/callback"))
        back = await client.get("/oauth/callback?state=s&code=c")
        assert (back.status_code, back.headers["location"]) == (303, "/reauthorize/link-1")


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        ("state=other&code=c", "browser-secret"),
        ("state=s&code=c", "other"),
        ("code=c", "browser-secret"),
        ("", ""),
    ],
)
async def test_an_answer_of_another_login_is_refused(query: str, cookie: str) -> None:
    made = world()
    async with customer(made) as client:
        client.cookies.set("fieldgate_login", cookie, path="/oauth/callback")
        answer = await client.get(f"/oauth/callback?{query}")
    assert answer.status_code == 404 and "location" not in answer.headers


@pytest.mark.parametrize(
    ("login", "query", "says"),
    [
        (Login.DECLINED, "error=access_denied", "was not completed"),
        (Login.REFUSED, "code=c", "did not confirm"),
        (Login.UNREACHABLE, "code=c", "could not be reached"),
    ],
)
async def test_a_login_that_fails_is_explained_on_the_links_page(login: Login, query: str, says: str) -> None:
    made = world()
    made.reauthorizing.links["link-1"], made.reauthorizing.login = (
        link(credential_type="oauth2_authorization_code"),
        login,
    )
    async with customer(made) as client:
        client.cookies.set("fieldgate_login", "browser-secret", path="/oauth/callback")
        back = await client.get(f"/oauth/callback?state=s&{query}")
        page = await client.get(back.headers["location"])
    assert says in page.text


# Forms for credentials


def test_the_form_follows_the_systems_credentials() -> None:
    [key] = form_fields(CATALOGUE["maintainx"].credentials_schema, "api_key")
    assert (key.name, key.label, key.kind, key.is_required) == ("api_key", "API key", "password", True)


CHOICE = {
    "oneOf": [{"$ref": "#/$defs/Basic"}, {"$ref": "#/$defs/Certificate"}],
    "$defs": {
        "Basic": {
            "properties": {
                "type": {"const": "basic"},
                "username": {"type": "string"},
                "password": {"type": "string"},
            },
            "required": ["username", "password"],
        },
        "Certificate": {
            "properties": {
                "type": {"const": "client_certificate"},
                "certificate": {"description": "PEM"},
                "private_key": {},
                "passphrase": {"description": "Of the PEM."},
            },
            "required": ["certificate", "private_key"],
        },
    },
}


def test_of_a_choice_the_form_shows_the_type_in_use() -> None:
    assert [(field.name, field.kind) for field in form_fields(CHOICE, "basic")] == [
        ("username", "text"),
        ("password", "password"),
    ]
    certificate = form_fields(CHOICE, "client_certificate")
    assert [(field.name, field.kind) for field in certificate] == [
        ("certificate", "textarea"),
        ("private_key", "textarea"),
        ("passphrase", "password"),
    ]
    values = form_values(
        certificate, {"certificate": " -----BEGIN\r\nx\r\n ", "private_key": "k", "other": "dropped"}
    )
    assert values == {"certificate": "-----BEGIN\nx", "private_key": "k"}
    with pytest.raises(RequestRefused, match="Private key"):
        form_values(certificate, {"certificate": "x"})


def test_what_expires_is_not_confused_with_what_was_submitted() -> None:
    """A refusal from before the link was used is no refusal of what was given through it."""
    from gateway.connections.reauthorization import Stage, stage

    assert stage(replace(link(), submitted_at=NOW, since=NOW - timedelta(seconds=1))) is Stage.WANTED
    assert stage(replace(link(), submitted_at=NOW, since=NOW, last_trigger="probe_refused")) is Stage.REFUSED
    assert (
        stage(replace(link(), state=State.ACTIVE, submitted_at=NOW, since=NOW, last_trigger="probe_denied"))
        is Stage.REFUSED
    )


KINDS = [
    (name, kind)
    for name, system in CATALOGUE.items()
    for kind in system.manifest.capabilities.auth
    if kind != "oauth2_authorization_code"
]


@pytest.mark.parametrize(("system", "kind"), KINDS)
async def test_every_system_has_a_form_for_every_kind_of_credential(system: str, kind: str) -> None:
    made = world()
    made.reauthorizing.links["link-1"] = link(system=system, credential_type=kind)
    fields = form_fields(CATALOGUE[system].credentials_schema, kind)
    assert bool(fields) is (kind != "none")
    assert kind == "none" or (
        any(field.is_required for field in fields) and any(field.kind != "text" for field in fields)
    )
    async with customer(made) as client:
        page = await client.get("/reauthorize/link-1")
        assert all(f'name="{field.name}"' in page.text for field in fields)
        given = await client.post(
            "/reauthorize/link-1",
            data={"as": kind, **{field.name: "x" * max(1, field.min_length) for field in fields}},
        )
    assert (given.status_code, made.reauthorizing.submitted[0][1].keys()) == (
        303,
        {field.name for field in fields},
    )
