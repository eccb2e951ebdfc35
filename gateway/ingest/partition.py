"""One ingest partition: keeps up its session at the broker and runs its pipeline, for one term of its lease.
What it subscribes can change while it runs.
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
from gateway.ingest.upkeep import QuotaUpkeep, ignore_excess
from gateway.model.backoff import full_jitter
from gateway.model.errors import BrokerRefused, LeaseLost, StoreError
from gateway.model.pressure import Pressure
from gateway.settings import Settings
from gateway.store import leases, moving, silence
from gateway.store.leases import Term
from gateway.store.pool import Database
from gateway.store.telemetry import Sample, TelemetryStore, ignore_stored_bytes

log = structlog.get_logger(__name__)


STEADY_SECONDS = 30.0
"""A session that lasted longer than this was good: the wait before the next attempt begins from the shortest.
"""

RECONNECT_CAP_SECONDS = 30.0
QUICK_END_SECONDS = 5.0
"""A session that ended sooner may have been ended by another client with our id."""

COUNTERS = (DROPPED_TOPIC,)
"""Counters that the broker publishes of itself. Over several brokers they are of no use."""

ASK_SECONDS = 0.5
"""From the first node that is to be asked for its births to the asking, so that many are asked together."""

DRAIN_SECONDS = 10.0

LEFTOVER_SECONDS = 60.0
"""The former sources are forgotten when no message that only they take has come for so long. A broker may
still have some queued when it has answered that their filters are unsubscribed.
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
        upkeep: QuotaUpkeep | None = None,
        tells_state: bool = False,
    ) -> None:
        """`tells_state`: whether this partition tells, for all of them, that the Sparkplug host application
        lives.
        """
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
            on_stored=None if registry is None else self._register_devices,
            on_database_back=self._resume_hearing,
            quotas=self._quotas,
            on_slowed=ignore_excess if upkeep is None else upkeep.add_excess,
            host=self._host,
            on_no_telemetry=self._hear_beside,
            on_marks=partial(moving.note_marks, database),
        )
        self._brokers = Brokers(settings.broker, number, self._pipeline)
        self._session: IngestSession | None = None
        self._record = SessionRecord(settings, database, number, self._brokers)
        self._log = SessionLog(number)
        self._optional = COUNTERS if self._brokers.count == 1 else ()
        self._next_decoder: tuple[Decoder, float] | None = None
        """The decoder without the former sources, and when (monotonic) it is put in force."""
        self._stopping = False
        self._ever_connected = False

    def _store(self, upkeep: QuotaUpkeep | None) -> TelemetryStore:
        return TelemetryStore(
            self._database,
            register_customers=self._settings.telemetry.auto_register_customers,
            max_devices=lambda customer: self._quotas.of(customer).devices,
            term=self.term,
            on_stored_bytes=ignore_stored_bytes if upkeep is None else upkeep.add_stored,
        )

    @property
    def quotas(self) -> Quotas:
        """The quotas of its customers."""
        return self._quotas

    @property
    def live_session(self) -> tuple[str, str] | None:
        """The client id of the session and the URL of its broker; None while no session is up."""
        if not self.connected:
            return None
        return self._record.client, self._brokers.current

    @property
    def connected(self) -> bool:
        """Whether there is a live connection on which the broker has granted our subscriptions."""
        return self._session is not None and not self._session.closed.done()

    def _register_devices(self, samples: Sequence[Sample]) -> None:
        assert self._registry is not None
        self._registry.note(samples, self.hearing.unheard)

    def heard_until(self, now: int) -> int | None:
        """Up to when all that devices sent is committed, in microseconds since the epoch. None while that is
        not known: the session is down, its queue at the broker is not worked off, or nothing is taken in.
        """
        if not self.connected or self._pipeline.is_stuck or self._stopping:
            return None
        was_idle = self._pipeline.was_idle_since(self.hearing.queue_begins)
        if not self.hearing.is_current(clock.monotonic(), was_idle=was_idle):
            return None
        return self._pipeline.complete_until(now)

    async def run(self) -> None:
        """Keeps the session up until cancelled or stopped. Raises BrokerRefused where the broker refuses us
        for good, and LeaseLost where a commit finds that the term is over.
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
        """Reads nothing more, commits and acknowledges what is in hand (for ten seconds at most), and sends
        DISCONNECT.
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
        """Until cancelled: asks edge nodes for their births. Sleeps while none is to be asked."""
        while True:
            await self._host.is_asking.wait()
            await asyncio.sleep(ASK_SECONDS)
            if self._session is not None and self.connected:
                self._host.ask(self._session.publish)

    def _hear_beside(self, topic: str, payload: bytes) -> None:
        """Takes what is subscribed beside the sources. Counts of the broker become metrics. What says that
        this host application is gone, as the will of a connection that was replaced does, is contradicted
        while we live.
        """
        if topic == DROPPED_TOPIC and payload.isdigit() and len(payload) < 19:
            metrics.BROKER_DROPPED.set(int(payload))
        if topic != self._state_topic or self._session is None or not self.connected:
            return
        if says_offline(payload):
            self._session.tell_state(online=True)

    async def subscribe(self, filters: Sequence[str], decoder: Decoder) -> None:
        """Subscribes these filters beside those that the live session holds, and uses this decoder from now
        on. A session that is down, or goes down meanwhile, subscribes them at its next connection.

        They are recorded before they are subscribed, for whoever serves the partition next has to know what
        the session may hold. Raises BrokerRefused and StoreError; to undo it, `subscribe` the former filters.
        """
        self._pipeline.decode_by(decoder)
        self._next_decoder = None
        self._filters = tuple(filters)
        session = self._session
        if session is None or not self.connected:
            return
        await self._record.add(self._filters)
        with suppress(ConnectionError):
            await session.subscribe(self._filters)

    async def unsubscribe_former(self, overlapping: Decoder, after: Decoder) -> None:
        """Unsubscribes what the session holds beside the filters that were subscribed last. Messages for the
        former filters may be on their way or queued: `overlapping` decodes them, until none comes any more
        and `after` takes its place.
        """
        self._pipeline.decode_by(overlapping)
        filters = self._filters
        session = self._session
        stale = [one for one in self._record.held if one not in filters]
        if session is not None and stale and self.connected:
            try:
                kept = await session.unsubscribe(stale)
                await self._record.replace((*filters, *kept))
            except (ConnectionError, StoreError) as error:  # unsubscribed at the next connection
                log.debug("ingest.filters_deferred", partition=self._number, detail=str(error))
        if after is overlapping:
            self._next_decoder = None
        else:
            self._next_decoder = (after, clock.monotonic() + LEFTOVER_SECONDS)

    @property
    def is_settled(self) -> bool:
        """Whether the former sources are forgotten."""
        return self._next_decoder is None

    def settle(self) -> None:
        """Called every few seconds: forgets the former sources when no message of theirs has come for a
        minute in which the broker could send.
        """
        if self._next_decoder is None:
            return
        after, until = self._next_decoder
        now = clock.monotonic()
        if self._pipeline.decoder.met_former() or not self.connected or self._pipeline.is_stuck:
            self._next_decoder = (after, now + LEFTOVER_SECONDS)
        elif now >= until:
            self._pipeline.decode_by(after)
            self._next_decoder = None

    async def _resume_hearing(self) -> None:
        """Records, before the first message comes, that nobody listened until now: so no device counts as
        silent for that time. Raises StoreError.
        """
        if self._registry is not None:
            await self.note_heard(clock.now(), break_seconds=0.0)

    async def note_heard(self, until: datetime, *, break_seconds: float) -> None:
        """Records that all that devices sent until then is known. Raises StoreError."""
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
            on_accepted=lambda: self._pipeline.grant_grace(self._record.absence()),
            state_topic=self._state_topic,
        )

    async def _keep_up(self) -> None:
        """Connects again and again until the partition is stopped."""
        attempt, quick_ends = 0, 0
        while not self._stopping:
            filters = self._filters
            await self._record.until_stored(partial(self._record.add, filters))
            await self._record.until_stored(self._resume_hearing)
            started = clock.monotonic()
            try:
                self._session = await self._brokers.connect(self._subscription(filters))
            except OptionalRefused:
                self._do_without_counters()
                continue
            except (BrokerRefused, OSError, TimeoutError) as error:
                reason = self._reason_not_connected(error)
            else:
                ended = await self._serve_session(self._session, filters)
                if ended is None:
                    continue
                reason = ended
                quick_ends = quick_ends + 1 if clock.monotonic() - started < QUICK_END_SECONDS else 0
            if self._stopping:
                return
            metrics.RECONNECTS.inc()
            is_steady = clock.monotonic() - started > STEADY_SECONDS
            attempt = 1 if is_steady else attempt + 1
            broker = self._brokers.current
            wait = self._seconds_to_reconnect(attempt, is_steady=is_steady)
            self._log.down(broker, reason, attempt, quick_ends, wait)
            await asyncio.sleep(wait)

    def _do_without_counters(self) -> None:
        self._optional = ()
        log.info(
            "ingest.broker_counters_refused",
            partition=self._number,
            detail=f"the broker has no {DROPPED_TOPIC}: what it drops is not counted",
        )

    def _reason_not_connected(self, error: BrokerRefused | OSError | TimeoutError) -> str:
        """Why there is no session, in words. Raises BrokerRefused where there never was one: then waiting
        cannot help, and the daemon ends with the message.
        """
        if isinstance(error, BrokerRefused) and not self._ever_connected:
            raise error
        if isinstance(error, QosRefused):
            self._log.unsafe(self._brokers.current, str(error))
        seconds = self._settings.broker.connect_timeout.total_seconds()
        return str(error) or f"no answer within {seconds:g} s"

    def _seconds_to_reconnect(self, attempt: int, *, is_steady: bool) -> float:
        """How long to wait before the next attempt: not at all while another broker of the list was not
        tried, and with each round through the list longer.
        """
        if not self._brokers.left(steady=is_steady):
            return 0.0
        rounds = -(-attempt // self._brokers.count)
        return full_jitter(rounds, rand=random.random(), base_seconds=0.5, cap_seconds=RECONNECT_CAP_SECONDS)

    async def _serve_session(self, session: IngestSession, filters: tuple[str, ...]) -> str | None:
        """Returns when the session has ended: for which reason, or None where we ended it to connect again at
        once.
        """
        self._log.granted()
        if (
            self._filters != filters
        ):  # they changed while it connected: the next session subscribes the new ones
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
        being_subscribed = tuple(one for one in self._filters if one not in filters)
        held = (*filters, *being_subscribed)
        with suppress(StoreError):  # else stale filters are unsubscribed once more at the next connection
            await self._record.replace(held, is_all=True)
