"""Incidents as they are kept: opened, grown and closed within the caller's transaction, and read for
operators, customers and the public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import asyncpg

from gateway.model.breaker import Key, Scope
from gateway.model.incident import IncidentFinding, said_to_customers
from gateway.store import breakers
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One incident. `connections` and the like hold all that was affected at some time. `calm_since`: it is
    open, and over if it stays calm.
    """

    incident: str
    scope: Scope
    key: str
    since: datetime
    opened_at: datetime
    calm_since: datetime | None
    closed_at: datetime | None
    systems: tuple[str, ...]
    operations: tuple[str, ...]
    connections: tuple[str, ...]
    customers: tuple[str, ...]
    request_ids: tuple[str, ...]
    detail: str
    closing_detail: str | None

    @property
    def where(self) -> Key:
        """What it is about."""
        return (self.scope, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymousIncident:
    """What anybody may know: no host, no customer, no connection."""

    scope: Scope
    systems: tuple[str, ...]
    since: datetime
    closed_at: datetime | None
    state: Literal["open", "recovering", "closed"]


async def listed(
    database: Database,
    *,
    closed: bool,
    customer: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[Incident]:
    """Latest first, going on after the incident `after`. With a customer: its incidents, each with nothing
    but what is the customer's own.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(*filtered("incident_list", closed, customer, after, limit))
        return [await _narrowed(connection, _incident(row), customer) for row in rows]


async def read(database: Database, incident: str, *, customer: str | None = None) -> Incident | None:
    """One incident, as `listed` gives it; None when there is none, or none of this customer's."""
    async with database.connection() as connection:
        row = await connection.fetchrow(*filtered("incident_read", incident, customer))
        return None if row is None else await _narrowed(connection, _incident(row), customer)


async def public(database: Database, *, days: int = 7, limit: int = 500) -> list[AnonymousIncident]:
    """Incidents of hosts and system types that are open, or were within these days. Latest first."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("incident_public"), days, limit)
    return [
        AnonymousIncident(
            scope=Scope(row["scope"]),
            systems=tuple(row["systems"]),
            since=row["since"],
            closed_at=row["closed_at"],
            state=row["state"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the gauges show, by scope."""

    incidents: Mapping[Scope, int]
    breakers: Mapping[Scope, int]


async def counts(database: Database) -> Counts:
    """Open incidents and open breakers; every scope is there."""
    incidents, opened = dict.fromkeys(Scope, 0), dict.fromkeys(Scope, 0)
    async with database.connection() as connection:
        for row in await connection.fetch(sql("incident_counts")):
            (incidents if row["what"] == "incident" else opened)[Scope(row["scope"])] = row["held"]
    now, failing = await breakers.failing(database)
    opened[Scope.CONNECTION] = 0 if now is None else sum(health.is_open(now) for health in failing)
    return Counts(incidents=incidents, breakers=opened)


# Within the transaction of whoever decides


async def due(connection: Connection) -> datetime | None:
    """The database's time, when something fails or is open; None when there is nothing to decide."""
    now: datetime | None = await connection.fetchval(sql("incident_due"))
    return now


async def lock(connection: Connection) -> list[Incident]:
    """Every open incident, until the transaction ends."""
    return [_incident(row) for row in await connection.fetch(sql("incident_lock"))]


async def open_incident(connection: Connection, finding: IncidentFinding) -> Incident | None:
    """Opens it; None when one is open there."""
    columns = (
        finding.systems,
        finding.operations,
        finding.connections,
        finding.customers,
        finding.request_ids,
    )
    row = await connection.fetchrow(
        sql("incident_open"), *finding.key, finding.since, *map(list, columns), finding.detail
    )
    return None if row is None else _incident(row)


async def grow(connection: Connection, incident: Incident) -> None:
    """Writes what has been affected by now."""
    columns = (
        incident.systems,
        incident.operations,
        incident.connections,
        incident.customers,
        incident.request_ids,
    )
    await connection.execute(sql("incident_grow"), incident.incident, *map(list, columns))


async def calm(connection: Connection, incident: Incident, since: datetime | None) -> None:
    """Notes since when it is calm, or that it is not."""
    await connection.execute(sql("incident_calm"), incident.incident, since)


async def close(connection: Connection, incident: Incident, why: str) -> Incident:
    """Closes an open incident that is locked."""
    row = await connection.fetchrow(sql("incident_close"), incident.incident, why)
    assert row is not None
    return _incident(row)


async def show(connection: Connection, connections: Sequence[str]) -> dict[str, str]:
    """Makes the status documents of these connections new versions, for their incident has changed.
    Connection to customer, without those that are gone.
    """
    rows = await connection.fetch(sql("incident_connections"), list(connections))
    return {row["connection_id"]: row["customer_id"] for row in rows}


async def _narrowed(connection: Connection, incident: Incident, customer: str | None) -> Incident:
    """Request ids and reasons of a systemic incident tell of others, so they are left out."""
    if customer is None:
        return incident
    own = await connection.fetch(sql("incident_customers"), list(incident.connections), customer)
    return replace(
        incident,
        connections=tuple(sorted(row["connection_id"] for row in own)),
        customers=(customer,),
        request_ids=incident.request_ids if incident.scope is Scope.CONNECTION else (),
        detail=said_to_customers(incident.where),
        closing_detail=None,
    )


def _incident(row: asyncpg.Record) -> Incident:
    return Incident(
        incident=row["incident_id"],
        scope=Scope(row["scope"]),
        key=row["key"],
        since=row["since"],
        opened_at=row["opened_at"],
        calm_since=row["calm_since"],
        closed_at=row["closed_at"],
        systems=tuple(row["systems"]),
        operations=tuple(row["operations"]),
        connections=tuple(row["connections"]),
        customers=tuple(row["customers"]),
        request_ids=tuple(row["request_ids"]),
        detail=row["detail"],
        closing_detail=row["closing_detail"],
    )
