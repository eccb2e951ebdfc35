"""The fleet: devices that publish ordinary, late, corrected, repeated and boundary samples, and a ledger of
what was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import mqtt5

from benchmarks.mqtt import Publisher
from tests.soak.oracle import Device, Ledger, Value
from tests.soak.shape import SECOND, Shape

Tag = tuple[Device, int, dict[str, Value], int]
DAY = 86_400 * SECOND
HUGE_AT = 537
"""Microsecond of a sample with nothing but an integer that no double holds."""
UNUSABLE = ("n/a", "error", "--")
STATES = ("on", "off", "idle")


class _Counting(Publisher[Tag]):
    """Also notices a message that the broker took for nobody: then the gateway's session is not there."""

    unmatched = 0

    def _settle(self, packet: mqtt5.PubAckPacket) -> None:
        if packet.reason_code is mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS:
            self.unmatched += 1
        super()._settle(packet)


@dataclass(slots=True)
class _State:
    """Of one device."""

    skew: int
    counter: float = 0.0
    level: float = 20.0
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=60))
    """Times of its last samples."""
    former: dict[tuple[int, str], Value] = field(default_factory=dict)
    """What a corrected metric was before."""


class Fleet:
    """Publishes until it is told to end. Every value is a multiple of an eighth, so that sums are exact in
    any order.
    """

    def __init__(self, shape: Shape, port: int) -> None:
        self.ledger = Ledger()
        self.kinds: Counter[str] = Counter()
        self.published = 0
        self.resumed = asyncio.Event()
        """Cleared while nothing is to be published."""
        self.resumed.set()
        self._shape = shape
        self._chance = random.Random(shape.seed * 104729 + 7)
        self._publisher = _Counting(port, f"fleet-{shape.seed}", window=500, acknowledged=self._acknowledged)
        self._devices: dict[Device, _State] = {
            (customer, f"d{number}"): _State(
                skew=self._chance.choice((0, 0, 0, -20 * SECOND, -3 * SECOND, SECOND))
            )
            for customer in shape.customers
            for number in range(shape.devices)
        }

    @property
    def unmatched(self) -> int:
        """Messages that the broker acknowledged and gave to nobody."""
        return self._publisher.unmatched

    async def __aenter__(self) -> Self:
        await self._publisher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._publisher.__aexit__(kind, error, trace)

    async def run(self, ending: asyncio.Event) -> None:
        """Publishes at the shape's rate, in bursts now and then, until `ending` is set."""
        devices = list(self._devices)
        while not ending.is_set():
            await self.resumed.wait()
            burst = self._chance.choices((1, 5, 40), (0.9, 0.08, 0.02))[0]
            for _ in range(burst):
                await self._one(self._chance.choice(devices))
            await asyncio.sleep(self._chance.expovariate(self._shape.rate) * burst)

    async def flush(self) -> None:
        """Waits until the broker has acknowledged everything."""
        await self._publisher.flush()

    async def say(self, device: Device, at: int, metrics: dict[str, Value]) -> None:
        """Publishes one message."""
        number = self.published
        self.published += 1
        payload = {"ts": self._written(at), "metrics": metrics}
        await self._publisher.publish(
            f"{device[0]}/devices/{device[1]}/telemetry",
            json.dumps(payload).encode(),
            (device, at, metrics, number),
        )

    async def _one(self, device: Device) -> None:
        state, chance = self._devices[device], self._chance
        kind = chance.choices(
            ("live", "late", "old", "corrected", "back", "repeated", "partial", "huge"),
            (0.51, 0.1, 0.02, 0.14, 0.12, 0.05, 0.05, 0.01),
        )[0]
        if not state.recent and kind not in ("live", "late", "old", "huge"):
            kind = "live"
        if kind == "back" and not state.former:
            kind = "corrected"
        self.kinds[kind] += 1
        match kind:
            case "corrected":
                await self._correct(device, state)
            case "back":
                (at, metric), value = state.former.popitem()
                await self.say(device, at, {metric: value})
            case "repeated":
                at = chance.choice(state.recent)
                await self.say(device, at, dict(self._latest(device, at)))
            case "partial":
                at = chance.choice(state.recent)
                await self.say(device, at, {"level": self._level(state), "other": 1})
            case "huge":  # in a sample of its own: the message may be refused whole
                at = time.time_ns() // 1_000_000 * 1000 + HUGE_AT
                await self.say(device, at, {"huge": chance.randrange(2**53 + 1, 2**60, 2)})
            case _:
                at = self._instant(state, kind)
                state.recent.append(at)
                await self.say(device, at, self._metrics(state))

    async def _correct(self, device: Device, state: _State) -> None:
        at = self._chance.choice(state.recent)
        latest = self._latest(device, at)
        metric = self._chance.choice(("value", "value", "counter", "state", "level", "mixed"))
        if metric in latest:
            state.former[at, metric] = latest[metric]
        await self.say(device, at, {metric: self._metrics(state, every=True)[metric]})

    def _latest(self, device: Device, at: int) -> dict[str, Value]:
        """What is known to be acknowledged of the sample; something where nothing is yet."""
        return self.ledger.samples.get(device, {}).get(at) or {"value": self._eighths(-100, 100)}

    def _instant(self, state: _State, kind: str) -> int:
        now = time.time_ns() // 1000 + state.skew
        if kind == "late":
            now -= self._chance.randrange(2 * SECOND, 40 * SECOND)
        elif kind == "old":
            now -= self._chance.randrange(0, 5 * DAY)
        place = self._chance.random()
        if place < 0.25:  # on the boundary of windows of every length
            return now - now % (30 * SECOND if place < 0.05 else SECOND)
        if place < 0.35:  # just before one
            return now - now % SECOND - 1
        if place >= 0.7:
            return now - now % 1000
        return now + (now % 1000 == HUGE_AT)  # the sample that may be refused whole is alone

    def _metrics(self, state: _State, *, every: bool = False) -> dict[str, Value]:
        chance = self._chance
        place = chance.random()
        if place < 0.05:  # began again
            state.counter = self._eighths(0, 3)
        else:  # sometimes with noise
            state.counter = max(
                0.0, state.counter + (-self._eighths(0, 1) if place < 0.15 else self._eighths(0, 9))
            )
        metrics: dict[str, Value] = {
            "value": self._eighths(-100, 100),
            "counter": state.counter,
            "level": self._level(state),
            "mixed": chance.choice(UNUSABLE) if chance.random() < 0.2 else self._eighths(-50, 50),
            "state": chance.choice(STATES),
        }
        if chance.random() < 0.1:
            metrics["value"] = chance.randrange(-100, 100)
        if every:
            return metrics
        return {name: value for name, value in metrics.items() if name == "value" or chance.random() < 0.8}

    def _level(self, state: _State) -> float:
        state.level += self._chance.choice((-1.0, -0.5, 0.0, 0.0, 0.125, 0.5, 1.0, 3.0, -3.0))
        return state.level

    def _eighths(self, low: int, high: int) -> float:
        return self._chance.randrange(low * 8, high * 8) / 8

    def _written(self, at: int) -> Any:
        """The time in one of the forms that are taken, exact in each."""
        if at % SECOND == 0 and self._chance.random() < 0.3:
            return at // SECOND
        if at % 1000 == 0 and self._chance.random() < 0.5:
            return at // 1000
        if self._chance.random() < 0.2:
            return datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND).isoformat()
        return at

    def _acknowledged(self, tag: Tag) -> None:
        device, at, metrics, number = tag
        self.ledger.note(device, at, metrics, number)
