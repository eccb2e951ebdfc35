"""Ending: a connection that is disconnected finishes what is in hand, its token is revoked at the system, and
everything secret goes with the last transition.
"""

from __future__ import annotations

import structlog

from gateway.alerts import rules as alerts
from gateway.connections.building import LinkBuilder
from gateway.connections.next_look import NextLook
from gateway.connections.transitions import Transitions
from gateway.credentials.tokens import Tokens
from gateway.model.connection import Trigger
from gateway.model.errors import ConnectorError, SealBroken
from gateway.store import connections, credentials, inbound
from gateway.store.connections import Cause, StoredConnection
from gateway.store.pool import Database
from gateway.store.probes import Due

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 1.0
"""Between two looks at whether a run is still in hand."""


class Ending:
    """What is left to do for connections that are `disconnecting`."""

    def __init__(
        self,
        database: Database,
        builder: LinkBuilder,
        transitions: Transitions,
        tokens: Tokens,
        next_look: NextLook,
    ) -> None:
        self._database = database
        self._builder = builder
        self._transitions = transitions
        self._tokens = tokens
        self._next_look = next_look

    async def drain(self, due: Due) -> None:
        """Ends it when no run is in hand any more, else looks again soon. Raises StoreError."""
        name = due.connection
        if await connections.is_busy(self._database, name):
            await self._next_look.schedule(due, in_seconds=DRAIN_SECONDS)
            return
        await self._revoke(name)
        async with self._transitions.transaction(self._database) as connection:
            moved = await self._transitions.move(connection, name, Trigger.DRAINED, Cause())
            if moved is not None:
                await credentials.drop_others(connection, connection_id=name, keep=[])
                await connections.clear(connection, name)
                await inbound.clear(connection, name)
                await alerts.disconnect(connection, name)

    async def _revoke(self, name: str) -> None:
        """What is used, and what waits to be: tries once, a system that is away holds up no end."""
        held = (await connections.read(self._database, [name])).get(name)
        if held is None:
            return
        for generation in {held.generation, held.candidate or held.generation}:
            stored = (await credentials.read_some(self._database, {name: generation})).get(name)
            if stored is not None and stored.type.startswith("oauth2_"):
                await self._revoke_one(held, generation)

    async def _revoke_one(self, held: StoredConnection, generation: int) -> None:
        name = held.connection
        try:
            credential = await self._builder.credential(held, generation)
            if credential is not None:
                await self._tokens.revoke(name, held.customer, generation, credential)
        except (SealBroken, ConnectorError) as error:
            log.warning(
                "connection.token_not_revoked",
                connection=name,
                detail=str(error),
                advice="revoke it at the system",
            )
