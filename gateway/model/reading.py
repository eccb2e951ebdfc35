"""A reading: the value of one meter over one window, on its way to a system."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.model.sample import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The system is told `window_start` as the time of the reading, for a single sample and for a window
    alike.

    `key` is deterministic over (connection, meter, window_start): the same window always has the same key, so
    a system that knows keys can never take it twice. `modified` says that the system already holds another
    value for this key, or may hold one.
    """

    key: str
    meter: str
    window_start: datetime
    value: Value
    unit: str | None = None
    modified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Readings pushed together, ascending by (meter, window_start).

    `position` grows from batch to batch of a connection: what a system holds with a later one is never to be
    replaced by these. `id` is deterministic over keys and values, so that the same readings sent again bear
    the same; a batch that corrects has its position in it, for a value may return.
    """

    id: str
    connection: str
    readings: tuple[Reading, ...]
    position: int = 0


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(90, -1, -10)
"""Ten bits, two characters at a time: every reading has a key, and `base64.b32encode` costs three times as
much.
"""


def reading_key(connection: str, meter: str, window_start: datetime) -> str:
    """20 characters of base32: short enough for the reference fields of the systems that we know (20 is the
    shortest).
    """
    at = window_start if window_start.tzinfo is UTC else window_start.astimezone(UTC)
    text = f"{connection}\0{meter}\0{at.isoformat()}"
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=12).digest(), "big") << 4
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def make_batch(connection: str, readings: Sequence[Reading], position: int = 0) -> Batch:
    """Sorts by (meter, window_start) and derives the id; the same readings give the same batch."""
    ordered = tuple(sorted(readings, key=lambda r: (r.meter, r.window_start)))
    digest = hashlib.blake2b(digest_size=12)
    for reading in ordered:
        digest.update(f"{reading.key}\0{reading.value!r}\0".encode())
        if reading.modified:
            digest.update(f"{position}\0".encode())
    return Batch(id=digest.hexdigest(), connection=connection, readings=ordered, position=position)
