"""Claims the connections whose alerts are due, works each in a task of its own, and renews their leases. Any replica
takes any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

import structlog

from gateway import clock
from gateway.alerts import life
from gateway.alerts.run import AlertRunner, OperationHealth
from gateway.model.errors import LeaseLost, StoreError
from gateway.settings import SyncSettings
from gateway.store import alert_streams
from gateway.store import alerts as store
from gateway.store.alert_streams import AlertClaim
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

MAX_STREAMS = 64
MAX_SLEEP_SECONDS = 1.0
UPKEEP_SECONDS = 600.0
GONE_AFTER = timedelta(days=30)
"""A device that sent nothing for so long is gone: its open alerts end, and one that comes back begins anew."""

KEPT = timedelta(days=400)


class AlertScheduler:
    """Works the alerts of `links`, which may be replaced while it runs."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        health: OperationHealth,
        troubles: Troubles,
        *,
        owner: str,
    ) -> None:
        self._database = database
        self._owner = owner
        self._troubles = troubles
        self._lease_seconds = settings.lease.total_seconds()
        self._runner = AlertRunner(database, settings, health, troubles)
        self._links: dict[str, Link] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._in_hand: set[str] = set()
        self._wake = asyncio.Event()
        self._upkeep_at = 0.0
        self._stopping = False

    def serve(self, links: Mapping[str, Link]) -> None:
        """From now on the alerts of these are worked."""
        self._links = dict(links)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for: the scheduler of streams says so."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._wake.clear()
                wait = MAX_SLEEP_SECONDS
                with suppress(StoreError):
                    wait = await self._start_due(group)
                    if clock.monotonic() >= self._upkeep_at:
                        await self.upkeep()
                        self._upkeep_at = clock.monotonic() + UPKEEP_SECONDS
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()

    async def stop(self, grace_seconds: float) -> None:
        """Claims nothing more, and gives what is in hand this time to end."""
        self._stopping = True
        self._wake.set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def upkeep(self) -> None:
        """Ends the alerts of devices that are gone, and forgets what is over for long. Raises StoreError."""
        async with self._database.transaction() as connection:
            await life.end(connection, await store.gone(connection, GONE_AFTER))
        await store.forget(self._database, KEPT)

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        free = MAX_STREAMS - len(self._running)
        if not self._links or free <= 0:
            return MAX_SLEEP_SECONDS
        links = self._links  # they may be replaced while we ask
        for claim in await alert_streams.claim(
            self._database, self._owner, self._lease_seconds, list(links), free, in_hand=self._in_hand
        ):
            self._in_hand.add(claim.connection)
            task = group.create_task(
                self._supervise(claim, links[claim.connection]), name=f"alerts of {claim.connection}"
            )
            self._running.add(task)
            task.add_done_callback(self._ended)
        seconds = await alert_streams.seconds_to_next(self._database, list(links))
        return MAX_SLEEP_SECONDS if seconds is None else min(max(seconds, 0.05), MAX_SLEEP_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()

    async def _supervise(self, claim: AlertClaim, link: Link) -> None:
        """Whatever goes wrong in a run is that connection's, ends that run only, and is tried again later."""
        run = asyncio.create_task(self._runner.run(claim, link))
        renewal = asyncio.create_task(self._renew(claim, run))
        try:
            async with self._troubles.contained("alert", claim.connection) as made:
                await self._watch(claim, run, renewal)
            if made.fault is not None:
                with suppress(StoreError):
                    await self._runner.crashed(claim)
        except StoreError as error:
            log.warning("alerts.run_interrupted", connection=claim.connection, detail=str(error))
        finally:
            self._in_hand.discard(claim.connection)
            renewal.cancel()
            await asyncio.wait({renewal})

    async def _watch(self, claim: AlertClaim, run: asyncio.Task[None], renewal: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({run})
            if run.cancelled() and not renewal.done():  # neither we nor the renewal have cancelled it
                raise RuntimeError("the run cancelled itself")
            run.result()
        except LeaseLost:
            log.info("alerts.lease_lost", connection=claim.connection)
        except asyncio.CancelledError:
            if not run.cancelled():
                run.cancel()
                await asyncio.wait({run})
                raise
            log.info("alerts.lease_lost", connection=claim.connection)

    async def _renew(self, claim: AlertClaim, run: asyncio.Task[None]) -> None:
        """Cancels the run when its lease is lost, or can no longer be shown to be ours."""
        valid_until = clock.monotonic() + self._lease_seconds
        while clock.monotonic() < valid_until:
            await asyncio.sleep(self._lease_seconds / 3)
            asked_at = clock.monotonic()
            try:
                await alert_streams.renew(self._database, claim, self._lease_seconds)
            except LeaseLost:
                break
            except StoreError:
                continue
            valid_until = asked_at + self._lease_seconds
        run.cancel()
