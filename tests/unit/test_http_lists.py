"""Lists and times of the pages, on fakes: tables that are sorted by links and by a field of the form, without script;
what lists leave out, and how times and days are said.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway import clock
from gateway.http.dashboard.charts import system_days
from gateway.http.dashboard.devices import drawn, stepped
from gateway.http.dashboard.rendering import due, lasting, watermark
from gateway.http.dashboard.sorting import sorting
from gateway.http.dashboard.window_steps import laid_over, steps
from gateway.http.documents import PublicIncident
from gateway.model.access import Role
from gateway.model.connection import State
from gateway.store.devices import FedMeter, Series, SeriesBucket
from tests.fixtures.http_fakes import NOW, Devices, described, world
from tests.unit.test_http_pages import browser


def names(text: str) -> list[str]:
    return re.findall(r'href="/connections/([\w-]+)"', text)


async def test_the_list_of_connections_is_sorted_by_links_and_goes_on_so() -> None:
    made = world()
    made.reader.held.clear()
    made.reader.put(
        *(
            described(f"n{n:03}", "acme", title=f"T{999 - n}", since=NOW - timedelta(hours=n))
            for n in range(150)
        )
    )
    async with browser(made) as (client, _):
        plain = (await client.get("/?customer=acme")).text
        assert "aria-sort" not in plain and 'value="" selected' not in plain
        (link,) = re.findall(r'<a class="sort" href="([^"]+)">Connection', plain)
        pages = [(await client.get(html.unescape(link))).text]
        while (further := re.search(r'href="([^"]+)" rel="next"', pages[-1])) is not None:
            pages.append((await client.get(html.unescape(further[1]))).text)
        (back,) = re.findall(r'<th aria-sort="ascending"><a class="sort" href="([^"]+)">Connection', pages[0])
        greatest = (await client.get(html.unescape(back))).text
    assert html.unescape(link) == "/?customer=acme&sort=name" and len(pages) == 2
    assert [name for page in pages for name in names(page)] == [f"n{n:03}" for n in range(149, -1, -1)]
    assert html.unescape(back) == "/?customer=acme&sort=-name" and names(greatest)[0] == "n000"
    assert '<option value="-name" selected>Name, descending</option>' in greatest
    assert 'aria-sort="descending"' in greatest


@pytest.mark.parametrize("sort", ["nonsense", "-", "--name", "state;drop", "\0name", "NAME"])
async def test_what_no_list_is_sorted_by_changes_nothing(sort: str) -> None:
    async with browser(world()) as (client, _):
        for path in ("/", "/devices", "/credits", "/access", "/webhooks", "/connect-links"):
            answer = await client.get(path, params={"sort": sort})
            assert answer.status_code == 200 and "aria-sort" not in answer.text, path


async def test_a_cursor_of_another_order_is_refused_and_not_misread() -> None:
    async with browser(world()) as (client, _):
        for after in ("WzEsICJhIiwgImIiXQ", "nonsense"):
            assert (await client.get("/", params={"sort": "name", "after": after})).status_code == 422


async def test_a_bound_session_sorts_its_own_alone() -> None:
    async with browser(world(), Role.VIEWER, "globex") as (client, _):
        for path in (
            "/?sort=name",
            "/?customer=acme&sort=-lag",
            "/devices?sort=-last_seen",
            "/devices?customer=acme&sort=name",
        ):
            text = (await client.get(path)).text
            assert not re.search(r"/(?:connections|devices)/acme", text), path
        assert "aria-sort" in (await client.get("/devices?sort=-name")).text


async def test_devices_are_sorted_within_a_customer() -> None:
    async with browser(world()) as (client, _):
        every = (await client.get("/devices", params={"sort": "name"})).text
        assert "aria-sort" not in every and "With a customer chosen" in every
        text = (
            await client.get("/devices", params={"customer": "acme", "silent": "1", "sort": "-name"})
        ).text
        assert 'aria-sort="descending"' in text and "acme-pump-3" in text and "acme-pump-1" not in text
        (link,) = re.findall(r'href="([^"]+)">Last seen', text)
        assert html.unescape(link) == "/devices?customer=acme&silent=1&sort=-last_seen"


@pytest.mark.parametrize(
    ("path", "head"),
    [("/access", "Last used"), ("/webhooks", "Waiting"), ("/connect-links", "Made"), ("/credits", "Customer"), ("/devices/acme/acme-pump-1", "Meters")],
)  # fmt: skip
async def test_each_small_table_is_sorted_by_its_heads(path: str, head: str) -> None:
    async with browser(world()) as (client, _):
        text = (await client.get(path)).text
        (link,) = re.findall(rf'<a class="sort" href="([^"]+)">{head}', text)
        text = (await client.get(html.unescape(link))).text
        assert len(re.findall("aria-sort", text)) == 1


def test_rows_without_a_value_come_last_either_way() -> None:
    rows: list[dict[str, Any]] = [{"n": 2}, {"n": None}, {"n": 1}]
    for given, wanted in (("n", [1, 2, None]), ("-n", [2, 1, None]), ("x", [2, None, 1])):
        order = sorting(given, {"n": "N"}, lambda text: text)
        assert [row["n"] for row in order.sorted(rows, {"n": lambda row: row["n"]})] == wanted


async def test_what_was_disconnected_is_there_for_who_looks_for_it() -> None:
    made = world()
    made.reader.put(described("acme-9", "acme", state=State.DISCONNECTED))
    async with browser(made) as (client, _):
        text = (await client.get("/")).text
        assert "acme-9" not in names(text) and "3 connections" in text
        (link,) = re.findall(r'<a href="([^"]+)"><span class="dot disconnected">', text)
        for path in (html.unescape(link), "/?q=acme-9", "/?state=disconnected&sort=name"):
            assert "acme-9" in names((await client.get(path)).text), path
        made.reader.held = {"acme-9": made.reader.held["acme-9"]}
        assert "Show what was" in (await client.get("/")).text


def test_times_are_said_as_people_say_them() -> None:
    def plain(markup: str) -> str:
        return re.sub(r"<[^>]+>", "", markup)

    now = clock.now()
    assert plain(lasting(now - timedelta(seconds=37))).startswith("for 3")
    assert plain(lasting(now + timedelta(seconds=5))) == "since just now"
    assert plain(due(now - timedelta(seconds=26))) == "due now" and plain(due(None)) == "none is planned"
    assert plain(due(now + timedelta(minutes=5))) == "in 5 min"
    assert plain(watermark("1234567")) == "1,234,567 changes read" and watermark("") == "-"
    assert plain(watermark("2026-11-01T12:30:00+01:00")) == "up to 2026-11-01 11:30 UTC"
    assert watermark("<b>") == "&lt;b&gt;"


async def test_no_page_says_since_some_time_ago() -> None:
    async with browser(world()) as (client, _):
        for path in ("/", "/connections/acme-1", "/incidents/inc-acme", "/messages", "/webhooks/wh-acme"):
            text = re.sub(r"<[^>]+>", "", (await client.get(path)).text)
            assert not re.search(r"[Ss]ince\s+(?:now|[<\d]+ \w+ ago)", text), path


async def test_the_last_ninety_days_of_systems_are_drawn_and_old_incidents_are_no_news() -> None:
    async with browser(world(), None) as (client, _):
        text = (await client.get("/status")).text
    assert "odata: 2 of the last 90 days" in text or "odata: 3 of the last 90 days" in text
    assert text.count("odata") < text.count("maintainx") + 2 and '<span class="badge closed">' not in text


@pytest.mark.parametrize(
    ("since", "closed", "bad"),
    [(0, None, 1), (36, None, 3), (36, 36, 1), (90 * 24 + 5, 89 * 24, 1), (200 * 24, None, 90), (95 * 24, 94 * 24, 0)],
)  # fmt: skip
def test_days_of_a_system(since: float, closed: float | None, bad: int) -> None:
    now = datetime(2026, 11, 29, 1, 0, tzinfo=UTC)
    incident = PublicIncident(
        scope="system",
        systems=("a", "b"),
        since=now - timedelta(hours=since),
        closed_at=None if closed is None else now - timedelta(hours=closed),
        state="closed",
    )
    drawn = system_days([incident, incident], now=now)
    assert [one.bad_days for one in drawn] == [bad] * (2 if bad else 0)
    for one in drawn:
        assert one.good.count("M") + one.bad.count("M") == 90


def test_a_meter_is_laid_over_where_it_is_of_the_metrics_own_scale() -> None:
    def fed(**changed: Any) -> FedMeter:
        values: dict[str, Any] = {
            "reduce": "mean",
            "span": timedelta(minutes=15),
            "is_plain": True,
            **changed,
        }
        return FedMeter(connection="c", meter="m", unit=None, **values)

    day = timedelta(days=1)
    assert laid_over([fed(reduce="count"), fed()], span=day) == fed()
    for other in (
        {"reduce": "delta"},
        {"is_plain": False},
        {"span": day},
        {"span": timedelta(seconds=1)},
        {"span": None},
    ):
        assert laid_over([fed(**other)], span=day) is None, other


async def test_steps_are_those_of_the_windows_that_have_ended() -> None:
    since = datetime(2026, 11, 29, 9, 7, tzinfo=UTC)
    until = since + timedelta(hours=1)
    asked: list[tuple[datetime, datetime, int]] = []

    class Read(Devices):
        async def series(self, customer: str, device: str, metric: str, **of: Any) -> Series:
            asked.append((of["since"], of["until"], of["buckets"]))
            first = of["since"]
            buckets = [
                SeriesBucket(start=first + n * timedelta(minutes=15), samples=1, min=n, mean=n, max=n, last=n)
                for n in (0, 2)
            ]
            return Series(buckets=tuple(buckets), complete=True)

    meter = FedMeter(
        connection="c", meter="m", reduce="max", unit=None, span=timedelta(minutes=15), is_plain=True
    )
    found = await steps(Read(), "c", "d", "t", meter, since=since, until=until)
    assert asked == [(since + timedelta(minutes=8), since + timedelta(minutes=53), 3)]
    assert [(round(start * 60), round(end * 60), value) for start, end, value in found] == [
        (8, 23, 0.0),
        (38, 53, 2.0),
    ]
    chart = drawn("t", [SeriesBucket(start=since, samples=1, min=0, mean=1, max=2, last=1)], since, until)
    assert [line.count(" ") for line in stepped(chart, found)] == [1, 1]
