"""What `fieldgate doctor` finds: its words, and how a report is put together. Pure; who looks is
`gateway.doctor`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

MAX_NAMED = 5
"""Things that one finding names; the rest is counted."""


class Severity(enum.StrEnum):
    """`problem`: something does not work, or can be lost, now. `warning`: it will come to that."""

    PROBLEM = "problem"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be: what, where, how severe, and what to do."""

    severity: Severity
    what: str
    where: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one check saw. `unseen`: what could not be looked at from here, and why; that is no finding.
    `made` False: nothing of it was.
    """

    findings: tuple[Finding, ...] = ()
    unseen: tuple[str, ...] = ()
    made: bool = True

    @property
    def said(self) -> str:
        """In a few words."""
        if self.findings:
            return f"{len(self.findings)} found"
        if not self.made:
            return "Not looked at"
        return "OK, as far as it can be seen" if self.unseen else "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A check that was made."""

    check: str
    looked: Looked


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks, in their order, made at `at` within `seconds`."""

    at: datetime
    seconds: float
    checks: tuple[Examined, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found."""
        return not any(each.looked.findings for each in self.checks)

    def count(self, severity: Severity) -> int:
        """How many findings of this severity there are."""
        return sum(found.severity is severity for each in self.checks for found in each.looked.findings)


def looked(findings: Iterable[Finding | None], unseen: Iterable[str | None] = ()) -> Looked:
    """Without what is None."""
    return Looked(
        findings=tuple(each for each in findings if each is not None),
        unseen=tuple(each for each in unseen if each is not None),
    )


def not_made(why: str) -> Looked:
    """Nothing could be looked at."""
    return Looked(unseen=(why,), made=False)


def problem(what: str, *, where: str, advice: str) -> Finding:
    """A finding that is severe."""
    return Finding(severity=Severity.PROBLEM, what=what, where=where, advice=advice)


def warning(what: str, *, where: str, advice: str) -> Finding:
    """A finding that has time."""
    return Finding(severity=Severity.WARNING, what=what, where=where, advice=advice)


def named(names: Iterable[str]) -> str:
    """`a, b and 7 more`."""
    found = list(names)
    shown = ", ".join(found[:MAX_NAMED])
    return shown if len(found) <= MAX_NAMED else f"{shown} and {len(found) - MAX_NAMED} more"


def span(seconds: float) -> str:
    """About how long: `45 s`, `12 min`, `3 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: float) -> str:
    """`1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
