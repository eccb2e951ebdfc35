"""The life of a connection as a table. The table drives the code and draws the diagram in the docs."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class State(enum.StrEnum):
    """Where a connection is. The comment says: calls to the system / telemetry."""

    PENDING = "pending"  # none / refused
    VERIFYING = "verifying"  # probe only / buffered
    ACTIVE = "active"  # yes / buffered
    DEGRADED = "degraded"  # breaker-gated / buffered
    REAUTHORIZATION_REQUIRED = "reauthorization_required"  # none / buffered
    BLOCKED = "blocked"  # one probe an hour / buffered
    PAUSED = "paused"  # none / buffered
    DISCONNECTING = "disconnecting"  # drain only / refused
    DISCONNECTED = "disconnected"  # none / refused


class Trigger(enum.StrEnum):
    """What can happen to a connection."""

    CREDENTIALS_GIVEN = "credentials_given"
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_REFUSED = "probe_refused"
    PROBE_DENIED = "probe_denied"
    TRANSIENT_FAILURES = "transient_failures"
    CALL_SUCCEEDED = "call_succeeded"
    AUTH_REFUSED = "auth_refused"
    CALL_DENIED = "call_denied"


S, T = State, Trigger

TABLE: Mapping[tuple[State, Trigger], State] = MappingProxyType(
    {
        (S.PENDING, T.CREDENTIALS_GIVEN): S.VERIFYING,
        (S.REAUTHORIZATION_REQUIRED, T.CREDENTIALS_GIVEN): S.VERIFYING,
        (S.BLOCKED, T.CREDENTIALS_GIVEN): S.VERIFYING,
        (S.ACTIVE, T.CREDENTIALS_GIVEN): S.VERIFYING,
        (S.DEGRADED, T.CREDENTIALS_GIVEN): S.VERIFYING,
        (S.VERIFYING, T.PROBE_SUCCEEDED): S.ACTIVE,
        (S.VERIFYING, T.PROBE_REFUSED): S.REAUTHORIZATION_REQUIRED,
        (S.VERIFYING, T.PROBE_DENIED): S.BLOCKED,
        (S.ACTIVE, T.TRANSIENT_FAILURES): S.DEGRADED,
        (S.DEGRADED, T.CALL_SUCCEEDED): S.ACTIVE,
        (S.ACTIVE, T.AUTH_REFUSED): S.REAUTHORIZATION_REQUIRED,
        (S.DEGRADED, T.AUTH_REFUSED): S.REAUTHORIZATION_REQUIRED,
        (S.BLOCKED, T.AUTH_REFUSED): S.REAUTHORIZATION_REQUIRED,
        (S.ACTIVE, T.CALL_DENIED): S.BLOCKED,
        (S.DEGRADED, T.CALL_DENIED): S.BLOCKED,
        (S.BLOCKED, T.PROBE_SUCCEEDED): S.ACTIVE,
    }
)


def next_state(state: State, trigger: Trigger) -> State | None:
    """Where the trigger leads from this state; None where it changes nothing."""
    return TABLE.get((state, trigger))


def sources(trigger: Trigger) -> list[State]:
    """The states in which the trigger means something."""
    return [state for state, candidate in TABLE if candidate is trigger]


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    lines += [f"    {state} --> {target}: {trigger}" for (state, trigger), target in TABLE.items()]
    return "\n".join(lines) + "\n"
