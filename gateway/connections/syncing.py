"""Asking a connection's streams to run: all of them, or one of records; history once more; and what a person
says of records that vanished.
"""

from __future__ import annotations

from datetime import timedelta

from gateway.configuration.schema import written
from gateway.model.connection import IssueCode
from gateway.model.connector import Manifest
from gateway.model.errors import RequestRefused
from gateway.settings import ConnectionSyncSettings
from gateway.store import connections, inbound, issues, streams
from gateway.store.connections import StoredConnection
from gateway.store.pool import Database
from gateway.sync.link import READINGS


async def run_now(
    database: Database,
    held: StoredConnection,
    manifest: Manifest,
    *,
    full: bool,
    stream: str | None,
    max_future: timedelta,
) -> None:
    """Its streams, or one stream of records, run at once; `full` walks the history again: what is stored here
    goes to the system, and what the system holds comes here, as far as either differs. Raises RequestRefused.
    """
    days = ConnectionSyncSettings.model_validate(held.sync).initial_days
    name = held.connection
    if stream is not None:
        await _check_stream(database, name, stream)
    if full and not days:
        raise RequestRefused(
            "request.invalid",
            "sync.initial_days is 0, so there is no history to walk: set it first",
            connection=name,
        )
    async with database.transaction() as connection:
        await connections.lock(connection, name)
        if full and stream is None:
            await streams.begin_again(
                connection,
                name,
                READINGS,
                days=days,
                max_backfill=manifest.capabilities.max_backfill,
                max_future=max_future,
            )
        if full:
            await inbound.begin_again(connection, held.customer, name, stream, initial_days=days)
            await issues.solve_one(
                connection, name, IssueCode.RECORDS_LIMIT
            )  # it is told again where there is still no room
        if stream is None:
            await connections.wake(connection, name)
        else:
            await inbound.wake(connection, name, stream)


async def confirm_deletions(database: Database, held: StoredConnection, stream: str) -> int:
    """What the last walk of a stream did not find is deleted by the next one, if it does not find it either:
    how many records. Raises RequestRefused where nothing waits for that.
    """
    async with database.transaction() as connection:
        await connections.lock(connection, held.connection)
        count = await inbound.confirm(connection, held.customer, held.connection, stream)
    if count is None:
        raise RequestRefused(
            "request.conflict",
            f"no deletions of stream {stream!r} wait to be confirmed",
            connection=held.connection,
        )
    return count


async def _check_stream(database: Database, name: str, stream: str) -> None:
    known = sorted({found.stream for found in await inbound.progress(database, [name])})
    if stream not in known:
        there = f"it reads {', '.join(known)}" if known else "it reads none"
        raise RequestRefused(
            "request.invalid", f"connection {name!r} reads no stream {stream!r}; {there}", connection=name
        )


def reading(sync: ConnectionSyncSettings) -> dict[str, object]:
    """What is said of reading records, as far as it is said: a connection of before is not a changed one."""
    plain = ConnectionSyncSettings()
    found: dict[str, object] = {} if sync.pull is None else {"pull": list(sync.pull)}
    for name in ("pull_interval", "reconcile"):
        if (value := getattr(sync, name)) != getattr(plain, name):
            found[name] = written(value)
    if sync.publish_records != plain.publish_records:
        found["publish_records"] = sync.publish_records
    return found
