"""How the calls of each connection go, and the open breakers of hosts and system types: what replicas know
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg

from gateway.model.breaker import Health, Key, Scope
from gateway.model.connection import State
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

CALLED = (State.VERIFYING, State.ACTIVE, State.DEGRADED, State.BLOCKED)
"""States in which calls are made, so that a failure can end."""

MOST_REQUEST_IDS = 10


async def succeeded(connection: Connection, where: tuple[str, str, str, str], *, seconds_ago: float) -> None:
    """Writes a success. `where`: connection, customer, system, host. Nothing happens when the connection is
    gone.
    """
    await connection.execute(sql("health_succeeded"), *where, seconds_ago)


async def failed(
    connection: Connection,
    where: tuple[str, str, str, str],
    *,
    seconds_ago: float,
    operation: str,
    request_id: str | None,
    transient: bool,
    error: str | None,
    success_seconds_ago: float | None,
) -> None:
    """Writes a failure, and the last success where it was not written yet."""
    what = (seconds_ago, operation, request_id, transient, error, MOST_REQUEST_IDS, success_seconds_ago)
    await connection.execute(sql("health_failed"), *where, *what)


async def health(connection: Connection) -> list[Health]:
    """Of every connection that makes calls."""
    return [_health(row) for row in await connection.fetch(sql("health_read"), list(CALLED))]


async def failing(database: Database) -> tuple[datetime | None, list[Health]]:
    """The database's time, and the health of the connections whose last call failed for a transient reason.
    None: there are none.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(sql("health_failing"), list(CALLED))
    return (rows[0]["now"] if rows else None), [_health(row) for row in rows]


async def opened(database: Database) -> dict[Key, float]:
    """Every open breaker, with the seconds until it may be tried."""
    async with database.connection() as connection:
        return _seconds(await connection.fetch(sql("breaker_list")))


async def listed(connection: Connection) -> dict[Key, float]:
    """The same, within a transaction."""
    return _seconds(await connection.fetch(sql("breaker_list")))


async def attempt(database: Database, keys: Sequence[Key], caller: str, *, seconds: float) -> float | None:
    """Makes `caller` the one that may call over all replicas, for `seconds`, if all of these breakers that
    are open may be tried now.

    None: go (also when none of them is open any more); else the seconds until the next trial.
    """
    async with database.transaction() as connection:
        held = _seconds(await connection.fetch(sql("breaker_lock"), *_columns(keys)))
        if (wait := max(held.values(), default=0.0)) > 0:
            return wait
        if held:
            await connection.execute(sql("breaker_try"), *_columns(list(held)), seconds, caller)
    return None


async def trials(connection: Connection, keys: Sequence[Key], caller: str) -> Mapping[Key, int]:
    """The breakers that this caller tries, with the trials that failed before; locked."""
    rows = await connection.fetch(sql("breaker_tried"), *_columns(keys), caller)
    return {(Scope(row["scope"]), row["key"]): row["trials"] for row in rows}


async def rest(connection: Connection, key: Key, *, seconds: float, trials: int) -> None:
    """Ends a trial: nobody calls for `seconds`."""
    await connection.execute(sql("breaker_rest"), *key, seconds, trials)


async def open_breaker(connection: Connection, key: Key, *, seconds: float) -> bool:
    """Opens it, with its first trial in `seconds`. False when it was open."""
    return await connection.fetchval(sql("breaker_open"), *key, seconds) is not None


async def close(connection: Connection, keys: Sequence[Key]) -> list[Key]:
    """Closes those of them that are open, and says which."""
    rows = await connection.fetch(sql("breaker_close"), *_columns(keys))
    return [(Scope(row["scope"]), row["key"]) for row in rows]


def _columns(keys: Sequence[Key]) -> tuple[list[str], list[str]]:
    return [scope for scope, _ in keys], [key for _, key in keys]


def _seconds(rows: Sequence[asyncpg.Record]) -> dict[Key, float]:
    return {(Scope(row["scope"]), row["key"]): row["next_trial_seconds"] for row in rows}


def _health(row: asyncpg.Record) -> Health:
    return Health(
        connection=row["connection_id"],
        customer=row["customer_id"],
        system=row["system"],
        host=row["host"],
        last_success_at=row["last_success_at"],
        last_failure_at=row["last_failure_at"],
        failing_since=row["failing_since"],
        failures=row["failures"],
        operations=tuple(row["operations"]),
        request_ids=tuple(row["request_ids"]),
        error=row["last_error"],
    )
