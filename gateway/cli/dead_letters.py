"""`fieldgate dead-letters`: what nobody could take, why, and trying it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.operate import DEFAULT, Config, Json, Operator, operate
from gateway.cli.screen import Column
from gateway.ingest.replay import replay_message
from gateway.model.errors import ConfigError, RequestRefused
from gateway.store import dead_letters as store
from gateway.store.dead_letters import DeadLetter

app = typer.Typer(help="List dead letters, or try them again.", no_args_is_help=True)

Connection = Annotated[str | None, typer.Option("--connection", help="Only readings of this connection.")]


@app.command("list")
def list_dead_letters(
    config: Config = DEFAULT,
    connection: Connection = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List dead messages and readings, the newest first.

    Example: fieldgate dead-letters list --connection acme-1
    """

    async def read(operator: Operator) -> Sequence[DeadLetter]:
        if connection is not None:
            await operator.status(connection)
        return await store.listed(operator.database, connection_id=connection, limit=limit)

    found = operate(config, read)
    if json:
        print(orjson.dumps([asdict(each) for each in found], option=orjson.OPT_UTC_Z).decode())
    else:
        _show(found, clock.now(), limit)


@app.command()
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="Dead letters.")] = None,
    config: Config = DEFAULT,
    connection: Annotated[
        str | None, typer.Option("--connection", help="Every dead reading of this connection.")
    ] = None,
    json: Json = False,
) -> None:
    """Try dead letters again: a reading is due once more, a message is decoded once more.

    Examples: fieldgate dead-letters replay 17 18; fieldgate dead-letters replay --connection acme-1
    """
    if bool(ids) is (connection is not None):
        raise ConfigError("give the ids of dead letters, or --connection")
    replayed, failed = operate(config, lambda operator: _replay(operator, ids or [], connection, quiet=json))
    if json:
        print(
            orjson.dumps(
                {"replayed": replayed, "failed": {str(each): reason for each, reason in failed.items()}}
            ).decode()
        )
    else:
        for each, reason in failed.items():
            screen.console().print(
                Text.assemble(("! ", "bold red"), (str(each), "bold"), f"  {reason}"), soft_wrap=True
            )
        screen.console().print(f"{screen.count(replayed, 'dead letter')} replayed")
    if failed:
        raise typer.Exit(1)


async def _replay(
    operator: Operator, ids: Sequence[int], connection: str | None, *, quiet: bool
) -> tuple[int, dict[int, str]]:
    if connection is not None:
        await operator.status(connection)
        return await operator.views.replay(connection, None), {}
    replayed, failed = 0, dict[int, str]()
    console = screen.console(error=True)
    with Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        task = bar.add_task("replay", total=len(ids))
        for each in ids:
            try:
                await _replay_one(operator, each)
                replayed += 1
            except RequestRefused as error:
                failed[each] = str(error)
            bar.advance(task)
    return replayed, failed


async def _replay_one(operator: Operator, dead_letter: int) -> None:
    kept = await store.read(operator.database, dead_letter)
    if kept is None:
        raise RequestRefused("request.not_found", f"there is no dead letter {dead_letter}")
    if kept.connection is None:
        await replay_message(operator.settings, operator.database, dead_letter, now=clock.now())
    elif not await operator.views.replay(kept.connection, [dead_letter]):
        raise RequestRefused(
            "request.conflict",
            f"dead letter {dead_letter}: no rule of connection {kept.connection!r} feeds its meter now",
        )


def _show(found: Sequence[DeadLetter], now: datetime, limit: int) -> None:
    console = screen.console()
    if not found:
        console.print(Text("no dead letters", style="green"))
        return
    columns = (
        Column(name="id", numbers=True),
        Column(name="kind", drop=1),
        Column(name="of"),
        Column(name="reason"),
        Column(name="times", numbers=True, drop=2),
        Column(name="last", numbers=True, drop=3),
        Column(name="detail", free=True),
    )
    screen.show(console, columns, [_row(each, now) for each in found])
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(each.reason for each in found).most_common()
    )
    more = f" (the last {limit})" if len(found) == limit else ""
    console.print(
        Text.assemble("\n", (screen.count(len(found), "dead letter"), "bold"), f"{more}: {reasons}")
    )


def _row(found: DeadLetter, now: datetime) -> tuple[Text | str, ...]:
    window = "" if found.window_start is None else f" {screen.moment(found.window_start)}"
    of = found.topic or "-" if found.kind == "message" else f"{found.connection}: {found.meter}{window}"
    return (
        str(found.id),
        found.kind,
        of,
        found.reason,
        str(found.occurrences),
        screen.span(now - found.last_at),
        Text(found.detail, style="dim"),
    )
