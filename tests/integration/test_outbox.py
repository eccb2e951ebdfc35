"""The outbox in the database: told if and only if the change commits, a delivery for each webhook that wants
it, a cursor that misses nothing.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import asyncpg
import pytest

from gateway import clock
from gateway.model.event import Event, EventType, NewEvent
from gateway.store import outbox, retention
from gateway.store.pool import Database


def activated(
    customer: str | None = "acme", connection: str | None = "sink", state: str = "active"
) -> NewEvent:
    return NewEvent(
        type=EventType.CONNECTION_ACTIVATED,
        customer=customer,
        connection=connection,
        data={"state": state},
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
                "insert into webhook_endpoint (endpoint_id, customer_id, url, types, secret) values ($1, $2,"
                " 'https://x', $3, '')",
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


async def test_a_reader_misses_nothing_that_commits_late_and_waits_for_nobody(database: Database) -> None:
    """Positions are given out before the commit: a cursor of positions alone would pass the slow transaction
    by.
    """
    async with database.transaction() as slow:
        await outbox.append(slow, activated(connection="slow"))
        await append(database, activated(connection="quick"))
        (quick,) = await outbox.read(database, customer=None)
        assert quick.connection == "quick"
    found = await outbox.read(database, customer=None, after=quick.position)
    assert [event.connection for event in found] == ["slow"] and found[0].position < quick.position
    assert [event.connection for event in await outbox.read(database, customer=None)] == ["quick", "slow"]


async def test_a_reader_of_one_customer_misses_nothing_that_commits_late_either(database: Database) -> None:
    """Events of a customer-bound token are read by a statement of their own."""
    async with database.transaction() as slow:
        await outbox.append(slow, activated(connection="slow"))
        await append(
            database, activated(connection="quick"), activated(customer="globex", connection="other")
        )
        (quick,) = await outbox.read(database, customer="acme")
        assert quick.connection == "quick"
    found = await outbox.read(database, customer="acme", after=quick.position)
    assert [event.connection for event in found] == ["slow"]


async def test_readers_page_through_every_event_once_while_many_are_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that pause and roll back, readers that start anywhere, events that are marked as published
    meanwhile: nobody misses one or sees one twice, and the events of a connection come in their order.
    """
    monkeypatch.setattr(outbox, "ORDERED_AT_ONCE", 7)
    until = asyncio.get_running_loop().time() + 3.0
    written: list[str] = []

    async def write(seed: int) -> None:
        dice, number = random.Random(seed), 0
        while asyncio.get_running_loop().time() < until:
            number += 1
            name = f"{seed}/{number}"
            try:
                async with database.transaction() as connection:
                    await outbox.append(connection, activated(connection=str(seed), state=name))
                    await asyncio.sleep(dice.choice([0, 0.002, 0.02]))
                    if dice.random() < 0.1:
                        raise LookupError
            except LookupError:
                continue
            written.append(name)

    async def page(customer: str | None, limit: int) -> list[Event]:
        found: list[Event] = []
        while True:
            was_done = all(writer.done() for writer in writers)
            after = found[-1].position if found else 0
            some = await outbox.read(database, customer=customer, after=after, limit=limit)
            found += some
            if was_done and not some:
                return found

    async def publish() -> None:
        while asyncio.get_running_loop().time() < until:
            waiting = await outbox.unpublished(database, without=(), lanes=10, events=5)
            await outbox.mark_published(database, [e.position for lane in waiting.values() for e in lane])

    writers = [asyncio.create_task(write(seed)) for seed in range(6)]
    *seen, _ = await asyncio.gather(page(None, 3), page("acme", 5), page("acme", 50), publish())
    await asyncio.gather(*writers)
    assert len(written) > 50
    for found in seen:
        names = [str(event.data["state"]) for event in found]
        assert sorted(names) == sorted(written)
        for seed in range(6):
            numbers = [int(name.split("/")[1]) for name in names if name.startswith(f"{seed}/")]
            assert numbers == sorted(numbers)


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
