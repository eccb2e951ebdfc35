"""Reads that only people and programs outside ask for: connections with their issues, readings, runs, dead
letters, audit. And the replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from gateway.model.calendar import Calendar
from gateway.model.connection import State
from gateway.model.sample import Value
from gateway.model.status import ConnectionStatus
from gateway.store import alerts, listing, status, streams
from gateway.store import issues as open_issues
from gateway.store.alerts import Alert
from gateway.store.columns import mapping, mappings, scalar
from gateway.store.issues import Issue
from gateway.store.listing import BEGINNING as FIRST
from gateway.store.listing import Filter, ListPlace, Order, SortedPlace
from gateway.store.pool import Database
from gateway.store.queries import filtered, sql

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)
LAST_ID = 2**63 - 1
MAX_SILENT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedConnection:
    """A connection that something is asked of."""

    connection: str
    customer: str
    system: str
    state: State
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedConnection:
    """A connection as it was asked for, and where it is. Never a credential."""

    connection: str
    customer: str
    system: str
    hosting: str
    tier: int
    state: State
    reason: str | None
    since: datetime
    version: int
    settings: Mapping[str, object]
    sync: Mapping[str, object]
    meters: Sequence[Mapping[str, object]]
    alerts: Sequence[Mapping[str, object]] = ()
    meter_rules: int
    alert_rules: int = 0
    managed_by: str
    credential_type: str
    account: str | None
    price: int
    created_at: datetime
    request_id: str | None
    issues: tuple[Issue, ...]
    title: str | None = None
    meters_in_force: bool = True
    """Whether what was configured last is what meters are made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredReading:
    """What the system holds for a window."""

    meter: str
    window_start: datetime
    value: Value
    remote_id: str | None
    delivered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedMeter:
    """A meter of a connection, what feeds it, and the last reading that the system took."""

    meter: str
    device: str
    metric: str
    reduce: str
    span: timedelta
    calendar: str = ""
    unit: str | None
    window_start: datetime | None
    value: Value | None
    delivered_at: datetime | None

    @property
    def window(self) -> timedelta | Calendar:
        """What the metric is reduced over."""
        return Calendar.from_key(self.calendar) if self.calendar else self.span


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What a connection delivered, and what its system refused, in an hour."""

    start: datetime
    delivered: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of many connections: silent devices, `MAX_SILENT` at most, and readings delivered in an hour."""

    silent: int
    readings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a stream."""

    id: int
    stream: str
    phase: str
    started_at: datetime
    ended_at: datetime
    outcome: str
    samples: int
    delivered: int
    modified: int
    unchanged: int
    rejected: int
    retried: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadReading:
    """A reading that the system refused for good, with its value where there is one."""

    id: int
    meter: str | None
    window_start: datetime | None
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    value: Value | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A line of a connection's audit."""

    at: datetime
    from_state: str | None
    to_state: str
    trigger: str
    reason: str | None
    actor: str
    request_id: str | None


class Views:
    """Reads on one database. Every list is in the order of a key, so that a page goes on where the last one
    ended.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def target(self, connection_id: str) -> AskedConnection | None:
        """Whose it is and where it is; None when there is no such connection."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql("view_target"), connection_id)
        if row is None:
            return None
        return AskedConnection(
            connection=row["connection_id"],
            customer=row["customer_id"],
            system=row["system"],
            state=State(row["state"]),
            version=row["version"],
        )

    async def connections(
        self,
        *,
        connection_id: str | None = None,
        customer: str | None = None,
        system: str | None = None,
        states: Sequence[State] | None = None,
        after: str = "",
        limit: int,
        rules: bool = True,
    ) -> list[DescribedConnection]:
        """Connections by id. Without `rules` their meters and alerts are only counted."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                *filtered("view_connections", connection_id, customer, system, states, after, limit, rules)
            )
        issues: dict[str, list[Issue]] = {}
        for issue in await self.issues([row["connection_id"] for row in rows]):
            issues.setdefault(issue.connection, []).append(issue)
        return [
            DescribedConnection(
                connection=row["connection_id"],
                customer=row["customer_id"],
                state=State(row["state"]),
                issues=tuple(issues.get(row["connection_id"], ())),
                settings=mapping(row["settings"]),
                sync=mapping(row["sync"]),
                meters=mappings(row["meters"]),
                alerts=mappings(row["alerts"]),
                **{name: row[name] for name in _PLAIN},
            )
            for row in rows
        ]

    async def status(self, connections: Sequence[str]) -> list[ConnectionStatus]:
        """What the status documents show of these."""
        return await status.read(self._database, connections)

    async def listed(self, wanted: Filter, *, after: ListPlace = FIRST, limit: int) -> list[ListPlace]:
        """Connections, those that need a person first."""
        return await listing.page(self._database, wanted, after=after, limit=limit)

    async def sorted_list(
        self, wanted: Filter, order: Order, *, after: SortedPlace | None = None, limit: int
    ) -> list[SortedPlace]:
        """Connections in another order."""
        return await listing.sorted_page(self._database, wanted, order, after=after, limit=limit)

    async def counts(self, wanted: Filter) -> Mapping[str, int]:
        """How many connections there are in each state."""
        return await listing.counts(self._database, wanted)

    async def customers(self, *, limit: int) -> list[str]:
        """Customers that have connections."""
        return await listing.customers(self._database, limit=limit)

    async def customer_names(self, *, limit: int) -> list[str]:
        """Customers that are known by their devices or their connections."""
        async with self._database.connection() as connection:
            return [row["customer_id"] for row in await connection.fetch(sql("customer_names"), limit)]

    async def connection_names(self, *, limit: int) -> list[str]:
        """Connections, those that were disconnected too."""
        async with self._database.connection() as connection:
            return [row["connection_id"] for row in await connection.fetch(sql("connection_names"), limit)]

    async def is_taken_up(self, connection_id: str) -> bool:
        """Whether a gateway has taken up the look that was asked for: the next one lies ahead."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(sql("probe_ahead"), connection_id))

    async def issues(self, connections: Sequence[str]) -> list[Issue]:
        """What is open of these connections."""
        return await open_issues.read(self._database, connections)

    async def readings(
        self,
        connection_id: str,
        *,
        meter: str | None,
        after: tuple[str, datetime] = ("", BEGINNING),
        limit: int,
    ) -> list[DeliveredReading]:
        """What was delivered, by meter and window."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(*filtered("view_readings", connection_id, meter, *after, limit))
        return [DeliveredReading(**{**row, "value": scalar(row["value"])}) for row in rows]

    async def meters(
        self, connection_id: str, *, after: str = "", since: datetime, limit: int
    ) -> list[MappedMeter]:
        """The meters of a connection by name, each with its last reading of a window since then."""
        rows = await self._database.fetch(sql("view_meters"), connection_id, after, limit, since)
        return [
            MappedMeter(**{**row, "value": None if row["value"] is None else scalar(row["value"])})
            for row in rows
        ]

    async def hours(self, connections: Sequence[str], *, since: datetime) -> Mapping[str, Sequence[Hour]]:
        """What these delivered by the hour; hours of nothing are left out."""
        found: dict[str, list[Hour]] = {}
        for row in await self._database.fetch(sql("view_hours"), list(connections), since):
            hour = Hour(start=row["hour"], delivered=row["delivered"], rejected=row["rejected"])
            found.setdefault(row["connection_id"], []).append(hour)
        return found

    async def totals(self, customer: str | None, *, hour: datetime) -> Totals:
        """Of this customer, or of all."""
        row = await self._database.fetchrow(*filtered("overview_totals", customer, hour, MAX_SILENT))
        assert row is not None
        return Totals(**row)

    async def runs(
        self, connection_id: str, *, before: tuple[datetime, int] = (END, LAST_ID), limit: int
    ) -> list[Run]:
        """Runs, the newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql("view_runs"), connection_id, *before, limit)
        return [
            Run(
                id=row["run_id"],
                stream=row["name"],
                **{key: value for key, value in row.items() if key not in ("run_id", "name")},
            )
            for row in rows
        ]

    async def dead_letters(
        self, connection_id: str, *, before: tuple[datetime, int] = (END, LAST_ID), limit: int
    ) -> list[DeadReading]:
        """Dead letters, the newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql("view_dead_letters"), connection_id, *before, limit)
        return [
            DeadReading(
                id=row["dead_letter_id"],
                **{key: value for key, value in row.items() if key not in ("dead_letter_id", "payload")},
                **_refused(row["payload"]),
            )
            for row in rows
        ]

    async def audit(self, connection_id: str, *, limit: int) -> list[Transition]:
        """The last transitions, the newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql("view_audit"), connection_id, limit)
        return [Transition(**dict(row)) for row in rows]

    async def alerts(
        self,
        *,
        customer: str | None = None,
        connection_id: str | None = None,
        states: Sequence[str] | None = None,
        alert: str | None = None,
        before: tuple[str, datetime] = (alerts.LAST_ALERT, END),
        limit: int,
    ) -> list[Alert]:
        """Alerts, the newest first."""
        return await alerts.listed(
            self._database,
            customer=customer,
            connection_id=connection_id,
            states=states,
            alert=alert,
            before=(before[1], before[0]),
            limit=limit,
        )

    async def replay(self, connection_id: str, dead_letters: Sequence[int] | None) -> int:
        """One transaction: these dead letters (None: all) are due again and their stream runs at once. How
        many were: those stay whose window nobody computes any more.
        """
        async with self._database.transaction() as connection:
            await streams.hold_all(connection, connection_id)
            wanted = None if dead_letters is None else list(dead_letters)
            count: int = await connection.fetchval(*filtered("dead_letter_replay", connection_id, wanted))
            await connection.execute(sql("stream_wake"), connection_id)
        return count

    async def discard(self, connection_id: str, dead_letters: Sequence[int] | None) -> int:
        """Removes these dead letters of the connection (None: all); how many there were."""
        wanted = None if dead_letters is None else list(dead_letters)
        count: int = await self._database.fetchval(*filtered("dead_letter_discard", connection_id, wanted))
        return count


def _refused(payload: bytes | None) -> dict[str, Any]:
    """Value and unit of a reading that was not taken; of one without a value, or of a record, nothing."""
    try:
        reading = orjson.loads(payload or b"null")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(reading, dict):
        return {}
    value, unit = reading.get("value"), reading.get("unit")
    return {
        "value": None if value is None else scalar(value),
        "unit": unit if isinstance(unit, str) else None,
    }


_PLAIN = (
    "system", "hosting", "tier", "reason", "since", "version", "managed_by", "credential_type", "account",
    "price", "created_at", "request_id", "title", "meters_in_force", "meter_rules", "alert_rules",
)  # fmt: skip
