"""Quotas beside the commits: writes down what came over a quota outside a commit, adds up what is stored, and
tells when a customer is within its quota again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import date

import structlog

from gateway import clock
from gateway.model.errors import StoreError
from gateway.model.quota import Excess, QuotaKind
from gateway.quota_settings import QuotasSettings
from gateway.store import quotas as store
from gateway.store.pool import Database
from gateway.store.quotas import OverQuota

log = structlog.get_logger(__name__)

ROUND_SECONDS = 5.0
STORED_SECONDS = 30.0

ADVICE = {
    QuotaKind.MESSAGES: (
        "what it sends beyond is kept in part and counted; raise quotas of the customer if it is meant to"
        " send so much"
    ),
    QuotaKind.BYTES: (
        "what it sends beyond is kept in part and counted; raise quotas of the customer if it is meant to"
        " send so much"
    ),
    QuotaKind.DEVICES: "remove devices that are not used, or raise quotas.devices of the customer",
    QuotaKind.METRICS: (
        "a device that invents names: its samples are stored, and the oldest names are forgotten"
    ),
    QuotaKind.STORED: (
        "nothing more of its telemetry is stored: raise quotas.stored_bytes of the customer, or shorten"
        " telemetry.retention"
    ),
}


class QuotaUpkeep:
    """One for all partitions of a replica. `on_full` is called with the customers that have stored as many
    bytes as they may.
    """

    def __init__(
        self, settings: QuotasSettings, database: Database, on_full: Callable[[frozenset[str]], None]
    ) -> None:
        self._settings = settings
        self._database = database
        self._on_full = on_full
        self._waiting: dict[tuple[str | None, QuotaKind], Excess] = {}
        self._written: dict[tuple[str, date], int] = {}
        self._looked_monotonic = -STORED_SECONDS

    def reload(self, settings: QuotasSettings) -> None:
        """Uses these quotas from the next round on."""
        self._settings = settings
        self._looked_monotonic = -STORED_SECONDS

    def add_excess(self, excess: Excess) -> None:
        """Takes what came over a quota and is part of no commit: the next round writes it."""
        key = excess.customer, excess.kind
        held = self._waiting.get(key)
        self._waiting[key] = excess if held is None else held.plus(excess)

    def add_stored(self, customer: str, day: date, size: int) -> None:
        """Adds bytes of committed samples. A process that is killed forgets those of some seconds."""
        key = customer, day
        self._written[key] = self._written.get(key, 0) + size

    async def run(self) -> None:
        """Writes a round every few seconds until cancelled."""
        while True:
            try:
                await self.flush()
            except StoreError as error:
                log.debug("ingest.quotas_deferred", detail=str(error))
            await asyncio.sleep(ROUND_SECONDS)

    async def flush(self) -> None:
        """One round. Raises StoreError; then what was to be told waits for the next one."""
        if waiting := self._waiting:
            self._waiting = {}
            try:
                async with self._database.transaction() as connection:
                    exceeded = await store.note(connection, list(waiting.values()))
            except StoreError:
                for excess in waiting.values():
                    self.add_excess(excess)
                raise
            tell_exceeded(exceeded)
        if written := self._written:
            self._written = {}
            try:
                await store.add_stored(self._database, written)
            except StoreError:
                for (customer, day), size in written.items():
                    self.add_stored(customer, day, size)
                raise
        for ended in await store.end_calm(self._database):
            _tell_ended(ended)
        if clock.monotonic() - self._looked_monotonic >= STORED_SECONDS:
            await self._find_full()

    async def _find_full(self) -> None:
        settings = self._settings
        held = await self._stored_bytes()
        full = set[str]()
        for customer, size in held.items():
            most = settings.of(customer).stored_bytes
            if most is not None and size >= most:
                full.add(customer)
        self._on_full(frozenset(full))
        self._looked_monotonic = clock.monotonic()

    async def _stored_bytes(self) -> Mapping[str, int]:
        """By customer, of those whose stored bytes are limited."""
        if self._settings.stored_bytes is not None:  # the default limits every customer
            return await store.stored(self._database, None)
        limited = {name for name, own in self._settings.customers.items() if own.stored_bytes is not None}
        return await store.stored(self._database, limited) if limited else {}


def ignore_excess(_excess: Excess) -> None:
    """The default where nobody asks what came over a quota."""


def tell_exceeded(exceeded: tuple[Excess, ...]) -> None:
    """Logs that it began."""
    for one in exceeded:
        log.warning(
            "ingest.quota_exceeded",
            customer=one.customer,
            quota=one.kind,
            allowed=one.allowed,
            advice=ADVICE[one.kind],
        )


def _tell_ended(ended: OverQuota) -> None:
    log.info(
        "ingest.quota_recovered",
        customer=ended.customer,
        quota=ended.quota,
        dead_letters=ended.dead_letters,
        dropped=ended.dropped,
        slowed_seconds=round(ended.slowed_seconds, 1),
    )
