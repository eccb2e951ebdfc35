"""From a declared file to its plan, and from the plan to what is stored, a connection at a time. What the plan says is the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.configuration import DeclaredConnection
from gateway.connections.service import FILE, Connections
from gateway.model import declaration
from gateway.model.access import Caller
from gateway.model.declaration import Declaration, Existing, Part, Plan
from gateway.store import connections
from gateway.store.connections import Held
from gateway.store.pool import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan, with what it was made of."""

    plan: Plan
    declared: Mapping[str, DeclaredConnection]
    held: Mapping[str, Held]


async def prepare(database: Database, service: Connections, declared: Sequence[DeclaredConnection], *, prune: bool) -> Prepared:
    """Reads, and changes nothing. Raises ConfigError for a connection that would go to another customer or system."""
    names = {item.settings.id for item in declared}
    others = await connections.configurations(database) if prune else {}
    held = await connections.read(database, sorted(names | others.keys()))
    plan = declaration.plan(
        [_declaration(service, item) for item in declared],
        [Existing(declaration=_stored(found), state=found.state, by_file=found.managed_by == "file") for found in held.values()],
        prune=prune,
    )
    return Prepared(plan=plan, declared={item.settings.id: item for item in declared}, held=held)


async def carry_out(service: Connections, prepared: Prepared, name: str) -> None:
    """What the plan says of this connection; nothing, where it says nothing. Raises RequestRefused, StoreError."""
    caller = Caller(name=FILE)
    if name in prepared.plan.create:
        await service.create_declared(prepared.declared[name], caller, managed_by="file")
    elif name in prepared.plan.prune:
        await service.disconnect(name, caller)
    elif (parts := prepared.plan.change.get(name)) is not None:
        item = prepared.declared[name]
        given = item.settings.credentials if Part.CREDENTIALS in parts else None
        await service.configure(prepared.held[name], service.configuration(item, managed_by="file"), given, caller)


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


def _stored(found: Held) -> Declaration:
    return Declaration(
        connection=found.connection,
        customer=found.customer,
        system=found.system,
        hosting=found.hosting,
        settings=found.settings,
        sync=found.sync,
        meters=found.meters,
        digest=found.declared_digest,
    )
