"""Which due windows become readings, and which need no call to the system. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from gateway.model.arithmetic import MAX_EXACT, is_above_by
from gateway.model.connector import Capabilities
from gateway.model.reading import Reading, reading_key
from gateway.model.sample import Value

NOISELESS = 14
"""Digits: a number that has no more was not made by adding doubles."""

_GOLDEN = 0.6180339887498949
_AS_SENT = ("last", "first", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWindow:
    """A closed window with its value recomputed from telemetry.

    `value` is None where the window has no sample (`is_empty`), or where its samples make none. `unfit`: one
    of them that cannot take part in the reduction; `is_beyond`: together they are too large to be added
    exactly; `noise`: what an earlier version made of them differs by no more. `delivered`: what the system
    holds for this window; `previous`: what it holds for the meter's
    window before, which is that of `previous_at`; None where nothing. `doubt` is set while the system
    may hold `doubted` instead, which was pushed without a known outcome: then `delivered` proves nothing.
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
    previous_at: datetime | None = None
    max_silence: timedelta | None = None
    unfit: Value | None = None
    is_beyond: bool = False
    is_empty: bool = False
    noise: float = 0.0
    doubt: int | None = None
    doubted: Value | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reading that is not sent because the system could never take it."""

    due: DueWindow
    reason: str
    detail: str


@dataclass(slots=True, kw_only=True)
class DeliveryPlan:
    """`send` pairs each reading with its window, ascending by (meter, window_start); `settled` needs nothing;
    `refused` is dead. `withheld` pairs each window whose value lies within the deadband with what it was
    compared with: that it needs nothing holds once the system holds that.
    """

    send: list[tuple[DueWindow, Reading]] = field(default_factory=list)
    withheld: list[tuple[DueWindow, float]] = field(default_factory=list)
    settled: list[DueWindow] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def plan(
    connection: str,
    due: Sequence[DueWindow],
    *,
    capabilities: Capabilities,
    oldest: datetime | None,
    clip_silently: bool,
) -> DeliveryPlan:
    """Sorts windows into what is sent, withheld, settled and refused. `due` ascends by (meter, window_start).

    A value equal to what was delivered is settled. A window never delivered whose value lies within the
    deadband around what the system holds for the nearest window before it, nearer than `max_silence`, is
    withheld. `oldest` is the earliest window the system takes: an initial sync clips silently (its status
    says so), an incremental one refuses with a reason. What is in doubt is sent, whatever was delivered.
    """
    result = DeliveryPlan()
    last: dict[str, tuple[datetime, Value]] = {}
    for window in due:
        value = _fit(window.value, capabilities)
        is_old = oldest is not None and window.window_start < oldest
        refusal = _refusal(window, value, capabilities, oldest if is_old else None)
        if window.delivered is not None:
            last[window.meter] = (window.window_start, window.delivered)
        if (refusal is None and (value is None or (window.doubt is None and _is_held(window, value)))) or (
            is_old and clip_silently
        ):
            result.settled.append(window)
        elif refusal is not None:
            result.refused.append(refusal)
        elif value is not None:
            reference = _before(window, last.get(window.meter))
            is_first = window.delivered is None and window.doubt is None
            if is_first and _within(window, value, reference):
                assert isinstance(reference, int | float)
                result.withheld.append((window, reference))
            else:
                last[window.meter] = (window.window_start, value)
                result.send.append((window, _reading(connection, window, value)))
    return result


def _refusal(
    window: DueWindow, value: Value | None, capabilities: Capabilities, oldest: datetime | None
) -> Refusal | None:
    """Why the window cannot be told to the system. None where it can, or where there is nothing to tell."""
    held = window.doubted if window.delivered is None else window.delivered
    holds = "" if held is None else f"; the system still holds {held!r}, correct it there"
    if isinstance(window.unfit, bool | str):
        reason = "unusable_value" if held is None else "withdrawn"
        way_out = (
            "map it without scale and offset" if window.reduce in _AS_SENT else "map the metric with last"
        )
        detail = (
            f"a sample is {window.unfit!r}, of which {window.reduce} makes no number: send a number, or"
            f" {way_out}"
        )
    elif window.unfit is not None or window.is_beyond or _is_inexact(window):
        reason = "not_exact"
        total = "the sum" if window.is_beyond and window.value is not None else "the reading"
        culprit = total if window.unfit is None else window.unfit
        detail = f"a double does not hold it: {culprit} is 2^53 or more; use a larger unit or smaller windows"
    elif window.value is None:
        if window.is_empty or held is None:
            return None
        reason, detail = "withdrawn", "the samples were corrected and make no value any more"
    elif value is None:
        reason = "unsupported_value"
        detail = (
            f"the system takes {', '.join(sorted(capabilities.values))}; this is"
            f" {type(window.value).__name__}: map another metric or reduction"
        )
    elif oldest is not None and not _is_held(window, value):
        reason = "older_than_max_backfill"
        detail = f"the system takes nothing older than {oldest.isoformat(timespec='seconds')}"
    else:
        return None
    return Refusal(due=window, reason=reason, detail=detail + holds)


def _is_inexact(window: DueWindow) -> bool:
    return (
        window.reduce == "delta" and isinstance(window.value, float | int) and abs(window.value) >= MAX_EXACT
    )


def _before(window: DueWindow, last: tuple[datetime, Value] | None) -> Value | None:
    """What the system holds for the nearest window before: of those before these, or of these. None where
    that is so far before that the value is to be sent again.
    """
    at, value = window.previous_at, window.previous
    if last is not None and (at is None or at <= last[0]):
        at, value = last
    if window.max_silence is not None and at is not None and window.window_start - at >= window.max_silence:
        return None
    return value


def oldest_accepted(capabilities: Capabilities, now: datetime) -> datetime | None:
    """The earliest window start that the system takes now, None where it takes any."""
    return None if capabilities.max_backfill is None else now - capabilities.max_backfill


def batch_limit(max_items: int, failures: int) -> int:
    """Readings in one push after `failures` failed runs in a row: halves from the third on, down to one.

    A reading that makes a system answer 500 for ever is so found, while the others pass.
    """
    return max_items if failures < 3 else max(1, max_items >> (failures - 2))


def batch_sizes(max_items: int, failures: int, *, is_searching: bool) -> Iterator[int]:
    """Of the batches of one run, for ever. After failures each is twice the one before: that was taken, or
    the run would be over. While a reading may be at fault (`is_searching`) they stay small.
    """
    size = batch_limit(max_items, failures)
    while True:
        yield size
        if not is_searching:
            size = min(max_items, 2 * size)


_Group = list[tuple[DueWindow, Reading]]


def turns(
    sendable: Iterable[tuple[DueWindow, Reading]], *, failures: int, ascending: bool
) -> list[tuple[DueWindow, Reading]]:
    """Another order after each failed run, so that whatever fails is not always the first and others pass
    before it. Those that failed alone before come last; where readings must ascend the order within a meter
    stays.
    """
    groups: dict[tuple[str, datetime | None], _Group] = {}
    for pair in sendable:
        key = (pair[0].meter, None if ascending else pair[0].window_start)
        groups.setdefault(key, []).append(pair)
    fresh: list[_Group] = []
    suspects: list[_Group] = []
    for group in groups.values():
        (suspects if any(due.attempts for due, _ in group) else fresh).append(group)
    return [pair for part in (fresh, suspects) for group in _turned(part, failures) for pair in group]


def _turned(items: list[_Group], failures: int) -> list[_Group]:
    """Begins elsewhere each time, far from where it began before."""
    start = int(len(items) * (failures * _GOLDEN % 1.0))
    return items[start:] + items[:start]


def chunks(
    sendable: Sequence[tuple[DueWindow, Reading]], sizes: Iterator[int]
) -> Iterable[Sequence[tuple[DueWindow, Reading]]]:
    """Consecutive parts, each of at most the next size."""
    start = 0
    while start < len(sendable):
        size = next(sizes)
        yield sendable[start : start + size]
        start += size


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


def _is_held(window: DueWindow, value: Value) -> bool:
    """Whether the system holds it, be it with the noise that an earlier version told it with: nothing that
    differs was measured, and nobody needs a correction by it.
    """
    held = window.delivered
    if _equal(value, held):
        return True
    is_noisy = isinstance(held, float) and float(f"{held:.{NOISELESS}g}") != held
    return is_noisy and not isinstance(value, str) and abs(value - cast("float", held)) <= window.noise


def _equal(value: Value | None, delivered: Value | None) -> bool:
    if isinstance(value, bool) is not isinstance(delivered, bool):
        return False
    return value is not None and value == delivered


def _within(window: DueWindow, value: Value, reference: Value | None) -> bool:
    if (
        window.deadband <= 0
        or isinstance(value, bool | str)
        or reference is None
        or isinstance(reference, bool | str)
    ):
        return False
    return not is_above_by(max(value, reference), min(value, reference), window.deadband)
