"""What is stored of credentials: the sealed records, under which keys, and when they end. It must not know
what is sealed in them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import asyncpg

from gateway.model import bounds
from gateway.model.access import Origin
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Table = Literal["credential", "token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCredential:
    """One generation of a connection's credential."""

    generation: int
    type: str
    sealed: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRecord:
    """A record of one of the tables that hold any, and where it belongs."""

    customer: str
    connection: str
    generation: int
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInUse:
    """A key that opens `records` records; `connection` has one of them."""

    key_id: str
    records: int
    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """A credential, or a refresh token, that ends within `days` (7 or 1)."""

    connection: str
    customer: str
    type: str
    expires_at: datetime
    days: int


async def add(
    connection: Connection,
    *,
    connection_id: str,
    type: str,
    sealed: bytes,
    generation: int,
    expires_at: datetime | None = None,
    origin: Origin = Origin.TRUSTED,
) -> None:
    """Within the caller's transaction. Raises StoreRejected where the generation is there already."""
    ends_at = None if expires_at is None else bounds.instant(expires_at)
    await connection.execute(sql("credential_add"), connection_id, generation, type, sealed, ends_at, origin)


async def end_at(
    connection: Connection, *, connection_id: str, generation: int, expires_at: datetime | None
) -> None:
    """Within the caller's transaction: when the generation ends, as was said anew."""
    ends_at = None if expires_at is None else bounds.instant(expires_at)
    await connection.execute(sql("credential_end"), connection_id, generation, ends_at)


async def read(connection: Connection, *, connection_id: str, generation: int) -> SealedCredential | None:
    """None where there is no such generation (any more)."""
    row = await connection.fetchrow(sql("credential_read"), connection_id, generation)
    return None if row is None else _sealed(row)


def _sealed(row: asyncpg.Record) -> SealedCredential:
    values = {name: value for name, value in row.items() if name != "connection_id"}
    return SealedCredential(**{**values, "origin": Origin(row["origin"])})


async def read_some(database: Database, generations: Mapping[str, int]) -> dict[str, SealedCredential]:
    """One generation of each of these connections, as far as it is stored."""
    rows = await database.fetch(sql("credential_some"), list(generations), list(generations.values()))
    return {row["connection_id"]: _sealed(row) for row in rows}


async def drop_others(connection: Connection, *, connection_id: str, keep: Collection[int]) -> None:
    """Within the caller's transaction: removes every generation but these, with its token and its logons."""
    await connection.execute(sql("credential_drop_others"), connection_id, list(keep))


async def keys_in_use(database: Database) -> Sequence[KeyInUse]:
    """By which keys what is stored can be opened."""
    rows = await database.fetch(sql("sealed_keys"))
    return [
        KeyInUse(key_id=row["key_id"], records=row["records"], connection=row["connection_id"])
        for row in rows
    ]


async def stale(
    database: Database, table: Table, newest: str, *, after: tuple[str, int], limit: int
) -> Sequence[SealedRecord]:
    """Records under another key than `newest`, by connection and generation, beginning after `after`."""
    rows = await database.fetch(sql(f"{table}_stale"), newest, *after, limit)
    return [
        SealedRecord(
            customer=row["customer_id"],
            connection=row["connection_id"],
            generation=row["generation"],
            sealed=row["sealed"],
        )
        for row in rows
    ]


async def reseal(database: Database, table: Table, record: SealedRecord, sealed: bytes) -> bool:
    """Replaces the record by the same under another key; False where it has changed since it was read."""
    done = await database.execute(
        sql(f"{table}_reseal"), record.connection, record.generation, record.sealed, sealed
    )
    return done.endswith(" 1")


async def expiring(connection: Connection, table: Table, now: datetime) -> Sequence[Expiring]:
    """Within the caller's transaction: what ends within 7 days, or 1, each said once. Of several replicas one
    gets it.
    """
    rows = await connection.fetch(sql(f"{table}_expiring"), now)
    return [
        Expiring(
            connection=row["connection_id"],
            customer=row["customer_id"],
            type=row["type"],
            expires_at=row["expires_at"],
            days=row["days"],
        )
        for row in rows
    ]
