"""Counters of several processes made one: the HTTP process says how far its own have come whenever it asks
the daemon for an exposition, and the daemon adds what has grown since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway import metrics

BESIDE = (metrics.TOKEN_REFRESHES, metrics.UPSTREAM_REQUESTS, metrics.HTTP_REFUSED)
"""What the HTTP process counts as well: it too refreshes tokens and calls systems, and it alone refuses
clients.
"""


Counts = Sequence[tuple[int, Mapping[str, str], float]]


def counts() -> Counts:
    """How far each series of `BESIDE` has come in this process: place in it, labels, total."""
    families = [(place, family) for place, counter in enumerate(BESIDE) for family in counter.collect()]
    return [
        (place, sample.labels, sample.value)
        for place, family in families
        for sample in family.samples
        if sample.name.endswith("_total")
    ]


class AddedCounts:
    """What another process counted, added to this one's counters: one of these for each such process."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[str, ...]], float] = {}

    def add(self, counted: Counts) -> None:
        """What has grown since the last time."""
        for place, labels, total in counted:
            key = (place, tuple(labels.values()))
            BESIDE[place].labels(**labels).inc(total - self._known.get(key, 0.0))
            self._known[key] = total
