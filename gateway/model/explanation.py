"""What would become of a message: its samples and the meters that they feed, or the reason why it is a dead
letter. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.model.sample import Metrics, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """A meter that a metric of a sample feeds. `window_end` is exclusive; equal to the start for `each`.

    `reading`: what the system would be told, were this the window's only sample: reduced, scaled, converted
    and as the system takes it; None where a sample alone makes nothing. `arithmetic`: what is done beside the
    reduction, in words; empty where nothing is. `refused`: why this value is not used; None where it is.
    """

    connection: str
    system: str
    meter: str
    metric: str
    value: Value
    reading: Value | None
    unit: str | None
    reduce: str
    calendar: str | None
    """What of the calendar the window is; None for one of a duration."""
    deadband: float
    arithmetic: str
    refused: str | None
    window_start: datetime
    window_end: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """An alert rule that a sample is judged by. `distance`: how far its value is from the condition; the
    device's other samples, and how long it holds, decide the rest.
    """

    connection: str
    system: str
    rule: str
    condition: str
    metric: str | None
    value: Value
    holds: bool | None
    """None where the sample alone cannot tell."""
    distance: str
    lasts_seconds: float
    kind: str
    severity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSample:
    """One sample of the message."""

    device: str
    at: datetime
    metrics: Metrics
    meters: tuple[Fed, ...]
    alerts: tuple[Touched, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedField:
    """A field, or an item of a list (without a name), that is left out while the rest of the message is
    taken.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Samples, or why the message is ignored, or the reason of the dead letter and what to do about it.

    `more_samples`: so many of the message are not listed. `device_name`: the device's name as the topic has
    it. `hints`: what is taken, and probably not as it was meant.
    """

    topic: str
    source: str | None
    format: str | None
    customer: str | None
    device: str | None
    dead_letter: str | None = None
    detail: str | None = None
    advice: str | None = None
    samples: tuple[ExplainedSample, ...] = ()
    more_samples: int = 0
    skipped: tuple[SkippedField, ...] = ()
    hints: tuple[str, ...] = ()
    ignored: str | None = None
    device_name: str | None = None
