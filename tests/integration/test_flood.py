"""What a flood costs the others: what is over a quota that is told already is counted by the statement that stores
their samples, and exactly as often as it came.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from gateway.model.errors import LeaseLost
from gateway.model.quota import Excess, QuotaKind
from gateway.model.sample import Metrics
from gateway.store import leases, quotas
from gateway.store.dead_messages import DeadMessage
from gateway.store.leases import Term
from gateway.store.pool import Connection, Database
from gateway.store.telemetry import Key, TelemetryStore

NOW = int(time.time()) * 1_000_000
_SECONDS = itertools.count()
LETTER = DeadMessage(topic="acme/devices/pump/telemetry", payload=b"{", reason="over_quota", detail="")


def sample(customer: str = "globex") -> Sequence[tuple[Key, Metrics, int]]:
    return [((customer, "pump", NOW + next(_SECONDS)), {"value": 1}, NOW)]


def over(
    dropped: int, customer: str | None = "acme", kind: QuotaKind = QuotaKind.MESSAGES, dead_letters: int = 0
) -> Excess:
    return Excess(
        customer=customer,
        kind=kind,
        allowed=20.0,
        dead_letters=dead_letters,
        dropped=dropped,
        dropped_bytes=10 * dropped,
    )


async def claimed(database: Database) -> Term:
    term = await leases.claim(database, "ingest/0", "one", 60)
    assert term is not None
    return term


async def writing(database: Database) -> TelemetryStore:
    store = TelemetryStore(database, register_customers=True, term=await claimed(database))
    await store.write(sample(), ())  # its device and its day are known from now on
    return store


async def fetch(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.connection() as connection:
        return [tuple(row) for row in await connection.fetch(query)]


def forbid_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Database) -> AbstractAsyncContextManager[Connection]:
        raise AssertionError("a transaction around several statements")

    monkeypatch.setattr(Database, "transaction", refused)


@pytest.mark.parametrize("others", [True, False], ids=["with samples of others", "alone"])
async def test_in_a_flood_a_batch_is_one_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    store = await writing(database)
    begun = await store.write(sample(), (), [over(3)])
    assert begun.exceeded == (over(3),), "the first is told, in a transaction with its samples"
    forbid_transactions(monkeypatch)
    for number in (5, 7):
        more = await store.write(sample() if others else (), (), [over(number)])
        assert more.stored == int(others) and more.exceeded == ()
    assert await fetch(database, "select dropped, dropped_bytes from quota_excess") == [(15, 150)]
    assert await fetch(database, "select count(*) from event") == [(1,)]


async def test_what_is_kept_of_it_is_counted_with_what_is_dropped(database: Database) -> None:
    store = await writing(database)
    for number in range(3):
        await store.write(sample(), [LETTER], [over(number, dead_letters=1)])
    assert await fetch(database, "select dropped, dead_letters from quota_excess") == [(3, 3)]
    assert await fetch(database, "select occurrences from dead_letter") == [(3,)]


async def test_an_excess_that_ended_meanwhile_is_told_anew_and_counted_once(database: Database) -> None:
    store = await writing(database)
    await store.write(sample(), (), [over(3), over(1, "initech")])
    await fetch(database, "update quota_excess set ended_at = now() where customer_id = 'acme' returning 1")
    again = await store.write(sample(), (), [over(5), over(1, "initech")])
    assert again.exceeded == (over(5),) and again.stored == 1
    found = "select customer_id, dropped, ended_at is null from quota_excess order by customer_id"
    assert await fetch(database, found) == [("acme", 5, True), ("initech", 2, True)]
    assert await fetch(database, "select count(*) from event where data ->> 'quota' is not null") == [(3,)]
    assert await fetch(database, "select count(*) from telemetry") == [(3,)]


async def test_who_lost_the_lease_counts_nothing(database: Database) -> None:
    store = await writing(database)
    await store.write(sample(), (), [over(3)])
    await fetch(database, "update lease set lease_until = now() - interval '1 second' returning 1")
    assert await leases.claim(database, "ingest/0", "two", 60) is not None
    with pytest.raises(LeaseLost):
        await store.write(sample(), (), [over(5)])
    assert await fetch(database, "select dropped from quota_excess") == [(3,)]
    assert await fetch(database, "select count(*) from telemetry") == [(2,)]


async def test_a_quota_without_a_limit_is_counted_too(database: Database) -> None:
    """It was lifted while what had come was on its way."""
    store = await writing(database)
    lifted = Excess(customer="acme", kind=QuotaKind.STORED, allowed=float("inf"), dropped=1)
    for _ in range(2):
        await store.write(sample(), (), [lifted])
    assert await fetch(database, "select dropped, allowed from quota_excess") == [(2, float("inf"))]


@pytest.mark.parametrize("seed", range(5))
async def test_of_any_course_of_floods_each_message_is_counted_once(database: Database, seed: int) -> None:
    """Two partitions at once, excesses that end at any time, in any order: nobody waits in a circle, and each time is
    what came in it.
    """
    chance = random.Random(seed)
    term = await claimed(database)
    stores = [TelemetryStore(database, register_customers=True, term=term) for _ in range(2)]
    customers = ["acme", "globex", None]
    sent = told = 0

    async def flood(store: TelemetryStore) -> None:
        nonlocal sent, told
        for _ in range(15):
            pairs = [
                (customer, kind) for customer in customers for kind in (QuotaKind.BYTES, QuotaKind.MESSAGES)
            ]
            excesses = [
                over(chance.randint(1, 9), *pair) for pair in chance.sample(pairs, chance.randint(0, 6))
            ]
            written = await store.write(sample(chance.choice(["acme", "globex"])), (), excesses)
            sent += sum(one.dropped for one in excesses)
            told += len(written.exceeded)

    async def calm() -> None:
        for _ in range(4):
            await asyncio.sleep(0)
            async with database.connection() as connection:
                await connection.execute("update quota_excess set last_at = last_at - interval '61 seconds'")
            summed.extend(ended.dropped for ended in await quotas.end_calm(database))

    summed: list[int] = []
    await asyncio.gather(flood(stores[0]), flood(stores[1]), calm())
    [(still,)] = await fetch(
        database, "select coalesce(sum(dropped), 0) from quota_excess where ended_at is null"
    )
    assert sum(summed) + int(str(still)) == sent
    assert await fetch(database, "select count(*) from event where type = 'quota.exceeded'") == [(told,)]
    assert await fetch(database, "select count(*) from telemetry") == [(30,)]
