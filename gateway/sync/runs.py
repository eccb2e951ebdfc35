"""What runs of every kind share, whichever way they sync: what they ask of the connection's health, how long
they wait after a failure, how they end, and when that is told.
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
"""Failed runs in a row after which it is told, and so is the first that succeeds again."""

FAULT_BASE_SECONDS = 5.0


class RunHealth(Protocol):
    """What a run reports about the connection, and asks before it calls: `gateway.connections.health`."""

    async def admit(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> float | None:
        """Seconds to wait before the system may be called; None: go on."""
        ...

    async def succeeded(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """The system has answered well."""
        ...

    async def unused(self, link: ServedConnection, operation: Operation = Operation.PUSH) -> None:
        """It was not called after all."""
        ...

    async def failed(
        self,
        link: ServedConnection,
        error: ConnectorError,
        *,
        attempts: int,
        operation: Operation = Operation.PUSH,
    ) -> float:
        """It has not; seconds to wait at least."""
        ...


RunState = Literal["idle", "lagging", "running", "failed", "done"]
"""As it is stored. `lagging`: more is due at once. `running`: it goes on, now or after a wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ended."""

    state: RunState
    next_in_seconds: float
    attempts: int = 0
    error: str | None = None
    succeeded: bool = False
    put_off: int = 0
    is_asked_for: bool = False
    """The system asked for the wait."""

    waits: bool = False
    """Nothing was due but what is in doubt and must wait: what failed before still counts."""


class Ran(Protocol):
    """The claim of a run."""

    @property
    def customer(self) -> str: ...  # noqa: D102
    @property
    def connection(self) -> str: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102


def seconds_when_put_off(settings: SyncSettings, error: RateLimited, count: int) -> float:
    """Until the next run, after the system put off `count` runs in a row."""
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
    """Until the next run, after `attempts` that failed in a row: longer each time, as long as the system
    asked for, and after a call whose outcome is unknown until it must have arrived.
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
    """Until the next run, after one that ended in a fault of our own: so long that it is seen and does not
    spin.
    """
    return full_jitter(
        attempts,
        rand=random.random(),
        base_seconds=FAULT_BASE_SECONDS,
        cap_seconds=settings.backoff_cap.total_seconds(),
    )


def event_of(claim: Ran, end: End, data: Mapping[str, object]) -> NewEvent | None:
    """Only what somebody waits for: the end of an initial sync, the third failure in a row, the first success
    after it. What fails now and then is in the runs' records.
    """
    if end.error is not None and end.attempts == FAILED_AFTER:
        event, data = EventType.SYNC_FAILED, {**data, "reason": end.error}
    elif end.error is None and end.succeeded and (end.state == "done" or claim.attempts >= FAILED_AFTER):
        event = EventType.SYNC_COMPLETED
    else:
        return None
    return NewEvent(type=event, customer=claim.customer, connection=claim.connection, data=dict(data))
