"""At most two failed logons with one generation of a password, over all streams and replicas: systems lock a
user at the third.

A generation has two places in the database. A call holds one until its answer is known; a refused logon keeps
it for good, a later one of the same operation that succeeds gives it back. A process that dies with a place
frees it when its time runs out.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

import structlog

from gateway.model.backoff import full_jitter
from gateway.model.credential import Logon, LogonGate
from gateway.model.errors import AuthRefused, StoreError, Unavailable
from gateway.store import logons
from gateway.store.logons import CallPlace, Closed
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

PLACES = 2
_POLL_SECONDS, _POLL_CAP_SECONDS = 0.01, 0.25


class _Outcome(enum.Enum):
    UNTOLD = "untold"
    REFUSED = "refused"
    ACCEPTED = "accepted"


class _LogonAttempt:
    """A Logon."""

    def __init__(self) -> None:
        self.outcome = _Outcome.UNTOLD

    def refused(self) -> None:
        """The system refused the user or the password."""
        self.outcome = _Outcome.REFUSED

    def accepted(self) -> None:
        """The system let the user in."""
        self.outcome = _Outcome.ACCEPTED


class Logons:
    """The gates of every connection, in this process."""

    def __init__(self, database: Database, *, call_seconds: float = 90.0) -> None:
        """`call_seconds` is longer than any call takes: what holds a place for longer is taken for dead."""
        self.database = database
        self.call_seconds = call_seconds
        self._gates: WeakValueDictionary[tuple[str, int], PasswordGate] = WeakValueDictionary()
        self._records: set[asyncio.Task[object]] = set()

    def gate(self, connection: str, generation: int) -> LogonGate:
        """The same object for all who ask while one of them holds it."""
        gate = self._gates.get((connection, generation))
        if gate is None:
            gate = self._gates[connection, generation] = PasswordGate(self, connection, generation)
        return gate

    async def finished(self, work: Coroutine[Any, Any, object]) -> None:
        """Waits for the work, which goes on when the waiter is cancelled: what is known of a logon is written
        down.
        """
        task = asyncio.create_task(work)
        self._records.add(task)
        task.add_done_callback(self._records.discard)
        await asyncio.shield(task)

    async def close(self, grace_seconds: float) -> None:
        """Lets what is known be written down."""
        if self._records:
            await asyncio.wait(self._records, timeout=grace_seconds)
        for task in self._records:
            task.cancel()
        await asyncio.gather(*self._records, return_exceptions=True)


class PasswordGate:
    """Of one generation of one connection's password. A LogonGate."""

    def __init__(self, logons_of_all: Logons, connection: str, generation: int) -> None:
        self._logons = logons_of_all
        self._key = (connection, generation)
        self._here = asyncio.Semaphore(PLACES)
        self._is_closed = False

    def attempt(self, operation: str = "call", /) -> AbstractAsyncContextManager[Logon]:
        """Entering waits for a place. Raises AuthRefused(final=True) when two logons have failed, Unavailable
        when nobody can know.
        """
        return self._attempt(operation)

    @asynccontextmanager
    async def _attempt(self, operation: str) -> AsyncIterator[Logon]:
        async with self._here:
            place, attempt = await self._enter(), _LogonAttempt()
            try:
                yield attempt
            finally:
                await self._logons.finished(self._leave(place, attempt.outcome, operation))

    async def _enter(self) -> CallPlace:
        poll = _POLL_SECONDS
        try:
            async with asyncio.timeout(self._logons.call_seconds):
                while True:
                    if self._is_closed:
                        raise AuthRefused(
                            f"connection {self._key[0]!r}: two logons with this password were refused; a"
                            " third could lock the user and is not made",
                            final=True,
                        )
                    match await self._claim():
                        case CallPlace() as place:
                            return place
                        case Closed.FOR_GOOD:
                            self._is_closed = True
                        case Closed.FOR_NOW:
                            await asyncio.sleep(poll * (0.5 + random.random()))
                            poll = min(_POLL_CAP_SECONDS, 1.5 * poll)
        except TimeoutError:
            raise Unavailable(
                f"connection {self._key[0]!r}: other calls kept both of the user's logons busy"
            ) from None
        except StoreError as error:
            raise Unavailable(
                f"connection {self._key[0]!r}: whether a logon may be tried cannot be read: {error}"
            ) from error

    async def _claim(self) -> CallPlace | Closed:
        """A place that is claimed while the caller goes away is given back."""
        claiming = asyncio.create_task(
            logons.claim(self._logons.database, *self._key, self._logons.call_seconds)
        )
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await self._logons.finished(self._give_back(claiming))
            raise

    async def _give_back(self, claiming: asyncio.Task[CallPlace | Closed]) -> None:
        await asyncio.wait({claiming})
        if claiming.exception() is None and isinstance(place := claiming.result(), CallPlace):
            await self._leave(place, _Outcome.UNTOLD, "")

    async def _leave(self, place: CallPlace, outcome: _Outcome, operation: str) -> None:
        """A refusal is written down, however long that takes; of anything else the place's time runs out."""
        attempt = 0
        while True:
            try:
                if outcome is _Outcome.REFUSED:
                    await logons.refused(self._logons.database, *self._key, place, operation=operation)
                else:
                    await logons.ended(
                        self._logons.database,
                        *self._key,
                        place,
                        accepted=outcome is _Outcome.ACCEPTED,
                        operation=operation,
                    )
            except StoreError as error:
                if outcome is not _Outcome.REFUSED:
                    return
                if attempt == 0:
                    log.warning("connection.logon_not_recorded", connection=self._key[0], detail=str(error))
                attempt += 1
                await asyncio.sleep(
                    full_jitter(attempt, rand=random.random(), base_seconds=0.2, cap_seconds=2.0)
                )
            else:
                return
