"""`fieldgate sync --stream`: one stream of records is read now, or from its beginning; the bar shows how far
it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import orjson
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from gateway.cli import screen
from gateway.cli.operate import Operator, operate
from gateway.model.status import WORKED
from gateway.store import inbound, status
from gateway.store.inbound import StreamProgress

POLL_SECONDS = 0.3

Outcome = Literal["completed", "failed", "stopped", "asked"]
"""`stopped` where the connection works no more, `asked` where nobody waited."""


def sync_records(
    config: Path, connection: str, stream: str, *, full: bool, confirm: bool, wait: bool, json: bool
) -> None:
    """Asks, waits, and shows. Exits with 1 where it failed or stopped."""
    try:
        outcome, detail, held = operate(
            config,
            lambda operator: _sync(
                operator, connection, stream, full=full, confirm=confirm, wait=wait, quiet=json
            ),
        )
    except KeyboardInterrupt:
        screen.console(error=True).print(
            f"it goes on without us; `fieldgate connections show {connection}` tells how"
        )
        raise
    if json:
        body = {"connection": connection, "stream": stream, "mode": "full" if full else "incremental"}
        print(orjson.dumps({**body, "outcome": outcome, "detail": detail, "records": held}).decode())
    else:
        style = "green" if outcome in ("completed", "asked") else "bold red"
        said = f": {screen.count(held, 'record')} held" if outcome == "completed" else ""
        why = f"; {detail}" if detail else ""
        screen.console().print(
            Text.assemble((f"{connection} {stream}", "bold"), " sync ", (outcome, style), said, why)
        )
    if outcome in ("failed", "stopped"):
        raise typer.Exit(1)


async def _sync(
    operator: Operator, connection: str, stream: str, *, full: bool, confirm: bool, wait: bool, quiet: bool
) -> tuple[Outcome, str, int]:
    await operator.status(connection)
    before = await _phases(operator, connection, stream)
    if confirm:
        await operator.service.confirm_deletions(connection, stream, caller=operator.caller)
    await operator.service.synchronise(connection, full=full, stream=stream, caller=operator.caller)
    if not wait:
        return "asked", "", 0
    if not quiet and not await operator.is_served():
        screen.console(error=True).print(
            Text("no gateway is running: the sync begins when one does", style="yellow")
        )
    console = screen.console(error=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(f"{connection} {stream}", total=100 if full else None, told="")
        while True:
            now = await operator.status(connection)
            phases = await _phases(operator, connection, stream)
            _show(bar, task, now_of := list(phases.values()), full=full)
            held = max((phase.alive for phase in now_of), default=0)
            if now.state not in WORKED:
                return (
                    "stopped",
                    f"the connection is {now.state}" + (f": {now.reason}" if now.reason else ""),
                    held,
                )
            if (ended := ending(before, phases, full=full)) is not None:
                return *ended, held
            await asyncio.sleep(POLL_SECONDS)


def ending(
    before: dict[str, StreamProgress], now: dict[str, StreamProgress], *, full: bool
) -> tuple[Outcome, str] | None:
    """How the sync of a stream has ended, None while it goes on. Pure."""
    for phase in now.values():
        if phase.state == "failed" and phase.phase in ("incremental", "initial"):
            return "failed", f"{phase.last_error or 'a run failed'}; the gateway tries again by itself"
    news = now.get("incremental")
    then = before.get("incremental")
    fresh = news is not None and news.last_success_at != (None if then is None else then.last_success_at)
    history = now.get("initial")
    if full and history is not None:
        fresh = fresh and history.state == "done"
    return ("completed", "") if fresh and news is not None and news.state == "idle" else None


async def _phases(operator: Operator, connection: str, stream: str) -> dict[str, StreamProgress]:
    found = await inbound.progress(operator.database, [connection])
    return {phase.phase: phase for phase in found if phase.stream == stream}


def _show(bar: Progress, task: TaskID, phases: list[StreamProgress], *, full: bool) -> None:
    told = (
        screen.count(sum(phase.read_records for phase in phases if phase.phase == "initial"), "record")
        if full
        else ""
    )
    for phase in phases:
        if full and phase.phase == "initial":
            fraction = status.fraction_of(phase) or 0.0
            if 0 < fraction < 1 and phase.running_seconds:
                told += f", about {screen.span(phase.running_seconds * (1 - fraction) / fraction)} left"
            bar.update(task, completed=100 * fraction, told=f"{told} read")
    if not full:
        bar.update(task, told="")
