"""How the calls of each connection go, and the open breakers of hosts and system types: what replicas know
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import asyncpg

from gateway.model.breaker import SEEN, CallHealth, Key, Scope
from gateway.model.connection import State
from gateway.model.incident import MAX_REQUEST_IDS
from gateway.model.operation import Operation, proved_by
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

CALLED = (State.VERIFYING, State.ACTIVE, State.DEGRADED, State.BLOCKED)
"""States in which calls are made, so that a failure can end."""

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTrouble:
    """For how many seconds an operation met nothing but failures, nothing but web pages, and denials in a
    row.
    """

    failing_seconds: float = 0.0
    suspect_seconds: float = 0.0
    denied_seconds: float = 0.0


async def succeeded(
    connection: Connection,
    where: tuple[str, str, str, str],
    operation: Operation,
    *,
    seconds_ago: float,
) -> None:
    """Writes a success, which ends the failures of what it proves. `where`: connection, customer, system,
    host. Nothing happens when the connection is gone.
    """
    others = [proved for proved in proved_by(operation) if proved is not operation]
    await connection.execute(sql("health_succeeded"), *where, operation, seconds_ago, others)


async def all_succeeded(
    database: Database, wheres: Sequence[tuple[str, str, str, str]], operation: Operation
) -> None:
    """Writes successes of just now, of connections that nothing failed of, in one statement."""
    columns = [list(column) for column in zip(*sorted(wheres), strict=True)]
    await database.execute(sql("health_well"), *columns, operation)


async def failed(
    connection: Connection,
    where: tuple[str, str, str, str],
    operation: Operation,
    *,
    seconds_ago: float,
    request_id: str | None,
    transient: bool,
    error: str | None,
    success_seconds_ago: float | None,
    web_page: bool = False,
    denied: bool = False,
) -> OperationTrouble:
    """Writes a failure, and the last success where it was not written yet."""
    what = (
        seconds_ago,
        request_id,
        transient,
        error,
        MAX_REQUEST_IDS,
        success_seconds_ago,
        web_page,
        denied,
    )
    row = await connection.fetchrow(sql("health_failed"), *where, operation, *what)
    if row is None:
        return OperationTrouble()
    return OperationTrouble(
        failing_seconds=row["failing"], suspect_seconds=row["suspect"], denied_seconds=row["denied"]
    )


async def health(connection: Connection) -> list[CallHealth]:
    """Of every connection that makes calls."""
    return _healths(await connection.fetch(sql("health_read"), list(CALLED)))


async def failing(database: Database) -> tuple[datetime | None, list[CallHealth]]:
    """The database's time, and the health of the connections whose last call failed for a transient reason.
    None: there are none.
    """
    rows = await database.fetch(sql("health_failing"), list(CALLED))
    return (rows[0]["now"] if rows else None), _healths(rows)


async def opened(database: Database) -> dict[Key, tuple[float, Operation]]:
    """Every open breaker, with the seconds until it may be tried and what it holds back: all calls (PROBE),
    or pushes or pulls only.
    """
    return {
        (Scope(row["scope"]), row["key"]): (row["next_trial_seconds"], Operation(row["operation"]))
        for row in await database.fetch(sql("breaker_list"))
    }


async def listed(connection: Connection) -> list[Key]:
    """Which are open, within a transaction."""
    return [(Scope(row["scope"]), row["key"]) for row in await connection.fetch(sql("breaker_list"))]


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


async def open_breaker(
    connection: Connection, key: Key, *, seconds: float, operation: Operation = Operation.PROBE
) -> bool:
    """Opens it, with its first trial in `seconds`. False when it was open."""
    return await connection.fetchval(sql("breaker_open"), *key, seconds, operation) is not None


async def close(
    connection: Connection, keys: Sequence[Key], *, proved: Operation = Operation.PUSH
) -> list[Key]:
    """Closes those of them that are open and hold back nothing but what a success of `proved` proves; says
    which.
    """
    rows = await connection.fetch(sql("breaker_close"), *_columns(keys), list(proved_by(proved)))
    return [(Scope(row["scope"]), row["key"]) for row in rows]


async def narrow(connection: Connection, keys: Sequence[Key]) -> dict[Key, Operation]:
    """A probe was answered: those where pushes or pulls still fail hold back only those from now on. Says
    which.
    """
    how = (list(CALLED), SEEN.total_seconds())
    rows = await connection.fetch(sql("breaker_narrow"), *_columns(keys), *how)
    return {(Scope(row["scope"]), row["key"]): Operation(row["operation"]) for row in rows}


def _columns(keys: Sequence[Key]) -> tuple[list[str], list[str]]:
    return [scope for scope, _ in keys], [key for _, key in keys]


def _seconds(rows: Sequence[asyncpg.Record]) -> dict[Key, float]:
    return {(Scope(row["scope"]), row["key"]): row["next_trial_seconds"] for row in rows}


def _healths(rows: Sequence[asyncpg.Record]) -> list[CallHealth]:
    """One for each connection, of the rows of its operations, which stand together."""
    return [_health(list(own)) for _, own in groupby(rows, key=lambda row: str(row["connection_id"]))]


def _health(rows: Sequence[asyncpg.Record]) -> CallHealth:
    """What is known of the operations put together: the failures are those of the ones that fail."""
    failing = [row for row in rows if row["failing_since"] is not None]
    latest = max(failing or rows, key=lambda row: row["last_failure_at"] or _NEVER)
    succeeded = {row["operation"]: row["last_success_at"] for row in rows}
    return CallHealth(
        connection=latest["connection_id"],
        customer=latest["customer_id"],
        system=latest["system"],
        host=latest["host"],
        last_success_at=succeeded.get(Operation.PUSH),
        last_probe_at=succeeded.get(Operation.PROBE),
        last_pull_at=succeeded.get(Operation.PULL),
        last_failure_at=latest["last_failure_at"],
        failing_since=min((row["failing_since"] for row in failing), default=None),
        failures=max((row["failures"] for row in failing), default=0),
        operations=tuple(row["operation"] for row in failing),
        request_ids=tuple(identifier for row in failing for identifier in row["request_ids"]),
        error=latest["last_error"],
    )
