"""Moves alerts by the table of `gateway.model.alert_life`: state and event in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from gateway import metrics
from gateway.model.alert_life import AlertState, AlertTrigger, Why, alert_row
from gateway.model.event import NewEvent
from gateway.store import alerts as store
from gateway.store import outbox
from gateway.store.alerts import Alert
from gateway.store.pool import Connection

_ENDS = {Why.WELL: AlertTrigger.WELL, Why.LATE_SAMPLE: AlertTrigger.WITHDRAWN}
"""What an alert that is over is moved by; everything else ends it."""

_SAID = {
    Why.WELL: "the condition is over",
    Why.LATE_SAMPLE: "samples that came late show that the condition did not hold",
    Why.RULE_CHANGED: "its rule judges otherwise now",
    Why.RULE_REMOVED: "its rule was removed",
    Why.DISCONNECTED: "the connection was disconnected",
    Why.DEVICE_GONE: "the device has sent nothing for 30 days",
}


async def move(
    connection: Connection,
    alert: Alert,
    trigger: AlertTrigger,
    *,
    remote_id: str | None = None,
    error: str | None = None,
    due_in_seconds: float | None = None,
    attempts: int = 0,
    reason: str | None = None,
) -> Alert:
    """The alert after the trigger, and after what follows from it at once; as it was where the trigger means
    nothing.
    """
    row = alert_row(alert.state, trigger)
    if row is None:
        return alert
    # At the system somebody may have it open: they are told that it is over, or goes on, where the system
    # takes notes.
    noting = (
        row.target is AlertState.CLEARED and alert.remote_id is not None and alert.why != Why.DISCONNECTED
    )
    moved = await store.move(
        connection,
        alert,
        row.target,
        remote_id=remote_id,
        error=error,
        due_in_seconds=0.0 if noting else due_in_seconds,
        attempts=attempts,
        noting=noting,
    )
    if moved is None:
        return alert
    # what is denied again and again, each hour, is told once
    if row.event is not None and (trigger is not AlertTrigger.CALL_DENIED or alert.attempts <= 1):
        data = {**_told(moved), "reason": reason or _reason(moved, trigger)}
        await outbox.append(
            connection,
            NewEvent(type=row.event, customer=moved.customer, connection=moved.connection, data=data),
        )
    if trigger is AlertTrigger.CALL_ACCEPTED:
        metrics.ALERTS_RAISED.labels(moved.severity).inc()
    return await settle(connection, moved)


async def settle(connection: Connection, alert: Alert) -> Alert:
    """Ends an alert that is over, once the system has had its say about the raising."""
    if alert.why is None or alert.state is AlertState.CLEARED:
        return alert
    if alert.state is AlertState.RAISING and alert.why != Why.DISCONNECTED:
        return alert  # whether the system has it is not known: it is asked first
    return await move(connection, alert, _ENDS.get(Why(alert.why), AlertTrigger.ENDED))


async def end(connection: Connection, alerts: Iterable[Alert]) -> int:
    """Settles each of these; how many are over now."""
    ended = 0
    for alert in alerts:
        ended += (await settle(connection, alert)).state is AlertState.CLEARED
    return ended


def said(why: str | None) -> str | None:
    """Why an alert is over, in words."""
    return None if why is None else _SAID[Why(why)]


def _reason(alert: Alert, trigger: AlertTrigger) -> str | None:
    if trigger is AlertTrigger.RESUMED:
        return "samples that came late show that the condition still holds"
    return alert.error or (said(alert.why) if alert.state is AlertState.CLEARED else None)


def _told(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.alert,
        "rule": alert.rule,
        "device": alert.device,
        "metric": alert.metric,
        "value": alert.value,
        "state": str(alert.state),
        "severity": alert.severity,
        "kind": alert.kind,
        "title": alert.title,
        "since": _written(alert.since),
        "opened_at": _written(alert.opened_at),
        "well_at": None if alert.well_at is None else _written(alert.well_at),
        "why": alert.why,
        "remote_id": alert.remote_id,
    }


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
