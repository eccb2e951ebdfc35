"""`fieldgate token`: API tokens, each shown once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config, checked_name, duration
from gateway.cli.operate import Json, Operator, Yes, near_misses, operate
from gateway.cli.screen import Column
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.store import access
from gateway.store.access import NewToken, Token

app = typer.Typer(help="Create, list and revoke API tokens.", no_args_is_help=True)


@app.command()
def create(
    role: Annotated[
        Role,
        typer.Option(
            help="A viewer reads, an operator also works connections, an admin also makes and ends them."
        ),
    ],
    config: Config = DEFAULT,
    customer: Annotated[
        str | None, typer.Option(help="Bound to this customer: nothing of another exists for it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="As audits and lists show it; made up where none is given.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After this time, such as 90d; else never.")] = None,
    json: Json = False,
) -> None:
    """Make an API token. It is printed once and cannot be read again.

    Example: fieldgate token create --role operator --customer acme --name ci --expires 90d
    """
    called = checked_name("--name", name) if name is not None else f"{role}-{secrets.token_hex(3)}"
    bound = None if customer is None else checked_name("--customer", customer)
    expires_at = None if expires is None else clock.now() + duration("--expires", expires)

    async def make(operator: Operator) -> NewToken:
        await operator.check_customer(bound)
        return await access.create(
            operator.database, name=called, role=role, customer=bound, expires_at=expires_at
        )

    made = operate(config, make)
    if json:
        body = {
            "id": made.token_id,
            "name": called,
            "role": role,
            "customer": bound,
            "expires_at": expires_at,
            "token": made.token,
        }
        print(orjson.dumps(body, option=orjson.OPT_UTC_Z).decode())
        return
    print(made.token)
    whose = "" if bound is None else f" of customer {bound}"
    screen.console(error=True).print(
        Text(f"{called}: {role}{whose}; shown once, keep it safe", style="yellow")
    )


@app.command("list")
def list_tokens(config: Config = DEFAULT, json: Json = False) -> None:
    """List every token that was ever made, the newest first; never the tokens themselves.

    Example: fieldgate token list
    """
    found = operate(config, lambda operator: access.tokens(operator.database))
    if json:
        print(orjson.dumps([_document(each) for each in found], option=orjson.OPT_UTC_Z).decode())
    else:
        _show(found)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="NAME", help="Its name or its id.")],
    config: Config = DEFAULT,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End a token at once, with the browser sessions that came by it. This cannot be undone.

    Example: fieldgate token revoke ci --yes
    """

    async def end(operator: Operator) -> None:
        known = [each for each in await access.tokens(operator.database) if each.revoked_at is None]
        meant = [each for each in known if each.token_id == token] or [
            each for each in known if each.name == token
        ]
        if len(meant) > 1:
            ids = ", ".join(f"{each.token_id} ({each.customer or 'no customer'})" for each in meant)
            raise RequestRefused("request.conflict", f"several tokens are named {token!r}; give an id: {ids}")
        if meant:
            screen.agree(f"Revoke the token {token}? This cannot be undone.", yes=yes)
            if await access.revoke(operator.database, token):
                return
        near = near_misses(token, {each.name for each in known})
        raise RequestRefused("request.not_found", f"there is no token {token!r} in use{near}")

    operate(config, end)
    if json:
        print(orjson.dumps({"revoked": token}).decode())
    else:
        screen.console().print(Text.assemble((token, "bold"), " is revoked"))


def _document(token: Token) -> dict[str, object]:
    return {
        "id": token.token_id,
        "name": token.name,
        "role": token.role,
        "customer": token.customer,
        "created_at": token.created_at,
        "last_used_at": token.last_used_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


def _show(found: Sequence[Token]) -> None:
    console = screen.console()
    if not found:
        console.print("no tokens: `fieldgate token create --role admin` makes one")
        return
    columns = (
        Column(name="token"),
        Column(name="id", drop=2),
        Column(name="role"),
        Column(name="customer"),
        Column(name="created", drop=3),
        Column(name="last used", drop=1),
        Column(name="state"),
    )
    rows = [
        (
            each.name,
            each.token_id,
            each.role,
            each.customer or "all",
            screen.moment(each.created_at),
            screen.moment(each.last_used_at),
            _state(each),
        )
        for each in found
    ]
    screen.show(console, columns, rows)


def _state(token: Token) -> Text:
    if token.revoked_at is not None:
        return Text(f"revoked {screen.moment(token.revoked_at)}", style="bright_black")
    if token.expires_at is not None and token.expires_at <= clock.now():
        return Text("expired", style="bright_black")
    return Text(
        "in use" if token.expires_at is None else f"until {screen.moment(token.expires_at)}", style="green"
    )
