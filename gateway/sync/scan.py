"""Scan: from the telemetry log to due windows, one transaction a slice, the watermark in the same one."""

from __future__ import annotations

import structlog

from gateway.store import connections, mappings, streams, windows
from gateway.store.pool import Database
from gateway.store.streams import Claim, Tally
from gateway.sync.link import Link, MetersChanged

log = structlog.get_logger(__name__)

SLICE_ROWS = 20_000


async def scan_slice(database: Database, claim: Claim, link: Link, tally: Tally) -> bool:
    """Marks the windows of one slice of changed telemetry and advances the watermark; True when the log is
    scanned to its end. Raises MetersChanged.

    Devices that registered since the last slice get their mappings first, in the same transaction.
    """
    async with database.transaction() as connection:
        position = await streams.read(connection, claim)
        if position.meters_of != link.configuration:
            raise MetersChanged(claim.connection)
        part = await windows.next_slice(connection, claim.customer, position.watermark, SLICE_ROWS)
        if part.until == position.watermark:
            return True
        if part.end > position.device_watermark:
            fresh = await mappings.devices(
                connection, claim.customer, past=position.device_watermark, until=part.end
            )
            if fresh:
                resolution = link.connector.capabilities.resolution
                for conflict in await connections.add_devices(
                    connection, claim.connection, fresh, link.rules, resolution, customer=claim.customer
                ):
                    log.warning("sync.meter_refused", connection=claim.connection, problem=str(conflict))
        with_delta = any(rule.reduce == "delta" for rule in link.rules)
        samples = await windows.mark_changed(connection, claim, part, link.lateness, with_delta=with_delta)
        await windows.advance(
            connection,
            claim,
            watermark=part.until,
            device_watermark=max(part.end, position.device_watermark),
        )
        await streams.prove(connection, claim)
    tally.samples += samples
    return part.is_last
