"""The only composition root: builds every part, runs them in one TaskGroup, and stops them in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import structlog

from connectors.kit.egress import transport
from gateway import clock, metrics, tracing
from gateway.configuration import DeclaredConnection, Loaded
from gateway.connections.apply import apply, prepare
from gateway.credentials.endpoint_secrets import EndpointSealer
from gateway.engine import Engine
from gateway.events.backlog import Backlog
from gateway.events.commands import Commands, Explain, Synchronise
from gateway.events.mqtt_publisher import StatusPublisher
from gateway.events.record_publisher import RecordPublisher
from gateway.events.relay import Relay
from gateway.events.webhook_request import Requests
from gateway.events.webhooks import WebhookSender
from gateway.ingest import Ingest
from gateway.ingest.explain import explain_for
from gateway.ingest.registry import Registry
from gateway.ingest.silence import SilenceWatch
from gateway.model.access import Caller
from gateway.model.errors import StoreError
from gateway.model.explanation import Explanation
from gateway.model.pressure import Pressure
from gateway.outage import Outage
from gateway.processes.collector import spare_what_is_loaded
from gateway.processes.priorities import ask_for_short_slices
from gateway.processes.readiness import Readiness
from gateway.processes.service_manager import Supervision
from gateway.processes.supervisor import HttpProcess, listen_all
from gateway.reload import Reloads
from gateway.settings import Settings
from gateway.store import connections as connection_store
from gateway.store import counts, judgements, records, retention, sparkplug
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.presence import Presence

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_COMMITS = 8
"""Partitions whose batches are committed at once; more wait for each other's, which is soon."""

GRACE_SECONDS = 20.0
TRIM_SECONDS = 30.0
RETENTION_SECONDS = 3600.0
LISTEN_SECONDS = 5.0


async def run(
    settings: Settings,
    declared: Sequence[DeclaredConnection],
    *,
    reload: Callable[[], Awaitable[Loaded]] | None = None,
    ready: Callable[[], None] | None = None,
    handle_signals: bool = True,
) -> None:
    """Runs the daemon until SIGTERM, SIGINT or cancellation; a second signal stops hard.

    `reload` reads the configuration again at SIGHUP; a faulty one changes nothing. Raises ConfigError and
    BrokerRefused when it can never work, and the error of a core loop that died.
    """
    replica = settings.replica or f"{socket.gethostname().split('.')[0][:40]}-{os.getpid()}"
    owner = f"{replica}/{secrets.token_hex(4)}"
    stopping = asyncio.Event()
    tracing.setup(settings.tracing, instance=settings.instance, replica=replica, process="daemon")
    ask_for_short_slices()
    spare_what_is_loaded()
    if handle_signals:
        _handle_signals(stopping)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.stop)
        supervision = await stack.enter_async_context(Supervision.open(stopping))
        readiness = Readiness()
        # before the database and the broker's session: a second daemon by mistake must take over nothing
        listening = await listen_all(settings.http)
        for one in listening:
            stack.callback(one.close)
        http = HttpProcess(settings, readiness, owner=owner, listening=listening)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(http.run(), name="http")
            opened = await _until_stopped(_open(settings), stopping)
            if opened is None:
                await _end(serving, http.stop())
                return
            for database in opened:
                stack.push_async_callback(database.close)
            database, for_ingest = opened
            daemon = _Daemon(
                settings=settings,
                database=database,
                for_ingest=for_ingest,
                replica=replica,
                owner=owner,
                reload=reload,
            )

            def started() -> None:
                supervision.ready()
                if ready is not None:
                    ready()

            await daemon.serve(declared, http, readiness, stopping, started)
            await _end(serving, http.stop())
    log.info("gateway.stopped")


@dataclass(frozen=True, kw_only=True)
class _Daemon:
    """Everything that needs the database."""

    settings: Settings
    database: Database
    for_ingest: Database
    """Sessions that nobody else takes: a commit, and the acknowledgement after it,
    waits for no other work.
    """
    replica: str
    owner: str
    reload: Callable[[], Awaitable[Loaded]] | None

    async def serve(
        self,
        declared: Sequence[DeclaredConnection],
        http: HttpProcess,
        readiness: Readiness,
        stopping: asyncio.Event,
        ready: Callable[[], None],
    ) -> None:
        """Until asked to stop. Stop order: ingest, sync, status, so that what is taken in is told before we
        leave.
        """
        presence = Presence(self.database, self.owner, lease_seconds=self.settings.sync.lease.total_seconds())
        # before anything is leased, and until nothing is any more
        async with presence.shown():
            await self._serve(presence, declared, http, readiness, stopping, ready)

    async def _serve(
        self,
        presence: Presence,
        declared: Sequence[DeclaredConnection],
        http: HttpProcess,
        readiness: Readiness,
        stopping: asyncio.Event,
        ready: Callable[[], None],
    ) -> None:
        settings, database = self.settings, self.database
        await _first(lambda: connection_store.register_customers(database, settings.customers))
        pressure = Pressure()
        registry = Registry(database, pressure)
        ingest = Ingest(settings, self.for_ingest, replica=self.owner, pressure=pressure, registry=registry)
        publisher = StatusPublisher(settings, database, self.replica, owner=self.owner)
        async with Engine.open(settings, database, owner=self.owner, pressure=pressure) as engine:
            await _first(engine.prepare)
            # what can never work ends the daemon before it takes anything in
            await _first(lambda: prepare(database, engine.service, declared))
            http.serve()
            async with asyncio.TaskGroup() as group:
                # Telemetry is taken in at once: thousands of declarations and links take a while.
                loops = [
                    group.create_task(loop, name=name)
                    for name, loop in self._loops(presence, engine, ingest, publisher, http, pressure).items()
                ]
                loops.append(group.create_task(self._declare(engine, declared), name="declarations"))
                loops.append(group.create_task(registry.run(), name="devices"))
                readiness.serve(database, lambda: ingest.connected)
                log.info(
                    "gateway.started",
                    instance=settings.instance,
                    replica=self.replica,
                    connections=len(declared),
                )
                ready()
                await stopping.wait()
                log.info("gateway.draining")
                readiness.draining()
                await publisher.draining()
                await ingest.stop()
                await registry.flush()
                await engine.stop(GRACE_SECONDS)
                await publisher.stop()
                for loop in loops:
                    loop.cancel()

    async def _declare(self, engine: Engine, declared: Sequence[DeclaredConnection]) -> None:
        await _first(lambda: apply(self.database, engine.service, declared, owner=self.owner))
        log.info("gateway.declarations_applied", connections=len(declared))

    def _loops(
        self,
        presence: Presence,
        engine: Engine,
        ingest: Ingest,
        publisher: StatusPublisher,
        http: HttpProcess,
        pressure: Pressure,
    ) -> dict[str, Coroutine[None, None, None]]:
        settings, database = self.settings, self.database
        commands = Commands(
            settings,
            database,
            replica=self.owner,
            synchronise=_synchronise(engine),
            explain=_explainer(ingest, engine),
        )
        relay = Relay(settings, database, owner=self.owner)
        record_publisher = RecordPublisher(settings, database, owner=self.owner, pressure=pressure)
        for waiting in (
            ingest,
            engine.scheduler,
            engine.reader,
            engine.alerts,
            publisher,
            relay,
            record_publisher,
            commands,
        ):
            presence.on_change(waiting.wake)
        loops = {
            "ingest": ingest.run(),
            "hearing": ingest.attend(),
            "silence": SilenceWatch(database, lambda: ingest.settings, owner=self.owner).run(),
            "publisher": publisher.run(),
            "relay": relay.run(),
            "records": record_publisher.run(),
            "webhooks": (
                WebhookSender(
                    settings,
                    database,
                    EndpointSealer(engine.vault),
                    requests=Requests(settings.webhooks, transport),
                ).run()
            ),
            "commands": commands.run(),
            "backlog": Backlog(database).run(),
            "listening": _listen(database, ingest),
            "counts": counts.run(database),
            "retention": _retain(settings, database),
            "dead letters": _trim(settings, database),
            **engine.loops(),
        }
        if self.reload is None:
            return loops
        reloads = Reloads(
            settings, database, self.reload, ingest=ingest, engine=engine, http=http, owner=self.owner
        )
        return {**loops, "reload": reloads.run()}


def _synchronise(engine: Engine) -> Synchronise:
    async def synchronise(connection: str, *, full: bool, request_id: str) -> None:
        await engine.service.synchronise(
            connection, full=full, caller=Caller(name="mqtt", request_id=request_id)
        )

    return synchronise


def _explainer(ingest: Ingest, engine: Engine) -> Explain:
    def explain(customer: str, topic: str, payload: bytes) -> Explanation:
        settings = ingest.settings  # of now: a reload changes them
        known, links = {*settings.customers, customer}, engine.links.current.values()
        return explain_for(
            customer,
            topic,
            payload,
            telemetry=settings.telemetry,
            customers=known,
            links=links,
            now=clock.now(),
        )

    return explain


def _outage(advice: str) -> Outage:
    return Outage(
        began=lambda detail: log.warning("gateway.database_awaited", detail=detail, advice=advice),
        ended=lambda: log.info("gateway.database_returned"),
    )


async def _open(settings: Settings) -> tuple[Database, Database]:
    """The sessions of everybody, and those of ingest. Waits for a database that is away, saying so once;
    migrates. Raises ConfigError for one that can never work.
    """
    dsn, lease_seconds = settings.database.dsn.get_secret_value(), settings.sync.lease.total_seconds()
    # one for each partition's commits and one for the leases
    ingest_sessions = min(settings.broker.partitions, MAX_COMMITS) + 1

    async def open_both() -> tuple[Database, Database]:
        database = await Database.open(dsn, size=settings.database.pool_size, lease_seconds=lease_seconds)
        applied = await migrate(database)
        for_ingest = await Database.open(dsn, size=ingest_sessions, lease_seconds=lease_seconds)
        log.info("gateway.database_opened", migrations=applied)
        return database, for_ingest

    return await _outage("start PostgreSQL or correct database.dsn; trying every second").outlast(open_both)


async def _first(step: Callable[[], Awaitable[T]]) -> T:
    """Repeats a step of the start while the database is away."""
    return await _outage("the start goes on when it is back").outlast(step)


async def _until_stopped(operation: Coroutine[None, None, T], stopping: asyncio.Event) -> T | None:
    """The operation's result, or None when we are asked to stop before it ends."""
    work, stop = asyncio.ensure_future(operation), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, stop):
            task.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)


async def _end(task: asyncio.Task[None], stop: Awaitable[None]) -> None:
    await stop
    await task


async def _retain(settings: Settings, database: Database) -> None:
    kept = settings.telemetry
    buffer = kept.buffer or kept.retention
    while True:
        try:
            for name in await retention.tell_filling(
                database, now=clock.now(), buffer=buffer, public_url=settings.http.public_url
            ):
                log.warning("store.buffer_filling", connection=name)
            for name in await retention.drop_expired(
                database, now=clock.now(), retention=kept.retention, buffer=buffer
            ):
                log.info("store.partition_dropped", partition=name)
            await sparkplug.forget(database, kept.retention)
            await records.expire(database, now=clock.now(), retention=settings.records.deleted_retention)
        except StoreError as error:
            log.warning("store.retention_deferred", detail=str(error))
        await asyncio.sleep(RETENTION_SECONDS)


async def _listen(database: Database, ingest: Ingest) -> None:
    """Silence of a device counts only while somebody listens to devices."""
    while True:
        if ingest.listens:
            try:
                await judgements.listen(database)
            except StoreError as error:
                log.debug("gateway.listening_not_noted", detail=str(error))
        await asyncio.sleep(LISTEN_SECONDS)


async def _trim(settings: Settings, database: Database) -> None:
    """Often: what may be sent in a minute is all that dead letters can hold beyond their bound."""
    telemetry = settings.telemetry
    while True:
        try:
            dropped = await retention.trim_dead_letters(
                database,
                now=clock.now(),
                retention=telemetry.dead_letter_retention,
                max_bytes=telemetry.dead_letter_bytes,
            )
        except StoreError as error:
            log.warning("store.retention_deferred", detail=str(error))
        else:
            if dropped:
                metrics.DEAD_LETTERS_DROPPED.inc(sum(dropped.values()))
                log.warning("store.dead_letters_dropped", customers=len(dropped), count=sum(dropped.values()))
        await asyncio.sleep(TRIM_SECONDS)


def _handle_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
