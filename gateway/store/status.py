"""Reads what the status documents and the gauges show, and keeps what is retained on the broker and which
replicas are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal, TypedDict

import asyncpg

from gateway.bulkhead import readable
from gateway.model.connection import State
from gateway.model.operation import Operation
from gateway.model.status import ConnectionStatus, Progress, RecordsProgress, StreamStatus, Trouble
from gateway.store import inbound
from gateway.store.pool import Database
from gateway.store.queries import sql

ESTIMATED_FROM = 0.02
"""Of an initial sync: the pace of what is less tells nothing."""


class _Flow(TypedDict):
    name: str
    phase: Literal["initial", "incremental"]
    state: Literal["idle", "running", "lagging", "failed", "done"]
    attempts: int
    watermark: str
    initial_from: str | None
    initial_cursor: str | None
    initial_until: str | None
    clipped_to_days: float | None
    lost_until: str | None
    walked: float | None
    remaining_seconds: float | None
    lag_seconds: float
    pending: int


async def read(database: Database, connections: Sequence[str]) -> list[ConnectionStatus]:
    """These connections, as far as they exist, by id, in one query."""
    rows = await database.fetch(sql("status_read"), list(connections))
    found = readable(rows, _status, name=lambda row: row["connection_id"])
    reading: dict[str, list[inbound.StreamProgress]] = {}
    for stream in await inbound.progress(database, [each.connection for each in found]):
        reading.setdefault(stream.connection, []).append(stream)
    return [_with_records(each, reading.get(each.connection, ())) for each in found]


def _with_records(status: ConnectionStatus, reading: Sequence[inbound.StreamProgress]) -> ConnectionStatus:
    waiting = [stream.next_run_at for stream in reading if stream.state != "done"]
    streams = (*status.streams, *(_inbound(stream) for stream in reading))
    return replace(status, streams=streams, next_pull_at=min(waiting, default=None))


def _status(row: asyncpg.Record) -> ConnectionStatus:
    return ConnectionStatus(
        connection=row["connection_id"],
        title=row["title"],
        customer=row["customer_id"],
        system=row["system"],
        hosting=row["hosting"],
        tier=row["tier"],
        state=State(row["state"]),
        reason=row["reason"],
        since=row["since"],
        version=row["version"],
        delivery=row["delivery"],
        last_success_at=row["last_success_at"],
        next_run_at=row["next_run_at"],
        pending=row["pending"],
        dead_letters=row["dead_letters"],
        credits=row["price"],
        request_id=row["request_id"],
        incident=row["incident"],
        operation=None if row["operation"] is None else Operation(row["operation"]),
        next_probe_at=row["probe_at"],
        open_alerts=row["open_alerts"],
        meters_refused=row["meters_refused"],
        meters_waiting=row["meters_waiting"],
        streams=tuple(_stream(flow) for flow in row["streams"]),
        troubles=tuple(_trouble(trouble) for trouble in row["troubles"]),
    )


async def owned(database: Database, customer: str, connection_id: str | None = None) -> list[str]:
    """The customer's connections that are not disconnected; or this one, where it is the customer's."""
    return sorted(
        row["connection_id"]
        for row in await database.fetch(sql("command_connections"), customer, connection_id)
    )


async def dead_letters(database: Database) -> Mapping[str, int]:
    """Dead letters held, by reason."""
    return {row["reason"]: row["held"] for row in await database.fetch(sql("status_dead_letters"))}


async def published(database: Database, documents: Sequence[tuple[str, str, int]]) -> None:
    """Notes that the broker retains these documents, or is about to: connection, topic, version."""
    names, topics, versions = zip(*documents, strict=True)
    await database.execute(sql("status_published"), names, topics, versions)


async def ended(database: Database, connection_id: str) -> None:
    """Notes that the last document of a disconnected connection was published and removed."""
    await database.execute(sql("status_ended"), connection_id)


async def told(database: Database, connections: Sequence[str]) -> set[str]:
    """Those of which everything was said: they are disconnected, and their last document was removed."""
    rows = await database.fetch(sql("status_told"), list(connections))
    return {row["connection_id"] for row in rows}


async def gone(database: Database, connections: Sequence[str]) -> Mapping[str, str]:
    """Those of these connections that no longer exist and whose document is still
    retained, with its topic.
    """
    rows = await database.fetch(sql("status_gone"), list(connections))
    return {row["connection_id"]: row["topic"] for row in rows}


async def forget(database: Database, connection_id: str) -> None:
    """Notes that nothing is retained for the connection."""
    await database.execute(sql("status_forget"), connection_id)


async def beat(database: Database, replica: str, *, silent_seconds: float) -> int:
    """Says that this replica is here; how many are, counting those heard within `silent_seconds`."""
    count: int = await database.fetchval(sql("status_beat"), replica, silent_seconds)
    return count


async def is_anybody_here(database: Database, *, silent_seconds: float) -> bool:
    """Whether a replica was heard within `silent_seconds`."""
    return bool(await database.fetchval(sql("replicas_here"), silent_seconds))


async def leave(database: Database, replica: str) -> None:
    """Says that this replica is no longer here."""
    await database.execute(sql("status_leave"), replica)


def _trouble(trouble: Mapping[str, str]) -> Trouble:
    return Trouble(
        part=trouble["part"], detail=trouble["detail"], since=datetime.fromisoformat(trouble["since"])
    )


def _stream(flow: _Flow) -> StreamStatus:
    state = flow["state"]
    if state == "done":
        state = "idle"
    elif state == "idle" and flow["attempts"]:
        state = "failed"
    return StreamStatus(
        name=flow["name"],
        direction="outbound",
        phase=flow["phase"],
        state=state,
        watermark=flow["initial_cursor"] or flow["watermark"],
        lag_seconds=round(max(0.0, float(flow["lag_seconds"])), 3),
        progress=_progress(flow),
        lost_until=None if flow["lost_until"] is None else datetime.fromisoformat(flow["lost_until"]),
    )


def _estimated(flow: _Flow) -> float | None:
    """What is left at the pace so far; None before anything can be told."""
    if flow["state"] == "done":
        return 0.0
    remaining, walked = flow["remaining_seconds"], flow["walked"]
    if remaining is None or walked is None or walked < ESTIMATED_FROM:
        return None
    return round(max(0.0, float(remaining)), 1)


def _progress(flow: _Flow) -> Progress | None:
    start, cursor, until = flow["initial_from"], flow["initial_cursor"], flow["initial_until"]
    if start is None or cursor is None or until is None:
        return None
    clipped = flow["clipped_to_days"]
    return Progress(
        fraction=1.0 if flow["state"] == "done" else round(float(flow["walked"] or 0.0), 4),
        start=datetime.fromisoformat(start),
        until=datetime.fromisoformat(until),
        cursor=datetime.fromisoformat(cursor),
        pending_readings=flow["pending"],
        estimated_seconds=_estimated(flow),
        clipped_to_days=None if clipped is None else float(clipped),
    )


def _inbound(stream: inbound.StreamProgress) -> StreamStatus:
    state = stream.state
    fraction = fraction_of(stream)
    remaining = None
    if fraction and stream.running_seconds is not None and state != "done":
        remaining = round(stream.running_seconds * (1 - fraction) / fraction, 1)
    return StreamStatus(
        name=stream.stream,
        direction="inbound",
        phase=stream.phase,
        state=_shown(state, stream.attempts),
        watermark="" if stream.high is None else stream.high.isoformat(),
        lag_seconds=round(max(0.0, stream.lag_seconds), 3) if stream.phase == "incremental" else 0.0,
        progress=None,
        records=RecordsProgress(
            held=stream.alive,
            read=stream.read_records,
            fraction=None if fraction is None else round(fraction, 4),
            remaining_seconds=remaining,
            vanished=stream.vanished,
        ),
    )


def _shown(state: str, attempts: int) -> Literal["idle", "running", "lagging", "failed"]:
    match state:
        case "running" | "lagging" | "failed":
            return state
        case _:
            return "failed" if attempts and state == "idle" else "idle"


def fraction_of(stream: inbound.StreamProgress) -> float | None:
    """Of the history: the days that are read, and of the one in hand what the system's total tells. Of a
    walk: its total.
    """
    part = None
    if stream.walk_total:
        part = min(1.0, stream.walk_records / stream.walk_total)
    if stream.state == "done":
        return 1.0
    if stream.phase != "initial":
        return part
    if stream.origin is None or not stream.initial_days:
        return None
    days = 0.0 if stream.high is None else (stream.origin - stream.high).total_seconds() / 86400
    return min(1.0, (days + (part or 0.0)) / stream.initial_days)
