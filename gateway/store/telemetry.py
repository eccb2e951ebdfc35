"""Telemetry: one transaction for a batch of samples, its new devices and its dead letters; and what an ingest
session needs.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import orjson

from gateway.model.errors import StoreRejected
from gateway.model.sample import Metrics, from_microseconds
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Key = tuple[str, str, int]
"""customer, device, device time in microseconds since the epoch."""

DAY = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that is no sample, kept with its bytes (the first of them, when it was too large)."""

    topic: str
    payload: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """New rows and changed rows; the others of the batch were there already."""

    stored: int
    modified: int


class TelemetryStore:
    """Writes batches. Remembers which devices and days are known, and only ever what was committed."""

    def __init__(self, database: Database, *, register_customers: bool) -> None:
        self._database = database
        self._register_customers = register_customers
        self._devices: set[tuple[str, str]] = set()
        self._days: set[int] = set()

    async def write(
        self, samples: Sequence[tuple[Key, Metrics, int]], dead: Collection[DeadMessage]
    ) -> Written:
        """Stores all or nothing. `samples` are (key, metrics, receipt in microseconds) with no key twice.

        Raises StoreUnavailable (try again) or StoreRejected (some of it can never be stored).
        """
        devices = {(key[0], key[1]) for key, _, _ in samples} - self._devices
        days = {key[2] // DAY for key, _, _ in samples} - self._days
        written = Written(stored=0, modified=0)
        try:
            for day in sorted(
                days
            ):  # each in a transaction of its own: no lock of a table while rows are held
                async with self._database.connection() as connection:
                    await connection.execute("select ensure_partition('telemetry', $1)", _date(day))
            async with self._database.transaction() as connection:
                if devices:
                    await self._register(connection, sorted(devices))
                if samples:
                    written = await _insert(connection, samples)
                if dead:
                    await _bury(connection, dead)
        except StoreRejected:
            # it may be that what we know is gone: a day that retention dropped, a dump that was restored
            self._devices.clear()
            self._days.clear()
            raise
        self._devices |= devices
        self._days |= days
        return written

    async def _register(self, connection: Connection, devices: Sequence[tuple[str, str]]) -> None:
        customers = [customer for customer, _ in devices]
        if self._register_customers:
            await connection.execute(sql("telemetry_register_customers"), customers)
        await connection.execute(
            sql("telemetry_register_devices"), customers, [device for _, device in devices]
        )


async def client_id(database: Database, instance: str, partition: int) -> str:
    """The MQTT client id of a partition: the same for every replica and restart, and not to be guessed."""
    async with database.transaction() as connection:
        seed: bytes = await connection.fetchval(sql("ingest_identity"), instance, secrets.token_bytes(32))
    return "fg-" + hashlib.blake2b(f"{instance}/{partition}".encode(), key=seed, digest_size=10).hexdigest()


async def subscriptions(database: Database, client: str) -> set[str]:
    """The filters that the session of this client id was last known to hold."""
    async with database.connection() as connection:
        return {row["filter"] for row in await connection.fetch(sql("ingest_subscriptions"), client)}


async def remember_subscriptions(database: Database, client: str, filters: Collection[str]) -> None:
    """What the session holds from now on."""
    async with database.transaction() as connection:
        await connection.execute(sql("ingest_subscribed"), client, list(filters))


async def replicas_seen(database: Database, replica: str, seconds: float) -> int:
    """Says that this replica lives; how many do."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(sql("replica_seen"), replica, seconds)
    return count


async def _insert(connection: Connection, samples: Sequence[tuple[Key, Metrics, int]]) -> Written:
    dumps = orjson.dumps
    row = await connection.fetchrow(
        sql("telemetry_write"),
        [key[0] for key, _, _ in samples],
        [key[1] for key, _, _ in samples],
        [key[2] for key, _, _ in samples],
        [dumps(metrics).decode() for _, metrics, _ in samples],
        [received for _, _, received in samples],
    )
    assert row is not None
    return Written(stored=row["stored"], modified=row["modified"])


async def _bury(connection: Connection, dead: Collection[DeadMessage]) -> None:
    await connection.execute(
        sql("telemetry_dead_letter"),
        [
            hashlib.blake2b(d.topic.encode("utf-8", "replace") + b"\0" + d.payload, digest_size=16).digest()
            for d in dead
        ],
        [d.topic.replace("\0", "\\0") for d in dead],
        [d.reason for d in dead],
        [d.detail.replace("\0", "\\0") for d in dead],
        [d.payload for d in dead],
    )


def _date(day: int) -> date:
    return from_microseconds(day * DAY).date()
