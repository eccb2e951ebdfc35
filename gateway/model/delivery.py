"""Decides which due windows are sent as readings, and which need no call to the system. Pure."""

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
"""A number with at most so many significant digits was not made by adding doubles."""

_GOLDEN = 0.6180339887498949
_AS_SENT = ("last", "first", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWindow:
    """A closed window with its value recomputed from telemetry.

    - `value` is None where the window has no sample (`is_empty`), or where no value can be made of its
      samples.
    - `unfit`: a sample that cannot take part in the reduction; None where all can.
    - `is_beyond`: together the samples are too large to be added exactly.
    - `noise`: by how much the value that an earlier version made of the same samples may differ.
    - `delivered`: what the system holds for this window; None: nothing.
    - `previous`: what it holds for the meter's nearest window before, which began at `previous_at`; None:
      nothing.
    - `doubt` is set while the system may hold `doubted`, which was pushed without a known outcome: then
      `delivered` proves nothing.
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
    """What becomes of windows. `send` has those that are sent, with their readings, ascending by (meter,
    window_start); `settled` windows need nothing; `refused` ones become dead letters. `withheld` pairs each
    window whose value lies within the deadband with the value that it was compared with: such a window needs
    nothing once the system holds that value.
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
    """Decides which windows are sent, withheld, settled or refused. `due` ascends by (meter, window_start).

    - A window whose value equals what was delivered is settled.
    - A window that was never delivered is withheld where its value lies within the deadband around what the
      system holds for the nearest window before, unless that is `max_silence` or more before it.
    - A window before `oldest`, the earliest that the system takes, is refused; in an initial sync
      (`clip_silently`) it is settled, for the status document says what was cut off.
    - A window in doubt is sent, whatever was delivered.
    """
    result = DeliveryPlan()
    last: dict[str, tuple[datetime, Value]] = {}
    for window in due:
        value = _in_taken_kind(window.value, capabilities)
        is_old = oldest is not None and window.window_start < oldest
        refusal = _refusal(window, value, capabilities, oldest if is_old else None)
        if window.delivered is not None:
            last[window.meter] = (window.window_start, window.delivered)
        if is_old and clip_silently:
            result.settled.append(window)
        elif refusal is not None:
            result.refused.append(refusal)
        elif value is None or (window.doubt is None and _is_held(window, value)):
            result.settled.append(window)
        else:
            reference = _held_before(window, last.get(window.meter))
            is_first = window.delivered is None and window.doubt is None
            if is_first and _is_within_deadband(window, value, reference):
                assert isinstance(reference, int | float)
                result.withheld.append((window, reference))
            else:
                last[window.meter] = (window.window_start, value)
                result.send.append((window, _reading(connection, window, value)))
    return result


def _refusal(
    window: DueWindow, value: Value | None, capabilities: Capabilities, oldest: datetime | None
) -> Refusal | None:
    """Why the window cannot be sent to the system. None where it can, or where there is nothing to send.
    `oldest` is set where the window is older than the system takes.
    """
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


def _held_before(window: DueWindow, last: tuple[datetime, Value] | None) -> Value | None:
    """What the system holds for the nearest window before, or will hold: `last` is of the windows that are
    planned with this one. None where there is none, and where it is `max_silence` or more before: then the
    value is sent.
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
    """How many readings one push may have after `failures` failed runs in a row: from the third on half as
    many with each, down to one. So a reading that makes a system answer 500 for ever is found, while the
    others pass.
    """
    if failures < 3:
        return max_items
    return max(1, max_items >> (failures - 2))


def batch_sizes(max_items: int, failures: int, *, is_searching: bool) -> Iterator[int]:
    """The sizes of the batches of one run, without end. After failures each batch is twice as large as the
    one before, for that was taken: else the run would be over. While a reading may be at fault
    (`is_searching`) they stay small.
    """
    size = batch_limit(max_items, failures)
    while True:
        yield size
        if not is_searching:
            size = min(max_items, 2 * size)


_Group = list[tuple[DueWindow, Reading]]


def reordered(
    sendable: Iterable[tuple[DueWindow, Reading]], *, failures: int, ascending: bool
) -> list[tuple[DueWindow, Reading]]:
    """The windows in another order after each failed run, so that whatever fails is not always the first, and
    others pass before it. Windows that failed alone before come last. Where readings must ascend the order
    within a meter stays.
    """
    groups: dict[tuple[str, datetime | None], _Group] = {}
    for pair in sendable:
        key = (pair[0].meter, None if ascending else pair[0].window_start)
        groups.setdefault(key, []).append(pair)
    fresh: list[_Group] = []
    suspects: list[_Group] = []
    for group in groups.values():
        (suspects if any(due.attempts for due, _ in group) else fresh).append(group)
    return [pair for part in (fresh, suspects) for group in _rotated(part, failures) for pair in group]


def _rotated(items: list[_Group], failures: int) -> list[_Group]:
    """The same items, begun at another place after each failure: far from where they began before."""
    start = int(len(items) * (failures * _GOLDEN % 1.0))
    return items[start:] + items[:start]


def chunks(
    sendable: Sequence[tuple[DueWindow, Reading]], sizes: Iterator[int]
) -> Iterable[Sequence[tuple[DueWindow, Reading]]]:
    """Splits them into consecutive parts, each of at most the next size."""
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


def _in_taken_kind(value: Value | None, capabilities: Capabilities) -> Value | None:
    """The value in a kind that the system takes: a boolean becomes 0 or 1 for a system of numbers only. None
    where the system takes no such kind.
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
    """Whether the system holds the value. It may differ by the noise of an earlier version, which added
    doubles: no difference was measured, so nobody needs a correction.
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


def _is_within_deadband(window: DueWindow, value: Value, reference: Value | None) -> bool:
    if (
        window.deadband <= 0
        or isinstance(value, bool | str)
        or reference is None
        or isinstance(reference, bool | str)
    ):
        return False
    return not is_above_by(max(value, reference), min(value, reference), window.deadband)
