"""Lists of connections, page by page: found, ordered and counted in PostgreSQL. What is shown of each is
`gateway.store.status`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.model.connection import State
from gateway.model.status import URGENCY
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which connections are wanted: of a customer (None: of all), in these states, with a text in their
    names.
    """

    customer: str | None = None
    states: Sequence[State] = URGENCY
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a connection stands in a list: by state, in the order of the filter, then by customer and id."""

    state: int
    customer: str
    connection: str


BEGINNING = Place(state=1, customer="", connection="")


async def page(database: Database, wanted: Filter, *, after: Place = BEGINNING, limit: int) -> list[Place]:
    """The next connections of the list."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("view_overview"),
            wanted.customer,
            wanted.text.lower(),
            list(wanted.states),
            after.state,
            after.customer,
            after.connection,
            limit,
        )
    return [
        Place(state=row["place"], customer=row["customer_id"], connection=row["connection_id"])
        for row in rows
    ]


async def counts(database: Database, wanted: Filter) -> Mapping[str, int]:
    """How many there are in each state, of whichever states are wanted."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("view_counts"), wanted.customer, wanted.text.lower())
    return {row["state"]: row["number"] for row in rows}


async def customers(database: Database, *, limit: int) -> list[str]:
    """Customers that have connections."""
    async with database.connection() as connection:
        return [row["customer_id"] for row in await connection.fetch(sql("view_customers"), limit)]
