"""Stores withheld windows: those whose value lay within the deadband around what the system held before them.

The value that a window was compared with may change later: by a correction, by a late sample, by a dead
letter that is taken after all, or by the other phase of its stream. Whoever changes it notes in the same
transaction that the windows after it are to be looked at again. Both sides take one lock, so that no window
is withheld by a value that is just being replaced. The lock is taken before any window, for scans, which lock
windows, do not know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gateway.model.delivery import DueWindow
from gateway.store import streams
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.streams import Claim


async def lock(connection: Connection, claim: Claim) -> None:
    """Locks, until the transaction ends, what is withheld of the connection. Taken after the streams' rows
    and before any window.
    """
    await connection.execute(sql("withheld_lock"), claim.connection)


async def settle(
    database: Database, claim: Claim, pairs: Sequence[tuple[DueWindow, float]]
) -> list[DueWindow]:
    """Withholds the windows whose reference the system holds, and returns them. The others stay due. One
    transaction; raises LeaseLost.
    """
    by_place = {(due.meter, due.window_start): due for due, _ in pairs}
    # Before the transaction, so that no lock of a table is awaited while rows are locked.
    async with database.connection() as connection:
        for day in sorted({due.window_start.date() for due, _ in pairs}):
            await connection.execute("select ensure_partition('withheld', $1)", day)
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await lock(connection, claim)
        rows = await connection.fetch(
            sql("withheld_record"),
            claim.connection,
            [due.meter for due, _ in pairs],
            [due.window_start for due, _ in pairs],
            [float(reference) for _, reference in pairs],
        )
        kept = [by_place[row["meter"], row["window_start"]] for row in rows]
        await connection.execute(
            sql("due_remove"),
            claim.connection,
            [due.meter for due in kept],
            [due.window_start for due in kept],
            [due.mark for due in kept],
        )
        await streams.prove(connection, claim)
    return kept


async def compared_anew(connection: Connection, claim: Claim, taken: Sequence[tuple[str, datetime]]) -> None:
    """Notes that windows are to be looked at again which were compared with what the system held before it
    took these (meter, window start). Called in the transaction that records what it took, and which holds
    `lock`.
    """
    if taken:
        await connection.execute(
            sql("withheld_again"), claim.connection, [meter for meter, _ in taken], [at for _, at in taken]
        )


async def mark_again(database: Database, claim: Claim) -> None:
    """Marks the windows that are to be looked at again as due. Raises LeaseLost."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("withheld_waiting"), claim.connection):
            return
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await lock(connection, claim)
        await connection.execute(sql("withheld_mark"), claim.connection, claim.phase)
        await streams.prove(connection, claim)
