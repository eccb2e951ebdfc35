"""Reads what `fieldgate doctor` judges of the database and of the work in it. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from gateway.model.access import Origin
from gateway.model.diagnosis_database import Follower, HoldingSession, ServerFacts, TableFacts
from gateway.model.diagnosis_work import DevicesFacts, HeldLease, Overdue, Stuck, Unwell
from gateway.model.status import UNWELL, Trouble
from gateway.store import observed
from gateway.store.migrate import migrations
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.views import Views

MAX_OVERDUE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many are here, and which leases somebody holds."""

    here: int
    held: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The settings of a connection, and whose word they are."""

    connection: str
    customer: str
    origin: Origin
    settings: Mapping[str, object]


async def server(database: Database) -> ServerFacts:
    """The server and its settings."""
    row = await database.fetchrow(sql("inspect_server"))
    assert row is not None
    return ServerFacts(**row)


async def schema(database: Database) -> tuple[list[str], list[str]]:
    """Migrations that are missing, and those that this version does not know."""
    async with database.connection() as connection:
        if await connection.fetchval("select to_regclass('migration')") is None:
            present = set()
        else:
            present = {row["name"] for row in await connection.fetch("select name from migration")}
    known = {name for name, _ in migrations()}
    return sorted(known - present), sorted(present - known)


async def transactions(
    database: Database, *, open_seconds: float, waiting_seconds: float
) -> list[HoldingSession]:
    """What holds back the server."""
    rows = await database.fetch(sql("inspect_transactions"), open_seconds, waiting_seconds)
    return [HoldingSession(**row) for row in rows]


async def followers(database: Database) -> list[Follower]:
    """Standbys and replication slots."""
    return [Follower(**row) for row in await database.fetch(sql("inspect_standbys"))]


async def tables(database: Database, *, dead_rows: int) -> list[TableFacts]:
    """Tables with more dead rows."""
    return [TableFacts(**row) for row in await database.fetch(sql("inspect_tables"), dead_rows)]


async def unwell(database: Database, *, limit: int, lag_seconds: float) -> tuple[list[Unwell], int]:
    """Connections that need a person or are further behind, and how many more there are."""
    seen = await observed.read(database, connections=limit, customers=0)
    lags = {
        each.connection: each.lag_seconds
        for each in seen.connections
        if each.state in UNWELL or each.lag_seconds > lag_seconds
    }
    found = [
        Unwell(
            connection=each.connection,
            state=each.state,
            since=each.since,
            reason=each.reason,
            lag_seconds=lags[each.connection],
        )
        for each in await Views(database).status(list(lags))
    ]
    return found, seen.unwell_left_out


async def troubles(database: Database, *, seconds: float, limit: int) -> list[tuple[str, Trouble]]:
    """What stands in the way of connections for longer, or keeps them from being built."""
    rows = await database.fetch(sql("inspect_troubles"), seconds, limit)
    return [
        (row["connection_id"], Trouble(part=row["part"], detail=row["detail"], since=row["since"]))
        for row in rows
    ]


async def stuck(database: Database, *, seconds: float) -> list[Stuck]:
    """Streams that are due for longer and that nobody works on."""
    rows = await database.fetch(sql("inspect_streams"), seconds)
    return [
        Stuck(
            connection=row["connection_id"],
            kind=row["kind"],
            seconds=row["seconds"],
            error=row["last_error"],
        )
        for row in rows
    ]


async def leases(database: Database, *, lease_seconds: float) -> list[HeldLease]:
    """Leases of replicas that are gone, and those that run for too long."""
    return [HeldLease(**row) for row in await database.fetch(sql("inspect_leases"), lease_seconds)]


async def replicas(database: Database, *, silent_seconds: float) -> Replicas:
    """Who is here."""
    row = await database.fetchrow(sql("inspect_replicas"), silent_seconds)
    assert row is not None
    return Replicas(here=row["replicas"], held=frozenset(row["held"]))


async def overdue(database: Database, *, before: date) -> list[Overdue]:
    """Days of telemetry that are older, the oldest first, with who has not done with them."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("partitions_expired"), "telemetry", before)
        found = []
        for row in rows[:MAX_OVERDUE]:
            readers = await connection.fetch(sql("partition_readers"), row["day"], True)
            names = [reader["connection_id"] for reader in readers]
            found.append(Overdue(name=row["name"], day=row["day"], readers=names))
        return found


async def devices(database: Database, *, silent_seconds: float, forgotten_seconds: float) -> DevicesFacts:
    """How many there are, and which were not heard lately."""
    row = await database.fetchrow(sql("inspect_devices"), silent_seconds, forgotten_seconds)
    assert row is not None
    return DevicesFacts(
        known=row["known"], heard_at=row["heard_at"], silent=row["silent"], names=row["names"] or ()
    )


async def destinations(database: Database, *, limit: int) -> list[Destination]:
    """Where connections lead."""
    rows = await database.fetch(sql("inspect_settings"), limit)
    return [
        Destination(
            connection=row["connection_id"],
            customer=row["customer_id"],
            origin=Origin(row["origin"]),
            settings=row["settings"] if isinstance(row["settings"], dict) else {},
        )
        for row in rows
    ]


async def ending(database: Database, *, until: datetime) -> Sequence[tuple[str, str, datetime]]:
    """(connection, type, end) of credentials in use that end before."""
    rows = await database.fetch(sql("inspect_credentials"), until)
    return [(row["connection_id"], row["type"], row["expires_at"]) for row in rows]
