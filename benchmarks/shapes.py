"""What `bench ingest --sources` publishes beside plain JSON: the same samples as other devices send them, and the
sources that take them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from gateway.payloads.sparkplug.wire import PAYLOAD

NODES = 10
"""Edge nodes of Sparkplug; each has its part of the devices."""

UINT64, DOUBLE = 8, 10
PLAIN = {"topic": "{customer}/devices/{device}/telemetry"}

Message = tuple[str, bytes]
Sample = tuple[int, Mapping[str, float]]
"""Milliseconds, metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A way to publish samples of so many devices: `messages` makes a message of each, and whatever has to come
    before.
    """

    name: str
    source: Mapping[str, object]
    messages: Callable[[Iterator[Sample], int], Iterator[Message]]


def _mapped(samples: Iterator[Sample], devices: int) -> Iterator[Message]:
    for number, (at, metrics) in enumerate(samples):
        body = {"time": at, "data": {**metrics, "state": None, "uptime": number}}
        payload = json.dumps(body, separators=(",", ":")).encode()
        yield f"lines/device{number % devices}/out", payload


def _cbor(samples: Iterator[Sample], devices: int) -> Iterator[Message]:
    for number, (at, metrics) in enumerate(samples):
        yield f"cbor/device{number % devices}", cbor2.dumps({"ts": at, "metrics": metrics})


def _sparkplug(samples: Iterator[Sample], devices: int) -> Iterator[Message]:
    """Births without values, so that the samples are all that is stored; then data by alias."""
    at, metrics = next(samples)
    names, numbers = list(metrics), dict.fromkeys(range(NODES), 0)

    def topic(kind: str, node: int, device: int | None = None) -> str:
        return f"spBv1.0/acme/{kind}/line{node}" + ("" if device is None else f"/device{device}")

    for node in range(NODES):
        birth: Any = PAYLOAD(timestamp=at, seq=0)
        birth.metrics.add(name="bdSeq", datatype=UINT64, long_value=0, timestamp=at)
        yield topic("NBIRTH", node), birth.SerializeToString()
    for device in range(devices):
        node = device % NODES
        numbers[node] += 1
        birth = PAYLOAD(timestamp=at, seq=numbers[node] % 256)
        for place, name in enumerate(names):
            alias = device * len(names) + place
            birth.metrics.add(name=name, alias=alias, datatype=DOUBLE, is_null=True, timestamp=at)
        yield topic("DBIRTH", node, device), birth.SerializeToString()
    number = 0
    while True:
        device = number % devices
        node = device % NODES
        numbers[node] += 1
        data: Any = PAYLOAD(timestamp=at, seq=numbers[node] % 256)
        for place, name in enumerate(names):
            data.metrics.add(alias=device * len(names) + place, double_value=metrics[name], timestamp=at)
        yield topic("DDATA", node, device), data.SerializeToString()
        number += 1
        if (following := next(samples, None)) is None:
            return
        at, metrics = following


SHAPES: Sequence[Shape] = (
    Shape(
        name="mapped JSON",
        source={
            "topic": "lines/{device}/out",
            "customer": "acme",
            "root": "data",
            "time": {"path": "time", "unit": "ms"},
            "rename": {"metric0": "temperature"},
            "drop": ["uptime"],
        },
        messages=_mapped,
    ),
    Shape(
        name="CBOR",
        source={"topic": "cbor/{device}", "customer": "acme", "format": "cbor"},
        messages=_cbor,
    ),
    Shape(
        name="Sparkplug B",
        source={"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"},
        messages=_sparkplug,
    ),
)
