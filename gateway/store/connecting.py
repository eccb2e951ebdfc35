"""Connect links, and what was entered so far of a system that is not connected yet. It stores hashes and
sealed values only; what they mean is `gateway.connections`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from gateway.model.errors import RequestRefused
from gateway.store.access import hashed
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql

MAX_DRAFTS = 20
"""Begun for one customer by its own people, and as many by operators; the one that was left for longest goes.
"""

MAX_OPEN_LINKS = 100
"""Of one customer."""

MAX_LISTED_LINKS = 500
"""Of one customer; those that ended first are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConnectLink:
    """A link. `is_fresh`: its time is not over. `connection`: what was made of it, and it is used up."""

    id: str
    customer: str
    systems: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None
    connection: str | None
    is_fresh: bool
    sealed: bytes = field(default=b"", repr=False)

    @property
    def is_open(self) -> bool:
        """Whether a system can be connected with it."""
        return self.is_fresh and self.revoked_at is None and self.connection is None

    @property
    def state(self) -> str:
        """One word for it."""
        if self.connection is not None:
            return "used"
        if self.revoked_at is not None:
            return "revoked"
        return "open" if self.is_fresh else "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDraft:
    """What was entered, sealed. `hash`: of the secret in its address."""

    hash: bytes = field(repr=False)
    owner: str
    customer: str
    sealed: bytes = field(repr=False)


async def invite(
    database: Database,
    secret: str,
    *,
    customer: str,
    systems: Sequence[str],
    by: str,
    lifetime_seconds: float,
    sealed: bytes,
) -> tuple[str, datetime]:
    """Keeps a new link: its id, and until when it is good. Raises RequestRefused("request.conflict") for a
    customer that has too many.
    """
    if await database.fetchval(sql("connect_open"), customer) >= MAX_OPEN_LINKS:
        raise RequestRefused(
            "request.conflict",
            f"{customer!r} has {MAX_OPEN_LINKS} connect links that are still good: revoke some of them.",
        )
    async with database.connection() as connection:
        row = await connection.fetchrow(
            sql("connect_invite"),
            hashed(secret),
            customer,
            list(systems),
            by,
            lifetime_seconds,
            sealed,
            MAX_LISTED_LINKS,
        )
    assert row is not None
    return row["link_id"], row["expires_at"]


async def links(database: Database, customer: str | None, *, limit: int) -> list[StoredConnectLink]:
    """The newest first."""
    async with database.connection() as connection:
        return [_link(row) for row in await connection.fetch(*filtered("connect_links", customer, limit))]


async def look(database: Database, secret: str) -> StoredConnectLink | None:
    """The link of a secret as it stands; changes nothing."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("connect_look"), hashed(secret))
    return None if row is None else _link(row, row["sealed"])


async def revoke(database: Database, link: str, customer: str | None) -> bool:
    """The link is good no more; False where there is none that was."""
    async with database.connection() as connection:
        return await connection.fetchval(*filtered("connect_revoke", link, customer)) is not None


async def use(connection: Connection, link: str, made: str) -> bool:
    """In the transaction that makes the connection; False where the link is good no more."""
    return await connection.fetchval(sql("connect_use"), link, made) is not None


async def put(database: Database, draft: StoredDraft, *, link: str | None, lifetime_seconds: float) -> None:
    """Keeps a draft that begins, in place of what was there of the same owner."""
    async with database.connection() as connection:
        await connection.execute(
            sql("draft_put"),
            draft.hash,
            link,
            draft.owner,
            draft.customer,
            draft.sealed,
            lifetime_seconds,
            MAX_DRAFTS - 1,
        )


async def keep(database: Database, draft: StoredDraft, *, lifetime_seconds: float) -> bool:
    """Keeps what was entered since; False when the draft is gone."""
    kept = await database.fetchval(sql("draft_keep"), draft.hash, draft.owner, draft.sealed, lifetime_seconds)
    return kept is not None


async def read(database: Database, secret: str, owner: str) -> StoredDraft | None:
    """What this owner entered; None when its time is over."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("draft_read"), hashed(secret), owner)
    if row is None:
        return None
    return StoredDraft(hash=hashed(secret), owner=owner, customer=row["customer_id"], sealed=row["sealed"])


async def depart(
    database: Database, draft: StoredDraft, *, state: str, browser: str, lifetime_seconds: float
) -> bool:
    """A login has begun, in place of an earlier one; False when the draft is gone."""
    async with database.connection() as connection:
        begun = await connection.fetchval(
            sql("draft_depart"),
            draft.hash,
            draft.owner,
            hashed(state),
            hashed(browser),
            lifetime_seconds,
            draft.sealed,
        )
    return begun is not None


async def arrive(database: Database, *, state: str, browser: str) -> StoredDraft | None:
    """Takes the login, once; None for a state that is unknown, too old, or of another browser."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("draft_arrive"), hashed(state), hashed(browser))
    if row is None:
        return None
    return StoredDraft(
        hash=row["hash"], owner=row["owner"], customer=row["customer_id"], sealed=row["sealed"]
    )


async def remove(connection: Connection, draft: StoredDraft) -> None:
    """In the transaction that makes the connection."""
    await connection.execute(sql("draft_remove"), draft.hash)


def _link(row: asyncpg.Record, sealed: bytes = b"") -> StoredConnectLink:
    return StoredConnectLink(
        id=row["link_id"],
        customer=row["customer_id"],
        systems=tuple(row["systems"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        connection=row["connection_id"],
        is_fresh=row["is_fresh"],
        sealed=sealed,
    )
