"""The outbox in the database: told if and only if the change commits, a delivery for each webhook that wants
it, a cursor that misses nothing.
"""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from gateway import clock
from gateway.model.event import EventType, NewEvent
from gateway.store import outbox, retention
from gateway.store.pool import Database


def activated(customer: str | None = "acme", connection: str | None = "sink") -> NewEvent:
    return NewEvent(
        type=EventType.CONNECTION_ACTIVATED,
        customer=customer,
        connection=connection,
        data={"state": "active"},
        request_id="r-1",
    )


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
                "insert into webhook_endpoint (endpoint_id, customer_id, url, types, secret) values ($1, $2, 'https://x', $3, '')",
                name,
                customer,
                types,
            )
    await append(database, activated(), activated(customer=None, connection=None))
    found = await rows(
        database, "select lane, endpoint_id from webhook_delivery order by position, endpoint_id"
    )
    assert [(row["lane"], row["endpoint_id"]) for row in found] == [
        ("sink", "acme"),
        ("sink", "activated"),
        ("sink", "all"),
        ("/", "activated"),
        ("/", "all"),
    ]


async def test_a_reader_misses_nothing_that_commits_late(database: Database) -> None:
    """Positions are given out before the commit: a cursor of positions alone would pass the slow transaction
    by.
    """
    async with database.transaction() as slow:
        await outbox.append(slow, activated(connection="slow"))
        await append(database, activated(connection="quick"))
        assert await outbox.read(database, customer=None) == []
    found = await outbox.read(database, customer=None)
    assert [event.connection for event in found] == ["slow", "quick"]


async def test_a_reader_of_one_customer_misses_nothing_that_commits_late_either(database: Database) -> None:
    """Events of a customer-bound token are read by a statement of their own."""
    async with database.transaction() as slow:
        await outbox.append(slow, activated(connection="slow"))
        await append(
            database, activated(connection="quick"), activated(customer="globex", connection="other")
        )
        assert await outbox.read(database, customer="acme") == []
    found = await outbox.read(database, customer="acme")
    assert [event.connection for event in found] == ["slow", "quick"]


async def test_reading_goes_on_after_the_last_one(database: Database) -> None:
    await append(
        database,
        *(
            activated(customer=customer, connection=f"c{n}")
            for n in range(5)
            for customer in ("acme", "globex")
        ),
    )
    after, found = 0, []
    while page := await outbox.read(database, customer="acme", after=after, limit=2):
        found += [event.connection for event in page]
        after = page[-1].position
    assert found == [f"c{n}" for n in range(5)]
    assert len(await outbox.read(database, customer=None)) == 10
    await rows(database, f"delete from event where position <= {after} - 4")
    assert len(await outbox.read(database, customer=None, after=1)) == len(
        await outbox.read(database, customer=None)
    )


async def test_events_are_kept_for_thirty_days(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REMOVED_AT_ONCE", 3)
    await rows(
        database, "insert into webhook_endpoint (endpoint_id, url, secret) values ('all', 'https://x', '')"
    )
    await append(database, *(activated() for _ in range(10)))
    await rows(database, "update event set at = at - interval '31 days' where position <= 7")
    await retention.drop_expired(database, now=clock.now(), retention=timedelta(days=100))
    assert (
        len(await rows(database, "select from event"))
        == len(await rows(database, "select from webhook_delivery"))
        == 3
    )
