"""A message of an edge node as it arrived: what it is of, when it was sent by the node's clock, and which
number in the node's sequence it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.payloads.sparkplug import wire
from gateway.payloads.sparkplug.topic import Kind

SEQUENCE = 256


UNTIMED = -1
"""Stands for the time of a message that has none. Only its number says what it follows."""


MAX_AHEAD = 600_000
"""Milliseconds that a node's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message. `device` is empty where it is of the edge node itself; `received_at` in microseconds."""

    kind: Kind
    device: str
    payload: wire.Payload
    received_at: int
    topic: str = ""
    raw: bytes = b""

    @property
    def at(self) -> int:
        """When it was sent, in milliseconds by the node's clock; UNTIMED where it does not say so, or says
        what cannot be: nothing would seem to come after it.
        """
        sent = self.payload.timestamp
        return sent if 0 < sent < self.received_at // 1000 + MAX_AHEAD else UNTIMED

    @property
    def sequence(self) -> int | None:
        """Its number, None where it has none."""
        return self.payload.seq % SEQUENCE if self.payload.HasField("seq") else None
