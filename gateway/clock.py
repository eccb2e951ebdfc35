"""The only reader of the clock. Wall time is for stamps that people and systems see; durations use monotonic
time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Aware, UTC."""
    return datetime.now(UTC)


def now_microseconds() -> int:
    """Microseconds since the epoch, for the hot path."""
    return time.time_ns() // 1000


def monotonic() -> float:
    """Seconds, for durations only."""
    return time.monotonic()
