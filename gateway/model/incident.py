"""Which incidents there should be, systemic or specific, each with a sentence that says why. Pure: the only
place where that is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.breaker import CallHealth, CallingConnections, Key, Scope

QUIET = timedelta(minutes=2)
"""How long an incident is calm before it closes."""

ALONE_AFTER = timedelta(minutes=2)
"""A connection whose neighbours fail too, but too few to blame what they share, has an incident of its own
after this long.
"""

ABANDONED_AFTER = timedelta(hours=1)
"""Without any call for this long, nobody is left who could succeed."""

MAX_REQUEST_IDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentFinding:
    """What is at fault, the connections that fail because of it, and why we think so."""

    key: Key
    failing: tuple[CallHealth, ...]
    detail: str

    @property
    def since(self) -> datetime:
        """The first failure."""
        return min(health.failing_since for health in self.failing if health.failing_since is not None)

    @property
    def connections(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted(health.connection for health in self.failing))

    @property
    def customers(self) -> tuple[str, ...]:
        """Sorted, each once."""
        return tuple(sorted({health.customer for health in self.failing}))

    @property
    def systems(self) -> tuple[str, ...]:
        """Sorted, each once."""
        return tuple(sorted({health.system for health in self.failing}))

    @property
    def operations(self) -> tuple[str, ...]:
        """Sorted, each once."""
        return tuple(sorted({operation for health in self.failing for operation in health.operations}))

    @property
    def request_ids(self) -> tuple[str, ...]:
        """A sample: the latest of each connection first, ten at most."""
        latest = [identifier for health in self.failing for identifier in health.request_ids[-1:]]
        earlier = [identifier for health in self.failing for identifier in health.request_ids[:-1]]
        return tuple(dict.fromkeys([*latest, *earlier]))[:MAX_REQUEST_IDS]


def systemic(fleet: CallingConnections) -> tuple[IncidentFinding, ...]:
    """The system types and hosts at fault: their breakers belong open. A system type is at fault only where
    more than one host fails.
    """
    systems = [
        finding
        for finding in _at_fault(fleet, Scope.SYSTEM)
        if len({health.host for health in finding.failing}) > 1
    ]
    return (*systems, *_at_fault(fleet, Scope.HOST))


def wanted(
    fleet: CallingConnections, found: Sequence[IncidentFinding], *, known: Collection[Key]
) -> tuple[IncidentFinding, ...]:
    """The incidents that should be open. `found`: the `systemic` findings; `known`: the keys of incidents
    that are open. A failure that a wider incident explains has no incident of its own.
    """
    wide = {finding.key for finding in found} | set(known)
    shared = [finding for finding in found if explained_by(finding.key, fleet, wide) is None]
    alone = [
        _specific(health, fleet)
        for health in fleet.healths
        if health.is_open(fleet.now) and wide.isdisjoint(health.keys[1:])
    ]
    return (*shared, *(finding for finding in alone if finding is not None))


def explained_by(key: Key, fleet: CallingConnections, wide: Collection[Key]) -> Key | None:
    """The widest of `wide` that explains all that fails here, and more; None where there is none, or nothing
    fails.
    """
    failing = fleet.failing(key)
    if not failing:
        return None
    candidates = [other for other in failing[0].keys if other in wide and _width(other) > _width(key)]
    return max(
        (other for other in candidates if all(other in health.keys for health in failing)),
        key=_width,
        default=None,
    )


def is_calm(key: Key, fleet: CallingConnections, *, opened_at: datetime) -> bool:
    """Whether an open incident may be over: somebody has succeeded since it opened and no longer enough fail;
    QUIET of it closes the incident.

    With none failing there any more (answered, stopped, or silent for an hour) it is calm as well.
    """
    still = [
        health
        for health in fleet.members(key)
        if health.failing_since is not None and not _abandoned(health, fleet.now)
    ]
    if key[0] is Scope.CONNECTION or not still:
        return not still
    return fleet.succeeded_since(key, opened_at) and not fleet.enough_fail(key)


def said_to_customers(key: Key) -> str:
    """The reason without a word about others: neither who nor how many they are."""
    scope, name = key
    match scope:
        case Scope.CONNECTION:
            return "Only this connection is affected: look at its system, its network and its settings."
        case Scope.HOST:
            return f"Calls to host {name} fail, not only yours: nothing in your settings is at fault."
        case Scope.SYSTEM:
            return (
                f"Calls to {name} fail on more than one host, not only yours: nothing in your settings is at"
                " fault."
            )


def _at_fault(fleet: CallingConnections, scope: Scope) -> Iterator[IncidentFinding]:
    for key in fleet.failing_keys(scope):
        if fleet.is_systemic(key):
            members, failing = fleet.seen(key), fleet.failing(key)
            last = fleet.proved_at(key)
            silence = (
                "none ever succeeded"
                if last is None
                else f"none succeeded for {(fleet.now - last).total_seconds():.0f} s"
            )
            customers = (
                f"{len({health.customer for health in failing})} of"
                f" {len({health.customer for health in members})} customers"
            )
            yield IncidentFinding(
                key=key,
                failing=failing,
                detail=(
                    f"{len(failing)} of {len(members)} connections {_place(key)} fail ({customers}),"
                    f" {silence}"
                ),
            )


def _specific(health: CallHealth, fleet: CallingConnections) -> IncidentFinding | None:
    """A connection whose breaker is open. It is its own affair when neighbours have worked since, or it has
    none; else we wait for a wider verdict first.
    """
    assert health.failing_since is not None
    own, host, system = health.keys
    shared = host if health.host else system
    neighbours = len(fleet.seen(shared)) - 1
    failed = f"{health.failures} calls in a row failed" if health.failures > 1 else "a call failed"
    if not neighbours:
        why = f"no other connection {_place(shared)} was seen"
    elif well := fleet.well_since(shared, health.failing_since, health.operations):
        why = f"{well} of {neighbours} other connections {_place(shared)} succeeded since"
    elif fleet.now - health.failing_since >= ALONE_AFTER:
        why = (
            f"{len(fleet.failing(shared)) - 1} of {neighbours} other connections {_place(shared)} fail too,"
            " of too few customers to blame what they share"
        )
    else:
        return None
    return IncidentFinding(key=own, failing=(health,), detail=f"{failed}, {why}")


def _abandoned(health: CallHealth, now: datetime) -> bool:
    return health.last_failure_at is None or now - health.last_failure_at > ABANDONED_AFTER


def _width(key: Key) -> int:
    return list(Scope).index(key[0])


def _place(key: Key) -> str:
    return f"on host {key[1]}" if key[0] is Scope.HOST else f"of {key[1]}"
