"""The ledger of connection credits. One row of the pool decides each hold; every move is a transfer that is
never changed.

The caller of `hold`, `post` and `give_back` holds the lock of the connection's row; the pool's row is locked
after it, until the caller's transaction ends, and no other row is locked after that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from gateway.model.connection import State
from gateway.model.credits import (
    HOLD_MINUTES,
    Account,
    Book,
    CapacityExcess,
    Holding,
    Pool,
    Transfer,
    TransferKind,
    became_low,
    disagreements,
)
from gateway.model.errors import CreditsInsufficient, StoreError
from gateway.model.event import EventType, NewEvent
from gateway.settings import CreditsSettings
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

LAST_TRANSFER = 2**63 - 1

_HOLD = timedelta(minutes=HOLD_MINUTES)


async def hold(
    connection: Connection, *, connection_id: str, customer: str, amount: int, settings: CreditsSettings
) -> None:
    """From available to held, within the caller's transaction. Nothing when the connection has its credits
    already.

    The capacity and the quota that are stored decide, and those of `settings` where they are stricter
    (replicas with another file). Raises CreditsInsufficient; after the rollback tell it with `note_refusal`.
    """
    await _take(
        connection, connection_id, customer, amount, settings.capacity, settings.customer_quota.get(customer)
    )


async def post(connection: Connection, *, connection_id: str) -> None:
    """From held to posted, within the caller's transaction. Idempotent. Credits whose hold has lapsed are
    taken anew: raises CreditsInsufficient.
    """
    await connection.execute(sql("credit_lock"))
    row = await connection.fetchrow(sql("credit_post"), connection_id)
    if row is None:
        priced = await connection.fetchrow(sql("credit_price"), connection_id)
        if priced is None:
            raise StoreError(f"no credits can be posted for {connection_id}: there is no such connection")
        await _take(connection, connection_id, priced["customer_id"], priced["price"], None, None)
        row = await connection.fetchrow(sql("credit_post"), connection_id)
    if row is None or (row["account"] == Account.HELD and not row["moved"]):
        raise StoreError(
            f"the credits of {connection_id} cannot be posted: the pool has no row; restart a gateway, which"
            " makes it"
        )


async def give_back(connection: Connection, *, connection_id: str) -> int:
    """From held or posted to available, within the caller's transaction; how many credits. Idempotent: then
    0.
    """
    await connection.execute(sql("credit_lock"))
    rows = await connection.fetch(sql("credit_return"), [connection_id], TransferKind.RETURN)
    return sum(row["amount"] for row in rows)


async def lapse(database: Database) -> list[str]:
    """Takes back what is held for connections that have waited too long for credentials; which. They stay:
    the next credentials take a new hold.

    At most 100 at a time. A connection that somebody works on is left for the next time.
    """
    async with database.transaction() as connection:
        due = [row["connection_id"] for row in await connection.fetch(sql("credit_lapse_due"), _HOLD)]
        if not due:
            return []
        await connection.execute(sql("credit_lock"))
        return sorted(
            row["connection_id"]
            for row in await connection.fetch(sql("credit_return"), due, TransferKind.LAPSE)
        )


async def sync_capacity(database: Database, settings: CreditsSettings) -> Pool:
    """Stores capacity and quotas as configured; the pool after it. What exists stays; a lower capacity
    refuses new holds only.
    """
    async with database.transaction() as connection:
        await connection.execute(sql("credit_lock"))
        row = await connection.fetchrow(
            sql("credit_capacity"), settings.capacity, dict(settings.customer_quota)
        )
        assert row is not None
        before = _pool(row)
        after = Pool(capacity=settings.capacity, held=before.held, posted=before.posted)
        await _tell_low(connection, before, after)
    return after


async def note_refusal(database: Database, refused: CreditsInsufficient) -> bool:
    """Tells `credits.exhausted` in a transaction of its own, for the one that was refused is rolled back;
    False within a minute of the last one.
    """
    data: dict[str, object] = {
        "wanted": refused.wanted,
        "used": refused.used,
        "limit": refused.limit,
        "of": "pool" if refused.customer is None else "customer",
    }
    if refused.customer is not None:
        data["customer"] = refused.customer
    async with database.transaction() as connection:
        if not await connection.fetchval(sql("credit_refusal"), refused.customer or ""):
            return False
        await outbox.append(connection, NewEvent(type=EventType.CREDITS_EXHAUSTED, customer=None, data=data))
    return True


async def read(database: Database) -> Book:
    """The whole ledger in one snapshot."""
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        pool = await connection.fetchrow(sql("credit_pool"))
        holdings = await connection.fetch(sql("credit_holdings"), _HOLD)
        excess = await connection.fetchrow(sql("credit_excess"))
    return Book(
        pool=None if pool is None else _pool(pool),
        quotas={} if pool is None else pool["quotas"],
        holdings=[_holding(row) for row in holdings],
        excess=(
            None
            if excess is None
            else CapacityExcess(
                number=excess["transfer_id"], used=excess["used"], capacity=excess["capacity"]
            )
        ),
    )


async def audit(database: Database) -> list[str]:
    """Every contradiction between pool, transfers, connections' credits and their states; nothing when the
    counters reconcile.
    """
    book = await read(database)
    # Every connection's lines: not on the loop that everybody's telemetry goes through.
    return await asyncio.to_thread(disagreements, book)


async def transfers(
    database: Database, *, customer: str | None = None, before: int = LAST_TRANSFER, limit: int
) -> Sequence[Transfer]:
    """Lines of the ledger, of one customer or all, newest first, from the one `before` that number."""
    async with database.connection() as connection:
        if customer is None:
            rows = await connection.fetch(sql("credit_transfers"), before, limit)
        else:
            rows = await connection.fetch(sql("credit_transfers_customer"), before, limit, customer)
    return [
        Transfer(
            number=row["transfer_id"],
            at=row["at"],
            kind=TransferKind(row["kind"]),
            from_account=Account(row["from_account"]),
            to_account=Account(row["to_account"]),
            amount=row["amount"],
            connection=row["connection_id"],
            customer=row["customer_id"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The pool; what is held and posted of it, or of one customer's credits; the customer's quota."""

    pool: Pool | None
    held: int
    posted: int
    quota: int | None


async def total(database: Database, customer: str | None) -> Total:
    """Of the pool, or of one customer."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("credit_pool"))
        pool = None if row is None else _pool(row)
        if customer is None:
            return Total(
                pool=pool,
                held=0 if pool is None else pool.held,
                posted=0 if pool is None else pool.posted,
                quota=None,
            )
        own = {
            each["account"]: each["amount"] for each in await connection.fetch(sql("credit_own"), customer)
        }
    quota = None if row is None else row["quotas"].get(customer)
    return Total(pool=pool, held=own.get("held", 0), posted=own.get("posted", 0), quota=quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far the ledger goes: what is the same as before need not be added up again."""

    capacity: int
    held: int
    posted: int
    last: int


async def extent(database: Database) -> Extent:
    """From two rows, however many connections there are."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("credit_extent"))
    assert row is not None
    return Extent(**dict(row))


async def usage(database: Database) -> Mapping[int, int]:
    """The credits held or posted by tier."""
    async with database.connection() as connection:
        return {row["tier"]: row["used"] for row in await connection.fetch(sql("credit_used"))}


async def _take(
    connection: Connection,
    connection_id: str,
    customer: str,
    amount: int,
    capacity: int | None,
    quota: int | None,
) -> None:
    await connection.execute(sql("credit_lock"))
    row = await connection.fetchrow(sql("credit_hold"), connection_id, customer, amount, capacity, quota)
    assert row is not None
    if row["known"]:
        return
    before = _pool(row)
    if not row["taken"]:
        in_quota = row["quota"] is None or row["customer_used"] + amount <= row["quota"]
        used, limit = (before.used, before.capacity) if in_quota else (row["customer_used"], row["quota"])
        raise CreditsInsufficient(
            connection=connection_id,
            customer=None if in_quota else customer,
            wanted=amount,
            used=used,
            limit=limit,
        )
    await _tell_low(
        connection, before, Pool(capacity=before.capacity, held=before.held + amount, posted=before.posted)
    )


async def _tell_low(connection: Connection, before: Pool, after: Pool) -> None:
    if became_low(before, after):
        data = {"capacity": after.capacity, "used": after.used, "available": after.available}
        await outbox.append(connection, NewEvent(type=EventType.CREDITS_LOW, customer=None, data=data))


def _pool(row: asyncpg.Record) -> Pool:
    return Pool(capacity=row["capacity"], held=row["held"], posted=row["posted"])


def _holding(row: asyncpg.Record) -> Holding:
    return Holding(
        connection=row["connection_id"],
        customer=row["customer_id"],
        tier=row["tier"],
        state=None if row["state"] is None else State(row["state"]),
        prior=None if row["prior_state"] is None else State(row["prior_state"]),
        is_waiting=row["is_waiting"],
        price=row["price"],
        account=None if row["account"] is None else Account(row["account"]),
        amount=row["amount"],
        since=row["since"],
        ledger_held=row["ledger_held"],
        ledger_posted=row["ledger_posted"],
    )
