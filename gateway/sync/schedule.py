"""The scheduler: claims due streams, runs each under its own supervisor, renews their leases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from gateway import clock
from gateway.bulkhead import contained
from gateway.model.errors import LeaseLost, StoreError, StoreUnavailable
from gateway.model.pressure import Pressure
from gateway.settings import SyncSettings
from gateway.store import streams
from gateway.store.pool import Database
from gateway.store.streams import Claim
from gateway.store.troubles import Troubles
from gateway.sync.link import Link
from gateway.sync.run import Health, Runner
from gateway.sync.turns import Turns

log = structlog.get_logger(__name__)

MOST_STREAMS = 256
"""Streams in hand at once. One that waits for its system holds no worker and no session, so a hung system
costs a place here only.
"""

MOST_RESTING = 1000
"""Streams with nothing to do that one statement puts off."""

LONGEST_SLEEP_SECONDS = 1.0
GAP_SECONDS = 0.02
"""Between two claims: runs that end together are followed by one."""

IDLE_SECONDS = 0.25
"""Where nothing was claimed, what is due next waits so long for company: of thousands that are idle one is due every few
milliseconds.
"""


class Scheduler:
    """Works every stream of `links` that is due. `links` may be replaced while it runs."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        health: Health,
        troubles: Troubles,
        *,
        owner: str,
        pressure: Pressure | None = None,
    ) -> None:
        """`pressure`: of the ingest of this process, where it has one."""
        self._database = database
        self._owner = owner
        self._lease_seconds = settings.lease.total_seconds()
        self._runner = Runner(
            database, settings, health, troubles, Turns(settings.workers, pressure or Pressure())
        )
        self._links: dict[str, Link] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._in_hand: set[str] = set()
        self._unserved: set[str] = set()
        self._has_ended = True
        self._wake = asyncio.Event()
        self._stopping = False

    def serve(self, links: Mapping[str, Link]) -> None:
        """From now on these connections are worked."""
        self._links = dict(links)
        self._runner.serve(links.values())
        self._unserved -= links.keys()
        self.wake()

    def wake(self) -> None:
        """Looks for due streams at once."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for."""
        away = False
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                try:
                    wait = await self._start_due(group)
                    if away:
                        log.info("sync.database_returned")
                    away = False
                except StoreError as error:
                    if not away:
                        log.warning("sync.database_away", detail=str(error))
                    away, wait = True, LONGEST_SLEEP_SECONDS
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
        """Claims what is due and starts it; how long to sleep. No statement is given what this replica serves: it
        takes whatever is due, and gives back what it cannot serve, once for each change of its links.
        """
        free = MOST_STREAMS - len(self._running)
        if not self._links or free <= 0:
            return LONGEST_SLEEP_SECONDS
        ended, self._has_ended = self._has_ended, False  # a run that broke off has left a lease of ours
        claimed: list[Claim] = []
        if await streams.rest(self._database, MOST_RESTING) or ended:
            claimed = await streams.claim(
                self._database,
                self._owner,
                self._lease_seconds,
                None,
                free,
                in_hand=list(self._in_hand),
                without=self._unserved,
            )
        for claim in claimed:
            link = self._links.get(claim.connection)
            if link is None:
                self._unserved.add(claim.connection)
                await streams.give_back(self._database, claim)
                continue
            self._in_hand.add("/".join(claim.key))
            task = group.create_task(self._supervise(claim, link), name=f"stream {'/'.join(claim.key)}")
            self._running.add(task)
            task.add_done_callback(self._ended)
        seconds = await streams.seconds_to_next(self._database)
        least = 0.0 if claimed else IDLE_SECONDS
        return LONGEST_SLEEP_SECONDS if seconds is None else min(max(seconds, least), LONGEST_SLEEP_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._has_ended = True
        self.wake()

    async def _supervise(self, claim: Claim, link: Link) -> None:
        """The one supervisor of a stream: whatever goes wrong in a run ends that run only, and it is tried
        again later.
        """
        run = asyncio.create_task(self._runner.run(claim, link))
        renewal = asyncio.create_task(self._renew(claim, run))
        try:
            with contained("run", f"{claim.connection}/{claim.phase}") as made:
                await self._watch(claim, run, renewal)
            if made.fault is not None:
                with suppress(StoreError):
                    await self._runner.crashed(claim, link, made.fault)
        finally:
            self._in_hand.discard("/".join(claim.key))
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _watch(self, claim: Claim, run: asyncio.Task[None], renewal: asyncio.Task[None]) -> None:
        """Until the run has ended. What is nobody's fault is said."""
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

    async def _renew(self, claim: Claim, run: asyncio.Task[None]) -> None:
        """Cancels the run when its lease is lost, or can no longer be shown to be ours: another replica may
        push by then.
        """
        valid_until = clock.monotonic() + self._lease_seconds
        while clock.monotonic() < valid_until:
            await asyncio.sleep(self._lease_seconds / 3)
            asked_at = clock.monotonic()
            try:
                await streams.renew(self._database, claim, self._lease_seconds)
            except LeaseLost:
                break
            except StoreError:
                continue
            valid_until = asked_at + self._lease_seconds
        run.cancel()
