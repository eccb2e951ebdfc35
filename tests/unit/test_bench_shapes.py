"""What `bench ingest --sources` publishes: the same samples, whichever way they come."""

from __future__ import annotations

import time

import pytest

from benchmarks.shapes import PLAIN, SHAPES, Shape
from gateway.ingest.decode import Decoder
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings

DEVICES = 20


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_way_brings_the_same_samples(shape: Shape) -> None:
    """More messages than a node of Sparkplug has numbers, all by the sources of one daemon."""
    now = time.time_ns() // 1_000_000
    samples = [
        (now - 9000 + n, {"metric0": 20.5 + n, "metric1": n / 4, "metric2": -n - 0.5}) for n in range(3000)
    ]
    settings = TelemetrySettings.model_validate({"sources": [PLAIN, *(one.source for one in SHAPES)]})
    decoder = Decoder(settings, compile_sources(settings.sources), ["acme"])
    rows = [
        row
        for topic, payload in shape.messages(iter(samples), DEVICES)
        for row in decoder.decode(topic, payload, now * 1000)
    ]
    first = "temperature" if shape.name == "mapped JSON" else "metric0"
    assert [(at // 1000, metrics) for _, _, at, metrics in rows] == [
        (at, {first: metrics["metric0"], "metric1": metrics["metric1"], "metric2": metrics["metric2"]})
        for at, metrics in samples
    ]
    assert {customer for customer, _, _, _ in rows} == {"acme"}
    assert len({device for _, device, _, _ in rows}) == DEVICES
