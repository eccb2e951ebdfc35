"""Limits the marks of moves between gateways. A mark is a message that ends its batch: when it is noted all
before it is committed, and nothing behind it.
"""

from __future__ import annotations

from collections import Counter

from gateway import clock

MAX_MARKS, MAX_MARKS_EACH, MARKS_SECONDS = 100, 50, 10.0
"""How many marks end a batch in so many seconds, in all and of one customer: anybody may publish marks on
topics of his own, and each costs the other customers a commit. Whoever waits for a mark sends it again.
"""


class MarkLimit:
    """Counts the marks of one partition. A mark beyond the limit counts as an empty message."""

    def __init__(self) -> None:
        self._since_monotonic = -MARKS_SECONDS
        self._taken = Counter[str]()

    def takes(self, customer: str) -> bool:
        """Whether a mark of this customer is within the limits. Counts it where it is."""
        now = clock.monotonic()
        if now - self._since_monotonic > MARKS_SECONDS:
            self._since_monotonic = now
            self._taken.clear()
        if self._taken[customer] == MAX_MARKS_EACH or self._taken.total() == MAX_MARKS:
            return False
        self._taken[customer] += 1
        return True
