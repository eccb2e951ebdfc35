"""`fieldgate run`: the daemon."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from connectors import registry
from gateway import app, logs
from gateway.cli.given import CONFIG_VARIABLE, DEFAULT
from gateway.configuration import Loaded
from gateway.model.errors import ConfigError, FieldgateError, fault_of
from gateway.processes.forked import Forked, fork
from gateway.reading import Fallback, read, read_again
from gateway.settings import LoggingSettings

log = structlog.get_logger(__name__)


def run(
    config: Annotated[
        Path | None,
        typer.Option(
            envvar=CONFIG_VARIABLE,
            help="The main configuration file; without --embedded, config/fieldgate.yaml is the default.",
        ),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a broker and a PostgreSQL of our own, and use them.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Where --embedded keeps its data.")] = Path("var"),
) -> None:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP reads sources, customers and connections again.

    Examples: fieldgate run --config /etc/fieldgate/fieldgate.yaml; fieldgate run --embedded --data-dir var
    """
    logs.setup(LoggingSettings())  # until the configuration says otherwise
    registry.load()
    forked = fork(_answer_http)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_embedded(config, data_dir, forked) if embedded else _serve(config or DEFAULT, forked))
        except (FieldgateError, BaseExceptionGroup) as error:
            fault = fault_of(error)
            if fault is not None and not isinstance(fault, ConfigError):
                log.critical("gateway.failed", detail=str(fault))
            raise


def _answer_http(line: socket.socket) -> None:
    gc.disable()  # what importing makes is no garbage
    from gateway.http_process import main  # in that process alone: the daemon needs none of it

    gc.enable()
    main(line)


async def _serve(config: Path, forked: Forked) -> None:
    loaded = read(config)
    logs.setup(loaded.settings.logging)
    await app.run(loaded.settings, loaded.connections, reload=lambda: read_again(config), forked=forked)


async def _embedded(config: Path | None, data_dir: Path, forked: Forked) -> None:
    from gateway.embedded import BROKER_FILE, DSN_FILE, embedded  # the extra may not be installed

    async with embedded(data_dir, log) as servers:
        ours: Fallback = {
            "broker": {"url": servers.broker_url},
            "database": {"dsn": servers.dsn},
            "security": {"encryption_keys": [servers.security_key]},
        }

        def used(loaded: Loaded) -> Loaded:
            for key, file, is_ours in (
                ("broker.url", BROKER_FILE, loaded.settings.broker.urls == (servers.broker_url,)),
                ("database.dsn", DSN_FILE, loaded.settings.database.dsn.get_secret_value() == servers.dsn),
            ):
                if not is_ours:  # or a server would run that nobody uses, and what was stored would seem away
                    raise ConfigError(
                        f"{key} names a server of its own, and --embedded starts another: set it to"
                        f' "${{file:{data_dir.absolute() / file}}}", or leave it or --embedded out'
                    )
            return loaded

        async def reload() -> Loaded:
            return used(await read_again(config, ours))

        loaded = used(read(config, ours))
        logs.setup(loaded.settings.logging)
        await servers.guard(app.run(loaded.settings, loaded.connections, reload=reload, forked=forked))
