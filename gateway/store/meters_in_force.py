"""Meters in force: which metric of which device feeds which meter, as runs compute by it.

A connection is configured with rules, which may name devices and metrics by patterns. Runs compute by
mappings: one for each meter that the rules make of the devices and metrics that there are. Three write them.
When rules have changed, `begin` brings all mappings in line, and notes of which configuration they are. A
scan that meets a new device calls `add_devices`; one that meets a new metric, `gateway.store.matched.add`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from gateway.model.connector import Capabilities
from gateway.model.event import EventType, NewEvent
from gateway.model.meter import (
    MAX_METERS,
    MeterConflict,
    MeterMapping,
    MeterRule,
    MetersRefused,
    made_of,
    materialise,
)
from gateway.store import mappings, matched, meters_made, outbox
from gateway.store.pool import Connection
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What an outbound stream begins from: whose telemetry, which meters, for which system, and how much of
    the past.
    """

    customer: str
    stream: str
    rules: Sequence[MeterRule]
    capabilities: Capabilities
    initial_days: int
    max_future: timedelta
    configuration: int = 0
    interval: timedelta | None = None
    """How often the stream runs; None: not known, so it never rests."""

    @property
    def digest(self) -> str:
        """Tells what else the stored meters were made of, beside the devices: equal, and they are as they
        would be made now.
        """
        return made_of(self.rules, self.capabilities.resolution)


async def begin(
    connection: Connection, connection_id: str, outbound: Outbound
) -> list[MeterConflict | MetersRefused]:
    """Brings the stored mappings in line with the rules and begins the streams; new or changed meters restart
    the initial sync.

    Where the rules are those that the stored meters were made of, nothing is computed: devices that came
    since are mapped by the scan. What is equal is not sent again. Takes the streams' rows whole, so no run
    maps meanwhile; the caller has the connection's row before. Does nothing where a later configuration's
    meters are in force already.
    """
    await connection.execute(sql("stream_take_all"), connection_id)
    held = await connection.fetchrow(sql("meters_in_force"), connection_id)
    if held is None or held["meters_of"] > outbound.configuration:
        return []
    conflicts: list[MeterConflict | MetersRefused] = []
    count: int | None = None
    if held["meters_digest"] != outbound.digest:
        conflicts, count = await _bring_in_line(connection, connection_id, outbound)
    elif any(rule.create for rule in outbound.rules):
        await meters_made.again(connection, connection_id)
    begun = (outbound.configuration, outbound.digest, outbound.interval, count)
    await connection.execute(sql("meters_begun"), connection_id, *begun)
    return conflicts


async def _bring_in_line(
    connection: Connection, connection_id: str, outbound: Outbound
) -> tuple[list[MeterConflict | MetersRefused], int]:
    """What was refused, and how many meters there are."""
    # read before the devices: one that registers meanwhile is found by the scan
    position: int = await connection.fetchval(sql("log_position"), outbound.customer)
    known = await mappings.devices(connection, outbound.customer)
    compared = await matched.held(connection, connection_id)
    wanted, conflicts = await _materialised(outbound.rules, known, outbound.capabilities.resolution, compared)
    await matched.keep_only(connection, connection_id, compared, outbound.rules)
    await tell_refused(connection, connection_id, outbound.customer, conflicts)
    held = await mappings.held(connection, connection_id)
    changed = [mapping for meter, mapping in wanted.items() if held.get(meter) != mapping]
    regridded = {
        mapping.meter
        for mapping in changed
        if mapping.meter in held and held[mapping.meter].window != mapping.window
    }
    await mappings.keep_only(
        connection, connection_id, wanted.keys() - regridded
    )  # windows that wait stay, unless theirs is no window any more
    await mappings.put(connection, connection_id, changed)
    await mappings.recompute(connection, connection_id, [m.meter for m in changed if m.meter in held])
    await meters_made.want(connection, connection_id, wanted.values(), all_of_them=True)
    # which metrics the history has for a new pattern is known once it is walked
    is_new = bool(changed or matched.patterns(outbound.rules))
    wish = (is_new, outbound.initial_days, outbound.capabilities.max_backfill, outbound.max_future)
    await connection.execute(sql("stream_begin"), connection_id, outbound.stream, *wish, position)
    return conflicts, len(wanted)


async def add_devices(
    connection: Connection,
    connection_id: str,
    devices: Sequence[str],
    rules: Sequence[MeterRule],
    resolution: timedelta,
    *,
    customer: str,
) -> list[MeterConflict | MetersRefused]:
    """Within a scan's transaction: the mappings of devices that are new since the last one."""
    known = await mappings.count(connection, connection_id)
    room = MAX_METERS - known
    wanted, conflicts = await _materialised([rule for rule in rules if rule.is_glob], devices, resolution)
    held = await mappings.held_of(connection, connection_id, wanted)
    fresh = [mapping for meter, mapping in wanted.items() if meter not in held]
    if len(fresh) > room:
        conflicts.append(MetersRefused(limit=MAX_METERS))
    await tell_refused(connection, connection_id, customer, conflicts)
    put = fresh[: max(0, room)]
    await mappings.put(connection, connection_id, put)
    await meters_made.want(connection, connection_id, put, all_of_them=False)
    if put:
        await connection.execute(sql("meters_added"), connection_id, known + len(put))
    taken = [
        MeterConflict(meter=m, kept=held[m], refused=wanted[m])
        for m in wanted
        if m in held and held[m].device != wanted[m].device
    ]
    return conflicts + taken


async def _materialised(
    rules: Sequence[MeterRule],
    devices: Sequence[str],
    resolution: timedelta,
    metrics: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> tuple[dict[str, MeterMapping], list[MeterConflict | MetersRefused]]:
    # One customer's rules times its devices must not hold the loop that everybody's telemetry goes through.
    return await asyncio.to_thread(materialise, rules, devices, resolution=resolution, metrics=metrics)


async def tell_refused(
    connection: Connection,
    connection_id: str,
    customer: str,
    refused: Sequence[MeterConflict | MetersRefused],
) -> None:
    """Tells the customer of limits, once a day."""
    for found in refused:
        if isinstance(found, MetersRefused):
            event = NewEvent(
                type=EventType.METERS_REFUSED,
                customer=customer,
                connection=connection_id,
                data={"limit": found.limit} | ({} if found.device is None else {"device": found.device}),
            )
            await outbox.append_once(connection, event, within=timedelta(days=1))
