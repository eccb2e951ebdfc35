"""The documents that are retained on MQTT, as Pydantic models: their JSON Schemas are what others rely on."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.alert_life import AlertState
from gateway.model.connection import IssueCode, State
from gateway.model.operation import Operation
from gateway.model.status import ACCEPTING, WORKED, ConnectionStatus, StreamStatus
from gateway.store.alerts import Alert
from gateway.store.issues import Issue
from gateway.store.silence import Reported


class PublishedDocument(BaseModel):
    """Frozen; fields in the order in which they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="iso8601")

    def payload(self) -> bytes:
        """JSON in UTF-8; times are UTC with `Z`."""
        return self.model_dump_json(by_alias=True).encode()


class GatewayStatus(PublishedDocument):
    """`gateway/status`. `lost` is the last will, and what a gateway says when it stops."""

    state: Literal["ready", "draining", "lost"]
    replicas: int = Field(ge=0, description="Replicas that are here.")
    since: datetime
    version: str = Field(description="Of the software.")


class ReplicaStatus(PublishedDocument):
    """`replicas/{replica}/status`; `online: false` is the last will."""

    online: bool
    since: datetime


class ProgressDocument(PublishedDocument):
    """Of an initial sync."""

    fraction: float = Field(ge=0, le=1, description="Of the samples from `from` to `until`, about.")
    start: datetime = Field(alias="from")
    until: datetime
    cursor: datetime = Field(description="Everything before it is marked for delivery.")
    pending_readings: int = Field(ge=0)
    estimated_seconds: float | None = Field(
        description="How long the rest takes at the pace so far; null while that cannot be told."
    )
    clipped_to_days: float | None = Field(
        description="What the system's own limit left of the days asked for; null where it left them all."
    )


class RecordsDocument(PublishedDocument):
    """Of a phase of an inbound stream."""

    held: int = Field(ge=0, description="Records of the stream that are there.")
    read: int = Field(ge=0, description="By this phase since it began; a record may be read twice.")
    fraction: float | None = Field(ge=0, le=1, description="Where it can be told.")
    remaining_seconds: float | None = Field(ge=0, description="At the rate so far, where it can be told.")
    vanished: int = Field(
        0, ge=0, description="Gone at the system, and not deleted here before a person confirms it."
    )


class StreamDocument(PublishedDocument):
    """One phase of a stream."""

    name: str
    direction: Literal["outbound", "inbound"]
    phase: Literal["initial", "incremental", "reconcile"]
    state: Literal["idle", "running", "lagging", "failed"]
    watermark: str = Field(
        description=(
            "Incremental: the position of the customer's log up to which all is scanned. Initial: the time up"
            " to which it has walked. Inbound: by the system's clock, before which (incremental) or since"
            " which (initial) all is read; empty before the first time."
        )
    )
    lag_seconds: float = Field(
        ge=0,
        description=(
            "Age of the oldest closed window that is not delivered; inbound: of the last interval that was"
            " read whole."
        ),
    )
    progress: ProgressDocument | None
    lost_until: datetime | None = Field(
        None,
        description=(
            "What was measured before it was dropped, past `telemetry.buffer`, before all of it was"
            " delivered."
        ),
    )
    records: RecordsDocument | None = Field(None, description="Of an inbound stream.")


class TroubleDocument(PublishedDocument):
    """What stands in the way of a part of the work, where the state does not say it: a wait that the system
    asked for, or an internal error.
    """

    part: str = Field(description="Of the work: `run`, `probe`, `verification`, `build` and so on.")
    detail: str = Field(
        description="An internal error has a reference, under which the operator finds it in the log."
    )
    since: datetime


class StatusDocument(PublishedDocument):
    """`customers/{customer}/connections/{connection}/status`: one connection at one instant."""

    v: Literal[1] = 1
    connection: str
    customer: str
    system: str
    hosting: Literal["cloud", "on_premises"]
    tier: Literal[1, 2, 3]
    credits: int = Field(ge=0, description="What the connection costs.")
    state: State
    reason: str | None
    reauthorization_required: bool
    since: datetime
    operation: Operation | None = Field(
        description="The call whose failure the state comes from: what decides when it is over."
    )
    next_trial: datetime | None = Field(
        description="When what failed is tried again, where the connection is degraded or blocked."
    )
    version: int = Field(ge=1, description="One more with each change.")
    accepting_telemetry: bool
    last_successful_sync: datetime | None
    next_sync: datetime | None
    pending_readings: int = Field(ge=0)
    dead_letters: int = Field(ge=0)
    delivery: Literal["exactly_once", "at_least_once"]
    streams: tuple[StreamDocument, ...]
    troubles: tuple[TroubleDocument, ...] = ()
    incident: str | None
    open_alerts: int = Field(0, ge=0, description="Alerts that are not cleared.")
    meters_refused: int = Field(0, ge=0, description="Meters that the system was to make, and refuses.")
    meters_waiting: int = Field(0, ge=0, description="Meters that the system is still to make.")
    request_id: str | None
    updated: datetime


class IssueDocument(PublishedDocument):
    """`customers/{customer}/connections/{connection}/issues/{issue}`: what needs a person, retained until it
    is solved. The API shows the same.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    code: IssueCode
    severity: Literal["warning", "error"]
    since: datetime
    title: str
    instructions: str = Field(description="What to do, in the words for this system.")
    action_url: str = Field(description="Where to do it.")
    request_id: str | None = Field(description="Of the call that it comes from.")


class AlertDocument(PublishedDocument):
    """`customers/{customer}/connections/{connection}/alerts/{alert}`: one alert as it is, retained until it
    is over.
    """

    id: str = Field(description="Also the reference by which the system knows it.")
    customer: str
    connection: str
    rule: str
    device: str
    metric: str | None
    state: AlertState
    severity: Literal["low", "medium", "high"]
    kind: str = Field(description="What it becomes at the system.")
    title: str
    text: str
    value: float | int | bool | str = Field(description="With which it opened.")
    since: datetime = Field(description="Device time since which the condition held.")
    opened_at: datetime = Field(description="Device time at which it had held for long enough.")
    well_at: datetime | None = Field(description="Device time at which it was over.")
    why: str | None = Field(
        description=(
            "Why it is over: `well`, `late_sample`, `rule_changed`, `rule_removed`, `disconnected`,"
            " `device_gone`."
        )
    )
    remote_id: str | None = Field(description="The system's own id of what it became.")
    created_at: datetime
    raised_at: datetime | None
    acknowledged_at: datetime | None
    closed_at: datetime | None
    failed_at: datetime | None
    cleared_at: datetime | None
    attempts: int = Field(ge=0, description="Calls in a row that did not raise it.")
    error: str | None = Field(description="What the system said last, where it did not take it.")


class DeviceStatus(PublishedDocument):
    """`customers/{customer}/devices/{device}/status`: a device that is silent, retained until it sends again;
    then it is told as `reporting` once, and emptied.
    """

    customer: str
    device: str
    title: str | None = Field(description="The name that its topic or payload gives it; null: its id.")
    source: str | None = Field(description="The topic template that it came by.")
    state: Literal["silent", "reporting"]
    since: datetime = Field(
        description="Silent: its last message. Reporting: the first one after its silence, or later."
    )
    last_seen_at: datetime = Field(description="When its last message was received.")
    interval_seconds: float | None = Field(
        ge=0, description="What is usual between two messages; null: not known yet."
    )


def device_document(device: Reported) -> DeviceStatus:
    """The document of a device."""
    return DeviceStatus(
        customer=device.customer,
        device=device.device,
        title=device.title,
        source=device.source,
        state="reporting" if device.silent_since is None else "silent",
        since=device.silent_since or device.last_seen_at,
        last_seen_at=device.last_seen_at,
        interval_seconds=device.interval,
    )


def alert_document(alert: Alert) -> AlertDocument:
    """The document of an alert."""
    same = {name: getattr(alert, name) for name in AlertDocument.model_fields if name != "id"}
    return AlertDocument.model_validate({"id": alert.alert, **same})


def issue_document(issue: Issue) -> IssueDocument:
    """The document of an open issue."""
    return IssueDocument(
        id=issue.id,
        code=issue.code,
        severity=issue.severity,
        since=issue.since,
        title=issue.title,
        instructions=issue.instructions,
        action_url=issue.action_url,
        request_id=issue.request_id,
    )


def status_document(status: ConnectionStatus, *, now: datetime) -> StatusDocument:
    """The document of a connection as it was read; `now` becomes `updated`."""
    return StatusDocument.model_validate(
        {
            "connection": status.connection,
            "customer": status.customer,
            "system": status.system,
            "hosting": status.hosting,
            "tier": status.tier,
            "credits": status.credits,
            "state": status.state,
            "reason": status.reason,
            "reauthorization_required": status.state is State.REAUTHORIZATION_REQUIRED,
            "since": status.since,
            "operation": status.operation,
            "next_trial": status.next_trial_at,
            "version": status.version,
            "accepting_telemetry": status.state in ACCEPTING,
            "last_successful_sync": status.last_success_at,
            "next_sync": status.next_run_at if status.state in WORKED else None,
            "pending_readings": status.pending,
            "dead_letters": status.dead_letters,
            "delivery": status.delivery,
            "streams": tuple(_stream(stream) for stream in status.streams),
            "troubles": tuple(
                {"part": trouble.part, "detail": trouble.detail, "since": trouble.since}
                for trouble in status.troubles
            ),
            "incident": status.incident,
            "open_alerts": status.open_alerts,
            "meters_refused": status.meters_refused,
            "meters_waiting": status.meters_waiting,
            "request_id": status.request_id,
            "updated": now,
        }
    )


def _stream(stream: StreamStatus) -> dict[str, object]:
    progress = stream.progress
    return {
        "name": stream.name,
        "direction": stream.direction,
        "phase": stream.phase,
        "state": stream.state,
        "watermark": stream.watermark,
        "lag_seconds": stream.lag_seconds,
        "progress": (
            None
            if progress is None
            else {
                "fraction": progress.fraction,
                "from": progress.start,
                "until": progress.until,
                "cursor": progress.cursor,
                "pending_readings": progress.pending_readings,
                "estimated_seconds": progress.estimated_seconds,
                "clipped_to_days": progress.clipped_to_days,
            }
        ),
        "lost_until": stream.lost_until,
        "records": None if stream.records is None else asdict(stream.records),
    }
