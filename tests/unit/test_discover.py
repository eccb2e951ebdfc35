"""Discovery: each fleet is told by its preset, and what is proposed takes what was heard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from gateway.demo.preset_fleet import PresetFleet
from gateway.ingest.decode import Decoder
from gateway.ingest.discover import Discovery, discover
from gateway.ingest.examples import payload_of
from gateway.ingest.proposal import HeardMessage
from gateway.payloads import presets
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceSettings

NOW = datetime(2026, 11, 28, 16, 0, 30, tzinfo=UTC)
TELEMETRY = TelemetrySettings()


def examples_of(name: str, prefix: str = "") -> list[HeardMessage]:
    preset = presets.find_preset(name)
    assert preset is not None
    return [
        HeardMessage(topic=prefix + example.topic, payload=payload_of(example))
        for source in preset.sources
        for example in source.examples
    ]


def found(heard: list[HeardMessage], **telemetry: Any) -> Discovery:
    settings = TELEMETRY.model_copy(update=telemetry)
    return discover(heard, telemetry=settings, customers=["acme"], customer=None, now=NOW)


def filled(lines: dict[str, object]) -> dict[str, object]:
    """With what the text in capitals asks for."""
    return {**lines, "time": {"zone": "Europe/Berlin"}} if lines.get("time") == {"zone": "ZONE"} else lines


def takes(discovery: Discovery, heard: list[HeardMessage]) -> None:
    """What is proposed, as a person pastes it, decodes every message that has something in it."""
    proposed = [group.source for group in (*discovery.known, *discovery.unknown) if group.source is not None]
    sources = [*TELEMETRY.sources, *(SourceSettings.model_validate(filled(lines)) for lines in proposed)]
    decoder = Decoder(
        TELEMETRY.model_copy(update={"retention": timedelta(days=999)}), compile_sources(sources), ["acme"]
    )
    for message in heard:
        rows = decoder.decode(message.topic, message.payload, int(NOW.timestamp() * 1e6))
        assert rows or decoder.is_ignored(message.topic)


@pytest.mark.parametrize("name", presets.names())
@pytest.mark.parametrize("prefix", ["", "site1/", "a/b/"])
def test_a_fleet_is_told_by_its_preset(name: str, prefix: str) -> None:
    heard = examples_of(name, prefix)
    discovery = found(heard)
    assert [(group.source or {}).get("preset") for group in discovery.known] == [name]
    assert [(group.source or {}).get("prefix", "") for group in discovery.known] == [prefix]
    assert discovery.unknown == [] and discovery.taken == []
    takes(discovery, heard)


def simulated(name: str, prefix: str = "") -> list[HeardMessage]:
    preset = presets.find_preset(name)
    assert preset is not None
    fleet = PresetFleet(preset, customer="acme", devices=5, seed=1, at=NOW, zone=ZoneInfo("Europe/Berlin"))
    told = [fleet.next_message(NOW) for _ in range(80)]
    told += [one.message for one in fleet.last(NOW)]
    return [HeardMessage(topic=prefix + topic, payload=payload) for topic, payload, _ in told]


@pytest.mark.parametrize("name", presets.names())
@pytest.mark.parametrize("prefix", ["", "site1/"])
def test_what_devices_tell_beside_their_telemetry_is_proposed_no_source(name: str, prefix: str) -> None:
    """Availability, announcements, joins: before the preset is pasted, and afterwards."""
    heard = simulated(name, prefix)
    discovery = found(heard)
    assert [(group.source or {}).get("preset") for group in discovery.known] == [name]
    assert discovery.unknown == []
    lines = filled(discovery.known[0].source or {})
    pasted = found(heard, sources=(*TELEMETRY.sources, SourceSettings.model_validate(lines)))
    assert (pasted.refused, pasted.known, pasted.unknown) == ([], [], [])
    assert [group.messages for group in pasted.beside] == [group.messages for group in discovery.beside]
    assert sum(group.messages for group in (*pasted.taken, *pasted.beside)) == len(heard)


def test_a_broker_of_all_fleets_is_sorted_out_with_what_they_tell_beside() -> None:
    heard = [one for name in presets.names() for one in simulated(name)]
    discovery = found(heard)
    assert sorted((group.source or {})["preset"] for group in discovery.known) == presets.names()
    assert (discovery.taken, discovery.refused, discovery.unknown) == ([], [], [])
    assert sum(group.messages for group in (*discovery.known, *discovery.beside)) == len(heard)


def test_a_topic_of_nobody_is_not_taken_for_what_a_fleet_tells_that_is_not_there() -> None:
    discovery = found([HeardMessage(topic="tele/x/LWT", payload=b"Online")])
    assert discovery.beside == [] and [len(group.topics) for group in discovery.unknown] == [1]


def test_a_mixed_broker_is_sorted_out() -> None:
    own = [HeardMessage(topic=f"acme/devices/p{number}/telemetry", payload=b'{"t":1}') for number in range(3)]
    plc = [
        HeardMessage(
            topic=f"plant/line{number}/out",
            payload=orjson.dumps({"timestamp": 1795881600 - number, "data": {"rpm": 5}}),
        )
        for number in range(4)
    ]
    loose = [
        HeardMessage(topic=f"sensors/{room}/temperature", payload=b"21.5") for room in ("kitchen", "hall")
    ]
    bad = [HeardMessage(topic="acme/devices/p9/telemetry", payload=b"rubbish")]
    packed = [HeardMessage(topic="x/y", payload=b"\x1f\x8b\x08\x00rubbish")]
    heard = [one for name in presets.names() for one in examples_of(name)]
    discovery = found([*own, *plc, *loose, *bad, *packed, *heard])
    assert [(group.title, group.messages) for group in discovery.taken] == [
        ("{customer}/devices/{device}/telemetry", 3)
    ]
    assert [group.problem is not None and "invalid_json" in group.problem for group in discovery.refused] == [
        True
    ]
    assert sorted((group.source or {})["preset"] for group in discovery.known) == presets.names()
    proposed = {group.title: group.source for group in discovery.unknown}
    assert proposed["plant/{device}/out"] == {
        "topic": "plant/{device}/out", "customer": "acme", "time": {"path": "timestamp"}, "root": "data",
    }  # fmt: skip
    assert proposed["sensors/{device}/{metric}"] == {
        "topic": "sensors/{device}/{metric}", "format": "scalar", "customer": "acme",
    }  # fmt: skip
    assert [group.problem for group in discovery.unknown if group.source is None] == [
        "looks like gzip: set `encoding: gzip` of the source"
    ]
    takes(discovery, [*plc, *loose, *heard])


def test_names_that_differ_in_case_only_are_pointed_at() -> None:
    heard = [
        HeardMessage(topic=f"acme/devices/{name}/telemetry", payload=b'{"t":1}')
        for name in ("Pump-1", "pump-1", "x")
    ]
    assert list(found(heard).alike) == [("Pump-1", "pump-1")]


def test_a_slip_in_the_topic_is_seen() -> None:
    discovery = found([HeardMessage(topic="acme/devices/p/telemetri", payload=b'{"t":1}')])
    assert [sorted(group.topics) for group in discovery.unknown] == [["acme/devices/p/telemetri"]]
