"""The scheduler claims due streams, runs each under a supervisor of its own, and renews their leases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog

from gateway import clock
from gateway.bulkhead import Fault, contained
from gateway.model.errors import LeaseLost, StoreError, StoreUnavailable
from gateway.model.pressure import Pressure
from gateway.outage import Outage
from gateway.settings import SyncSettings
from gateway.store import streams
from gateway.store.pool import Database
from gateway.store.streams import Claim
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection
from gateway.sync.run import Runner
from gateway.sync.runs import RunHealth
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

MAX_STREAMS = 256
"""How many streams may be in hand at once; half of them of one customer, where there are others. A stream
that waits for its system holds no turn and no database session: a system that hangs costs one of these
places only.
"""

CROWDED_SECONDS = 0.2
"""Until the next look, while a customer's streams that are due wait for a place of its own."""

MAX_RESTING = 1000
"""How many streams with nothing to do one statement puts off."""

MAX_SLEEP_SECONDS = 1.0
GAP_SECONDS = 0.02
"""The least time between two claims, so that runs that end together are followed by one claim."""


class Claimed(Protocol):
    """A stream that is ours until its lease runs out."""

    @property
    def connection(self) -> str: ...  # noqa: D102
    @property
    def phase(self) -> str: ...  # noqa: D102
    @property
    def key(self) -> tuple[str, str, str]: ...  # noqa: D102


ClaimT = TypeVar("ClaimT", bound=Claimed)


class Work(Protocol[ClaimT]):
    """What a scheduler schedules: streams of one kind. Each coroutine raises StoreError."""

    def serve(self, links: Mapping[str, ServedConnection]) -> None:
        """From now on the streams of these connections are worked."""
        ...

    async def claim(
        self,
        links: Mapping[str, ServedConnection],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,
        without: Collection[str],
    ) -> Sequence[ClaimT]:
        """Takes up to `limit` due streams of these connections but those `without`. `has_ended`: a run has
        ended since the last claim, and may have left a lease of ours.
        """
        ...

    async def seconds_to_next(self, links: Mapping[str, ServedConnection]) -> float | None:
        """Seconds until a stream should be claimed; None where none waits."""
        ...

    async def renew(self, claim: ClaimT) -> None:
        """Renews the lease. Raises LeaseLost."""
        ...

    async def run(self, claim: ClaimT, link: ServedConnection) -> None:
        """One run, with the record of how it ended."""
        ...

    async def crashed(self, claim: ClaimT, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own."""
        ...


class OutboundWork:
    """The streams of readings to the systems. `pressure`: of the ingest of this process, where it has one."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        health: RunHealth,
        troubles: Troubles,
        *,
        owner: str,
        pressure: Pressure | None = None,
    ) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = settings.lease.total_seconds()
        self._runner = Runner(
            database, settings, health, troubles, Turns(settings.workers, pressure or Pressure())
        )
        self._served: frozenset[str] = frozenset()
        self._unserved: set[str] = set()
        self.run, self.crashed = self._runner.run, self._runner.crashed

    def serve(self, links: Mapping[str, ServedConnection]) -> None:
        """As `Work`."""
        self._runner.serve(links.values())
        self._served = frozenset(links)
        self._unserved -= self._served

    async def claim(
        self,
        links: Mapping[str, ServedConnection],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,
        without: Collection[str],
    ) -> list[Claim]:
        """As `Work`. The statement is not told which connections this replica serves. It takes whatever is
        due, and what cannot be served is given back, once for each change of the links.
        """
        if not await streams.rest(self._database, MAX_RESTING) and not has_ended:
            return []
        claimed = await streams.claim(
            self._database,
            self._owner,
            self._lease_seconds,
            None,
            limit,
            in_hand=in_hand,
            without=self._unserved.union(without),
        )
        for claim in claimed:
            if claim.connection not in links:
                # `links` is older than the question: the connection may be served by now. Then it must not
                # count as unserved, for nobody would take it until the links change again, which may be
                # never.
                if claim.connection not in self._served:
                    self._unserved.add(claim.connection)
                await streams.give_back(self._database, claim)
        return [claim for claim in claimed if claim.connection in links]

    async def seconds_to_next(self, links: Mapping[str, ServedConnection]) -> float | None:  # noqa: ARG002
        """As `Work`."""
        return await streams.seconds_to_next(self._database)

    async def renew(self, claim: Claim) -> None:
        """As `Work`."""
        await streams.renew(self._database, claim, self._lease_seconds)


class Scheduler(Generic[ClaimT]):
    """Works every due stream of the connections that it serves. These may be replaced while it runs."""

    def __init__(self, work: Work[ClaimT], *, lease_seconds: float) -> None:
        self._work = work
        self._lease_seconds = lease_seconds
        self._links: dict[str, ServedConnection] = {}
        self._customers: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._in_hand: set[str] = set()
        self._held = Counter[str]()
        """Streams in hand, by customer."""
        self._has_ended = True
        self._wake = asyncio.Event()
        self._stopping = False

    def serve(self, links: Mapping[str, ServedConnection]) -> None:
        """From now on the streams of these connections are worked."""
        self._links = dict(links)
        self._customers = {link.customer for link in links.values()}
        self._work.serve(self._links)
        self.wake()

    def wake(self) -> None:
        """Looks for due streams at once."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for."""
        outage = Outage(
            began=lambda detail: log.warning("sync.database_away", detail=detail),
            ended=lambda: log.info("sync.database_returned"),
        )
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                wait = MAX_SLEEP_SECONDS
                with outage.of_store():
                    wait = await self._start_due(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                if not self._stopping:
                    await asyncio.sleep(GAP_SECONDS)

    async def stop(self, grace_seconds: float) -> None:
        """Claims nothing more and gives the runs in hand `grace_seconds` to end; then cancels them (their
        intents stay).
        """
        self._stopping = True
        self.wake()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Claims and starts what is due. Returns how many seconds to sleep."""
        free = MAX_STREAMS - len(self._running)
        if not self._links or free <= 0:
            return MAX_SLEEP_SECONDS
        links = self._links  # they may be replaced while we ask
        crowded, free = self._places(free)
        has_ended, self._has_ended = self._has_ended, False
        claimed = await self._work.claim(
            links, free, in_hand=list(self._in_hand), has_ended=has_ended, without=crowded
        )
        for claim in claimed:
            link = links[claim.connection]
            self._in_hand.add("/".join(claim.key))
            self._held[link.customer] += 1
            task = group.create_task(self._supervise(claim, link), name=f"stream {'/'.join(claim.key)}")
            self._running.add(task)
            task.add_done_callback(partial(self._ended, customer=link.customer))
        seconds = await self._work.seconds_to_next(links)
        at_least = CROWDED_SECONDS if crowded else 0.0
        return MAX_SLEEP_SECONDS if seconds is None else min(max(seconds, at_least), MAX_SLEEP_SECONDS)

    def _places(self, free: int) -> tuple[Collection[str], int]:
        """Connections of customers that have as many streams in hand as they may, and how many of the others
        may be taken now.
        """
        if len(self._customers) < 2:
            return (), free
        most, held = MAX_STREAMS // 2, +self._held
        crowded = {customer for customer, count in held.items() if count >= most}
        without = [name for name, link in self._links.items() if link.customer in crowded] if crowded else []
        return without, min(free, most - max((held[each] for each in held.keys() - crowded), default=0))

    def _ended(self, task: asyncio.Task[None], *, customer: str) -> None:
        self._running.discard(task)
        self._held[customer] -= 1
        self._has_ended = True
        self.wake()

    async def _supervise(self, claim: ClaimT, link: ServedConnection) -> None:
        """Supervises one run: whatever goes wrong in it ends this run only, and the stream is tried again
        later.
        """
        run = asyncio.ensure_future(self._work.run(claim, link))
        renewal = asyncio.create_task(self._renew(claim, run))
        try:
            with contained("run", f"{claim.connection}/{claim.phase}") as made:
                await self._watch(claim, run, renewal)
            if made.fault is not None:
                with suppress(StoreError):
                    await self._work.crashed(claim, link, made.fault)
        finally:
            self._in_hand.discard("/".join(claim.key))
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _watch(self, claim: ClaimT, run: asyncio.Future[None], renewal: asyncio.Task[None]) -> None:
        """Waits for the run to end. Logs an end that is no fault: a lost lease, a database that is away."""
        try:
            await asyncio.wait({run})
            if run.cancelled() and not renewal.done():  # neither we nor the renewal have cancelled it
                raise RuntimeError("the run cancelled itself")
            run.result()
        except LeaseLost:
            log.info("sync.lease_lost", connection=claim.connection, phase=claim.phase)
        except StoreUnavailable as error:
            log.warning(
                "sync.run_interrupted", connection=claim.connection, phase=claim.phase, detail=str(error)
            )
        except asyncio.CancelledError:
            if not run.cancelled():
                run.cancel()
                await asyncio.wait({run})
                raise
            log.info("sync.lease_lost", connection=claim.connection, phase=claim.phase)

    async def _renew(self, claim: ClaimT, run: asyncio.Future[None]) -> None:
        """Renews the lease until cancelled. Cancels the run when the lease is lost, or could not be renewed
        for so long that it may be lost: then another replica may push.
        """
        valid_until = clock.monotonic() + self._lease_seconds
        while clock.monotonic() < valid_until:
            await asyncio.sleep(self._lease_seconds / 3)
            asked_monotonic = clock.monotonic()
            try:
                await self._work.renew(claim)
            except LeaseLost:
                break
            except StoreError:
                continue
            valid_until = asked_monotonic + self._lease_seconds
        run.cancel()
