"""Telemetry: one transaction for a batch of samples, its new devices and its dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter

import orjson

from gateway import clock
from gateway.model.errors import (
    CustomersLeft,
    NotExceeded,
    StoredAlready,
    StoreRejected,
    StoreUnavailable,
    TooManyDevices,
)
from gateway.model.newest import Newest, is_later
from gateway.model.quota import Excess
from gateway.model.sample import Metrics, from_microseconds, to_microseconds
from gateway.store import leases, quotas
from gateway.store.dead_letters import KeptDeadLetter
from gateway.store.dead_messages import DeadMessage, keep
from gateway.store.leases import Term
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Key = tuple[str, str, int]
"""customer, device, device time in microseconds since the epoch."""

Sample = tuple[Key, Metrics, int]
"""key, metrics, receipt in microseconds since the epoch."""

Samples = dict[tuple[str, str], list[Sample]]
"""By customer and device, in their order, each device's in the order of their times. Whoever writes does so
in this order: a replay beside ingest, or two sessions, would wait for each other in a circle.
"""

DAY = 86_400_000_000
NEVER = 1 << 63
"""After every time."""

MAX_REMEMBERED = 100_000
REFUSED_SECONDS = 60.0
ROW_BYTES = 200
"""What a sample takes beside its metrics, with its places in indexes."""


def no_quota(_customer: str) -> int:
    """The default of `max_devices`: a customer may have any number."""
    return 2**31 - 1


def ignore_stored_bytes(_customer: str, _day: date, _size: int) -> None:
    """The default of `on_stored_bytes`: nobody counts what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """New rows and changed rows; the others of the batch were there already. `exceeded`: of what was over a
    quota, what begins with it.
    """

    stored: int
    modified: int
    exceeded: tuple[Excess, ...] = ()


class LogMissing(StoreUnavailable):
    """A customer that was known has no log any more: the batch is tried again, and opens it."""


class TelemetryStore:
    """Writes batches. Remembers which devices and days are known, and only ever what was committed.

    `term`: the lease under which batches are written; None where nobody else writes the same samples.
    `max_devices`: how many devices a customer may have. `on_stored_bytes` is called after a commit with
    customer, day and about how many bytes of samples were written.
    """

    def __init__(
        self,
        database: Database,
        *,
        register_customers: bool,
        max_devices: Callable[[str], int] = no_quota,
        term: Term | None = None,
        on_stored_bytes: Callable[[str, date, int], None] = ignore_stored_bytes,
    ) -> None:
        self._database = database
        self._term = term
        self._max_devices = max_devices
        self._on_stored_bytes = on_stored_bytes
        self._refused: set[tuple[str, str]] = set()  # beyond the limit, until it is asked again
        self._refused_until = 0.0
        self._register_customers = register_customers
        # by device that is known: what the database knows to be its oldest, or later
        self._oldest: dict[tuple[str, str], int] = {}
        self._days: set[int] = set()
        self._newest = Newest()
        self._told = quotas.ToldExcesses()

    async def write(
        self,
        samples: Sequence[Sample],
        dead: Collection[DeadMessage],
        excesses: Sequence[Excess] = (),
        *,
        also: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> Written:
        """Stores all or nothing. `samples` are (key, metrics, receipt in microseconds) with no key twice;
        `excesses`: what of the batch was over a quota, told with it; `also`: what else belongs to them.

        Raises StoreUnavailable (try again), StoreRejected (some of it can never be stored), CustomersLeft or
        TooManyDevices (all but theirs can be) or LeaseLost (whoever has the lease now stores it).
        """
        try:
            return await self._write(samples, dead, excesses, also)
        except NotExceeded:
            self._told.clear()
        except StoredAlready:
            pass  # what was taken for later is there: it is forgotten now, and each sample is looked for
        return await self._write(samples, dead, excesses, also)

    async def _write(
        self,
        samples: Sequence[Sample],
        dead: Collection[DeadMessage],
        excesses: Sequence[Excess],
        also: Callable[[Connection], Awaitable[None]] | None,
    ) -> Written:
        ordered = in_order(samples)
        devices = ordered.keys() - self._oldest.keys()
        oldest = self._older(ordered)
        days = days_of(ordered)
        self._raise_known(devices)
        newest = self._newest.take(ordered)
        written = Written(stored=0, modified=0)
        sizes: dict[str, int] = {}
        exceeded: tuple[Excess, ...] = ()
        try:
            await self._ensure_partitions(days)
            # What comes mostly is one statement, a transaction by itself, which writes nothing that it does
            # not mean to keep: begin and commit around it would be two round trips before each PUBACK. So
            # it is in a flood: what is over quotas that are told already is counted by the same statement.
            writes = bool(samples) or self._term is not None
            told = writes and self._told.covers(excesses, clock.monotonic())
            counted = quotas.document(excesses) if told else None
            several = devices or oldest or also is not None or dead or (excesses and counted is None)
            async with self._database.transaction() if several else self._database.connection() as connection:
                if devices:
                    await self._register(connection, sorted(devices), {customer for customer, _ in days})
                if writes:
                    written = await insert(connection, ordered, days, self._term, sizes, counted, newest)
                if oldest:  # after the logs of their customers, as whoever registers devices
                    await _note_oldest(connection, oldest)
                if also is not None:
                    await also(connection)
                if dead:
                    await keep(connection, dead)
                if excesses and counted is None:
                    exceeded = await quotas.note(connection, excesses)
        except TooManyDevices as error:
            self._refuse(error.devices)
            raise
        except CustomersLeft as error:
            self._forget_customers(error.customers)
            raise
        except (StoreRejected, LogMissing):
            self._forget()
            raise
        self._oldest |= oldest
        self._newest.put(ordered, newest, is_new=written.stored == len(samples))
        self._told.note(excesses, clock.monotonic())
        if written.stored:
            self._count_stored(sizes, days, written.stored / len(samples))
        return Written(stored=written.stored, modified=written.modified, exceeded=exceeded)

    async def _ensure_partitions(self, days: Collection[tuple[str, int]]) -> None:
        """Each in a transaction of its own: no lock of a table while rows are held. Raises StoreError."""
        for day in sorted({day for _, day in days} - self._days):
            await self._database.execute("select ensure_partition('telemetry', $1)", _date(day))
            self._days.add(day)

    def _forget_customers(self, customers: Collection[str]) -> None:
        """These customers left; what is known of the others is as it was."""
        self._oldest = {pair: at for pair, at in self._oldest.items() if pair[0] not in customers}

    def _refuse(self, devices: frozenset[tuple[str, str]]) -> None:
        if len(self._refused) < MAX_REMEMBERED:
            self._refused |= devices
        self._refused_until = clock.monotonic() + REFUSED_SECONDS

    def _forget(self) -> None:
        """It may be that what we know is gone: a day that retention dropped, a dump that was restored."""
        self._oldest.clear()
        self._days.clear()

    async def replay(
        self, samples: Mapping[Key, Metrics], received: int, letter: int, kept: KeptDeadLetter
    ) -> Written:
        """Stores what an earlier message holds, and removes its dead letter, in one transaction: all or
        nothing, and done twice it changes nothing more. What was received after the message stays as it is:
        only metrics that are missing there are added. Raises as `write`.
        """
        devices = sorted({(key[0], key[1]) for key in samples})
        days = {(key[0], key[2] // DAY) for key in samples}
        written = Written(stored=0, modified=0)
        sizes: dict[str, int] = {}
        await self._ensure_partitions(days)
        async with self._database.transaction() as connection:
            if samples:
                # the logs are locked from here on: nothing of these customers changes between look and write
                await self._register(connection, devices, {customer for customer, _ in days})
                news = await _news(connection, samples, received, kept.last_at)
                if news:
                    ordered = in_order(news)
                    written = await insert(connection, ordered, days_of(ordered), None, sizes)
                    await _note_oldest(connection, self._older(ordered))
            await connection.execute(sql("dead_letter_remove"), letter, kept.occurrences)
        if written.stored:
            self._count_stored(sizes, days, written.stored / len(samples))
        return written

    def _count_stored(self, sizes: dict[str, int], days: Collection[tuple[str, int]], part: float) -> None:
        """`part` of the samples is new. A customer's bytes are spread evenly over its days of the batch."""
        of: dict[str, list[int]] = {}
        for customer, day in days:
            of.setdefault(customer, []).append(day)
        for customer, size in sizes.items():
            for day in of[customer]:
                self._on_stored_bytes(customer, _date(day), int(size * part) // len(of[customer]))

    def _older(self, samples: Samples) -> dict[tuple[str, str], int]:
        """The oldest sample of each device, where it may be older than all that are stored: a device's first,
        and what comes late.
        """
        known = self._oldest
        return {
            device: theirs[0][0][2]
            for device, theirs in samples.items()
            if theirs[0][0][2] < known.get(device, NEVER)
        }

    def _raise_known(self, devices: set[tuple[str, str]]) -> None:
        """What was refused a moment ago is refused without asking: a flood of invented
        devices costs little.
        """
        if clock.monotonic() >= self._refused_until:
            self._refused.clear()
        if known := devices & self._refused:
            raise TooManyDevices(frozenset(known))

    async def _register(
        self, connection: Connection, devices: Sequence[tuple[str, str]], batch_customers: Collection[str]
    ) -> None:
        """Raises TooManyDevices for those for which there is no room.
        `batch_customers`: all of the batch's.
        """
        customers = [customer for customer, _ in devices]
        if self._register_customers:
            await connection.execute(sql("telemetry_register_customers"), customers)
        # The logs of the whole batch at once: locked one part after the other they would not be in one order.
        await connection.execute(sql("log_open"), list(batch_customers))
        rows = await connection.fetch(
            sql("telemetry_register_devices"),
            customers,
            [device for _, device in devices],
            [self._max_devices(customer) for customer in customers],
        )
        if rows:
            raise TooManyDevices(frozenset((row["customer_id"], row["device_id"]) for row in rows))


async def insert(
    connection: Connection,
    samples: Samples,
    days: Collection[tuple[str, int]],
    term: Term | None,
    sizes: dict[str, int],
    counted: list[dict[str, object]] | None = None,
    newest: Mapping[tuple[str, str], int] | None = None,
) -> Written:
    """Raises LeaseLost when the term is over: by then a successor may have stored later values. `days`:
    `days_of` them. `sizes` is given about how many bytes of each customer these are. `counted`: what of the
    batch is over quotas that are told already; NotExceeded where one is not. `newest`: what is known of
    its devices; StoredAlready where all samples are later than that, and one is there all the same.
    """
    dumps = orjson.dumps
    days = sorted(days)
    customers = list(dict.fromkeys(customer for customer, _ in days))
    places = {customer: place for place, customer in enumerate(customers, 1)}
    names, devices, texts, of = list[str](), list[str](), list[str](), list[int]()
    for (customer, device), theirs in samples.items():
        count, written = len(theirs), [dumps(metrics).decode() for _, metrics, _ in theirs]
        names += [customer] * count
        devices += [device] * count
        of += [places[customer]] * count
        texts += written
        sizes[customer] = sizes.get(customer, 0) + sum(map(len, written)) + ROW_BYTES * count
    row = await connection.fetchrow(
        sql("telemetry_add" if newest is not None and is_later(samples, newest) else "telemetry_write"),
        names,
        devices,
        [key[2] for theirs in samples.values() for key, _, _ in theirs],
        texts,
        [received for theirs in samples.values() for _, _, received in theirs],
        customers,
        of,
        [customer for customer, _ in days],
        [_date(day) for _, day in days],
        [places[customer] for customer, _ in days],
        *((None, None, None) if term is None else (term.name, term.owner, term.fence)),
        counted,
    )
    assert row is not None
    if not row["held"]:
        assert term is not None
        raise leases.lost(term)
    if not row["known"]:
        left = await connection.fetchval(sql("log_frozen"), customers)
        if left:
            raise CustomersLeft(frozenset(left))
        raise LogMissing("a customer of the batch has no log; it is opened with the customer's devices")
    return Written(stored=row["stored"], modified=row["modified"])


async def _note_oldest(connection: Connection, oldest: Mapping[tuple[str, str], int]) -> None:
    ordered = sorted(oldest)
    await connection.execute(
        sql("device_oldest"),
        [customer for customer, _ in ordered],
        [device for _, device in ordered],
        [oldest[pair] for pair in ordered],
    )


async def _news(
    connection: Connection, samples: Mapping[Key, Metrics], received: int, last_at: datetime
) -> list[Sample]:
    """What of these samples is not replaced by something that was received later than `last_at`. A row to
    which the rest is added keeps that it was: or the next replay would take itself for the later one.
    """
    keys = list(samples)
    rows = await connection.fetch(
        sql("telemetry_held"), [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]
    )
    news = {key: (metrics, received) for key, metrics in samples.items()}
    for row in rows:
        key = keys[row["place"] - 1]
        if row["received_at"] > last_at:
            missing = {name: value for name, value in samples[key].items() if name not in row["metrics"]}
            news[key] = missing, to_microseconds(row["received_at"])
    return [(key, metrics, at) for key, (metrics, at) in news.items() if metrics]


def in_order(samples: Iterable[Sample]) -> Samples:
    """A device's samples come nearly in order, and so cost little to sort: half of what sorting all of them
    by their key does.
    """
    by_device: Samples = {}
    for sample in samples:
        customer, device, _ = sample[0]
        if (held := by_device.get((customer, device))) is None:
            by_device[customer, device] = [sample]
        else:
            held.append(sample)
    for theirs in by_device.values():
        theirs.sort(key=itemgetter(0))
    return {device: by_device[device] for device in sorted(by_device)}


def days_of(samples: Samples) -> set[tuple[str, int]]:
    """Customer and day of every sample, a day since the epoch."""
    found: set[tuple[str, int]] = set()
    for (customer, _), theirs in samples.items():
        first, last = theirs[0][0][2] // DAY, theirs[-1][0][2] // DAY
        if first == last:
            found.add((customer, first))
        else:
            found.update((customer, key[2] // DAY) for key, _, _ in theirs)
    return found


def _date(day: int) -> date:
    return from_microseconds(day * DAY).date()
