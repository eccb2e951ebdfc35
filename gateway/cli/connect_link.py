"""`fieldgate connect-link`: links by which a customer's administrator connects a system, once each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, Operator, near_or_all, operate
from gateway.cli.screen import Column
from gateway.configuration import secret
from gateway.configuration.document import LocatedDocument
from gateway.connections.connecting import ConnectInvitation, Given
from gateway.connections.login_page import CODE_FLOW
from gateway.model.errors import ConfigError
from gateway.settings import CredentialSettings
from gateway.store.connecting import StoredConnectLink

app = typer.Typer(
    help="Make, list and revoke links by which a customer's administrator connects a system.",
    no_args_is_help=True,
)


@app.command()
def create(
    customer: Annotated[str, typer.Option(help="Whose system is connected.")],
    system: Annotated[list[str], typer.Option(help="What may be connected; repeat it for a choice.")],
    config: Config = DEFAULT,
    given: Annotated[
        Path | None,
        typer.Option(
            "--given",
            help=(
                "A YAML file with what is given ahead, for one system: title, hosting, settings, and"
                " credentials of an OAuth client."
            ),
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=90, help="How long it is good.")] = 7,
    json: Json = False,
) -> None:
    """Make a link. It is shown this once, and good for one system.

    Example: fieldgate connect-link create --customer acme --system odata --given business-central.yaml
    """
    unknown = [name for name in system if name not in SYSTEMS]
    if unknown:
        raise ConfigError(f"there is no system {unknown[0]!r}{near_or_all(unknown[0], SYSTEMS)}")
    ahead = Given() if given is None else read_given(given)

    async def invite(operator: Operator) -> ConnectInvitation:
        await operator.check_customer(customer)
        await operator.connecting.check_given(customer, system, ahead, operator.caller)
        return await operator.connecting.invite(
            customer, system, ahead, by=operator.caller.name, lifetime=timedelta(days=days)
        )

    made = operate(config, invite)
    if json:
        print(orjson.dumps({"id": made.id, "url": made.url, "expires_at": made.expires_at}).decode())
        return
    print(made.url)
    screen.console(error=True).print(
        Text(
            f"good once, until {screen.moment(made.expires_at)}; whoever has it can use it; "
            f"`fieldgate connect-link revoke {made.id}` ends it",
            style="yellow",
        )
    )


@app.command("list")
def list_links(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    json: Json = False,
) -> None:
    """List links, the newest first, and what became of each. Addresses are not shown.

    Example: fieldgate connect-link list --customer acme
    """

    async def read(operator: Operator) -> Sequence[StoredConnectLink]:
        await operator.check_customer(customer)
        return await operator.connecting.links(customer)

    found = operate(config, read)
    if json:
        print(orjson.dumps([_document(link) for link in found], option=orjson.OPT_UTC_Z).decode())
        return
    if not found:
        screen.console().print("no connect links: `fieldgate connect-link create` makes one")
        return
    columns = (
        Column(name="id"),
        Column(name="customer"),
        Column(name="systems", drop=1),
        Column(name="state"),
        Column(name="until", drop=2),
        Column(name="connection", free=True),
    )
    rows = [
        (
            link.id,
            link.customer,
            ", ".join(link.systems),
            link.state,
            screen.moment(link.expires_at),
            link.connection or "-",
        )
        for link in found
    ]
    screen.show(screen.console(), columns, rows)


@app.command()
def revoke(
    link: Annotated[str, typer.Argument(metavar="LINK", help="The id of the link.")], config: Config = DEFAULT
) -> None:
    """End a link, and forget what was entered through it. What was connected with it stays.

    Example: fieldgate connect-link revoke 2b1f2c1e-5c0a-4f0e-9c6c-0d6f5a0d7c11
    """
    operate(config, lambda operator: operator.connecting.revoke(link, None, by=operator.caller.name))
    screen.console().print(Text.assemble((link, "bold"), " is revoked"))


def read_given(path: Path) -> Given:
    """What a file gives ahead; secrets in it may be `${env:NAME}` or `${file:path}`. Raises ConfigError."""
    document = LocatedDocument.read(path, advice="name a YAML file")
    secret.resolve(document, os.environ, path.parent, needed=secret.SECTIONS)
    if document.faults:
        raise ConfigError("; ".join(str(fault) for fault in document.faults))
    unknown = document.data.keys() - {"title", "hosting", "settings", "credentials"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}")
    settings, credentials = document.data.get("settings") or {}, document.data.get("credentials")
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: settings: must be a mapping of keys to values")
    client = CredentialSettings() if credentials is None else CredentialSettings.model_validate(credentials)
    if credentials is not None and client.type != CODE_FLOW:
        raise ConfigError(
            f"{path}: credentials: only an OAuth client ({CODE_FLOW}) is given ahead; the customer gives the"
            " rest"
        )
    hosting = document.data.get("hosting", "cloud")
    if hosting not in ("cloud", "on_premises"):
        raise ConfigError(f"{path}: hosting: is `cloud` or `on_premises`")
    return Given(
        hosting=hosting,
        title=str(document.data.get("title") or ""),
        settings=settings,
        client=client.resolved(),
    )


def _document(link: StoredConnectLink) -> dict[str, object]:
    return {
        "id": link.id,
        "customer": link.customer,
        "systems": link.systems,
        "state": link.state,
        "created_at": link.created_at,
        "created_by": link.created_by,
        "expires_at": link.expires_at,
        "connection": link.connection,
    }
