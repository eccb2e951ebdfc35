"""Payloads: whatever comes, and whatever a source says of it, only DecodeError leaves, in bounded time; what
is taken can be stored.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import accumulate
from typing import Any

import cbor2
import msgpack
import orjson
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.ingest.decode import Decoder
from gateway.ingest.examples import payload_of
from gateway.model.errors import DecodeError
from gateway.model.topics import IDENTIFIER
from gateway.payloads import presets
from gateway.payloads.document import Encoding, decompress
from gateway.payloads.formats.values import MAX_INTEGER, MAX_METRICS, MAX_NAME_LENGTH, Reason
from gateway.payloads.sources import CompiledSource, SourceError, compile_one
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceSettings

NOW = 1_795_881_600_000_000
TELEMETRY = TelemetrySettings()
RULES: Sequence[dict[str, Any]] = (
    {},
    {"strict": True},
    {"format": "cbor"},
    {"format": "msgpack", "arrays": "index"},
    {"encoding": "gzip"},
    {"encoding": "deflate", "format": "cbor"},
    {"encoding": "zstd"},
    {"arrays": "index", "text": "numbers", "decimal": "comma", "units": "strip"},
    {
        "root": "a",
        "time": {"path": "ts", "zone": "Europe/Berlin"},
        "words": {"ON": True},
        "rename": {"b": "c"},
    },
    {
        "each": "values",
        "name": {"path": "id"},
        "value": {"path": "v"},
        "time": {"path": "t"},
        "good": {"path": "q"},
    },
    {"reshape": "values[].{ts: t, metrics: @}", "keep": ["v*"], "drop": ["*.x"]},
    {"value": {"path": "value"}, "time": {"path": "ts", "unit": "ns", "missing": "refuse"}},
    {"format": "scalar"},
    {"format": "scalar", "text": "numbers", "decimal": "comma", "units": "strip", "encoding": "gzip"},
)
NAMES = st.sampled_from(
    ["ts", "t", "a", "b", "metrics", "values", "id", "v", "q", "value", "x.y", ""]
) | st.text(max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "2026-03-29T02:30:00",
            "ON",
            "21,5 °C",
            "9999-12-31T24:00:00",
            "1e999",
            "0001-01-01T00:00:00",
            NOW,
            NOW // 1000,
        ]
    )
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


def built(rules: dict[str, Any]) -> tuple[Decoder, CompiledSource]:
    topic = "{customer}/{device}/{metric}" if rules.get("format") == "scalar" else "{customer}/{device}"
    (source,) = compile_one(SourceSettings.model_validate({"topic": topic, **rules}))
    return Decoder(TELEMETRY, [source], ["acme"]), source


DECODERS = [built(rules) for rules in RULES]


def fair(decoder: Decoder, topic: str, payload: bytes, *, is_retained: bool = False) -> str:
    """Only DecodeError, with a reason of the closed set and a text of bounded length; rows that can be
    stored. Returns the reason, or `taken`.
    """
    try:
        rows = decoder.decode(topic, payload, NOW, is_retained=is_retained)
    except DecodeError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert Reason(refused.reason) is not Reason.INTERNAL_ERROR
        assert len(refused.detail) < 2_000
        return refused.reason
    for customer, device, at, metrics in rows:
        assert customer == "acme" and IDENTIFIER.fullmatch(device) and type(at) is int and at < NOW + 10**9
        assert 0 < len(metrics) <= MAX_METRICS
        for name, value in metrics.items():
            assert 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()
            assert type(value) in (bool, int, float, str)
            assert type(value) is not int or abs(value) <= MAX_INTEGER
            assert type(value) is not float or math.isfinite(value)
        orjson.dumps(metrics)
    return "taken" if rows else "ignored"


def topic_of(rules: dict[str, Any]) -> str:
    """A topic of a source of these rules."""
    return "acme/pump/t" if rules.get("format") == "scalar" else "acme/pump"


def packed(document: object, rules: dict[str, Any]) -> bytes:
    match rules.get("format"):
        case "cbor":
            plain = cbor2.dumps(document)
        case "msgpack":
            plain = msgpack.packb(document, default=str) if _fits(document) else b"\x80"
        case "scalar":
            plain = str(document).encode("utf-8", "replace")
        case _:
            plain = orjson.dumps(document) if _fits(document) else repr(document).encode("utf-8", "replace")
    return encoded(plain, rules)


def encoded(plain: bytes, rules: dict[str, Any]) -> bytes:
    """As a source of these rules expects it."""
    match rules.get("encoding"):
        case "gzip":
            return gzip.compress(plain, 1, mtime=0)
        case "deflate":
            return zlib.compress(plain, 1)
        case "zstd":
            return zstandard.compress(plain, 1)
        case _:
            return plain


def _fits(document: object) -> bool:
    try:
        orjson.dumps(document)
    except (TypeError, ValueError):
        return False
    return True


@given(DOCUMENTS, st.integers(0, len(RULES) - 1), st.booleans())
def test_any_document_under_any_rules(document: object, which: int, is_retained: bool) -> None:
    fair(DECODERS[which][0], topic_of(RULES[which]), packed(document, RULES[which]), is_retained=is_retained)


@given(st.binary(max_size=300), st.integers(0, len(RULES) - 1))
@settings(max_examples=300)
def test_any_bytes_under_any_rules(payload: bytes, which: int) -> None:
    fair(DECODERS[which][0], topic_of(RULES[which]), payload)
    fair(DECODERS[which][0], topic_of(RULES[which]), encoded(payload, RULES[which]))


@given(st.text(max_size=80))
def test_any_topic(topic: str) -> None:
    compiled = compile_one(SourceSettings(topic="{customer}/{device...}/x/{metric...}"))
    fair(Decoder(TELEMETRY, compiled, ["acme"]), f"acme/{topic}/x/m", b'{"t":1}')
    fair(Decoder(TELEMETRY, compiled, ["acme"]), topic, b'{"t":1}')


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=9),
        min_size=1,
        max_size=6,
    ),
    st.none() | st.integers(NOW - 10**12, NOW),
    st.booleans(),
)
def test_both_ways_read_the_same(metrics: dict[str, Any], ts: int | None, nested: bool) -> None:
    """The fast way, and the general one of a source whose only rule changes nothing."""
    sent: dict[str, Any] = (
        {"metrics": metrics} if nested else {k: v for k, v in metrics.items() if k not in ("ts", "metrics")}
    )
    if ts is not None:
        sent["ts"] = ts
    fast, general = built({})[0], built({"rename": {"no such field": "x"}})[0]
    outcomes = []
    for decoder in (fast, general):
        try:
            outcomes.append(repr(decoder.decode("acme/pump", orjson.dumps(sent), NOW)))
        except DecodeError as error:
            outcomes.append(str(error.reason))
    assert outcomes[0] == outcomes[1]


SAMPLES = st.lists(
    st.fixed_dictionaries(
        {"t": st.integers(0, 3)},
        optional={"u": st.integers(0, 3), "ts": st.sampled_from([NOW - 1_000_000, NOW - 2_000_000])},
    ),
    min_size=1,
    max_size=5,
)


@given(SAMPLES, st.data())
@example([{"ts": NOW, "t": 1}, {"ts": NOW, "t": 2}], None)
def test_a_field_that_is_left_out_changes_nothing_of_the_others(
    sent: list[dict[str, Any]], data: st.DataObject | None
) -> None:
    """Two samples of one instant in a message: which of them counts must not hang on a null beside."""
    plain, general = built({})[0], built({"rename": {"no such field": "x"}})[0]
    spoiled = [dict(one) for one in sent]
    place = 0 if data is None else data.draw(st.integers(0, len(sent) - 1))
    spoiled[place]["x"] = None
    rows = plain.decode("acme/pump", orjson.dumps(sent), NOW)
    assert general.decode("acme/pump", orjson.dumps(sent), NOW) == rows
    assert plain.decode("acme/pump", orjson.dumps(spoiled), NOW) == rows


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),
    st.sampled_from(
        [
            "%Y%m%dT%H%M%S",
            "%Y%m%dT%H%M%S.%f",
            "%G-W%V-%uT%H:%M",
            "%GW%V%uT%H",
            "%Y-%m-%dT%H",
            "%Y-%m-%d_%H:%M:%S",
        ]
    ),
    st.sampled_from(["Z", "+00:00", "-0330", "+02", "+01:30:15"]),
    st.text("0123456789", max_size=15),
)
def test_a_time_in_any_form_is_read_the_same_by_both_ways(
    at: datetime, form: str, zone: str, digits: str
) -> None:
    shown = at.strftime(form) + (digits if "." in form else "") + zone
    fast, general = built({})[0], built({"rename": {"no such field": "x"}})[0]
    sent = orjson.dumps({"ts": shown, "t": 1})
    outcomes = []
    for decoder in (fast, general):
        try:
            outcomes.append(repr(decoder.decode("acme/pump", sent, NOW)))
        except DecodeError as error:
            outcomes.append(str(error.reason))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] not in ("invalid_timestamp", "internal_error")


def _mutated(rng: random.Random, payload: bytes) -> bytes:
    """As networks, firmware and people spoil messages."""
    spoiled = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(spoiled) + 1)
        match rng.randrange(6):
            case 0:
                spoiled[place:place] = rng.choice(
                    (b"null", b"NaN", b"-0", b"1e400", b'"', b"[", b"{", b"\0", b"\xff", b"9" * 25)
                )
            case 1:
                del spoiled[place : place + rng.randint(1, 8)]
            case 2 if spoiled:
                spoiled[place % len(spoiled)] = rng.randrange(256)
            case 3:
                spoiled[place:place] = spoiled[: rng.randint(0, 40)]
            case 4:
                del spoiled[place:]
            case _:
                spoiled += rng.randbytes(rng.randint(1, 6))
    return bytes(spoiled)


CHOICES: dict[str, Sequence[Any]] = {
    "format": ["json", "cbor", "msgpack", "scalar"],
    "encoding": ["gzip", "deflate", "zstd"],
    "root": ["a", "values", "values[0]", "metrics"],
    "each": ["values", "a", "$"],
    "name": [{"path": "id"}, {"path": "b"}],
    "value": [{"path": "v"}, {"path": "value"}],
    "good": [{"path": "q"}, {"path": "q", "equals": 192}],
    "time": [
        {"path": "ts"},
        {"path": "t", "unit": "s"},
        {"path": "ts", "zone": "Europe/Berlin"},
        {"path": "ts", "unit": "iso", "missing": "refuse"},
        {"path": "a.b", "unit": "ns"},
    ],
    "device": [{"path": "id"}, {"path": "a.b"}],
    "reshape": [
        "values[].{ts: t, metrics: @}",
        "{ts: ts, metrics: a}",
        "values[?v > `0`] | [].{device: id, metrics: {v: v, n: length(to_string(v))}}",
        "{metrics: {sum: sum(values[].v), first: sort_by(values, &id)[0].v, joined: join('-', keys(@))}}",
    ],
    "keep": [["v*"], ["*.b", "a"]],
    "drop": [["*.x"], ["v"]],
    "rename": [{"b": "c"}, {"v": "b", "b": "v"}],
    "words": [{"ON": True, "21": 3}],
    "text": ["numbers"],
    "decimal": ["comma"],
    "units": ["strip"],
    "arrays": ["index"],
    "strict": [True],
    "retained": ["take", "skip"],
}
"""What a source may say, and some of each."""


def any_rules(rng: random.Random) -> dict[str, Any]:
    """A source that could be configured; drawn until it can."""
    while True:
        keys = rng.sample(sorted(CHOICES), rng.randint(1, 6))
        rules = {key: rng.choice(CHOICES[key]) for key in keys}
        with suppress(ValueError, SourceError):
            built(rules)
            return rules


Known = tuple[Decoder, str, bytes, dict[str, Any]]
"""Decoder, topic, a good payload as it is before it is encoded, and the rules."""


def known_messages(rng: random.Random, *, sources: int = 100) -> list[Known]:
    """Good messages of every preset, of each decoder, and of so many sources of any rules."""
    known: list[Known] = []
    for name in presets.names():
        given: dict[str, Any] = {"preset": name, "customer": "acme"}
        if name == "kepware":
            given["device"] = "line1"
        if name == "tasmota":
            given["time"] = {"zone": "Europe/Berlin"}
        compiled = compile_one(SourceSettings.model_validate(given))
        decoder = Decoder(TELEMETRY, compiled, ["acme"])
        known += [
            (decoder, example.topic, payload_of(example), {}) for one in compiled for example in one.examples
        ]
    for rules in (*RULES, *(any_rules(rng) for _ in range(sources))):
        sent = {
            "ts": NOW // 1000,
            "a": {"b": "21,5 °C"},
            "values": [{"id": "x", "v": 1, "q": True, "t": NOW // 1000}],
            "value": 2,
        }
        document = "21,5 °C" if rules.get("format") == "scalar" else sent
        plain = packed(document, {**rules, "encoding": None})
        known.append((built(rules)[0], topic_of(rules), plain, rules))
    return known


ODD: Sequence[Any] = (
    None,
    True,
    -0.0,
    1e308,
    2**53 + 1,
    -(2**62),
    0.1234567890123456789,
    "",
    "ON",
    "NaN",
    "21,5 °C",
    "x" * 1025,
    "a\0b",
    "2026-03-29T02:30:00",
    "9999-12-31T24:00:00Z",
    NOW // 1000,
    str(NOW // 1_000_000),
    [],
    {},
    [1, None, "2"],
    {"x": {"y": [1.5]}},
)
"""What stands where something else is expected."""


def _changed(rng: random.Random, node: Any) -> Any:
    """The document with another value, another name, one less or one more somewhere."""
    if not isinstance(node, dict | list) or not node or rng.random() < 0.1:
        return rng.choice(ODD)
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key, made = rng.choice(keys), node.copy()
    match rng.randrange(8):
        case 0:
            del made[key]
        case 1 if isinstance(made, dict):
            made[rng.choice(("ts", "a.b", "", "x" * 300, "Küche", "values", "id"))] = made.pop(key)
        case 2 if isinstance(made, list):
            made.append(rng.choice(ODD))
        case _:
            made[key] = _changed(rng, made[key])
    return made


def _changed_within(rng: random.Random, plain: bytes, rules: dict[str, Any]) -> bytes:
    """As devices differ from their documentation: still a document of its format."""
    load = {None: orjson.loads, "json": orjson.loads, "cbor": cbor2.loads, "msgpack": msgpack.unpackb}
    try:
        document = load[rules.get("format")](plain)
    except (KeyError, ValueError):
        return _mutated(rng, plain)
    for _ in range(rng.randint(1, 3)):
        document = _changed(rng, document)
    return packed(document, {**rules, "encoding": None})


def _spoil(count: int, seed: int) -> tuple[float, Counter[str]]:
    """The longest that one message took, in seconds of CPU, and what became of how many. What is encoded is
    spoiled within, or as it arrives; half of all are documents still.
    """
    rng, slowest, outcomes = random.Random(seed), 0.0, Counter[str]()
    known = known_messages(rng)
    for _ in range(count):
        decoder, topic, plain, rules = rng.choice(known)
        match rng.randrange(4):
            case 0:
                spoiled = _mutated(rng, encoded(plain, rules))
            case 1:
                spoiled = encoded(_mutated(rng, plain), rules)
            case _:
                spoiled = encoded(_changed_within(rng, plain, rules), rules)
        started = time.thread_time()
        outcomes[fair(decoder, topic, spoiled, is_retained=rng.random() < 0.1)] += 1
        slowest = max(slowest, time.thread_time() - started)
    return slowest, outcomes


def test_spoiled_messages_of_every_preset() -> None:
    _, outcomes = _spoil(20_000, 1)
    assert outcomes["taken"] > 2_000 and len(outcomes) > 15, "most are refused before they are read"


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_million_spoiled_messages(seed: int) -> None:
    """Ten seeds are ten million."""
    slowest, outcomes = _spoil(1_000_000, seed)
    print(f"seed {seed}: the slowest took {slowest * 1000:.1f} ms of CPU; {dict(outcomes)}", flush=True)
    assert slowest < 1.0


@settings(max_examples=400)
@given(
    st.recursive(
        LEAVES | st.text(st.characters(codec=None), max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(NAMES | st.text(st.characters(codec=None), max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.sampled_from(
        [{}, {"arrays": "index"}, {"words": {"ON": True}, "keep": ["*"]}, {"device": {"path": "id"}}]
    ),
    st.sampled_from([None, 1]),
)
@example({"u": math.nan, "s": "\ud800"}, {}, None)
def test_json_of_any_program_is_no_fault_of_ours(
    document: object, rules: dict[str, Any], indent: int | None
) -> None:
    """With NaN and halves of characters, as some writers have it."""
    topic = "{customer}/out" if "device" in rules else "{customer}/{device}"
    (source,) = compile_one(SourceSettings.model_validate({"topic": topic, **rules}))
    fair(Decoder(TELEMETRY, [source], ["acme"]), "acme/out", json.dumps(document, indent=indent).encode())


@settings(max_examples=300)
@given(st.sampled_from(["gzip", "deflate", "zstd"]), st.lists(st.binary(max_size=60), min_size=1), st.data())
def test_what_is_packed_in_parts_is_all_of_it_or_refused(
    encoding: Encoding, plain: list[bytes], data: st.DataObject
) -> None:
    parts = [encoded(part, {"encoding": encoding}) for part in plain]
    whole = b"".join(parts)
    assert decompress(whole, encoding) == b"".join(plain)
    ends = list(accumulate(map(len, parts)))
    end = data.draw(st.integers(0, len(whole) - 1))
    if end in ends:
        assert decompress(whole[:end], encoding) == b"".join(plain[: ends.index(end) + 1])
    else:
        with pytest.raises(DecodeError, match="wrong_encoding"):
            decompress(whole[:end], encoding)


WHITE = st.text(" \t\r\n", max_size=2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=4), st.data())
def test_no_white_space_hides_a_key_that_comes_twice(
    pairs: list[tuple[str, int]], data: st.DataObject
) -> None:
    members = [
        f'{data.draw(WHITE)}"{key}"{data.draw(WHITE)}:{data.draw(WHITE)}{value}{data.draw(WHITE)}'
        for key, value in pairs
    ]
    sent = ("{" + ",".join(members) + "}").encode()
    decoder, _ = built({})
    said = fair(decoder, "acme/pump", sent)
    assert said == ("taken" if len(dict(pairs)) == len(pairs) else "same_name")
