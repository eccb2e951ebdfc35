"""What ingest tells of devices: kept in memory as batches are committed, written beside them. It costs no
commit anything, and a process that is killed loses some seconds of freshness and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import final

import structlog

from gateway import clock
from gateway.ingest.upkeep import unheard
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
"""Between two rounds, and so between two writes of one device at least."""

MAX_WRITTEN = 2_500
"""Devices of a round: of more that send, those wait longest that were written last. Bounds what it costs
PostgreSQL. Half of them while acknowledgements are late.
"""

SLICE = 500
SLICE_BYTES = 1 << 20
ROUND_BYTES = 8 << 20
MAX_WAITING = 100_000
MAX_TEXT = 256
"""Characters of a text that are kept as a last value."""

MAX_SHAPES = 10_000
"""Sets of metrics that are kept once for all the devices that send them."""

Shape = dict[str, type]
"""The kind of each metric of a device: bool, str or float."""


_Plain = tuple[int, int, int, int, int, float | None, Metrics]
"""What a device sent since it was written last, where all of it came in order and has the same names, as most
does: first and last time, first and last receipt, how many samples, seconds in which nothing was read of its
partition, and the last metrics. A tuple is made, and replaced, in a third of the time that an object takes.
"""


@final
class _Waiting:
    """The same of a device whose samples are of several kinds, or came out of order. `latest`: the metrics of
    its last sample as they came; `values` and `times` are of all before.
    """

    __slots__ = ("first", "last", "latest", "samples", "seen", "since", "times", "unheard", "values")

    def __init__(self, plain: _Plain) -> None:
        self.first, self.last, self.since, self.seen, self.samples, self.unheard, self.latest = plain
        self.values: Metrics = {}
        self.times: dict[str, int] = {}

    def take(self, at: int, metrics: Metrics, received: int, unheard: float | None) -> None:
        """One more sample."""
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
        """Moves the last sample to the rest; `latest` is empty then."""
        self.values.update(self.latest)
        self.times.update(dict.fromkeys(self.latest, self.last))
        self.latest = {}
        if len(self.times) > 2 * MAX_METRICS_PER_DEVICE:
            self.trim()

    def fold(self, at: int, metrics: Metrics) -> None:
        """Takes a sample that is older than the last one: only what is news."""
        self.first = min(self.first, at)
        for name, value in metrics.items():
            if at >= self.times.get(name, at):
                self.values[name] = value
                self.times[name] = at
        if len(self.times) > 2 * MAX_METRICS_PER_DEVICE:
            self.trim()

    def trim(self, most: int = MAX_METRICS_PER_DEVICE) -> None:
        """Keeps the metrics that came last."""
        kept = sorted(self.times, key=lambda name: self.times[name], reverse=True)[:most]
        self.values = {name: self.values[name] for name in kept}
        self.times = {name: self.times[name] for name in kept}


class Registry:
    """Takes what was committed, by one loop; `run` writes it."""

    def __init__(self, database: Database, pressure: Pressure | None = None) -> None:
        """`database` is best not the one of the commits: they wait for nothing here. `pressure`: of the
        ingest that tells; while acknowledgements are late a round is smaller.
        """
        self._database = database
        self._pressure = pressure or Pressure()
        self._quotas = QuotasSettings()
        self._tell: Callable[[Excess], None] = unheard
        self._waiting: dict[tuple[str, str], _Plain | _Waiting] = {}
        self._named: dict[tuple[str, str], tuple[str | None, str]] = {}
        self._writing: int | None = None
        self._known: dict[tuple[str, str], Shape] = {}
        self._shapes: dict[frozenset[tuple[str, type]], Shape] = {}

    def bound(self, settings: QuotasSettings, tell: Callable[[Excess], None]) -> None:
        """So many metrics of a device are known from now on; `tell` of devices that have more."""
        self._quotas, self._tell = settings, tell

    def introduce(self, customer: str, device: str, title: str | None, source: str) -> None:
        """Tells whence a device comes, and its name where that is not its id."""
        if len(self._named) >= MAX_WAITING:
            self._named.clear()  # of devices that were refused, or have not sent since: told again at a start
        self._named[customer, device] = (title, source)

    def complete_until(self, now: int) -> int:
        """Up to when everything that was noted is written, in microseconds: what waits
        longest stands first.
        """
        oldest = next(iter(self._waiting.values()), None)
        waits = now if oldest is None else _since(oldest)
        return min(now, waits, now if self._writing is None else self._writing)

    def note(self, samples: Iterable[Sample], unheard: float | None = None) -> None:
        """Takes samples that are stored. The hot path: a third of a microsecond each. `unheard`: seconds in
        which nothing was read of their partition.
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
        """Writes until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """One round: those that have waited longest. A database that is away is waited for until the next
        one.
        """
        written = size = 0
        # as sync yields (ADR 30): who reads it can wait, and in a backlog nobody is judged to be silent
        most = MAX_WRITTEN * self._pressure.share(now=clock.monotonic())
        while self._waiting and written < most and size < ROUND_BYTES:
            part, payloads = self._take()
            self._writing = min(seen.since for seen in part)
            try:
                await self._write(part, payloads)
            except StoreRejected as error:  # what is stored already is not lost with it
                log.warning("ingest.devices_not_written", devices=len(part), detail=str(error))
            except StoreError as error:
                log.debug("ingest.devices_deferred", devices=len(part), detail=str(error))
                self._put_back(part)
                return
            else:
                self._know(part)
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
                self._tell(Excess(customer=customer, kind=QuotaKind.METRICS, allowed=allowed, device=device))

    def _take(self) -> tuple[list[Seen], list[bytes]]:
        """The next slice, and what of it is written; taken out, so that what comes meanwhile waits anew."""
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
        """What waits of a device, taken out."""
        is_cut = False
        held = self._waiting.pop(key)
        if type(held) is not _Waiting and len(held[-1]) > most:
            held = _Waiting(held)
        if type(held) is _Waiting:
            held.settle()
            if is_cut := len(held.times) > most:
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
        """What came meanwhile is newer, and is told on top of it."""
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
        # what waits longest stands first again: by it is told up to when all is written
        self._waiting = dict(sorted(self._waiting.items(), key=lambda item: _since(item[1])))

    def _know(self, part: Iterable[Seen]) -> None:
        """What these have sent is held, and no news any more. Equal sets of metrics are one in memory."""
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
    """Its first receipt."""
    return held.since if type(held) is _Waiting else held[2]


def _kind(value: Value) -> type:
    kind = type(value)
    return kind if kind is bool or kind is str else float


def _is_news(known: Shape | None, values: Metrics) -> bool:
    """Whether something of it is not known, or of another kind: only then is it
    compared with what is held.
    """
    if known is None:
        return True
    for name, value in values.items():
        kind, was = type(value), known.get(name)
        if kind is not was and (was is not float or kind is bool or kind is str):
            return True
    return False


def _shortened(metrics: Metrics) -> Metrics:
    """With its texts cut; they have a kilobyte at most while they wait, as any that was decoded."""
    if any(type(value) is str and len(value) > MAX_TEXT for value in metrics.values()):
        return {name: value[:MAX_TEXT] if type(value) is str else value for name, value in metrics.items()}
    return metrics
