"""`fieldgate connections`: what is connected, how it is, and what a person can do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.operate import DEFAULT, EVERY_SECRET, Config, Id, Json, Operator, Yes, near_misses, operate
from gateway.cli.screen import Column
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
        _show_list(
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
    _show_facts(console, found, clock.now())
    _show_streams(console, found)
    for issue in issues:
        console.print(
            Text.assemble(
                "\n", (issue.title, "bold red"), f"\n{issue.instructions}\n", (issue.action_url, "cyan")
            )
        )
    _show_transitions(console, transitions)


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
        _show_verification(screen.console(), connection, found)
    if not found.is_good:
        raise typer.Exit(1)


def _show_verification(console: Console, connection: str, found: Verification) -> None:
    style = "green" if found.is_good else "red"
    console.print(
        Text.assemble((connection, "bold"), " ", (found.verdict.value, style), f" {found.detail}".rstrip())
    )
    if found.account is not None:
        console.print(Text(f"  account  {found.account}"))
    if found.meters is not None or found.meters_detail:
        console.print(Text(f"  meters   {found.meters_detail or len(found.meters or ())}"))
    for one in found.records:
        console.print(Text(f"  records  {one.title}: {one.detail or 'can be read'}"))


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


def _show_list(
    console: Console, found: Sequence[ConnectionStatus], counts: Mapping[State, int], now: datetime
) -> None:
    """`counts`: of all that are wanted, shown or not."""
    if not found:
        console.print("no connections: declare them in a file for `fieldgate apply`, or make them by the API")
        return
    columns = (
        Column(name="connection"),
        Column(name="customer"),
        Column(name="system", drop=2),
        Column(name="state"),
        Column(name="since", numbers=True),
        Column(name="lag", numbers=True, drop=1),
        Column(name="pending", numbers=True, drop=4),
        Column(name="dead", numbers=True),
        Column(name="credits", numbers=True, drop=3),
        Column(name="reason", free=True),
    )
    screen.show(console, columns, [_row(each, now) for each in found])
    total = sum(counts.values())
    parts = [Text.assemble(f"{counts[each]} ", screen.state(each)) for each in State if counts.get(each)]
    console.print(
        Text.assemble("\n", (screen.count(total, "connection"), "bold"), ": ", Text(", ").join(parts))
    )
    if total > len(found):
        console.print(Text(f"{len(found)} are shown; --limit {total} shows all", style="yellow"))


def _row(found: ConnectionStatus, now: datetime) -> tuple[Text | str, ...]:
    return (
        found.connection,
        found.customer,
        found.system,
        screen.state(found.state),
        screen.span(now - found.since),
        screen.span(found.lag_seconds) if found.lag_seconds else "-",
        str(found.pending),
        Text(str(found.dead_letters), style="red" if found.dead_letters else ""),
        str(found.credits),
        Text(found.reason or "", style="dim"),
    )


def _show_facts(console: Console, found: ConnectionStatus, now: datetime) -> None:
    lines = [
        ("customer", Text(found.customer)),
        (
            "system",
            Text(
                f"{found.system}, {found.hosting}, tier {found.tier}, {screen.count(found.credits, 'credit')}"
            ),
        ),
        (
            "state",
            Text.assemble(
                screen.state(found.state),
                f" for {screen.span(now - found.since)}, since {screen.moment(found.since)}",
            ),
        ),
        ("reason", Text(found.reason or "")),
        ("failing", Text("" if found.operation is None else f"{found.operation}{_next_trial(found)}")),
        *(("trouble", Text(f"{each.part}: {each.detail}")) for each in found.troubles),
        ("incident", Text(found.incident or "")),
        ("last sync", Text(screen.moment(found.last_success_at))),
        ("waiting", Text(screen.count(found.pending, "reading"))),
        (
            "dead",
            Text(screen.count(found.dead_letters, "dead letter"), style="red" if found.dead_letters else ""),
        ),
        ("delivery", Text(found.delivery)),
        ("request id", Text(found.request_id or "")),
    ]
    console.print(Text(found.connection, style="bold"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in lines:
        if text.plain:
            facts.add_row(f"  {name}", text)
    console.print(facts)


def _next_trial(found: ConnectionStatus) -> str:
    return "" if found.next_trial_at is None else f", tried again {screen.moment(found.next_trial_at)}"


def _show_streams(console: Console, found: ConnectionStatus) -> None:
    if not found.streams:
        return
    columns = (
        Column(name="stream"),
        Column(name="phase"),
        Column(name="state"),
        Column(name="lag", numbers=True, drop=1),
        Column(name="walked", numbers=True, drop=2),
        Column(name="pending", numbers=True, drop=3),
    )
    rows: list[tuple[str, ...]] = []
    for stream in found.streams:
        made = stream.progress
        walked = ("-", "-") if made is None else (f"{made.fraction:.0%}", str(made.pending_readings))
        rows.append((stream.name, stream.phase, stream.state, screen.span(stream.lag_seconds), *walked))
    console.print()
    screen.show(console, columns, rows)


def _show_transitions(console: Console, transitions: Sequence[Transition]) -> None:
    if not transitions:
        return
    columns = (
        Column(name="last transitions"),
        Column(name="from", drop=2),
        Column(name="to"),
        Column(name="by", drop=1),
        Column(name="reason", free=True),
    )
    rows = [
        (
            screen.moment(each.at),
            each.from_state or "-",
            screen.state(State(each.to_state)),
            each.actor,
            Text(each.reason or "", style="dim"),
        )
        for each in transitions
    ]
    console.print()
    screen.show(console, columns, rows)
