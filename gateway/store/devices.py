"""Devices as they can be seen: what is known of each, which meters its metrics feed, and its samples in
buckets. Ingest writes what it has taken, in batches and beside its commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, get_args

import orjson

from gateway.model.sample import Metrics, Value, from_microseconds
from gateway.store.listing import SortedPlace, first_place
from gateway.store.pool import Database
from gateway.store.queries import filtered, sql

Kind = Literal["number", "boolean", "text"]

Column = Literal["name", "last_seen", "last_sample"]
COLUMNS: tuple[Column, ...] = get_args(Column)
"""What a list of devices can be sorted by."""

MAX_METERS = 10_000
"""Of a device that are shown."""

MAX_SAMPLES = 200_000
"""That one question about a series reads."""


class Seen(NamedTuple):
    """What ingest took from a device since it was written last. `metrics`: (time, value) by name. Times in
    microseconds since the epoch. `source` None: neither title nor source is known. `since`: its first
    receipt, `samples`: how many. `unheard`: seconds in which nothing was read of its partition, None: not
    known. `is_news`: whether there may be metrics that are not held, or of another kind. `most`: how many
    metrics may be known of it; `is_cut`: there were more. A tuple: hundreds are made
    a second, beside ingest.
    """

    customer: str
    device: str
    title: str | None
    source: str | None
    seen: int
    first: int
    last: int
    values: Metrics
    times: dict[str, int]
    since: int
    samples: int = 1
    unheard: float | None = None
    is_news: bool = True
    most: int = 1_024
    is_cut: bool = False

    def payload(self) -> bytes:
        """Its metrics, as they are stored."""
        return orjson.dumps({name: (self.times[name], value) for name, value in self.values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A line of the list. `title`: its name, where that is not its id. Times are None where nothing was
    written since this version runs. `interval_seconds`: what is usual between two messages. `silent_since`:
    its last message, where it is silent. `offline_since`: when its edge node said that it is dead, or died
    itself; None for whatever nobody says so of.
    """

    customer: str
    device: str
    title: str | None
    source: str | None
    first_seen_at: datetime
    last_seen_at: datetime | None
    last_sample_at: datetime | None
    metrics: int
    interval_seconds: float | None
    silent_since: datetime | None
    offline_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FedMeter:
    """A meter that a metric feeds. `span`: its window. `is_plain`: nothing is done to the values beside the
    reduction.
    """

    connection: str
    meter: str
    reduce: str
    unit: str | None
    span: timedelta | None = None
    is_plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMetric:
    """One of a device's, with its last value. `kind` None, and neither value nor time: a meter names it, and
    it was not seen.
    """

    name: str
    kind: Kind | None
    value: Value | None
    at: datetime | None
    meters: tuple[FedMeter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedDevice:
    """A device with all that is known of it."""

    device: Device
    metrics: tuple[DeviceMetric, ...]
    unmapped: tuple[str, ...] = field(default=())
    """Metrics that come and feed no meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesBucket:
    """Samples of a metric in [start, start + width). The numbers are None where they are texts."""

    start: datetime
    samples: int
    min: float | None
    mean: float | None
    max: float | None
    last: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Buckets that hold samples, in the order of time. `complete` False: only the
    newest samples were read.
    """

    buckets: tuple[SeriesBucket, ...]
    complete: bool


async def write(database: Database, seen: Sequence[Seen], payloads: Sequence[bytes]) -> list[tuple[str, str]]:
    """Stores what was taken; one statement. `payloads`: of each. Returns the devices of which metrics were
    forgotten, for there were more than `most`. Raises StoreError.
    """
    columns = dict(zip(Seen._fields, zip(*seen, strict=True), strict=True))
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("device_write"),
            columns["customer"],
            columns["device"],
            columns["title"],
            columns["source"],
            columns["seen"],
            columns["last"],
            columns["first"],
            [payload.decode() for payload in payloads],
            columns["since"],
            columns["samples"],
            columns["unheard"],
            columns["is_news"],
            columns["most"],
        )
    return [(row["customer_id"], row["device_id"]) for row in rows]


class Devices:
    """What is asked of devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        customer: str | None,
        *,
        text: str = "",
        silent: bool | None = None,
        after: tuple[str, str] = ("", ""),
        limit: int,
    ) -> list[Device]:
        """By customer and id. `text`: part of the id or the title, in small or capital letters. `silent`:
        only those that are, or only the others.
        """
        after = after if customer is None else max((customer, ""), after)
        name = "device_list_silent" if silent else "device_list"
        asked = [customer, text.lower() or None, *after, limit, *([] if silent else [silent is not None])]
        async with self._database.connection() as connection:
            rows = await connection.fetch(*filtered(name, *asked))
        return [_device(dict(row)) for row in rows]

    async def sorted_page(
        self,
        customer: str,
        column: Column,
        *,
        descending: bool,
        text: str = "",
        silent: bool = False,
        after: SortedPlace | None = None,
        limit: int,
    ) -> list[tuple[Device, SortedPlace]]:
        """As `page`, of one customer, in another order: each with its place in it. `silent`: those alone."""
        after = after or first_place(descending=descending)
        place = (after.number, after.word, after.id)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                *filtered(
                    "device_list_sorted",
                    customer,
                    text.lower() or None,
                    column,
                    descending,
                    *place,
                    silent,
                    limit,
                )
            )
        return [
            (
                _device(dict(row)),
                SortedPlace(number=row["number"], word=row["word"], id=row["device_id"]),
            )
            for row in rows
        ]

    async def one(self, customer: str, device: str) -> DescribedDevice | None:
        """With metrics, their last values and the meters that they feed; None when there is none."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql("device_read"), customer, device)
            if row is None:
                return None
            feeding = await connection.fetch(sql("device_meters"), customer, device, MAX_METERS)
        meters: dict[str, list[FedMeter]] = {}
        for found in feeding:
            meters.setdefault(found["metric"], []).append(
                FedMeter(
                    connection=found["connection_id"],
                    meter=found["meter"],
                    reduce=found["reduce"],
                    unit=found["unit"],
                    span=found["span"],
                    is_plain=found["is_plain"],
                )
            )
        held = row["metrics"] if isinstance(row["metrics"], dict) else {}
        return DescribedDevice(
            device=_device({**row, "metrics": len(held)}),
            metrics=tuple(
                _metric(name, held.get(name), tuple(meters.get(name, ())))
                for name in sorted(held.keys() | meters.keys())
            ),
            unmapped=tuple(sorted(held.keys() - meters.keys())),
        )

    async def metrics(
        self, customer: str, *, text: str = "", limit: int
    ) -> list[tuple[str, str | None, DeviceMetric]]:
        """Each metric of the customer's devices with its last value: device, title, metric. `text`: part of
        any.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(*filtered("device_metrics", customer, text.lower() or None, limit))
        return [(row["device_id"], row["title"], _metric(row["metric"], row["entry"], ())) for row in rows]

    async def series(
        self, customer: str, device: str, metric: str, *, since: datetime, until: datetime, buckets: int
    ) -> Series:
        """The samples of [since, until), in so many parts of equal width. Reads
        MAX_SAMPLES of them at most.
        """
        width = bucket_width(since, until, buckets)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                sql("device_series"), customer, device, metric, since, until, width, MAX_SAMPLES
            )
        return Series(
            buckets=tuple(SeriesBucket(**row) for row in rows),
            complete=sum(row["samples"] for row in rows) < MAX_SAMPLES,
        )


def _device(row: dict[str, object]) -> Device:
    return Device(
        customer=row["customer_id"],  # type: ignore[arg-type]
        device=row["device_id"],  # type: ignore[arg-type]
        **{name: row[name] for name in _PLAIN},  # type: ignore[arg-type]
    )


def bucket_width(since: datetime, until: datetime, buckets: int) -> timedelta:
    """Whole microseconds, so that there are no more parts than that: the last one may be shorter."""
    return -(-(until - since) // buckets)


_PLAIN = (
    "title",
    "source",
    "first_seen_at",
    "last_seen_at",
    "last_sample_at",
    "metrics",
    "interval_seconds",
    "silent_since",
    "offline_since",
)


def _metric(name: str, entry: object, meters: tuple[FedMeter, ...]) -> DeviceMetric:
    if not isinstance(entry, list) or len(entry) != 2:
        return DeviceMetric(name=name, kind=None, value=None, at=None, meters=meters)
    at, value = entry
    kind: Kind = "number"
    if isinstance(value, bool):
        kind = "boolean"
    elif isinstance(value, str):
        kind = "text"
    return DeviceMetric(name=name, kind=kind, value=value, at=from_microseconds(at), meters=meters)
