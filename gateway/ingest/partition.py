"""One ingest partition: leased by one replica, its broker session kept up, its pipeline running. What it
subscribes can change while it runs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog

from gateway import clock, metrics
from gateway.ingest.certificate import says_offline, state_topic
from gateway.ingest.decode import Decoder
from gateway.ingest.host import Host
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.registry import Registry
from gateway.ingest.session import (
    DROPPED_TOPIC,
    OptionalRefused,
    QosRefused,
    Session,
    Subscription,
    connect,
    stale_filters,
)
from gateway.model.backoff import full_jitter
from gateway.model.errors import BrokerRefused, LeaseLost, StoreError
from gateway.model.pressure import Pressure
from gateway.settings import Settings
from gateway.store import leases, telemetry
from gateway.store.leases import Term
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore

log = structlog.get_logger(__name__)

T = TypeVar("T")

STEADY_SECONDS = 30.0
"""A session that lasted so long was good: the next attempt begins without a wait."""

RECONNECT_CAP_SECONDS = 30.0
SUSPECT_AFTER = 4
ASK_SECONDS = 0.5
DRAIN_SECONDS = 10.0
LEFTOVER_SECONDS = 60.0
"""How long no message came that only the sources of before take, until they are forgotten. A broker may still
have some queued when it says that their filters are given up.
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
        tells_state: bool = False,
    ) -> None:
        """`tells_state`: this one tells that the host application lives, for all of them."""
        self.term = term
        self._settings = settings
        self._database = database
        self._number = number
        self._filters = tuple(filters)
        store = TelemetryStore(
            database,
            register_customers=settings.telemetry.auto_register_customers,
            max_devices=settings.telemetry.max_devices,
            term=term,
        )
        self._host = Host(settings.telemetry.sparkplug, database)
        self._state_topic = state_topic(settings.telemetry.sparkplug) if tells_state else None
        self._pipeline = Pipeline(
            settings.telemetry,
            decoder,
            store,
            pressure,
            note=None if registry is None else registry.note,
            host=self._host,
            listener=self._hear,
        )
        self._session: Session | None = None
        self._client = ""
        self._held: tuple[str, ...] = ()
        self._recording = asyncio.Lock()
        self._succeeding: tuple[Decoder, float] | None = None
        self._stopping = False
        self._ever_connected = False
        self._said_unsafe = False

    @property
    def connected(self) -> bool:
        """Whether the broker has granted our subscriptions on a connection that lives."""
        return self._session is not None and not self._session.closed.done()

    async def run(self) -> None:
        """Keeps the session up until cancelled or stopped. Raises BrokerRefused when the broker will never
        have us, and LeaseLost when a commit finds the term over.
        """
        self._client, self._held = await self._identify()
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
        """Asks edge nodes for their births, until cancelled."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if self._session is not None and self.connected:
                self._host.ask(self._session.publish)

    def _hear(self, topic: str, payload: bytes) -> None:
        """Whoever says that we are gone while we live, as the will of a connection that was replaced does, is
        contradicted.
        """
        if topic != self._state_topic or self._session is None or not self.connected:
            return
        if says_offline(payload):
            self._session.tell_state(online=True)

    async def take(self, filters: Sequence[str], decoder: Decoder) -> None:
        """Subscribes these beside what the live session holds, and decodes by this from now on. A session
        that is down, or goes down meanwhile, takes them at its next connection.

        They are on record first: whoever serves the partition next has to know what the session may hold.
        Raises BrokerRefused and StoreError; `take` of the filters of before makes it undone.
        """
        self._pipeline.decode_by(decoder)
        self._succeeding = None
        self._filters = tuple(filters)
        session = self._session
        if session is None or not self.connected:
            return
        await self._record(self._filters)
        with suppress(ConnectionError):
            await session.change(self._filters)

    async def let_go(self, overlapping: Decoder, after: Decoder) -> None:
        """Unsubscribes what the session holds beside the filters that it took. Messages of what is given up,
        in flight or still queued, are taken by `overlapping`; `after` follows it when none come any more.
        """
        self._pipeline.decode_by(overlapping)
        filters, session = self._filters, self._session
        stale = [one for one in self._held if one not in filters]
        if session is not None and stale and self.connected:
            try:
                kept = await session.give_up(stale)
                async with self._recording:
                    held = (*filters, *kept)
                    await telemetry.remember_subscriptions(self._database, self._client, held)
                    self._held = held
            except (
                ConnectionError,
                StoreError,
            ) as error:  # given up at the next connection, or once more then
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

    async def _record(self, filters: tuple[str, ...]) -> None:
        """Adds to what the session may hold, in the database before it does. Raises StoreError."""
        async with self._recording:
            if added := tuple(one for one in filters if one not in self._held):
                held = (*self._held, *added)
                await telemetry.remember_subscriptions(self._database, self._client, held)
                self._held = held

    async def _identify(self) -> tuple[str, tuple[str, ...]]:
        """Our client id, and what its session may hold."""

        async def ask() -> tuple[str, tuple[str, ...]]:
            client = await telemetry.client_id(self._database, self._settings.instance, self._number)
            return client, tuple(sorted(await telemetry.subscriptions(self._database, client)))

        return await self._until_stored(ask)

    async def _until_stored(self, operation: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                return await operation()
            except StoreError as error:
                attempt += 1
                log.debug("ingest.session_deferred", partition=self._number, detail=str(error))
                await asyncio.sleep(
                    full_jitter(attempt, rand=random.random(), base_seconds=0.1, cap_seconds=1.0)
                )

    async def _keep_up(self) -> None:
        attempt, quick_ends = 0, 0
        optional: tuple[str, ...] = (DROPPED_TOPIC,)
        while not self._stopping:
            filters = self._filters
            await self._until_stored(partial(self._record, filters))
            subscription = Subscription(
                client_id=self._client,
                partition=self._number,
                filters=filters,
                stale=stale_filters(self._held, filters),
                optional=optional,
                state_topic=self._state_topic,
            )
            started = clock.monotonic()
            try:
                self._session = await connect(self._settings.broker, subscription, self._pipeline)
            except OptionalRefused:
                optional = ()
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
                self._say_unsafe(reason)
            except (OSError, TimeoutError) as error:
                reason = (
                    str(error)
                    or f"no answer within {self._settings.broker.connect_timeout.total_seconds():g} s"
                )
            else:
                self._said_unsafe = False
                if self._filters != filters:  # they changed while it connected: the next one has them
                    self._session.end("the sources changed")
                    await self._session.closed
                    continue
                await self._went_up(filters, self._session.session_present)
                reason = await self._session.closed
                metrics.CONNECTED.labels(str(self._number)).set(0)
                quick_ends = quick_ends + 1 if clock.monotonic() - started < 5.0 else 0
            if self._stopping:
                return
            metrics.RECONNECTS.inc()
            attempt = 1 if clock.monotonic() - started > STEADY_SECONDS else attempt + 1
            wait = full_jitter(
                attempt, rand=random.random(), base_seconds=0.5, cap_seconds=RECONNECT_CAP_SECONDS
            )
            self._say_down(reason, attempt, quick_ends, wait)
            await asyncio.sleep(wait)

    async def _went_up(self, filters: tuple[str, ...], present: bool) -> None:
        self._ever_connected = True
        if self._session is not None:
            self._session.tell_state(online=True)
        metrics.CONNECTED.labels(str(self._number)).set(1)
        log.info(
            "ingest.connected",
            partition=self._number,
            broker=self._settings.broker.url,
            session_present=present,
            filters=list(filters),
        )
        async with self._recording:
            held = (*filters, *(one for one in self._filters if one not in filters))  # being taken just now
            with suppress(StoreError):  # given up once more at the next connection
                await telemetry.remember_subscriptions(self._database, self._client, held)
                self._held = held

    def _say_unsafe(self, reason: str) -> None:
        """Once, until the broker grants what we need."""
        if not self._said_unsafe:
            log.error(
                "ingest.qos_refused",
                partition=self._number,
                broker=self._settings.broker.url,
                reason=reason,
                advice=(
                    "at QoS 0 a message that is lost on its way is lost for good: allow QoS 1 at the broker,"
                    " or set broker.allow_qos0 to take that; asking again"
                ),
            )
        self._said_unsafe = True

    def _say_down(self, reason: str, attempt: int, quick_ends: int, wait: float) -> None:
        if (attempt == 1 and not self._said_unsafe) or quick_ends == SUSPECT_AFTER:
            advice = "start the broker or correct broker.url; trying until it answers"
            if reason.startswith("malformed packet"):
                advice = (
                    "the broker sends what is no MQTT 5; what is not acknowledged comes again: find and"
                    " remove it there"
                )
            elif quick_ends >= SUSPECT_AFTER:
                advice = (
                    "it accepts us and ends the connection at once, again and again: does another gateway use"
                    " the same instance name?"
                )
            log.warning(
                "ingest.disconnected",
                partition=self._number,
                broker=self._settings.broker.url,
                reason=reason,
                advice=advice,
                retry_in_seconds=round(wait, 2),
            )
