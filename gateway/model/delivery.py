"""Which due windows become readings, and which need no call to the system. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.model.connector import Capabilities
from gateway.model.reading import Reading, reading_key
from gateway.model.sample import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWindow:
    """A closed window with its value recomputed from telemetry.

    `delivered`: what the system holds for this window; `previous`: what it holds for the meter's window
    before; None where nothing. `doubt` is set while the system may hold `doubted` instead, which was pushed
    without a known outcome: then `delivered` proves nothing.
    """

    meter: str
    window_start: datetime
    mark: int
    attempts: int
    unit: str | None
    deadband: float
    reduce: str
    value: Value | None
    delivered: Value | None
    previous: Value | None
    doubt: int | None = None
    doubted: Value | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reading that is not sent because the system could never take it."""

    due: DueWindow
    reason: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Plan:
    """`send` pairs each reading with its window, ascending by (meter, window_start); `settled` needs nothing;
    `refused` is dead.
    """

    send: list[tuple[DueWindow, Reading]] = field(default_factory=list)
    settled: list[DueWindow] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def plan(
    connection: str,
    due: Sequence[DueWindow],
    *,
    capabilities: Capabilities,
    oldest: datetime | None,
    clip_silently: bool,
) -> Plan:
    """Sorts windows into what is sent, what is settled and what is refused. `due` ascends by (meter,
    window_start).

    A value equal to what was delivered is settled. A window never delivered whose value lies within the
    deadband around the meter's last delivered value is settled too. `oldest` is the earliest window the
    system takes: an initial sync clips silently (its status says so), an incremental one refuses with a
    reason. What is in doubt is sent, whatever was delivered.
    """
    result = Plan()
    last: dict[str, Value] = {}
    for window in due:
        value = _fit(window.value, capabilities)
        if window.value is None or (window.doubt is None and _equal(value, window.delivered)):
            result.settled.append(window)
            if window.delivered is not None:
                last[window.meter] = window.delivered
            continue
        if value is None:
            detail = f"the system takes {', '.join(sorted(capabilities.values))}; this is {type(window.value).__name__}: map another metric or reduction"
            result.refused.append(Refusal(due=window, reason="unsupported_value", detail=detail))
            continue
        if oldest is not None and window.window_start < oldest:
            if clip_silently:
                result.settled.append(window)
            else:
                detail = f"the system takes nothing older than {oldest.isoformat(timespec='seconds')}"
                result.refused.append(Refusal(due=window, reason="older_than_max_backfill", detail=detail))
            continue
        is_first = window.delivered is None and window.doubt is None
        if is_first and _within(window.deadband, value, last.get(window.meter, window.previous)):
            result.settled.append(window)
            continue
        last[window.meter] = value
        result.send.append((window, _reading(connection, window, value)))
    return result


def oldest_accepted(capabilities: Capabilities, now: datetime) -> datetime | None:
    """The earliest window start that the system takes now, None where it takes any."""
    return None if capabilities.max_backfill is None else now - capabilities.max_backfill


def batch_limit(max_items: int, failures: int) -> int:
    """Readings in one push after `failures` equal failures while the system is well: halves from the third
    on, down to one.

    A reading that makes a system answer 500 for ever is so found and parked instead of blocking its stream.
    """
    return max_items if failures < 3 else max(1, max_items >> (failures - 2))


def suspects_last(sendable: Iterable[tuple[DueWindow, Reading]]) -> list[tuple[DueWindow, Reading]]:
    """Meters that failed before come after the others; the order within a meter stays."""
    pairs = list(sendable)
    suspects = {due.meter for due, _ in pairs if due.attempts}
    return sorted(pairs, key=lambda pair: pair[0].meter in suspects)


def chunks(
    sendable: Sequence[tuple[DueWindow, Reading]], size: int
) -> Iterable[Sequence[tuple[DueWindow, Reading]]]:
    """Consecutive parts of at most `size`."""
    return (sendable[start : start + size] for start in range(0, len(sendable), size))


def _reading(connection: str, window: DueWindow, value: Value) -> Reading:
    return Reading(
        key=reading_key(connection, window.meter, window.window_start),
        meter=window.meter,
        window_start=window.window_start,
        value=value,
        unit=window.unit,
        modified=window.delivered is not None
        or (window.doubt is not None and not _equal(value, window.doubted)),
    )


def _fit(value: Value | None, capabilities: Capabilities) -> Value | None:
    """The value in a kind that the system takes; a boolean becomes 0 or 1 for a system of numbers. None where
    nothing fits.
    """
    match value:
        case None:
            return None
        case bool():
            if "boolean" in capabilities.values:
                return value
            return float(value) if "number" in capabilities.values else None
        case int() | float():
            return value if "number" in capabilities.values else None
        case str():
            return value if "text" in capabilities.values else None


def _equal(value: Value | None, delivered: Value | None) -> bool:
    if isinstance(value, bool) is not isinstance(delivered, bool):
        return False
    return value is not None and value == delivered


def _within(deadband: float, value: Value, reference: Value | None) -> bool:
    if (
        deadband <= 0
        or isinstance(value, bool | str)
        or reference is None
        or isinstance(reference, bool | str)
    ):
        return False
    return abs(value - reference) < deadband
