"""Whether the calls to a system are failing, and whether that is one connection's affair or everybody's. Pure.

A breaker of a connection says that this connection fails; one of a host or of a system type holds the calls of all its connections back.
Only transient failures count here: a refused credential, a missing permission or a bad record is an answer, so the system is there.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.backoff import full_jitter

SEEN = timedelta(minutes=5)
"""A connection counts for this long after its last call."""

SILENCE = timedelta(seconds=60)
"""How long nobody has succeeded, and somebody has failed, before a host or a system type is at fault."""

FEWEST_CUSTOMERS = 3
FAILURES_IN_A_ROW = 3
LONGEST_PROBE_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 5.0


class Scope(enum.StrEnum):
    """What a breaker or an incident is about, from narrow to wide."""

    CONNECTION = "connection"
    HOST = "host"
    SYSTEM = "system"


Key = tuple[Scope, str]
"""A connection, a host or a system type, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one connection's calls. `failing_since`, `failures`, `operations` and `request_ids` are of the transient failures in a row,
    over all replicas; None and 0 when the last call was answered.
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

    def belongs_to(self, key: Key) -> bool:
        """Whether the connection is this one, or on this host, or of this system type."""
        scope, name = key
        match scope:
            case Scope.CONNECTION:
                return self.connection == name
            case Scope.HOST:
                return self.host == name
            case Scope.SYSTEM:
                return self.system == name

    def is_seen(self, now: datetime) -> bool:
        """Whether it called lately."""
        return any(at is not None and now - at <= SEEN for at in (self.last_success_at, self.last_failure_at))

    def is_failing(self, now: datetime) -> bool:
        """Whether its last call failed for a transient reason, lately."""
        return self.failing_since is not None and self.last_failure_at is not None and now - self.last_failure_at <= SEEN

    def is_open(self, now: datetime) -> bool:
        """Whether its own breaker is open: three failures in a row, or a minute of them."""
        return self.failing_since is not None and self.is_failing(now) and (self.failures >= FAILURES_IN_A_ROW or now - self.failing_since >= SILENCE)


def enough_fail(members: Sequence[Health], *, now: datetime) -> bool:
    """Whether at least three and at least 30 % of the customers seen there fail. A customer's connections are one voice, however many they are."""
    failing = {health.customer for health in members if health.is_failing(now)}
    seen = {health.customer for health in members if health.is_seen(now)}
    return len(failing) >= FEWEST_CUSTOMERS and 10 * len(failing) >= 3 * len(seen)


def is_systemic(members: Sequence[Health], *, now: datetime) -> bool:
    """Whether a host or a system type with these connections is at fault: enough customers fail, for a minute, in which nobody succeeded."""
    failing_since = [health.failing_since for health in members if health.failing_since is not None and health.is_failing(now)]
    return enough_fail(members, now=now) and now - min(failing_since) >= SILENCE and not succeeded_since(members, now - SILENCE)


def succeeded_since(members: Sequence[Health], since: datetime) -> bool:
    """Whether one of them succeeded after `since`."""
    return any(health.last_success_at is not None and health.last_success_at > since for health in members)


def probe_interval_seconds(attempt: int, *, rand: float) -> float:
    """How long an open breaker rests before the next trial, after `attempt` failed ones (0: it has just opened). 1 to 60 s, growing, with jitter."""
    return max(1.0, full_jitter(attempt + 1, rand=rand, base_seconds=2.0, cap_seconds=LONGEST_PROBE_SECONDS))


def wait_seconds(next_trial_seconds: float, *, rand: float) -> float:
    """What a caller at an open breaker is told to wait: until the next trial, 5 s at most, and up to half as long again (at least a second).

    Short enough that everybody goes soon after the breaker has closed, and spread, so that they do not go together.
    """
    wait = min(max(next_trial_seconds, 0.0), LONGEST_WAIT_SECONDS)
    return wait + rand * max(1.0, wait / 2)
