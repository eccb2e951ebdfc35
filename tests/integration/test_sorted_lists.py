"""Lists that are sorted by a column: the order is that of the whole list, page by page, whoever comes between."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.http.dashboard.devices import PAGE_ROWS
from gateway.model.access import Role
from gateway.model.connection import State
from gateway.settings import CreditsSettings
from gateway.store import listing
from gateway.store.credits import sync_capacity
from gateway.store.devices import COLUMNS as DEVICE_COLUMNS
from gateway.store.devices import Devices
from gateway.store.listing import COLUMNS, Column, Filter, Order, SortedPlace
from gateway.store.pool import Database
from gateway.store.views import Views
from tests.fixtures.connection_rig import World
from tests.fixtures.http_rig import served
from tests.integration.test_connect import logged_in
from tests.integration.test_listing import put

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=24)

FILL = """
with numbered as (select connection_id, row_number() over (order by connection_id) as n from connection)
, titled as (
    update connection c set title = case when n.n % 3 = 0 then upper(chr(97 + (n.n * 7 % 26)::int)) || n.n end,
        since = $1::timestamptz - n.n * 37 % 11 * interval '1 hour'
    from numbered n where n.connection_id = c.connection_id
), windows as (
    insert into due_window (connection_id, meter, window_start, phase, closes_at)
    select n.connection_id, 'm' || k, $1::timestamptz - k * interval '1 h', case when n.n % 2 = 0 then 'initial' else 'incremental' end,
        now() - (n.n * 13 % 7 + k) * interval '1 h'
    from numbered n cross join lateral generate_series(1, n.n % 5) k
), letters as (
    insert into dead_letter (kind, digest, connection_id, reason, detail)
    select 'reading', decode(md5(n.connection_id || k), 'hex'), n.connection_id, 'rejected', ''
    from numbered n cross join lateral generate_series(1, n.n * 5 % 4) k
)
insert into connection_hour (connection_id, hour, delivered, modified, rejected)
select n.connection_id, $1::timestamptz - k * interval '20 h', n.n * 3 % 8, k, 1 from numbered n cross join lateral generate_series(1, n.n % 3) k
"""


async def world(database: Database, count: int = 40) -> None:
    await put(
        database,
        [
            (f"n{n:02}", f"c{n % 3}", "odata", State.PAUSED if n % 10 == 9 else State.ACTIVE)
            for n in range(count)
        ],
    )
    async with database.connection() as connection:
        await connection.execute(FILL, NOW)


async def paged(database: Database, wanted: Filter, order: Order, limit: int) -> list[str]:
    found: list[SortedPlace] = []
    while True:
        page = await listing.sorted_page(
            database, wanted, order, after=found[-1] if found else None, limit=limit
        )
        found += page
        if len(page) < limit:
            return [place.id for place in found]


async def expected(database: Database, column: Column, wanted: Filter, *, descending: bool) -> list[str]:
    """By what the page shows of each: the status, the title, the hours."""
    views = Views(database)
    every = await views.connections(customer=wanted.customer, states=wanted.states, limit=1000)
    names = [one.connection for one in every]
    statuses = {one.connection: one for one in await views.status(names)}
    hours = await views.hours(names, since=SINCE)
    keys: dict[Column, Callable[[str], Any]] = {
        "name": lambda name: (statuses[name].title or name).lower(),
        "since": lambda name: statuses[name].since,
        "readings": lambda name: sum(hour.delivered for hour in hours.get(name, ())),
        "lag": lambda name: round(statuses[name].lag_seconds / 3600),
        "pending": lambda name: statuses[name].pending,
        "dead_letters": lambda name: statuses[name].dead_letters,
    }
    return sorted(names, key=lambda name: (keys[column](name), name), reverse=descending)


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_list_is_sorted_as_it_shows_itself(database: Database, column: Column) -> None:
    await world(database)
    async with database.connection() as connection:
        await connection.execute(
            "insert into stream (connection_id, name, phase, state) select connection_id, 'readings', phase, 'idle'"
            " from connection cross join (values ('initial'), ('incremental')) phases (phase)"
        )
    for descending in (False, True):
        order = Order(column=column, descending=descending, since=SINCE)
        for wanted in (Filter(), Filter(customer="c1"), Filter(states=[State.PAUSED])):
            whole = await expected(database, column, wanted, descending=descending)
            assert len(whole) > 2
            for limit in (3, 100):
                assert await paged(database, wanted, order, limit) == whole, (column, descending, wanted)
    nobody = Order(column=column, descending=True, since=SINCE)
    assert await paged(database, Filter(customer="nobody"), nobody, 10) == []
    assert await paged(database, Filter(text="N07"), nobody, 10) == ["n07"]


async def test_who_comes_and_goes_between_pages_moves_nobody_else(database: Database) -> None:
    await world(database)
    order = Order(column="pending", descending=True, since=SINCE)
    first = await listing.sorted_page(database, Filter(), order, limit=10)
    whole = await paged(database, Filter(), order, 1000)
    async with database.connection() as connection:
        await connection.execute(
            "delete from connection where connection_id = any($1)", [whole[3], whole[12]]
        )
    rest = await listing.sorted_page(database, Filter(), order, after=first[-1], limit=100)
    assert [place.id for place in rest] == [name for name in whole[10:] if name != whole[12]]


async def test_a_page_that_ends_at_a_long_name_has_a_next_one(database: Database) -> None:
    """Names of devices have up to 256 letters, and some letters are four bytes."""
    await sync_capacity(database, CreditsSettings())
    world = World(database)
    await world.active()
    long = "\U00020000" * 256
    async with database.connection() as connection:
        await connection.executemany(
            "insert into device (customer_id, device_id, title) values ('acme', $1, $2)",
            [(f"d{n:03}", long) for n in range(PAGE_ROWS + 1)],
        )
        await connection.execute(
            "create table delivery_named partition of delivery for values from ('2001-01-01') to ('2001-01-02')"
        )
        await connection.executemany(
            "insert into delivery (connection_id, meter, window_start, value)"
            " values ('acme-1', $1, '2001-01-01', '1')",
            [(long + end,) for end in "ab"],
        )
    async with logged_in(world) as browser:
        first = await browser.get("/devices?customer=acme&sort=name")
        [more] = set(re.findall(r'href="([^"]*after=[^"]*)"', first.text))
        assert "d100" in (await browser.get(html.unescape(more))).text
    async with served(world, Role.VIEWER) as client:
        path = "/v1/connections/acme-1/readings"
        page = (await client.get(path, params={"limit": 1})).json()
        rest = await client.get(path, params={"limit": 1, "cursor": page["next"]})
        assert [item["meter"][-1] for item in page["items"] + rest.json()["items"]] == ["a", "b"]


@pytest.mark.parametrize("column", DEVICE_COLUMNS)
async def test_devices_of_a_customer_are_sorted(database: Database, column: Any) -> None:
    chance = random.Random(7)
    rows = [
        (f"d{n:02}", chance.choice(["Pump", "fan", None]), chance.randrange(4), chance.randrange(4))
        for n in range(25)
    ]
    async with database.connection() as connection:
        await connection.execute("insert into customer (customer_id) values ('acme'), ('globex')")
        for customer in ("acme", "globex"):
            await connection.executemany(
                "insert into device (customer_id, device_id, title) values ($1, $2, $3)",
                [(customer, device, title) for device, title, _, _ in rows],
            )
            await connection.executemany(
                "insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics)"
                " values ($1, $2, $3, $4, '{\"t\": [1, 2]}')",
                [
                    (customer, device, NOW - timedelta(hours=seen), NOW - timedelta(hours=sample))
                    for device, _, seen, sample in rows[:-3]
                ],
            )
        await connection.execute(
            "update device_state set silent_since = now() where device_id in ('d01', 'd05')"
        )
    devices = Devices(database)
    known = await devices.page("acme", limit=100)
    keys: dict[str, Callable[[Any], Any]] = {
        "name": lambda one: (one.title or one.device).lower(),
        "last_seen": lambda one: one.last_seen_at or datetime(1970, 1, 1, tzinfo=UTC),
        "last_sample": lambda one: one.last_sample_at or datetime(1970, 1, 1, tzinfo=UTC),
    }
    for descending in (False, True):
        whole = sorted(known, key=lambda one: (keys[column](one), one.device), reverse=descending)
        found: list[tuple[Any, SortedPlace]] = []
        while True:
            after = found[-1][1] if found else None
            page = await devices.sorted_page("acme", column, descending=descending, after=after, limit=4)
            found += page
            if len(page) < 4:
                break
        assert [one for one, _ in found] == whole
        silent = await devices.sorted_page("acme", column, descending=descending, silent=True, limit=9)
        assert {one.device for one, _ in silent} == {"d01", "d05"}
        some = await devices.sorted_page("acme", column, descending=descending, text="PUMP", limit=99)
        assert [one for one, _ in some] == [one for one in whole if one.title == "Pump"]
