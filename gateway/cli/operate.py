"""What the operating commands work on: the daemon's own configuration, database and service. The one place
that opens them.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, TypeVar

import structlog
import typer

from connectors.registry import SYSTEMS
from gateway.configuration import SECTIONS, Loaded, load
from gateway.model.access import Caller
from gateway.model.errors import RequestRefused, StoreError
from gateway.model.status import ConnectionStatus
from gateway.settings import Settings
from gateway.store import status
from gateway.store.migrate import is_current
from gateway.store.pool import Database
from gateway.store.views import Views

if TYPE_CHECKING:
    from gateway.connections.connecting import Connecting
    from gateway.connections.login_page import LoginPage
    from gateway.connections.reauthorization import Reauthorization
    from gateway.connections.service import Connections
    from gateway.engine import Engine

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The connection.")]
Yes = Annotated[
    bool, typer.Option("--yes", help="Do not ask. Without a terminal nothing is done unless it is given.")
]

POOL = 3
NAMES = 10_000
"""Names that are compared with one that there is not."""

SILENT_SECONDS = 20.0
"""A replica that was not heard for so long is not there."""

OUR_SECRETS = ("database", "security")
"""What most commands use: they work in a shell that has none of the connections' secrets."""

EVERY_SECRET = tuple(name for name in SECTIONS if name not in ("oidc", "tracing"))


def near_misses(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?`, or nothing where none is near."""
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def near_or_all(word: str, known: Collection[str]) -> str:
    """What is near, or where nothing is, all that there are."""
    return near_misses(word, known) or f"; known are {', '.join(sorted(known))}"


async def check_current(database: Database) -> None:
    """Raises StoreError for a database that lacks migrations of this version."""
    if not await is_current(database):
        raise StoreError(
            "the database lacks migrations of this version: `fieldgate migrate` applies them, and so does a"
            " start of the gateway"
        )


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Whoever sits at the command line, and what they can reach. What works connections is imported and built
    when it is first asked for: that takes half of the time of a command that only reads.
    """

    loaded: Loaded
    database: Database
    caller: Caller
    closing: AsyncExitStack

    @cached_property
    def engine(self) -> Engine:
        """Closed with everything else."""
        from gateway.engine import Engine

        engine = Engine(self.settings, self.database, owner=f"cli/{token_hex(4)}")
        self.closing.push_async_callback(engine.close)
        return engine

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
    def login(self) -> LoginPage:
        """Logins on the systems' own pages."""
        from connectors.kit.oauth import OAuthExchange, authorization_url
        from gateway.connections.login_page import LoginPage

        return LoginPage(self.settings.http.public_url, authorization_url, OAuthExchange())

    @property
    def connecting(self) -> Connecting:
        """Connect links."""
        from gateway.connections.connecting import Connecting
        from gateway.connections.screening import reach_of

        return Connecting(
            self.database,
            self.service,
            self.engine.verifier,
            public_url=self.settings.http.public_url,
            vault=self.engine.vault,
            login=self.login,
            reach=partial(reach_of, self.settings),
        )

    @property
    def reauthorization(self) -> Reauthorization:
        """Reconnect links."""
        from gateway.connections.reauthorization import Reauthorization
        from gateway.connections.screening import reach_of

        return Reauthorization(
            self.database,
            self.service,
            public_url=self.settings.http.public_url,
            vault=self.engine.vault,
            login=self.login,
            reach=partial(reach_of, self.settings),
        )

    async def status(self, connection: str) -> ConnectionStatus:
        """Raises RequestRefused for a connection that there is not."""
        found = await status.read(self.database, [connection])
        if not found:
            near = near_misses(connection, await self.views.connection_names(limit=NAMES))
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection!r}{near}", connection=connection
            )
        return found[0]

    async def check_customer(self, customer: str | None) -> None:
        """Raises RequestRefused for a customer that is neither in the configuration nor known by its devices
        or connections. None is every customer.
        """
        if customer is None or customer in self.settings.customers:
            return
        known = {*self.settings.customers, *await self.views.customer_names(limit=NAMES)}
        if customer not in known:
            near = near_misses(customer, known)
            raise RequestRefused(
                "request.not_found",
                "there is no customer"
                f" {customer!r}{near or '; list it under customers in the configuration first'}",
            )

    async def is_served(self) -> bool:
        """Whether a gateway runs, here or elsewhere."""
        return await status.is_anybody_here(self.database, silent_seconds=SILENT_SECONDS)


@asynccontextmanager
async def operating(
    config: Path, *, environ: Mapping[str, str] | None = None, secrets: Collection[str] = OUR_SECRETS
) -> AsyncIterator[Operator]:
    """Raises ConfigError for a faulty configuration, StoreError for a database that is away or of another
    version. `secrets` as in `load`.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )  # what goes wrong is raised, and told once
    loaded = load(config, os.environ if environ is None else environ, systems=SYSTEMS, secrets=secrets)
    async with AsyncExitStack() as closing:
        database = await Database.open(
            loaded.settings.database.dsn.get_secret_value(), size=POOL, application_name="fieldgate-cli"
        )
        closing.push_async_callback(database.close)
        await check_current(database)
        yield Operator(
            loaded=loaded,
            database=database,
            caller=Caller(name="cli", request_id=token_hex(16)),
            closing=closing,
        )


def operate(
    config: Path,
    work: Callable[[Operator], Awaitable[T]],
    *,
    environ: Mapping[str, str] | None = None,
    secrets: Collection[str] = OUR_SECRETS,
) -> T:
    """Runs `work` to its end and closes everything."""

    async def run() -> T:
        async with operating(config, environ=environ, secrets=secrets) as operator:
            return await work(operator)

    return asyncio.run(run())
