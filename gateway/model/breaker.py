"""Whether the calls to a system are failing, and whether that is one connection's affair or everybody's.
Pure.

A breaker of a connection says that this connection fails; one of a host or of a system type holds the calls
of all its connections back, or only their pushes, or only their pulls, where probes are answered. Only
transient failures count here: a refused credential, a missing permission or a bad record is an answer, so the
system is there.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.backoff import full_jitter
from gateway.model.operation import Operation, proves

SEEN = timedelta(minutes=5)
"""A connection counts for this long after its last call."""

SILENCE = timedelta(seconds=60)
"""How long nobody has succeeded, and somebody has failed, before a host or a system type is at fault."""

MIN_CUSTOMERS = 3
FAILURES_IN_A_ROW = 3
MAX_PROBE_SECONDS = 60.0
MAX_WAIT_SECONDS = 5.0


class Scope(enum.StrEnum):
    """What a breaker or an incident is about, from narrow to wide."""

    CONNECTION = "connection"
    HOST = "host"
    SYSTEM = "system"


Key = tuple[Scope, str]
"""A connection, a host or a system type, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHealth:
    """What is known of one connection's calls. `failing_since`, `failures`, `operations` and `request_ids`
    are of the transient failures in a row of the operations that fail, over all replicas; None and 0 where
    the last call of each was answered. `last_success_at` is of a push, `last_probe_at` of a probe,
    `last_pull_at` of a pull: each proves itself, and work proves probes.
    """

    connection: str
    customer: str
    system: str
    host: str
    last_success_at: datetime | None
    last_failure_at: datetime | None
    failing_since: datetime | None
    failures: int
    operations: tuple[str, ...] = ()
    request_ids: tuple[str, ...] = ()
    error: str | None = None
    last_probe_at: datetime | None = None
    last_pull_at: datetime | None = None

    @property
    def keys(self) -> tuple[Key, Key, Key]:
        """The connection itself, its host and its system type. A host without a name is none."""
        return (Scope.CONNECTION, self.connection), (Scope.HOST, self.host), (Scope.SYSTEM, self.system)

    def is_seen(self, now: datetime) -> bool:
        """Whether it called lately."""
        called = (self.last_success_at, self.last_probe_at, self.last_pull_at, self.last_failure_at)
        return any(at is not None and now - at <= SEEN for at in called)

    def proved_at(self, operations: Iterable[str]) -> datetime | None:
        """When a call last succeeded that proves all of these operations."""
        asked = [Operation(operation) for operation in operations]
        times = (
            (Operation.PUSH, self.last_success_at),
            (Operation.PULL, self.last_pull_at),
            (Operation.PROBE, self.last_probe_at),
        )
        proving = (at for by, at in times if at is not None and all(proves(by, each) for each in asked))
        return max(proving, default=None)

    def is_failing(self, now: datetime) -> bool:
        """Whether its last call failed for a transient reason, lately."""
        return (
            self.failing_since is not None
            and self.last_failure_at is not None
            and now - self.last_failure_at <= SEEN
        )

    def is_open(self, now: datetime) -> bool:
        """Whether its own breaker is open: three failures in a row, or a minute of them."""
        return (
            self.failing_since is not None
            and self.is_failing(now)
            and (self.failures >= FAILURES_IN_A_ROW or now - self.failing_since >= SILENCE)
        )


class CallingConnections:
    """The health of all connections that make calls, at one time. Looking a key up does not depend on how
    many there are.
    """

    def __init__(self, healths: Iterable[CallHealth], *, now: datetime) -> None:
        self.now = now
        self.healths = tuple(healths)
        self._members: defaultdict[Key, list[CallHealth]] = defaultdict(list)
        self._well: dict[tuple[Key, frozenset[str]], list[datetime]] = {}
        self._operations: dict[Key, frozenset[str]] = {}
        for health in self.healths:
            for key in health.keys:
                self._members[key].append(health)

    def members(self, key: Key) -> Sequence[CallHealth]:
        """All that belong there."""
        return self._members.get(key, ())

    def seen(self, key: Key) -> list[CallHealth]:
        """Those that called lately."""
        return [health for health in self.members(key) if health.is_seen(self.now)]

    def failing(self, key: Key) -> tuple[CallHealth, ...]:
        """Those that fail."""
        return tuple(health for health in self.members(key) if health.is_failing(self.now))

    def failing_keys(self, scope: Scope) -> list[Key]:
        """Where somebody fails, sorted."""
        return sorted(
            {
                key
                for health in self.healths
                if health.is_failing(self.now)
                for key in health.keys
                if key[0] is scope and key[1]
            }
        )

    def operations(self, key: Key) -> frozenset[str]:
        """What fails there."""
        if key not in self._operations:
            self._operations[key] = frozenset(
                operation for health in self.failing(key) for operation in health.operations
            )
        return self._operations[key]

    def proved_at(self, key: Key) -> datetime | None:
        """When a call of any of them last succeeded that proves what fails there."""
        operations = self.operations(key)
        times = (health.proved_at(operations) for health in self.members(key))
        return max((at for at in times if at is not None), default=None)

    def held_back(self, key: Key) -> Operation:
        """The operation that a breaker there has to hold back. One kind of work, where nothing else fails,
        and probes or the other kind were answered since it fails; else PROBE, which stands for everything.
        """
        failing = self.failing(key)
        since = min((h.failing_since for h in failing if h.failing_since is not None), default=self.now)
        failing_work = self.operations(key)
        if len(failing_work) != 1:
            return Operation.PROBE
        operation = Operation(next(iter(failing_work)))
        proved = [member.proved_at((Operation.PROBE,)) for member in self.members(key)]
        is_answered = any(at is not None and at > since for at in proved)
        return operation if is_answered else Operation.PROBE

    def well_since(self, key: Key, since: datetime, operations: Iterable[str] = ()) -> int:
        """How many of those seen do not fail, and succeeded after `since` in what proves these operations."""
        asked = key, frozenset(operations)
        if asked not in self._well:
            proved = (h.proved_at(asked[1]) for h in self.seen(key) if not h.is_failing(self.now))
            self._well[asked] = sorted(at for at in proved if at is not None)
        return len(self._well[asked]) - bisect_right(self._well[asked], since)

    def enough_fail(self, key: Key) -> bool:
        """Whether at least three and at least 30 % of the customers seen there fail. A customer's connections
        are one voice, however many they are.
        """
        failing = {health.customer for health in self.failing(key)}
        seen = {health.customer for health in self.seen(key)}
        return len(failing) >= MIN_CUSTOMERS and 10 * len(failing) >= 3 * len(seen)

    def is_systemic(self, key: Key) -> bool:
        """Whether this host or system type is at fault: enough customers fail, for a minute, in which nobody
        succeeded.
        """
        if not self.enough_fail(key):
            return False
        first = min(health.failing_since for health in self.failing(key) if health.failing_since is not None)
        return self.now - first >= SILENCE and not self.succeeded_since(key, self.now - SILENCE)

    def succeeded_since(self, key: Key, since: datetime) -> bool:
        """Whether a call of one of them succeeded after `since` that proves what fails there."""
        proved = self.proved_at(key)
        return proved is not None and proved > since


def probe_interval_seconds(attempt: int, *, rand: float) -> float:
    """How long an open breaker rests before the next trial, after `attempt` failed ones (0: it has just
    opened). 1 to 60 s, growing, with jitter.
    """
    return max(1.0, full_jitter(attempt + 1, rand=rand, base_seconds=2.0, cap_seconds=MAX_PROBE_SECONDS))


def wait_seconds(next_trial_seconds: float, *, rand: float) -> float:
    """What a caller at an open breaker is told to wait: until the next trial, 5 s at most, and up to half as
    long again (at least a second).

    Short enough that everybody goes soon after the breaker has closed, and spread, so that they do not go
    together.
    """
    wait = min(max(next_trial_seconds, 0.0), MAX_WAIT_SECONDS)
    return wait + rand * max(1.0, wait / 2)
