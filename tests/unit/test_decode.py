"""Decode: topic and payload to rows; the reasons that only a topic, a clock or a customer list can give."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gateway.ingest import decode
from gateway.ingest.decode import Decoder
from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import MAX_PAYLOAD_BYTES
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings

NOW = 1_769_851_800_000_000
TOPIC = "acme/devices/pump/telemetry"


def decoder(**telemetry: object) -> Decoder:
    settings = TelemetrySettings.model_validate(telemetry)
    return Decoder(settings, compile_sources(settings.sources), ["acme"])


def reason_of(topic: str, payload: bytes, **telemetry: object) -> str:
    with pytest.raises(DecodeError) as caught:
        decoder(**telemetry).decode(topic, payload, NOW)
    return caught.value.reason


def test_a_missing_time_is_that_of_receipt() -> None:
    assert decoder().decode(TOPIC, b'[{"a":1},{"ts":1769851799,"a":2}]', NOW) == [
        ("acme", "pump", NOW, {"a": 1}),
        ("acme", "pump", NOW - 1_000_000, {"a": 2}),
    ]
    assert decoder().decode(f"{TOPIC}/rpm", b"9", NOW) == [("acme", "pump", NOW, {"rpm": 9})]


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("acme/pump", "unmatched_topic"),
        ("", "unmatched_topic"),
        ("globex/devices/pump/telemetry", "unknown_customer"),
        ("acme/devices//telemetry", "invalid_identifier"),
        ("acme/devices/pu\0mp/telemetry", "invalid_identifier"),
        ("acme/devices/pump\n/telemetry", "invalid_identifier"),
        ("acme/devices/" + "x" * 257 + "/telemetry", "invalid_identifier"),
        ("-acme/devices/pump/telemetry", "invalid_identifier"),
        ("acme/devices/pump/telemetry/a\0", "invalid_metric"),
    ],
)
def test_a_topic_that_names_no_device_has_a_reason(topic: str, reason: str) -> None:
    assert reason_of(topic, b"1") == reason


def test_unknown_customers_are_taken_where_they_register_themselves() -> None:
    assert (
        decoder(auto_register_customers=True).decode("globex/devices/pump/telemetry", b'{"a":1}', NOW)[0][0]
        == "globex"
    )


def test_the_clock_limits_are_exact() -> None:
    short = {"max_future": timedelta(seconds=10), "retention": timedelta(days=1)}
    ahead, behind = NOW + 10_000_000, NOW - 86_400_000_000
    assert decoder(**short).decode(TOPIC, b'[{"ts":%d,"a":1},{"ts":%d,"a":1}]' % (ahead, behind), NOW)
    assert reason_of(TOPIC, b'{"ts":%d,"a":1}' % (ahead + 1), **short) == "timestamp_in_future"
    assert reason_of(TOPIC, b'{"ts":%d,"a":1}' % (behind - 1), **short) == "timestamp_too_old"


@pytest.mark.parametrize("ts", ['"0001-01-01T00:00:00+23:59"', "-9223372036854775808", "-1e300"])
def test_times_before_the_calendar_are_too_old(ts: str) -> None:
    assert reason_of(TOPIC, f'{{"ts":{ts},"a":1}}'.encode()) == "timestamp_too_old"


@pytest.mark.parametrize("ts", ['"9999-12-31T23:59:59-23:59"', "18446744073709551615", "1e300"])
def test_times_after_the_calendar_are_in_the_future(ts: str) -> None:
    assert reason_of(TOPIC, f'{{"ts":{ts},"a":1}}'.encode()) == "timestamp_in_future"


def test_a_payload_may_have_a_mebibyte_and_no_more() -> None:
    payload = b'{"a":1}'.ljust(MAX_PAYLOAD_BYTES)
    assert decoder().decode(TOPIC, payload, NOW)
    assert reason_of(TOPIC, payload + b" ") == "payload_too_large"


def test_the_cache_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "CACHED_TOPICS", 3)
    made = decoder()
    for number in range(10):
        assert made.decode(f"acme/devices/d{number}/telemetry", b'{"a":1}', NOW)[0][1] == f"d{number}"
        assert len(made._topics) <= 3
