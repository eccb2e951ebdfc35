"""How the operating commands look: one console, one kind of table, one way to write times and states."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.model.connection import State

PIPED_COLUMNS = 240
"""What is not a terminal has no width: nothing is cut there."""

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
    return found if found.is_terminal else Console(highlight=False, stderr=error, width=max(found.width, PIPED_COLUMNS))


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def table(*names: str, numbers: Sequence[str] = (), free: str | None = None) -> Table:
    """Columns of words, then of numbers, then one of free text, which gives way first where the terminal is narrow."""
    found = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in names:
        found.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in numbers:
        found.add_column(name, justify="right", no_wrap=True)
    if free is not None:
        found.add_column(free, no_wrap=True, overflow="ellipsis", ratio=1)
    return found


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
