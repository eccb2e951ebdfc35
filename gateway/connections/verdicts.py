"""Carries the model's decisions on incidents out: breakers, incidents, status documents and events change in
one transaction.

What an event says of a systemic incident: the gateway's has counts and the reason, and names no customer;
each affected customer has one with its own connections, and not a word about others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from gateway.model.breaker import CallHealth, CallingConnections, Key, Scope, probe_interval_seconds
from gateway.model.event import EventType, NewEvent
from gateway.model.incident import (
    MAX_REQUEST_IDS,
    QUIET,
    IncidentFinding,
    explained_by,
    is_calm,
    said_to_customers,
    systemic,
    wanted,
)
from gateway.store import breakers, incidents, outbox
from gateway.store.incidents import Incident
from gateway.store.pool import Connection, Database

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentChange:
    """An incident that opened, grew or closed. `connections`: whose document shows it; `customers`: who is
    told; `whole`: the gateway's event too.
    """

    type: EventType
    incident: Incident
    connections: tuple[str, ...]
    customers: tuple[str, ...]
    whole: bool
    request_ids: Mapping[str, Sequence[str]]


async def decide(database: Database) -> None:
    """Makes breakers and incidents what they should be now. Two that do so at once open nothing twice. Raises
    StoreError.
    """
    async with database.transaction() as connection:
        now = await incidents.due(connection)
        if now is None:
            return
        fleet = CallingConnections(await breakers.health(connection), now=now)
        found = systemic(fleet)
        opened = await _breakers(connection, fleet, found)
        changes = await _incidents(connection, fleet, found)
        owners = (
            await incidents.show(
                connection, sorted({name for change in changes for name in change.connections})
            )
            if changes
            else {}
        )
        for change in changes:
            for event in _events(change, owners):
                await outbox.append(connection, event)
    for key in opened:
        log.warning("connection.breaker_opened", scope=str(key[0]), key=key[1])
    for change in changes:
        _say(change)


async def _breakers(
    connection: Connection, fleet: CallingConnections, found: Sequence[IncidentFinding]
) -> list[Key]:
    """Those that opened. A success closes them elsewhere; here, those at which nobody fails any more."""
    opened = [
        f.key
        for f in found
        if await breakers.open_breaker(
            connection,
            f.key,
            seconds=probe_interval_seconds(0, rand=random.random()),
            operation=fleet.held_back(f.key),
        )
    ]
    idle = [key for key in await breakers.listed(connection) if not fleet.failing(key)]
    if idle:
        await breakers.close(connection, idle)
    return opened


async def _incidents(
    connection: Connection, fleet: CallingConnections, found: Sequence[IncidentFinding]
) -> list[IncidentChange]:
    held = await incidents.lock(connection)
    changes = []
    for finding in wanted(fleet, found, known=[incident.where for incident in held]):
        opened = await incidents.open_incident(connection, finding)
        if opened is not None:
            changes.append(_opened(opened, finding.failing, opened.connections, opened.customers, whole=True))
    wide = {
        i.where: i
        for i in [*held, *(change.incident for change in changes)]
        if i.scope is not Scope.CONNECTION
    }
    for incident in held:
        wider = explained_by(incident.where, fleet, wide)
        if wider is not None:
            changes.append(
                _closed(
                    await incidents.close(
                        connection,
                        incident,
                        f"became part of incident {wide[wider].incident}: {wide[wider].detail}",
                    )
                )
            )
        else:
            changes += await _go_on(connection, incident, fleet)
    return changes


async def _go_on(
    connection: Connection, incident: Incident, fleet: CallingConnections
) -> list[IncidentChange]:
    """An open incident a few seconds later: it is over, or calm since now, or has grown."""
    if is_calm(incident.where, fleet, opened_at=incident.opened_at):
        since = incident.calm_since or fleet.now
        if fleet.now - since >= QUIET:
            return [
                _closed(
                    await incidents.close(
                        connection,
                        incident,
                        f"calm for {(fleet.now - since).total_seconds():.0f} s: calls succeed, or none is"
                        " made any more",
                    )
                )
            ]
        await incidents.calm(connection, incident, since)
        return []
    await incidents.calm(connection, incident, None)
    failing = fleet.failing(incident.where)
    grown = _grown(incident, failing)
    if grown == incident:
        return []
    await incidents.grow(connection, grown)
    joined = tuple(sorted(set(grown.connections) - set(incident.connections)))
    told = tuple(sorted(set(grown.customers) - set(incident.customers)))
    return [_opened(grown, failing, joined, told, whole=False)] if joined else []


def _grown(incident: Incident, failing: Sequence[CallHealth]) -> Incident:
    if not failing:
        return incident
    now = IncidentFinding(key=incident.where, failing=tuple(failing), detail=incident.detail)

    def more(known: tuple[str, ...], added: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({*known, *added}))

    return replace(
        incident,
        systems=more(incident.systems, now.systems),
        operations=more(incident.operations, now.operations),
        connections=more(incident.connections, now.connections),
        customers=more(incident.customers, now.customers),
        request_ids=tuple(dict.fromkeys([*incident.request_ids, *now.request_ids]))[:MAX_REQUEST_IDS],
    )


def _opened(
    incident: Incident,
    failing: Sequence[CallHealth],
    connections: tuple[str, ...],
    customers: tuple[str, ...],
    *,
    whole: bool,
) -> IncidentChange:
    return IncidentChange(
        type=EventType.INCIDENT_OPENED,
        incident=incident,
        connections=connections,
        customers=customers,
        whole=whole,
        request_ids={health.connection: health.request_ids for health in failing},
    )


def _closed(incident: Incident) -> IncidentChange:
    return IncidentChange(
        type=EventType.INCIDENT_CLOSED,
        incident=incident,
        connections=incident.connections,
        customers=incident.customers,
        whole=True,
        request_ids={},
    )


def _events(change: IncidentChange, owners: Mapping[str, str]) -> Iterator[NewEvent]:
    incident = change.incident
    about = {
        "incident": incident.incident,
        "scope": str(incident.scope),
        "key": incident.key,
        "since": _written(incident.since),
        "opened_at": _written(incident.opened_at),
        "closed_at": None if incident.closed_at is None else _written(incident.closed_at),
        "operations": list(incident.operations),
    }
    if change.whole and incident.scope is not Scope.CONNECTION:
        totals = {
            "systems": list(incident.systems),
            "connections": len(incident.connections),
            "customers": len(incident.customers),
        }
        why = {"detail": incident.detail, "closing_detail": incident.closing_detail}
        yield NewEvent(type=change.type, customer=None, data={**about, **totals, **why})
    for customer in change.customers:
        own = [name for name in incident.connections if owners.get(name) == customer]
        if own:
            request_ids = [identifier for name in own for identifier in change.request_ids.get(name, ())][
                :MAX_REQUEST_IDS
            ]
            data = {
                **about,
                "connections": own,
                "request_ids": request_ids,
                "detail": said_to_customers(incident.where),
            }
            yield NewEvent(
                type=change.type,
                customer=customer,
                connection=own[0] if incident.scope is Scope.CONNECTION else None,
                data=data,
            )


def _say(change: IncidentChange) -> None:
    incident, scope, connections = (
        change.incident,
        str(change.incident.scope),
        len(change.incident.connections),
    )
    if change.type is EventType.INCIDENT_CLOSED:
        detail = incident.closing_detail
        log.info(
            "connection.incident_closed",
            incident=incident.incident,
            scope=scope,
            key=incident.key,
            connections=connections,
            detail=detail,
        )
    elif change.whole:
        detail = incident.detail
        log.warning(
            "connection.incident_opened",
            incident=incident.incident,
            scope=scope,
            key=incident.key,
            connections=connections,
            detail=detail,
        )


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
