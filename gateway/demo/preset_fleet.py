"""The simulated fleet of a preset: devices that publish what the preset says, filled with the signals of
machines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from random import Random
from zoneinfo import ZoneInfo

import orjson
from google.protobuf.json_format import ParseDict

from gateway.demo.fleet import Machine, Message, advance, new_machine
from gateway.ingest.discover import needed
from gateway.payloads.presets import Preset, SimulatedKind, SimulatedMessage, find_preset
from gateway.payloads.sparkplug import wire

_WHOLE = re.compile(r"\{([a-z_]+)\}")

Signal = str | int | float | bool
Signals = Mapping[str, Signal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A message as it is published, and the signals that it was filled with."""

    rule: SimulatedMessage
    message: Message
    signals: Signals


class PresetFleet:
    """The devices of one preset, which take turns. `zone`: that of its clocks, where a preset sends local
    times. Of kinds that cannot be told apart by their topics there is one device.
    """

    def __init__(
        self, preset: Preset, *, customer: str, devices: int, seed: int, at: datetime, zone: ZoneInfo
    ) -> None:
        self._customer = customer
        self._zone = zone
        self._is_sparkplug = preset.sources[0].format == "sparkplug_b"
        self._rand = Random(seed)
        self._started = at
        self._sequence = 0
        self._devices = [
            _Device(number, name, kind, new_machine(name, at, self._rand))
            for number, (name, kind) in enumerate(_named(preset.simulate, devices), 1)
        ]
        self._turns = cycle(self._devices)
        self._at = at
        self._waiting = self._first()

    def tell_first(self) -> None:
        """The next messages are those that a device sends when it connects."""
        self._waiting = self._first()

    def next_message(self, at: datetime) -> Message:
        """Of the device whose turn it is."""
        return self.next_rendered(at).message

    def next_rendered(self, at: datetime) -> Rendered:
        """As `next_message`, with what it was filled with."""
        self._at = at
        if (waiting := next(self._waiting, None)) is not None:
            return waiting
        device = next(self._turns)
        device.machine = advance(device.machine, at, self._rand)
        device.count += 1
        return self._rendered(device, next(device.each), at)

    def last(self, at: datetime) -> Iterator[Rendered]:
        """What is told at the end, once a topic."""
        return self._once([(device, rule) for device in self._devices for rule in device.kind.last], at)

    def will(self, at: datetime) -> Message | None:
        """What the broker tells where the fleet is gone without a word: of what one connection has in common,
        an edge node or a bridge. None where each of its devices has a connection of its own.
        """
        common = [told for told in self.last(at) if "{device}" not in told.rule.topic]
        return common[0].message if common else None

    def _first(self) -> Iterator[Rendered]:
        self._sequence = 0
        yield from self._once(
            [(device, rule) for device in self._devices for rule in device.kind.first], None
        )

    def _once(
        self, rules: Sequence[tuple[_Device, SimulatedMessage]], at: datetime | None
    ) -> Iterator[Rendered]:
        topics: set[str] = set()
        for device, rule in rules:
            topic = self._text(rule.topic, device)
            if topic not in topics:
                topics.add(topic)
                yield self._rendered(device, rule, at or self._at)

    def _text(self, topic: str, device: _Device) -> str:
        return topic.format(customer=self._customer, device=device.name, number=device.number)

    def _rendered(self, device: _Device, rule: SimulatedMessage, at: datetime) -> Rendered:
        signals = self._signals(device, at)
        document = fill(rule.payload, signals)
        if self._is_sparkplug:
            self._sequence = (self._sequence + 1) % 256
            assert isinstance(document, dict)
            payload = ParseDict(document, wire.PAYLOAD()).SerializeToString()
        else:
            payload = document.encode() if isinstance(document, str) else orjson.dumps(document)
        message = (str(fill(rule.topic, signals)), payload, rule.retained)
        return Rendered(rule=rule, message=message, signals=signals)

    def _signals(self, device: _Device, at: datetime) -> Signals:
        machine = device.machine
        milliseconds = math.floor(at.timestamp() * 1000)
        local = at.astimezone(self._zone).replace(microsecond=0)
        power = round(61.2 + 10 * machine.vibration, 1) if machine.running else 0.4
        return {
            "customer": self._customer,
            "device": device.name,
            "number": device.number,
            "count": device.count,
            "sequence": self._sequence,
            "session": int(self._started.timestamp()) % 256,
            "at": datetime.fromtimestamp(milliseconds / 1000, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "ms": milliseconds,
            "second": local.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "seconds": int(local.timestamp()),
            "local": local.replace(tzinfo=None).isoformat(),
            "local_offset": local.isoformat(),
            "uptime": 93_784 + int((at - self._started) / timedelta(seconds=1)),
            "temperature": round(machine.temperature, 2),
            "humidity": round(max(20.0, 60.0 - 0.5 * (machine.temperature - 22.0)), 1),
            "vibration": round(machine.vibration, 3),
            "running": machine.running,
            "on": "ON" if machine.running else "OFF",
            "ignition": int(machine.running),
            "power": power,
            "current": round(power / 230.1, 3),
            "energy": round(machine.running_hours * 0.0612, 6),
        }


def source_of(name: str, customer: str, zone: str) -> dict[str, object]:
    """The source of a configuration that takes what the fleet of a preset publishes."""
    preset = find_preset(name)
    assert preset is not None
    return {
        "preset": name,
        "customer": customer,
        **needed(name, zone=zone, device=preset.simulate[0].names[0]),
    }


class _Device:
    def __init__(self, number: int, name: str, kind: SimulatedKind, machine: Machine) -> None:
        self.number = number
        self.name = name
        self.kind = kind
        self.machine = machine
        self.each = cycle(kind.each)
        self.count = 0


def _named(kinds: Sequence[SimulatedKind], devices: int) -> list[tuple[str, SimulatedKind]]:
    """Names in turn, of all kinds; a name that is given out again is numbered."""
    known = [(name, kind) for kind in kinds for name in kind.names]
    found: list[tuple[str, SimulatedKind]] = []
    for place in range(devices):
        again, which = divmod(place, len(known))
        name, kind = known[which]
        if again and kind.is_single:
            continue
        own = name.format(number=place + 1)
        found.append((f"{own}_{again + 1}" if again and own == name else own, kind))
    return found


def fill(template: object, signals: Signals) -> object:
    """A value of a preset's file with its `{signal}`s put in: a text that is one signal becomes its value."""
    if isinstance(template, str):
        whole = _WHOLE.fullmatch(template)
        return signals[whole[1]] if whole else template.format_map(signals)
    if isinstance(template, Mapping):
        return {key: fill(value, signals) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill(value, signals) for value in template]
    return template
