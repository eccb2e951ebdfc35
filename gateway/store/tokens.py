"""Tokens in their rows: read, leased by one replica at a time, and stored only by who holds the lease. Times
are the database's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from gateway.store.pool import Connection, Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A row. `serial` counts grants; 0 and `sealed` None: none yet. Seconds count from the moment of reading;
    None: nobody said.

    `lapsed`: the fence of a lease that ran out.
    """

    serial: int
    sealed: bytes | None = field(repr=False)
    refresh_in_seconds: float | None
    expires_in_seconds: float | None
    refused: str | None
    lapsed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshClaim:
    """The lease is ours: the row as it is inside it, and the fence that every write must prove."""

    fence: int
    token: StoredToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Seconds from now; None where the authorization server does not say."""

    expires_in_seconds: float | None
    refresh_in_seconds: float | None
    refresh_token_expires_in_seconds: float | None


async def read(database: Database, connection_id: str, generation: int) -> StoredToken | None:
    """None before the first claim."""
    row = await database.fetchrow(sql("token_read"), connection_id, generation)
    return None if row is None else _stored(row)


async def is_refused(connection: Connection, connection_id: str, generation: int) -> bool:
    """Within the caller's transaction: whether the authorization server has refused this generation."""
    found = await connection.fetchval(sql("token_is_refused"), connection_id, generation)
    return found is True


async def claim(
    database: Database, connection_id: str, generation: int, owner: str, seconds: float, *, lapsed: int | None
) -> RefreshClaim | None:
    """Takes the lease, and writes the row in doing so; None while another holds it.

    One that ran out is taken only under the fence that `lapsed` says. Raises StoreRejected when the
    credential is gone.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(sql("token_claim"), connection_id, generation, owner, seconds, lapsed)
    return None if row is None else RefreshClaim(fence=row["fence"], token=_stored(row))


async def renew(database: Database, connection_id: str, generation: int, fence: int, seconds: float) -> None:
    """Nothing happens where the lease is another's."""
    await database.execute(sql("token_renew"), connection_id, generation, fence, seconds)


async def release(database: Database, connection_id: str, generation: int, fence: int) -> None:
    """Gives the lease back; nothing happens where it is another's."""
    await database.execute(sql("token_release"), connection_id, generation, fence)


async def refuse(database: Database, connection_id: str, generation: int, fence: int, reason: str) -> bool:
    """Notes that the authorization server refuses this generation; False where the token or the credential
    has moved meanwhile.
    """
    return bool(await database.fetchval(sql("token_refuse"), connection_id, generation, fence, reason))


async def store(
    database: Database, connection_id: str, generation: int, fence: int, sealed: bytes, lifetimes: Lifetimes
) -> int | None:
    """The new token, durably, and frees the lease: its serial, or None where generation or fence is not ours
    any more. Repeating it is harmless.
    """
    async with database.transaction() as connection:
        serial: int | None = await connection.fetchval(
            sql("token_store"),
            connection_id,
            generation,
            fence,
            sealed,
            lifetimes.expires_in_seconds,
            lifetimes.refresh_in_seconds,
            lifetimes.refresh_token_expires_in_seconds,
        )
    return serial


async def put(
    connection: Connection, *, connection_id: str, generation: int, sealed: bytes, lifetimes: Lifetimes
) -> None:
    """Within the caller's transaction: the first token of a generation, as an authorization code gave it."""
    await connection.execute(
        sql("token_put"),
        connection_id,
        generation,
        sealed,
        lifetimes.expires_in_seconds,
        lifetimes.refresh_in_seconds,
        lifetimes.refresh_token_expires_in_seconds,
    )


async def is_current(database: Database, connection_id: str, generation: int) -> bool:
    """Whether the credential is still the one in use, or the one that is being verified."""
    return bool(await database.fetchval(sql("credential_is_current"), connection_id, generation))


def _stored(row: asyncpg.Record) -> StoredToken:
    return StoredToken(
        serial=row["serial"],
        sealed=row["sealed"],
        refresh_in_seconds=row["refresh_in"],
        expires_in_seconds=row["expires_in"],
        refused=row["refused"],
        lapsed=row.get("lapsed"),
    )
