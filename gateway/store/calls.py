"""Whether a connection may call its system: asked before each call that follows another."""

from __future__ import annotations

from typing import Protocol

from gateway.store.pool import Database
from gateway.store.queries import sql


class CallingLink(Protocol):
    """A link of a connection, as it was built of one of its configurations."""

    @property
    def connection(self) -> str: ...  # noqa: D102
    @property
    def configuration(self) -> int: ...  # noqa: D102


async def may_call(database: Database, link: CallingLink, *, also_blocked: bool = False) -> bool:
    """Whether the connection may call, by this link: somebody may have paused it since the link was taken, or
    given it other settings. `also_blocked`: one that is blocked is tried.
    """
    allowed: bool = await database.fetchval(
        sql("may_call"), link.connection, also_blocked, link.configuration
    )
    return allowed
