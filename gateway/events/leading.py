"""One replica at a time: runs a piece of work for as long as a lease is ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

import structlog

from gateway.model.errors import StoreError
from gateway.store import leases
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

LEASE_SECONDS = 15.0
CLAIM_SECONDS = 5.0
RELEASE_SECONDS = 2.0


async def lead(
    database: Database,
    lease: str,
    owner: str,
    work: Callable[[], Coroutine[None, None, None]],
    *,
    look: asyncio.Event,
) -> None:
    """Until cancelled: `work` runs whenever the lease is ours, and is cancelled when it is lost. Raises what
    `work` raises. `look` is set when the lease may be free: it is asked for at once.

    While the database is away nobody can take the lease, so it stays as it was.
    """
    held = False
    running: asyncio.Task[None] | None = None
    try:
        while True:
            look.clear()
            with suppress(StoreError):
                held = await leases.claim(database, lease, owner, LEASE_SECONDS) is not None
            if held and running is None:
                log.info("events.lease_taken", lease=lease)
                running = asyncio.create_task(work(), name=lease)
            elif not held and running is not None:
                log.info("events.lease_lost", lease=lease)
                await _end(running)
                running = None
            if running is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLAIM_SECONDS):
                        await look.wait()
            elif (await asyncio.wait({running}, timeout=CLAIM_SECONDS))[0]:
                running.result()
                running = None
    finally:
        if running is not None:
            await _end(running)
        if held:
            with suppress(StoreError, TimeoutError):  # a lease that is not released runs out
                async with asyncio.timeout(RELEASE_SECONDS):
                    await leases.release(database, lease, owner)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
