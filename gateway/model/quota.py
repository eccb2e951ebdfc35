"""What one customer may send and keep, and the bucket by which rates are measured. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

BURST_SECONDS = 60.0
"""So much of its rate a customer may send at once."""

DEAD_BURST_SECONDS = 2.0
"""So much of its bytes at once may be dead letters: each is written whole, and all wait for its commit."""

RESTORE_SECONDS = 3600.0
"""In which the room for dead letters over quota becomes free again."""

PACE_SECONDS = 16.0
"""In which that room is filled at the soonest: those who share the session wait for what is written."""


class QuotaKind(enum.StrEnum):
    """Which of a customer's quotas."""

    MESSAGES = "messages_per_second"
    BYTES = "bytes_per_second"
    DEVICES = "devices"
    METRICS = "metrics_per_device"
    STORED = "stored_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One customer's. `stored_bytes` None: no limit."""

    messages_per_second: float
    bytes_per_second: float
    devices: int
    metrics_per_device: int
    stored_bytes: int | None

    def allowed(self, kind: QuotaKind) -> float:
        """The number of this quota."""
        value = getattr(self, kind.value)
        return float("inf") if value is None else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What came over a quota since it was last told. `customer` None: of what is nobody's. `slowed_seconds`:
    how long reading stood for it. `device`: of a quota that is one device's.
    """

    customer: str | None
    kind: QuotaKind
    allowed: float
    device: str | None = None
    dead_letters: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    slowed_seconds: float = 0.0

    def plus(self, other: Excess) -> Excess:
        """Both together, by the later quota."""
        return Excess(
            customer=self.customer,
            kind=self.kind,
            allowed=other.allowed,
            device=other.device or self.device,
            dead_letters=self.dead_letters + other.dead_letters,
            dropped=self.dropped + other.dropped,
            dropped_bytes=self.dropped_bytes + other.dropped_bytes,
            slowed_seconds=self.slowed_seconds + other.slowed_seconds,
        )


class Bucket:
    """How far a customer is from its rates, counted in seconds of them: a change of the quota needs no change
    here.

    `dead`: of bytes, what dead letters may take; `room`: of dead letters over quota, the part of their bytes
    that is free; `pace`: the part that may be filled at once.
    """

    __slots__ = ("_at", "bytes", "dead", "messages", "over_at", "pace", "room")

    def __init__(self, now: float, grace: float = 0.0) -> None:
        self.messages = self.bytes = BURST_SECONDS + grace
        self.dead = DEAD_BURST_SECONDS + grace
        self.room = 1.0
        self.pace = 1 / PACE_SECONDS
        self.over_at = now
        self._at = now

    def refill(self, now: float, grace: float = 0.0) -> None:
        """Up to a minute's worth, and `grace` seconds beside."""
        passed = now - self._at
        self._at = now
        self.messages = min(BURST_SECONDS + grace, self.messages + passed)
        self.bytes = min(BURST_SECONDS + grace, self.bytes + passed)
        self.dead = min(DEAD_BURST_SECONDS + grace, self.dead + passed)
        self.room = min(1.0, self.room + passed / RESTORE_SECONDS)
        self.pace = min(1 / PACE_SECONDS, self.pace + passed / PACE_SECONDS)

    def add(self, seconds: float) -> None:
        """What was sent while nobody could read is of that time."""
        self.messages += seconds
        self.bytes += seconds
        self.dead += seconds

    def charge(self, quota: Quota, messages: int, size: int) -> float:
        """Takes what has come already; for how many seconds nothing more should."""
        self.messages -= messages / quota.messages_per_second
        self.bytes -= size / quota.bytes_per_second
        return max(0.0, -self.messages, -self.bytes)

    def refusal(self, quota: Quota, size: int, count: int = 1) -> QuotaKind | None:
        """The quota that one more message is over; None where it is taken, and charged as `count`."""
        if self.messages <= 0:
            return QuotaKind.MESSAGES
        if self.bytes <= 0:
            return QuotaKind.BYTES
        self.charge(quota, count, size)
        return None

    def takes_dead_letter(self, quota: Quota, size: int) -> bool:
        """Whether a message that cannot be decoded becomes a dead letter as of right; it is charged then."""
        if self.dead <= 0:
            return False
        self.dead -= size / quota.bytes_per_second
        return True

    def takes_over_quota(self, size: int, most: int) -> bool:
        """Whether there is room for a message over quota among the dead letters. Takes the room where there
        is.
        """
        part = size / most if most else 2.0
        if part > self.room or self.pace <= 0:
            return False
        self.room -= part
        self.pace -= part
        return True
