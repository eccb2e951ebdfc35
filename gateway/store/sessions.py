"""Ingest sessions: the name of each at its brokers, what it holds there, and when it was last up there."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence

from gateway.store.pool import Database
from gateway.store.queries import sql


async def client_id(database: Database, instance: str, partition: int) -> str:
    """The MQTT client id of a partition: the same for every replica and restart, and not to be guessed."""
    async with database.transaction() as connection:
        seed: bytes = await connection.fetchval(sql("ingest_identity"), instance, secrets.token_bytes(32))
    return "fg-" + hashlib.blake2b(f"{instance}/{partition}".encode(), key=seed, digest_size=10).hexdigest()


async def subscriptions(database: Database, client: str) -> dict[str, tuple[str, ...]]:
    """The filters that the session of this client id was last known to hold, by broker."""
    found: dict[str, list[str]] = {}
    for row in await database.fetch(sql("ingest_subscriptions"), client):
        found.setdefault(row["broker"], []).append(row["filter"])
    return {broker: tuple(sorted(filters)) for broker, filters in found.items()}


async def away_seconds(database: Database, client: str) -> dict[str, float]:
    """For how long the session of this client id was not up, by broker; none where nobody knows."""
    rows = await database.fetch(sql("ingest_up"), client)
    return {row["broker"]: row["seconds"] for row in rows}


async def note_up(database: Database, sessions: Sequence[tuple[str, str]]) -> None:
    """The sessions of these client ids, each at its broker, are up, now."""
    await database.execute(
        sql("ingest_up_note"), [client for client, _ in sessions], [broker for _, broker in sessions]
    )


async def remember_subscriptions(
    database: Database, client: str, filters: Collection[str], *, broker: str, keep: Collection[str]
) -> None:
    """What the session at this broker holds from now on; what is known of brokers outside `keep` is
    forgotten.
    """
    async with database.transaction() as connection:
        await connection.execute(sql("ingest_subscribed"), client, broker, list(filters), list(keep))
