"""Sources from end to end: a mixed broker is discovered, what is printed is pasted, and the gateway takes all
of it.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import yaml

from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto
from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.explain import explain_message
from gateway.configuration import load
from gateway.ingest.examples import payload_of
from gateway.model.topics import route
from gateway.payloads import presets
from gateway.payloads.sources import compile_sources, only
from gateway.source_settings import SourceSettings
from tests.fixtures import programs

KEY = 'security: {encryption_keys: ["${env:TEST_KEY}"]}\n'
RETENTION = "telemetry:\n  retention: 20000d\n"
"""The examples have times, and this test is run for years."""


ENVIRONMENT = {"TEST_KEY": base64.b64encode(bytes(range(32))).decode()}


async def fieldgate(*arguments: str) -> tuple[int, str, str]:
    done = await programs.run(*arguments, env={**os.environ, **ENVIRONMENT})
    return done.returncode, done.stdout, done.stderr


def messages() -> list[tuple[str, bytes]]:
    """What fourteen fleets publish, and two that no preset knows."""
    found = [
        ("plant/line-1/out", b'{"timestamp": 1795881600, "data": {"rpm": 5}}'),
        ("rooms/hall/temperature", b"21.5"),
    ]
    for name in presets.names():
        preset = presets.find_preset(name)
        assert preset is not None
        found += [(one.topic, payload_of(one)) for source in preset.sources for one in source.examples]
    return found


async def test_a_mixed_broker_is_discovered_pasted_and_taken(mosquitto: Mosquitto, tmp_path: Path) -> None:
    config = tmp_path / "fieldgate.yaml"
    start = f"broker: {{url: mqtt://127.0.0.1:{mosquitto.port}}}\ncustomers: [acme]\n{KEY}"
    config.write_text(start + RETENTION)
    listening = asyncio.create_task(fieldgate("discover", "--seconds", "12", "--config", str(config)))
    async with Publisher[None](mosquitto.port, "fleet") as publisher:
        while not listening.done():  # until it listens, whenever that is
            for topic, payload in messages():
                await publisher.publish(topic, payload, None)
            await asyncio.sleep(0.4)
    code, out, err = await listening
    assert code == 0, err
    for name in presets.names():
        preset = presets.find_preset(name)
        assert preset is not None and preset.title in out, name
    block = out[out.index("  sources:") :].replace("ZONE", "Europe/Berlin").replace("DEVICE", "line1")
    config.write_text(start + RETENTION + block)
    code, out, err = await fieldgate("check", "--config", str(config))
    assert code == 0, err
    pasted = yaml.safe_load(config.read_text())["telemetry"]["sources"]
    sources = only(compile_sources([SourceSettings.model_validate(lines) for lines in pasted]))
    assert [topic for topic, _ in messages() if route(topic, sources) is None] == []
    loaded = load(config, ENVIRONMENT, systems=SYSTEMS)
    for place, (topic, payload) in enumerate(messages()):
        told = explain_message(loaded, topic, payload, now=clock.now(), after=messages()[:place])
        assert told.dead_letter is None and (told.samples or told.ignored), (topic, told)
