"""Stores telemetry: a batch of samples, its new devices and its dead letters in one transaction."""

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
"""Samples by (customer, device) in ascending order, those of each device in the order of their times.
Everybody writes in this order: else a replay and ingest, or two sessions, could wait for each other in a
circle.
"""

DAY = 86_400_000_000
"""In microseconds."""

NEVER = 1 << 63
"""A time after every other."""

MAX_REMEMBERED = 100_000
REFUSED_SECONDS = 60.0
"""How many devices that were refused are remembered, and for how long."""

ROW_BYTES = 200
"""About how many bytes a sample takes beside its metrics, with its entries in indexes."""


def no_quota(_customer: str) -> int:
    """The default of `max_devices`: a customer may have any number."""
    return 2**31 - 1


def ignore_stored_bytes(_customer: str, _day: date, _size: int) -> None:
    """The default of `on_stored_bytes`: nobody counts what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many rows are new and how many changed; the other samples of the batch were there already.
    `exceeded`: the quotas that this batch was the first to exceed.
    """

    stored: int
    modified: int
    exceeded: tuple[Excess, ...] = ()


class LogMissing(StoreUnavailable):
    """A customer that was known has no log any more. The batch is tried again, and opens the log."""


class TelemetryStore:
    """Writes batches. Remembers devices and days that are known, and only after they were committed.

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
        self._refused: set[tuple[str, str]] = set()
        """Devices beyond the limit of their customer. They are refused without asking until `_refused_until`.
        """
        self._refused_until = 0.0
        self._register_customers = register_customers
        self._oldest: dict[tuple[str, str], int] = {}
        """By known device the time of its oldest sample, as the database has it, or a later one."""
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
        """Stores all or nothing. `samples` has no key twice; `excesses`: what of the batch was over a quota;
        `also` is called in the same transaction.

        Raises StoreUnavailable (try again), StoreRejected (some of it can never be stored), CustomersLeft and
        TooManyDevices (everything but what is theirs can be stored), and LeaseLost (whoever has the lease now
        stores it).
        """
        try:
            return await self._write(samples, dead, excesses, also)
        except NotExceeded:  # an excess that was open is over: it begins anew
            self._told.clear()
        except StoredAlready:  # a sample is not later than all stored ones: the second try looks for each
            pass
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
        oldest = self._new_oldest(ordered)
        days = days_of(ordered)
        self._refuse_known(devices)
        newest = self._newest.take(ordered)
        written = Written(stored=0, modified=0)
        sizes: dict[str, int] = {}
        exceeded: tuple[Excess, ...] = ()
        try:
            await self._ensure_partitions(days)
            # A usual batch is one statement, which is a transaction by itself: begin and commit around it
            # would be two round trips before each PUBACK. So is a batch in a flood: the statement also counts
            # what is over quotas whose excess was told already.
            writes = bool(samples) or self._term is not None
            counted = self._counted(excesses) if writes else None
            has_new_excess = bool(excesses) and counted is None
            several = devices or oldest or also is not None or dead or has_new_excess
            async with self._database.transaction() if several else self._database.connection() as connection:
                if devices:
                    await self._register(connection, sorted(devices), {customer for customer, _ in days})
                if writes:
                    written = await insert(connection, ordered, days, self._term, sizes, counted, newest)
                if oldest:  # after the logs of their customers are locked, as when devices are registered
                    await _note_oldest(connection, oldest)
                if also is not None:
                    await also(connection)
                if dead:
                    await keep(connection, dead)
                if has_new_excess:
                    exceeded = await quotas.note(connection, excesses)
        except TooManyDevices as error:
            self._remember_refused(error.devices)
            raise
        except CustomersLeft as error:
            self._forget_customers(error.customers)
            raise
        except (StoreRejected, LogMissing):
            self._forget_all()
            raise
        self._oldest |= oldest
        self._newest.put(ordered, newest, is_new=written.stored == len(samples))
        self._told.note(excesses, clock.monotonic())
        if written.stored:
            self._count_stored(sizes, days, written.stored / len(samples))
        return Written(stored=written.stored, modified=written.modified, exceeded=exceeded)

    def _counted(self, excesses: Sequence[Excess]) -> list[dict[str, object]] | None:
        """The excesses as `insert` counts them; None where one of them was not told yet."""
        return quotas.document(excesses) if self._told.covers(excesses, clock.monotonic()) else None

    async def _ensure_partitions(self, days: Collection[tuple[str, int]]) -> None:
        """Makes the partitions of these days, each in a transaction of its own: so no lock of a table is
        awaited while rows are locked. Raises StoreError.
        """
        for day in sorted({day for _, day in days} - self._days):
            await self._database.execute("select ensure_partition('telemetry', $1)", _date(day))
            self._days.add(day)

    def _forget_customers(self, customers: Collection[str]) -> None:
        """Forgets the devices of customers that left."""
        self._oldest = {pair: at for pair, at in self._oldest.items() if pair[0] not in customers}

    def _remember_refused(self, devices: frozenset[tuple[str, str]]) -> None:
        if len(self._refused) < MAX_REMEMBERED:
            self._refused |= devices
        self._refused_until = clock.monotonic() + REFUSED_SECONDS

    def _forget_all(self) -> None:
        """Forgets all devices and days: they may be gone, by retention or by a dump that was restored."""
        self._oldest.clear()
        self._days.clear()

    async def replay(
        self, samples: Mapping[Key, Metrics], received: int, letter: int, kept: KeptDeadLetter
    ) -> Written:
        """Stores the samples of a dead message and removes its dead letter, in one transaction. Done twice it
        changes nothing more. A sample that was received after the message stays as it is: only metrics that
        it lacks are added. Raises as `write`.
        """
        devices = sorted({(key[0], key[1]) for key in samples})
        days = {(key[0], key[2] // DAY) for key in samples}
        written = Written(stored=0, modified=0)
        sizes: dict[str, int] = {}
        await self._ensure_partitions(days)
        async with self._database.transaction() as connection:
            if samples:
                # This locks the logs: nothing of these customers changes between the look and the write.
                await self._register(connection, devices, {customer for customer, _ in days})
                news = await _not_replaced(connection, samples, received, kept.last_at)
                if news:
                    ordered = in_order(news)
                    written = await insert(connection, ordered, days_of(ordered), None, sizes)
                    await _note_oldest(connection, self._new_oldest(ordered))
            await connection.execute(sql("dead_letter_remove"), letter, kept.occurrences)
        if written.stored:
            self._count_stored(sizes, days, written.stored / len(samples))
        return written

    def _count_stored(self, sizes: dict[str, int], days: Collection[tuple[str, int]], part: float) -> None:
        """Tells how many bytes were stored. `part` of the samples is new. A customer's bytes are spread
        evenly over its days of the batch.
        """
        days_by_customer: dict[str, list[int]] = {}
        for customer, day in days:
            days_by_customer.setdefault(customer, []).append(day)
        for customer, size in sizes.items():
            own = days_by_customer[customer]
            for day in own:
                self._on_stored_bytes(customer, _date(day), int(size * part) // len(own))

    def _new_oldest(self, samples: Samples) -> dict[tuple[str, str], int]:
        """The time of the oldest sample of each device, where it may be older than all that are stored: of a
        device's first sample, and of late ones.
        """
        known = self._oldest
        return {
            device: theirs[0][0][2]
            for device, theirs in samples.items()
            if theirs[0][0][2] < known.get(device, NEVER)
        }

    def _refuse_known(self, devices: set[tuple[str, str]]) -> None:
        """Raises TooManyDevices for devices that were refused a moment ago, without asking the database: so a
        flood of invented devices costs little.
        """
        if clock.monotonic() >= self._refused_until:
            self._refused.clear()
        refused = devices & self._refused
        if refused:
            raise TooManyDevices(frozenset(refused))

    async def _register(
        self, connection: Connection, devices: Sequence[tuple[str, str]], batch_customers: Collection[str]
    ) -> None:
        """Registers devices. Raises TooManyDevices for those beyond the limit of their customer.
        `batch_customers`: all customers of the batch.
        """
        customers = [customer for customer, _ in devices]
        if self._register_customers:
            await connection.execute(sql("telemetry_register_customers"), customers)
        # Locks the logs of the whole batch at once, so that they are locked in one order.
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
    """Inserts samples. Raises LeaseLost when the term is over: by then a successor may have stored later
    values.

    - `days`: `days_of(samples)`.
    - `sizes` is an output: to each customer is added about how many bytes its samples take.
    - `counted`: what of the batch is over quotas whose excess was told already. Raises NotExceeded where one
      was not.
    - `newest`: the newest known sample of each device. Where all samples are later, the statement need not
      look for stored ones; it raises StoredAlready where one is there all the same.
    """
    dumps = orjson.dumps
    days = sorted(days)
    customers = list(dict.fromkeys(customer for customer, _ in days))
    places = {customer: place for place, customer in enumerate(customers, 1)}
    sample_customers, sample_devices, sample_places = list[str](), list[str](), list[int]()
    texts = list[str]()
    for (customer, device), theirs in samples.items():
        count = len(theirs)
        written = [dumps(metrics).decode() for _, metrics, _ in theirs]
        sample_customers += [customer] * count
        sample_devices += [device] * count
        sample_places += [places[customer]] * count
        texts += written
        sizes[customer] = sizes.get(customer, 0) + sum(map(len, written)) + ROW_BYTES * count
    is_all_new = newest is not None and is_later(samples, newest)
    row = await connection.fetchrow(
        sql("telemetry_add" if is_all_new else "telemetry_write"),
        sample_customers,
        sample_devices,
        [key[2] for theirs in samples.values() for key, _, _ in theirs],
        texts,
        [received for theirs in samples.values() for _, _, received in theirs],
        customers,
        sample_places,
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


async def _not_replaced(
    connection: Connection, samples: Mapping[Key, Metrics], received: int, last_at: datetime
) -> list[Sample]:
    """What is to be written of these samples: of one that is stored already, and was received later than
    `last_at`, only the metrics that it lacks. Such a row keeps its time of receipt: else another replay would
    be taken for the later one.
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
    """Puts samples in the order of `Samples`. Each device is sorted by itself: its samples come nearly in
    order, so this costs half of sorting all samples by their key.
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
    """The (customer, day) of all samples. Days are counted from the epoch."""
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
