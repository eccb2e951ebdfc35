"""Notices: which connections changed, as PostgreSQL tells it, so that nobody asks for all of them again and
again.

A notice may be lost with its session: whatever is followed by them is also looked at as a whole now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

import structlog

from gateway.model.errors import StoreError
from gateway.store.pool import Database, Session

log = structlog.get_logger(__name__)

CHANNEL = "fieldgate_connection"
"""A payload is a connection's id; an empty one says that troubles have changed."""

RECONNECT_SECONDS = 2.0
ALIVE_SECONDS = 15.0
"""How often the session is asked whether it is still there: one whose way is cut says nothing."""


class Notices:
    """What was heard since it was taken last. `wake` is set when there is something."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names: set[str] = set()
        self._everything = True
        self._troubles = True
        self.wake = asyncio.Event()
        self.probes = asyncio.Event()
        """Set with it: a connection whose state changed may be due to be looked at."""
        self.is_listening = False

    async def run(self) -> None:
        """Until cancelled: listens. A database that is away is waited for; without it
        others look as a whole.
        """
        while True:
            with suppress(StoreError):
                await self._listen()
            self.is_listening = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def take(self) -> Collection[str] | None:
        """The connections that changed; None: whichever, since nobody listened for a while."""
        names, everything = self._names, self._everything
        self._names, self._everything = set(), False
        self.wake.clear()
        return None if everything else names

    def take_troubles(self) -> bool:
        """Whether the troubles of some connection changed."""
        changed, self._troubles = self._troubles, False
        return changed

    def give_back(self, names: Collection[str] | None) -> None:
        """What was taken and could not be followed."""
        if names is None:
            self._everything = self._troubles = True
        else:
            self._names.update(names)

    def give_back_troubles(self) -> None:
        """As `give_back`."""
        self._troubles = True

    async def _listen(self) -> None:
        async with self._database.pinned() as session:
            ended = asyncio.Event()
            session.add_termination_listener(lambda _: ended.set())
            await session.add_listener(CHANNEL, self._heard)
            self.is_listening = True
            self.give_back(None)  # what was said before is not known
            self.wake.set()
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_SECONDS):
                        await ended.wait()
                        break
                await _answers(session)

    def _heard(self, _session: object, _process: int, _channel: str, payload: object) -> None:
        if payload:
            self._names.add(str(payload))
            self.probes.set()
        else:
            self._troubles = True
        self.wake.set()


async def _answers(session: Session) -> None:
    """Raises where it does not."""
    await session.execute("select 1", timeout=10)
