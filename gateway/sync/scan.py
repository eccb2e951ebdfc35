"""Scans the telemetry log and marks windows as due, slice by slice. One transaction marks the windows of a
slice and advances the watermarks past it.

A run also scans for those other connections of its customer that have come as far as its own: so samples are
read once, however many connections there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gateway.model.errors import StoreRejected
from gateway.model.meter import FOLLOWED, HELD
from gateway.store import calendars, connections, mappings, matched, meters_in_force, streams, windows
from gateway.store.pool import Connection, Database
from gateway.store.streams import Claim, Position, RunTally
from gateway.store.windows import Slice, SliceReader
from gateway.sync.link import MetersChanged, MetersGrow, ServedConnection

log = structlog.get_logger(__name__)

SLICE_ROWS = 20_000

ALONG_SECONDS = 1.0
"""A run does not scan where another connection's run has scanned for it within this time, or within a quarter
of its interval if that is shorter.
"""


async def scan_slice(
    database: Database,
    claim: Claim,
    link: ServedConnection,
    tally: RunTally,
    served: Sequence[ServedConnection] = (),
) -> bool:
    """Marks the windows of one slice of changed telemetry and advances the watermark; True when the log is
    scanned to its end. Raises MetersChanged.

    `served`: connections of the customer. The same transaction does it for those of them for which it can.
    """
    # A connection with patterns of metrics is left out: its meters may change, which only its own run may do.
    others = {
        other.connection: other
        for other in served
        if other.connection != claim.connection and not matched.patterns(other.rules)
    }
    may_grow = False
    while True:
        try:
            return await _scan(database, claim, link, tally, others, may_grow=may_grow)
        except MetersGrow:
            may_grow = True
        except StoreRejected:
            if not others:
                raise
            others = {}  # one of them may be at fault: it shall meet that in its own run


async def _scan(
    database: Database,
    claim: Claim,
    link: ServedConnection,
    tally: RunTally,
    others: dict[str, ServedConnection],
    *,
    may_grow: bool,
) -> bool:
    fresh_for = min(ALONG_SECONDS, link.interval.total_seconds() / 4)
    async with database.transaction() as connection:
        if may_grow:
            await connections.lock(connection, claim.connection)
        position = await streams.read(connection, claim, along_seconds=fresh_for)
        if position.meters_of != link.configuration:
            raise MetersChanged(claim.connection)
        if position.is_scanned:
            return True
        part = await windows.next_slice(connection, claim.customer, position.watermark, SLICE_ROWS)
        if part.until == position.watermark:
            return True
        await _map_devices(connection, claim, link, position, part, may_grow=may_grow)
        if matched.patterns(link.rules):
            bounds = (part.after, part.until)
            found = await matched.in_slice(connection, claim.connection, claim.customer, link.rules, bounds)
            await map_metrics(connection, claim, link, found, may_grow=may_grow)
        beside = {name: other.configuration for name, other in others.items()}
        along = await windows.along(connection, claim, part, beside) if beside else {}
        links = [link, *(others[name] for name in along)]
        readers = [
            SliceReader(
                connection=each.connection,
                past=along.get(each.connection, part.after),
                lateness=each.lateness,
            )
            for each in links
        ]
        await calendars.cut(connection, claim.customer, [c for each in links for c in each.calendars])
        with_neighbours = any(rule.reduce in FOLLOWED | HELD for each in links for rule in each.rules)
        samples = await windows.mark_changed(
            connection, claim.customer, part, readers, with_neighbours=with_neighbours
        )
        await windows.advance(connection, claim, part, along)
        await streams.prove(connection, claim)
    tally.samples += samples
    return part.is_last


async def map_metrics(
    connection: Connection, claim: Claim, link: ServedConnection, found: matched.Found, *, may_grow: bool
) -> None:
    """Makes mappings for metrics that come for the first time, before their samples are looked at.
    `may_grow`: the transaction began by locking the connection's row, as a change of its meters must. Raises
    MetersGrow.
    """
    if found.metrics and not may_grow:
        raise MetersGrow(claim.connection)
    resolution = link.connector.capabilities.resolution
    refused = await matched.add(connection, claim.connection, found, link.rules, resolution)
    await meters_in_force.tell_refused(connection, claim.connection, claim.customer, refused)
    for problem in refused:
        log.warning("sync.meter_refused", connection=claim.connection, problem=str(problem))


async def _map_devices(
    connection: Connection,
    claim: Claim,
    link: ServedConnection,
    position: Position,
    part: Slice,
    *,
    may_grow: bool,
) -> None:
    """As `map_metrics`, for devices that were registered since the last slice."""
    if part.end <= position.device_watermark:
        return
    fresh = await mappings.devices(connection, claim.customer, past=position.device_watermark, until=part.end)
    if not fresh or not any(rule.is_glob for rule in link.rules):
        return
    if not may_grow:
        raise MetersGrow(claim.connection)
    resolution = link.connector.capabilities.resolution
    for conflict in await meters_in_force.add_devices(
        connection, claim.connection, fresh, link.rules, resolution, customer=claim.customer
    ):
        log.warning("sync.meter_refused", connection=claim.connection, problem=str(conflict))
