"""Alerts. What is judged of the log before there is one is in `gateway.store.judgements`, whose turn it is to
work them in `gateway.store.alert_streams`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from gateway.bulkhead import readable
from gateway.model import alert_rule
from gateway.model.alert_life import AlertState
from gateway.model.alert_rule import AlertRule
from gateway.model.alerts import Episode, Standing
from gateway.model.sample import EPOCH, Value, from_microseconds, to_microseconds
from gateway.store import columns
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql

FOLLOWED_AT_ONCE = 500
LAST_ALERT = "~"
"""After every reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """As it is stored. `since`, `opened_at`, `well_at` are the device's time; the others the gateway's."""

    alert: str
    customer: str
    connection: str
    rule: str
    device: str
    metric: str | None
    kind: str
    severity: str
    title: str
    text: str
    value: Value
    begun_at: datetime
    state: AlertState
    since: datetime
    opened_at: datetime
    well_at: datetime | None
    why: str | None
    remote_id: str | None
    created_at: datetime
    raised_at: datetime | None
    acknowledged_at: datetime | None
    closed_at: datetime | None
    cleared_at: datetime | None
    failed_at: datetime | None
    noting: bool
    due_at: datetime | None
    attempts: int
    error: str | None
    version: int


async def standing(
    connection: Connection, connection_id: str, rule: str, begun_at: datetime, device: str, first: int
) -> list[Standing]:
    """The alerts of a rule and a device that reach to `first` or later, and the last one before."""
    rows = await connection.fetch(
        sql("alert_standing"), connection_id, rule, device, time_of(first), begun_at
    )
    return [_standing(row) for row in rows]


async def open_of(
    connection: Connection, connection_id: str, devices: Sequence[str]
) -> dict[tuple[str, str], Standing]:
    """Open alerts, by rule and device."""
    rows = await connection.fetch(sql("alert_open_of"), connection_id, list(devices))
    return {(row["rule_id"], row["device_id"]): _standing(row) for row in rows}


def _standing(row: asyncpg.Record) -> Standing:
    return Standing(
        alert=row["alert_id"],
        since=to_microseconds(row["since"]),
        opened_at=to_microseconds(row["opened_at"]),
        cleared_at=None if row["well_at"] is None else to_microseconds(row["well_at"]),
        value=columns.scalar(row["value"]),
    )


async def last_well_at(connection: Connection, connection_id: str, rule: str, device: str) -> datetime | None:
    """When the last alert of a rule and a device was over."""
    found: datetime | None = await connection.fetchval(
        "select max(well_at) from alert where connection_id = $1 and rule_id = $2 and device_id = $3",
        connection_id,
        rule,
        device,
    )
    return found


# Alerts


async def open_alert(
    connection: Connection,
    customer: str,
    connection_id: str,
    rule: AlertRule,
    begun_at: datetime,
    device: str,
    episode: Episode,
) -> str:
    """A new alert; its reference, which it has for ever and which the system knows it by."""
    alert = secrets.token_hex(10)
    title, text = alert_rule.worded(
        rule, device=device, value=episode.value, since=from_microseconds(episode.since)
    )
    await connection.execute(
        sql("alert_insert"),
        alert,
        customer,
        connection_id,
        rule.id,
        device,
        rule.metric,
        rule.kind,
        rule.severity,
        title,
        text,
        episode.value,
        begun_at,
        time_of(episode.since),
        time_of(episode.opened_at),
        None if episode.cleared_at is None else time_of(episode.cleared_at),
        None if episode.cleared_at is None else "well",
    )
    return alert


async def retime(
    connection: Connection, alert: str, *, since: int, opened_at: int, cleared_at: int | None, why: str | None
) -> Alert:
    """Gives an alert the times that the log has."""
    times = (time_of(since), time_of(opened_at), None if cleared_at is None else time_of(cleared_at))
    row = await connection.fetchrow(sql("alert_times"), alert, *times, why)
    assert row is not None
    return _alert(row)


async def move(
    connection: Connection,
    alert: Alert,
    target: AlertState,
    *,
    remote_id: str | None,
    error: str | None,
    due_in_seconds: float | None,
    attempts: int,
    noting: bool,
) -> Alert | None:
    """Compare and set; None where it has moved meanwhile."""
    how = (remote_id, error, due_in_seconds, attempts, noting)
    row = await connection.fetchrow(sql("alert_move"), alert.alert, alert.state, target, *how)
    return None if row is None else _alert(row)


async def end(
    connection: Connection, connection_id: str, rules: Sequence[str] | None, *, why: str
) -> list[Alert]:
    """Marks every alert of these rules (None: of all) as over, and returns those that still have to move
    there.
    """
    if rules is not None and not rules:
        return []
    rows = await connection.fetch(
        *filtered("alert_end", connection_id, None if rules is None else list(rules), why)
    )
    return [_alert(row) for row in rows]


async def due(connection: Connection, connection_id: str, limit: int) -> list[Alert]:
    """Alerts for which the system is to be called."""
    return [_alert(row) for row in await connection.fetch(sql("alert_due"), connection_id, limit)]


async def followed(
    connection: Connection, customer: str, connection_id: str, seen_in: Mapping[str, str]
) -> list[tuple[str, str]]:
    """(alert, progress) of what people at the system have done since it was seen last. `seen_in`: stream by
    kind.
    """
    if not seen_in:
        return []
    rows = await connection.fetch(
        sql("alert_followed"),
        customer,
        connection_id,
        list(seen_in),
        list(seen_in.values()),
        FOLLOWED_AT_ONCE,
    )
    return [(row["alert_id"], row["progress"]) for row in rows]


async def noted(connection: Connection, alert: Alert, *, due_in_seconds: float | None) -> None:
    """The system was told of the end (None), or is asked again later."""
    await connection.execute(
        "update alert set noting = $2, due_at = now() + in_seconds($3), attempts = attempts + 1 where"
        " alert_id = $1 and noting",
        alert.alert,
        due_in_seconds is not None,
        due_in_seconds,
    )


async def some(connection: Connection, names: Sequence[str]) -> list[Alert]:
    """These, as they are."""
    return [_alert(row) for row in await connection.fetch(sql("alert_some"), list(names))]


async def gone(connection: Connection, silent_for: timedelta) -> list[Alert]:
    """Ends the alerts of devices that sent nothing for so long; the caller moves them on."""
    return [_alert(row) for row in await connection.fetch(sql("alert_gone"), silent_for)]


async def forget(database: Database, keep: timedelta) -> None:
    """Removes what is over for longer."""
    async with database.connection() as connection:
        await connection.execute(sql("alert_forget"), keep)


# Reading


async def listed(
    database: Database,
    *,
    customer: str | None = None,
    connection_id: str | None = None,
    states: Sequence[str] | None = None,
    alert: str | None = None,
    before: tuple[datetime, str],
    limit: int,
) -> list[Alert]:
    """The newest first."""
    wanted = (None if states is None else list(states), alert, *before, limit)
    if connection_id is not None:
        asked = filtered("alert_list_connection", *wanted, connection_id, customer)
    elif customer is not None:
        asked = filtered("alert_list_customer", *wanted, customer)
    else:
        asked = filtered("alert_list", *wanted)
    async with database.connection() as connection:
        rows = await connection.fetch(*asked)
    return readable(rows, _alert, name=lambda row: row["alert_id"])


async def uncleared_counts(database: Database) -> dict[str, int]:
    """How many are not cleared, by severity."""
    async with database.connection() as connection:
        return {row["severity"]: row["count"] for row in await connection.fetch(sql("alert_counts"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsToPublish:
    """Alerts, and what the broker should have of them: a document that is `retained`, or none (`emptied`).
    `versions`: of each of them, also of those that cannot be read.
    """

    retained: list[Alert]
    emptied: list[Alert]
    versions: list[tuple[str, int]]


async def untold(database: Database, limit: int) -> AlertsToPublish:
    """The first of those that changed since the broker was told of them."""
    async with database.connection() as connection:
        return _to_publish(await connection.fetch(sql("alert_untold"), limit))


async def repeated(database: Database, after: str, limit: int) -> AlertsToPublish:
    """The next alerts that are not cleared, by reference, whatever the broker was told."""
    async with database.connection() as connection:
        return _to_publish(await connection.fetch(sql("alert_repeated"), after, limit))


async def told(database: Database, versions: Sequence[tuple[str, int]]) -> None:
    """The broker has these versions, or need not know them. What has changed again
    meanwhile is told again.
    """
    async with database.connection() as connection:
        await connection.execute(
            sql("alert_told"), *([each[place] for each in versions] for place in range(2))
        )


def _to_publish(rows: Sequence[asyncpg.Record]) -> AlertsToPublish:
    found = readable(
        rows, lambda row: (_alert(row), row["is_disconnected"]), name=lambda row: row["alert_id"]
    )
    emptied = [alert for alert, ended in found if ended or alert.state is AlertState.CLEARED]
    gone = {alert.alert for alert in emptied}
    return AlertsToPublish(
        retained=[alert for alert, _ in found if alert.alert not in gone],
        emptied=emptied,
        versions=[(row["alert_id"], row["version"]) for row in rows],
    )


def _alert(row: asyncpg.Record) -> Alert:
    known: dict[str, Any] = {
        "alert": row["alert_id"],
        "customer": row["customer_id"],
        "connection": row["connection_id"],
        "rule": row["rule_id"],
        "device": row["device_id"],
        "state": AlertState(row["state"]),
        "value": columns.scalar(row["value"]),
    }
    return Alert(**known, **{name: row[name] for name in _PLAIN})


def time_of(microseconds: int) -> datetime:
    """A device's time as it is stored: none is before 1970."""
    return max(EPOCH, from_microseconds(max(0, microseconds)))


_PLAIN = (
    "metric", "kind", "severity", "title", "text", "begun_at", "since", "opened_at", "well_at", "why",
    "remote_id", "created_at", "raised_at", "acknowledged_at", "closed_at", "cleared_at", "failed_at",
    "noting", "due_at", "attempts", "error", "version",
)  # fmt: skip
