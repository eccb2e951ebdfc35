"""What is told to the outside: the closed set of event types, and an event before it has a place in the
outbox. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class EventType(enum.StrEnum):
    """The `type` of a CloudEvent, after the prefix."""

    CONNECTION_CREATED = "connection.created"
    CONNECTION_ACTIVATED = "connection.activated"
    CONNECTION_VERIFICATION_FAILED = "connection.verification_failed"
    CONNECTION_DEGRADED = "connection.degraded"
    CONNECTION_RECOVERED = "connection.recovered"
    CONNECTION_REAUTHORIZATION_REQUIRED = "connection.reauthorization_required"
    CONNECTION_REAUTHORIZATION_STARTED = "connection.reauthorization_started"
    CONNECTION_REAUTHORIZATION_FAILED = "connection.reauthorization_failed"
    CONNECTION_REAUTHORIZED = "connection.reauthorized"
    CONNECTION_BLOCKED = "connection.blocked"
    CONNECTION_UNBLOCKED = "connection.unblocked"
    CONNECTION_PAUSED = "connection.paused"
    CONNECTION_RESUMED = "connection.resumed"
    CONNECTION_DISCONNECTED = "connection.disconnected"
    CONNECTION_CREDENTIAL_EXPIRING = "connection.credential_expiring"
    CONNECTION_BUFFER_FILLING = "connection.buffer_filling"
    CONNECTION_TELEMETRY_DROPPED = "connection.telemetry_dropped"
    SYNC_COMPLETED = "sync.completed"
    SYNC_FAILED = "sync.failed"
    READING_DEAD_LETTERED = "reading.dead_lettered"
    RECORDS_CHANGED = "records.changed"
    ALERT_RAISED = "alert.raised"
    ALERT_ACKNOWLEDGED = "alert.acknowledged"
    ALERT_CLEARED = "alert.cleared"
    ALERT_FAILED = "alert.failed"
    CREDITS_LOW = "credits.low"
    CREDITS_EXHAUSTED = "credits.exhausted"
    INCIDENT_OPENED = "incident.opened"
    INCIDENT_CLOSED = "incident.closed"
    WEBHOOK_DISABLED = "webhook.disabled"
    DEVICES_REFUSED = "devices.refused"
    METERS_REFUSED = "meters.refused"
    DEAD_LETTERS_DROPPED = "dead_letters.dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """Written in the transaction that it reports.

    `customer` None: it concerns the gateway as a whole, and no customer is told. `data` is JSON: never a
    secret, never a payload.
    """

    type: EventType
    customer: str | None
    connection: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """As it stands in the outbox. `lane`: events with the same lane are told in the
    order of their positions.
    """

    position: int
    event_id: str
    type: EventType
    customer: str | None
    connection: str | None
    lane: str
    at: datetime
    data: Mapping[str, object]
    request_id: str | None
