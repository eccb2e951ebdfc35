"""What every system must hold, computed from what the broker acknowledged and from nothing else.

Knows the documented meaning of reductions, windows, corrections and deadbands; imports nothing of the
product, asks nothing of its database. Times are whole microseconds since the epoch; values are chosen by the
load so that sums are exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Value = float | int | str
Device = tuple[str, str]
"""customer, device."""
Window = tuple[str, int]
"""meter, start of the window."""

LARGEST_EXACT = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a connection: applied to every device, its meter is `<device>/<name>`."""

    name: str
    metric: str
    reduce: str
    every: int = 0
    """The window in microseconds; zero for `each`."""
    deadband: float = 0.0
    refused: bool = False
    """The receiver refuses this meter whatever it is told."""
    flips: bool = False
    """Reloads change how it reduces: what it told before is right by another rule."""

    def start(self, at: int) -> int:
        """Of the window that holds the instant."""
        return at if self.reduce == "each" else at - at % self.every


class Ledger:
    """What was acknowledged, the last publication of each metric of each sample."""

    def __init__(self) -> None:
        self.samples: dict[Device, dict[int, dict[str, Value]]] = {}
        self.said: dict[tuple[Device, int, str], list[Value]] = {}
        """Every value that was ever published for a metric of a sample, in order, repeats left out."""
        self.acknowledged = 0
        self._order: dict[tuple[Device, int, str], int] = {}

    @property
    def refusable(self) -> set[tuple[Device, int]]:
        """Samples of nothing but integers that no double holds: a message of these may be refused whole."""
        return {
            (device, at)
            for device, samples in self.samples.items()
            for at, metrics in samples.items()
            if metrics and not any(_exact(value) for value in metrics.values())
        }

    def forget(self, device: Device, at: int) -> None:
        """A sample that was refused by name."""
        del self.samples[device][at]

    def note(self, device: Device, at: int, metrics: Mapping[str, Value], number: int) -> None:
        """A publication that the broker acknowledged. `number` rises in the order of publishing, which is
        the order that counts.
        """
        self.acknowledged += 1
        held = self.samples.setdefault(device, {}).setdefault(at, {})
        for metric, value in metrics.items():
            key = (device, at, metric)
            said = self.said.setdefault(key, [])
            if not said or said[-1] != value:
                said.append(value)
            if number > self._order.get(key, -1):
                held[metric], self._order[key] = value, number


@dataclass(slots=True, kw_only=True)
class Expected:
    """Of one connection."""

    values: dict[Window, Value] = field(default_factory=dict)
    """What it must hold; for meters with a deadband, what it must hold if it holds the window at all."""
    optional: set[Window] = field(default_factory=set)
    """Windows of meters with a deadband."""
    bands: dict[str, float] = field(default_factory=dict)
    """Deadband of a meter."""
    dead: set[Window] = field(default_factory=set)
    """Windows that must be told as dead letters: nobody could take them."""
    forgiven: set[Window] = field(default_factory=set)
    """Windows that may be dead letters: at some time they held what cannot be reduced."""
    steady: set[Window] = field(default_factory=set)
    """Of `each`, published with one value only: one write, no change."""
    possible: dict[Window, set[Value]] = field(default_factory=dict)
    """Every value that a reading of the window may ever have had, where that can be said."""


def expect(rules: Sequence[Rule], customer: str, ledger: Ledger) -> Expected:
    """What a connection of the customer with these rules must hold."""
    expected = Expected()
    for (owner, device), samples in ledger.samples.items():
        if owner != customer:
            continue
        for rule in rules:
            _add(expected, rule, (owner, device), samples, ledger)
    return expected


def _add(
    expected: Expected,
    rule: Rule,
    device: Device,
    samples: Mapping[int, Mapping[str, Value]],
    ledger: Ledger,
) -> None:
    meter = f"{device[1]}/{rule.name}"
    inside: dict[int, list[tuple[int, Value]]] = {}
    for at in sorted(samples):
        if rule.metric in samples[at]:
            inside.setdefault(rule.start(at), []).append((at, samples[at][rule.metric]))
    if rule.deadband:
        expected.bands[meter] = rule.deadband
    increases = _increases(inside) if rule.reduce == "delta" else {}
    for start, found in inside.items():
        window = (meter, start)
        said = [value for at, _ in found for value in ledger.said[device, at, rule.metric]]
        value = increases.get(start) if rule.reduce == "delta" else reduce(rule.reduce, found)
        needs_numbers = rule.reduce in ("mean", "min", "max", "sum", "delta")
        if needs_numbers and any(isinstance(each, str) for each in said):
            expected.forgiven.add(window)
            if value is None:
                expected.dead.add(window)
        if value is None:
            continue
        if rule.refused:
            expected.dead.add(window)
            continue
        expected.values[window] = value
        if rule.deadband:
            expected.optional.add(window)
        if rule.reduce in ("last", "each", "min", "max") and not rule.flips:
            expected.possible[window] = set(said)
        if rule.reduce == "each" and len(said) == 1 and not rule.deadband:
            expected.steady.add(window)


def reduce(kind: str, found: Sequence[tuple[int, Value]]) -> Value | None:
    """The value of a window with these samples, ascending; None where it has none: a text where numbers are
    needed takes the window's value away until it is corrected.
    """
    if kind in ("last", "each"):
        return found[-1][1]
    if kind == "count":
        return float(len(found))
    numbers = [value for _, value in found if not isinstance(value, str)]
    if len(numbers) < len(found):
        return None
    match kind:
        case "sum":
            return float(sum(numbers))
        case "mean":
            return float(sum(numbers)) / len(numbers)
        case "min":
            return min(numbers)
        case "max":
            return max(numbers)
        case _:
            raise AssertionError(kind)


def _increases(inside: Mapping[int, Sequence[tuple[int, Value]]]) -> dict[int, float]:
    """Increase of a counter in each window, from the last number before it. A fall below half of that means
    that it began again at zero; a smaller one is noise.
    """
    made: dict[int, float] = {}
    prior: float | None = None
    for start in sorted(inside):
        for _, value in inside[start]:
            if isinstance(value, str):
                continue
            number = float(value)
            if prior is not None:
                rise = number if number < prior / 2 else max(number - prior, 0.0)
                made[start] = made.get(start, 0.0) + rise
            prior = number
    return made


@dataclass(slots=True, kw_only=True)
class Held:
    """What a system holds, and everything that it was ever told, in order of arrival."""

    values: dict[Window, Value] = field(default_factory=dict)
    told: dict[Window, list[Value]] = field(default_factory=dict)
    """Empty where the system keeps no such record."""
    repeats_are_errors: bool = True
    """False where the connection only promises at least once, or the system drops repeats itself."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What is wrong with one connection: each a text that names window and values."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Windows that nobody could take, without a dead letter."""
    dead: list[str] = field(default_factory=list)
    """Dead letters of readings that the system would have taken."""
    windows: int = 0
    repeats: int = 0
    """Where they are no errors."""

    @property
    def faults(self) -> int:
        """All of them."""
        return sum(
            len(each)
            for each in (self.lost, self.wrong, self.duplicated, self.invented, self.silent, self.dead)
        )


def judge(
    expected: Expected,
    held: Held,
    dead_letters: Iterable[Window],
    *,
    once_dead: Iterable[Window] = (),
    stored: Mapping[Window, Value] | None = None,
    reasons: Mapping[Window, str],
) -> Verdict:
    """Compares. For the texts only: `once_dead`, what was a dead letter before it was tried again; `stored`,
    what the gateway's own telemetry would give; `reasons` of dead letters.
    """
    verdict, dead = Verdict(windows=len(expected.values)), set(dead_letters)
    for window, value in expected.values.items():
        if window in held.values:
            if not same(held.values[window], value):
                told = held.told.get(window, [])
                said = f" (told {told[-6:]})" if told else ""
                if stored is not None and same(held.values[window], stored.get(window, "")):
                    said += "; it is what the table of telemetry gives"
                said += f"; a dead letter: {reasons.get(window, '')}" if window in dead else ""
                verdict.wrong.append(
                    f"{_name(window)}: holds {held.values[window]!r}, right is {value!r}{said}"
                )
        elif not _exact(value) and window in dead:
            continue
        elif window not in expected.optional and (window not in dead or window in expected.forgiven):
            verdict.lost.append(f"{_name(window)}: {value!r} is not there")
    _judge_bands(expected, held, verdict)
    for window in held.values.keys() - expected.values.keys():
        # What was delivered and then corrected to nothing is told by a dead letter, or withdrawn.
        if window not in dead or window not in expected.forgiven:
            verdict.wrong.append(f"{_name(window)}: holds {held.values[window]!r}, right is nothing")
    for window in expected.dead - dead:
        verdict.silent.append(f"{_name(window)}: nobody could take it, and there is no dead letter")
    for window in (dead | set(once_dead)) - expected.dead - expected.forgiven:
        if _exact(expected.values.get(window, 0)):
            verdict.dead.append(f"{_name(window)}: {reasons.get(window, '')}")
    _judge_history(expected, held, verdict)
    return verdict


def _judge_bands(expected: Expected, held: Held, verdict: Verdict) -> None:
    """A window that a deadband kept back lies within it, seen from what the system
    holds before that window.
    """
    starts: dict[str, list[int]] = {}
    for meter, start in held.values:
        if meter in expected.bands:
            starts.setdefault(meter, []).append(start)
    for each in starts.values():
        each.sort()
    for meter, start in expected.optional - held.values.keys():
        before = starts.get(meter, [])
        position = bisect_left(before, start)
        value = expected.values[meter, start]
        if not position:
            verdict.lost.append(f"{_name((meter, start))}: {value!r} is not there, and nothing before it")
            continue
        reference = held.values[meter, before[position - 1]]
        if abs(float(value) - float(reference)) >= expected.bands[meter]:
            verdict.lost.append(
                f"{_name((meter, start))}: {value!r} was kept back, the system holds {reference!r} before it"
            )


def _judge_history(expected: Expected, held: Held, verdict: Verdict) -> None:
    for window, told in held.told.items():
        twice = sum(same(one, other) for one, other in pairwise(told))
        extra = max(twice, len(told) - 1 if window in expected.steady else 0)
        if extra and held.repeats_are_errors:
            verdict.duplicated.append(f"{_name(window)}: told {told[-8:]}")
        elif extra:
            verdict.repeats += extra
        possible = expected.possible.get(window)
        if possible is not None and (strange := [each for each in told if each not in possible]):
            verdict.invented.append(f"{_name(window)}: told {strange[:4]}, which nobody published")


def same(one: Value, other: Value) -> bool:
    """Equal as a system would see it: 3 and 3.0 are, "3" and 3 are not."""
    return isinstance(one, str) is isinstance(other, str) and one == other


def _exact(value: Value) -> bool:
    """Whether every system can hold it; what is larger may be refused, but never rounded."""
    return isinstance(value, str | float) or abs(value) <= LARGEST_EXACT


def _name(window: Window) -> str:
    return f"{window[0]} @ {window[1] / 1e6:.6f}"
