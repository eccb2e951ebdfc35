"""Connections: their declaration and every transition, each one compare-and-set with its audit row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.model.connection import State, Trigger, next_state, sources
from gateway.model.connector import Capabilities
from gateway.model.meter import MeterConflict, MeterRule, materialise
from gateway.store import mappings
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A connection as the configuration declares it. `digest` is keyed over settings and credentials and reveals neither."""

    connection: str
    customer: str
    system: str
    hosting: str
    tier: int
    digest: str
    delivery: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the database says of a declaration: where the connection is, and whether settings or credentials changed."""

    customer: str
    system: str
    state: State
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What an outbound stream begins from: whose telemetry, which meters, for which system, and how much of the past."""

    customer: str
    stream: str
    rules: Sequence[MeterRule]
    capabilities: Capabilities
    initial_days: int
    max_future: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A transition that took place."""

    from_state: State
    to_state: State


async def register_customers(database: Database, customers: Sequence[str]) -> None:
    """Makes the configured customers known. Idempotent."""
    async with database.transaction() as connection:
        await connection.execute("insert into customer (customer_id) select unnest($1::text[]) on conflict do nothing", list(customers))


async def declare(database: Database, declaration: Declaration) -> Declared:
    """Creates the connection in `pending`, or updates what may change. Its customer and system never change: compare them."""
    async with database.transaction() as connection:
        await connection.execute("insert into customer (customer_id) values ($1) on conflict do nothing", declaration.customer)
        row = await connection.fetchrow(
            sql("connection_declare"),
            declaration.connection,
            declaration.customer,
            declaration.system,
            declaration.hosting,
            declaration.tier,
            declaration.digest,
            declaration.delivery,
        )
        assert row is not None
    return Declared(customer=row["customer_id"], system=row["system"], state=State(row["state"]), changed=row["changed"])


async def transition(database: Database, connection_id: str, trigger: Trigger, reason: str | None) -> Moved | None:
    """Follows the table from wherever the connection is; None when the trigger means nothing there (somebody was faster)."""
    async with database.transaction() as connection:
        return await _transition(connection, connection_id, trigger, reason)


async def activate(database: Database, connection_id: str, outbound: Outbound) -> tuple[Moved | None, list[MeterConflict]]:
    """One transaction: the connection becomes active, its meters are materialised and its streams begin."""
    async with database.transaction() as connection:
        moved = await _transition(connection, connection_id, Trigger.PROBE_SUCCEEDED, None)
        conflicts = await _begin(connection, connection_id, outbound)
        await connection.execute(sql("stream_wake"), connection_id)
    return moved, conflicts


async def refresh_meters(database: Database, connection_id: str, outbound: Outbound) -> list[MeterConflict]:
    """Brings the stored mappings in line with the rules; new or changed ones restart the initial sync (what is equal is not sent again)."""
    async with database.transaction() as connection:
        return await _begin(connection, connection_id, outbound)


async def add_devices(
    connection: Connection, connection_id: str, devices: Sequence[str], rules: Sequence[MeterRule], resolution: timedelta
) -> list[MeterConflict]:
    """Within a scan's transaction: the mappings of devices that are new since the last one."""
    held = await mappings.held(connection, connection_id)
    wanted, conflicts = materialise([rule for rule in rules if rule.is_glob], devices, resolution=resolution)
    await mappings.put(connection, connection_id, [mapping for meter, mapping in wanted.items() if meter not in held])
    taken = [MeterConflict(meter=m, kept=held[m], refused=wanted[m]) for m in wanted if m in held and held[m].device != wanted[m].device]
    return conflicts + taken


async def _begin(connection: Connection, connection_id: str, outbound: Outbound) -> list[MeterConflict]:
    await connection.execute("select from stream where connection_id = $1 for update", connection_id)
    horizon: int = await connection.fetchval(sql("device_horizon"))
    known = await mappings.devices(connection, outbound.customer)
    wanted, conflicts = materialise(outbound.rules, known, resolution=outbound.capabilities.resolution)
    held = await mappings.held(connection, connection_id)
    changed = [mapping for meter, mapping in wanted.items() if held.get(meter) != mapping]
    regridded = {mapping.meter for mapping in changed if mapping.meter in held and held[mapping.meter].window != mapping.window}
    await mappings.keep_only(connection, connection_id, wanted.keys() - regridded)  # windows that wait stay, unless theirs is no window any more
    await mappings.put(connection, connection_id, changed)
    wish = (bool(changed), outbound.initial_days, outbound.capabilities.max_backfill, outbound.max_future)
    await connection.execute(sql("stream_begin"), connection_id, outbound.stream, *wish, str(horizon))
    return conflicts


async def _transition(connection: Connection, connection_id: str, trigger: Trigger, reason: str | None) -> Moved | None:
    origins = sources(trigger)
    targets = [next_state(origin, trigger) for origin in origins]
    row = await connection.fetchrow(sql("connection_transition"), connection_id, origins, targets, trigger, reason)
    return None if row is None else Moved(from_state=State(row["from_state"]), to_state=State(row["to_state"]))


async def states(database: Database, connections: Sequence[str]) -> dict[str, State]:
    """Where these connections are."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("connection_states"), list(connections))
    return {row["connection_id"]: State(row["state"]) for row in rows}
