"""Materialised meter mappings: rules of the configuration applied to the devices that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

import asyncpg

from gateway.model.arithmetic import Arithmetic, Conversion
from gateway.model.calendar import Calendar
from gateway.model.meter import MeterMapping
from gateway.store.pool import Connection
from gateway.store.queries import sql

SLICE = 5_000


async def held(connection: Connection, connection_id: str) -> dict[str, MeterMapping]:
    """What is stored, by meter."""
    rows = await connection.fetch(sql("mapping_list"), connection_id)
    return {row["meter"]: _mapping(row) for row in rows}


def _mapping(row: asyncpg.Record) -> MeterMapping:
    return MeterMapping(
        meter=row["meter"],
        device=row["device_id"],
        metric=row["metric"],
        reduce=row["reduce"],
        window=Calendar.from_key(row["calendar"]) if row["calendar"] else row["span"],
        deadband=row["deadband"],
        unit=row["unit"],
        max_silence=row["max_silence"],
        arithmetic=Arithmetic(
            scale=row["scale"],
            offset=row["value_offset"],
            rollover=row["rollover"],
            reset_below=row["reset_below"],
            threshold=row["threshold"],
            valid=None if row["valid_low"] is None else (row["valid_low"], row["valid_high"]),
            hold=row["hold"],
            conversion=conversion_of(row["conversion"]),
        ),
    )


def conversion_of(document: dict[str, Any] | None) -> Conversion | None:
    """As it is stored."""
    return None if document is None else _conversion(*document.items())


@lru_cache(maxsize=1_000)
def _conversion(*parts: tuple[str, str]) -> Conversion:
    return Conversion.from_document(dict(parts))


async def held_of(
    connection: Connection, connection_id: str, meters: Collection[str]
) -> dict[str, MeterMapping]:
    """What is stored of these meters."""
    rows = await connection.fetch(sql("mapping_some"), connection_id, list(meters))
    return {row["meter"]: _mapping(row) for row in rows}


async def count(connection: Connection, connection_id: str) -> int:
    """Meters that the connection feeds: counted once, and kept."""
    found: int = await connection.fetchval(sql("meters_count"), connection_id)
    return found


async def put(connection: Connection, connection_id: str, mappings: Sequence[MeterMapping]) -> None:
    """Adds these, replacing what is held for the same meters."""
    # In slices: making the arguments of one statement holds the loop that everybody's telemetry goes through.
    for start in range(0, len(mappings), SLICE):
        part = mappings[start : start + SLICE]
        await connection.execute(
            sql("mapping_add"),
            connection_id,
            [m.meter for m in part],
            [m.device for m in part],
            [m.metric for m in part],
            [m.reduce for m in part],
            [m.window.longest if isinstance(m.window, Calendar) else m.window for m in part],
            [m.deadband for m in part],
            [m.unit for m in part],
            [m.max_silence for m in part],
            [m.arithmetic.scale for m in part],
            [m.arithmetic.offset for m in part],
            [m.arithmetic.rollover for m in part],
            [m.arithmetic.reset_below for m in part],
            [m.arithmetic.threshold for m in part],
            [m.arithmetic.valid and m.arithmetic.valid[0] for m in part],
            [m.arithmetic.valid and m.arithmetic.valid[1] for m in part],
            [m.arithmetic.hold for m in part],
            [m.window.key if isinstance(m.window, Calendar) else "" for m in part],
            [m.arithmetic.conversion and m.arithmetic.conversion.to_document() for m in part],
        )


async def recompute(connection: Connection, connection_id: str, meters: Collection[str]) -> None:
    """What is due of these meters is computed again by whoever has computed it by their old rules."""
    if meters:
        await connection.execute(sql("due_recompute"), connection_id, list(meters))


async def keep_only(connection: Connection, connection_id: str, meters: Iterable[str]) -> None:
    """Removes every other mapping of the connection, with its due windows; deliveries stay."""
    await connection.execute(sql("mapping_remove"), connection_id, list(meters))


async def devices(
    connection: Connection, customer: str, *, past: int = -1, until: int = 2**63 - 1
) -> list[str]:
    """Devices of the customer that registered past a position of its log, up to `until`; all by default."""
    rows = await connection.fetch(sql("devices_new"), customer, past, until)
    return [row["device_id"] for row in rows]
