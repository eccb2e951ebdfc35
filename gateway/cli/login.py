"""`fieldgate login`: a link that logs one browser in to the dashboard, once."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config, checked_name
from gateway.cli.operate import Json, Operator, operate
from gateway.model.access import Role
from gateway.store import access
from gateway.store.access import LOGIN_SECONDS


def login(
    config: Config = DEFAULT,
    role: Annotated[
        Role,
        typer.Option(
            help="A viewer reads, an operator also works connections, an admin also makes and ends them."
        ),
    ] = Role.ADMIN,
    customer: Annotated[
        str | None, typer.Option(help="Shows this customer only: nothing of another exists for it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="As audits show who it was; made up where none is given.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a link to the dashboard that logs one browser in, once, within ten minutes.

    Examples: fieldgate login; fieldgate login --customer acme --role viewer
    """
    called = checked_name("--name", name) if name is not None else f"{role}-{secrets.token_hex(3)}"
    bound = None if customer is None else checked_name("--customer", customer)

    async def make(operator: Operator) -> str:
        await operator.check_customer(bound)
        secret = await access.create_login(operator.database, name=called, role=role, customer=bound)
        return f"{operator.settings.http.public_url.rstrip('/')}/login/{secret}"

    expires_at = clock.now() + timedelta(seconds=LOGIN_SECONDS)
    url = operate(config, make)
    if json:
        body = {"name": called, "role": role, "customer": bound, "expires_at": expires_at, "url": url}
        print(orjson.dumps(body, option=orjson.OPT_UTC_Z).decode())
        return
    print(url)
    whose = "" if bound is None else f" of customer {bound}"
    screen.console(error=True).print(
        Text(
            f"{called}: {role}{whose}; good once, until {screen.moment(expires_at)}; whoever has it can"
            " use it",
            style="yellow",
        )
    )
