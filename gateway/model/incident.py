"""Which incidents there should be, systemic or specific, each with a sentence that says why. Pure: the only place where that is decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.breaker import Health, Key, Scope, enough_fail, is_systemic, succeeded_since

QUIET = timedelta(minutes=2)
"""How long an incident is calm before it closes."""

ALONE_AFTER = timedelta(minutes=2)
"""A connection whose neighbours fail too, but too few to blame what they share, has an incident of its own after this long."""

ABANDONED_AFTER = timedelta(hours=1)
"""Without any call for this long, nobody is left who could succeed."""

MOST_REQUEST_IDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is at fault, the connections that fail because of it, and why we think so."""

    key: Key
    failing: tuple[Health, ...]
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
        return tuple(dict.fromkeys([*latest, *earlier]))[:MOST_REQUEST_IDS]


def systemic(healths: Sequence[Health], *, now: datetime) -> tuple[Finding, ...]:
    """The system types and hosts at fault: their breakers belong open. A system type is at fault only where more than one host fails."""
    return (*_systems(healths, now), *_hosts(healths, now))


def wanted(healths: Sequence[Health], found: Sequence[Finding], *, now: datetime, known: Collection[Key]) -> tuple[Finding, ...]:
    """The incidents that should be open, given the `systemic` findings and the keys of those that are (`known`).

    What a wider one explains has none of its own.
    """
    wide = {finding.key for finding in found} | set(known)
    own = [_specific(health, healths, now) for health in healths if health.is_open(now) and not _explained(health, wide)]
    return (*(finding for finding in found if explained_by(finding.key, healths, wide, now=now) is None), *(finding for finding in own if finding is not None))


def explained_by(key: Key, healths: Sequence[Health], wide: Collection[Key], *, now: datetime) -> Key | None:
    """The wider of `wide` that explains all that fails here; None where there is none, or nothing fails."""
    failing = [health for health in healths if health.belongs_to(key) and health.is_failing(now)]
    wider = [other for other in wide if _width(other) > _width(key) and failing and all(health.belongs_to(other) for health in failing)]
    return max(wider, key=_width, default=None)


def affected(key: Key, healths: Sequence[Health], *, now: datetime) -> tuple[Health, ...]:
    """The connections that fail there now."""
    return tuple(health for health in healths if health.belongs_to(key) and health.is_failing(now))


def is_calm(key: Key, healths: Sequence[Health], *, now: datetime, opened_at: datetime) -> bool:
    """Whether an open incident may be over: somebody has succeeded since it opened and no longer enough fail; QUIET of it closes the incident.

    `healths`: of connections that make calls at all. With none failing there any more (answered, stopped, or silent for an hour) it is calm as well.
    """
    members = [health for health in healths if health.belongs_to(key)]
    still = [health for health in members if health.failing_since is not None and not _abandoned(health, now)]
    if key[0] is Scope.CONNECTION or not still:
        return not still
    return succeeded_since(members, opened_at) and not enough_fail(members, now=now)


def said_to_customers(key: Key) -> str:
    """The reason without a word about others: neither who nor how many they are."""
    scope, name = key
    match scope:
        case Scope.CONNECTION:
            return "Only this connection is affected: look at its system, its network and its settings."
        case Scope.HOST:
            return f"Calls to host {name} fail, not only yours: nothing in your settings is at fault."
        case Scope.SYSTEM:
            return f"Calls to {name} fail on more than one host, not only yours: nothing in your settings is at fault."


def _systems(healths: Sequence[Health], now: datetime) -> Iterator[Finding]:
    for system in sorted({health.system for health in healths if health.is_failing(now)}):
        finding = _shared((Scope.SYSTEM, system), healths, now)
        if finding is not None and len({health.host for health in finding.failing}) > 1:
            yield finding


def _hosts(healths: Sequence[Health], now: datetime) -> Iterator[Finding]:
    for host in sorted({health.host for health in healths if health.host and health.is_failing(now)}):
        finding = _shared((Scope.HOST, host), healths, now)
        if finding is not None:
            yield finding


def _shared(key: Key, healths: Sequence[Health], now: datetime) -> Finding | None:
    members = [health for health in healths if health.belongs_to(key) and health.is_seen(now)]
    if not is_systemic(members, now=now):
        return None
    failing = affected(key, members, now=now)
    last = max((health.last_success_at for health in members if health.last_success_at is not None), default=None)
    silence = "none ever succeeded" if last is None else f"none succeeded for {(now - last).total_seconds():.0f} s"
    customers = f"{_of(failing, members)} customers"
    return Finding(key=key, failing=failing, detail=f"{len(failing)} of {len(members)} connections {_place(key)} fail ({customers}), {silence}")


def _specific(health: Health, healths: Sequence[Health], now: datetime) -> Finding | None:
    """A connection whose breaker is open. It is its own affair when neighbours have worked since, or it has none; else we wait for a wider verdict first."""
    assert health.failing_since is not None
    place = _place((Scope.HOST, health.host)) if health.host else f"of {health.system}"
    shared: Key = (Scope.HOST, health.host) if health.host else (Scope.SYSTEM, health.system)
    neighbours = [other for other in healths if other.belongs_to(shared) and other.connection != health.connection and other.is_seen(now)]
    well = [other for other in neighbours if not other.is_failing(now) and succeeded_since([other], health.failing_since)]
    failed = f"{health.failures} calls in a row failed" if health.failures > 1 else "a call failed"
    if not neighbours:
        why = f"no other connection {place} was seen"
    elif well:
        why = f"{len(well)} of {len(neighbours)} other connections {place} succeeded since"
    elif now - health.failing_since >= ALONE_AFTER:
        failing = [other for other in neighbours if other.is_failing(now)]
        why = f"{len(failing)} of {len(neighbours)} other connections {place} fail too, of too few customers to blame what they share"
    else:
        return None
    return Finding(key=(Scope.CONNECTION, health.connection), failing=(health,), detail=f"{failed}, {why}")


def _explained(health: Health, wide: Collection[Key]) -> bool:
    return (Scope.HOST, health.host) in wide or (Scope.SYSTEM, health.system) in wide


def _abandoned(health: Health, now: datetime) -> bool:
    return health.last_failure_at is None or now - health.last_failure_at > ABANDONED_AFTER


def _width(key: Key) -> int:
    return list(Scope).index(key[0])


def _place(key: Key) -> str:
    return f"on host {key[1]}" if key[0] is Scope.HOST else f"of {key[1]}"


def _of(failing: Sequence[Health], members: Sequence[Health]) -> str:
    return f"{len({health.customer for health in failing})} of {len({health.customer for health in members})}"
