"""The HTTP process: a second composition root. It is to the daemon what a replica is that takes nothing in
and delivers nothing; they meet in PostgreSQL.

`gateway.processes.supervisor` gives it everything that it needs over its line.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

import structlog
import uvloop

from connectors.kit.oauth import authorization_url
from connectors.registry import SYSTEMS
from gateway import logs, tracing
from gateway.connections.login_page import LoginPage
from gateway.credentials.endpoint_secrets import EndpointSealer
from gateway.doctor import Doctor
from gateway.engine import Engine
from gateway.events.listening import look
from gateway.events.webhook_service import WebhookService
from gateway.http.exposition import Exposition
from gateway.http.live_messages import LiveMessages
from gateway.http.ports import LoginsPort
from gateway.http.server import HttpServer
from gateway.http.services import Services, assemble, known_customers
from gateway.ingest.messages import Messages
from gateway.outage import Outage
from gateway.processes.channel import Channel, Daemon, unpacked
from gateway.processes.collector import spare_what_is_loaded
from gateway.processes.parent import outlive_parent
from gateway.processes.priorities import step_back
from gateway.processes.supervisor import Start
from gateway.settings import Settings
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

MAX_DESCRIPTORS = 65_536


def main(line: socket.socket) -> None:
    """Serves until the daemon says so or is gone. Signals are the daemon's: those that a terminal and a
    service manager send to every process are ignored before this is imported.
    """
    _allow_descriptors()
    _, listening, *_ = socket.recv_fds(line, 1, 2)  # waits until the daemon listens
    if listening:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(line, [socket.socket(fileno=one) for one in listening]))
        tracing.stop()


def _allow_descriptors() -> None:
    """A connection is a descriptor: as many as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MAX_DESCRIPTORS), hard))


async def _run(line: socket.socket, listening: Sequence[socket.socket]) -> None:
    channel = await Channel.over(line)
    told = await channel.receive()
    if told is None:  # the daemon is gone
        return
    start: Start = unpacked(told["start"])
    logs.setup(start.settings.logging)
    tracing.setup(
        start.settings.tracing, instance=start.settings.instance, replica=start.owner, process="http"
    )
    daemon = Daemon(channel)
    exposition = Exposition(daemon, start.settings.metrics)
    asked, *scraped = listening
    server = HttpServer(
        asked, exposition, start.settings.http, metrics_listening=scraped[0] if scraped else None
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.listen(), name="daemon")
        outlive_parent()  # that task notices its end; and a token that is being refreshed must not be cut off
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
        messages = Messages(start.settings, database)
        live_messages = LiveMessages(start.settings, look)
        stack.push_async_callback(live_messages.close)

        def know(settings: Settings) -> None:
            engine.know_customers(settings.customers)
            messages.know(settings)
            live_messages.know(settings)

        daemon.tell_settings(know)
        server.serve(_services(start.settings, database, engine, messages, live_messages))
        spare_what_is_loaded()
        step_back()  # not before: beside a machine that is busy the start itself would take minutes
        await asyncio.Event().wait()


async def _open(settings: Settings) -> Database:
    """The daemon has opened it before: what is away comes back."""
    dsn, sessions = settings.database.dsn.get_secret_value(), max(3, settings.database.pool_size // 2)
    outage = Outage(
        began=lambda detail: log.warning("http.database_awaited", detail=detail),
        ended=lambda: log.info("http.database_returned"),
    )
    return await outage.outlast(
        partial(
            Database.open,
            dsn,
            size=sessions,
            application_name="fieldgate-http",
            lease_seconds=settings.sync.lease.total_seconds(),
        )
    )


def _services(
    settings: Settings,
    database: Database,
    engine: Engine,
    messages: Messages,
    live_messages: LiveMessages,
) -> Services:
    return assemble(
        settings,
        database,
        engine.service,
        verifier=engine.verifier,
        vault=engine.vault,
        login=LoginPage(settings.http.public_url, authorization_url, engine.exchange),
        systems=SYSTEMS,
        messages=messages,
        live_messages=live_messages,
        logins=_logins(settings, engine),
        webhooks=WebhookService(settings.webhooks, database, EndpointSealer(engine.vault)),
        doctor=Doctor(settings, database=database, keys=frozenset(engine.vault.key_ids), serves=True),
    )


def _logins(settings: Settings, engine: Engine) -> LoginsPort | None:
    """By the identity provider, where the configuration has one."""
    if settings.oidc.issuer is None:
        return None
    from connectors.kit.identity import IdentityCalls  # what checks tokens is loaded where it is used
    from gateway.identity.logins import Logins

    return Logins(
        settings.oidc,
        IdentityCalls(ca_file=settings.oidc.ca_file),
        engine.vault,
        public_url=settings.http.public_url,
        customers=lambda: known_customers(engine.service.settings),
        allowed=settings.egress.allow,
    )
