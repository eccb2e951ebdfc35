"""Presets: what each fleet publishes is taken as it is, and the examples in a configuration are held to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway.demo.preset_fleet import PresetFleet, Rendered, fill, source_of
from gateway.ingest import examples
from gateway.ingest.decode import Decoder
from gateway.payloads import presets
from gateway.payloads.sources import SourceError, compile_one, compile_sources
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceExample, SourceSettings, TimeSettings

NOW = datetime(2026, 11, 28, 16, 0, 30, tzinfo=UTC)
TELEMETRY = TelemetrySettings(retention=timedelta(days=1000))
GIVEN = {"kepware": {"device": "line1"}, "tasmota": {"time": TimeSettings(zone="Europe/Berlin")}}


def chosen(name: str, **more: object) -> SourceSettings:
    return SourceSettings.model_validate({"preset": name, "customer": "acme", **GIVEN.get(name, {}), **more})


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_takes_what_its_fleet_publishes(name: str) -> None:
    preset = presets.find_preset(name)
    assert preset is not None and preset.title and preset.about
    assert all(source.examples for source in preset.sources)
    compiled = compile_one(chosen(name))
    # the examples stand beside what the preset says, and so for all that is set beside its name
    with_examples = [one for one in compiled if one.examples]
    assert len(with_examples) == len(compiled)
    assert examples.faults_of(TELEMETRY, compiled, ["acme"], now=NOW) == []


def fleet_of(name: str, zone: str = "Europe/Berlin", devices: int = 7) -> tuple[PresetFleet, SourceSettings]:
    preset = presets.find_preset(name)
    assert preset is not None
    fleet = PresetFleet(
        preset, customer="acme", devices=devices, seed=3, at=NOW - timedelta(minutes=5), zone=ZoneInfo(zone)
    )
    return fleet, SourceSettings.model_validate(source_of(name, "acme", zone))


def as_example(told: Rendered) -> SourceExample:
    """What the preset's file says of a message, as an example."""
    topic, payload, _ = told.message
    rule = told.rule
    at = None if rule.at is None else fill(rule.at, told.signals)
    sample = {
        "device": fill(rule.device, told.signals),
        "at": at,
        "metrics": fill(rule.expect, told.signals),
    }
    return SourceExample.model_validate(
        {
            "topic": topic,
            "payload_hex": payload.hex(),
            "expect": [sample] if rule.expect else [],
            "skipped": rule.skipped,
        }
    )


@pytest.mark.parametrize("name", presets.names())
def test_what_a_simulated_fleet_sends_becomes_what_its_file_says(name: str) -> None:
    """Each message yields its sample, or is left out on purpose; none is a dead letter, none nobody's."""
    preset = presets.find_preset(name)
    fleet, settings = fleet_of(name)
    told = [fleet.next_rendered(NOW + timedelta(seconds=step) / 7) for step in range(300)]
    fleet.tell_first()  # and once more, as when it is asked to
    told += [fleet.next_rendered(NOW + timedelta(seconds=50 + step)) for step in range(50)]
    told += fleet.last(NOW + timedelta(seconds=100))
    taken = []
    decoder = Decoder(TELEMETRY, compile_one(settings), ["acme"])
    for one in told:
        if decoder.source_of(one.message[0]) is None:
            assert preset is not None and preset.is_beside(one.message[0], ""), one
            assert not one.rule.expect, one
        else:
            taken.append(as_example(one))
    # in one decoder and in order: what Sparkplug means depends on what came before
    own = settings.model_copy(update={"examples": tuple(taken)})
    found = examples.faults_of(TELEMETRY, compile_one(own), ["acme"], now=NOW)
    assert [(one, taken[one.index]) for one in found] == []
    assert sum(bool(one.expect) for one in taken) > 100


@pytest.mark.parametrize("name", presets.names())
def test_a_simulated_fleet_is_told_apart_by_its_topics(name: str) -> None:
    fleet, settings = fleet_of(name)
    decoder = Decoder(TELEMETRY, compile_one(settings), ["acme"])
    rows = []
    for step in range(200):
        topic, payload, _ = fleet.next_message(NOW + timedelta(seconds=step))
        if decoder.source_of(topic) is not None:
            rows += decoder.decode(topic, payload, int((NOW + timedelta(seconds=step)).timestamp() * 1e6))
    named = {row[1] for row in rows}
    assert len(named) == (1 if name == "kepware" else 8 if name == "sparkplug_b" else 7)


@pytest.mark.parametrize("name", presets.names())
def test_all_that_its_devices_announce_is_told_again_when_they_connect(name: str) -> None:
    fleet, _ = fleet_of(name)
    told = []
    for _ in range(2):
        fleet.tell_first()
        one = [fleet.next_rendered(NOW).message for _ in range(200)]
        told.append([message[0] for message in one])
    preset = presets.find_preset(name)
    assert preset is not None
    first = [rule for kind in preset.simulate for rule in kind.first]
    if first:
        assert told[0][0] == told[1][0]
    for kind in preset.simulate:
        kept = {rule.topic for rule in kind.first if rule.retained}
        ends = {rule.topic for rule in kind.last if rule.retained}
        assert ends <= kept, "what is kept at the broker at the end was told at the beginning"


def test_an_example_that_fails_is_named() -> None:
    source = SourceSettings.model_validate(
        {
            "topic": "{customer}/{device}",
            "examples": [
                {"topic": "acme/p", "payload": {"t": 1}, "expect": [{"device": "p", "metrics": {"t": 2}}]},
                {"topic": "acme/p", "payload": {"t": 1}, "expect": [{"device": "p", "metrics": {"t": True}}]},
                {
                    "topic": "acme/p",
                    "payload": {"t": 1, "u": None},
                    "expect": [{"device": "p", "metrics": {"t": 1}}],
                },
                {"topic": "acme/p", "payload": "rubbish"},
                {"topic": "acme/p", "payload": {"t": 1}},
                {"topic": "acme/p", "payload": {"t": 1}, "expect": [{"device": "p", "metrics": {"t": 1}}]},
            ],
        }
    )
    found = examples.faults_of(TELEMETRY, compile_sources([source]), ["acme"], now=NOW)
    assert [(one.index, one.message.split(":")[0]) for one in found] == [
        (0, 'the metrics are {"t"'),
        (1, 'the metrics are {"t"'),
        (2, "left out are ['u'], not none"),
        (3, "the message is a dead letter (invalid_json"),
        (4, "1 samples come of it, not 0"),
    ]


def test_a_preset_whose_devices_send_local_times_wants_their_zone() -> None:
    with pytest.raises(SourceError, match="zone"):
        compile_one(SourceSettings(preset="tasmota", customer="acme"))


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(SourceError, match="no preset 'zigbee'"):
        compile_one(SourceSettings(preset="zigbee", customer="acme"))


def test_what_is_set_beside_a_preset_replaces_what_it_says() -> None:
    (one,) = compile_one(
        SourceSettings(
            preset="zigbee2mqtt", customer="acme", prefix="site/", drop=("link*",), words={"ON": 1}
        )
    )
    assert one.source.filter(None) == "site/zigbee2mqtt/#"
    row = Decoder(TELEMETRY, [one], ["acme"]).decode(
        "site/zigbee2mqtt/p", b'{"state": "ON", "linkquality": 3, "update": {"state": "idle"}}', 10**15
    )
    assert row[0][3] == {"state": 1}
