"""Troubles: what stands in a connection's way beside its state, and is shown with it: a fault of our own, a
wait that its system asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from gateway import bulkhead
from gateway.bulkhead import Contained, Part
from gateway.model import bounds
from gateway.model.errors import StoreError
from gateway.store.pool import Database
from gateway.store.queries import sql


class Troubles:
    """Of every connection. What there is stands in PostgreSQL; this process knows it as of its last
    `refresh`, so that work that goes well costs no statement.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: set[tuple[str, str]] = set()

    async def refresh(self) -> None:
        """Learns what other replicas noted. Raises StoreError."""
        rows = await self._database.fetch(sql("trouble_list"))
        self._open = {(row["connection_id"], row["part"]) for row in rows}

    def has(self, connection_id: str, *parts: Part) -> bool:
        """Whether one of these is known to stand in its way."""
        return bool(self._open) and any((connection_id, part) in self._open for part in parts)

    async def note(self, connection_id: str, part: str, detail: str) -> None:
        """Shown until it is over. Raises StoreError."""
        self._open.add((connection_id, part))
        await self._database.execute(sql("trouble_note"), connection_id, part, bounds.text(detail))

    async def over(self, connection_id: str, *parts: str) -> None:
        """This part of the work goes well. Raises StoreError."""
        ended = [part for part in parts if (connection_id, part) in self._open]
        if not ended:
            return
        await self._database.execute(sql("trouble_over"), connection_id, ended)
        self._open -= {(connection_id, part) for part in ended}

    @asynccontextmanager
    async def contained(
        self, part: Part, connection_id: str, *, secrets: Collection[str] = ()
    ) -> AsyncIterator[Contained]:
        """The bulkhead around work for one connection; what is caught is shown with the connection, and over
        when the work goes well. StoreUnavailable passes.
        """
        with bulkhead.contained(part, connection_id, secrets=secrets) as made:
            yield made
        with suppress(StoreError):  # shown with the next try; the log has it
            if made.fault is not None:
                await self.note(connection_id, part, made.fault.text)
            else:
                await self.over(connection_id, part)
