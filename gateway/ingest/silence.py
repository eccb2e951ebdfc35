"""Judges devices that may have fallen silent or may be heard again, and tells what changed. One replica does
so at a time, to save work: where two do it what is stored is right as well, for each change is proved by the
row that it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import assert_never

import structlog

from gateway import clock
from gateway.bulkhead import contained
from gateway.model.errors import StoreError
from gateway.model.silence import FallenSilent, HeardAgain, Sources, Waiting, Watched, judged
from gateway.payloads.sources import compile_sources
from gateway.settings import Settings
from gateway.store import leases
from gateway.store import silence as store
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

LEASE = "devices"
LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
ROUND_SECONDS = 2.0
LOOKED_AT_ONCE = 500
"""Devices that one round judges. After an outage all devices are due: they are judged within minutes, beside
the other work.
"""


class SilenceWatch:
    """`run` until cancelled."""

    def __init__(self, database: Database, settings: Callable[[], Settings], *, owner: str) -> None:
        """`settings`: those in force, which a reload changes."""
        self._database = database
        self._settings = settings
        self._owner = owner
        self._renew_monotonic = 0.0
        self._compiled: tuple[Settings, Sources] | None = None

    async def run(self) -> None:
        """A database that is away is waited for."""
        try:
            while True:
                more = False
                try:
                    with contained("upkeep", "devices"):
                        if await self._leads() and await store.is_any_due(self._database, clock.now()):
                            more = await self.round(clock.now()) == LOOKED_AT_ONCE
                except StoreError as error:
                    log.debug("ingest.silence_deferred", detail=str(error))
                await asyncio.sleep(ROUND_SECONDS / 4 if more else ROUND_SECONDS)
        finally:
            with suppress(StoreError, TimeoutError):  # a lease that is not released runs out
                async with asyncio.timeout(ROUND_SECONDS):
                    await leases.release(self._database, LEASE, self._owner)

    async def _leads(self) -> bool:
        now = clock.monotonic()
        if now >= self._renew_monotonic:
            held = await leases.claim(self._database, LEASE, self._owner, LEASE_SECONDS) is not None
            self._renew_monotonic = now + RENEW_SECONDS if held else now
        return now < self._renew_monotonic

    async def round(self, now: datetime) -> int:
        """Looks at the devices that are due, and tells what changed of others' metrics. How many were looked
        at. Raises StoreError.
        """
        sources = self._sources()
        due = await store.due(self._database, now, LOOKED_AT_ONCE)
        if due:
            await self._look(due, sources, now)
        await store.tell_changes(self._database, LOOKED_AT_ONCE)
        return len(due)

    async def _look(self, due: list[Watched], sources: Sources, now: datetime) -> None:
        heard = await store.heard(self._database, sources.partitions)
        silent: list[tuple[Watched, FallenSilent]] = []
        returned: list[tuple[Watched, HeardAgain]] = []
        waiting: list[tuple[Watched, Waiting]] = []
        for device in due:
            match judged(device, sources, heard, now):
                case FallenSilent() as verdict:
                    silent.append((device, verdict))
                case HeardAgain() as verdict:
                    returned.append((device, verdict))
                case Waiting() as verdict:
                    waiting.append((device, verdict))
                case never:
                    assert_never(never)
        # What the registry of devices had in memory may be lost with its process. The samples are not: who
        # sent one since then is not silent.
        newest = await store.newest(self._database, [device for device, _ in silent]) if silent else {}
        sure: list[tuple[Watched, FallenSilent]] = []
        for device, verdict in silent:
            stored = newest.get((device.customer, device.device))
            if stored is None or stored <= device.last_seen_at:
                sure.append((device, verdict))
            else:
                waiting.append((device, Waiting(due_at=now + verdict.after)))
        vanished_after = self._settings().telemetry.vanished_after
        await store.wait(self._database, waiting, newest, vanished_after)
        fell = await store.fall_silent(self._database, sure)
        came = await store.return_from_silence(self._database, returned)
        if fell or came:
            log.info("ingest.devices_judged", silent=fell, returned=came)

    def _sources(self) -> Sources:
        settings = self._settings()
        if self._compiled is None or self._compiled[0] is not settings:
            self._compiled = settings, sources_of(settings)
        return self._compiled[1]


def sources_of(settings: Settings) -> Sources:
    """The sources of these settings, and after how long a device of each is silent."""
    compiled = compile_sources(settings.telemetry.sources)
    return Sources(
        sources={each.source.topic: each.source for each in compiled},
        silent_after={
            each.source.topic: each.silent_after for each in compiled if each.silent_after is not None
        },
        default_silent_after=settings.telemetry.silent_after,
        customers=None if settings.telemetry.auto_register_customers else frozenset(settings.customers),
        partitions=settings.broker.partitions,
    )
