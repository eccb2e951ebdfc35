"""Named leases with a fence, on the database's clock: who serves an ingest partition, who speaks for the
gateway.
"""

from __future__ import annotations

from gateway.store.pool import Database
from gateway.store.queries import sql


async def claim(database: Database, name: str, owner: str, seconds: float) -> int | None:
    """Takes or renews the lease for `seconds`: its fence, or None while another owner holds it.

    The fence rises by one whenever the lease changes hands or had run out; a renewal in time keeps it.
    """
    async with database.connection() as connection:
        fence: int | None = await connection.fetchval(sql("lease_claim"), name, owner, seconds)
    return fence


async def release(database: Database, name: str, owner: str) -> None:
    """Gives the lease back at once; nothing happens when it is not ours."""
    async with database.connection() as connection:
        await connection.execute(sql("lease_release"), name, owner)
