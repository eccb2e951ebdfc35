"""Webhook endpoints and what is to be delivered to them. Secrets come here sealed. Schedules are on the
caller's clock, leases on the database's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from gateway.bulkhead import readable
from gateway.model.event import Event, EventType, NewEvent
from gateway.model.webhook import Disabled
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """As people see it. `types` empty: every type. `pending`: events that wait for it."""

    id: str
    customer: str | None
    url: str
    types: tuple[EventType, ...]
    created_at: datetime
    pending: int
    failing_since: datetime | None
    last_error: str | None
    last_success_at: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Sealed; `previous` was sealed for the generation before, and signs until `previous_until`."""

    generation: int
    secret: bytes = field(repr=False)
    previous: bytes | None = field(repr=False)
    previous_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of an event at an endpoint. `next_at`: of what is pending; None: at once."""

    event_id: str
    type: str
    at: datetime
    connection: str | None
    state: Literal["pending", "delivered", "given_up"]
    attempt: int
    next_at: datetime | None
    delivered_at: datetime | None
    error: str | None
    replay: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """An attempt that is ours to make now. `attempt` counts all that were ever made, `tried` those of the
    present schedule; both with this one.
    """

    endpoint: str
    url: str
    secrets: Secrets
    event: Event
    attempt: int
    tried: int
    replay: bool


async def due(
    database: Database, *, now: datetime, busy: Mapping[str, int], per_endpoint: int, limit: int
) -> list[tuple[str, int]]:
    """(endpoint, position) of the first pending delivery of lanes whose time has come; `busy` says how many
    attempts each endpoint has under way.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("webhook_due"), now, list(busy), list(busy.values()), per_endpoint, limit
        )
    return [(row["endpoint_id"], row["position"]) for row in rows]


async def seconds_to_next(database: Database, *, now: datetime) -> float | None:
    """Until an attempt is due, none or less where one is; None where nothing waits for an endpoint that is
    not disabled.
    """
    seconds: float | None = await database.fetchval(sql("webhook_next"), now)
    return seconds


async def head(database: Database, endpoint: str, lane: str) -> int | None:
    """Position of the lane's first pending delivery."""
    async with database.connection() as connection:
        position: int | None = await connection.fetchval(sql("webhook_head"), endpoint, lane)
    return position


async def take(
    database: Database, wanted: Sequence[tuple[str, int]], *, now: datetime, lease_seconds: float
) -> list[WebhookDelivery]:
    """Leases those that are still due and nobody else's, and counts the attempt: an attempt that is cut off
    is known of afterwards.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("webhook_take"),
            [position for _, position in wanted],
            [endpoint for endpoint, _ in wanted],
            now,
            lease_seconds,
        )
    return readable(rows, _delivery, name=_name)


def _name(row: asyncpg.Record) -> object:
    return row["endpoint_id"]


def _delivery(row: asyncpg.Record) -> WebhookDelivery:
    return WebhookDelivery(
        endpoint=row["endpoint_id"],
        url=row["url"],
        secrets=_secrets(row),
        event=outbox.to_event(row),
        attempt=row["attempt"],
        tried=row["tried"],
        replay=row["replay"],
    )


def _secrets(row: asyncpg.Record) -> Secrets:
    return Secrets(
        generation=row["generation"],
        secret=row["secret"],
        previous=row["previous_secret"],
        previous_until=row["previous_until"],
    )


async def delivered(database: Database, delivery: WebhookDelivery, *, now: datetime) -> None:
    """The endpoint has it."""
    async with database.connection() as connection:
        await connection.execute(
            sql("webhook_delivered"), delivery.event.position, delivery.endpoint, delivery.attempt, now
        )


async def failed(
    connection: Connection, delivery: WebhookDelivery, *, now: datetime, next_at: datetime | None, error: str
) -> datetime | None:
    """The endpoint did not take it; `next_at` None: given up. Since when it fails; None when a later attempt
    has begun.
    """
    since: datetime | None = await connection.fetchval(
        sql("webhook_failed"),
        delivery.event.position,
        delivery.endpoint,
        delivery.attempt,
        now,
        next_at,
        error,
    )
    return since


async def disable(
    connection: Connection, endpoint: str, *, now: datetime, reason: Disabled, host: str
) -> bool:
    """Stops deliveries and says so in the outbox, in one transaction; what comes meanwhile is kept. False: it
    was disabled already.
    """
    row = await connection.fetchrow(sql("webhook_disable"), endpoint, now, reason)
    if row is None:
        return False
    data = {"webhook": endpoint, "host": host, "reason": reason, "error": row["last_error"]}
    await outbox.append(
        connection, NewEvent(type=EventType.WEBHOOK_DISABLED, customer=row["customer_id"], data=data)
    )
    return True


async def create(
    database: Database,
    endpoint: str,
    *,
    customer: str | None,
    url: str,
    types: Sequence[EventType],
    sealed: bytes,
) -> None:
    """From now on it is told what happens."""
    async with database.connection() as connection:
        await connection.execute(sql("webhook_create"), endpoint, customer, url, list(types), sealed)


async def read(
    database: Database, *, endpoint: str | None = None, customer: str | None = None
) -> list[tuple[Endpoint, Secrets]]:
    """This endpoint, this customer's, or all."""
    async with database.connection() as connection:
        rows = await connection.fetch(*filtered("webhook_read", endpoint, customer))
    return readable(rows, lambda row: (_endpoint(row), _secrets(row)), name=_name)


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(
        id=row["endpoint_id"],
        customer=row["customer_id"],
        url=row["url"],
        types=tuple(EventType(name) for name in row["types"]),
        created_at=row["created_at"],
        pending=row["pending"],
        failing_since=row["failing_since"],
        last_error=row["last_error"],
        last_success_at=row["last_success_at"],
        disabled_at=row["disabled_at"],
        disabled_reason=row["disabled_reason"],
    )


async def delete(database: Database, endpoint: str) -> bool:
    """Removes it with what waits for it."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(sql("webhook_delete"), endpoint))


async def rotate(
    database: Database, endpoint: str, *, generation: int, sealed: bytes, previous_until: datetime
) -> bool:
    """The next secret; False when another was quicker."""
    async with database.connection() as connection:
        return (
            await connection.fetchval(sql("webhook_rotate"), endpoint, generation, sealed, previous_until)
            is not None
        )


async def reseal(database: Database, endpoint: str, secrets: Secrets) -> None:
    """The same secrets under another key."""
    async with database.connection() as connection:
        await connection.execute(
            sql("webhook_reseal"), endpoint, secrets.generation, secrets.secret, secrets.previous
        )


async def enable(database: Database, endpoint: str) -> bool:
    """Deliveries go on where they stopped."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(sql("webhook_enable"), endpoint))


async def event_time(database: Database, event_id: str) -> datetime | None:
    """When the event was written."""
    async with database.connection() as connection:
        at: datetime | None = await connection.fetchval(sql("webhook_event_time"), event_id)
    return at


async def replay(database: Database, endpoint: str, *, since: datetime) -> int:
    """Marks every event since then that the endpoint wants for delivery; how many."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(sql("webhook_replay"), endpoint, since)
    return count


async def test(database: Database, endpoint: str) -> str | None:
    """An event for this endpoint alone; its id, None where there is no such endpoint."""
    async with database.connection() as connection:
        event_id = await connection.fetchval(sql("webhook_test"), endpoint)
    return None if event_id is None else str(event_id)


async def resend(database: Database, endpoint: str, event_id: UUID) -> bool:
    """Marks one event for delivery again; False where there is none that it may be told."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(sql("webhook_resend"), endpoint, event_id))


async def sent(
    database: Database, endpoint: str, *, event_id: UUID | None = None, limit: int = 100
) -> list[Sent]:
    """What became of deliveries to it, the newest event first."""
    async with database.connection() as connection:
        rows = await connection.fetch(*filtered("webhook_deliveries", endpoint, event_id, limit))
    return [
        Sent(
            event_id=str(row["event_id"]),
            connection=row["connection_id"],
            **{name: row[name] for name in _SENT},
        )
        for row in rows
    ]


_SENT = ("type", "at", "state", "attempt", "next_at", "delivered_at", "error", "replay")
