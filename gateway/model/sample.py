"""A sample as a device sent it. Times on the hot path are integer microseconds since the epoch, UTC:
building a datetime for each sample costs more than parsing its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

Value = float | int | bool | str
Metrics = dict[str, Value]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one device measured at one instant. `at_microseconds` is the device's time (or receipt, where it
    sent none).
    """

    customer: str
    device: str
    at_microseconds: int
    metrics: Metrics


def literal(value: Value) -> str:
    """As JSON and the configuration have it, not as Python has: `true`, 21.5, 'on'."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def to_microseconds(at: datetime) -> int:
    """Microseconds since the epoch of an aware datetime; exact."""
    return (at - EPOCH) // MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Aware UTC datetime of microseconds since the epoch; exact."""
    return EPOCH + timedelta(microseconds=microseconds)
