"""Carries out what the model decides on incidents: breakers, incidents, status documents and events change in
one transaction.

Of a systemic incident there are several events. The gateway's own has counts and the reason, and names no
customer. Each affected customer gets one with its own connections, which says nothing about others.
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
    """An incident that opened, grew or closed. `connections`: those whose status document shows it;
    `customers`: those that are told; `tells_gateway`: whether there is an event of the gateway as well.
    """

    type: EventType
    incident: Incident
    connections: tuple[str, ...]
    customers: tuple[str, ...]
    tells_gateway: bool
    request_ids: Mapping[str, Sequence[str]]


async def decide(database: Database) -> None:
    """Opens and closes breakers and incidents by the calls of all connections. Where two replicas do so at
    once nothing is opened twice. Raises StoreError.
    """
    async with database.transaction() as connection:
        now = await incidents.due(connection)
        if now is None:
            return
        fleet = CallingConnections(await breakers.health(connection), now=now)
        found = systemic(fleet)
        opened = await _breakers(connection, fleet, found)
        changes = await _incidents(connection, fleet, found)
        owners: Mapping[str, str] = {}
        if changes:
            shown = {name for change in changes for name in change.connections}
            owners = await incidents.show(connection, sorted(shown))
        for change in changes:
            for event in _events(change, owners):
                await outbox.append(connection, event)
    for key in opened:
        log.warning("connection.breaker_opened", scope=str(key[0]), key=key[1])
    for change in changes:
        _log_change(change)


async def _breakers(
    connection: Connection, fleet: CallingConnections, found: Sequence[IncidentFinding]
) -> list[Key]:
    """Opens breakers, and returns those that were closed before. A call that succeeds closes its breaker
    elsewhere; here are closed those at which nobody fails any more.
    """
    opened: list[Key] = []
    for finding in found:
        seconds = probe_interval_seconds(0, rand=random.random())
        operation = fleet.held_back(finding.key)
        if await breakers.open_breaker(connection, finding.key, seconds=seconds, operation=operation):
            opened.append(finding.key)
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
            changes.append(
                _opened(opened, finding.failing, opened.connections, opened.customers, tells_gateway=True)
            )
    known = [*held, *(change.incident for change in changes)]
    wide = {incident.where: incident for incident in known if incident.scope is not Scope.CONNECTION}
    for incident in held:
        wider = explained_by(incident.where, fleet, wide)
        if wider is not None:
            reason = f"became part of incident {wide[wider].incident}: {wide[wider].detail}"
            changes.append(_closed(await incidents.close(connection, incident, reason)))
        else:
            changes += await _follow_up(connection, incident, fleet)
    return changes


async def _follow_up(
    connection: Connection, incident: Incident, fleet: CallingConnections
) -> list[IncidentChange]:
    """What became of an incident that was open before: it is over, or calm for a while, or has grown."""
    if is_calm(incident.where, fleet, opened_at=incident.opened_at):
        since = incident.calm_since or fleet.now
        calm_for = fleet.now - since
        if calm_for >= QUIET:
            seconds = calm_for.total_seconds()
            reason = f"calm for {seconds:.0f} s: calls succeed, or none is made any more"
            return [_closed(await incidents.close(connection, incident, reason))]
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
    return [_opened(grown, failing, joined, told, tells_gateway=False)] if joined else []


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
    tells_gateway: bool,
) -> IncidentChange:
    return IncidentChange(
        type=EventType.INCIDENT_OPENED,
        incident=incident,
        connections=connections,
        customers=customers,
        tells_gateway=tells_gateway,
        request_ids={health.connection: health.request_ids for health in failing},
    )


def _closed(incident: Incident) -> IncidentChange:
    return IncidentChange(
        type=EventType.INCIDENT_CLOSED,
        incident=incident,
        connections=incident.connections,
        customers=incident.customers,
        tells_gateway=True,
        request_ids={},
    )


def _events(change: IncidentChange, owners: Mapping[str, str]) -> Iterator[NewEvent]:
    incident = change.incident
    about = {
        "incident": incident.incident,
        "scope": str(incident.scope),
        "key": incident.key,
        "since": _in_utc(incident.since),
        "opened_at": _in_utc(incident.opened_at),
        "closed_at": None if incident.closed_at is None else _in_utc(incident.closed_at),
        "operations": list(incident.operations),
    }
    if change.tells_gateway and incident.scope is not Scope.CONNECTION:
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
            request_ids = [identifier for name in own for identifier in change.request_ids.get(name, ())]
            request_ids = request_ids[:MAX_REQUEST_IDS]
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


def _log_change(change: IncidentChange) -> None:
    incident = change.incident
    scope = str(incident.scope)
    connections = len(incident.connections)
    if change.type is EventType.INCIDENT_CLOSED:
        log.info(
            "connection.incident_closed",
            incident=incident.incident,
            scope=scope,
            key=incident.key,
            connections=connections,
            detail=incident.closing_detail,
        )
    elif change.tells_gateway:
        log.warning(
            "connection.incident_opened",
            incident=incident.incident,
            scope=scope,
            key=incident.key,
            connections=connections,
            detail=incident.detail,
        )


def _in_utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
