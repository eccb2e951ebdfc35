"""Payload formats: the shapes, times and values that are taken, and the reason for each that is not."""

from __future__ import annotations

import pytest

from gateway.ingest.formats import json, scalar
from gateway.model.errors import DecodeError

AT = 1_769_851_800_000_000  # 2026-01-31T09:30:00Z


@pytest.mark.parametrize(
    ("payload", "samples"),
    [
        (b'{"ts":"2026-01-31T09:30:00Z","metrics":{"a":1}}', [(AT, {"a": 1})]),
        (
            b'{"ts":"2026-01-31T09:30:00Z","a":1.5,"b":true,"c":"on"}',
            [(AT, {"a": 1.5, "b": True, "c": "on"})],
        ),
        (b'{"a":1}', [(None, {"a": 1})]),
        (b'{"ts":null,"a":1}', [(None, {"a": 1})]),
        (b'[{"ts":1769851800,"a":1},{"a":2}]', [(AT, {"a": 1}), (None, {"a": 2})]),
        (b'{"motor":{"winding":{"t":80},"rpm":9}}', [(None, {"motor.winding.t": 80, "motor.rpm": 9})]),
        (b'{"metrics":5}', [(None, {"metrics": 5})]),
        (b'{"a":18446744073709551615}', [(None, {"a": 18446744073709551615})]),
        ('{"température":"21 °C"}'.encode(), [(None, {"température": "21 °C"})]),
    ],
)
def test_shapes_of_json(payload: bytes, samples: list[tuple[int | None, dict[str, object]]]) -> None:
    assert json.parse(payload) == samples


@pytest.mark.parametrize(
    ("ts", "microseconds"),
    [
        ('"2026-01-31T09:30:00Z"', AT),
        ('"2026-01-31T10:30:00+01:00"', AT),
        ('"2026-01-31T09:30:00.000001Z"', AT + 1),
        ("1769851800", AT),
        ("1769851800.25", AT + 250_000),
        ("1769851800001", AT + 1000),
        ("1769851800000001", AT + 1),
        ("1769851800000001999", AT + 1),
        ("0", 0),
        ("-1", -1_000_000),
    ],
)
def test_times_by_zone_and_magnitude(ts: str, microseconds: int) -> None:
    assert json.parse(f'{{"ts":{ts},"a":1}}'.encode()) == [(microseconds, {"a": 1})]


def many(count: int) -> str:
    return "{" + ",".join(f'"m{number}":1' for number in range(count)) + "}"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("{}", "empty"),
        ("[]", "empty"),
        ('{"ts":1,"metrics":{}}', "empty"),
        ("{", "invalid_json"),
        ('{"a":1}{"a":2}', "invalid_json"),
        ('{"a":"\\ud800"}', "invalid_json"),
        ("[" * 2000 + "]" * 2000, "invalid_json"),
        ('{"a":NaN}', "not_finite"),
        ('{"a":-Infinity}', "not_finite"),
        ('{"a":1e999}', "invalid_json"),
        ("5", "wrong_shape"),
        ("null", "wrong_shape"),
        ('["a"]', "wrong_shape"),
        ('{"a":null}', "wrong_shape"),
        ('{"a":1,"b":null}', "wrong_shape"),
        ('{"a":[1]}', "wrong_shape"),
        ('{"metrics":{"a":1},"site":"x"}', "wrong_shape"),
        ('{"a":' * 20 + "1" + "}" * 20, "wrong_shape"),
        (many(257), "too_many_metrics"),
        ('{"a":"' + "x" * 1025 + '"}', "string_too_long"),
        ('{"a":"' + "é" * 513 + '"}', "string_too_long"),
        ('{"a":"x\\u0000y"}', "invalid_metric"),
        ('{"a\\u0000":1}', "invalid_metric"),
        ('{"":1}', "invalid_metric"),
        ('{"' + "x" * 257 + '":1}', "invalid_metric"),
        ('{"ts":"2026-01-31T09:30:00","a":1}', "invalid_timestamp"),
        ('{"ts":"yesterday","a":1}', "invalid_timestamp"),
        ('{"ts":true,"a":1}', "invalid_timestamp"),
        ('{"ts":{},"a":1}', "invalid_timestamp"),
    ],
)
def test_what_json_cannot_be_has_a_reason(payload: str, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        json.parse(payload.encode())
    assert caught.value.reason == reason


def test_the_limits_themselves_are_taken() -> None:
    assert len(json.parse(many(256).encode())[0][1]) == 256
    assert json.parse(b'{"a":"' + b"x" * 1024 + b'"}') == [(None, {"a": "x" * 1024})]


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b"21.5", 21.5),
        (b"21", 21),
        (b" -4\n", -4),
        (b"+7", 7),
        (b"1e3", 1000.0),
        (b".5", 0.5),
        (b"true", True),
        (b"false", False),
        (b"running", "running"),
        (b"1_000", "1_000"),
        (b"1 000", "1 000"),
        (b"0x1F", "0x1F"),
        ("٣".encode(), "٣"),
        (b"12345678901234567890", 12345678901234567890.0),
        (b"info", "info"),
    ],
)
def test_scalars(payload: bytes, value: object) -> None:
    ((at, metrics),) = scalar.parse(payload, "m")
    assert at is None and metrics == {"m": value} and type(metrics["m"]) is type(value)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"\xff", "wrong_shape"),
        (b"nan", "not_finite"),
        (b"-Infinity", "not_finite"),
        (b"1e999", "not_finite"),
        (b"9" * 5000, "not_finite"),
        (b"x" * 1025, "string_too_long"),
        (b"a\0b", "invalid_metric"),
    ],
)
def test_what_a_scalar_cannot_be_has_a_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        scalar.parse(payload, "m")
    assert caught.value.reason == reason
