"""The initial sync walks a cursor through the stored history and marks its windows as due. It runs beside the
incremental sync.
"""

from __future__ import annotations

from gateway import clock
from gateway.model.walk import DayWalk
from gateway.store import calendars, connections, matched, streams, windows
from gateway.store.pool import Database
from gateway.store.streams import Claim, RunTally
from gateway.store.windows import Marked
from gateway.sync.link import MetersChanged, MetersGrow, ServedConnection
from gateway.sync.scan import map_metrics

ENOUGH_WINDOWS = 5_000
"""A turn ends when so many windows are marked: live readings wait no longer than that."""

TURN_SECONDS = 1.0
"""A turn ends after so long, however little was found."""


async def plan_walk(database: Database, claim: Claim) -> DayWalk | None:
    """How the rest of the history is walked; None where there is none. Raises LeaseLost."""
    async with database.transaction() as connection:
        position = await streams.read(connection, claim)
        if position.initial_from is None or position.initial_until is None:
            return None
        days = await windows.history_days(connection, position.initial_from, position.initial_until)
    return DayWalk(position.initial_from, position.initial_until, days, enough=ENOUGH_WINDOWS)


async def mark_more(
    database: Database, claim: Claim, link: ServedConnection, tally: RunTally, walk: DayWalk | None = None
) -> bool:
    """Walks the cursor until enough windows are marked or the end is reached; True when every window of the
    history is marked. `walk`: the plan of this run. Raises MetersChanged.

    Each step is a transaction that proves the fence, so an initial sync that is killed goes on where it was.
    """
    walk = walk or await plan_walk(database, claim)
    if walk is None:
        return True
    marked, started = 0, clock.monotonic()
    while marked < ENOUGH_WINDOWS and clock.monotonic() < started + TURN_SECONDS:
        try:
            step = await _step(database, claim, link, walk, may_grow=False)
        except MetersGrow:
            step = await _step(database, claim, link, walk, may_grow=True)
        if step is None:
            return True
        walk.took(step.windows)
        tally.samples += step.samples
        marked += step.windows
    return False


async def _step(
    database: Database, claim: Claim, link: ServedConnection, walk: DayWalk, *, may_grow: bool
) -> Marked | None:
    """The next step; None where the end is reached. Raises MetersChanged and MetersGrow."""
    async with database.transaction() as connection:
        if may_grow:
            await connections.lock(connection, claim.connection)
        position = await streams.read(connection, claim)
        if position.meters_of != link.configuration:
            raise MetersChanged(claim.connection)
        cursor, until = position.initial_cursor, position.initial_until
        if cursor is None or until is None or cursor >= until:
            return None
        end = min(walk.step(cursor), until)
        if end > clock.now() > cursor:
            end = until  # beyond now there are only samples of clocks that are ahead
        if matched.patterns(link.rules):
            found = await matched.in_history(
                connection, claim.connection, claim.customer, link.rules, (cursor, end)
            )
            await map_metrics(connection, claim, link, found, may_grow=may_grow)
        # After the meters, as in a scan: in one order, so that none waits for the other in a circle.
        await calendars.cut(connection, claim.customer, link.calendars)
        step = await windows.mark_initial(
            connection, claim, cursor, end, link.lateness, total=walk.total, walked=walk.behind(end)
        )
        await streams.prove(connection, claim)
    return step


async def finish(database: Database, claim: Claim) -> None:
    """Hands windows that are not closed yet over to the incremental sync."""
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await windows.hand_over(connection, claim)
        await streams.prove(connection, claim)
