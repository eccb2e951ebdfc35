"""`fieldgate apply`: makes what is connected agree with a declared file, after saying what that means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import EVERY_SECRET, Json, Operator, Yes, operate
from gateway.connections.apply import PlannedWork, alone, carry_out, prepare
from gateway.model.declaration import ApplyPlan
from gateway.model.errors import ConfigError

FILE_VARIABLE = "FIELDGATE_CONNECTIONS_FILE"


def apply(
    config: Config = DEFAULT,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", help="The declared connections; else the configuration's connections_file."
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Disconnect what a file declared once and this one does not. This cannot be undone.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Create and change connections as a file declares them. Nothing of the plan is done twice: it can be
    repeated. Exit code 1 where something is refused, also with --dry-run.

    Example: fieldgate apply -f connections.yaml --dry-run
    """
    environ = dict(os.environ) if file is None else {**os.environ, FILE_VARIABLE: str(file.resolve())}

    async def run(operator: Operator) -> dict[str, str] | None:
        if operator.settings.connections_file is None:
            raise ConfigError("no connections are declared: name a file with -f, or set connections_file")
        await operator.engine.prepare()
        work = await prepare(operator.database, operator.service, operator.loaded.connections, prune=prune)
        if not json:
            _show(work.plan)
        if not dry_run and work.plan.prune:
            screen.agree(
                f"Disconnect {screen.count(len(work.plan.prune), 'connection')}? This cannot be undone.",
                yes=yes,
            )
        failed = None
        if not dry_run:
            async with alone(
                operator.database
            ):  # what a daemon that starts has done meanwhile is not done again
                work = await prepare(
                    operator.database, operator.service, operator.loaded.connections, prune=prune
                )
                failed = await _carry_out(operator, work, quiet=json)
        if json:
            print(orjson.dumps(_document(work.plan, failed)).decode())
        return dict(work.plan.refused) if failed is None else {**work.plan.refused, **failed}

    if operate(config, run, environ=environ, secrets=EVERY_SECRET):
        raise typer.Exit(1)


async def _carry_out(operator: Operator, work: PlannedWork, *, quiet: bool) -> dict[str, str]:
    """What could not be done beside what the plan refuses, with the reason."""
    plan = work.plan
    names = (*plan.create, *plan.change, *plan.prune)
    console = screen.console(error=True)
    with Progress(
        TextColumn("applying"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        task = bar.add_task("apply", total=len(names))
        refused = await carry_out(operator.database, operator.service, work, done=lambda _: bar.advance(task))
    failed = {name: reason for name, reason in refused.items() if name not in plan.refused}
    if not quiet:
        for name, reason in failed.items():
            screen.console().print(Text.assemble(("! ", "bold red"), (name, "bold"), f"  {reason}"))
        if names:
            screen.console().print(f"done: {len(names) - len(failed)} of {len(names)}")
    return failed


def _show(plan: ApplyPlan) -> None:
    console = screen.console()
    _lines("+", "green", plan.create, ["create"] * len(plan.create))
    _lines(
        "~", "yellow", tuple(plan.change), [f"change {', '.join(parts)}" for parts in plan.change.values()]
    )
    _lines("-", "red", plan.prune, ["disconnect (this cannot be undone)"] * len(plan.prune))
    _lines("!", "bold red", tuple(plan.refused), list(plan.refused.values()))
    counts = (
        ("to create", plan.create),
        ("to change", plan.change),
        ("to disconnect", plan.prune),
        ("refused", plan.refused),
        ("unchanged", plan.unchanged),
    )
    words = [f"{len(names)} {what}" for what, names in counts if names]
    told = ", ".join(words)
    if plan.is_empty:
        told = f"nothing to do: {told}" if words else "nothing to do"
    console.print(Text(told, style="bold"))


def _lines(sign: str, style: str, names: Sequence[str], words: Sequence[str]) -> None:
    width = max(map(len, names), default=0)
    for name, what in zip(names, words, strict=True):
        screen.console().print(
            Text.assemble((f"{sign} ", style), (f"{name:<{width}}", "bold"), f"  {what}"), soft_wrap=True
        )


def _document(plan: ApplyPlan, failed: dict[str, str] | None) -> dict[str, object]:
    return {
        "create": list(plan.create),
        "change": {name: list(parts) for name, parts in plan.change.items()},
        "prune": list(plan.prune),
        "unchanged": list(plan.unchanged),
        "refused": dict(plan.refused),
        "applied": failed is not None,
        "failed": failed or {},
    }
