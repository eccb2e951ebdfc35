"""A piece of work runs at one replica at a time, for as long as its lease is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from benchmarks.servers import wait_until
from gateway.events import leading
from gateway.events.leading import lead
from gateway.model.errors import StoreUnavailable
from gateway.store import leases
from gateway.store.leases import Term
from gateway.store.pool import Database


@dataclass
class Replica:
    """`claims` counts how often it asked for the lease."""

    name: str
    working: int = 0
    claims: int = 0
    away: bool = False

    async def work(self) -> None:
        self.working += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working -= 1


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> dict[str, Replica]:
    found = {name: Replica(name) for name in ("one", "two")}
    claim = leases.claim

    async def counted(database: Database, lease: str, owner: str, seconds: float) -> Term | None:
        found[owner].claims += 1
        if found[owner].away:
            raise StoreUnavailable("away")
        return await claim(database, lease, owner, seconds)

    monkeypatch.setattr(leases, "claim", counted)
    monkeypatch.setattr(leading, "CLAIM_SECONDS", 0.02)
    return found


@asynccontextmanager
async def leads(database: Database, replica: Replica) -> AsyncIterator[None]:
    task = asyncio.create_task(lead(database, "work", replica.name, replica.work, look=asyncio.Event()))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def asked_again(replica: Replica) -> None:
    before = replica.claims
    await wait_until(lambda: replica.claims >= before + 3, what=f"{replica.name} has asked", every=0.01)


async def test_another_takes_over_when_one_leaves(database: Database, replicas: dict[str, Replica]) -> None:
    one, two = replicas.values()
    async with leads(database, two):
        await wait_until(lambda: two.working == 1, what="it works", every=0.01)
        async with leads(database, one):
            await asked_again(one)
            assert (one.working, two.working) == (0, 1)
    async with leads(database, one):
        await wait_until(lambda: one.working == 1, what="the other works", every=0.01)
        assert two.working == 0


async def test_work_ends_with_its_lease_and_a_database_that_is_away_ends_nothing(
    database: Database, replicas: dict[str, Replica]
) -> None:
    one, _ = replicas.values()
    async with leads(database, one):
        await wait_until(lambda: one.working == 1, what="it works", every=0.01)
        one.away = True
        await asked_again(one)
        assert one.working == 1
        one.away = False
        async with database.connection() as connection:
            await connection.execute(
                "update lease set owner = 'another', lease_until = now() + interval '1 hour'"
            )
        await wait_until(lambda: one.working == 0, what="it works no more", every=0.01)
        await asked_again(one)
        assert one.working == 0
    assert one.working == 0


async def test_what_kills_the_work_is_raised(database: Database, replicas: dict[str, Replica]) -> None:
    async def work() -> None:
        raise ValueError("dead")

    with pytest.raises(ValueError, match="dead"):
        await lead(database, "work", "one", work, look=asyncio.Event())
    async with database.connection() as connection:
        assert await connection.fetchval("select owner from lease") is None
