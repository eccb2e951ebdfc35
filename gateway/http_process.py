"""The HTTP process: a second composition root. It is to the daemon what a replica is that takes nothing in
and delivers nothing; they meet in PostgreSQL.

`gateway.http.process` starts it, with everything that it needs on its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import resource
import socket
import sys
from contextlib import AsyncExitStack

import structlog
import uvloop

from connectors.kit.oauth import authorization_url
from connectors.registry import SYSTEMS
from gateway import logs
from gateway.connections.endpoint_secrets import EndpointSealer
from gateway.engine import Engine
from gateway.events.webhook_service import WebhookService
from gateway.http.adapters import assemble
from gateway.http.channel import Channel, Daemon
from gateway.http.exposition import Exposition
from gateway.http.ports import Services
from gateway.http.process import Start
from gateway.http.scheduling import step_back
from gateway.http.server import HttpServer
from gateway.model.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

MAX_DESCRIPTORS = 65_536


def main() -> None:
    """Serves until the daemon says so or is gone. Signals are the daemon's: those that a terminal and a
    service manager send to every process are ignored before this is imported.
    """
    start: Start = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own daemon, over a pipe
    logs.setup(start.settings.logging)
    _allow_descriptors()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(start))


def _allow_descriptors() -> None:
    """A connection is a descriptor: as many as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MAX_DESCRIPTORS), hard))


async def _run(start: Start) -> None:
    daemon = Daemon(await Channel.over(socket.socket(fileno=start.line)))
    scraped = None if start.metrics_listening is None else socket.socket(fileno=start.metrics_listening)
    listening = socket.socket(fileno=start.listening)
    exposition = Exposition(daemon, start.settings.metrics)
    server = HttpServer(listening, exposition, start.settings.http, metrics_listening=scraped)
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.listen(), name="daemon")
        serving = group.create_task(server.run(), name="http")
        mounting = group.create_task(_mount(start, daemon, server, exposition), name="services")
        await daemon.leaving.wait()
        server.stop()
        await serving
        mounting.cancel()


async def _mount(start: Start, daemon: Daemon, server: HttpServer, exposition: Exposition) -> None:
    """From when the daemon has made its start, until the end."""
    await daemon.serving.wait()
    async with AsyncExitStack() as stack:
        database = await _open(start.settings)
        stack.push_async_callback(database.close)
        exposition.serve(database)
        engine = await stack.enter_async_context(Engine.open(start.settings, database, owner=start.owner))
        daemon.tell_customers(engine.know_customers)
        server.serve(_services(start.settings, database, engine))
        step_back()  # not before: beside a machine that is busy the start itself would take minutes
        await asyncio.Event().wait()


async def _open(settings: Settings) -> Database:
    """The daemon has opened it before: what is away comes back."""
    dsn, sessions = settings.database.dsn.get_secret_value(), max(3, settings.database.pool_size // 2)
    while True:
        try:
            return await Database.open(
                dsn,
                size=sessions,
                application_name="fieldgate-http",
                lease_seconds=settings.sync.lease.total_seconds(),
            )
        except StoreUnavailable as error:
            log.warning("http.database_awaited", detail=str(error))
            await asyncio.sleep(1.0)


def _services(settings: Settings, database: Database, engine: Engine) -> Services:
    return assemble(
        settings,
        database,
        engine.service,
        vault=engine.vault,
        login_url=authorization_url,
        exchange=engine.exchange,
        systems=SYSTEMS,
        webhooks=WebhookService(settings.webhooks, database, EndpointSealer(engine.vault)),
    )


if __name__ == "__main__":
    main()
