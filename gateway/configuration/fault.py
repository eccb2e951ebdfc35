"""A fault of the configuration: where it is, what is wrong, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.model.errors import ConfigError

KeyPath = tuple[str | int, ...]
MAX_NAMES = 100
"""Known ones that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlace:
    """A file and a line in it (from 1); no line where the value came from the environment or the file could
    not be read.
    """

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFault:
    """One thing to put right. Never holds a secret's value."""

    place: FilePlace
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), dotted(self.path), self.message) if part)


class Faults(ConfigError):
    """Every fault of a configuration; the text has one line for each."""

    def __init__(self, faults: Iterable[ConfigurationFault]) -> None:
        self.faults = tuple(
            sorted(
                faults,
                key=lambda fault: (
                    fault.place.file,
                    fault.place.line or 0,
                    dotted(fault.path),
                    fault.message,
                ),
            )
        )
        super().__init__("\n".join(str(fault) for fault in self.faults))


def dotted(path: KeyPath) -> str:
    """`connections[2].meters[0].device`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key}" if text else key
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known ones when none is near, or nothing when there are none."""
    names = sorted(known)
    if near := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"; did you mean {near[0]!r}?"
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return f"; known are {', '.join(names[:MAX_NAMES])}{more}" if names else ""
