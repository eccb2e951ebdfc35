"""The simulated fleet: machines with plausible signals from seeded random walks, and the pace at which they
publish.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from random import Random
from typing import Protocol

import orjson

from gateway import clock
from gateway.demo.publisher import Publisher

KINDS = ("pump", "press", "fan")
METRICS = ("temperature", "vibration", "running_hours", "running")

AMBIENT_CELSIUS, LOAD_CELSIUS = 22.0, 38.0
WARMING_SECONDS = 180.0
MEAN_RUN_SECONDS, MEAN_STOP_SECONDS = 600.0, 90.0
FIRST_INSTALLED = datetime(2023, 1, 1, tzinfo=UTC)
MAX_BEHIND_SECONDS = 1.0
"""A fleet that could not publish for longer goes on from now: machines keep no history."""

TICK_SECONDS = 0.02

Message = tuple[str, bytes, bool]
"""Topic, payload, and whether the broker is to keep it."""


class Talkative(Protocol):
    """What there is always a next message of."""

    def next_message(self, at: datetime) -> Message:
        """Of whose turn it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One device at one instant: degrees Celsius, mm/s, hours; `wear` is the vibration that age adds."""

    device: str
    at: datetime
    temperature: float
    vibration: float
    running_hours: float
    running: bool
    wear: float

    def metrics(self) -> dict[str, float | bool]:
        """What it publishes, rounded as a sensor would."""
        return {
            "temperature": round(self.temperature, 2),
            "vibration": round(self.vibration, 3),
            "running_hours": round(self.running_hours, 4),
            "running": self.running,
        }


def new_machine(device: str, at: datetime, rand: Random) -> Machine:
    """Somewhere in its life, at a temperature that fits. One that is made again later has run for longer: its
    counter never goes back.
    """
    running = rand.random() < 0.8
    return Machine(
        device=device,
        at=at,
        temperature=AMBIENT_CELSIUS
        + (LOAD_CELSIUS * rand.uniform(0.7, 1.0) if running else rand.uniform(0.0, 5.0)),
        vibration=0.0,
        running_hours=(at - FIRST_INSTALLED) / timedelta(hours=1) - rand.uniform(0.0, 20_000.0),
        running=running,
        wear=rand.uniform(0.0, 1.5),
    )


def advance(machine: Machine, at: datetime, rand: Random) -> Machine:
    """The machine at a later instant: it starts and stops, warms and cools, shakes
    while it runs, and wears.
    """
    seconds = max(0.0, (at - machine.at) / timedelta(seconds=1))
    mean = MEAN_RUN_SECONDS if machine.running else MEAN_STOP_SECONDS
    running = machine.running ^ (rand.random() < 1.0 - math.exp(-seconds / mean))
    target = AMBIENT_CELSIUS + (LOAD_CELSIUS if machine.running else 0.0)
    settled = 1.0 - math.exp(-seconds / WARMING_SECONDS)
    wear = machine.wear + (rand.uniform(0.0, 2e-5) * seconds if machine.running else 0.0)
    return replace(
        machine,
        at=at,
        temperature=machine.temperature
        + (target - machine.temperature) * settled
        + rand.gauss(0.0, 0.05 * math.sqrt(min(seconds, 10.0))),
        vibration=abs(rand.gauss(1.8 + wear, 0.15)) if running else abs(rand.gauss(0.0, 0.03)),
        running_hours=machine.running_hours + (seconds / 3600.0 if machine.running else 0.0),
        running=running,
        wear=wear,
    )


def device_names(count: int) -> list[str]:
    """`pump-01`, `press-01`, `fan-01`, `pump-02` and so on."""
    return [f"{KINDS[index % len(KINDS)]}-{index // len(KINDS) + 1:02d}" for index in range(count)]


class Fleet:
    """The machines of one customer, which take turns."""

    def __init__(self, *, customer: str, devices: int, seed: int, at: datetime) -> None:
        self._customer = customer
        self._rand = Random(seed)
        self._machines = {device: new_machine(device, at, self._rand) for device in device_names(devices)}
        self._turns: Iterator[str] = cycle(self._machines)

    def next_message(self, at: datetime) -> Message:
        """That of the machine whose turn it is, in JSON."""
        device = next(self._turns)
        machine = self._machines[device] = advance(self._machines[device], at, self._rand)
        payload = orjson.dumps({"ts": at.isoformat(), "metrics": machine.metrics()})
        return f"{self._customer}/devices/{device}/telemetry", payload, False


async def publish_steadily(fleet: Talkative, publisher: Publisher, *, rate: float) -> None:
    """Publishes `rate` messages a second, all machines together, until cancelled."""
    origin, sent = clock.monotonic(), 0
    while True:
        due = int((clock.monotonic() - origin) * rate) - sent
        if due > max(1.0, rate * MAX_BEHIND_SECONDS):
            origin, sent, due = clock.monotonic(), 0, 1
        for _ in range(due):
            await publisher.publish(*fleet.next_message(clock.now()))
        sent += due
        await asyncio.sleep(max(TICK_SECONDS, min(1.0 / rate, 1.0) / 4))
