"""Notices: what changed, as PostgreSQL tells it, so that nobody asks for all of it again and again.

A notice may be lost with its session: whatever is followed by them is also looked at as a whole now and then.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from gateway import clock
from gateway.model.errors import StoreError, StoreUnavailable
from gateway.store.pool import Database, Session

log = structlog.get_logger(__name__)

CHANNEL = "fieldgate_connection"
"""A payload is a connection's id; an empty one says that troubles have changed."""

DUE, EVENTS, RECORDS = "fieldgate_due", "fieldgate_event", "fieldgate_record"
RETAINED, BREAKERS = "fieldgate_retained", "fieldgate_breaker"
"""Without payloads. A connection is to be looked at sooner than was planned; the outbox has an event, or a
webhook something to deliver; records are to be told; a retained document differs from what the broker has; a
breaker was opened, closed or narrowed.
"""

RECONNECT_SECONDS = 2.0
ALIVE_SECONDS = 15.0
"""How often the session is asked whether it is still there: one whose way is cut says nothing."""

PROOF_SECONDS = 5.0
"""Within which a notice of our own has to be heard."""

UNHEARD_SECONDS = 30.0
"""Until the next try where it was not: a pooler that passes none on is not there for a moment."""

REST_SECONDS = 5.0
"""How often whoever is told looks all the same, in case a notice was lost."""

TOGETHER_SECONDS = 0.1
"""How often whoever listens is told at most: a customer who makes much of what is told must not have
everybody look after each commit.
"""

BUSY_SECONDS = 5.0
"""How long whoever has found something looks as if nobody told: what changes once more before it is worked
off is told once.
"""


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
        """Whether what changes is told: a notice of our own was heard by the session that listens."""
        self._told: dict[str, list[Callable[[], None]]] = {}
        self._passed_on: dict[
            str, float
        ] = {}  # when a channel's listeners were told last, by the loop's clock
        self._waiting: set[str] = set()  # channels whose listeners are told in a moment

    def tell(self, channel: str, listener: Callable[[], None]) -> None:
        """Calls it after notices of this channel, once for those of a moment, and whenever it begins or ends
        that these are told. Before `run`.
        """
        self._told.setdefault(channel, []).append(listener)

    async def run(self) -> None:
        """Until cancelled: listens. A database that is away is waited for; without it
        others look as a whole.
        """
        while True:
            wait = RECONNECT_SECONDS
            try:
                await self._listen()
            except _Unheard:
                wait = UNHEARD_SECONDS
            except StoreError:
                pass
            if self.is_listening:
                self.is_listening = False
                self._tell_all()  # they look at their own pace from now on
            await asyncio.sleep(wait)

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
            for channel in self._told:
                await session.add_listener(channel, self._heard_of)
            await self._prove(session)
            self.is_listening = True
            self.give_back(None)  # what was said before is not known
            self._tell_all()
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_SECONDS):
                        await ended.wait()
                        break
                await _answers(session)

    async def _prove(self, session: Session) -> None:
        """Hears a notice of our own. It is sent by another session: a pooler passes on what a session tells
        itself, and may pass on nothing else. Raises _Unheard.
        """
        channel, heard = f"fieldgate_proof_{secrets.token_hex(8)}", asyncio.Event()

        def hear(*_: object) -> None:
            heard.set()

        await session.add_listener(channel, hear)
        await self._database.execute("select pg_notify($1, '')", channel)
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                await heard.wait()
        except TimeoutError:
            raise _Unheard("notices are not passed on") from None
        await session.remove_listener(channel, hear)

    def _heard(self, _session: object, _process: int, _channel: str, payload: object) -> None:
        if payload:
            self._names.add(str(payload))
            self.probes.set()
        else:
            self._troubles = True
        self.wake.set()

    def _heard_of(self, _session: object, _process: int, channel: str, _payload: object) -> None:
        if channel not in self._waiting:
            self._waiting.add(channel)
            loop = asyncio.get_running_loop()
            at = self._passed_on.get(channel, -TOGETHER_SECONDS) + TOGETHER_SECONDS
            loop.call_at(max(at, loop.time()), self._pass_on, channel)

    def _pass_on(self, channel: str) -> None:
        self._waiting.discard(channel)
        self._passed_on[channel] = asyncio.get_running_loop().time()
        for listener in self._told[channel]:
            listener()

    def _tell_all(self) -> None:
        self.wake.set()
        for listeners in self._told.values():
            for listener in listeners:
                listener()


class _Unheard(StoreUnavailable):
    """The session listens, and is not told."""


class LookPace:
    """How often somebody looks for what a channel tells of: seldom while it is told."""

    def __init__(
        self, notices: Notices | None, channel: str, poll_seconds: float, listener: Callable[[], None]
    ) -> None:
        """`listener` is called with each notice, to look at once; `poll_seconds` is the pace without any.
        Without `notices` nothing is told.
        """
        self._notices = notices
        self._poll_seconds = poll_seconds
        self._busy_until_monotonic = 0.0
        if notices is not None:
            notices.tell(channel, listener)

    @property
    def is_told(self) -> bool:
        """Whether there is somebody who tells."""
        return self._notices is not None and self._notices.is_listening

    def seconds(self, *, found: bool) -> float:
        """Until the next look, after one that found something or not."""
        now = clock.monotonic()
        if found:
            self._busy_until_monotonic = now + BUSY_SECONDS
        if found or not self.is_told or now < self._busy_until_monotonic:
            return self._poll_seconds
        return REST_SECONDS


async def _answers(session: Session) -> None:
    """Raises where it does not."""
    await session.execute("select 1", timeout=10)
