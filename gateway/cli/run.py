"""`fieldgate run`: the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from connectors.registry import SYSTEMS
from gateway import app, logs
from gateway.configuration import Loaded, load
from gateway.model.errors import ConfigError, FieldgateError, fault_of
from gateway.settings import LoggingSettings

log = structlog.get_logger(__name__)

Fallback = Mapping[str, Mapping[str, object]]

DEFAULT_CONFIG = Path("config/fieldgate.yaml")


def run(
    config: Annotated[
        Path | None,
        typer.Option(
            help="The main configuration file; without --embedded, config/fieldgate.yaml is the default."
        ),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a broker and a PostgreSQL of our own.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Where --embedded keeps its data.")] = Path("var"),
) -> None:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP reads sources, customers and connections again.

    Examples: fieldgate run --config /etc/fieldgate/fieldgate.yaml; fieldgate run --embedded --data-dir var
    """
    logs.setup(LoggingSettings())  # until the configuration says otherwise
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_embedded(config, data_dir) if embedded else _serve(config or DEFAULT_CONFIG))
        except (FieldgateError, BaseExceptionGroup) as error:
            fault = fault_of(error)
            if fault is not None and not isinstance(fault, ConfigError):
                log.critical("gateway.failed", detail=str(fault))
            raise


async def _serve(config: Path) -> None:
    loaded = _load(config)
    await app.run(loaded.settings, loaded.connections, reload=lambda: _load(config))


async def _embedded(config: Path | None, data_dir: Path) -> None:
    from gateway.embedded import embedded  # the extra may not be installed

    async with embedded(data_dir, log) as servers:

        def read() -> Loaded:
            ours: Fallback = {
                "broker": {"url": servers.broker_url},
                "database": {"dsn": servers.dsn},
                "security": {"encryption_keys": [servers.security_key]},
            }
            return _load(config, ours)

        loaded = read()
        await servers.guard(app.run(loaded.settings, loaded.connections, reload=read))


def _load(path: Path | None, fallback: Fallback | None = None) -> Loaded:
    loaded = load(path, os.environ, systems=SYSTEMS, fallback=fallback)
    logs.setup(loaded.settings.logging)
    return loaded
