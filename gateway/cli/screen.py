"""How the operating commands look: one console, one kind of table, one way to write times and states."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.model.connection import State
from gateway.model.errors import ConfigError

PIPED_COLUMNS = 240
"""What is not a terminal has no width: nothing is cut there."""

GAP = 2
FREE_COLUMNS = 16
"""Free text that has less room is left out."""

STYLES: Mapping[State, str] = {
    State.PENDING: "yellow",
    State.VERIFYING: "cyan",
    State.ACTIVE: "green",
    State.DEGRADED: "yellow",
    State.REAUTHORIZATION_REQUIRED: "bold red",
    State.BLOCKED: "bold red",
    State.PAUSED: "blue",
    State.DISCONNECTING: "bright_black",
    State.DISCONNECTED: "bright_black",
}


def console(*, error: bool = False) -> Console:
    """For people: as wide as the terminal, never narrower than what is piped needs."""
    found = Console(highlight=False, stderr=error)
    return (
        found
        if found.is_terminal
        else Console(highlight=False, stderr=error, width=max(found.width, PIPED_COLUMNS))
    )


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def agree(question: str, *, yes: bool) -> None:
    """Returns when it may be done: `yes`, or somebody at the terminal agrees. Raises typer.Abort where they
    do not, and ConfigError where nobody can be asked.
    """
    if yes:
        return
    if not is_interactive():
        raise ConfigError(
            f"{question} Nobody can be asked here (no terminal), so nothing was done: add --yes if you"
            " mean it"
        )
    typer.confirm(question, abort=True, err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`numbers` stand to the right. `drop`: where the terminal is too narrow the column with the highest goes
    first; 0 never goes. `free`: cut to fit.
    """

    name: str
    numbers: bool = False
    drop: int = 0
    free: bool = False


def show(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    """A table that fits: one line a row. Free text is cut, then left out, then columns are; what is left is
    whole.
    """
    shown = _fitting(
        columns, [[cell_len(str(row[place])) for row in rows] for place in range(len(columns))], console.width
    )
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for place, width in shown.items():
        column = columns[place]
        table.add_column(
            column.name,
            justify="right" if column.numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width,
        )
    for row in rows:
        table.add_row(
            *(row[place] if isinstance(row[place], Text) else Text(str(row[place])) for place in shown)
        )
    console.print(table)


def _fitting(columns: Sequence[Column], widths: Sequence[Sequence[int]], room: int) -> dict[int, int]:
    """Which columns are shown, each with its width."""
    wanted = {place: max([cell_len(column.name), *widths[place]]) for place, column in enumerate(columns)}
    while True:
        fixed = sum(width + GAP for place, width in wanted.items() if not columns[place].free) - GAP
        free = [place for place in wanted if columns[place].free]
        left = room - fixed - GAP * len(free)
        if free and left >= FREE_COLUMNS:
            return {**wanted, free[0]: min(wanted[free[0]], left)}
        droppable = [place for place in wanted if columns[place].drop and not columns[place].free]
        if free or (fixed > room and droppable):
            del wanted[free[0] if free else max(droppable, key=lambda place: columns[place].drop)]
            continue
        return wanted


def state(found: State) -> Text:
    """In its colour."""
    return Text(str(found), style=STYLES[found])


def span(duration: timedelta | float) -> str:
    """`12 s`, `5 min`, `3 h`, `12 d`: rounded down."""
    seconds = int(max(0.0, duration.total_seconds() if isinstance(duration, timedelta) else duration))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def moment(at: datetime | None) -> str:
    """`2026-05-04 12:07:30Z`; `-` for never."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def count(number: int, what: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
