"""Owns what every report says of the machine and the versions, and how it is shown and written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

LIBRARIES = ("fieldgate", "mqtt5", "asyncpg", "uvloop", "aiomqtt", "paho-mqtt")


def machine() -> dict[str, object]:
    """What the figures depend on; no name of the host."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(
        (int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.platform(terse=True),
    }


def versions(*servers: Sequence[str]) -> dict[str, str]:
    """Of Python, of our libraries, and of the servers (their commands that print it)."""
    found = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    for command in servers:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        found[Path(command[0]).name] = (answer.stdout or answer.stderr).splitlines()[0]
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile. Raises ValueError when there are none."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def show(title: str, rows: Sequence[Mapping[str, str]], console: Console) -> None:
    """A table whose columns are the first row's keys."""
    table = Table(title=title)
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def write(path: Path | None, result: Mapping[str, object]) -> None:
    """JSON to the file, where one was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
