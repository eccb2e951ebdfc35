"""`fieldgate sync`: asks for a sync and shows how it goes. The gateway does it; leaving this command stops
nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Id, Json, Operator, Yes, operate
from gateway.cli.sync_records import Outcome, sync_records
from gateway.model.connection import State
from gateway.model.errors import ConfigError
from gateway.model.status import WORKED, ConnectionStatus

POLL_SECONDS = 0.3
REPORT_SECONDS = 5.0
RUNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How it ended: `stopped` where the connection works no more, `asked` where nobody waited."""

    outcome: Outcome
    detail: str
    delivered: int
    rejected: int


def sync(
    connection: Id,
    config: Config = DEFAULT,
    full: Annotated[
        bool,
        typer.Option("--full", help="Walk the stored history again, and send what the system does not hold."),
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only ask.")] = False,
    stream: Annotated[
        str | None, typer.Option("--stream", help="Only this stream of records: what it holds comes here.")
    ] = None,
    confirm_deletions: Annotated[
        bool,
        typer.Option(
            "--confirm-deletions", help="What has vanished of the stream is gone: the next walk deletes it."
        ),
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Sync a connection now and wait until it is done; Ctrl-C leaves it running.

    Example: fieldgate sync acme-1 --full --yes
    """
    if confirm_deletions and stream is None:
        raise ConfigError("--confirm-deletions needs --stream: say of which records")
    if confirm_deletions:
        screen.agree(f"Delete what has vanished of {stream} at {connection}? This cannot be undone.", yes=yes)
    elif full:
        screen.agree(f"Walk the whole stored history of {connection} again?", yes=yes)
    if stream is not None:
        sync_records(
            config, connection, stream, full=full, confirm=confirm_deletions, wait=not no_wait, json=json
        )
        return
    try:
        result = operate(
            config, lambda operator: _sync(operator, connection, full=full, wait=not no_wait, quiet=json)
        )
    except KeyboardInterrupt:
        screen.console(error=True).print(
            f"it goes on without us; `fieldgate connections show {connection}` tells how"
        )
        raise
    if json:
        asked = {"connection": connection, "mode": "full" if full else "incremental"}
        print(orjson.dumps({**asked, **asdict(result)}).decode())
    else:
        _show(connection, result)
    if result.outcome in ("failed", "stopped"):
        raise typer.Exit(1)


async def _sync(operator: Operator, connection: str, *, full: bool, wait: bool, quiet: bool) -> Result:
    before = await operator.status(connection)
    last_run = max((run.id for run in await operator.views.runs(connection, limit=1)), default=0)
    await operator.service.synchronise(connection, full=full, caller=operator.caller)
    if not wait:
        return Result(outcome="asked", detail="", delivered=0, rejected=0)
    if not quiet and not await operator.is_served():
        screen.console(error=True).print(
            Text("no gateway is running: the sync begins when one does", style="yellow")
        )
    outcome, detail = await _watch(operator, before, full=full, quiet=quiet)
    runs = [run for run in await operator.views.runs(connection, limit=RUNS) if run.id > last_run]
    return Result(
        outcome=outcome,
        detail=detail,
        delivered=sum(run.delivered for run in runs),
        rejected=sum(run.rejected for run in runs),
    )


async def _watch(
    operator: Operator, before: ConnectionStatus, *, full: bool, quiet: bool
) -> tuple[Outcome, str]:
    console = screen.console(error=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[waiting]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(before.connection, total=100 if full else None, waiting="")
        said_monotonic = clock.monotonic()
        while True:
            now = await operator.status(before.connection)
            _advance(bar, task, now, full=full)
            if (ended := ending(before, now, full=full)) is not None:
                return ended
            if not quiet and not console.is_terminal and clock.monotonic() - said_monotonic > REPORT_SECONDS:
                said_monotonic = clock.monotonic()
                console.print(
                    f"{now.connection}: {now.state}, {walked(now):.0%} walked,"
                    f" {screen.count(now.pending, 'reading')} waiting"
                )
            await asyncio.sleep(POLL_SECONDS)


def ending(before: ConnectionStatus, now: ConnectionStatus, *, full: bool) -> tuple[Outcome, str] | None:
    """How the sync has ended, None while it goes on. Pure."""
    if now.state not in WORKED:
        return "stopped", f"the connection is {now.state}" + (f": {now.reason}" if now.reason else "")
    if now.state is State.DEGRADED and any(stream.state == "failed" for stream in now.streams):
        return "failed", f"{now.reason or 'runs fail'}; the gateway tries again by itself"
    initial = [stream.progress for stream in now.streams if stream.progress is not None]
    reading = [
        stream.records for stream in now.streams if stream.phase == "initial" and stream.records is not None
    ]
    if full and (initial or reading):
        sent = all(found.fraction >= 1.0 and not found.pending_readings for found in initial)
        read = all(found.fraction == 1.0 for found in reading)
        return ("completed", "") if sent and read else None
    return ("completed", "") if now.last_success_at != before.last_success_at else None


def walked(now: ConnectionStatus) -> float:
    """How far history is walked, that of readings and that of records, 0 to 1."""
    sent = [stream.progress.fraction for stream in now.streams if stream.progress is not None]
    read = [
        stream.records.fraction or 0.0
        for stream in now.streams
        if stream.phase == "initial" and stream.records is not None
    ]
    return min((*sent, *read), default=1.0)


def _advance(bar: Progress, task: TaskID, now: ConnectionStatus, *, full: bool) -> None:
    words = f"{screen.count(now.pending, 'reading')} waiting" + (
        ", a run failed, trying again" if any(each.state == "failed" for each in now.streams) else ""
    )
    if full:
        bar.update(task, completed=100 * walked(now), waiting=words)
    else:
        bar.update(task, waiting=words)


def _show(connection: str, result: Result) -> None:
    style = "green" if result.outcome in ("completed", "asked") else "bold red"
    told = (
        f": {screen.count(result.delivered, 'reading')} delivered, {result.rejected} refused"
        if result.outcome != "asked"
        else ""
    )
    screen.console().print(
        Text.assemble(
            (connection, "bold"),
            " sync ",
            (result.outcome, style),
            told,
            f"; {result.detail}" if result.detail else "",
        )
    )
