"""What metrics say of connections, read at one instant: so many one by one, all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.bulkhead import readable
from gateway.model.connection import State
from gateway.model.status import LAGGING_SECONDS, UNWELL
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedConnection:
    """One connection."""

    connection: str
    customer: str
    system: str
    state: State
    pending: int
    lag_seconds: float
    last_success_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSystem:
    """A system's connections that are in one state."""

    system: str
    state: str
    connections: int
    pending: int
    lag_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCustomer:
    """A customer's connections that are well, or that are not."""

    customer: str
    is_unwell: bool
    connections: int
    pending: int
    lag_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Of one instant, without what is disconnected. `well_left_out` and `unwell_left_out`: how many are not
    among `connections`.
    """

    connections: tuple[ObservedConnection, ...]
    systems: tuple[ObservedSystem, ...]
    customers: tuple[ObservedCustomer, ...]
    well_left_out: int
    unwell_left_out: int


async def read(database: Database, *, connections: int, customers: int) -> Observation:
    """At most so many connections and customers. Where there are more connections only those that are not
    well, the worst first.
    """
    rows = await database.fetch(
        sql("observed_connections"), connections, customers, list(UNWELL), LAGGING_SECONDS
    )
    left_out = {row["is_unwell"]: row["number"] for row in rows if row["what"] == "left out"}
    return Observation(
        connections=tuple(
            readable(
                [row for row in rows if row["what"] == "connection"],
                _connection,
                name=lambda row: row["connection_id"],
            )
        ),
        systems=tuple(
            ObservedSystem(
                system=row["system"],
                state=row["state"],
                connections=row["number"],
                pending=row["pending"],
                lag_seconds=row["lag_seconds"],
            )
            for row in rows
            if row["what"] == "system"
        ),
        customers=tuple(
            ObservedCustomer(
                customer=row["customer_id"],
                is_unwell=row["is_unwell"],
                connections=row["number"],
                pending=row["pending"],
                lag_seconds=row["lag_seconds"],
            )
            for row in rows
            if row["what"] == "customer"
        ),
        well_left_out=left_out[False],
        unwell_left_out=left_out[True],
    )


def _connection(row: asyncpg.Record) -> ObservedConnection:
    return ObservedConnection(
        connection=row["connection_id"],
        customer=row["customer_id"],
        system=row["system"],
        state=State(row["state"]),
        pending=row["pending"],
        lag_seconds=max(0.0, row["lag_seconds"]),
        last_success_at=row["last_success_at"],
    )
