"""Named leases with a fence, on the database's clock: who serves an ingest partition, who speaks for the
gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.errors import LeaseLost
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A lease for as long as it stays one owner's. Equal terms are one: nobody else held it in between."""

    name: str
    owner: str
    fence: int


async def claim(database: Database, name: str, owner: str, seconds: float) -> Term | None:
    """Takes or renews the lease for `seconds`: its term, or None while another owner holds it.

    The fence rises by one whenever the lease is taken. Its owner keeps the term until somebody does, also
    past its time. Nothing waits: a lease under which a transaction is being committed is not taken now.
    """
    fence: int | None = await database.fetchval(sql("lease_claim"), name, owner, seconds)
    return None if fence is None else Term(name=name, owner=owner, fence=fence)


def lost(term: Term) -> LeaseLost:
    """To raise where a statement does not find the term, whose row it locks `for key share`."""
    return LeaseLost(f"the lease {term.name} is another replica's by now")


async def release(database: Database, name: str, owner: str) -> None:
    """Gives the lease back at once; nothing happens when it is not ours."""
    await database.execute(sql("lease_release"), name, owner)
