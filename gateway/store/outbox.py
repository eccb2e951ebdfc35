"""The outbox: events in the order in which they are to be told. Must not know where they go, except that webhooks want a row each."""

from __future__ import annotations

from gateway.model.event import NewEvent
from gateway.store.pool import Connection
from gateway.store.queries import sql


async def append(connection: Connection, event: NewEvent) -> None:
    """Adds the event in the caller's transaction, with a delivery for each webhook that wants it: told if and only if that commits.

    Events of one connection are told in the order of their positions. Writers that hold the connection's row lock therefore fix the order;
    the order of events of transactions that overlap is not defined.
    """
    await connection.execute(sql("outbox_append"), event.type, event.customer, event.connection, dict(event.data), event.request_id)
