"""Shows that this replica lives, and ends at once what replicas had leased that do so no more.

A replica has one session of its own, and this session holds an advisory lock whose key, the replica's life,
is in its row. The server ends the session when the process dies, however it dies, and so frees the lock.
Every replica looks for lives whose lock is free and lets their leases run out. That is all it does: whoever
takes such a lease raises its fence, and a replica that lives after all (its session alone was cut) goes on
where nobody took anything, or learns at its next commit that it lost.

A life is no proof for a commit: fences are. What only time may end (tokens, logons, probes, webhooks: a
request may be under way) is not touched here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from gateway import clock
from gateway.outage import Outage
from gateway.store.pool import Connection, Database, Session, converted
from gateway.store.queries import sql

log = structlog.get_logger(__name__)

CHANNEL = "fieldgate_lease"
LOOK_SECONDS, ALONE_SECONDS = 0.5, 1.0
"""Between two looks, beside other replicas and without any. Also alone a replica speaks so often that its
session outlasts its proofs.
"""

ANSWER_SECONDS = 3.0
"""A look that is not answered by then ends the session: another may find the database."""

SETTLED_SECONDS = 2.0
"""A session that lasted so long shows that the database did: what is gone now went alone. After a restart of
the database, or a fail-over, every life is over for a moment, and each comes back within `RETURN_SECONDS`.
"""

RETURN_SECONDS = 0.3
RETRY_SECONDS = 0.1


class Presence:
    """One for each daemon. `owner` is its name in leases, alone or followed by `/`."""

    def __init__(self, database: Database, owner: str, *, lease_seconds: float) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._max_look_seconds = lease_seconds / 6
        # A process that is cut off silently may begin a push within a third of the lease after its last
        # proof, which came no later than the last answer to a look. The server keeps its session for half of
        # the lease from there.
        self._silent_seconds = lease_seconds / 2
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Called when a lease was given back or has run out early: there may be something to take."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Lives for as long as the context is open."""
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(self.run(), name="presence")
            try:
                yield
            finally:
                showing.cancel()

    async def run(self) -> None:
        """Until cancelled. A session that ends is replaced by another, under another life."""
        outage = Outage(
            began=lambda detail: log.info("store.presence_lost", detail=detail),
            ended=lambda: log.info("store.presence_returned"),
        )
        while True:
            with outage.of_store():
                async with self._database.pinned(silent_seconds=self._silent_seconds) as session:
                    outage.note(None)
                    await self._attend(session)
            await asyncio.sleep(RETRY_SECONDS)

    async def _attend(self, session: Session) -> None:
        """Raises StoreError when the session ends."""
        life, since, ended = secrets.randbits(62), clock.monotonic(), asyncio.Event()
        with converted():
            # the lock before the row that names it: nobody tries a lock that is not there yet
            await session.execute("select pg_advisory_lock($1)", life)
            await session.execute(sql("presence_begin"), self._owner, life)
            await session.add_listener(CHANNEL, lambda *_: self._tell())
            session.add_termination_listener(lambda _: ended.set())
        self._tell()
        seen: frozenset[int] = frozenset()
        while True:
            with converted():
                async with asyncio.timeout(ANSWER_SECONDS):
                    found = await session.fetch(sql("presence_ended"), self._owner)
                    over = frozenset(row["life"] for row in found if row["is_over"])
                    settled = clock.monotonic() - since >= SETTLED_SECONDS
                    if sure := over if settled else over & seen:
                        await _end(session, sorted(sure), self._lease_seconds)
            seen = over
            look_seconds = min(LOOK_SECONDS if found else ALONE_SECONDS, self._max_look_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(look_seconds if settled else RETURN_SECONDS):
                    await ended.wait()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


async def leave(database: Database, owner: str, lease_seconds: float) -> None:
    """The replica takes no share of the ingest partitions from now on. What else it has leased it keeps."""
    await database.execute(sql("replica_leave"), owner, lease_seconds)


async def _end(session: Connection, lives: Sequence[int], lease_seconds: float) -> None:
    async with session.transaction():
        count: int = await session.fetchval(sql("presence_end"), lives, lease_seconds)
        await session.execute(sql("presence_forget"), lives)
        if count:
            await session.execute(f"select pg_notify('{CHANNEL}', '')")
    if count:
        log.warning("store.replica_gone", leases=count)


async def replicas_seen(database: Database, replica: str, seconds: float) -> int:
    """Says that this replica lives; how many do."""
    count: int = await database.fetchval(sql("replica_seen"), replica, seconds)
    return count
