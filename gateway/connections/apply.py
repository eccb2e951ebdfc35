"""Makes what is stored agree with the declared file: at start, at SIGHUP, for `fieldgate apply`. What is to
be done `gateway.model.declaration` says.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from gateway.bulkhead import contained
from gateway.configuration import DeclaredConnection
from gateway.connections.giving import FILE
from gateway.connections.service import CHANGES_BESIDE, Connections
from gateway.model.access import Caller
from gateway.model.declaration import ApplyPlan, Declaration, DeclaredPart, Existing, plan
from gateway.model.errors import RequestRefused
from gateway.store import connections, leases, moving
from gateway.store.connections import Configuration, StoredConnection
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

LEASE = "apply"
LEASE_SECONDS = 60.0
WAIT_SECONDS = 0.2
SLICE = 50
"""Declared connections that are looked at in one turn of the loop: a file may have thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWork:
    """A plan, and what it was made of."""

    plan: ApplyPlan
    declared: Mapping[str, DeclaredConnection]
    held: Mapping[str, StoredConnection]


async def prepare(
    database: Database, service: Connections, declared: Sequence[DeclaredConnection], *, prune: bool = False
) -> PlannedWork:
    """What the file asks for; nothing has changed yet. Raises ConfigError where a connection would go to
    another customer or system.
    """
    held = await connections.read(database, None) if prune else {}
    declarations, faults = [], dict[str, str]()
    moved = await moving.moves(database)
    for place in range(0, len(declared), SLICE):
        some = declared[place : place + SLICE]
        if prune:
            await asyncio.sleep(0)
        else:
            held |= await connections.read(database, [item.settings.id for item in some])
        for item in some:
            name = item.settings.id
            if (refusal := moved.refusal(item.settings.customer)) is not None:
                faults[name] = refusal
                continue
            with contained(
                "declaration", name, secrets=tuple(item.settings.credentials.resolved().values())
            ) as made:
                declarations.append(_declaration(service, item))
            if made.fault is not None:
                faults[name] = made.fault.text
    existing = (_existing(found) for name, found in held.items() if name not in faults)
    wanted = plan(declarations, existing, prune=prune)
    return PlannedWork(
        plan=replace(wanted, refused={**wanted.refused, **faults}),
        declared={item.settings.id: item for item in declared},
        held=held,
    )


async def carry_out(
    database: Database,
    service: Connections,
    work: PlannedWork,
    *,
    done: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Does it, one connection after the other; why those that were refused were. One that is refused does not
    keep the others.
    """
    refused = dict(work.plan.refused)
    for name in (*work.plan.create, *work.plan.change, *work.plan.prune):
        item = work.declared.get(name)
        secrets = () if item is None else tuple(item.settings.credentials.resolved().values())
        with contained("declaration", name, secrets=secrets) as made:
            try:
                await _one(database, service, work, name)
            except RequestRefused as error:
                refused[name] = str(error)
        if made.fault is not None:
            refused[name] = made.fault.text
        done(name)
    for name, reason in refused.items():
        log.error("connection.declaration_refused", connection=name, detail=reason)
    return refused


async def apply(
    database: Database,
    service: Connections,
    declared: Sequence[DeclaredConnection],
    *,
    owner: str | None = None,
) -> dict[str, str]:
    """Both steps; what the file no longer names stays. Raises ConfigError, before anything has changed.
    `owner` as in `alone`.
    """
    async with alone(database, owner):
        return await carry_out(database, service, await prepare(database, service, declared))


@asynccontextmanager
async def alone(database: Database, process: str | None = None) -> AsyncIterator[None]:
    """One at a time over all replicas: two that start together must not give the same new credential twice,
    each to be tried at the system. A daemon says its name, so that the lease ends with it.
    """
    owner = secrets.token_hex(8) if process is None else f"{process}/{secrets.token_hex(4)}"
    while True:
        if await leases.claim(database, LEASE, owner, LEASE_SECONDS) is not None:
            break
        await asyncio.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        await leases.release(database, LEASE, owner)


async def _one(database: Database, service: Connections, work: PlannedWork, name: str) -> None:
    """What others do meanwhile, by HTTP or as its verification ends, keeps nothing from being in force: the
    connection is read again and compared anew. Raises RequestRefused.
    """
    for _ in range(CHANGES_BESIDE):
        try:
            await _once(service, work, name)
        except RequestRefused as error:
            if error.code != "request.conflict" or name not in work.declared:
                raise
            work = await prepare(database, service, [work.declared[name]])
        else:
            return
    await _once(service, work, name)


async def _once(service: Connections, work: PlannedWork, name: str) -> None:
    caller = Caller(name=FILE)
    if name in work.plan.prune:
        await service.disconnect(name, caller)
        return
    item = work.declared[name]
    if name in work.plan.create:
        await service.create_declared(item, caller, managed_by="file")
        return
    if (reason := work.plan.refused.get(name)) is not None:
        raise RequestRefused("request.conflict", reason, connection=name)
    if name in work.plan.unchanged:
        return
    given = item.settings.credentials if DeclaredPart.CREDENTIALS in work.plan.change[name] else None
    await service.configure(work.held[name], service.configuration(item, managed_by="file"), given, caller)


def _declaration(service: Connections, item: DeclaredConnection) -> Declaration:
    settings, wanted = item.settings, service.configuration(item, managed_by="file")
    digest = service.digest(settings.credentials)
    return _as_declared(settings.id, settings.customer, settings.system, wanted, digest)


def _existing(found: StoredConnection) -> Existing:
    declaration = _as_declared(found.connection, found.customer, found.system, found, found.declared_digest)
    return Existing(declaration=declaration, state=found.state, by_file=found.managed_by == "file")


def _as_declared(
    connection: str, customer: str, system: str, has: Configuration | StoredConnection, digest: str
) -> Declaration:
    return Declaration(
        connection=connection,
        customer=customer,
        system=system,
        hosting=has.hosting,
        settings=has.settings,
        sync=has.sync,
        meters=has.meters,
        alerts=has.alerts,
        title=has.title,
        digest=digest,
    )
