"""The two places that a technical user's logons have, over all replicas. It must not know what a logon is."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlace:
    """One call may go out. `claim` tells this call from a later one in the same place."""

    number: int
    claim: int


class Closed(enum.Enum):
    """Why no call may go out: each place is taken, or both logons have failed."""

    FOR_NOW = "for now"
    FOR_GOOD = "for good"


async def claim(
    database: Database, connection_id: str, generation: int, seconds: float
) -> CallPlace | Closed:
    """A place for `seconds`, in one statement. Raises StoreRejected when the credential is gone."""
    row = await database.fetchrow(sql("logon_claim"), connection_id, generation, seconds)
    assert row is not None
    if row["place"] is not None:
        return CallPlace(number=row["place"], claim=row["claim"])
    return Closed.FOR_GOOD if row["lost"] else Closed.FOR_NOW


async def refused(
    database: Database, connection_id: str, generation: int, place: CallPlace, *, operation: str
) -> None:
    """The place is lost by this operation. Repeating it is harmless."""
    await database.execute(
        sql("logon_refused"), connection_id, generation, place.number, place.claim, operation
    )


async def ended(
    database: Database,
    connection_id: str,
    generation: int,
    place: CallPlace,
    *,
    accepted: bool,
    operation: str,
) -> None:
    """The place is free again; a logon that was accepted gives back one that the same operation lost before
    it began."""
    await database.execute(
        sql("logon_ended"), connection_id, generation, place.number, place.claim, accepted, operation
    )
