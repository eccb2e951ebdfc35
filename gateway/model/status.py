"""What is shown of a connection: read from the store at one instant, published as the status document."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.model.connection import State
from gateway.model.operation import Operation

ACCEPTING = frozenset(
    {
        State.VERIFYING,
        State.ACTIVE,
        State.DEGRADED,
        State.REAUTHORIZATION_REQUIRED,
        State.BLOCKED,
        State.PAUSED,
    }
)
"""States in which telemetry is buffered for the connection."""

WORKED = frozenset({State.ACTIVE, State.DEGRADED})
"""States in which streams run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an initial sync has come. `fraction` (0 to 1) of the time from `start` to `until` is walked up
    to `cursor`.

    `clipped_to_days` is what the system's own limit left of the days that were asked for; None where it left
    them all.
    """

    fraction: float
    start: datetime
    until: datetime
    cursor: datetime
    pending_readings: int
    clipped_to_days: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One phase of a stream. `lag_seconds` is the age of the oldest closed window that is not delivered;
    `lost_until`: what was measured before it was dropped before all of it was delivered.
    """

    name: str
    direction: Literal["outbound", "inbound"]
    phase: Literal["initial", "incremental"]
    state: Literal["idle", "running", "lagging", "failed"]
    watermark: str
    lag_seconds: float
    progress: Progress | None
    lost_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What stands in the way of a part of the work, where the state does not say it."""

    part: str
    detail: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """A connection and its streams at one instant."""

    connection: str
    customer: str
    system: str
    hosting: str
    tier: int
    state: State
    reason: str | None
    since: datetime
    version: int
    delivery: str
    last_success_at: datetime | None
    next_run_at: datetime | None
    pending: int
    dead_letters: int
    credits: int
    request_id: str | None
    incident: str | None
    streams: tuple[StreamStatus, ...]
    troubles: tuple[Trouble, ...] = ()
    operation: Operation | None = None
    """Whose failure the state comes from."""
    next_probe_at: datetime | None = None
    open_alerts: int = 0
    meters_refused: int = 0
    meters_waiting: int = 0

    @property
    def next_trial_at(self) -> datetime | None:
        """When what failed is tried again; None where nothing fails, or nothing is called before somebody acts."""
        match self.state:
            case State.BLOCKED:
                return self.next_probe_at
            case State.DEGRADED:
                return self.next_run_at if self.operation is Operation.PUSH else self.next_probe_at
            case _:
                return None

    @property
    def lag_seconds(self) -> float:
        """The worst of its streams; 0 without any."""
        return max((stream.lag_seconds for stream in self.streams), default=0.0)
