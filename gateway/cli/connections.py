"""`fieldgate connections`: what is connected, how it is, and what a person can do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import connection_screen, screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import EVERY_SECRET, Id, Json, Operator, Yes, near_misses, operate
from gateway.events.documents import issue_document, status_document
from gateway.model.connection import State
from gateway.model.errors import ConfigError
from gateway.model.status import URGENCY, ConnectionStatus
from gateway.model.verification import Verification
from gateway.store.issues import Issue
from gateway.store.listing import BEGINNING, Filter
from gateway.store.views import Transition, Views

app = typer.Typer(
    help="List connections, show one, try, pause, resume, recheck, disconnect or reauthorize it.",
    no_args_is_help=True,
)

TRANSITIONS = 8
ROWS = 1000
PAGE = 200
POLL_SECONDS = 0.2
LOOK_SECONDS = 10.0
"""A gateway that runs takes a look up within a second or two."""

SETTLE_SECONDS = 1.0
"""What most systems need to answer: the state that is shown is then that of after the look."""


@app.command("list")
def list_connections(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    state: Annotated[list[State] | None, typer.Option(help="Only those in this state; repeat it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Disconnected ones too.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"At most so many. By default {ROWS}, and all with --json.")
    ] = None,
    json: Json = False,
) -> None:
    """List connections, those that need a person first: their state, since when, and what waits.

    Example: fieldgate connections list --customer acme --state degraded --state blocked
    """
    wanted = Filter(
        customer=customer,
        states=[
            each
            for each in URGENCY
            if (not state or each in state) and (everything or state or each is not State.DISCONNECTED)
        ],
    )
    most = limit if limit is not None else None if json else ROWS

    async def read(operator: Operator) -> tuple[list[ConnectionStatus], Mapping[str, int]]:
        await operator.check_customer(customer)
        return await _listed(operator.views, wanted, most), await operator.views.counts(wanted)

    found, counts = operate(config, read)
    if json:
        _print([_status(each) for each in sorted(found, key=lambda each: each.connection)])
    else:
        connection_screen.show_list(
            screen.console(), found, {each: counts.get(each, 0) for each in wanted.states}, clock.now()
        )


async def _listed(views: Views, wanted: Filter, most: int | None) -> list[ConnectionStatus]:
    found: list[ConnectionStatus] = []
    after = BEGINNING
    while most is None or len(found) < most:
        limit = PAGE if most is None else min(PAGE, most - len(found))
        places = await views.listed(wanted, after=after, limit=limit)
        read = {each.connection: each for each in await views.status([place.connection for place in places])}
        found += [read[place.connection] for place in places if place.connection in read]
        if len(places) < limit:
            break
        after = places[-1]
    return found


@app.command()
def show(connection: Id, config: Config = DEFAULT, json: Json = False) -> None:
    """Show one connection: its status, its streams, its issues and its last transitions.

    Example: fieldgate connections show acme-1
    """

    async def read(operator: Operator) -> tuple[ConnectionStatus, Sequence[Issue], Sequence[Transition]]:
        found = await operator.status(connection)
        return (
            found,
            await operator.views.issues([connection]),
            await operator.views.audit(connection, limit=TRANSITIONS),
        )

    found, issues, transitions = operate(config, read)
    if json:
        _print(
            {**_status(found), "issues": [issue_document(issue).model_dump(mode="json") for issue in issues]}
        )
        return
    console = screen.console()
    connection_screen.show_facts(console, found, clock.now())
    connection_screen.show_streams(console, found)
    for issue in issues:
        console.print(
            Text.assemble(
                "\n", (issue.title, "bold red"), f"\n{issue.instructions}\n", (issue.action_url, "cyan")
            )
        )
    connection_screen.show_transitions(console, transitions)


@app.command()
def pause(connection: Id, config: Config = DEFAULT, json: Json = False) -> None:
    """Make no call to the system until it is resumed; telemetry is kept.

    Example: fieldgate connections pause acme-1
    """
    _ask(connection, config, lambda operator: operator.service.pause(connection, operator.caller), json=json)


@app.command()
def resume(connection: Id, config: Config = DEFAULT, json: Json = False) -> None:
    """Go on where it was paused.

    Example: fieldgate connections resume acme-1
    """
    _ask(connection, config, lambda operator: operator.service.resume(connection, operator.caller), json=json)


@app.command()
def verify(connection: Id, config: Config = DEFAULT, json: Json = False) -> None:
    """Try a connection as the file declares it, before it is applied: nothing is stored or charged.

    Exits with 1 where the system does not take it. Example: fieldgate connections verify acme-1
    """

    async def attempt(operator: Operator) -> Verification:
        declared = {each.settings.id: each.settings for each in operator.loaded.connections}
        if connection not in declared:
            raise ConfigError(
                f"{connection!r} is not in connections_file{near_misses(connection, declared)}: only what it"
                " declares can be tried"
            )
        return await operator.engine.verifier.verify(declared[connection], operator.caller)

    found = operate(config, attempt, secrets=EVERY_SECRET)
    if json:
        _print(asdict(found))
    else:
        connection_screen.show_verification(screen.console(), connection, found)
    if not found.is_good:
        raise typer.Exit(1)


@app.command()
def recheck(
    connection: Id,
    config: Config = DEFAULT,
    same_credentials: Annotated[
        bool,
        typer.Option(
            help="Try credentials that were refused once more: the system may have been wrong.",
            show_default=False,
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check the system now, instead of at the next probe, and say whether a running gateway did.

    Example: fieldgate connections recheck acme-1
    """
    found, looked = operate(config, lambda operator: _recheck(operator, connection, same_credentials))
    if json:
        _print({**_status(found), "checked": looked is True})
        return
    said = {
        True: "; a running gateway took up the check",
        False: f"; the check waits: the running gateway has not taken it up within {LOOK_SECONDS:g} s",
        None: " as of its last check; no gateway is running, and the first that starts checks it",
    }[looked]
    screen.console().print(Text.assemble((connection, "bold"), " is ", screen.state(found.state), said))


@app.command()
def disconnect(
    connection: Id,
    config: Config = DEFAULT,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End it. This cannot be undone: its credits return, and its id is never used again.

    Example: fieldgate connections disconnect acme-1 --yes
    """

    async def end(operator: Operator) -> None:
        screen.agree(f"Disconnect {connection}? This cannot be undone.", yes=yes)
        await operator.service.disconnect(connection, operator.caller)

    _ask(connection, config, end, json=json)


@app.command()
def reauthorize(connection: Id, config: Config = DEFAULT, json: Json = False) -> None:
    """Make a link by which the customer gives new credentials. Shown once; an earlier one is void.

    Example: fieldgate connections reauthorize acme-1
    """

    async def invite(operator: Operator) -> tuple[str, datetime]:
        await operator.status(connection)
        invitation = await operator.reauthorization.invite(connection)
        return invitation.url, invitation.expires_at

    url, expires_at = operate(config, invite)
    if json:
        _print({"connection": connection, "url": url, "expires_at": expires_at})
        return
    print(url)
    screen.console(error=True).print(
        Text(f"good once, until {screen.moment(expires_at)}; whoever has it can use it", style="yellow")
    )


async def _recheck(
    operator: Operator, connection: str, same_credentials: bool
) -> tuple[ConnectionStatus, bool | None]:
    """The status afterwards, and whether a gateway has looked: None where none runs."""
    if same_credentials:
        await operator.status(connection)
        await operator.service.retry_credentials(connection, operator.caller)
        before = await operator.status(connection)
    else:
        before = await operator.status(connection)
        await operator.service.recheck(connection, operator.caller)
    if not await operator.is_served():
        return before, None
    deadline = clock.monotonic() + LOOK_SECONDS
    while clock.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        now = await operator.status(connection)
        if now.version != before.version:
            return now, True
        if await operator.views.is_taken_up(connection):
            await asyncio.sleep(SETTLE_SECONDS)
            return await operator.status(connection), True
    return await operator.status(connection), False


def _ask(connection: str, config: Config, ask: Callable[[Operator], Awaitable[None]], *, json: bool) -> None:
    async def run(operator: Operator) -> ConnectionStatus:
        await operator.status(connection)  # a name that there is not is refused with what is near
        await ask(operator)
        return await operator.status(connection)

    found = operate(config, run)
    if json:
        _print(_status(found))
    else:
        screen.console().print(Text.assemble((connection, "bold"), " is ", screen.state(found.state)))


def _print(document: object) -> None:
    print(orjson.dumps(document, option=orjson.OPT_UTC_Z).decode())


def _status(found: ConnectionStatus) -> dict[str, object]:
    return status_document(found, now=clock.now()).model_dump(mode="json", by_alias=True)
