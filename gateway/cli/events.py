"""`fieldgate events`: what was told, and what is told now."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config, duration
from gateway.cli.operate import Json, Operator, near_or_all, operate
from gateway.cli.screen import moment
from gateway.events.cloudevent import cloud_event
from gateway.model.errors import ConfigError
from gateway.model.event import Event, EventType
from gateway.store import outbox

POLL_SECONDS = 0.5
PAGE = 500
MAX_WORDS = 120
BAD = (
    "failed",
    "degraded",
    "required",
    "blocked",
    "exhausted",
    "dropped",
    "opened",
    "disabled",
    "refused",
    "lettered",
)


def events(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    connection: Annotated[str | None, typer.Option(help="Only of this connection.")] = None,
    type: Annotated[
        list[str] | None, typer.Option(help="Only of this type, such as connection.degraded; repeat it.")
    ] = None,
    since: Annotated[str, typer.Option(help="How far back, such as 2h; 30d is all that is kept.")] = "1d",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is told from now on, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """List events, the newest last, and with --follow go on. --json prints a CloudEvent a line.

    Examples: fieldgate events --since 2h; fieldgate events --follow --customer acme --type
    connection.degraded
    """
    types = None if type is None else [event_type("--type", name) for name in type]
    begin = clock.now() - duration("--since", since)

    def wanted(event: Event) -> bool:
        return (
            customer in (None, event.customer)
            and connection in (None, event.connection)
            and (types is None or event.type in types)
        )

    async def run(operator: Operator) -> None:
        await operator.check_customer(customer)
        if connection is not None:
            await operator.status(connection)
        console = screen.console()
        newest = await outbox.latest(operator.database, since=clock.now() - timedelta(days=31), limit=1)
        for event in await outbox.latest(
            operator.database,
            customer=customer,
            connection_id=connection,
            types=types,
            since=begin,
            limit=limit,
        ):
            _show(console, operator, event, json=json)
        after = newest[-1].position if newest else 0
        while follow:
            found = await outbox.read(operator.database, customer=None, after=after, limit=PAGE)
            for event in filter(wanted, found):
                _show(console, operator, event, json=json)
            if found:
                after = found[-1].position
            else:
                await asyncio.sleep(POLL_SECONDS)

    operate(config, run)


def event_type(option: str, name: str) -> EventType:
    """Raises ConfigError that names the option and what is near."""
    try:
        return EventType(name.removeprefix("fieldgate."))
    except ValueError:
        near = near_or_all(name, [str(each) for each in EventType])
        raise ConfigError(f"{option}: there is no type {name!r}{near}") from None


def _show(console: Console, operator: Operator, event: Event, *, json: bool) -> None:
    if json:
        print(cloud_event(event, instance=operator.settings.instance).payload().decode(), flush=True)
        return
    known = {name: value for name, value in event.data.items() if name not in ("customer", "connection")}
    words = str(known.get("reason") or "") or ", ".join(
        f"{name} {value}" for name, value in known.items() if isinstance(value, str | int | float)
    )
    if len(words) > MAX_WORDS:
        words = words[: MAX_WORDS - 1] + "…"
    whose = event.connection or event.customer or "-"
    style = "red" if event.type.endswith(BAD) else "green"
    line = Text.assemble(
        (f"{moment(event.at)}  ", "dim"),
        (f"{event.type:<38} ", style),
        (whose, "bold"),
        f"  {words}",
    )
    console.print(line, soft_wrap=True)
