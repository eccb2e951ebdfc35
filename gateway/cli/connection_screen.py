"""What `fieldgate connections` shows: a list, or one with its facts, streams and transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli import screen
from gateway.cli.screen import Column
from gateway.model.connection import State
from gateway.model.status import ConnectionStatus
from gateway.model.verification import Verification
from gateway.store.views import Transition


def show_verification(console: Console, connection: str, found: Verification) -> None:
    """What a try found, and the verdict first."""
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


def show_list(
    console: Console, found: Sequence[ConnectionStatus], counts: Mapping[State, int], now: datetime
) -> None:
    """A line for each, and how many there are. `counts`: of all that are wanted, shown or not."""
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
        Text.assemble(screen.state(found.state), (", catching up" if found.is_catching_up else "", "yellow")),
        screen.span(now - found.since),
        screen.span(found.lag_seconds) if found.lag_seconds else "-",
        str(found.pending),
        Text(str(found.dead_letters), style="red" if found.dead_letters else ""),
        str(found.credits),
        Text(found.reason or "", style="dim"),
    )


def show_facts(console: Console, found: ConnectionStatus, now: datetime) -> None:
    """One connection; what is empty is left out."""
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
                _catching_up(found),
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


def _catching_up(found: ConnectionStatus) -> Text:
    late = f", catching up: the oldest reading is {screen.span(found.lag_seconds)} late"
    return Text(late if found.is_catching_up else "", style="yellow")


def _next_trial(found: ConnectionStatus) -> str:
    return "" if found.next_trial_at is None else f", tried again {screen.moment(found.next_trial_at)}"


def show_streams(console: Console, found: ConnectionStatus) -> None:
    """Its streams, and how far they are."""
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
        walked = (
            ("-", "-")
            if stream.progress is None
            else (f"{stream.progress.fraction:.0%}", str(stream.progress.pending_readings))
        )
        rows.append((stream.name, stream.phase, stream.state, screen.span(stream.lag_seconds), *walked))
    console.print()
    screen.show(console, columns, rows)


def show_transitions(console: Console, transitions: Sequence[Transition]) -> None:
    """Its last transitions."""
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
