"""Telemetry: one transaction for a batch of samples, its new devices and its dead letters; and what an ingest
session needs.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import itemgetter

import orjson

from gateway import clock
from gateway.model.errors import StoreRejected, StoreUnavailable, TooManyDevices
from gateway.model.event import EventType, NewEvent
from gateway.model.sample import Metrics, from_microseconds
from gateway.store import leases, outbox
from gateway.store.leases import Term
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Key = tuple[str, str, int]
"""customer, device, device time in microseconds since the epoch."""

DAY = 86_400_000_000
NEVER = 1 << 63
"""After every time."""

DEFAULT_MAX_DEVICES = 100_000
MAX_REMEMBERED = 100_000
REFUSED_SECONDS = 60.0
TOLD_AGAIN_AFTER = timedelta(days=1)
TOO_MANY_DEVICES = "too_many_devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that is no sample, kept with its bytes (the first of them, when it was too large).
    `customer`: whose topic it is; None where that is nobody's.
    """

    topic: str
    payload: bytes
    reason: str
    detail: str
    customer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """New rows and changed rows; the others of the batch were there already."""

    stored: int
    modified: int


class LogMissing(StoreUnavailable):
    """A customer that was known has no log any more: the batch is tried again, and opens it."""


class TelemetryStore:
    """Writes batches. Remembers which devices and days are known, and only ever what was committed.

    `term`: the lease under which they are written; None where nobody else writes the same.
    """

    def __init__(
        self,
        database: Database,
        *,
        register_customers: bool,
        max_devices: int = DEFAULT_MAX_DEVICES,
        term: Term | None = None,
    ) -> None:
        self._database = database
        self._term = term
        self._max_devices = max_devices
        self._refused: set[tuple[str, str]] = set()  # beyond the limit, until it is asked again
        self._refused_until = 0.0
        self._register_customers = register_customers
        self._devices: set[tuple[str, str]] = set()
        self._oldest: dict[
            tuple[str, str], int
        ] = {}  # by device: what the database knows to be its oldest, or later
        self._days: set[int] = set()

    async def write(
        self,
        samples: Sequence[tuple[Key, Metrics, int]],
        dead: Collection[DeadMessage],
        *,
        also: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> Written:
        """Stores all or nothing. `samples` are (key, metrics, receipt in microseconds) with no key twice;
        `also`: what else belongs to them.

        Raises StoreUnavailable (try again), StoreRejected (some of it can never be stored), TooManyDevices
        (all but the samples of these devices can be) or LeaseLost (whoever has the lease now stores it).
        """
        devices = {(key[0], key[1]) for key, _, _ in samples} - self._devices
        oldest = self._older(samples)
        days = {(key[0], key[2] // DAY) for key, _, _ in samples}
        fresh_days = {day for _, day in days} - self._days
        if devices and self._refused:
            self._raise_known(devices)
        written = Written(stored=0, modified=0)
        try:
            # each in a transaction of its own: no lock of a table while rows are held
            for day in sorted(fresh_days):
                async with self._database.connection() as connection:
                    await connection.execute("select ensure_partition('telemetry', $1)", _date(day))
            async with self._database.transaction() as connection:
                if devices:
                    await self._register(connection, sorted(devices), {customer for customer, _ in days})
                if samples or self._term is not None:
                    written = await insert(connection, samples, days, self._term)
                if oldest:  # after the logs of their customers, as whoever registers devices
                    ordered = sorted(oldest)
                    await connection.execute(
                        sql("device_oldest"),
                        [customer for customer, _ in ordered],
                        [device for _, device in ordered],
                        [oldest[pair] for pair in ordered],
                    )
                if also is not None:
                    await also(connection)
                if dead:
                    await _bury(connection, dead)
                    await self._tell_of_refused(connection, dead)
        except TooManyDevices as error:
            if len(self._refused) < MAX_REMEMBERED:
                self._refused |= error.devices
            self._refused_until = clock.monotonic() + REFUSED_SECONDS
            raise
        except (StoreRejected, LogMissing):
            # it may be that what we know is gone: a day that retention dropped, a dump that was restored
            self._devices.clear()
            self._oldest.clear()
            self._days.clear()
            raise
        self._devices |= devices
        self._oldest |= oldest
        self._days |= fresh_days
        return written

    def _older(self, samples: Sequence[tuple[Key, Metrics, int]]) -> dict[tuple[str, str], int]:
        """The oldest sample of each device, where it may be older than all that are stored: a device's first,
        and what comes late.
        """
        known, older = self._oldest, dict[tuple[str, str], int]()
        for (customer, device, at), _, _ in samples:
            if at < known.get((customer, device), NEVER):
                pair = (customer, device)
                older[pair] = min(at, older.get(pair, NEVER))
        return older

    def _raise_known(self, devices: set[tuple[str, str]]) -> None:
        """What was refused a moment ago is refused without asking: a flood of invented
        devices costs little.
        """
        if clock.monotonic() >= self._refused_until:
            self._refused.clear()
        if known := devices & self._refused:
            raise TooManyDevices(frozenset(known))

    async def _tell_of_refused(self, connection: Connection, dead: Collection[DeadMessage]) -> None:
        for customer in sorted({d.customer for d in dead if d.reason == TOO_MANY_DEVICES and d.customer}):
            event = NewEvent(
                type=EventType.DEVICES_REFUSED, customer=customer, data={"limit": self._max_devices}
            )
            await outbox.append_once(connection, event, within=TOLD_AGAIN_AFTER)

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
            sql("telemetry_register_devices"), customers, [device for _, device in devices], self._max_devices
        )
        if rows:
            raise TooManyDevices(frozenset((row["customer_id"], row["device_id"]) for row in rows))


async def client_id(database: Database, instance: str, partition: int) -> str:
    """The MQTT client id of a partition: the same for every replica and restart, and not to be guessed."""
    async with database.transaction() as connection:
        seed: bytes = await connection.fetchval(sql("ingest_identity"), instance, secrets.token_bytes(32))
    return "fg-" + hashlib.blake2b(f"{instance}/{partition}".encode(), key=seed, digest_size=10).hexdigest()


async def subscriptions(database: Database, client: str) -> dict[str, tuple[str, ...]]:
    """The filters that the session of this client id was last known to hold, by broker."""
    found: dict[str, list[str]] = {}
    async with database.connection() as connection:
        for row in await connection.fetch(sql("ingest_subscriptions"), client):
            found.setdefault(row["broker"], []).append(row["filter"])
    return {broker: tuple(sorted(filters)) for broker, filters in found.items()}


async def remember_subscriptions(
    database: Database, client: str, filters: Collection[str], *, broker: str, keep: Collection[str]
) -> None:
    """What the session at this broker holds from now on; what is known of brokers outside `keep` is
    forgotten.
    """
    async with database.transaction() as connection:
        await connection.execute(sql("ingest_subscribed"), client, broker, list(filters), list(keep))


async def replicas_seen(database: Database, replica: str, seconds: float) -> int:
    """Says that this replica lives; how many do."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(sql("replica_seen"), replica, seconds)
    return count


async def insert(
    connection: Connection,
    samples: Sequence[tuple[Key, Metrics, int]],
    days: Collection[tuple[str, int]],
    term: Term | None,
) -> Written:
    """Raises LeaseLost when the term is over: by then a successor may have stored later values. `days`:
    (customer, day) of every sample.
    """
    dumps = orjson.dumps
    # in one order whoever writes: a replay beside ingest, or two sessions, would wait for each other in a
    # circle
    ordered = _in_order(samples)
    days = sorted(days)
    customers = list(dict.fromkeys(customer for customer, _ in days))
    places = {customer: place for place, customer in enumerate(customers, 1)}
    row = await connection.fetchrow(
        sql("telemetry_write"),
        [key[0] for key, _, _ in ordered],
        [key[1] for key, _, _ in ordered],
        [key[2] for key, _, _ in ordered],
        [dumps(metrics).decode() for _, metrics, _ in ordered],
        [received for _, _, received in ordered],
        customers,
        [places[key[0]] for key, _, _ in ordered],
        [customer for customer, _ in days],
        [_date(day) for _, day in days],
        [places[customer] for customer, _ in days],
        *((None, None, None) if term is None else (term.name, term.owner, term.fence)),
    )
    assert row is not None
    if not row["held"]:
        assert term is not None
        raise leases.lost(term)
    if not row["known"]:
        raise LogMissing("a customer of the batch has no log; it is opened with the customer's devices")
    return Written(stored=row["stored"], modified=row["modified"])


def message_digest(topic: str, payload: bytes) -> bytes:
    """What a message that is a dead letter is known by."""
    return hashlib.blake2b(topic.encode("utf-8", "replace") + b"\0" + payload, digest_size=16).digest()


async def unbury(connection: Connection, digests: Collection[bytes]) -> None:
    """Lets go of messages that are stored after all, by the caller's transaction."""
    await connection.execute(sql("telemetry_unbury"), list(digests))


async def _bury(connection: Connection, dead: Collection[DeadMessage]) -> None:
    await connection.execute(
        sql("telemetry_dead_letter"),
        [message_digest(d.topic, d.payload) for d in dead],
        [d.topic.replace("\0", "\\0") for d in dead],
        [d.reason for d in dead],
        [d.detail.replace("\0", "\\0") for d in dead],
        [d.payload for d in dead],
        [d.customer for d in dead],
    )


def _in_order(samples: Sequence[tuple[Key, Metrics, int]]) -> list[tuple[Key, Metrics, int]]:
    """By customer, device and time. A device's samples come nearly in order, and so cost little to sort: half
    of what sorting all of them by their key does.
    """
    by_device: dict[tuple[str, str], list[tuple[Key, Metrics, int]]] = {}
    for sample in samples:
        customer, device, _ = sample[0]
        if (held := by_device.get((customer, device))) is None:
            by_device[customer, device] = [sample]
        else:
            held.append(sample)
    return [sample for device in sorted(by_device) for sample in sorted(by_device[device], key=itemgetter(0))]


def _date(day: int) -> date:
    return from_microseconds(day * DAY).date()
