"""Sources: what devices publish today, and what is right for each; after public reports."""

from __future__ import annotations

import gzip
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import cbor2
import msgpack
import orjson
import pytest
import zstandard
from pydantic import ValidationError

from gateway.ingest.decode import Decoder
from gateway.ingest.explain import explain
from gateway.model.errors import DecodeError
from gateway.payloads.fields import Skipped
from gateway.payloads.paths import PathError, compile_path, find, shown
from gateway.payloads.sources import SourceError, compile_one, compile_sources
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceSettings, TimeSettings

NOW = int(datetime(2026, 11, 28, 16, 0, tzinfo=UTC).timestamp()) * 1_000_000
TOPIC = "acme/pump"
PACKERS: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}


def taken(
    payload: object,
    *,
    topic: str = TOPIC,
    template: str = "{customer}/{device}",
    is_retained: bool = False,
    now: int = NOW,
    **rules: Any,
) -> tuple[list[tuple[str, int, dict[str, Any]]], list[tuple[str, str]]]:
    """(device, seconds after now, metrics) of each sample, and (field, reason) of what is left out."""
    source = SourceSettings.model_validate({"topic": template, **rules})
    skipped: list[Skipped] = []
    decoder = Decoder(TelemetrySettings(), compile_sources([source]), ["acme"], skip=skipped.append)
    sent = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    rows = decoder.decode(topic, sent, now, is_retained=is_retained)
    assert all(customer == "acme" for customer, _, _, _ in rows)
    return (
        [(device, at - now, metrics) for _, device, at, metrics in rows],
        [(one.name, str(one.reason)) for one in skipped],
    )


def metrics_of(payload: object, **rules: Any) -> dict[str, Any]:
    rows, _ = taken(payload, **rules)
    assert len(rows) == 1
    return rows[0][2]


def reason_of(payload: object, **rules: Any) -> tuple[str, str]:
    with pytest.raises(DecodeError) as caught:
        taken(payload, **rules)
    return str(caught.value.reason), caught.value.detail


def test_a_text_is_a_number_where_the_source_says_so() -> None:
    assert metrics_of({"temperature": "21.5"}) == {"temperature": "21.5"}
    assert metrics_of({"temperature": "21.5"}, text="numbers") == {"temperature": 21.5}


@pytest.mark.parametrize(
    ("text", "rules", "number"),
    [
        ("40,78", {"decimal": "comma"}, 40.78),
        ("1.240,78", {"decimal": "comma"}, 1240.78),
        ("20.6 ℃", {"units": "strip"}, 20.6),
        ("21.5 C", {"units": "strip"}, 21.5),
        ("-7,5 °C", {"units": "strip", "decimal": "comma"}, -7.5),
        ("12kWh", {"units": "strip"}, 12),
        ("1e3", {}, 1000.0),
    ],
)
def test_numbers_as_people_write_them(text: str, rules: dict[str, Any], number: float) -> None:
    assert metrics_of({"t": text}, text="numbers", **rules) == {"t": number}
    scalar = {"topic": "{customer}/{device}/{metric}", "format": "scalar", "text": "numbers", **rules}
    source = compile_one(SourceSettings.model_validate(scalar))
    rows = Decoder(TelemetrySettings(), source, ["acme"]).decode("acme/p/t", text.encode(), NOW)
    assert rows[0][3] == {"t": number}


@pytest.mark.parametrize("text", ["", "ON", "1.2.3", "21.5 C", "40,78", "0x10", "1_000", "--5", "٣", "12:30"])
def test_a_text_that_is_no_number_is_left_out_and_said(text: str) -> None:
    rows, skipped = taken({"t": text, "ok": 1}, text="numbers")
    assert rows == [("pump", 0, {"ok": 1})] and skipped == [("t", "not_a_number")]


def test_words_stand_for_values() -> None:
    words = {"ON": True, "OFF": False, "HIGH": 3}
    assert metrics_of({"a": "ON", "b": "OFF", "c": "HIGH", "d": "on"}, words=words) == {
        "a": True, "b": False, "c": 3, "d": "on",
    }  # fmt: skip


def test_one_null_leaves_the_rest() -> None:
    rows, skipped = taken({"battery": 93.5, "temperature": None})
    assert rows == [("pump", 0, {"battery": 93.5})] and skipped == [("temperature", "null")]
    assert reason_of({"battery": 93.5, "temperature": None}, strict=True)[0] == "wrong_shape"
    assert reason_of({"temperature": None})[0] == "null"


def test_an_array_is_left_out_or_taken_by_index() -> None:
    sent = {"apower": 61.2, "aenergy": {"total": 7711.5, "by_minute": [0, 1, 2]}}
    rows, skipped = taken(sent)
    assert rows == [("pump", 0, {"apower": 61.2, "aenergy.total": 7711.5})]
    assert skipped == [("aenergy.by_minute", "array")]
    assert metrics_of(sent, arrays="index")["aenergy.by_minute.2"] == 2
    assert metrics_of(sent, drop=["*.by_minute"]) == {"apower": 61.2, "aenergy.total": 7711.5}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
def test_a_number_that_is_not_finite_has_one_reason(number: bytes) -> None:
    assert reason_of(b'{"u":' + number + b"}")[0] == "not_finite"
    rows, skipped = taken(b'{"t":20,"u":1e400}')
    assert rows == [("pump", 0, {"t": 20})] and skipped == [("u", "not_finite")]


@pytest.mark.parametrize(
    ("sent", "rules", "metrics"),
    [
        ({"ts": 1795881599000, "values": {"t": 1}}, {"root": "values", "time": {"path": "ts"}}, {"t": 1}),
        ({"timestamp": "2026-11-28T15:59:59Z", "t": 1}, {"time": {"path": "timestamp"}}, {"t": 1}),
    ],
)
def test_the_time_is_where_the_source_says(sent: Any, rules: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert taken(sent, **rules) == ([("pump", -1_000_000, metrics)], [])


@pytest.mark.parametrize(
    ("written", "rules", "seconds"),
    [
        ("2026-11-28 17:00:00", {"zone": "Europe/Berlin"}, 0),
        ("2026-11-28T16:59:30", {"zone": "Europe/Berlin"}, -30),
        ("2026-11-28T16:59:30,250", {"zone": "Europe/Berlin"}, -29.75),
        ("2026-11-28 11:00", {"zone": "America/New_York"}, 0),
        ("1795881561", {}, -39),
        ("1795881561000", {}, -39),
        ("1795881561.5", {}, -38.5),
        (1795881561, {"unit": "s"}, -39),
        (1795881561000, {"unit": "ms"}, -39),
        (1795881561000000, {"unit": "us"}, -39),
        (1795881561000000000, {"unit": "ns"}, -39),
        ("2026-11-27T24:00:00Z", {}, -57_600),
        ("2026-11-28T15:58:60Z", {}, -60),
        ("2026-11-28t15:59:59z", {}, -1),
        ("2026-11-28T17:00:00+01:00", {}, 0),
        ("2026-11-28T17:00:00+0100", {}, 0),
        ("2026-11-28 16:00:00 UTC", {}, 0),
        ("2026-11-28T16:00:00.123456789Z", {}, 0.123456),
    ],
)
def test_times_as_devices_write_them(written: object, rules: dict[str, Any], seconds: float) -> None:
    rows, _ = taken({"at": written, "t": 1}, time={"path": "at", **rules})
    assert rows == [("pump", round(seconds * 1e6), {"t": 1})]


@pytest.mark.parametrize("zone", ["Mars", "right/Europe/Berlin", "posixrules", "../../etc/passwd"])
def test_the_zone_of_times_is_one_of_the_iana_database(zone: str) -> None:
    with pytest.raises(ValidationError, match="no time zone"):
        TimeSettings(zone=zone)


@pytest.mark.parametrize(
    ("written", "rules", "says"),
    [
        ("2026-11-28T16:00:00", {}, "time.zone"),
        ("yesterday", {}, "ISO 8601"),
        ("2026-02-30T10:00:00Z", {}, "day"),
        ("2026-11-28T10:00:00+25:00", {}, ""),
        (True, {}, "bool"),
        ([1], {}, "list"),
        (5, {"unit": "iso"}, "expects ISO"),
        ("2026-03-29T02:30:00", {"zone": "Europe/Berlin"}, "does not exist"),
    ],
)
def test_a_time_that_is_none_is_refused(written: object, rules: dict[str, Any], says: str) -> None:
    reason, detail = reason_of({"at": written, "t": 1}, time={"path": "at", **rules})
    assert reason == "invalid_timestamp" and says in detail


@pytest.mark.parametrize(
    ("sent", "rules", "hints"),
    [
        (
            {"timestamp": "2026-11-28T15:59:59Z", "t": 1},
            {},
            [
                "timestamp looks like the device's time and is taken as a metric: set `time: {path: timestamp}`"
            ],
        ),
        (
            {"ts": 1795881599000, "values": {"t": 1}},
            {},
            ["every metric begins with `values.`: `root: values` takes that away"],
        ),
        ({"t": "21.5"}, {}, ["t is the text '21.5': `text: numbers` makes numbers of such texts"]),
        ({"timestamp": "2026-11-28T15:59:59Z", "t": 1}, {"time": {"path": "timestamp"}}, []),
        ({"timestamp": 15, "t": "ON"}, {}, []),
    ],
)
def test_explain_points_at_what_is_taken_as_it_was_not_meant(
    sent: Any, rules: dict[str, Any], hints: list[str]
) -> None:
    telemetry = TelemetrySettings(sources=(SourceSettings(topic="{customer}/{device}", **rules),))
    found = explain(
        TOPIC,
        orjson.dumps(sent),
        telemetry=telemetry,
        customers=["acme"],
        connections=(),
        now=datetime(2026, 11, 28, 16, 0, tzinfo=UTC),
    )
    assert found.dead_letter is None and list(found.hints) == hints


def test_both_passes_of_a_doubled_hour_are_ordered_by_arrival() -> None:
    """02:30 comes twice on 25 October 2026 in Berlin: at 00:30 and at 01:30 UTC."""
    rules: dict[str, Any] = {"time": {"path": "at", "zone": "Europe/Berlin"}}
    first = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()) * 1_000_000
    second = first + 3_600_000_000
    sent = {"at": "2026-10-25T02:30:00", "t": 1}
    assert taken(sent, now=first + 1_000_000, **rules)[0] == [("pump", -1_000_000, {"t": 1})]
    assert taken(sent, now=second + 1_000_000, **rules)[0] == [("pump", -1_000_000, {"t": 1})]


def test_a_missing_time_is_that_of_receipt_or_refused() -> None:
    assert taken({"t": 1}, time={"path": "at"})[0] == [("pump", 0, {"t": 1})]
    assert reason_of({"t": 1}, time={"path": "at", "missing": "refuse"})[0] == "missing_time"


def test_an_array_with_one_bad_item_gives_the_others() -> None:
    sent = [{"ts": 1795881590, "t": 1}, {"ts": "soon", "t": 2}, {"ts": 1795881592, "t": 3}]
    rows, skipped = taken(sent)
    assert [metrics for _, _, metrics in rows] == [{"t": 1}, {"t": 3}] and skipped == [
        ("", "invalid_timestamp")
    ]
    future = [{"ts": 1795881590, "t": 1}, {"ts": 4000000000, "t": 2}]
    rows, skipped = taken(future)
    assert len(rows) == 1 and skipped == [("", "timestamp_in_future")]
    assert reason_of(future, strict=True)[0] == "timestamp_in_future"


@pytest.mark.parametrize(
    "sent",
    [
        b'{"t":1,"t":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"ts":1795881590,"metrics":{"t":1,"t":1}}',
        b'[{"t":1,"t":2}]',
    ],
)
def test_a_key_that_comes_twice_is_refused_by_its_name(sent: bytes) -> None:
    reason, detail = reason_of(sent)
    assert reason == "same_name" and ("'t'" in detail or "'b'" in detail)


def test_two_fields_of_one_dotted_name_are_told_apart() -> None:
    rows, skipped = taken({"a.b": 2, "a": {"b": 3}})
    assert rows == [("pump", 0, {"a.b": 2})] and skipped == [("a.b", "same_name")]


def test_a_colon_in_a_text_is_no_key() -> None:
    assert metrics_of({"a": 'x":1,"a":2', "b": 1}) == {"a": 'x":1,"a":2', "b": 1}


@pytest.mark.parametrize("name", ["28:6D:97:00:01", "Pump Room", "Küche", "plant/press 1", "x" * 200])
def test_a_name_that_is_no_id_becomes_one(name: str) -> None:
    source = compile_one(SourceSettings(topic="{customer}/{device...}"))
    decoder = Decoder(TelemetrySettings(), source, ["acme"])
    device = decoder.decode(f"acme/{name}", b'{"t":1}', NOW)[0][1]
    assert device != name and len(device) <= 64
    assert decoder.decode(f"acme/{device}", b'{"t":1}', NOW)[0][1] == device


def test_what_was_retained_is_taken_only_with_a_time_of_its_own() -> None:
    assert taken({"temperature": -3}, is_retained=True) == ([], [])
    assert taken({"temperature": -3}, is_retained=True, retained="take")[0]
    with_time = {"ts": 1795881590, "temperature": -3}
    assert taken(with_time, is_retained=True)[0]
    assert taken(with_time, is_retained=True, retained="skip") == ([], [])


@pytest.mark.parametrize("number", [b"9007199254740993", b"89882390000123456789"])
def test_an_integer_that_no_double_holds_is_left_out(number: bytes) -> None:
    rows, skipped = taken(b'{"n":' + number + b',"t":1}')
    assert rows == [("pump", 0, {"t": 1})] and skipped == [("n", "not_exact")]
    assert reason_of(b'{"n":' + number + b"}")[0] == "not_exact"


@pytest.mark.parametrize("around", [(b"\xef\xbb\xbf", b""), (b"", b"\0"), (b" \r\n", b"\0\0\n")])
def test_marks_and_padding_around_a_payload_are_taken_away(around: tuple[bytes, bytes]) -> None:
    before, after = around
    assert metrics_of(before + b'{"t":15}' + after) == {"t": 15}
    source = compile_one(SourceSettings(topic="{customer}/{device}/{metric}", format="scalar"))
    assert Decoder(TelemetrySettings(), source, ["acme"]).decode("acme/p/t", before + b"15" + after, NOW)[0][
        3
    ] == {"t": 15}


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ('{"t":"Küche"}'.encode("latin-1"), "Latin-1"),
        ('{"t":1}'.encode("utf-16"), "UTF-16"),
        ('{"t":1}'.encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b'{"t":1}', mtime=0), "encoding: gzip"),
        (zstandard.compress(b'{"t":1}'), "encoding: zstd"),
        (cbor2.dumps({"t": 1}), "format: cbor"),
        (msgpack.packb({"t": 1}), "format: msgpack"),
    ],
)
def test_a_payload_of_another_kind_says_what_it_looks_like(sent: bytes, says: str) -> None:
    reason, detail = reason_of(sent)
    assert reason == "invalid_json" and says in detail


@pytest.mark.parametrize(
    ("pack", "rules"),
    [
        (gzip.compress, {"encoding": "gzip"}),
        (zlib.compress, {"encoding": "deflate"}),
        (zstandard.compress, {"encoding": "zstd"}),
    ],
)
def test_a_packed_payload_is_unpacked_and_bounded(pack: Any, rules: dict[str, Any]) -> None:
    assert metrics_of(pack(b'{"t":1}'), **rules) == {"t": 1}
    assert reason_of(pack(b" " * (64 << 20)), **rules)[0] == "payload_too_large"
    assert reason_of(pack(b'{"t":1}')[:-6], **rules)[0] in ("wrong_encoding", "invalid_json", "empty")
    assert reason_of(b"\0rubbish", **rules)[0] == "wrong_encoding"


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_payload_is_unpacked_to_its_last_part(encoding: str) -> None:
    """What a device appends to a packed file is another member of it: the first alone may be good JSON."""
    pack = PACKERS[encoding]
    parts = [pack(b'{"t":1,'), pack(b""), pack(b'"u":2}')]
    assert metrics_of(b"".join(parts) + b"\0\0\n", encoding=encoding) == {"t": 1, "u": 2}
    two = pack(b'{"t":1}') + pack(b'{"t":2}')
    assert reason_of(two, encoding=encoding)[0] == "invalid_json"
    for cut in range(1, len(pack(b'{"t":2}'))):
        assert reason_of(two[:-cut], encoding=encoding)[0] == "wrong_encoding"
    assert reason_of(pack(b'{"t":1}') + b"rubbish", encoding=encoding)[0] == "wrong_encoding"
    reason, detail = reason_of(pack(b"") * 201, encoding=encoding)
    assert reason == "wrong_encoding" and "parts" in detail
    half = pack(b" " * (600 << 10))
    assert reason_of(half + half, encoding=encoding)[0] == "payload_too_large"


def test_frames_of_zstd_that_hold_nothing_are_skipped() -> None:
    skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(b'{"t":1}')
    assert metrics_of(skipped + packed + skipped, encoding="zstd") == {"t": 1}
    assert reason_of(packed[:-1], encoding="zstd")[0] == "wrong_encoding"
    assert reason_of(packed[:-1] + b"x", encoding="zstd")[0] == "wrong_encoding"
    hollow = b"\x28\xb5\x2f\xfd\x00\x58" + b"\0\0\0" * 99 + b"\1\0\0"
    assert metrics_of(hollow + packed, encoding="zstd") == {"t": 1}
    reason, detail = reason_of(hollow[:6] + b"\0\0\0" * 340_000 + hollow[-3:], encoding="zstd")
    assert reason == "wrong_encoding" and "nothing in them" in detail


@pytest.mark.parametrize(
    ("sent", "format", "name"),
    [
        (b"\xa2\x61a\x01\x61a\x02", "cbor", "'a'"),
        (cbor2.dumps({"t": 1, "in": {1: 2, "1": 3}}), "cbor", "'1'"),
        (b"\x82\xa1a\x01\xa1a\x02", "msgpack", "'a'"),
        (msgpack.packb({"t": 1, "in": {1: 2, "1": 3}}), "msgpack", "'1'"),
        (msgpack.packb({"a": 1, b"a": 2}), "msgpack", "'a'"),
        (b'{"a"\t:1,"a":2}', "json", "'a'"),
        (b'{"a"\n:1,"b":{"c":1,"c":2}}', "json", "'c'"),
        (b'{"a"\r\n:1,"a"\r\n:2}', "json", "'a'"),
    ],
)
def test_a_key_that_comes_twice_is_refused_in_every_format(sent: bytes, format: str, name: str) -> None:
    reason, detail = reason_of(sent, format=format)
    assert reason == "same_name" and name in detail


@pytest.mark.parametrize(
    ("sent", "format"),
    [
        (cbor2.dumps({cbor2.CBORTag(37, b"0" * 16): 1}), "cbor"),
        (b"\xa1\x82\x01\x02\x05", "cbor"),
        (b"\x81\x92\x01\x02\x05", "msgpack"),
        (msgpack.packb({b"\xff": 1}), "msgpack"),
    ],
)
def test_what_no_name_can_be_made_of_is_none(sent: bytes, format: str) -> None:
    """One of them was a place in memory: another metric with each message."""
    reason, detail = reason_of(sent, format=format)
    assert reason == "wrong_shape" and "key" in detail
    assert metrics_of(msgpack.packb({b"t": 1}), format="msgpack") == {"t": 1}


def test_a_number_of_many_digits_is_a_name_as_it_was_sent() -> None:
    """The number of a SIM card has 19 or 20."""
    sent = b'[{"iccid": 89882390000123456789, "id": 18446744073709551617, "v": 1}]'
    rules = {"name": {"path": "id"}, "value": {"path": "v"}, "device": {"path": "iccid"}}
    rows, skipped = taken(sent, template="{customer}/out", topic="acme/out", **rules)
    assert rows == [("89882390000123456789", 0, {"18446744073709551617": 1})] and not skipped


def test_half_of_a_character_beside_a_number_that_is_none_costs_only_itself() -> None:
    """What reads NaN reads half of a surrogate pair, too, which nothing can store."""
    rows, skipped = taken(b'{"t":20,"u":NaN,"s":"\\ud800","\\udc00":1}')
    assert rows == [("pump", 0, {"t": 20})]
    assert sorted(reason for _, reason in skipped) == ["invalid_metric", "not_finite", "not_utf8"]


@pytest.mark.parametrize(("pack", "format"), [(cbor2.dumps, "cbor"), (msgpack.packb, "msgpack")])
def test_binary_formats(pack: Any, format: str) -> None:
    sent = {
        "ts": 1795881599,
        "metrics": {"t": 21.5, "on": True, "name": "x", "n": 7, "inner": {"a": 1}, 5: 6, "z": None},
    }
    rows, skipped = taken(pack(sent), format=format)
    assert rows == [("pump", -1_000_000, {"t": 21.5, "on": True, "name": "x", "n": 7, "inner.a": 1, "5": 6})]
    assert skipped == [("z", "null")]
    assert reason_of(b"\xff\xff", format=format)[0] in ("wrong_shape", "empty")
    assert reason_of(pack({"n": 2**60}), format=format)[0] == "not_exact"


def test_a_shared_part_of_cbor_is_bounded() -> None:
    """Each level refers to the one below it twice: 2^40 values in 200 bytes."""
    inner: Any = [1]
    for _ in range(40):
        inner = [inner, inner]
    sent = cbor2.dumps({"a": inner}, value_sharing=True)
    assert len(sent) < 1000
    assert reason_of(sent, format="cbor", arrays="index")[0] in ("wrong_shape", "nested_too_deep", "array")


def test_a_list_of_named_values_is_a_sample_of_each_time() -> None:
    sent = {
        "values": [
            {"id": "a", "v": 1, "q": True, "t": 1795881590000},
            {"id": "b", "v": 2.5, "q": True, "t": 1795881590000},
            {"id": "a", "v": 3, "q": True, "t": 1795881591000},
            {"id": "c", "v": 4, "q": False, "t": 1795881591000},
            {"v": 5, "q": True, "t": 1795881591000},
            {"id": "a", "q": True, "t": 1795881592000},
        ]
    }
    rules: dict[str, Any] = {
        "each": "values",
        "name": {"path": "id"},
        "value": {"path": "v"},
        "time": {"path": "t", "unit": "ms"},
        "good": {"path": "q", "equals": True},
    }
    rows, skipped = taken(sent, **rules)
    assert rows == [("pump", -10_000_000, {"a": 1, "b": 2.5}), ("pump", -9_000_000, {"a": 3})]
    assert [reason for _, reason in skipped] == ["bad_quality", "invalid_metric", "wrong_shape"]


def test_customer_and_device_may_stand_in_the_payload() -> None:
    source = compile_one(
        SourceSettings.model_validate(
            {"topic": "up", "customer": {"path": "who"}, "device": {"path": "unit.name"}, "root": "data"}
        )
    )
    decoder = Decoder(TelemetrySettings(), source, ["acme"])
    sent = {"who": "acme", "unit": {"name": "Pump Room"}, "data": {"t": 1}}
    ((customer, device, _, metrics),) = decoder.decode("up", orjson.dumps(sent), NOW)
    assert (customer, device[:10], metrics) == ("acme", "Pump-Room-", {"t": 1})
    for key, reason in (
        ("globex", "unknown_customer"),
        ("", "invalid_identifier"),
        (5, "unknown_customer"),
        (None, "invalid_identifier"),
    ):
        with pytest.raises(DecodeError) as caught:
            decoder.decode("up", orjson.dumps({**sent, "who": key}), NOW)
        assert caught.value.reason == reason


def test_reshape_makes_the_samples() -> None:
    sent = {"rows": [{"c": ["t", 21.5], "at": 1795881590}, {"c": ["u", 3], "at": 1795881591}]}
    rules = {"reshape": "rows[].{ts: at, metrics: {value: c[1]}}"}
    assert [metrics for _, _, metrics in taken(sent, **rules)[0]] == [{"value": 21.5}, {"value": 3}]
    assert reason_of({"rows": 5}, **rules)[0] in ("wrong_shape", "empty")
    assert reason_of({"a": 1}, reshape="length(a)")[0] == "wrong_shape"


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"root": "a..b"}, "root"),
        ({"each": "a["}, "each"),
        ({"name": {"path": ""}}, None),
        ({"time": {"path": "a.[1]"}}, "time.path"),
        ({"reshape": "rows[?"}, "reshape"),
        ({"topic": "{customer}"}, "topic"),
        ({"customer": "globex"}, "topic"),
    ],
)
def test_rules_that_cannot_work_are_named(rules: dict[str, Any], key: str | None) -> None:
    if key is None:
        with pytest.raises(ValueError, match="at least 1 character"):
            SourceSettings.model_validate({"topic": "{customer}/{device}", **rules})
        return
    with pytest.raises(SourceError) as caught:
        compile_one(SourceSettings.model_validate({"topic": "{customer}/{device}", **rules}))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", ("a",)),
        ("a.b[0].c", ("a", "b", 0, "c")),
        ('a."x.y"', ("a", "x.y")),
        ('"a b"[2]', ("a b", 2)),
        ('a."q\\"s"', ("a", 'q"s')),
        ("ns=2;s=Line", ("ns=2;s=Line",)),
    ],
)
def test_paths(text: str, steps: tuple[object, ...]) -> None:
    path = compile_path(text)
    assert path == steps and compile_path(shown(path)) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a[", "a[x]", 'a."', "a]b", "a[1]b", '"a"b'])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(PathError):
        compile_path(text)


def test_a_path_finds_a_null_and_nothing_in_a_text() -> None:
    assert find({"a": None}, compile_path("a")) is None
    assert find({"a": "text"}, compile_path("a[0]")) is not None
    assert repr(find({"a": "text"}, compile_path("a[0]"))) == repr(find({}, compile_path("b")))


OVERFLOWS: list[tuple[bytes, dict[str, Any]]] = [
    (b'{"t":"0001-01-01 00:00:00","v":1}', {"time": {"path": "t", "zone": "Europe/Berlin"}}),
    (b'{"t":"9999-12-31 23:59:59","v":1}', {"time": {"path": "t", "zone": "America/New_York"}}),
    (b'{"t":"9999-12-31T24:00:00Z","v":1}', {"time": {"path": "t"}}),
    (b'{"t":1e308,"v":1}', {"time": {"path": "t", "unit": "ms"}}),
    (b'{"t":1e308,"v":1}', {"time": {"path": "t", "unit": "s"}}),
    (b'{"t":"9' + b"9" * 19 + b'","v":1}', {"time": {"path": "t", "unit": "s"}}),
    (cbor2.dumps({"ts": 10**4000, "v": 1}), {"format": "cbor"}),
    (cbor2.dumps({"ts": 10**6000, "v": 1}), {"format": "cbor"}),
    (cbor2.dumps({"ts": datetime(1, 1, 1), "v": 1}, timezone=UTC), {"format": "cbor"}),
    (b'{"v":"1e999"}', {"reshape": "{ts: `1`, metrics: {a: floor(to_number(v))}}"}),
    (b'{"ts":1e308,"v":1}', {}),
]


@pytest.mark.parametrize(("sent", "rules"), OVERFLOWS)
def test_the_ends_of_calendars_and_numbers_are_dead_letters(sent: bytes, rules: dict[str, Any]) -> None:
    """One device with a clock at its minimum must not stop everybody's telemetry."""
    assert reason_of(sent, **rules)[0] in (
        "invalid_timestamp", "timestamp_too_old", "timestamp_in_future", "wrong_shape", "not_finite", "empty",
    )  # fmt: skip


def test_a_fault_of_ours_is_one_message_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.payloads.shape import Shape

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Shape, "read", broken)
    reason, detail = reason_of({"t": None})
    assert reason == "internal_error" and "internal error" in detail


@pytest.mark.parametrize(
    "sent",
    [
        b'{"a":1234567890123456.5,"b":"' + b"." * 900_000 + b'"}',
        b'{"a":1234567890123456.5,"b":"' + b"1." * 450_000 + b'"}',
        b'{"a":1234567890123456.5,"b":"' + b"9" * 900_000 + b'"}',
        b'{"a":1234567890123456.5,"b":"' + b"-1" * 450_000 + b'"}',
        b"{" + b",".join(b'"%x":1' % number for number in range(90_000)) + b',"0":1}',
        b'{"a":[' + b"1," * 400_000 + b"1]}",
        b'{"a":NaN,"b":"' + b"n" * 900_000 + b'"}',
        b'"' * 900_000,
        b"[" * 900_000,
    ],
    ids=range(9),
)
def test_a_megabyte_of_anything_takes_little_time(sent: bytes) -> None:
    """Everybody's telemetry waits for it. By CPU: a second is a hundred times what it takes."""
    source = compile_one(SourceSettings(topic="{customer}/{device}"))
    decoder = Decoder(TelemetrySettings(), source, ["acme"])
    started = time.thread_time()
    with suppress(DecodeError):
        decoder.decode(TOPIC, sent, NOW)
    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "1'234.5 kWh",
        "1_234",
        "12:30",
        "10/20",
        "5d 03h",
        "2h30m",
        "3x400V",
        "0x1F",
        "0b101",
        "2026-11-28",
        "1,240.78",
        "1.2.3,4",
        "12.34.567,8",
    ],
)
@pytest.mark.parametrize("decimal", ["point", "comma"])
def test_what_only_begins_like_a_number_is_none(text: str, decimal: str) -> None:
    if decimal == "point" and text == "1,240.78":
        text = "1,240,78"
    rows, skipped = taken({"t": text, "ok": 1}, text="numbers", units="strip", decimal=decimal)
    assert rows == [("pump", 0, {"ok": 1})] and skipped == [("t", "not_a_number")]


def test_dots_before_groups_of_three_are_thousands() -> None:
    rules = {"text": "numbers", "decimal": "comma", "units": "strip"}
    assert [metrics_of({"t": text}, **rules)["t"] for text in ("999,5", "1.240", "1.240 kWh", "1.240,5", "-12.345.678,9")] == [
        999.5, 1240, 1240, 1240.5, -12345678.9,
    ]  # fmt: skip


def test_named_values_of_one_instant_are_bounded_too() -> None:
    sent = {"v": [{"n": f"m{number}", "v": number} for number in range(9_000)]}
    assert reason_of(sent, each="v", name={"path": "n"}, value={"path": "v"})[0] == "too_many_metrics"


def test_the_time_is_no_metric_whatever_stands_before_its_name() -> None:
    rules: dict[str, Any] = {
        "template": "{customer}/{device}/{metric}",
        "time": {"path": "Time"},
        "good": {"path": "q"},
    }
    sent = {"Time": 1795881590, "q": True, "v": 3}
    assert taken(sent, topic="acme/p/temp", **rules)[0] == [("p", -10_000_000, {"temp.v": 3})]
    named = {"each": "items", "name": {"path": "id"}, "value": {"path": "v"}, "time": {"path": "t"}}
    items = {"items": [{"id": "t", "v": 1, "t": 1795881590}, {"id": "b", "v": 2, "t": 1795881590}]}
    assert taken(items, **named) == ([("pump", -10_000_000, {"t": 1, "b": 2})], [])


def test_white_space_before_a_colon_hides_no_key() -> None:
    assert reason_of(b'{"a" :1,"a":2}')[0] == "same_name"


def test_a_glob_takes_what_is_within_what_it_names() -> None:
    sent = {"a": [1, 2], "b": {"c": {"d": 3}}, "e": 4}
    assert metrics_of(sent, arrays="index", keep=["a", "b"]) == {"a.0": 1, "a.1": 2, "b.c.d": 3}
    assert metrics_of(sent, drop=["b", "a"]) == {"e": 4}


def test_a_clock_that_is_a_little_ahead_means_the_hour_that_is_now() -> None:
    rules: dict[str, Any] = {"time": {"path": "at", "zone": "Europe/Berlin"}}
    second = int(datetime(2026, 10, 25, 1, 30, tzinfo=UTC).timestamp()) * 1_000_000
    assert taken({"at": "2026-10-25T02:30:01", "t": 1}, now=second + 500_000, **rules)[0] == [
        ("pump", 500_000, {"t": 1})
    ]
