"""Which devices are silent: up to when partitions were listened to, what is due to be looked at, and what
became of it. Changes of what devices send are told from here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.model.event import EventType, NewEvent
from gateway.model.silence import FallenSilent, Heard, HeardAgain, Waiting, Watched
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

MAX_NAMES = 20
"""Metrics that one event lists of each kind of change."""

MIN_PAUSE, MAX_PAUSE = 3_600, 86_400
"""Seconds between two events of one device's metrics: it doubles while they keep changing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What is told of a device's silence. `silent_since` None: it sends."""

    customer: str
    device: str
    title: str | None
    source: str | None
    last_seen_at: datetime
    interval: float | None
    silent_since: datetime | None
    version: int


async def note(
    database: Database, partitions: int, partition: int, until: datetime, *, break_seconds: float
) -> Heard:
    """Says up to when all that came for a partition is known. A longer step than that was a break. Raises
    StoreError.
    """
    row = await database.fetchrow(sql("heard_note"), partitions, partition, until, break_seconds)
    assert row is not None
    return _heard(dict(row))


async def heard(database: Database, partitions: int) -> Mapping[int, Heard]:
    """What was said of each partition. Raises StoreError."""
    rows = await database.fetch(sql("heard_read"), partitions)
    return {row["partition"]: _heard(dict(row)) for row in rows}


def _heard(row: dict[str, Any]) -> Heard:
    return Heard(
        until=row["until_at"],
        unheard=row["unheard"],
        broke_at=row["broke_at"],
        resumed_at=row["resumed_at"],
    )


async def is_any_due(database: Database, now: datetime) -> bool:
    """Whether a device is to be looked at, or changes of one are to be told. Raises StoreError."""
    return bool(await database.fetchval(sql("device_any_due"), now))


async def due(database: Database, now: datetime, limit: int) -> list[Watched]:
    """Devices that are to be looked at, the first due first. Raises StoreError."""
    rows = await database.fetch(sql("device_due"), now, limit)
    return [
        Watched(
            customer=row["customer_id"],
            device=row["device_id"],
            interval=row["interval_seconds"],
            **{name: row[name] for name in _PLAIN},
        )
        for row in rows
    ]


_PLAIN = (
    "title",
    "source",
    "first_seen_at",
    "last_seen_at",
    "unheard",
    "intervals",
    "is_watched",
    "watched_at",
    "silent_since",
    "refused_until",
)


async def newest(database: Database, devices: Sequence[Watched]) -> dict[tuple[str, str], datetime]:
    """When the newest stored samples of these were received. Raises StoreError."""
    rows = await database.fetch(sql("device_newest"), *_keys(devices))
    return {(row["customer_id"], row["device_id"]): row["received_at"] for row in rows}


async def wait(
    database: Database,
    devices: Sequence[tuple[Watched, Waiting]],
    newest: Mapping[tuple[str, str], datetime],
    vanished_after: timedelta,
) -> None:
    """These are looked at again later, and what vanished of their metrics is noted. Raises StoreError."""
    if not devices:
        return
    keys = _keys([device for device, _ in devices])
    async with database.transaction() as connection:
        await connection.execute(
            sql("device_wait"),
            *keys,
            [verdict.due_at for _, verdict in devices],
            [verdict.is_watched for _, verdict in devices],
            [verdict.watched_at for _, verdict in devices],
            [newest.get((device.customer, device.device)) for device, _ in devices],
        )
    async with database.transaction() as connection:
        await connection.execute(sql("device_vanish"), *keys, vanished_after.total_seconds())


async def fall_silent(database: Database, devices: Sequence[tuple[Watched, FallenSilent]]) -> int:
    """Those that have still sent nothing are silent, and it is told: in one transaction. How many. Raises
    StoreError.
    """
    if not devices:
        return 0
    by_key = {(device.customer, device.device): (device, verdict) for device, verdict in devices}
    async with database.transaction() as connection:
        rows = await connection.fetch(
            sql("device_fall_silent"),
            *_keys([device for device, _ in devices]),
            [device.last_seen_at for device, _ in devices],
        )
        for row in rows:
            device, verdict = by_key[row["customer_id"], row["device_id"]]
            data = {
                "interval_seconds": device.interval,
                "last_seen_at": _written(device.last_seen_at),
                "silent_after_seconds": verdict.after.total_seconds(),
            }
            await _tell(connection, EventType.DEVICE_SILENT, device, data)
    return len(rows)


async def return_from_silence(database: Database, devices: Sequence[tuple[Watched, HeardAgain]]) -> int:
    """Those that have sent are silent no more, and it is told: in one transaction. How many. Raises
    StoreError.
    """
    if not devices:
        return 0
    by_key = {(device.customer, device.device): device for device, _ in devices}
    async with database.transaction() as connection:
        rows = await connection.fetch(
            sql("device_return"),
            *_keys([device for device, _ in devices]),
            [verdict.due_at for _, verdict in devices],
        )
        for row in rows:
            device = by_key[row["customer_id"], row["device_id"]]
            assert device.silent_since is not None
            data = {
                "last_seen_at": _written(row["last_seen_at"]),
                "silent_since": _written(device.silent_since),
                "silent_seconds": (row["last_seen_at"] - device.silent_since).total_seconds(),
            }
            await _tell(connection, EventType.DEVICE_RETURNED, device, data)
    return len(rows)


async def tell_changes(database: Database, limit: int) -> int:
    """Tells what metrics of devices came, went or changed their kind, each once. How many devices were looked
    at. Raises StoreError.
    """
    async with database.transaction() as connection:
        rows = await connection.fetch(sql("device_changes_due"), limit)
        for row in rows:
            if not (changes := row["changes"]):
                continue
            appeared = sorted(name for name, (was, _) in changes.items() if was is None)
            vanished = sorted(name for name, (_, now) in changes.items() if now is None)
            other = sorted(changes.keys() - {*appeared, *vanished})
            data = {
                "device": row["device_id"],
                "title": row["title"],
                "source": row["source"],
                "appeared": appeared[:MAX_NAMES],
                "vanished": vanished[:MAX_NAMES],
                "changed": [
                    {"metric": name, "from": changes[name][0], "to": changes[name][1]}
                    for name in other[:MAX_NAMES]
                ],
                "changes": len(changes),
            }
            event = NewEvent(type=EventType.DEVICE_SCHEMA_CHANGED, customer=row["customer_id"], data=data)
            await outbox.append(connection, event)
        if rows:
            keys = [row["customer_id"] for row in rows], [row["device_id"] for row in rows]
            await connection.execute(sql("device_changes_told"), *keys, MIN_PAUSE, MAX_PAUSE)
    return len(rows)


async def silent_counts(database: Database, limit: int) -> Mapping[str, int]:
    """Silent devices by customer, of those with the most. Raises StoreError."""
    rows = await database.fetch(sql("device_silent_counts"), limit)
    return {row["customer_id"]: row["devices"] for row in rows}


async def untold(database: Database, limit: int) -> list[Reported]:
    """Devices whose retained document is behind. Raises StoreError."""
    rows = await database.fetch(sql("device_untold"), limit)
    return [_reported(dict(row)) for row in rows]


async def repeated(database: Database, after: tuple[str, str], limit: int) -> list[Reported]:
    """The next silent devices by customer and id. Raises StoreError."""
    rows = await database.fetch(sql("device_repeated"), *after, limit)
    return [_reported(dict(row)) for row in rows]


async def told(database: Database, devices: Sequence[Reported]) -> None:
    """The broker has these. Raises StoreError."""
    await database.execute(
        sql("device_told"),
        [each.customer for each in devices],
        [each.device for each in devices],
        [each.version for each in devices],
    )


def _reported(row: dict[str, Any]) -> Reported:
    return Reported(
        customer=row["customer_id"],
        device=row["device_id"],
        title=row["title"],
        source=row["source"],
        last_seen_at=row["last_seen_at"],
        interval=row["interval_seconds"],
        silent_since=row["silent_since"],
        version=row["version"],
    )


def _keys(devices: Sequence[Watched]) -> tuple[list[str], list[str]]:
    return [device.customer for device in devices], [device.device for device in devices]


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


async def _tell(connection: Connection, type: EventType, device: Watched, data: Mapping[str, object]) -> None:
    named = {"device": device.device, "title": device.title, "source": device.source}
    await outbox.append(connection, NewEvent(type=type, customer=device.customer, data={**named, **data}))
