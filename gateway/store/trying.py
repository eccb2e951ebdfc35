"""How many logons of a user that is tried without being stored may still fail, over all replicas."""

from __future__ import annotations

from gateway.store.pool import Database
from gateway.store.queries import sql


async def claim(database: Database, digest: bytes, *, limit: int, seconds: float) -> bool:
    """One more logon may go out: it counts as failed until `ended`. One statement. `seconds` after the last
    they are forgotten.
    """
    return await database.fetchval(sql("tried_logon_claim"), digest, limit, seconds) is not None


async def ended(database: Database, digest: bytes, *, accepted: bool) -> None:
    """The logon was not refused; `accepted`: the user was let in, which forgives those before."""
    await database.execute(sql("tried_logon_ended"), digest, accepted)
