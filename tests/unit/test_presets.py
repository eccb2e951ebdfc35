"""Presets: what each fleet publishes is taken as it is, and the examples in a configuration are held to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.ingest import examples
from gateway.payloads import presets
from gateway.payloads.sources import SourceError, compile_one, compile_sources
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceSettings, TimeSettings

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
    row = examples.Decoder(TELEMETRY, [one], ["acme"]).decode(
        "site/zigbee2mqtt/p", b'{"state": "ON", "linkquality": 3, "update": {"state": "idle"}}', 10**15
    )
    assert row[0][3] == {"state": 1}
