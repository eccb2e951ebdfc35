"""Probes of many connections at once: which are due, and which went well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from gateway.bulkhead import readable
from gateway.model.connection import State
from gateway.model.operation import Operation
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A connection to be looked at now."""

    connection: str
    state: State
    generation: int
    candidate: int | None
    configuration: int
    is_offered: bool
    """Whether credentials or settings wait to be verified."""
    operation: Operation | None
    attempts: int
    verified_long_enough: bool


async def claim(
    database: Database, *, lease_seconds: float, limit: int, probes: int | None = None
) -> list[Due]:
    """Connections that are to be looked at now; no other replica gets them within the lease. `probes`: at
    most so many of those whose credential works.
    """
    most = limit if probes is None else probes
    rows = await database.fetch(sql("probe_claim"), lease_seconds, limit, most)
    return readable(rows, _due, name=lambda row: row["connection_id"])


async def seconds_to_next(database: Database) -> float | None:
    """Until a connection is to be looked at, none or less where one is; None where none is to be."""
    seconds: float | None = await database.fetchval(sql("probe_next"))
    return seconds


def _due(row: asyncpg.Record) -> Due:
    return Due(
        connection=row["connection_id"],
        state=State(row["state"]),
        generation=row["generation"],
        candidate=row["candidate"],
        configuration=row["configuration"],
        is_offered=row["is_offered"],
        operation=None if row["operation"] is None else Operation(row["operation"]),
        attempts=row["probe_attempts"],
        verified_long_enough=bool(row["verified_long_enough"]),
    )


async def well(database: Database, seconds: Mapping[str, float]) -> set[str]:
    """The systems of these connections answered a probe: each is probed again after so many seconds. Those
    that were active, and are; the others need a look at what the answer means.
    """
    rows = await database.fetch(sql("probe_well"), list(seconds), list(seconds.values()))
    return {row["connection_id"] for row in rows}
