"""Filters of one session that overlap: which copy of a message is taken.

A broker may send a message once for each filter that matches it. A copy that has no time of its own would be
a sample of its own. So filters that overlap get subscription identifiers, which a broker has to send along,
and of the copies of one message only that of the first matching filter is taken.

Nothing may be lost by it. An identifier is a hash over the filter and the whole list: one of another list,
from before a change of the configuration and still in the broker's queue, is unknown, and the copy is taken.
Filters are subscribed in the order of the list: as soon as a message matches any of them, it matches its
first one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

MAX_ID = 268_435_455
"""Source: MQTT 5.0, 3.8.2.1.2."""

CACHED_TOPICS = 10_000


@dataclass(frozen=True, slots=True)
class Copies:
    """Says of each copy whether it is the one that is taken. `ids`: filter to identifier, in the order in
    which they are subscribed.
    """

    ids: Mapping[str, int]
    _known: frozenset[int] = field(init=False)
    _first: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.ids.values()))

    def is_surplus(self, topic: str, given: Collection[int]) -> bool:
        """Whether another copy of the message is the one that is taken."""
        if self._known.isdisjoint(given):
            return False
        first = self._first.get(topic)
        if first is None:
            if len(self._first) >= CACHED_TOPICS:
                self._first.clear()
            first = next((one for pattern, one in self.ids.items() if matches(topic, pattern)), 0)
            self._first[topic] = first
        return bool(first) and first not in given


def copies_of(filters: Sequence[str]) -> Copies | None:
    """For filters of which two overlap; None where no message can come twice."""
    if not any(
        may_overlap(first, second) for place, first in enumerate(filters) for second in filters[place + 1 :]
    ):
        return None
    whole = "\0".join(filters)
    return Copies({pattern: _id(f"{pattern}\0{whole}") for pattern in filters})


def _id(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % MAX_ID + 1


def may_overlap(first: str, second: str) -> bool:
    """Whether one topic can match both filters."""
    a, b = first.split("/"), second.split("/")
    for place in range(max(len(a), len(b))):
        left = a[place] if place < len(a) else None
        right = b[place] if place < len(b) else None
        if left == "#" or right == "#":
            return not (place == 0 and "$" in (first[:1], second[:1]))
        if left is None or right is None:
            return False
        if left != right and "+" not in (left, right):
            return False
        if place == 0 and "$" in (left[:1], right[:1]) and left != right:
            return False
    return True


def matches(topic: str, pattern: str) -> bool:
    """Whether an MQTT filter matches a topic. Source: MQTT 5.0, 4.7."""
    levels, wanted = topic.split("/"), pattern.split("/")
    if topic[:1] == "$" and wanted[0] in ("+", "#"):
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(levels) or (level not in ("+", levels[place])):
            return False
    return len(levels) == len(wanted)
