"""An edge node as a host application knows it: its births, which of them a message belongs to, and what is
missing.

Aliases mean what the birth before them said. A message that was lost may have been a birth, so an alias is
believed only where nothing is missing between the birth and it. What is known of a node is therefore a list
of intervals in the node's own time: in each of them, from a birth to the last message before something was
missing, one set of definitions holds for certain. A message is read

- by the current birth, when it is the next in the sequence: that makes the interval longer;
- by whatever birth's interval its time lies in, when it is not: a broker that was not told that a message was
  stored sends it again, and it means what it meant;
- as far as it speaks for itself, otherwise. The rest waits for what is missing, and is a dead letter until
  then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import Reason
from gateway.payloads.sparkplug import reading, wire
from gateway.payloads.sparkplug.definitions import Definitions, agreed, of_birth
from gateway.payloads.sparkplug.reading import Read
from gateway.payloads.sparkplug.topic import Kind

SEQUENCE = 256
MAX_BIRTHS = 64
"""Of a node or a device that are remembered: a broker sends again what was not acknowledged, and births among
it.
"""

MAX_HELD_BYTES = 256 << 10
"""Of messages that wait for what is missing before them. Of more only the dead letters are kept."""

MAX_DEFINED = 100_000
"""Metrics that a node's births define, with its births and its devices: all are held in memory."""

SWEEP_SHARE = 16
"""A full node is swept once in so many births as its devices through this: each sweep goes through all of
them, and births that are refused may come without end.
"""

UNTIMED = -1
"""Stands for the time of a message that has none. Only its number says what it follows."""

HOPELESS = -1
"""Stands for a time before which what is missing would have to be sent: nothing that comes can be it."""

MAX_HELD = 100

MAX_AHEAD = 600_000
"""Milliseconds that a node's clock may be ahead of ours."""

ITSELF = ""
"""The device that is the edge node."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What of a message can be taken. `refusal`: why the whole of it is kept as a dead letter beside that.
    `was_held`: it was one, and is none any more.
    """

    arrival: Arrival
    read: Read
    refusal: DecodeError | None = None
    was_held: bool = False


@dataclass(slots=True)
class Node:
    """Everything known of one edge node. `next`: the sequence number that comes next, None while it is dead
    or was never born. `until`: the time of the last message before which nothing is missing. `gap_at`: the
    time of the first one behind something that is missing, None where nothing is: a message with the number
    that is missing, and sent later, is another one. `is_certain`: the birth came in the order of time.
    `wants_rebirth`: since the last birth something could not be read.
    """

    bd_seq: int | None = None
    next: int | None = None
    until: int = 0
    gap_at: int | None = None
    is_certain: bool = True
    devices: dict[str, NodeDevice] = field(default_factory=dict)
    definitions: dict[str, Definitions] = field(default_factory=dict)
    held: dict[int, Arrival] = field(default_factory=dict)
    held_bytes: int = 0
    wants_rebirth: bool = False
    is_patient: bool = False
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
        """What it holds: metrics that its births define, births, and devices."""
        self._counted()
        return self._held + len(self.devices)

    def take(self, arrival: Arrival, *, stable: bool = False) -> Iterator[Outcome]:
        """What comes of a message, and of those that waited for it. `stable`: somebody said that the node's
        aliases never change, so that what is missing makes no alias doubtful.
        """
        match arrival.kind:
            case "NBIRTH":
                yield self._born(arrival)
            case "NDEATH":
                yield self._died(arrival)
            case _:
                yield from self._in_sequence(arrival, stable=stable)

    def recall(self, arrival: Arrival) -> Outcome:
        """What a message that was put aside can be read as now, and nothing changes by it: by the birth in
        whose interval it was sent, else by those aliases that never stood for another name.
        """
        if arrival.kind in ("NBIRTH", "DBIRTH"):
            return Outcome(arrival, reading.read(arrival.payload, of_birth(arrival.payload)))
        device = self.devices.get(arrival.device)
        births = [] if device is None else device.births
        fitting = {birth.digest for birth in births if self._lies_in(birth, arrival.at)}
        if len(fitting) != 1:
            fitting = {birth.digest for birth in births}
        known = agreed(self.definitions[digest] for digest in fitting if digest in self.definitions)
        read = reading.read(arrival.payload, known)
        if not read.unknown:
            return Outcome(arrival, read)
        why = f"no birth that is known defines {', '.join(read.unknown[:3])}, or they do not agree on it"
        return Outcome(arrival, read, DecodeError(Reason.UNKNOWN_ALIAS, why[:300]))

    def knows(self, device: str) -> NodeDevice:
        """The device, new where it was never seen."""
        return self.devices.setdefault(device, NodeDevice())

    # --- births and deaths of the node

    def _born(self, arrival: Arrival) -> Outcome:
        try:
            definitions = of_birth(arrival.payload)
        except DecodeError as error:
            return Outcome(arrival, reading.read(arrival.payload, None), error)
        outcome = Outcome(arrival, reading.read(arrival.payload, definitions))
        itself, at = self.knows(ITSELF), arrival.at
        last = itself.births[-1] if itself.births else None
        known = _same(itself, at, definitions.digest)
        if known is not None and (known is not last or self.next is not None):
            return outcome  # it came before: the broker was not told that we have it
        if known is None:
            self._close(at)
            self._unswept = 0  # what has ended makes room
            if (refusal := self._makes_room(ITSELF, definitions)) is not None:
                return Outcome(arrival, outcome.read, refusal)
            self.is_certain = last is None or UNTIMED in (at, last.at) or at >= last.at
            self._add(itself, Birth(at, None, definitions.digest), definitions)
            self.until = at
        else:  # once more what was said last: its death was that of an older session
            known.until = None
        self._sets(ITSELF, None)
        self.bd_seq = reading.bd_seq(arrival.payload)
        self.next = ((arrival.sequence or 0) + 1) % SEQUENCE
        self._forget_held()
        self.wants_rebirth = self.is_patient = False
        if not self.is_certain:
            # The clock went back, or an old birth came late. The next one tells.
            self.wants_rebirth = True
        return outcome

    def _died(self, arrival: Arrival) -> Outcome:
        """A death of another session than the current one is none: the will of a connection that was
        replaced.
        """
        outcome = Outcome(arrival, Read())
        given = reading.bd_seq(arrival.payload)
        if self.next is None or (given is not None and self.bd_seq is not None and given != self.bd_seq):
            return outcome
        self._close(None)
        for name in self.devices:
            self._sets(name, arrival.received_at)
        self.next = None
        self._forget_held()
        return outcome

    def _close(self, before: int | None) -> None:
        """Ends what holds now. `before`: the time of the birth that follows."""
        until = self.until if before in (None, UNTIMED) else min(self.until, before)
        for name, device in self.devices.items():
            if (current := device.current) is not None:
                # of a birth that nobody could be sure of nothing is certain afterwards
                current.until = max(until, current.at) if self.is_certain else current.at - 1
                self.changed.add(name)

    def _add(self, device: NodeDevice, birth: Birth, definitions: Definitions) -> None:
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

    def _makes_room(self, name: str, definitions: Definitions) -> DecodeError | None:
        """Forgets births that are over where this one is too much; why it is refused where that helps not."""
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
            if over := [birth for birth in device.births if birth.until is not None]:
                self._forget(over)
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

    def _sets(self, name: str, offline_at: int | None) -> None:
        """Only what was alive dies, and the first death counts."""
        device = self.knows(name)
        if offline_at is None or device.offline_at is None:
            device.offline_at = offline_at
        self.changed.add(name)

    # --- messages with a sequence number

    def _in_sequence(self, arrival: Arrival, *, stable: bool) -> Iterator[Outcome]:
        if self.next is None:
            yield self._old(arrival, "there was no birth of its edge node")
            return
        number, at = arrival.sequence, arrival.at
        distance = 0 if number is None else (number - self.next) % SEQUENCE
        if distance == 0 and self._precedes_birth(at):
            why = (
                "it was sent before the birth that it follows: the node's clock went back, or it comes again"
            )
            yield self._old(arrival, why, and_current=True)
        elif number is None or (distance == 0 and self._is_due(at)):
            yield self._next(arrival)
            if number is not None:
                yield from self._release(at)
        elif at != UNTIMED and (at < self.until or (at == self.until and distance >= SEQUENCE // 2)):
            yield self._old(
                arrival, "it is older than what was received, and belongs to no birth that is known"
            )
        elif stable:
            self.wants_rebirth = True
            yield self._next(arrival)
        else:
            yield self._ahead(arrival, number)

    def _precedes_birth(self, at: int) -> bool:
        """Whether it was sent before the birth that counts."""
        born = self.knows(ITSELF).current
        return at != UNTIMED and born is not None and at < born.at

    def _is_due(self, at: int) -> bool:
        """Whether a message with the number that comes next is the one: it was sent before those that wait
        for it.
        """
        if self.gap_at is None:
            return True
        return self.gap_at != HOPELESS if at == UNTIMED else at <= self.gap_at

    def _next(self, arrival: Arrival, *, was_held: bool = False) -> Outcome:
        """The message that is due."""
        at, number = arrival.at, arrival.sequence
        if number is not None:
            self.next = (number + 1) % SEQUENCE
        device = self.devices.get(arrival.device)
        current = None if device is None else device.current
        match arrival.kind:
            case "DBIRTH":
                outcome = self._device_born(arrival, was_held=was_held)
            case "DDEATH":
                outcome = self._device_died(arrival, was_held=was_held)
            case _ if current is None:
                outcome = self._partly(
                    arrival, Reason.BEFORE_BIRTH, "there was no birth of its device", was_held=was_held
                )
            case _ if at != UNTIMED and at < current.at:
                why = "it was sent before the birth that it follows: the node's clock went back"
                outcome = self._partly(arrival, Reason.BEFORE_BIRTH, why, was_held=was_held)
            case _ if not self.is_certain:
                why = "the birth before it is older than one before that: nobody knows which counts"
                outcome = self._partly(arrival, Reason.SEQUENCE_GAP, why, was_held=was_held)
            case _:
                outcome = self._read_by(arrival, current, was_held=was_held)
        self.until = max(self.until, at)
        return outcome

    def _device_born(self, arrival: Arrival, *, was_held: bool) -> Outcome:
        try:
            definitions = of_birth(arrival.payload)
        except DecodeError as error:
            return Outcome(arrival, reading.read(arrival.payload, None), error)
        if (refusal := self._makes_room(arrival.device, definitions)) is not None:
            return Outcome(arrival, reading.read(arrival.payload, definitions), refusal)
        device, at = self.knows(arrival.device), arrival.at
        outcome = Outcome(arrival, reading.read(arrival.payload, definitions), was_held=was_held)
        last = device.births[-1] if device.births else None
        known = _same(device, at, definitions.digest)
        if known is not None and (known is not last or known.until is None):
            return outcome  # it came before
        if known is None:
            if (current := device.current) is not None:
                until = self.until if at == UNTIMED else min(self.until, at)
                current.until = max(until, current.at) if self.is_certain else current.at - 1
            self._add(device, Birth(at, None, definitions.digest), definitions)
            if last is not None and at != UNTIMED and at < last.at:  # nobody knows which of the two counts
                device.births[-1].until = at - 1
                self._want()
        else:
            known.until = None
        self._sets(arrival.device, None)
        return outcome

    def _device_died(self, arrival: Arrival, *, was_held: bool) -> Outcome:
        device = self.devices.get(arrival.device)
        if device is None:  # it never was
            return Outcome(arrival, Read(), was_held=was_held)
        if (current := device.current) is not None:
            current.until = max(self.until, current.at) if self.is_certain else current.at - 1
        self._sets(arrival.device, arrival.at * 1000 if arrival.at != UNTIMED else arrival.received_at)
        return Outcome(arrival, Read(), was_held=was_held)

    def _ahead(self, arrival: Arrival, number: int) -> Outcome:
        """Something before it is missing. It waits, in memory, until that has come."""
        self._hold(arrival, number)
        if not self.wants_rebirth:
            self.wants_rebirth = self.is_patient = True
        why = (
            f"number {self.next} is missing before its {number}: it may have been a birth that gave the"
            " aliases new names"
        )
        return self._partly(arrival, Reason.SEQUENCE_GAP, why)

    def _hold(self, arrival: Arrival, number: int) -> None:
        """Where the numbers do not go up with the time a birth was lost, or a whole round: then what waits
        and what comes are of two sequences, and only a birth helps.
        """
        at = arrival.at
        if self.gap_at == HOPELESS or self.held.get(number) == arrival:
            return
        ahead = (number - (self.next or 0)) % SEQUENCE
        is_mixed = ahead == 0 or number in self.held
        for other, waiting in self.held.items():
            further = (other - (self.next or 0)) % SEQUENCE > ahead
            is_mixed |= UNTIMED not in (at, waiting.at) and (waiting.at < at if further else waiting.at > at)
        self.held_bytes += len(arrival.raw)
        if is_mixed or len(self.held) >= MAX_HELD or self.held_bytes > MAX_HELD_BYTES:
            self._forget_held()
            self.gap_at = HOPELESS
            return
        self.held[number] = arrival
        if at != UNTIMED:
            self.gap_at = at if self.gap_at is None else min(self.gap_at, at)

    def _release(self, at: int) -> Iterator[Outcome]:
        """What waited for the message that has come."""
        waited = bool(self.held)
        if self.gap_at is not None and at >= self.gap_at:
            self.gap_at = None  # it is the first one itself, sent once more
        while self.next is not None and (arrival := self.held.pop(self.next, None)) is not None:
            self.held_bytes -= len(arrival.raw)
            yield self._next(arrival, was_held=True)
        if waited:
            self.gap_at = min((one.at for one in self.held.values() if one.at != UNTIMED), default=None)
        if waited and not self.held and self.is_patient:
            self.wants_rebirth = self.is_patient = False

    def _forget_held(self) -> None:
        self.gap_at = None
        self.held.clear()
        self.held_bytes = 0

    # --- reading

    def _read_by(self, arrival: Arrival, birth: Birth, *, was_held: bool = False) -> Outcome:
        read = reading.read(arrival.payload, self.definitions.get(birth.digest))
        if not read.unknown:
            return Outcome(arrival, read, was_held=was_held)
        self._want()
        names = ", ".join(read.unknown[:5])
        refusal = DecodeError(Reason.UNKNOWN_ALIAS, f"the birth before it does not define {names}"[:300])
        return Outcome(arrival, read, refusal)

    def _old(self, arrival: Arrival, why: str, *, and_current: bool = False) -> Outcome:
        """By the birth in whose interval it was sent; where its definitions are not certain, as far as it
        speaks for itself. Nothing of what is known changes. `and_current`: the birth that counts may be meant
        as well, so it has to agree; alone it says nothing, for what was sent before it may be of one that was
        lost, or come again from behind a gap.
        """
        if arrival.kind in ("DDEATH", "DBIRTH"):
            return self._old_certificate(arrival)
        device, at = self.devices.get(arrival.device), arrival.at
        births = [] if device is None else device.births
        fitting = {birth.digest for birth in births if self._lies_in(birth, at)}
        if and_current and fitting:
            fitting |= {birth.digest for birth in births if birth.until is None}
        if len(fitting) == 1 and (definitions := self.definitions.get(fitting.pop())) is not None:
            read = reading.read(arrival.payload, definitions)
            if not read.unknown:
                return Outcome(arrival, read)
        return self._partly(arrival, Reason.BEFORE_BIRTH, why)

    def _lies_in(self, birth: Birth, at: int) -> bool:
        """Whether nothing is missing between the birth and a message of that time."""
        until = birth.until
        if until is None:
            until = self.until if self.is_certain else UNTIMED
        return birth.at != UNTIMED and birth.at <= at <= until

    def _old_certificate(self, arrival: Arrival) -> Outcome:
        if arrival.kind == "DDEATH":
            return Outcome(arrival, Read())
        try:
            definitions = of_birth(arrival.payload)
        except DecodeError as error:
            return Outcome(arrival, reading.read(arrival.payload, None), error)
        device = self.devices.get(arrival.device)
        if self.next is None or device is None or _same(device, arrival.at, definitions.digest) is None:
            self._want()
        return Outcome(arrival, reading.read(arrival.payload, definitions))

    def _partly(self, arrival: Arrival, reason: Reason, why: str, *, was_held: bool = False) -> Outcome:
        if arrival.kind == "DBIRTH":  # it speaks for itself; what it defines counts in its turn
            try:
                return Outcome(arrival, reading.read(arrival.payload, of_birth(arrival.payload)))
            except DecodeError as error:
                return Outcome(arrival, reading.read(arrival.payload, None), error)
        if reason is not Reason.SEQUENCE_GAP or not self.is_patient:
            self._want()
        read = reading.read(arrival.payload, self._names(arrival.device))
        if not read.unknown or arrival.kind == "DDEATH":
            return Outcome(arrival, read, was_held=was_held)
        return Outcome(arrival, read, DecodeError(reason, f"{why}; {', '.join(read.unknown[:3])}"[:300]))

    def _names(self, name: str) -> Definitions | None:
        """What the last birth said of names. A name stays what it is, whatever is
        missing; an alias may not.
        """
        device = self.devices.get(name)
        if device is None or not device.births:
            return None
        held = self.definitions.get(device.births[-1].digest)
        return None if held is None else held.of_names

    def _want(self) -> None:
        """Asks for a birth, and waits for nothing before."""
        self.wants_rebirth, self.is_patient = True, False


def _same(device: NodeDevice, at: int, digest: str) -> Birth | None:
    """The birth that is known already."""
    if at == UNTIMED:
        return None
    return next((birth for birth in device.births if (birth.at, birth.digest) == (at, digest)), None)
