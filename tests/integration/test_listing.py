"""Lists of connections: in one order, whole, by pages, and no dearer for being long."""

from __future__ import annotations

import random

import orjson
import pytest

from gateway.model.connection import State
from gateway.model.status import URGENCY
from gateway.store import listing
from gateway.store.listing import BEGINNING, Filter, ListPlace
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.views import Views

INSERT = """
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[])
"""


async def put(database: Database, rows: list[tuple[str, str, str, State]]) -> None:
    names, customers, systems, states = zip(*rows, strict=True)
    count = len(rows)
    async with database.connection() as connection:
        await connection.execute(
            "insert into customer (customer_id) select distinct unnest($1::text[]) on conflict do nothing",
            customers,
        )
        await connection.execute(
            INSERT, names, customers, systems, ["cloud"] * count, [1] * count, states, [""] * count
        )


async def everything(database: Database, wanted: Filter, limit: int) -> list[str]:
    """Page by page, to the end."""
    found: list[ListPlace] = []
    while True:
        page = await listing.page(database, wanted, after=found[-1] if found else BEGINNING, limit=limit)
        found += page
        if len(page) < limit:
            return [place.connection for place in found]


@pytest.mark.parametrize("seed", range(3))
async def test_pages_are_the_whole_list_in_its_order(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    rows = [
        (f"{chance.choice('abc')}-{n}", f"c{chance.randrange(4)}", chance.choice(["odata", "postgres"]), chance.choice(URGENCY))
        for n in range(60)
    ]  # fmt: skip
    await put(database, rows)
    for wanted in (
        Filter(),
        Filter(customer="c1"),
        Filter(states=[State.ACTIVE]),
        Filter(customer="c2", states=[State.BLOCKED, State.ACTIVE]),
        Filter(text="A-"),
        Filter(text="odata", customer="c3"),
        Filter(text="%"),
        Filter(customer="nobody"),
        Filter(states=[]),
    ):
        fits = [
            (list(wanted.states).index(state), customer, name)
            for name, customer, system, state in rows
            if state in wanted.states
            and wanted.customer in (None, customer)
            and wanted.text.lower() in f"{name} {customer} {system}"
        ]
        for limit in (1, 7, 100):
            assert await everything(database, wanted, limit) == [name for *_, name in sorted(fits)]
        counted = await listing.counts(database, wanted)
        assert sum(counted.get(state, 0) for state in wanted.states) == len(fits)
    assert await listing.customers(database, limit=3) == sorted({customer for _, customer, *_ in rows})[:3]


async def test_connections_are_found_by_what_people_call_them(database: Database) -> None:
    await put(database, [(f"c-{n}", "acme", "odata", State.ACTIVE) for n in range(3)])
    async with database.connection() as connection:
        await connection.execute("update connection set title = 'Boiler house' where connection_id = 'c-1'")
    for wanted in (Filter(text="Boiler H"), Filter(text="boiler", customer="acme")):
        assert await everything(database, wanted, 2) == ["c-1"]


async def test_rows_that_come_and_go_between_pages_skip_nothing(database: Database) -> None:
    await put(database, [(f"n{n:02}", "c", "odata", State.ACTIVE) for n in range(10)])
    first = await listing.page(database, Filter(), limit=4)
    async with database.connection() as connection:
        await connection.execute("delete from connection where connection_id in ('n00', 'n03', 'n05')")
    await put(database, [("n021", "c", "odata", State.ACTIVE), ("n071", "c", "odata", State.ACTIVE)])
    second = await listing.page(database, Filter(), after=first[-1], limit=100)
    assert [place.connection for place in second] == ["n04", "n06", "n07", "n071", "n08", "n09"]


async def _rows(connection: Connection, name: str, *arguments: object) -> int:
    """How many rows its plan read of connections, whichever way."""
    types = {"view_overview": "text, text, text[], bigint, text, text, bigint", "view_connections": "text, text, text, text[], text, bigint, bool"}  # fmt: skip
    await connection.execute(f"prepare wanted({types[name]}) as {sql(name)}")
    written = ", ".join(
        "null" if each is None else f"array[{', '.join(repr(str(one)) for one in each)}]::text[]" if isinstance(each, list) else repr(each)
        for each in arguments
    )  # fmt: skip
    plan = await connection.fetchval(f"explain (analyze, format json) execute wanted({written})")
    await connection.execute("deallocate wanted")
    return _read_of(orjson.loads(plan)[0]["Plan"])


def _read_of(node: dict[str, object]) -> int:
    own = 0
    if node.get("Relation Name") == "connection":
        seen = node["Actual Rows"], node.get("Rows Removed by Filter", 0)
        own = int(sum(float(str(each)) for each in seen) * float(str(node["Actual Loops"])))
    plans = node.get("Plans", [])
    assert isinstance(plans, list)
    return own + sum(_read_of(each) for each in plans)


async def test_a_page_reads_no_more_than_it_shows(database: Database) -> None:
    """Of five thousand connections, half of them of one state, the others of a thousand customers."""
    await put(
        database,
        [
            (f"n{n:05}", f"c{n % 1000:04}", "odata", URGENCY[n % 8] if n % 2 else State.ACTIVE)
            for n in range(5000)
        ],
    )
    views = Views(database)
    assert len(await views.connections(customer="c0007", limit=50)) == 5
    async with database.connection() as connection:
        await connection.execute("analyze connection")
        states, end = list(URGENCY), ["active"]
        assert await _rows(connection, "view_overview", None, "", states, 1, "", "", 101) <= 9 * 101
        assert await _rows(connection, "view_overview", "c0007", "", states, 1, "", "", 101) <= 9
        assert await _rows(connection, "view_overview", None, "", end, 1, "c0500", "n00500", 101) <= 101
        assert await _rows(connection, "view_connections", None, None, None, None, "n03000", 51, True) <= 51
        assert await _rows(connection, "view_connections", None, "c0007", None, None, "", 51, True) <= 5
