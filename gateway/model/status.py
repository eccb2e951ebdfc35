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

NEEDS_PERSON = (State.REAUTHORIZATION_REQUIRED, State.BLOCKED, State.PENDING)
"""States of a connection that waits for a person, the most urgent first."""

URGENCY = (
    *NEEDS_PERSON,
    State.DEGRADED,
    State.VERIFYING,
    State.PAUSED,
    State.DISCONNECTING,
    State.ACTIVE,
    State.DISCONNECTED,
)
"""Every state, those that need a person first: the order of lists."""

UNWELL = (State.REAUTHORIZATION_REQUIRED, State.BLOCKED, State.DEGRADED)
"""States of a connection that is not well, the worst first."""

LAGGING_SECONDS = 300.0
"""Nor is one well whose oldest closed window is older."""


CATCHING_UP_SECONDS = 15.0
"""From this lag on a stream that delivers is said to catch up: what just closed is delivered sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an initial sync has come. `fraction` (0 to 1) of the samples from `start` to `until`, as far as
    can be told without counting them, lie before `cursor`; the rest takes about `estimated_seconds` at the
    pace so far (None: too early to tell).

    `clipped_to_days` is what the system's own limit left of the days that were asked for; None where it left
    them all.
    """

    fraction: float
    start: datetime
    until: datetime
    cursor: datetime
    pending_readings: int
    estimated_seconds: float | None
    clipped_to_days: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsProgress:
    """How far a phase of an inbound stream is. held: records of the stream that are there. read: by this
    phase so far. `fraction` (0 to 1) and what remains only where they can be told. vanished: what a person
    has to confirm.
    """

    held: int
    read: int
    fraction: float | None
    remaining_seconds: float | None
    vanished: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """One phase of a stream. `lag_seconds` is the age of the oldest closed window that is not delivered, or
    of the last interval of records that was read whole; `lost_until`: what was measured before it was dropped
    before all of it was delivered.
    """

    name: str
    direction: Literal["outbound", "inbound"]
    phase: Literal["initial", "incremental", "reconcile"]
    state: Literal["idle", "running", "lagging", "failed"]
    watermark: str
    lag_seconds: float
    progress: Progress | None
    lost_until: datetime | None = None
    records: RecordsProgress | None = None


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
    title: str | None = None
    troubles: tuple[Trouble, ...] = ()
    operation: Operation | None = None
    """Whose failure the state comes from."""
    next_probe_at: datetime | None = None
    next_pull_at: datetime | None = None
    open_alerts: int = 0
    meters_refused: int = 0
    meters_waiting: int = 0

    @property
    def next_trial_at(self) -> datetime | None:
        """When what failed is tried again; None where nothing fails, or nothing is called before somebody
        acts.
        """
        match self.state:
            case State.BLOCKED:
                return self.next_probe_at
            case State.DEGRADED:
                times = {Operation.PUSH: self.next_run_at, Operation.PULL: self.next_pull_at}
                return (
                    self.next_probe_at
                    if self.operation is None
                    else times.get(self.operation, self.next_probe_at)
                )
            case _:
                return None

    @property
    def lag_seconds(self) -> float:
        """The worst of its streams of readings; 0 without any."""
        lags = (stream.lag_seconds for stream in self.streams if stream.direction == "outbound")
        return max(lags, default=0.0)

    @property
    def is_catching_up(self) -> bool:
        """Whether readings that have waited go out: the connection works, and is not where it should be."""
        return self.state in WORKED and any(
            stream.lag_seconds >= CATCHING_UP_SECONDS and stream.state in ("running", "lagging")
            for stream in self.streams
            if stream.direction == "outbound"
        )
