"""What a declared file asks of the connections that are there: the plan. Pure: it reads nothing and changes
nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.model.connection import ENDED, State
from gateway.model.errors import ConfigError


class DeclaredPart(enum.StrEnum):
    """What of a connection can be declared anew."""

    SETTINGS = "settings"
    CREDENTIALS = "credentials"
    SYNC = "sync"
    METERS = "meters"
    ALERTS = "alerts"
    TITLE = "title"
    MANAGEMENT = "managed by the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A connection as it is declared, in the form in which it is stored. `digest` tells whether credentials
    are the same, and nothing else of them.
    """

    connection: str
    customer: str
    system: str
    hosting: str
    settings: Mapping[str, object]
    sync: Mapping[str, object]
    meters: Sequence[Mapping[str, object]]
    alerts: Sequence[Mapping[str, object]] = ()
    digest: str
    title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """A connection as it is stored. `by_file`: a file declared it last."""

    declaration: Declaration
    state: State
    by_file: bool

    @property
    def has_ended(self) -> bool:
        """Whether it is disconnected, or is on its way."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPlan:
    """What is to be done, by connection; each declared one is in exactly one of the first four. `refused`
    says why.
    """

    create: tuple[str, ...] = ()
    change: Mapping[str, tuple[DeclaredPart, ...]]
    unchanged: tuple[str, ...] = ()
    refused: Mapping[str, str]
    prune: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.create or self.change or self.prune)


def plan(declared: Iterable[Declaration], existing: Iterable[Existing], *, prune: bool) -> ApplyPlan:
    """The plan, in the order of the declarations. `prune`: what a file declared once, and this one does not,
    is disconnected; what came by the API never is.

    Raises ConfigError, naming each, where a connection would go to another customer or system: it belongs to
    both for good.
    """
    wanted = {declaration.connection: declaration for declaration in declared}
    held = {found.declaration.connection: found for found in existing}
    check_identity(wanted.values(), held)
    create: list[str] = []
    unchanged: list[str] = []
    change: dict[str, tuple[DeclaredPart, ...]] = {}
    refused: dict[str, str] = {}
    for name, declaration in wanted.items():
        found = held.get(name)
        if found is None:
            create.append(name)
        elif (reason := _forbidden(declaration, found)) is not None:
            refused[name] = reason
        elif parts := differing(declaration, found):
            change[name] = parts
        else:
            unchanged.append(name)
    gone = [
        name
        for name, found in held.items()
        if prune and found.by_file and not found.has_ended and name not in wanted
    ]
    return ApplyPlan(
        create=tuple(create),
        change=change,
        unchanged=tuple(unchanged),
        refused=refused,
        prune=tuple(sorted(gone)),
    )


def check_identity(declared: Iterable[Declaration], existing: Mapping[str, Existing]) -> None:
    """Raises ConfigError for each declaration that would move a connection to another customer or system."""
    faults = []
    for declaration in declared:
        found = existing.get(declaration.connection)
        if found is None:
            continue
        for what, old, new in (
            ("customer", found.declaration.customer, declaration.customer),
            ("system", found.declaration.system, declaration.system),
        ):
            if old != new:
                faults.append(
                    f"connection {declaration.connection!r} belongs to {what} {old!r}, which never changes,"
                    f" and not to {new!r}: give the new one another id"
                )
    if faults:
        raise ConfigError("\n".join(faults))


def differing(declaration: Declaration, found: Existing) -> tuple[DeclaredPart, ...]:
    """The parts that are to be changed. What is stored may be anything: plain JSON differs, and is mended."""
    old = found.declaration
    differs = {
        DeclaredPart.SETTINGS: declaration.settings != old.settings,
        DeclaredPart.CREDENTIALS: declaration.digest != old.digest,
        DeclaredPart.SYNC: declaration.sync != old.sync,
        DeclaredPart.METERS: declaration.meters != old.meters,
        DeclaredPart.ALERTS: list(declaration.alerts) != list(old.alerts),
        DeclaredPart.TITLE: declaration.title != old.title,
        DeclaredPart.MANAGEMENT: not found.by_file,
    }
    return tuple(part for part, holds in differs.items() if holds)


def _forbidden(declaration: Declaration, found: Existing) -> str | None:
    if found.has_ended:
        return (
            "it was disconnected, which cannot be undone: remove it from the file, "
            f"or connect the system anew under another id, such as {declaration.connection + '-2'!r}"
        )
    if declaration.hosting != found.declaration.hosting:
        return (
            f"its hosting is {found.declaration.hosting!r}, which decides its price: disconnect it, and"
            " connect under another id"
        )
    return None
