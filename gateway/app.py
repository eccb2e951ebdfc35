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
from typing import Protocol, TypeVar

import structlog

from connectors.kit.egress import transport
from gateway import clock, housekeeping, tracing
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
from gateway.model.explanation import Explanation
from gateway.model.pressure import Pressure
from gateway.outage import Outage
from gateway.processes.collector import spare_what_is_loaded
from gateway.processes.forked import Forked
from gateway.processes.priorities import ask_for_short_slices
from gateway.processes.readiness import Readiness
from gateway.processes.service_manager import Supervision
from gateway.processes.supervisor import HttpProcess, listen_all
from gateway.reload import Reloads
from gateway.settings import Settings
from gateway.store import connections as connection_store
from gateway.store import counts
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.presence import Presence

log = structlog.get_logger(__name__)

T = TypeVar("T")

GRACE_SECONDS = 20.0


async def run(
    settings: Settings,
    declared: Sequence[DeclaredConnection],
    *,
    reload: Callable[[], Awaitable[Loaded]] | None = None,
    ready: Callable[[], None] | None = None,
    forked: Forked | None = None,
    handle_signals: bool = True,
) -> None:
    """Runs the daemon until SIGTERM, SIGINT or cancellation; a second signal stops hard. `forked`: what
    becomes its HTTP process, where that was forked before there was a loop.

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
        http = HttpProcess(settings, readiness, owner=owner, listening=listening, forked=forked)
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


class _Telling(Protocol):
    """What tells others what happened, or answers them: one replica at a time, by a lease."""

    async def run(self) -> None:
        """Until cancelled."""
        ...

    def wake(self) -> None:
        """There may be a lease to take."""
        ...


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
        async with Engine.open(settings, database, owner=self.owner, pressure=pressure) as engine:
            publisher = StatusPublisher(
                settings, database, self.replica, owner=self.owner, notices=engine.notices
            )
            backlog = Backlog(database)
            await _first(engine.prepare)
            # what can never work ends the daemon before it takes anything in
            await _first(lambda: prepare(database, engine.service, declared))
            http.serve()
            async with asyncio.TaskGroup() as group:
                # Telemetry is taken in at once: thousands of declarations and links take a while.
                loops = [
                    group.create_task(loop, name=name)
                    for name, loop in self._loops(
                        presence, engine, ingest, publisher, http, backlog, pressure
                    ).items()
                ]
                loops.append(group.create_task(self._declare(engine, declared), name="declarations"))
                loops.append(group.create_task(registry.run(), name="devices"))
                readiness.serve(database, lambda: ingest.connected, backlog.current)
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
        backlog: Backlog,
        pressure: Pressure,
    ) -> dict[str, Coroutine[None, None, None]]:
        settings, database = self.settings, self.database
        telling: dict[str, _Telling] = {"publisher": publisher, **self._telling(engine, ingest, pressure)}
        waiting = (ingest, engine.scheduler, engine.reader, engine.alerts)
        for wake in (*(each.wake for each in waiting), *(part.wake for part in telling.values())):
            presence.on_change(wake)
        requests = Requests(settings.webhooks, transport)
        sealer = EndpointSealer(engine.vault)
        webhooks = WebhookSender(settings, database, sealer, requests=requests, notices=engine.notices)
        loops = {
            "ingest": ingest.run(),
            "hearing": ingest.note_hearing(),
            "silence": SilenceWatch(database, lambda: ingest.settings, owner=self.owner).run(),
            **{name: part.run() for name, part in telling.items()},
            "webhooks": webhooks.run(),
            "backlog": backlog.run(),
            "counts": counts.run(database),
            **housekeeping.loops(settings, database, lambda: ingest.is_listening),
            **engine.loops(),
        }
        if self.reload is None:
            return loops
        reloads = Reloads(
            settings, database, self.reload, ingest=ingest, engine=engine, http=http, owner=self.owner
        )
        return {**loops, "reload": reloads.run()}

    def _telling(self, engine: Engine, ingest: Ingest, pressure: Pressure) -> dict[str, _Telling]:
        settings, database, owner = self.settings, self.database, self.owner
        notices = engine.notices
        return {
            "relay": Relay(settings, database, owner=owner, notices=notices),
            "records": RecordPublisher(settings, database, owner=owner, pressure=pressure, notices=notices),
            "commands": Commands(
                settings,
                database,
                replica=owner,
                synchronise=_synchronise(engine),
                explain=_explainer(ingest, engine),
            ),
        }


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
    ingest_sessions = settings.broker.commits_at_once + 1  # one for the leases

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


def _handle_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
