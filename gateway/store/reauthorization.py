"""Reconnect links and the flows that they begin. It stores hashes and sealed values only; what they mean is
`gateway.connections`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.model.connection import State
from gateway.store.access import hashed
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLink:
    """A link, and its connection at this instant. `succeeded`: a verification did, after credentials were
    given through the link.
    """

    connection: str
    customer: str
    system: str
    hosting: str
    state: State
    prior: State | None
    reason: str | None
    since: datetime
    credential_type: str
    attempts: int
    submitted_at: datetime | None
    last_trigger: str | None
    is_open: bool
    succeeded: bool
    created_at: datetime
    title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlow:
    """A browser that came back from the system's login page."""

    connection: str
    customer: str
    link_hash: bytes
    sealed: bytes


async def invite(database: Database, connection_id: str, secret: str, *, lifetime_seconds: float) -> datetime:
    """Keeps the link; an earlier one of the connection is void. Until when it is good."""
    expires_at: datetime = await database.fetchval(
        sql("reauthorization_invite"), connection_id, hashed(secret), lifetime_seconds
    )
    return expires_at


async def look(database: Database, link_hash: bytes) -> StoredLink | None:
    """The link as it stands; changes nothing."""
    row = await database.fetchrow(sql("reauthorization_look"), link_hash)
    if row is None:
        return None
    return StoredLink(
        connection=row["connection_id"],
        customer=row["customer_id"],
        system=row["system"],
        hosting=row["hosting"],
        state=State(row["state"]),
        prior=None if row["prior_state"] is None else State(row["prior_state"]),
        reason=row["reason"],
        since=row["since"],
        credential_type=row["credential_type"],
        attempts=row["attempts"],
        submitted_at=row["submitted_at"],
        last_trigger=row["last_trigger"],
        is_open=row["is_open"],
        succeeded=row["succeeded"],
        created_at=row["created_at"],
        title=row["title"],
    )


async def attempt(database: Database, link_hash: bytes, *, limit: int) -> bool:
    """Counts one more attempt; False when the link allows none. Of two at once past the limit one is refused:
    it is one update.
    """
    return await database.fetchval(sql("reauthorization_attempt"), link_hash, limit) is not None


async def begin_flow(
    database: Database, link_hash: bytes, *, state: str, browser: str, sealed: bytes, lifetime_seconds: float
) -> bool:
    """Keeps a flow; False when the link is not open."""
    begun = await database.fetchval(
        sql("authorization_begin"), hashed(state), link_hash, hashed(browser), sealed, lifetime_seconds
    )
    return begun is not None


async def finish_flow(database: Database, *, state: str, browser: str) -> StoredFlow | None:
    """Takes the flow, once; None for a state that is unknown, too old, of another browser or of a link that
    was replaced.
    """
    row = await database.fetchrow(sql("authorization_finish"), hashed(state), hashed(browser))
    if row is None:
        return None
    return StoredFlow(
        connection=row["connection_id"],
        customer=row["customer_id"],
        link_hash=row["link_hash"],
        sealed=row["sealed"],
    )
