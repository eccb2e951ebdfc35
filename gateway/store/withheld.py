"""Withheld windows: those whose value lay within the deadband of what the system held before them.

What a window was compared with may change later: by a correction, a late sample, a dead letter that is taken
after all, or the other phase of its stream. Whoever changes it notes that the windows after it are to be
looked at again, in the same transaction. Both sides hold one lock, so that no window is withheld on account
of what is just being replaced. That lock comes before every window, as scans know nothing of it.
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
    """Until the transaction ends nobody else decides what is withheld. After the streams' rows, before any
    window.
    """
    await connection.execute(sql("withheld_lock"), claim.connection)


async def settle(
    database: Database, claim: Claim, pairs: Sequence[tuple[DueWindow, float]]
) -> list[DueWindow]:
    """Withholds those windows whose reference is what the system holds, and returns them; the others stay
    due.

    One transaction. Raises LeaseLost.
    """
    by_place = {(due.meter, due.window_start): due for due, _ in pairs}
    async with (
        database.connection() as connection
    ):  # a batch never waits for the lock of a table while it holds rows
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
    """In the transaction that records what the system took (meter, window start): the windows that were
    compared with what it held before are to be looked at again. The transaction holds `lock`.
    """
    if taken:
        await connection.execute(
            sql("withheld_again"), claim.connection, [meter for meter, _ in taken], [at for _, at in taken]
        )


async def mark_again(database: Database, claim: Claim) -> None:
    """Makes due what is to be looked at again. Raises LeaseLost."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("withheld_waiting"), claim.connection):
            return
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await lock(connection, claim)
        await connection.execute(sql("withheld_mark"), claim.connection, claim.phase)
        await streams.prove(connection, claim)
