"""Lists of connections, page by page: found, ordered and counted in PostgreSQL. What is shown of each is
`gateway.store.status`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from gateway.model.connection import State
from gateway.model.status import URGENCY
from gateway.store.pool import Database
from gateway.store.queries import filtered, sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which connections are wanted: of a customer (None: of all), in these states, with a text in their
    names.
    """

    customer: str | None = None
    states: Sequence[State] = URGENCY
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPlace:
    """Where a connection stands in a list: by state, in the order of the filter, then by customer and id."""

    state: int
    customer: str
    connection: str


BEGINNING = ListPlace(state=1, customer="", connection="")

Column = Literal["name", "since", "readings", "lag", "pending", "dead_letters"]
COLUMNS: tuple[Column, ...] = get_args(Column)
"""What a list of connections can be sorted by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`since`: which readings count."""

    column: Column
    descending: bool
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedPlace:
    """Where something stands in a list that is sorted: by number or word, then by id."""

    number: float
    word: str
    id: str


def first_place(*, descending: bool) -> SortedPlace:
    """A place before any."""
    return SortedPlace(number=1e300 if descending else -1e300, word="", id="")


async def page(
    database: Database, wanted: Filter, *, after: ListPlace = BEGINNING, limit: int
) -> list[ListPlace]:
    """The next connections of the list."""
    rows = await database.fetch(
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
        ListPlace(state=row["place"], customer=row["customer_id"], connection=row["connection_id"])
        for row in rows
    ]


async def sorted_page(
    database: Database, wanted: Filter, order: Order, *, after: SortedPlace | None = None, limit: int
) -> list[SortedPlace]:
    """The next connections in this order. All that fit are compared: what they number, and not what a page
    shows, is what it costs.
    """
    after = after or first_place(descending=order.descending)
    async with database.connection() as connection:
        rows = await connection.fetch(
            *filtered(
                "view_overview_sorted",
                wanted.customer,
                wanted.text.lower(),
                list(wanted.states),
                order.column,
                order.descending,
                after.number,
                after.word,
                after.id,
                order.since,
                limit,
            )
        )
    return [SortedPlace(number=row["number"], word=row["word"], id=row["connection_id"]) for row in rows]


async def counts(database: Database, wanted: Filter) -> Mapping[str, int]:
    """How many there are in each state, of whichever states are wanted."""
    rows = await database.fetch(sql("view_counts"), wanted.customer, wanted.text.lower())
    return {row["state"]: row["number"] for row in rows}


async def customers(database: Database, *, limit: int) -> list[str]:
    """Customers that have connections."""
    return [row["customer_id"] for row in await database.fetch(sql("view_customers"), limit)]
