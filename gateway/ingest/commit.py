"""How a batch is stored: its samples and its dead letters, with what they change of edge nodes and of quotas,
in one transaction.

What may stand in its way has one consequence each, and the batch is tried again after it. A database that is
away is waited for. Messages of devices that are too many become dead letters. What is of customers that moved
to another gateway is left out. What the database refuses is found by bisection, and becomes a dead letter.
Only a lease that is lost ends it: what is not stored by then is a successor's to store.
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
"""What waiting for the database does not end."""


@dataclass(slots=True)
class _Stored:
    """Samples that were written, and how many of them are new rows and changed ones."""

    written: int = 0
    stored: int = 0
    modified: int = 0

    def add(self, samples: Sequence[Sample], written: Written) -> None:
        self.written += len(samples)
        self.stored += written.stored
        self.modified += written.modified


class Committer:
    """Stores the batches of one partition, one at a time."""

    def __init__(
        self,
        store: TelemetryStore,
        gate: Gate,
        *,
        host: Host | None,
        charge: Callable[[Used, float], None],
        note: Callable[[Sequence[Sample]], None] | None,
        resumed: Callable[[], Awaitable[None]] | None,
        marked: Callable[[Sequence[tuple[str, str]]], Awaitable[None]] | None,
    ) -> None:
        """`host` reads what is of Sparkplug, `charge` is told what that costs its customers; `note` what was
        stored, `marked` which marks were reached. `resumed` is asked first where the database had been away.
        """
        self._store = store
        self._gate = gate
        self._host = host
        self._charge = charge
        self._note = note
        self._resumed = resumed
        self._marked = marked
        self.is_away = False
        """Whether the database is away."""

    async def commit(self, batch: MessageBatch) -> None:
        """Returns when the batch is stored. Raises LeaseLost."""
        read = await self._until_back(lambda: self._read_sparkplug(batch))
        also = None if read is None else read.store
        samples = list(batch.samples.values())
        stored, written = _Stored(), Written(stored=0, modified=0)
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
                samples = self._refuse(batch, samples, error.devices)
            except CustomersLeft as error:
                samples = _without(batch, read, samples, error)
            except StoreRejected:
                if not samples:
                    raise  # no sample's fault: nothing would ever change
                await self._isolate(batch, read, samples, stored)
                samples = []
        if read is not None and self._host is not None:
            self._host.settle(read)
        if self.is_away:
            self.is_away = False
            log.info("ingest.commits_resumed")
            if self._resumed is not None:
                with suppress(StoreError):
                    await self._resumed()
        tell_exceeded(written.exceeded)
        if self._note is not None:
            self._note(samples)
        metrics.COMMIT_SECONDS.observe(clock.monotonic() - started)
        stored.add(samples, written)
        _count(batch, stored)

    async def note_marks(self, marks: Sequence[tuple[str, str]]) -> None:
        """Before the next batch is committed, and before they are acknowledged: where the log ends now is
        where the mark stands in it, and one that was not noted comes again.
        """
        if (marked := self._marked) is not None:
            await self._until_back(lambda: marked(marks))

    async def _until_back(
        self, operation: Callable[[], Awaitable[T]], *, passing: tuple[type[StoreError], ...] = ()
    ) -> T:
        """Its result; a database that is away is waited for, and told once. Raises what is `passing`."""
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
        """Reads the batch's messages of Sparkplug; None where it has none. Raises StoreError, and nothing has
        changed then.
        """
        if not batch.unread or self._host is None:
            return None
        read = await self._host.read(batch.unread, self._gate.decoder)
        batch.unread = []
        more: Used = {}
        for taken in read.taken:
            for customer, count in samples_of(taken.rows).items():
                charge(more, customer, 0, count - 1)  # for one it was charged when it came
            message = (taken.arrival.topic, taken.arrival.raw, None, False)
            add_rows(batch, taken.rows, message, taken.arrival.received_at)
        for dead in read.dead.values():
            self._gate.unread(batch, dead)
        self._charge(more, clock.monotonic())
        return read

    def _refuse(
        self, batch: MessageBatch, samples: list[Sample], devices: frozenset[tuple[str, str]]
    ) -> list[Sample]:
        """Makes the messages of these devices dead letters, as far as there is room for what is over quota;
        the samples of all others.
        """
        now = clock.monotonic()
        # each message once, of however many samples
        refused = {
            id(message): (key[0], message) for key, message in batch.messages if (key[0], key[1]) in devices
        }
        for customer, message in refused.values():
            self._gate.over(batch, QuotaKind.DEVICES, customer, message, now, reason=Reason.TOO_MANY_DEVICES)
        return [sample for sample in samples if (sample[0][0], sample[0][1]) not in devices]

    async def _isolate(
        self, batch: MessageBatch, read: ReadMessages | None, samples: list[Sample], stored: _Stored
    ) -> None:
        """Finds what the database refuses by bisection and adds it to the batch's dead letters; all else is
        written, and counted.
        """
        parts = [samples]
        while parts:
            part = parts.pop()
            try:
                written = await self._until_back(partial(self._store.write, part, ()), passing=REFUSALS)
            except TooManyDevices as error:
                parts.append(self._refuse(batch, part, error.devices))
            except CustomersLeft as error:
                parts.append(_without(batch, read, part, error))
            except StoreRejected as refusal:
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                else:
                    self._refused(batch, part[0], str(refusal))
            else:
                if self._note is not None:
                    self._note(part)
                stored.add(part, written)

    def _refused(self, batch: MessageBatch, sample: Sample, detail: str) -> None:
        key = sample[0]
        dead = [
            self._gate.dead(message, Reason.REFUSED_BY_DATABASE, detail, key[0])
            for whose, message in batch.messages
            if whose == key
        ]
        batch.dead += dead
        log.warning("ingest.message_refused_by_database", detail=detail, messages=len(dead))


def _without(
    batch: MessageBatch, read: ReadMessages | None, samples: list[Sample], left: CustomersLeft
) -> list[Sample]:
    """The samples that are not of customers that moved to another gateway; nor is anything else of theirs
    stored with the batch. It took, before they left, a subscription of its own: what comes here after that
    has come there as well.
    """
    kept = [sample for sample in samples if sample[0][0] not in left.customers]
    if len(kept) == len(samples):
        raise StoreError(str(left)) from left  # never the same again, for ever
    dead = len(batch.dead)
    batch.leave_out(left.customers)
    if read is not None:
        read.leave_out(left.customers)
    metrics.MESSAGES.labels("moved").inc(len(samples) - len(kept) + dead - len(batch.dead))
    return kept


def _count(batch: MessageBatch, stored: _Stored) -> None:
    metrics.BATCH_SAMPLES.observe(len(batch.samples))
    duplicate = stored.written - stored.stored - stored.modified + batch.duplicates
    metrics.TELEMETRY_ROWS.inc(stored.stored + stored.modified)
    for name, count in (
        ("stored", stored.stored),
        ("modified", stored.modified + batch.modified),
        ("duplicate", duplicate),
        ("dead_letter", len(batch.dead)),
        ("ignored_empty", batch.empty),
        ("ignored_retained", batch.retained),
        ("ignored_topic", batch.ignored),
        ("dropped_over_quota", sum(one.dropped for one in batch.excess.values())),
    ):
        if count:
            metrics.MESSAGES.labels(name).inc(count)
