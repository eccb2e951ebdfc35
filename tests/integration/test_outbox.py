"""The outbox in the database: told if and only if the change commits, a delivery for each webhook that wants it, a cursor that misses nothing."""

from __future__ import annotations

import asyncpg
import pytest

from gateway.model.event import EventType, NewEvent
from gateway.store import outbox
from gateway.store.pool import Database


def activated(customer: str | None = "acme", connection: str | None = "sink") -> NewEvent:
    return NewEvent(type=EventType.CONNECTION_ACTIVATED, customer=customer, connection=connection, data={"state": "active"}, request_id="r-1")


async def append(database: Database, *events: NewEvent) -> None:
    async with database.transaction() as connection:
        for event in events:
            await outbox.append(connection, event)


async def rows(database: Database, query: str) -> list[asyncpg.Record]:
    async with database.connection() as connection:
        return await connection.fetch(query)


async def test_an_event_lives_and_dies_with_its_transaction(database: Database) -> None:
    await append(database, activated())
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await outbox.append(connection, activated())
            raise ZeroDivisionError
    [row] = await rows(database, "select * from event")
    assert (row["type"], row["customer_id"], row["connection_id"], row["data"], row["request_id"]) == (
        "connection.activated",
        "acme",
        "sink",
        {"state": "active"},
        "r-1",
    )
    assert row["published_at"] is None


async def test_only_webhooks_that_want_it_get_a_delivery(database: Database) -> None:
    endpoints = {
        "all": (None, []),
        "acme": ("acme", []),
        "acme_paused": ("acme", ["connection.paused"]),
        "globex": ("globex", []),
        "activated": (None, ["sync.failed", "connection.activated"]),
    }
    async with database.connection() as connection:
        for name, (customer, types) in endpoints.items():
            await connection.execute(
                "insert into webhook_endpoint (endpoint_id, customer_id, url, types, secret) values ($1, $2, 'https://x', $3, '')", name, customer, types
            )
    await append(database, activated(), activated(customer=None, connection=None))
    found = await rows(database, "select lane, endpoint_id from webhook_delivery order by position, endpoint_id")
    assert [(row["lane"], row["endpoint_id"]) for row in found] == [
        ("sink", "acme"),
        ("sink", "activated"),
        ("sink", "all"),
        ("/", "activated"),
        ("/", "all"),
    ]
