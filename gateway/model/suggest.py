"""Which of a system's meters a device's metric could feed, by their names and units. Pure: a suggestion,
which a person accepts or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.model.exchange import RemoteMeter

MIN_LIKENESS = 0.5
"""Below it a suggestion would be a guess."""

_WORDS = re.compile(r"[A-Za-z]+|\d+")
_SAME = {
    "temp": "temperature",
    "t": "temperature",
    "press": "pressure",
    "p": "pressure",
    "hum": "humidity",
    "vib": "vibration",
    "hrs": "hours",
    "h": "hours",
    "runtime": "hours",
    "running": "hours",
    "run": "hours",
}
_UNITS = {
    "temperature": {"cel", "c", "°c", "degc", "fah", "f", "°f", "k", "kel"},
    "pressure": {"bar", "pa", "kpa", "mpa", "psi", "mbr", "mbar"},
    "humidity": {"%", "p1", "rh", "%rh"},
    "hours": {"h", "hr", "hrs", "hur", "hours", "hour"},
}


def suggested(
    device: str, title: str | None, metric: str, meters: Sequence[RemoteMeter]
) -> RemoteMeter | None:
    """The meter that fits best; None where none fits well, or two fit alike."""
    ranked = sorted(
        ((score(device, title, metric, meter), meter.meter, meter) for meter in meters),
        key=lambda found: (-found[0], found[1]),
    )
    if not ranked or ranked[0][0] < MIN_LIKENESS:
        return None
    if len(ranked) > 1 and ranked[1][0] == ranked[0][0]:
        return None
    return ranked[0][2]


def score(device: str, title: str | None, metric: str, meter: RemoteMeter) -> float:
    """From 0 to about 1: the share of the meter's words that device and metric have, at least one of each,
    and a little for a unit that fits.
    """
    whose, what = _words(f"{device} {title or ''}"), _words(metric)
    named = _words(f"{meter.meter} {meter.title}")
    names = {word for word in whose if not word.isdecimal()} or whose  # a number alone is anybody's
    if not named or not named & names:
        return 0.0
    fits = (meter.unit or "").lower() in {unit for word in what for unit in _UNITS.get(word, ())}
    if not (named & what) and not fits:
        return 0.0
    shared = len(named & (whose | what)) / len(named)
    missed = len(whose & set(filter(str.isdecimal, whose)) - named)
    return max(0.0, shared + (0.15 if fits else 0.0) - 0.4 * missed)


def _words(text: str) -> set[str]:
    found = {word.lower().lstrip("0") or "0" for word in _WORDS.findall(text)}
    return {_SAME.get(word, word) for word in found}
