"""Payload formats: the shapes, times and values that are taken, and the reason for each that is not."""

from __future__ import annotations

import pytest
from orjson import dumps

from gateway.model.errors import DecodeError
from gateway.payloads.formats import json, scalar

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
        (b'{"a":9007199254740992,"b":-9007199254740992}', [(None, {"a": 2**53, "b": -(2**53)})]),
        (b'{"a":21.50,"b":1e20,"c":-0.0}', [(None, {"a": 21.5, "b": 1e20, "c": 0.0})]),
        (b'{"a":21.299999999999997}', [(None, {"a": 21.299999999999997})]),
        (b'{"a":0.10000000000000000555,"b":0.1000000000000000}', [(None, {"a": 0.1, "b": 0.1})]),
        (b'{"a":"9007199254740993.5 or 1e400"}', [(None, {"a": "9007199254740993.5 or 1e400"})]),
        (b'{"ts":1769851800000001999,"a":9007199254740991.0}', [(AT + 1, {"a": 9007199254740991})]),
        (b'{"ts":1769851800.00000012345678,"a":1}', [(AT, {"a": 1})]),
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
        ("1769851800001.5", AT + 1500),
        ("1769851800000001.0", AT + 1),
        ("1769851800000002e0", AT + 2),
        ("1.769851800000001e18", AT + 1),
        ("99999999999.5", 99_999_999_999_500_000),
        ("100000000000.5", 100_000_000_000_500),
        ("1999999999999.5", 1_999_999_999_999_500),
        ("100000000000000.0", 100_000_000_000_000),
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
        ('{"a":1e999}', "not_finite"),
        ('{"a":-1E+400,"b":1}', "not_finite"),
        ('{"a":' + "9" * 400 + "}", "not_finite"),
        ('{"a":nan}', "not_finite"),
        ('[{"a":-inf}]', "not_finite"),
        ('{"a":-nan(ind)}', "not_finite"),
        ('{"a":[inf]}', "invalid_json"),
        ('{"ts":1,"a":"nan","b":Infinity}', "not_finite"),
        ('{"ts":NaN,"a":1}', "not_finite"),
        ('{"a":NaN,"b":}', "invalid_json"),
        ('{"a":"NaN', "invalid_json"),
        ('{"a":nano}', "invalid_json"),
        ('{"a":9007199254740993}', "not_exact"),
        ('{"a":-9007199254740993}', "not_exact"),
        ('{"a":18446744073709551615}', "not_exact"),
        ('{"a":89882390000123456789}', "not_exact"),
        ('{"metrics":{"b":{"c":1708703790535904509.0}}}', "not_exact"),
        ('{"a":9007199254740993.0}', "not_exact"),
        ('{"a":0.1234567890123456789}', "not_exact"),
        ('{"a":1.5,"b":[],"c":1e-400}', "wrong_shape"),
        ('{"a":1e-400}', "not_exact"),
        ('{"a":1e-99999999999999999999}', "not_exact"),
        ('{"a":0.' + "1" * 1000 + "}", "not_exact"),
        ('{"a":1234567890123456789e-10}', "not_exact"),
        ('{"a":1.7976931348623157e309}', "not_finite"),
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
    deep: object = 1
    for _ in range(17):  # the message itself, and sixteen levels in it
        deep = {"a": deep}
    assert json.parse(dumps(deep)) == [(None, {".".join("a" * 17): 1})]
    with pytest.raises(DecodeError, match="deeper than 16"):
        json.parse(dumps({"a": deep}))
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
        (b"9007199254740992", 2**53),
        (b"0000000000000000000007", 7),
        (b"1e300", 1e300),
        (b"5.", 5.0),
        (b"0.30000000000000004", 0.30000000000000004),
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
        (b"-inf", "not_finite"),
        (b"1e400", "not_finite"),
        (b"12345678901234567890", "not_exact"),
        (b"1708703790535904509", "not_exact"),
        (b"9007199254740993", "not_exact"),
        (b"-9007199254740993", "not_exact"),
        (b"9007199254740993.0", "not_exact"),
        (b"0.3000000000000000001", "not_exact"),
        (b"1e-400", "not_exact"),
        (b"x" * 1025, "string_too_long"),
        (b"a\0b", "invalid_metric"),
    ],
)
def test_what_a_scalar_cannot_be_has_a_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        scalar.parse(payload, "m")
    assert caught.value.reason == reason
