"""Stores connections: their rows, their configuration and the generations of their credentials. Each change
is one statement in the caller's transaction.

Which transition may happen is decided in `gateway.model.connection`; what else changes with it, in
`gateway.connections.transitions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from gateway.bulkhead import readable
from gateway.model.access import Origin
from gateway.model.connection import State, Trigger
from gateway.model.connector import Hosting, ProbeResult
from gateway.model.operation import Operation
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What may be changed of a connection: JSON as it is written in the file, but for durations of meters,
    which are seconds. `origin`: who gave the settings.
    """

    hosting: Hosting
    host: str
    delivery: str
    settings: Mapping[str, object]
    sync: Mapping[str, object]
    meters: Sequence[Mapping[str, object]]
    alerts: Sequence[Mapping[str, object]] = ()
    managed_by: str
    origin: Origin = Origin.TRUSTED
    title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSettings:
    """What calls go by while other settings wait to be verified. `origin`: who gave these."""

    settings: Mapping[str, object]
    host: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConnection:
    """A connection as it is stored, without its secrets. `in_use`: where its settings wait to be verified,
    those that are used until then.
    """

    connection: str
    customer: str
    system: str
    hosting: Hosting
    state: State
    prior: State | None
    settings: Mapping[str, object]
    sync: Mapping[str, object]
    meters: Sequence[Mapping[str, object]]
    alerts: Sequence[Mapping[str, object]] = ()
    managed_by: str
    credential_type: str
    declared_digest: str
    configuration: int
    generation: int
    candidate: int | None
    account: str | None
    price: int
    host: str
    origin: Origin
    meters_of: int
    meters_digest: str | None
    title: str | None = None
    in_use: UsedSettings | None = None

    @property
    def used(self) -> StoredConnection:
        """With the settings that calls go by."""
        used = self.in_use
        if used is None:
            return self
        return replace(self, settings=used.settings, host=used.host, origin=used.origin, in_use=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """A connection in a transaction that may move it."""

    connection: str
    customer: str
    system: str
    hosting: str
    tier: int
    state: State
    prior: State | None
    generation: int
    candidate: int | None
    price: int
    account: str | None
    managed_by: str
    configuration: int
    settings_since: int
    """The configuration with which its settings became what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What decides whether a link has to be built again. `configuration`: how often the connection was
    configured; `is_served`: whether it may call its system; `meters_of`: the configuration whose meters are
    in force.
    """

    configuration: int
    is_served: bool
    meters_of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a connection moves: for its audit, its status and its events. `generation`, `configuration`: of the
    credential and of the link that the news is about.
    """

    reason: str | None = None
    request_id: str | None = None
    actor: str = "gateway"
    generation: int | None = None
    configuration: int | None = None
    operation: Operation | None = None
    """Whose failure it is; None where no call failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A connection whose system has just answered: its state, the operation that it comes from (None: not
    known), and whether a recovery may be told yet.
    """

    state: State
    operation: Operation | None
    recovers: bool


async def register_customers(database: Database, customers: Sequence[str]) -> None:
    """Makes the configured customers known. Idempotent."""
    async with database.transaction() as connection:
        await connection.execute(
            "insert into customer (customer_id) select unnest($1::text[]) on conflict do nothing",
            list(customers),
        )


async def insert(
    connection: Connection,
    connection_id: str,
    customer: str,
    system: str,
    tier: int,
    price: int,
    wanted: Configuration,
) -> bool:
    """A new connection in `pending`; False when its id is taken."""
    await connection.execute(
        "insert into customer (customer_id) values ($1) on conflict do nothing", customer
    )
    made: bool = await connection.fetchval(
        sql("connection_insert"),
        connection_id,
        customer,
        system,
        wanted.hosting,
        tier,
        wanted.delivery,
        wanted.settings,
        wanted.sync,
        wanted.meters,
        wanted.managed_by,
        price,
        wanted.host,
        wanted.origin,
        wanted.alerts,
        wanted.title,
    )
    return made


async def lock(connection: Connection, connection_id: str) -> Locked | None:
    """Locks the connection's row: the first step of every change. None where there is no such connection."""
    row = await connection.fetchrow(sql("connection_lock"), connection_id)
    if row is None:
        return None
    return Locked(
        connection=row["connection_id"],
        customer=row["customer_id"],
        system=row["system"],
        hosting=row["hosting"],
        tier=row["tier"],
        state=State(row["state"]),
        prior=None if row["prior_state"] is None else State(row["prior_state"]),
        generation=row["generation"],
        candidate=row["candidate"],
        price=row["price"],
        account=row["account"],
        managed_by=row["managed_by"],
        configuration=row["configuration"],
        settings_since=row["settings_since"],
    )


async def move(
    connection: Connection,
    locked: Locked,
    target: State,
    trigger: Trigger,
    cause: Cause,
    *,
    prior: State | None,
    look_in_seconds: float,
) -> tuple[datetime, int]:
    """Writes the transition and its audit row. Returns since when the state holds, and the version of the
    status document.
    """
    said = (cause.reason, cause.actor, cause.request_id)
    how = (locked.state, target, trigger, *said, prior, cause.operation, look_in_seconds)
    row = await connection.fetchrow(sql("connection_move"), locked.connection, *how)
    assert row is not None
    return row["since"], row["version"]


async def configure(connection: Connection, connection_id: str, wanted: Configuration) -> None:
    """Replaces the configuration."""
    how = (
        wanted.settings,
        wanted.sync,
        wanted.meters,
        wanted.hosting,
        wanted.host,
        wanted.delivery,
        wanted.managed_by,
        wanted.origin,
        wanted.alerts,
        wanted.title,
    )
    await connection.execute(sql("connection_configure"), connection_id, *how)


async def note_candidate(
    connection: Connection, connection_id: str, *, generation: int, kind: str, digest: str | None
) -> None:
    """Notes the candidate: the credential that is to be verified. `digest`: of one that the file gave."""
    await connection.execute(sql("connection_offer"), connection_id, generation, kind, digest)


async def next_generation(connection: Connection, connection_id: str) -> int:
    """One more than any credential of the connection ever had. The caller holds the row's lock."""
    generation: int = await connection.fetchval(sql("connection_generation"), connection_id)
    return generation


async def promote(
    connection: Connection, connection_id: str, *, account: str | None, delivery: str | None
) -> None:
    """Takes the candidate into use. `account`, `delivery`: what the connector says of itself with these
    settings; None: nothing.
    """
    await connection.execute(sql("connection_promote"), connection_id, account, delivery)


async def rename_account(database: Database, connection_id: str, answer: ProbeResult) -> None:
    """Stores the present name of the account where its former name is stored. Done once; later calls change
    nothing.
    """
    async with database.connection() as connection:
        await connection.execute(
            sql("connection_rename_account"), connection_id, answer.former_account, answer.account
        )


async def withdraw(connection: Connection, connection_id: str) -> None:
    """Forgets the candidate, which is not verified: what is in use stays."""
    await connection.execute(sql("connection_withdraw"), connection_id)


async def stop_looking(connection: Connection, connection_id: str) -> None:
    """Schedules no further look at the connection: it is looked at when somebody asks for it."""
    await connection.execute(sql("probe_never"), connection_id)


async def clear(connection: Connection, connection_id: str) -> None:
    """Removes streams, windows and mappings of a connection that ends, with those that a run writes while
    this waits for it.
    """
    await connection.execute(sql("stream_take_all"), connection_id)
    await connection.execute(sql("connection_clear"), connection_id)


async def wake(connection: Connection, connection_id: str) -> None:
    """Its streams run again at once, with no failures counted."""
    await connection.execute(sql("stream_wake"), connection_id)
    await connection.execute(sql("inbound_wake"), connection_id, None)


async def is_busy(database: Database, connection_id: str) -> bool:
    """Whether a replica works on one of its streams."""
    async with database.connection() as connection:
        busy: bool = await connection.fetchval(sql("connection_busy"), connection_id)
    return busy


async def read(database: Database, connections: Sequence[str] | None) -> dict[str, StoredConnection]:
    """These connections, as far as they exist, or all of them."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            *filtered("connection_read", None if connections is None else list(connections))
        )
    return {held.connection: held for held in readable(rows, _held, name=_name)}


def _name(row: asyncpg.Record) -> object:
    return row["connection_id"]


def _held(row: asyncpg.Record) -> StoredConnection:
    return StoredConnection(
        connection=row["connection_id"],
        customer=row["customer_id"],
        system=row["system"],
        hosting=row["hosting"],
        state=State(row["state"]),
        prior=None if row["prior_state"] is None else State(row["prior_state"]),
        settings=row["settings"],
        sync=row["sync"],
        meters=row["meters"],
        alerts=row["alerts"],
        managed_by=row["managed_by"],
        credential_type=row["credential_type"],
        declared_digest=row["declared_digest"],
        configuration=row["configuration"],
        generation=row["generation"],
        candidate=row["candidate"],
        account=row["account"],
        title=row["title"],
        price=row["price"],
        host=row["host"],
        origin=Origin(row["origin"]),
        meters_of=row["meters_of"],
        meters_digest=row["meters_digest"],
        in_use=None if row["in_use"] is None else _used(row["in_use"]),
    )


def _used(held: Mapping[str, Any]) -> UsedSettings:
    return UsedSettings(settings=held["settings"], host=held["host"], origin=Origin(held["origin"]))


async def configurations(database: Database, only: Collection[str] | None = None) -> dict[str, Configured]:
    """The configuration of these connections, or of all, without those that are disconnected."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            *filtered("connection_configurations", None if only is None else list(only))
        )
    return {
        row["connection_id"]: Configured(
            configuration=row["configuration"], is_served=row["is_served"], meters_of=row["meters_of"]
        )
        for row in rows
    }


async def states(database: Database, connections: Sequence[str]) -> dict[str, State]:
    """The states of these connections."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("connection_states"), list(connections))
    return dict(readable(rows, lambda row: (row["connection_id"], State(row["state"])), name=_name))


async def schedule_probe(
    database: Database, connection_id: str, state: State, *, in_seconds: float, attempts: int
) -> None:
    """Schedules the next look at the connection. Does nothing where it is in another state by now, for its
    move has made it due already.
    """
    async with database.connection() as connection:
        await connection.execute(sql("probe_schedule"), connection_id, state, in_seconds, attempts)


async def note_answer(
    database: Database, connection_id: str, *, next_probe_seconds: float
) -> Answered | None:
    """Notes that the system has answered, so the next probe can wait. Writes at most once in half of
    `next_probe_seconds`. None where the connection is gone.
    """
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("connection_called"), connection_id, next_probe_seconds)
    if row is None:
        return None
    operation = None if row["operation"] is None else Operation(row["operation"])
    return Answered(state=State(row["state"]), operation=operation, recovers=row["recovers"])


async def note_failing_operation(
    database: Database, connection_id: str, operation: Operation, reason: str, request_id: str | None
) -> None:
    """Notes that this operation fails as well: from now on it decides whether a degraded connection has
    recovered.
    """
    async with database.connection() as connection:
        await connection.execute(sql("connection_worse"), connection_id, operation, reason, request_id)


async def try_push(database: Database, connection_id: str, *, next_trial_seconds: float) -> bool:
    """Lets one run of a blocked connection push one reading; False when none is due. Schedules the next
    trial.
    """
    async with database.connection() as connection:
        granted: bool = await connection.fetchval(sql("stream_try"), connection_id, next_trial_seconds)
    return granted
