"""The registry of devices: keeps in memory what devices sent as batches are committed, and writes it every
few seconds beside the commits. No commit waits for it. A process that is killed loses some seconds of
freshness and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import final

import structlog

from gateway import clock
from gateway.ingest.upkeep import ignore_excess
from gateway.model.errors import StoreError, StoreRejected
from gateway.model.pressure import Pressure
from gateway.model.quota import Excess, QuotaKind
from gateway.model.sample import Metrics, Value
from gateway.quota_settings import MAX_METRICS_PER_DEVICE, QuotasSettings
from gateway.store import devices as store
from gateway.store.devices import Seen
from gateway.store.pool import Database
from gateway.store.telemetry import Sample

log = structlog.get_logger(__name__)

WRITE_SECONDS = 5.0
"""Between two rounds: no device is written more often."""

MAX_WRITTEN = 2_500
"""Devices that one round writes, which bounds what it costs PostgreSQL. The others are written by the next
rounds, those that have waited longest first. While acknowledgements are late a round writes half of them.
"""

SLICE = 500
SLICE_BYTES = 1 << 20
"""Devices, and bytes of their metrics, that one statement writes."""

ROUND_BYTES = 8 << 20
MAX_WAITING = 100_000
"""Devices that are kept in memory until they are written."""

MAX_TEXT = 256
"""Characters of a text that are stored as a last value."""

MAX_SHAPES = 10_000
"""Sets of metrics that are kept in memory, each once for all the devices that send it."""

Shape = dict[str, type]
"""The kind of each metric of a device: bool, str or float."""


_Plain = tuple[int, int, int, int, int, float | None, Metrics]
"""What a device sent since it was written last, where all of its samples came in order and have the same
names, as is usual: first and last time, first and last receipt (all in microseconds since the epoch), how
many samples, seconds in which nobody listened to its partition, and the last metrics. A plain tuple, for to
make and replace one takes a third of the time that an object takes.
"""


@final
class _Waiting:
    """The same as `_Plain` for a device whose samples have different names or came out of order. `latest` has
    the metrics of its last sample; `values` and `times` have the metrics of all samples before, and when each
    was sent.
    """

    __slots__ = ("first", "last", "latest", "samples", "seen", "since", "times", "unheard", "values")

    def __init__(self, plain: _Plain) -> None:
        self.first, self.last, self.since, self.seen, self.samples, self.unheard, self.latest = plain
        self.values: Metrics = {}
        self.times: dict[str, int] = {}

    def take(self, at: int, metrics: Metrics, received: int, unheard: float | None) -> None:
        """Adds a sample."""
        self.samples += 1
        self.unheard = unheard
        self.seen = max(self.seen, received)
        if at < self.last:
            self.fold(at, metrics)
            return
        if metrics.keys() != self.latest.keys():
            self.settle()
        self.last = at
        self.latest = metrics

    def settle(self) -> None:
        """Moves the metrics of the last sample to those of the others, and leaves `latest` empty."""
        self.values.update(self.latest)
        self.times.update(dict.fromkeys(self.latest, self.last))
        self.latest = {}
        if len(self.times) > 2 * MAX_METRICS_PER_DEVICE:
            self.trim()

    def fold(self, at: int, metrics: Metrics) -> None:
        """Adds a sample that is older than the last one: only metrics that are newer than those that are
        held.
        """
        self.first = min(self.first, at)
        for name, value in metrics.items():
            if at >= self.times.get(name, at):
                self.values[name] = value
                self.times[name] = at
        if len(self.times) > 2 * MAX_METRICS_PER_DEVICE:
            self.trim()

    def trim(self, most: int = MAX_METRICS_PER_DEVICE) -> None:
        """Keeps only the metrics that were sent last."""
        kept = sorted(self.times, key=lambda name: self.times[name], reverse=True)[:most]
        self.values = {name: self.values[name] for name in kept}
        self.times = {name: self.times[name] for name in kept}


class Registry:
    """Notes what was committed, in the event loop; `run` writes it."""

    def __init__(self, database: Database, pressure: Pressure | None = None) -> None:
        """`database` should not be the one of the commits, so that they wait for nothing here. `pressure`: of
        the ingest of this process; while acknowledgements are late a round is smaller.
        """
        self._database = database
        self._pressure = pressure or Pressure()
        self._quotas = QuotasSettings()
        self._on_excess: Callable[[Excess], None] = ignore_excess
        self._waiting: dict[tuple[str, str], _Plain | _Waiting] = {}
        self._named: dict[tuple[str, str], tuple[str | None, str]] = {}
        self._writing: int | None = None
        """The first receipt of what is being written; None while nothing is."""
        self._known: dict[tuple[str, str], Shape] = {}
        self._shapes: dict[frozenset[tuple[str, type]], Shape] = {}

    def limit_metrics(self, quotas: QuotasSettings, on_excess: Callable[[Excess], None]) -> None:
        """Keeps as many metrics of a device as its quota allows, from now on. `on_excess` is called for
        devices that have more.
        """
        self._quotas = quotas
        self._on_excess = on_excess

    def introduce(self, customer: str, device: str, title: str | None, source: str) -> None:
        """Notes the source of a device, and its name where that is not its id."""
        if len(self._named) >= MAX_WAITING:
            # They are of devices that were refused or have sent nothing since. A start introduces them again.
            self._named.clear()
        self._named[customer, device] = (title, source)

    def complete_until(self, now: int) -> int:
        """Up to when everything that was noted is written, in microseconds since the epoch; at most `now`."""
        until = now
        longest_waiting = next(iter(self._waiting.values()), None)
        if longest_waiting is not None:
            until = min(until, _since(longest_waiting))
        if self._writing is not None:
            until = min(until, self._writing)
        return until

    def note(self, samples: Iterable[Sample], unheard: float | None = None) -> None:
        """Notes samples that are stored. This is a hot path: it takes a third of a microsecond for each.
        `unheard`: in how many seconds nobody listened to their partition.
        """
        waiting = self._waiting
        for (customer, device, at), metrics, received in samples:
            key = customer, device
            held = waiting.get(key)
            if held is None:
                if len(waiting) < MAX_WAITING:
                    waiting[key] = at, at, received, received, 1, unheard, metrics
                continue
            if type(held) is not _Waiting:
                first, last, since, seen, count, _, latest = held
                if at >= last and latest.keys() == metrics.keys():
                    seen = max(seen, received)
                    waiting[key] = first, at, since, seen, count + 1, unheard, metrics
                    continue
                held = waiting[key] = _Waiting(held)
            held.take(at, metrics, received, unheard)

    async def run(self) -> None:
        """Writes a round every few seconds until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Writes one round: the devices that have waited longest. Where the database is away they wait for
        the next round.
        """
        written = size = 0
        # It yields to acknowledgements as sync does (ADR 30): people can wait for what it writes, and no
        # device is judged to be silent while there is a backlog.
        most = MAX_WRITTEN * self._pressure.share(now=clock.monotonic())
        while self._waiting and written < most and size < ROUND_BYTES:
            part, payloads = self._take()
            self._writing = min(seen.since for seen in part)
            try:
                await self._write(part, payloads)
            except StoreRejected as error:  # only freshness is lost: the samples are stored
                log.warning("ingest.devices_not_written", devices=len(part), detail=str(error))
            except StoreError as error:
                log.debug("ingest.devices_deferred", devices=len(part), detail=str(error))
                self._put_back(part)
                return
            else:
                self._note_known(part)
            finally:
                self._writing = None
            written += len(part)
            size += sum(map(len, payloads))

    async def _write(self, part: list[Seen], payloads: list[bytes]) -> None:
        beyond = set(await store.write(self._database, part, payloads))
        beyond |= {(seen.customer, seen.device) for seen in part if seen.is_cut}
        if beyond:
            first = dict(sorted(beyond, reverse=True))
            for customer, device in sorted(first.items()):
                allowed = self._quotas.of(customer).metrics_per_device
                self._on_excess(
                    Excess(customer=customer, kind=QuotaKind.METRICS, allowed=allowed, device=device)
                )

    def _take(self) -> tuple[list[Seen], list[bytes]]:
        """Takes the next slice out, and its metrics as they are written. What comes meanwhile waits for
        another round.
        """
        part: list[Seen] = []
        payloads: list[bytes] = []
        size = 0
        allowed: dict[str, int] = {}
        for key in list(islice(self._waiting, SLICE)):
            most = allowed.get(key[0])
            if most is None:
                most = allowed[key[0]] = self._quotas.of(key[0]).metrics_per_device
            seen = self._seen(key, most)
            part.append(seen)
            payloads.append(seen.payload())
            size += len(payloads[-1])
            if size >= SLICE_BYTES:
                break
        return part, payloads

    def _seen(self, key: tuple[str, str], most: int) -> Seen:
        """Takes out what waits of a device. At most `most` of its metrics are kept."""
        is_cut = False
        held = self._waiting.pop(key)
        if type(held) is not _Waiting and len(held[-1]) > most:
            held = _Waiting(held)
        if type(held) is _Waiting:
            held.settle()
            is_cut = len(held.times) > most
            if is_cut:
                held.trim(most)
            first, last, since, seen = held.first, held.last, held.since, held.seen
            samples, silent, values, times = held.samples, held.unheard, held.values, held.times
        else:
            first, last, since, seen, samples, silent, values = held
            times = dict.fromkeys(values, last)
        title, source = self._named.pop(key, (None, None))
        return Seen(
            customer=key[0],
            device=key[1],
            title=title,
            source=source,
            seen=seen,
            first=first,
            last=last,
            values=_shortened(values),
            times=times,
            since=since,
            samples=samples,
            unheard=silent,
            is_news=_is_news(self._known.get(key), values),
            most=most,
            is_cut=is_cut,
        )

    def _put_back(self, part: list[Seen]) -> None:
        """Puts back what could not be written, below what has come meanwhile, which is newer."""
        for seen in part:
            key = seen.customer, seen.device
            if seen.source is not None:
                self._named.setdefault(key, (seen.title, seen.source))
            held = self._waiting.get(key)
            if held is not None:
                newer = _opened(held)
            elif len(self._waiting) < MAX_WAITING:
                newer = _Waiting((seen.last, seen.last, seen.seen, seen.seen, 0, seen.unheard, {}))
            else:
                continue
            self._waiting[key] = newer
            newer.settle()  # its last sample may be older than what is put back
            for name, value in seen.values.items():
                newer.fold(seen.times[name], {name: value})
            newer.last, newer.seen = max(newer.last, seen.last), max(newer.seen, seen.seen)
            newer.first, newer.since = min(newer.first, seen.first), min(newer.since, seen.since)
            newer.samples += seen.samples
        # `complete_until` wants the device that has waited longest first.
        self._waiting = dict(sorted(self._waiting.items(), key=lambda item: _since(item[1])))

    def _note_known(self, part: Iterable[Seen]) -> None:
        """Remembers which metrics these devices have sent: they are written, and no news any more. Devices
        with the same set of metrics share it in memory.
        """
        if len(self._known) > MAX_WAITING or len(self._shapes) > MAX_SHAPES:
            self._known.clear()
            self._shapes.clear()
        for seen in part:
            if seen.is_news:
                key = seen.customer, seen.device
                shape = {name: _kind(value) for name, value in seen.values.items()}
                held = self._known.get(key)
                if held is not None and len(held) + len(shape) <= MAX_METRICS_PER_DEVICE:
                    shape = {**held, **shape}
                self._known[key] = self._shapes.setdefault(frozenset(shape.items()), shape)


def _opened(held: _Plain | _Waiting) -> _Waiting:
    return held if type(held) is _Waiting else _Waiting(held)


def _since(held: _Plain | _Waiting) -> int:
    """The first receipt of what waits."""
    return held.since if type(held) is _Waiting else held[2]


def _kind(value: Value) -> type:
    kind = type(value)
    return kind if kind is bool or kind is str else float


def _is_news(known: Shape | None, values: Metrics) -> bool:
    """Whether a metric is not known or has another kind than before. Only then the database compares them
    with what it holds.
    """
    if known is None:
        return True
    for name, value in values.items():
        kind, was = type(value), known.get(name)
        if kind is not was and (was is not float or kind is bool or kind is str):
            return True
    return False


def _shortened(metrics: Metrics) -> Metrics:
    """The metrics with long texts cut. While they wait a text has a kilobyte at most, as any that was
    decoded.
    """
    if any(type(value) is str and len(value) > MAX_TEXT for value in metrics.values()):
        return {name: value[:MAX_TEXT] if type(value) is str else value for name, value in metrics.items()}
    return metrics
