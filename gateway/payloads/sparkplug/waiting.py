"""Messages of an edge node that wait for one before them, which is missing: each has a number in the node's
sequence, and the gap is before the first of them.

The numbers go round. Where they do not go up with the time a birth was lost, or a whole round: then what
waits and what comes are of two sequences, and only a birth helps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.payloads.sparkplug.arrival import SEQUENCE, UNTIMED, Arrival

MAX_HELD = 100
MAX_HELD_BYTES = 256 << 10
"""Of messages that wait. Of more only the dead letters are kept."""

HOPELESS = -1
"""Stands for a time before which what is missing would have to be sent: nothing that comes can be it."""


@dataclass(slots=True)
class WaitingMessages:
    """By their number. `gap_at`: the time of the first message behind something that is missing, None where
    nothing is: a message with the number that is missing, and sent later, is another one.
    """

    gap_at: int | None = None
    _held: dict[int, Arrival] = field(default_factory=dict)
    _bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def is_missing(self, at: int) -> bool:
        """Whether a message of that time with the number that comes next is the one that is waited for: it
        was sent before those that wait.
        """
        if self.gap_at is None:
            return True
        return self.gap_at != HOPELESS if at == UNTIMED else at <= self.gap_at

    def add(self, arrival: Arrival, number: int, *, due: int) -> None:
        """It waits for the message with the number `due`."""
        at = arrival.at
        if self.gap_at == HOPELESS or self._held.get(number) == arrival:
            return
        ahead = (number - due) % SEQUENCE
        is_mixed = ahead == 0 or number in self._held
        for other, waiting in self._held.items():
            further = (other - due) % SEQUENCE > ahead
            is_mixed |= UNTIMED not in (at, waiting.at) and (waiting.at < at if further else waiting.at > at)
        self._bytes += len(arrival.raw)
        if is_mixed or len(self._held) >= MAX_HELD or self._bytes > MAX_HELD_BYTES:
            self.forget()
            self.gap_at = HOPELESS
            return
        self._held[number] = arrival
        if at != UNTIMED:
            self.gap_at = at if self.gap_at is None else min(self.gap_at, at)

    def came(self, at: int) -> None:
        """A message of that time came in its turn: the first behind the gap, sent once more, ends it."""
        if self.gap_at is not None and at >= self.gap_at:
            self.gap_at = None

    def pop(self, number: int) -> Arrival | None:
        """The message with this number, which waits no more."""
        arrival = self._held.pop(number, None)
        if arrival is not None:
            self._bytes -= len(arrival.raw)
        return arrival

    def find_gap(self) -> None:
        """After some were taken: the gap is before the first of the others."""
        self.gap_at = min((one.at for one in self._held.values() if one.at != UNTIMED), default=None)

    def forget(self) -> None:
        """Nothing waits, and nothing is missing."""
        self.gap_at = None
        self._held.clear()
        self._bytes = 0
