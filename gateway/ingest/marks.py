"""Marks of a move between gateways: a message that ends its batch, so that all before it is committed, and
nothing behind it, when it is noted.
"""

from __future__ import annotations

from collections import Counter

from gateway import clock

MAX_MARKS, MAX_MARKS_EACH, MARKS_SECONDS = 100, 50, 10.0
"""Marks that end a batch in so long, and those of one customer: anybody may publish one on topics of his own,
and each costs the others a commit. Whoever waits for one that was too many sends it again.
"""


class MarkLimit:
    """How many marks of one partition are taken as such; a further one is an empty message."""

    def __init__(self) -> None:
        self._since_monotonic, self._taken = -MARKS_SECONDS, Counter[str]()

    def takes(self, customer: str) -> bool:
        """Whether one more of this customer may be; it is counted then."""
        now = clock.monotonic()
        if now - self._since_monotonic > MARKS_SECONDS:
            self._since_monotonic = now
            self._taken.clear()
        if self._taken[customer] == MAX_MARKS_EACH or self._taken.total() == MAX_MARKS:
            return False
        self._taken[customer] += 1
        return True
