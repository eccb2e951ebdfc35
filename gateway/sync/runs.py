"""What all kinds of runs share: what they report to the connection's health, how long they wait after a
failure, how they end, and which event tells of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.model.backoff import full_jitter, put_off, with_floor
from gateway.model.errors import ConnectorError, OutcomeUnknown, RateLimited, Unavailable
from gateway.model.event import EventType, NewEvent
from gateway.model.operation import Operation
from gateway.settings import SyncSettings
from gateway.sync.link import ServedConnection

FAILED_AFTER = 3
"""After so many failed runs in a row an event tells of it, and another one of the first run that succeeds
again.
"""

FAULT_BASE_SECONDS = 5.0


class RunHealth(Protocol):
    """What a run reports to the connection's health, and asks it before it calls:
    `gateway.connections.health`.
    """

    async def admit(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> float | None:
        """Seconds to wait before the system may be called; None: go on."""
        ...

    async def succeeded(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """The system has answered a call well."""
        ...

    async def unused(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """The system was not called after all."""
        ...

    async def failed(
        self,
        link: ServedConnection,
        error: ConnectorError,
        *,
        attempts: int,
        operation: Operation = Operation.PUSH,
    ) -> float:
        """A call has failed. Returns how many seconds the next one has to wait at least."""
        ...


RunState = Literal["idle", "lagging", "running", "failed", "done"]
"""The state of a stream after a run, as it is stored. `lagging`: more is due at once. `running`: the run was
not finished and goes on, at once or after a wait.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    state: RunState
    next_in_seconds: float
    attempts: int = 0
    error: str | None = None
    succeeded: bool = False
    put_off: int = 0
    is_asked_for: bool = False
    """Whether the system asked for the wait."""

    waits: bool = False
    """Nothing was due but what is in doubt and must wait: what failed before still counts."""


class RunClaim(Protocol):
    """What an event needs of the claim of a run."""

    @property
    def customer(self) -> str: ...  # noqa: D102
    @property
    def connection(self) -> str: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102


def seconds_when_put_off(settings: SyncSettings, error: RateLimited, count: int) -> float:
    """Seconds until the next run, after the system put off `count` runs in a row."""
    return put_off(
        count,
        asked_seconds=error.retry_after,
        rand=random.random(),
        growth_cap_seconds=settings.backoff_cap.total_seconds(),
        cap_seconds=settings.max_wait.total_seconds(),
    )


def seconds_to_retry(
    settings: SyncSettings, error: ConnectorError, attempts: int, *, at_least: float
) -> float:
    """Seconds until the next run, after `attempts` runs that failed in a row: more each time. At least as
    many as the system asked for, and after a call whose outcome is unknown as many as it may take to arrive.
    """
    rand = random.random()
    base, growth_cap = settings.backoff_base.total_seconds(), settings.backoff_cap.total_seconds()
    wait = max(at_least, full_jitter(attempts, rand=rand, base_seconds=base, cap_seconds=growth_cap))
    if isinstance(error, OutcomeUnknown):
        wait = max(wait, settings.unknown_wait.total_seconds())
    if isinstance(error, Unavailable):
        cap = max(wait, settings.max_wait.total_seconds())
        wait = with_floor(wait, floor_seconds=error.retry_after, rand=random.random(), cap_seconds=cap)
    return wait


def seconds_after_fault(settings: SyncSettings, attempts: int) -> float:
    """Seconds until the next run after one that ended in a fault of our own: enough for it to be seen and not
    to spin.
    """
    return full_jitter(
        attempts,
        rand=random.random(),
        base_seconds=FAULT_BASE_SECONDS,
        cap_seconds=settings.backoff_cap.total_seconds(),
    )


def event_of(claim: RunClaim, end: RunEnd, data: Mapping[str, object]) -> NewEvent | None:
    """The event that tells how a run ended; None for most runs. Events tell only what somebody waits for: the
    end of an initial sync, the third failure in a row, and the first success after it.
    """
    if end.error is not None and end.attempts == FAILED_AFTER:
        event, data = EventType.SYNC_FAILED, {**data, "reason": end.error}
    elif end.error is None and end.succeeded and (end.state == "done" or claim.attempts >= FAILED_AFTER):
        event = EventType.SYNC_COMPLETED
    else:
        return None
    return NewEvent(type=event, customer=claim.customer, connection=claim.connection, data=dict(data))
