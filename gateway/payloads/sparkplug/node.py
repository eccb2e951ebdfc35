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

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import Reason
from gateway.payloads.sparkplug import reading
from gateway.payloads.sparkplug.arrival import SEQUENCE, UNTIMED, Arrival
from gateway.payloads.sparkplug.births import ITSELF, Birth, Births
from gateway.payloads.sparkplug.definitions import Definitions, agreed, of_birth
from gateway.payloads.sparkplug.reading import ReadPayload
from gateway.payloads.sparkplug.waiting import WaitingMessages


@dataclass(frozen=True, slots=True)
class Outcome:
    """What of a message can be taken. `refusal`: why the whole of it is kept as a dead letter beside that.
    `was_held`: it was one, and is none any more.
    """

    arrival: Arrival
    read: ReadPayload
    refusal: DecodeError | None = None
    was_held: bool = False


@dataclass(slots=True)
class Node:
    """Everything known of one edge node. `next`: the sequence number that comes next, None while it is dead
    or was never born. `until`: the time of the last message before which nothing is missing. `is_certain`:
    the birth came in the order of time. `wants_rebirth`: since the last birth something could not be read.
    """

    bd_seq: int | None = None
    next: int | None = None
    until: int = 0
    is_certain: bool = True
    births: Births = field(default_factory=Births)
    waiting: WaitingMessages = field(default_factory=WaitingMessages)
    wants_rebirth: bool = False
    is_patient: bool = False

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
        device = self.births.devices.get(arrival.device)
        births = [] if device is None else device.births
        fitting = {birth.digest for birth in births if self._lies_in(birth, arrival.at)}
        if len(fitting) != 1:
            fitting = {birth.digest for birth in births}
        known = agreed(
            self.births.definitions[digest] for digest in fitting if digest in self.births.definitions
        )
        read = reading.read(arrival.payload, known)
        if not read.unknown:
            return Outcome(arrival, read)
        why = f"no birth that is known defines {', '.join(read.unknown[:3])}, or they do not agree on it"
        return Outcome(arrival, read, DecodeError(Reason.UNKNOWN_ALIAS, why[:300]))

    # --- births and deaths of the node

    def _born(self, arrival: Arrival) -> Outcome:
        try:
            definitions = of_birth(arrival.payload)
        except DecodeError as error:
            return Outcome(arrival, reading.read(arrival.payload, None), error)
        outcome = Outcome(arrival, reading.read(arrival.payload, definitions))
        itself, at = self.births.device(ITSELF), arrival.at
        last = itself.births[-1] if itself.births else None
        known = itself.find(at, definitions.digest)
        if known is not None and (known is not last or self.next is not None):
            return outcome  # it came before: the broker was not told that we have it
        if known is None:
            self._close(at)
            if (refusal := self.births.make_room(ITSELF, definitions, has_ended=True)) is not None:
                return Outcome(arrival, outcome.read, refusal)
            self.is_certain = last is None or UNTIMED in (at, last.at) or at >= last.at
            self.births.add(itself, Birth(at, None, definitions.digest), definitions)
            self.until = at
        else:  # once more what was said last: its death was that of an older session
            known.until = None
        self.births.set_offline(ITSELF, None)
        self.bd_seq = reading.bd_seq(arrival.payload)
        self.next = ((arrival.sequence or 0) + 1) % SEQUENCE
        self.waiting.forget()
        self.wants_rebirth = self.is_patient = False
        if not self.is_certain:
            # The clock went back, or an old birth came late. The next one tells.
            self.wants_rebirth = True
        return outcome

    def _died(self, arrival: Arrival) -> Outcome:
        """A death of another session than the current one is none: the will of a connection that was
        replaced.
        """
        outcome = Outcome(arrival, ReadPayload())
        given = reading.bd_seq(arrival.payload)
        if self.next is None or (given is not None and self.bd_seq is not None and given != self.bd_seq):
            return outcome
        self._close(None)
        for name in self.births.devices:
            self.births.set_offline(name, arrival.received_at)
        self.next = None
        self.waiting.forget()
        return outcome

    def _close(self, before: int | None) -> None:
        """Ends what holds now. `before`: the time of the birth that follows."""
        until = self.until if before in (None, UNTIMED) else min(self.until, before)
        for name, device in self.births.devices.items():
            if (current := device.current) is not None:
                # of a birth that nobody could be sure of nothing is certain afterwards
                current.until = max(until, current.at) if self.is_certain else current.at - 1
                self.births.changed.add(name)

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
        elif number is None or (distance == 0 and self.waiting.is_missing(at)):
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
        born = self.births.device(ITSELF).current
        return at != UNTIMED and born is not None and at < born.at

    def _next(self, arrival: Arrival, *, was_held: bool = False) -> Outcome:
        """The message that is due."""
        at, number = arrival.at, arrival.sequence
        if number is not None:
            self.next = (number + 1) % SEQUENCE
        device = self.births.devices.get(arrival.device)
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
        if (refusal := self.births.make_room(arrival.device, definitions)) is not None:
            return Outcome(arrival, reading.read(arrival.payload, definitions), refusal)
        device, at = self.births.device(arrival.device), arrival.at
        outcome = Outcome(arrival, reading.read(arrival.payload, definitions), was_held=was_held)
        last = device.births[-1] if device.births else None
        known = device.find(at, definitions.digest)
        if known is not None and (known is not last or known.until is None):
            return outcome  # it came before
        if known is None:
            if (current := device.current) is not None:
                until = self.until if at == UNTIMED else min(self.until, at)
                current.until = max(until, current.at) if self.is_certain else current.at - 1
            self.births.add(device, Birth(at, None, definitions.digest), definitions)
            if last is not None and at != UNTIMED and at < last.at:  # nobody knows which of the two counts
                device.births[-1].until = at - 1
                self._want()
        else:
            known.until = None
        self.births.set_offline(arrival.device, None)
        return outcome

    def _device_died(self, arrival: Arrival, *, was_held: bool) -> Outcome:
        device = self.births.devices.get(arrival.device)
        if device is None:  # it never was
            return Outcome(arrival, ReadPayload(), was_held=was_held)
        if (current := device.current) is not None:
            current.until = max(self.until, current.at) if self.is_certain else current.at - 1
        self.births.set_offline(
            arrival.device, arrival.at * 1000 if arrival.at != UNTIMED else arrival.received_at
        )
        return Outcome(arrival, ReadPayload(), was_held=was_held)

    def _ahead(self, arrival: Arrival, number: int) -> Outcome:
        """Something before it is missing. It waits, in memory, until that has come."""
        self.waiting.add(arrival, number, due=self.next or 0)
        if not self.wants_rebirth:
            self.wants_rebirth = self.is_patient = True
        why = (
            f"number {self.next} is missing before its {number}: it may have been a birth that gave the"
            " aliases new names"
        )
        return self._partly(arrival, Reason.SEQUENCE_GAP, why)

    def _release(self, at: int) -> Iterator[Outcome]:
        """What waited for the message that has come."""
        waited = bool(self.waiting)
        self.waiting.came(at)
        while self.next is not None and (arrival := self.waiting.pop(self.next)) is not None:
            yield self._next(arrival, was_held=True)
        if waited:
            self.waiting.find_gap()
        if waited and not self.waiting and self.is_patient:
            self.wants_rebirth = self.is_patient = False

    # --- reading

    def _read_by(self, arrival: Arrival, birth: Birth, *, was_held: bool = False) -> Outcome:
        read = reading.read(arrival.payload, self.births.definitions.get(birth.digest))
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
        device, at = self.births.devices.get(arrival.device), arrival.at
        births = [] if device is None else device.births
        fitting = {birth.digest for birth in births if self._lies_in(birth, at)}
        if and_current and fitting:
            fitting |= {birth.digest for birth in births if birth.until is None}
        if len(fitting) == 1 and (definitions := self.births.definitions.get(fitting.pop())) is not None:
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
            return Outcome(arrival, ReadPayload())
        try:
            definitions = of_birth(arrival.payload)
        except DecodeError as error:
            return Outcome(arrival, reading.read(arrival.payload, None), error)
        device = self.births.devices.get(arrival.device)
        if self.next is None or device is None or device.find(arrival.at, definitions.digest) is None:
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
        device = self.births.devices.get(name)
        if device is None or not device.births:
            return None
        held = self.births.definitions.get(device.births[-1].digest)
        return None if held is None else held.of_names

    def _want(self) -> None:
        """Asks for a birth, and waits for nothing before."""
        self.wants_rebirth, self.is_patient = True, False
