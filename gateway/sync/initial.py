"""Initial sync: a cursor walks the stored history and marks its windows, on a lane beside the incremental
sync.
"""

from __future__ import annotations

from datetime import timedelta

from gateway import clock
from gateway.store import streams, windows
from gateway.store.pool import Database
from gateway.store.streams import Claim, Tally
from gateway.sync.link import Link, MetersChanged

STEP = timedelta(hours=1)
ENOUGH_WINDOWS = 20_000


async def mark_more(database: Database, claim: Claim, link: Link, tally: Tally) -> bool:
    """Walks the cursor until enough windows are marked or the end is reached; True when every window of the
    history is marked. Raises MetersChanged.

    Each step is one fenced transaction, so a killed initial sync goes on where it was.
    """
    marked = 0
    while marked < ENOUGH_WINDOWS:
        async with database.transaction() as connection:
            position = await streams.read(connection, claim)
            if position.meters_of != link.configuration:
                raise MetersChanged(claim.connection)
            if (
                position.initial_cursor is None
                or position.initial_until is None
                or position.initial_cursor >= position.initial_until
            ):
                return True
            end = min(position.initial_cursor + STEP, position.initial_until)
            if end > clock.now() > position.initial_cursor:
                end = position.initial_until  # the rest is what devices sent ahead of time
            step = await windows.mark_initial(connection, claim, position.initial_cursor, end, link.lateness)
            await streams.prove(connection, claim)
        tally.samples += step.samples
        marked += step.windows
    return False


async def finish(database: Database, claim: Claim) -> None:
    """Hands what is still open to the incremental sync."""
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await windows.hand_over(connection, claim)
        await streams.prove(connection, claim)
