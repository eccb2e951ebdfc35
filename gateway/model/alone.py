"""What the system would be told of a window that one sample alone makes, by the rules of delivery. Pure: for
`fieldgate explain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from gateway.model.arithmetic import MAX_EXACT, Reduced, told
from gateway.model.connector import Capabilities
from gateway.model.delivery import DueWindow, plan
from gateway.model.meter import MeterMapping, refusal
from gateway.model.sample import Value

MAX_ADDED = 1e150
"""A sum of numbers from there on may leave a double."""

_ADDED = frozenset({"mean", "sum", "delta", "time_weighted_mean"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """`reading`: what the system is told; None where it is told nothing. `refused`: why not, or None where a
    sample alone makes nothing.
    """

    reading: Value | None
    refused: str | None


def alone(
    connection: str, mapping: MeterMapping, value: Value, start: datetime, capabilities: Capabilities
) -> Alone:
    """Of the window that begins at `start`, were this its only sample."""
    if refused := refusal(mapping, value):
        return Alone(reading=None, refused=refused)
    made = told(_reduced(mapping.reduce, value), mapping.arithmetic, mapping.reduce)
    window = DueWindow(
        meter=mapping.meter,
        window_start=start,
        mark=0,
        attempts=0,
        unit=mapping.unit,
        deadband=0.0,
        reduce=mapping.reduce,
        value=made.value,
        delivered=None,
        previous=None,
        unfit=made.unfit,
        is_beyond=made.is_beyond,
    )
    planned = plan(connection, [window], capabilities=capabilities, oldest=None, clip_silently=False)
    return Alone(
        reading=next((reading.value for _, reading in planned.send), None),
        refused=next((f"{one.reason}: {one.detail}" for one in planned.refused), None),
    )


def _reduced(reduce: str, value: Value) -> Reduced:
    """As `due_compute.sql` reduces it."""
    if reduce == "count":
        return Reduced(1)
    if reduce in ("cycles", "run_time"):
        return Reduced()
    if isinstance(value, str):
        return Reduced(value)
    is_unfit = not isinstance(value, bool) and (
        (isinstance(value, int) and abs(value) > MAX_EXACT and Decimal(repr(float(value))) != value)
        or (abs(value) >= MAX_ADDED and reduce in _ADDED)
    )
    if reduce == "delta":  # there is no other to compare it with
        return Reduced(None, value if is_unfit else None)
    if reduce not in ("last", "first", "each"):
        return Reduced(None if is_unfit else float(value), value if is_unfit else None)
    return Reduced(value, value if is_unfit else None)
