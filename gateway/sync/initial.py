"""Initial sync: a cursor walks the stored history and marks its windows, on a lane beside the incremental
sync.
"""

from __future__ import annotations

from gateway import clock
from gateway.model.walk import Walk
from gateway.store import streams, windows
from gateway.store.pool import Database
from gateway.store.streams import Claim, Tally
from gateway.sync.link import Link, MetersChanged

ENOUGH_WINDOWS = 5_000
"""In one go: what live readings wait for at most."""

TURN_SECONDS = 1.0
"""After which others have their turn, however little was found."""


async def plan_walk(database: Database, claim: Claim) -> Walk | None:
    """How the rest of the history is walked; None where there is none. Raises LeaseLost."""
    async with database.transaction() as connection:
        position = await streams.read(connection, claim)
        if position.initial_from is None or position.initial_until is None:
            return None
        days = await windows.history_days(connection, position.initial_from, position.initial_until)
    return Walk(position.initial_from, position.initial_until, days, enough=ENOUGH_WINDOWS)


async def mark_more(
    database: Database, claim: Claim, link: Link, tally: Tally, walk: Walk | None = None
) -> bool:
    """Walks the cursor until enough windows are marked or the end is reached; True when every window of the
    history is marked. `walk`: as it was planned for this run. Raises MetersChanged.

    Each step is one fenced transaction, so a killed initial sync goes on where it was.
    """
    walk = walk or await plan_walk(database, claim)
    if walk is None:
        return True
    marked, started = 0, clock.monotonic()
    while marked < ENOUGH_WINDOWS and clock.monotonic() < started + TURN_SECONDS:
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
            end = min(walk.step(position.initial_cursor), position.initial_until)
            if end > clock.now() > position.initial_cursor:
                end = position.initial_until  # the rest is what devices sent ahead of time
            step = await windows.mark_initial(
                connection,
                claim,
                position.initial_cursor,
                end,
                link.lateness,
                total=walk.total,
                walked=walk.behind(end),
            )
            await streams.prove(connection, claim)
        walk.took(step.windows)
        tally.samples += step.samples
        marked += step.windows
    return False


async def finish(database: Database, claim: Claim) -> None:
    """Hands what is still open to the incremental sync."""
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await windows.hand_over(connection, claim)
        await streams.prove(connection, claim)
