"""Makes what is stored agree with the declared file: at start, at SIGHUP, for `fieldgate apply`. What is to be done `gateway.model.declaration` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from gateway.configuration import DeclaredConnection
from gateway.connections.service import FILE, Connections
from gateway.model.access import Caller
from gateway.model.declaration import Declaration, Existing, Part, Plan, plan
from gateway.model.errors import RequestRefused
from gateway.store import connections
from gateway.store.connections import Held
from gateway.store.pool import Database

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A plan, and what it was made of."""

    plan: Plan
    declared: Mapping[str, DeclaredConnection]
    held: Mapping[str, Held]


async def prepare(database: Database, service: Connections, declared: Sequence[DeclaredConnection], *, prune: bool = False) -> Work:
    """What the file asks for; nothing has changed yet. Raises ConfigError where a connection would go to another customer or system."""
    held = await connections.read(database, None if prune else [item.settings.id for item in declared])
    made = plan((_declaration(service, item) for item in declared), (_existing(found) for found in held.values()), prune=prune)
    return Work(plan=made, declared={item.settings.id: item for item in declared}, held=held)


async def carry_out(service: Connections, work: Work, *, done: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Does it, one connection after the other; why those that were refused were. One that is refused does not keep the others."""
    refused = dict(work.plan.refused)
    for name in (*work.plan.create, *work.plan.change, *work.plan.prune):
        try:
            await _one(service, work, name)
        except RequestRefused as error:
            refused[name] = str(error)
        done(name)
    for name, reason in refused.items():
        log.error("connection.declaration_refused", connection=name, detail=reason)
    return refused


async def apply(database: Database, service: Connections, declared: Sequence[DeclaredConnection]) -> dict[str, str]:
    """Both steps; what the file no longer names stays. Raises ConfigError, before anything has changed."""
    return await carry_out(service, await prepare(database, service, declared))


async def _one(service: Connections, work: Work, name: str) -> None:
    caller = Caller(name=FILE)
    if name in work.plan.prune:
        await service.disconnect(name, caller)
        return
    item = work.declared[name]
    if name in work.plan.create:
        await service.create_declared(item, caller, managed_by="file")
        return
    given = item.settings.credentials if Part.CREDENTIALS in work.plan.change[name] else None
    await service.configure(work.held[name], service.configuration(item, managed_by="file"), given, caller)


def _declaration(service: Connections, item: DeclaredConnection) -> Declaration:
    wanted = service.configuration(item, managed_by="file")
    return Declaration(
        connection=item.settings.id,
        customer=item.settings.customer,
        system=item.settings.system,
        hosting=wanted.hosting,
        settings=wanted.settings,
        sync=wanted.sync,
        meters=wanted.meters,
        digest=service.digest(item.settings.credentials),
    )


def _existing(found: Held) -> Existing:
    declaration = Declaration(
        connection=found.connection,
        customer=found.customer,
        system=found.system,
        hosting=found.hosting,
        settings=found.settings,
        sync=found.sync,
        meters=found.meters,
        digest=found.declared_digest,
    )
    return Existing(declaration=declaration, state=found.state, by_file=found.managed_by == "file")
