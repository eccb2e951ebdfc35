"""A process that is killed inside a transition: `python -m tests.fault.transition_child
DSN SCENARIO POINT`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.connections.transitions import Moved
from gateway.model.errors import AuthRefused
from gateway.store import connections, issues, meters_in_force, outbox
from gateway.store import credits as ledger
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World

POINTS: dict[str, tuple[Any, str]] = {
    "locked": (connections, "lock"),
    "moved": (connections, "move"),
    "posted": (ledger, "post"),
    "returned": (ledger, "give_back"),
    "issue_opened": (issues, "open_issue"),
    "issue_solved": (issues, "solve"),
    "told": (outbox, "append"),
    "promoted": (connections, "promote"),
    "begun": (meters_in_force, "begin"),
    "cleared": (connections, "clear"),
}
"""After which call the process dies; `committed` is after the transaction."""

SCENARIOS: dict[str, tuple[str, tuple[str, ...]]] = {
    "activate": (
        "active",
        ("locked", "moved", "posted", "issue_solved", "told", "promoted", "begun", "committed"),
    ),
    "refuse": ("reauthorization_required", ("locked", "moved", "issue_opened", "told", "committed")),
    "disconnect": (
        "disconnected",
        ("locked", "moved", "returned", "issue_solved", "told", "cleared", "committed"),
    ),
}
"""The state that each leads to, and where it can be interrupted."""


def die_after(point: str) -> None:
    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "committed":
        Moved.write_log = kill  # type: ignore[method-assign]
        return
    module, name = POINTS[point]
    original: Callable[..., Awaitable[object]] = getattr(module, name)

    async def deadly(*arguments: object, **named: object) -> None:
        await original(*arguments, **named)
        kill()

    setattr(module, name, deadly)


async def perform(world: World, scenario: str) -> None:
    """Makes the transition, from where the connection is before it."""
    if scenario == "refuse":
        await world.engine.lifecycle.refresh()
        link = world.engine.links.get("acme-1")
        assert link is not None
        await world.engine.health.failed(
            link, AuthRefused("revoked", final=True, request_id="up-9"), attempts=1
        )
        return
    if scenario == "disconnect":
        await world.service.disconnect("acme-1", CALLER)
    await world.due_now()
    async with world.living():
        await world.reaches(SCENARIOS[scenario][0])


async def main(dsn: str, scenario: str, point: str) -> None:
    database = await Database.open(dsn, size=4)
    world = World(database)
    if scenario == "disconnect":
        await world.service.disconnect("acme-1", CALLER)
    die_after(point)
    await perform(world, scenario)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
