"""500 connects and disconnects released by a barrier in three processes: never over capacity, the sum exact;
without its guard the ledger is seen to fail.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from gateway.model.credits import Account, TransferKind
from gateway.settings import CreditsSettings
from gateway.store import credits as ledger
from gateway.store.pool import Database
from tests.fixtures import credit_race
from tests.fixtures.credit_race import Done, Task
from tests.fixtures.ledger import Ledger

CONNECTIONS, PROCESSES, CAPACITY = 500, 3, 200
PRICES = (1, 2, 4, 8)

GUARD = (
    "credit_hold",
    "and held + posted + $3::int <= least(capacity, $4::int)",
    "and ($4::int is null or true)",
)
LOCK = ("credit_lock", "for update", "")
READ_FIRST = (
    "credit_hold",
    "and held + posted + $3::int <= least(capacity, $4::int)",
    "and (select p.held + p.posted from credit_pool p) + $3::int <= least(capacity, $4::int)",
)
"""Looks first and then writes: right when one comes after the other, wrong when they come at once."""


@dataclass
class Seen:
    """By an observer beside the race, several times a millisecond at best."""

    samples: int = 0
    most: int = 0
    inexact: int = 0


OBSERVE = (
    "select held + posted as used, (select coalesce(sum(amount), 0)::int from connection_credit) as lying,"
    " held, posted from credit_pool"
)


async def observe(database: Database, seen: Seen, stop: asyncio.Event) -> None:
    async with database.connection() as connection:
        statement = await connection.prepare(OBSERVE)
        while not stop.is_set():
            row = await statement.fetchrow()
            assert row is not None
            seen.samples += 1
            seen.most = max(seen.most, row["used"])
            seen.inexact += row["used"] != row["lying"] or min(row["held"], row["posted"]) < 0


async def race(dsn: str, database: Database, *without: tuple[str, str, str]) -> tuple[list[Done], Seen]:
    """Fills the pool, then lets everything that is connected disconnect while everything else connects."""
    books = Ledger(database, CreditsSettings(capacity=CAPACITY))
    await ledger.sync_capacity(database, books.settings)
    names = [f"c{number % 7}_{number}" for number in range(CONNECTIONS)]
    await books.add(**{name: PRICES[number % len(PRICES)] for number, name in enumerate(names)})
    connected = names[:: CONNECTIONS // 50]
    for name in connected:
        await books.hold(name)
        await books.post(name)
    connecting = [name for name in names if name not in connected]
    context = multiprocessing.get_context("spawn")
    barrier, pipes, processes = context.Barrier(PROCESSES), [], []
    for number in range(PROCESSES):
        task = Task(dsn, connecting[number::PROCESSES], connected[number::PROCESSES], without, seed=number)
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=credit_race.run, args=(task, barrier, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    seen, stop = Seen(), asyncio.Event()
    watching = asyncio.create_task(observe(database, seen, stop))
    try:
        done: list[Done] = await asyncio.gather(*(asyncio.to_thread(pipe.recv) for pipe in pipes))
    finally:
        stop.set()
        await watching
        for process in processes:
            process.join(20)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return done, seen


async def most_used(database: Database) -> int:
    """The highest sum of the transfers in the order of their commits."""
    used = most = 0
    for line in reversed(await ledger.transfers(database, limit=100_000)):
        used += line.amount * (
            (line.from_account is Account.AVAILABLE) - (line.to_account is Account.AVAILABLE)
        )
        assert used >= 0
        most = max(most, used)
    return most


async def test_never_over_capacity_and_the_sum_exact(dsn: str, database: Database) -> None:
    done, seen = await race(dsn, database)
    assert await ledger.audit(database) == []
    assert seen.most <= CAPACITY
    assert seen.inexact == 0
    assert seen.samples > 100
    assert await most_used(database) <= CAPACITY
    lines = await ledger.transfers(database, limit=100_000)
    kinds = {kind: sum(line.kind is kind for line in lines) for kind in TransferKind}
    assert kinds[TransferKind.HOLD] == kinds[TransferKind.POST] == 50 + sum(one.holds for one in done)
    assert kinds[TransferKind.RETURN] == sum(one.returns for one in done)
    assert sum(one.refusals for one in done) > 50, "the capacity was never reached: that was no race"
    book = await ledger.read(database)
    assert book.pool is not None
    assert (
        book.pool.posted
        == book.pool.used
        == sum(holding.amount for holding in book.holdings if holding.state == "active")
    )


@pytest.mark.parametrize(
    "without", [(GUARD,), (LOCK, READ_FIRST)], ids=["no guard", "looks before it writes"]
)
async def test_without_the_guard_the_violation_is_seen(
    dsn: str, database: Database, without: Sequence[tuple[str, str, str]]
) -> None:
    _, seen = await race(dsn, database, *without)
    assert seen.most > CAPACITY
    assert await most_used(database) > CAPACITY
    assert any("over capacity" in found for found in await ledger.audit(database))
