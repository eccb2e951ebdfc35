"""Makes what is stored agree with the declared file: at start, at SIGHUP, and for `fieldgate apply`."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gateway.configuration import DeclaredConnection
from gateway.connections.service import FILE, Connections
from gateway.model.access import Caller
from gateway.model.connection import State
from gateway.model.errors import ConfigError, RequestRefused
from gateway.store import connections
from gateway.store.connections import Configuration, Held
from gateway.store.pool import Database

log = structlog.get_logger(__name__)


async def apply(database: Database, service: Connections, declared: Sequence[DeclaredConnection]) -> None:
    """Creates and changes; what the file no longer names stays. One that is refused does not keep the others.

    Raises ConfigError, before anything has changed, for a declaration that would move a connection to another customer or system.
    """
    held = await connections.read(database, [item.settings.id for item in declared])
    for item in declared:
        check_identity(item, held.get(item.settings.id))
    for item in declared:
        name = item.settings.id
        try:
            await _apply_one(service, item, held.get(name))
        except RequestRefused as error:
            log.error("connection.declaration_refused", connection=name, code=error.code, detail=str(error))


def check_identity(item: DeclaredConnection, held: Held | None) -> None:
    """A connection belongs to one customer and one system for good. Raises ConfigError."""
    wanted = item.settings
    if held is not None and (held.customer, held.system) != (wanted.customer, wanted.system):
        raise ConfigError(
            f"connection {wanted.id!r} belongs to customer {held.customer!r} and system {held.system!r} for good; give the new connection another id"
        )


async def _apply_one(service: Connections, item: DeclaredConnection, held: Held | None) -> None:
    if held is None:
        await service.create_declared(item, Caller(name=FILE), managed_by="file")
        return
    if held.state in (State.DISCONNECTING, State.DISCONNECTED):
        raise RequestRefused("connection.disconnected", "it was disconnected, for good: remove it from the file, or give the new one another id")
    wanted = service.configuration(item, managed_by="file")
    given = None if service.digest(item.settings.credentials) == held.declared_digest else item.settings.credentials
    if given is not None or differs(wanted, held):
        await service.configure(held, wanted, given, Caller(name=FILE))


def differs(wanted: Configuration, held: Held) -> bool:
    """Whether anything but the credential is to be changed."""
    old = (held.hosting, held.settings, held.sync, list(held.meters), held.managed_by)
    return (wanted.hosting, dict(wanted.settings), dict(wanted.sync), list(wanted.meters), wanted.managed_by) != old
