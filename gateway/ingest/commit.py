"""Stores a batch in one transaction: its samples and dead letters, and what they change of edge nodes and
quotas.

Each obstacle has one consequence, and then the batch is tried again:

- The database is away: it is waited for.
- A customer would have too many devices: messages of the devices beyond its quota become dead letters.
- A customer has moved to another gateway: its samples and dead letters are left out.
- The database refuses a sample: bisection finds it, and its messages become dead letters.

Only a lost lease ends it: what is not stored by then is the successor's to store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from gateway import clock, metrics
from gateway.ingest.batch import MessageBatch, add_rows, excesses
from gateway.ingest.gate import Gate, charge, samples_of
from gateway.ingest.host import Host, ReadMessages
from gateway.ingest.quotas import Used
from gateway.ingest.upkeep import tell_exceeded
from gateway.model.backoff import full_jitter
from gateway.model.errors import CustomersLeft, LeaseLost, StoreError, StoreRejected, TooManyDevices
from gateway.model.quota import QuotaKind
from gateway.payloads.formats.values import Reason
from gateway.store.telemetry import Sample, TelemetryStore, Written

log = structlog.get_logger(__name__)

T = TypeVar("T")

REFUSALS = (TooManyDevices, CustomersLeft, StoreRejected, LeaseLost)
"""Errors that do not go away by waiting for the database."""


@dataclass(slots=True)
class _StoredCounts:
    """Counts the samples that were written, and how many of them made a new row or changed one."""

    written: int = 0
    stored: int = 0
    modified: int = 0

    def add(self, samples: Sequence[Sample], written: Written) -> None:
        self.written += len(samples)
        self.stored += written.stored
        self.modified += written.modified


class Committer:
    """Stores the batches of one partition, one after the other."""

    def __init__(
        self,
        store: TelemetryStore,
        gate: Gate,
        *,
        host: Host | None,
        charge: Callable[[Used, float], None],
        on_stored: Callable[[Sequence[Sample]], None] | None,
        on_database_back: Callable[[], Awaitable[None]] | None,
        on_marks: Callable[[Sequence[tuple[str, str]]], Awaitable[None]] | None,
    ) -> None:
        """`host` reads messages of Sparkplug; `charge` takes what that costs their customers. The others are
        as `Pipeline` has them.
        """
        self._store = store
        self._gate = gate
        self._host = host
        self._charge = charge
        self._on_stored = on_stored
        self._on_database_back = on_database_back
        self._on_marks = on_marks
        self.is_away = False
        """Whether the database is away."""

    async def commit(self, batch: MessageBatch) -> None:
        """Returns when the batch is stored, however long that takes. Raises LeaseLost."""
        read = await self._until_back(lambda: self._read_sparkplug(batch))
        also = None if read is None else read.store
        samples = list(batch.samples.values())
        counts, written = _StoredCounts(), Written(stored=0, modified=0)
        started = 0.0

        async def write() -> Written:
            nonlocal started
            started = clock.monotonic()
            return await self._store.write(samples, batch.dead, excesses(batch), also=also)

        while True:
            try:
                written = await self._until_back(write, passing=REFUSALS)
                break
            except TooManyDevices as error:
                samples = self._refuse_devices(batch, samples, error.devices)
            except CustomersLeft as error:
                samples = _without(batch, read, samples, error)
            except StoreRejected:
                if not samples:
                    raise  # it is no sample's fault, so to try again would change nothing
                await self._isolate(batch, read, samples, counts)
                samples = []
        if read is not None and self._host is not None:
            self._host.settle(read)
        if self.is_away:
            self.is_away = False
            log.info("ingest.commits_resumed")
            if self._on_database_back is not None:
                with suppress(StoreError):
                    await self._on_database_back()
        tell_exceeded(written.exceeded)
        if self._on_stored is not None:
            self._on_stored(samples)
        metrics.COMMIT_SECONDS.observe(clock.monotonic() - started)
        counts.add(samples, written)
        _count(batch, counts)

    async def note_marks(self, marks: Sequence[tuple[str, str]]) -> None:
        """Tells of the marks of a batch that is committed. It comes before the next batch is committed, for a
        mark stands where the log ends now; and before the marks are acknowledged, so that one that was not
        noted comes again.
        """
        on_marks = self._on_marks
        if on_marks is not None:
            await self._until_back(lambda: on_marks(marks))

    async def _until_back(
        self, operation: Callable[[], Awaitable[T]], *, passing: tuple[type[StoreError], ...] = ()
    ) -> T:
        """The result of `operation`. Waits for a database that is away, and logs that once. Raises the errors
        of `passing`.
        """
        attempt = 0
        while True:
            try:
                return await operation()
            except passing:
                raise
            except StoreError as error:
                attempt += 1
                if not self.is_away:
                    log.warning(
                        "ingest.commit_deferred",
                        detail=str(error),
                        advice="messages stay at the broker; ingest resumes by itself",
                    )
                    self.is_away = True
                await asyncio.sleep(
                    full_jitter(attempt, rand=random.random(), base_seconds=0.1, cap_seconds=1.0)
                )

    async def _read_sparkplug(self, batch: MessageBatch) -> ReadMessages | None:
        """Reads the batch's messages of Sparkplug, and adds what comes of them to the batch; None where it
        has none. Raises StoreError before anything has changed.
        """
        if not batch.unread or self._host is None:
            return None
        read = await self._host.read(batch.unread, self._gate.decoder)
        batch.unread = []
        more: Used = {}
        for taken in read.taken:
            for customer, count in samples_of(taken.rows).items():
                charge(more, customer, 0, count - 1)  # charged for one sample when it came
            message = (taken.arrival.topic, taken.arrival.raw, None, False)
            add_rows(batch, taken.rows, message, taken.arrival.received_at)
        for dead in read.dead.values():
            self._gate.take_unreadable(batch, dead)
        self._charge(more, clock.monotonic())
        return read

    def _refuse_devices(
        self, batch: MessageBatch, samples: list[Sample], devices: frozenset[tuple[str, str]]
    ) -> list[Sample]:
        """Takes the messages of these devices as over quota. Returns the samples of all other devices."""
        now = clock.monotonic()
        # by identity, so that a message of several samples is taken once
        refused = {
            id(message): (key[0], message) for key, message in batch.messages if (key[0], key[1]) in devices
        }
        for customer, message in refused.values():
            self._gate.keep_or_drop(
                batch, QuotaKind.DEVICES, customer, message, now, reason=Reason.TOO_MANY_DEVICES
            )
        return [sample for sample in samples if (sample[0][0], sample[0][1]) not in devices]

    async def _isolate(
        self, batch: MessageBatch, read: ReadMessages | None, samples: list[Sample], counts: _StoredCounts
    ) -> None:
        """Finds by bisection the samples that the database refuses, and adds their messages to the batch's
        dead letters. Writes and counts all other samples.
        """
        parts = [samples]
        while parts:
            part = parts.pop()
            try:
                written = await self._until_back(partial(self._store.write, part, ()), passing=REFUSALS)
            except TooManyDevices as error:
                parts.append(self._refuse_devices(batch, part, error.devices))
            except CustomersLeft as error:
                parts.append(_without(batch, read, part, error))
            except StoreRejected as refusal:
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                else:
                    self._refuse_sample(batch, part[0], str(refusal))
            else:
                if self._on_stored is not None:
                    self._on_stored(part)
                counts.add(part, written)

    def _refuse_sample(self, batch: MessageBatch, sample: Sample, detail: str) -> None:
        key = sample[0]
        dead = [
            self._gate.dead_letter(message, Reason.REFUSED_BY_DATABASE, detail, key[0])
            for whose, message in batch.messages
            if whose == key
        ]
        batch.dead += dead
        log.warning("ingest.message_refused_by_database", detail=detail, messages=len(dead))


def _without(
    batch: MessageBatch, read: ReadMessages | None, samples: list[Sample], left: CustomersLeft
) -> list[Sample]:
    """The samples of customers that did not move to another gateway; dead letters and edge nodes of those
    that did are left out too. Nothing is lost: the other gateway subscribed before the customer left this
    one, so it has received these messages as well.
    """
    kept = [sample for sample in samples if sample[0][0] not in left.customers]
    if len(kept) == len(samples):
        raise StoreError(str(left)) from left  # else the same batch would be tried again for ever
    dead_before = len(batch.dead)
    batch.leave_out(left.customers)
    if read is not None:
        read.leave_out(left.customers)
    metrics.MESSAGES.labels("moved").inc(len(samples) - len(kept) + dead_before - len(batch.dead))
    return kept


def _count(batch: MessageBatch, counts: _StoredCounts) -> None:
    metrics.BATCH_SAMPLES.observe(len(batch.samples))
    duplicate = counts.written - counts.stored - counts.modified + batch.duplicates
    metrics.TELEMETRY_ROWS.inc(counts.stored + counts.modified)
    for name, count in (
        ("stored", counts.stored),
        ("modified", counts.modified + batch.modified),
        ("duplicate", duplicate),
        ("dead_letter", len(batch.dead)),
        ("ignored_empty", batch.empty),
        ("ignored_retained", batch.retained),
        ("ignored_topic", batch.ignored),
        ("dropped_over_quota", sum(one.dropped for one in batch.excess.values())),
    ):
        if count:
            metrics.MESSAGES.labels(name).inc(count)
