"""The births of an edge node and its devices, with the definitions that they gave: what is remembered of
them, and how much.

A birth counts from its time on until the next one, or until something was missing. Births that ended are
kept, since a broker sends again what was not acknowledged. All are held in memory, so what a node may define
is bounded: when it is full the births that ended are forgotten, and one that still finds no room is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import Reason
from gateway.payloads.sparkplug.arrival import UNTIMED
from gateway.payloads.sparkplug.definitions import Definitions

MAX_BIRTHS = 64
"""Of a node or a device that are remembered."""

MAX_DEFINED = 100_000
"""Metrics that a node's births define, with its births and its devices."""

SWEEP_SHARE = 16
"""A full node is swept once in so many births as its devices through this: each sweep goes through all of
them, and births that are refused may come without end.
"""

ITSELF = ""
"""The device that is the edge node."""


@dataclass(slots=True)
class Birth:
    """From when on, and until when (None: it still counts), which definitions hold."""

    at: int
    until: int | None
    digest: str


@dataclass(slots=True)
class NodeDevice:
    """A device, or the node itself. `offline_at`: since when it is dead, in microseconds."""

    births: list[Birth] = field(default_factory=list)
    offline_at: int | None = None

    @property
    def current(self) -> Birth | None:
        """The birth that counts."""
        return self.births[-1] if self.births and self.births[-1].until is None else None

    def find(self, at: int, digest: str) -> Birth | None:
        """The birth of this time and these definitions, where it is known already."""
        if at == UNTIMED:
            return None
        return next((birth for birth in self.births if (birth.at, birth.digest) == (at, digest)), None)


@dataclass(slots=True)
class Births:
    """Of one edge node: its devices by name, and definitions by their digest."""

    devices: dict[str, NodeDevice] = field(default_factory=dict)
    definitions: dict[str, Definitions] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    """Devices of which the births or the state changed, since whoever stores them took note."""
    defined: set[str] = field(default_factory=set)
    """Digests of definitions that came since then."""
    _uses: Counter[str] | None = None
    """Births by their digest; None where they are to be counted, as after loading. With `_held` the sum of
    metrics and births: adding both up with each birth would cost as much as all births before it.
    """
    _held: int = 0
    _unswept: int = 0
    """Births that are refused before it is swept again."""

    @property
    def weight(self) -> int:
        """What is held: metrics that births define, births, and devices."""
        self._counted()
        return self._held + len(self.devices)

    def device(self, name: str) -> NodeDevice:
        """The device, new where it was never seen."""
        return self.devices.setdefault(name, NodeDevice())

    def add(self, device: NodeDevice, birth: Birth, definitions: Definitions) -> None:
        """A birth that counts from now on."""
        uses = self._counted()
        if birth.digest not in self.definitions:
            self.definitions[birth.digest] = definitions
            self.defined.add(birth.digest)
            self._held += len(definitions.lines)
        uses[birth.digest] += 1
        self._held += 1
        device.births.append(birth)
        if len(device.births) > MAX_BIRTHS:
            self._forget(device.births[:-MAX_BIRTHS])
            del device.births[:-MAX_BIRTHS]

    def set_offline(self, name: str, offline_at: int | None) -> None:
        """The device is dead since then, or lives (None). Only what lived dies: the first death counts."""
        device = self.device(name)
        if offline_at is None or device.offline_at is None:
            device.offline_at = offline_at
        self.changed.add(name)

    def make_room(
        self, name: str, definitions: Definitions, *, has_ended: bool = False
    ) -> DecodeError | None:
        """Forgets births that ended where one of this device with these definitions is too much; why it is
        refused where that does not help. `has_ended`: births ended just now, so it is worth a sweep.
        """
        if has_ended:
            self._unswept = 0
        if self._fits(name, definitions):
            return None
        if not self._unswept:
            self._sweep()
            if self._fits(name, definitions):
                return None
            self._unswept = len(self.devices) // SWEEP_SHARE
        else:
            self._unswept -= 1
        why = f"the births of its edge node hold more than {MAX_DEFINED} metrics: use several edge nodes"
        return DecodeError(Reason.TOO_MANY_METRICS, why)

    def _fits(self, name: str, definitions: Definitions) -> bool:
        more = 0 if definitions.digest in self.definitions else len(definitions.lines)
        return self.weight + more + 1 + (name not in self.devices) <= MAX_DEFINED

    def _sweep(self) -> None:
        for name, device in self.devices.items():
            if ended := [birth for birth in device.births if birth.until is not None]:
                self._forget(ended)
                device.births[:] = [birth for birth in device.births if birth.until is None]
                self.changed.add(name)

    def _forget(self, births: Sequence[Birth]) -> None:
        """Takes them, and what only they defined, off what is held."""
        uses = self._counted()
        for birth in births:
            self._held -= 1
            uses[birth.digest] -= 1
            if not uses[birth.digest]:
                self._held -= len(self.definitions.pop(birth.digest).lines)
                self.defined.discard(birth.digest)

    def _counted(self) -> Counter[str]:
        if self._uses is None:
            self._uses = Counter(birth.digest for device in self.devices.values() for birth in device.births)
            self._held = self._uses.total() + sum(len(one.lines) for one in self.definitions.values())
        return self._uses
