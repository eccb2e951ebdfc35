"""What the operating commands work on: the daemon's own configuration, database and service. The one place
that opens them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import structlog
import typer

from connectors.kit.oauth import OAuthExchange, authorization_url
from connectors.registry import SYSTEMS
from gateway.configuration import Loaded, load
from gateway.connections.reauthorization import Reauthorization
from gateway.connections.screening import reach_of
from gateway.connections.service import Connections
from gateway.engine import Engine
from gateway.model.access import Caller
from gateway.model.errors import RequestRefused, StoreError
from gateway.model.status import ConnectionStatus
from gateway.settings import Settings
from gateway.store import status
from gateway.store.migrate import is_current
from gateway.store.pool import Database
from gateway.store.views import Views

T = TypeVar("T")

Config = Annotated[Path, typer.Option(help="The main configuration file, the daemon's.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The connection.")]
DEFAULT = Path("config/fieldgate.yaml")

POOL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Whoever sits at the command line, and what they can reach."""

    loaded: Loaded
    database: Database
    engine: Engine
    caller: Caller

    @property
    def settings(self) -> Settings:
        """The gateway's configuration."""
        return self.loaded.settings

    @property
    def service(self) -> Connections:
        """What is asked of connections."""
        return self.engine.service

    @property
    def views(self) -> Views:
        """What is read of them."""
        return Views(self.database)

    @property
    def reauthorization(self) -> Reauthorization:
        """Reconnect links."""
        return Reauthorization(
            self.database,
            self.service,
            public_url=self.settings.http.public_url,
            vault=self.engine.vault,
            login_url=authorization_url,
            exchange=OAuthExchange(),
            reach=partial(reach_of, self.settings),
        )

    async def status(self, connection: str) -> ConnectionStatus:
        """Raises RequestRefused for a connection that there is not."""
        found = await status.read(self.database, [connection])
        if not found:
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection!r}", connection=connection
            )
        return found[0]


@asynccontextmanager
async def operating(config: Path, *, environ: Mapping[str, str] | None = None) -> AsyncIterator[Operator]:
    """Raises ConfigError for a faulty configuration, StoreError for a database that is away or of another
    version.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )  # what goes wrong is raised, and told once
    loaded = load(config, os.environ if environ is None else environ, systems=SYSTEMS)
    database = await Database.open(
        loaded.settings.database.dsn.get_secret_value(), size=POOL, application_name="fieldgate-cli"
    )
    try:
        if not await is_current(database):
            raise StoreError(
                "the database lacks migrations of this version: `fieldgate migrate` applies them, and so does a start of the gateway"
            )
        async with Engine.open(loaded.settings, database, owner=f"cli/{secrets.token_hex(4)}") as engine:
            yield Operator(
                loaded=loaded,
                database=database,
                engine=engine,
                caller=Caller(name="cli", request_id=secrets.token_hex(16)),
            )
    finally:
        await database.close()


def operate(
    config: Path, work: Callable[[Operator], Awaitable[T]], *, environ: Mapping[str, str] | None = None
) -> T:
    """Runs `work` to its end and closes everything."""

    async def run() -> T:
        async with operating(config, environ=environ) as operator:
            return await work(operator)

    return asyncio.run(run())
