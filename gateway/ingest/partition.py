"""One ingest partition: leased by one replica, its broker session kept up, its pipeline running. What it
subscribes can change while it runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

import structlog

from gateway import clock, metrics
from gateway.ingest.brokers import Brokers
from gateway.ingest.certificate import says_offline, state_topic
from gateway.ingest.decode import Decoder
from gateway.ingest.hearing import Hearing
from gateway.ingest.host import Host
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quotas import Quotas
from gateway.ingest.registry import Registry
from gateway.ingest.session import IngestSession
from gateway.ingest.session_log import SessionLog
from gateway.ingest.session_record import SessionRecord
from gateway.ingest.subscriptions import DROPPED_TOPIC, OptionalRefused, QosRefused, Subscription
from gateway.ingest.upkeep import Upkeep, unheard
from gateway.model.backoff import full_jitter
from gateway.model.errors import BrokerRefused, LeaseLost, StoreError
from gateway.model.pressure import Pressure
from gateway.settings import Settings
from gateway.store import leases, moving, silence
from gateway.store.leases import Term
from gateway.store.pool import Database
from gateway.store.telemetry import Sample, TelemetryStore
from gateway.store.telemetry import unheard as store_unheard

log = structlog.get_logger(__name__)


STEADY_SECONDS = 30.0
"""A session that lasted so long was good: the next attempt begins without a wait."""

RECONNECT_CAP_SECONDS = 30.0
COUNTERS = (DROPPED_TOPIC,)
"""Of the broker's own. Over several brokers they are of no use."""

ASK_SECONDS = 0.5
DRAIN_SECONDS = 10.0

LEFTOVER_SECONDS = 60.0
"""How long no message came that only the sources of before take, until they are forgotten. A broker may still
have some queued when it says that their filters are unsubscribed.
"""


class Partition:
    """Serves a partition for one term of its lease. Cancelled when the lease is lost."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        decoder: Decoder,
        number: int,
        filters: Sequence[str],
        *,
        term: Term,
        pressure: Pressure | None = None,
        registry: Registry | None = None,
        quotas: Quotas | None = None,
        upkeep: Upkeep | None = None,
        tells_state: bool = False,
    ) -> None:
        """`tells_state`: this one tells that the host application lives, for all of them."""
        self.term = term
        self._settings = settings
        self._database = database
        self._number = number
        self._filters = tuple(filters)
        self.hearing = Hearing()
        self._registry = registry
        self._quotas = quotas or Quotas(settings.quotas)
        self._host = Host(settings.telemetry.sparkplug, database)
        self._state_topic = state_topic(settings.telemetry.sparkplug) if tells_state else None
        self._pipeline = Pipeline(
            settings.telemetry,
            decoder,
            self._store(upkeep),
            pressure,
            note=None if registry is None else self._note,
            resumed=self._resume_hearing,
            quotas=self._quotas,
            slowed=unheard if upkeep is None else upkeep.note,
            host=self._host,
            listener=self._hear,
            marked=partial(moving.note_marks, database),
        )
        self._brokers = Brokers(settings.broker, number, self._pipeline)
        self._session: IngestSession | None = None
        self._record = SessionRecord(settings, database, number, self._brokers)
        self._log = SessionLog(number)
        self._optional = COUNTERS if self._brokers.count == 1 else ()
        self._succeeding: tuple[Decoder, float] | None = None
        self._stopping = False
        self._ever_connected = False

    def _store(self, upkeep: Upkeep | None) -> TelemetryStore:
        return TelemetryStore(
            self._database,
            register_customers=self._settings.telemetry.auto_register_customers,
            max_devices=lambda customer: self._quotas.of(customer).devices,
            term=self.term,
            count=store_unheard if upkeep is None else upkeep.stored,
        )

    @property
    def quotas(self) -> Quotas:
        """What bounds its customers."""
        return self._quotas

    @property
    def up(self) -> tuple[str, str] | None:
        """The client id whose session is up, and its broker; None while it is not."""
        return (self._record.client, self._brokers.current) if self.connected else None

    @property
    def connected(self) -> bool:
        """Whether the broker has granted our subscriptions on a connection that lives."""
        return self._session is not None and not self._session.closed.done()

    def _note(self, samples: Sequence[Sample]) -> None:
        assert self._registry is not None
        self._registry.note(samples, self.hearing.unheard)

    def heard_until(self, now: int) -> int | None:
        """Up to when, in microseconds, all that devices sent is committed; None while that is not known: the
        session is down, what was queued meanwhile is not worked off, or nothing is taken in.
        """
        moment = clock.monotonic()
        idle = self._pipeline.was_idle_since(self.hearing.queue_begins)
        if not self.connected or self._pipeline.is_stuck or self._stopping:
            return None
        if not self.hearing.is_current(moment, idle_since_up=idle):
            return None
        return self._pipeline.complete_until(now)

    async def run(self) -> None:
        """Keeps the session up until cancelled or stopped. Raises BrokerRefused when the broker will never
        have us, and LeaseLost when a commit finds the term over.
        """
        await self._record.load()
        is_over = False
        try:
            async with asyncio.TaskGroup() as group:
                commits = group.create_task(self._pipeline.run(), name=f"commits of partition {self._number}")
                asking = group.create_task(self._ask_births(), name=f"births of partition {self._number}")
                try:
                    await self._keep_up()
                finally:
                    if self._session is not None:
                        self._session.end("the partition is given up")
                    commits.cancel()
                    asking.cancel()
                    metrics.CONNECTED.labels(str(self._number)).set(0)
        except* LeaseLost:
            is_over = True
        if is_over:
            raise leases.lost(self.term)

    async def stop(self) -> None:
        """Reads no more, commits and acknowledges what is in hand (for ten seconds at
        most), says DISCONNECT.
        """
        self._stopping = True
        session = self._session
        if session is None:
            return
        session.finish()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._pipeline.drained()
        except TimeoutError:
            log.warning(
                "ingest.drain_timed_out",
                partition=self._number,
                advice="what is not acknowledged stays at the broker",
            )
        session.tell_state(online=False)
        session.end("the gateway stops")

    async def _ask_births(self) -> None:
        """Asks edge nodes for their births, until cancelled. Where none is to be asked nothing wakes up."""
        while True:
            await self._host.is_asking.wait()
            await asyncio.sleep(ASK_SECONDS)
            if self._session is not None and self.connected:
                self._host.ask(self._session.publish)

    def _hear(self, topic: str, payload: bytes) -> None:
        """The broker's own count is told. Whoever says that we are gone while we live, as the will of a
        connection that was replaced does, is contradicted.
        """
        if topic == DROPPED_TOPIC and payload.isdigit() and len(payload) < 19:
            metrics.BROKER_DROPPED.set(int(payload))
        if topic != self._state_topic or self._session is None or not self.connected:
            return
        if says_offline(payload):
            self._session.tell_state(online=True)

    async def subscribe(self, filters: Sequence[str], decoder: Decoder) -> None:
        """Subscribes these beside what the live session holds, and decodes by this from now on. A session
        that is down, or goes down meanwhile, takes them at its next connection.

        They are on record first: whoever serves the partition next has to know what the session may hold.
        Raises BrokerRefused and StoreError; `subscribe` of the filters of before makes it undone.
        """
        self._pipeline.decode_by(decoder)
        self._succeeding = None
        self._filters = tuple(filters)
        session = self._session
        if session is None or not self.connected:
            return
        await self._record.add(self._filters)
        with suppress(ConnectionError):
            await session.subscribe(self._filters)

    async def unsubscribe_former(self, overlapping: Decoder, after: Decoder) -> None:
        """Unsubscribes what the session holds beside the filters that were subscribed last. Messages of the
        former ones, in flight or still queued, are taken by `overlapping`; `after` follows it when none come
        any more.
        """
        self._pipeline.decode_by(overlapping)
        filters, session = self._filters, self._session
        stale = [one for one in self._record.held if one not in filters]
        if session is not None and stale and self.connected:
            try:
                kept = await session.unsubscribe(stale)
                await self._record.replace((*filters, *kept))
            except (ConnectionError, StoreError) as error:  # unsubscribed at the next connection
                log.debug("ingest.filters_deferred", partition=self._number, detail=str(error))
        self._succeeding = None if after is overlapping else (after, clock.monotonic() + LEFTOVER_SECONDS)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is known any more of what was configured before."""
        return self._succeeding is None

    def settle(self) -> None:
        """Asked now and then: forgets the sources of before when nothing of theirs came for a minute in which
        the broker could send.
        """
        if self._succeeding is None:
            return
        after, until = self._succeeding
        now = clock.monotonic()
        if self._pipeline.decoder.met_former() or not self.connected or self._pipeline.is_stuck:
            self._succeeding = (after, now + LEFTOVER_SECONDS)
        elif now >= until:
            self._pipeline.decode_by(after)
            self._succeeding = None

    async def _resume_hearing(self) -> None:
        """What passed since somebody listened last is a break, on record before the first message comes: so
        what is told of it counts from here. Raises StoreError.
        """
        if self._registry is not None:
            await self.note_heard(clock.now(), break_seconds=0.0)

    async def note_heard(self, until: datetime, *, break_seconds: float) -> None:
        """Says that all is known up to then. Raises StoreError."""
        heard = await silence.note(
            self._database,
            self._settings.broker.partitions,
            self._number,
            until,
            break_seconds=break_seconds,
        )
        self.hearing.noted(heard)

    def _subscription(self, filters: tuple[str, ...]) -> Subscription:
        never = () if self._brokers.count == 1 else COUNTERS
        return Subscription(
            client_id=self._record.client,
            partition=self._number,
            filters=filters,
            stale=self._record.stale(filters, never),
            optional=self._optional,
            let_in=lambda: self._pipeline.absent(self._record.absence()),
            state_topic=self._state_topic,
        )

    async def _keep_up(self) -> None:
        attempt, quick_ends = 0, 0
        while not self._stopping:
            filters = self._filters
            await self._record.until_stored(partial(self._record.add, filters))
            await self._record.until_stored(self._resume_hearing)
            started = clock.monotonic()
            try:
                self._session = await self._brokers.connect(self._subscription(filters))
            except OptionalRefused:
                self._optional = ()
                log.info(
                    "ingest.broker_counters_refused",
                    partition=self._number,
                    detail=f"the broker has no {DROPPED_TOPIC}: what it drops is not counted",
                )
                continue
            except BrokerRefused as error:
                if not self._ever_connected:
                    raise
                reason = str(error)
            except QosRefused as error:
                reason = str(error)
                self._log.unsafe(self._brokers.current, reason)
            except (OSError, TimeoutError) as error:
                seconds = self._settings.broker.connect_timeout.total_seconds()
                reason = str(error) or f"no answer within {seconds:g} s"
            else:
                ended = await self._to_its_end(self._session, filters)
                if ended is None:
                    continue
                reason = ended
                quick_ends = quick_ends + 1 if clock.monotonic() - started < 5.0 else 0
            if self._stopping:
                return
            metrics.RECONNECTS.inc()
            is_steady = clock.monotonic() - started > STEADY_SECONDS
            attempt, broker, wait = 1 if is_steady else attempt + 1, self._brokers.current, 0.0
            if self._brokers.left(steady=is_steady):
                rounds = -(-attempt // self._brokers.count)
                wait = full_jitter(
                    rounds, rand=random.random(), base_seconds=0.5, cap_seconds=RECONNECT_CAP_SECONDS
                )
            self._log.down(broker, reason, attempt, quick_ends, wait)
            await asyncio.sleep(wait)

    async def _to_its_end(self, session: IngestSession, filters: tuple[str, ...]) -> str | None:
        """Why the session ended; None where it was to end, and another is tried at once."""
        self._log.granted()
        if self._filters != filters:  # they changed while it connected: the next one has them
            session.end("the sources changed")
            await session.closed
            return None
        self.hearing.went_up(clock.monotonic())
        await self._went_up(filters, session.session_present)
        broker = self._brokers.current
        ended = await self._brokers.ended(session)
        now = clock.monotonic()
        self._record.went_down(broker, now)
        self.hearing.went_down(now)
        metrics.CONNECTED.labels(str(self._number)).set(0)
        return ended

    async def _went_up(self, filters: tuple[str, ...], present: bool) -> None:
        self._ever_connected = True
        if self._session is not None:
            self._session.tell_state(online=True)
        metrics.CONNECTED.labels(str(self._number)).set(1)
        self._log.up(self._brokers.current, filters, session_present=present)
        held = (*filters, *(one for one in self._filters if one not in filters))  # being subscribed just now
        with suppress(StoreError):  # unsubscribed once more at the next connection
            await self._record.replace(held, is_all=True)
