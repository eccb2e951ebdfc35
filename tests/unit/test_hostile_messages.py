"""One message holds the loop no longer than any other of its size, and fills no memory beyond it."""

from __future__ import annotations

import gzip
import importlib
import json
import pkgutil
import re
import signal
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import payloads
from gateway.events import webhook_request
from gateway.ingest.decode import Decoder
from gateway.model.errors import DecodeError
from gateway.payloads.fields import FieldRules, Skipped, compile_globs
from gateway.payloads.formats import json as json_format
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings

TOPIC = "{customer}/devices/{device}/telemetry"
PLACE = "acme/devices/d1/telemetry"
NOW = time.time_ns() // 1000
SIZE = 1 << 20
GUARD_SECONDS = 20
TIMES = 12
"""How much longer than a good message of the same size another one may take."""

PLAIN = {"topic": TOPIC}
DROPPING = {"topic": TOPIC, "drop": ["*.Id", "meta.*"]}
NUMBERS = {"topic": TOPIC, "text": "numbers"}
INDEXED = {"topic": TOPIC, "arrays": "index"}
SCALAR = {"topic": TOPIC + "/{metric}", "format": "scalar"}
CBOR = {"topic": TOPIC, "format": "cbor"}
OPC_UA = {"preset": "opcua_json", "customer": "acme"}
OPC_UA_PLACE = "opcua/json/data/p/g/w"


def decoder(source: dict[str, object]) -> Decoder:
    settings = TelemetrySettings.model_validate({"sources": [source]})
    return Decoder(settings, compile_sources(settings.sources), ["acme"])


@contextmanager
def guarded() -> Iterator[None]:
    """Without the bound some of these take hours."""

    class Endless(BaseException):
        pass

    def end(*_: object) -> None:
        raise Endless

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(GUARD_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tagged(number: int, value: object) -> bytes:
    return cbor2.dumps({"a": cbor2.CBORTag(number, value)})


HOSTILE = {
    "dots in a name": (DROPPING, PLACE, json.dumps({"a." * (SIZE // 2 - 10): 1}).encode()),
    "dots in a name that a preset takes": (
        OPC_UA,
        OPC_UA_PLACE,
        json.dumps({"Messages": [{"Payload": {"a." * (SIZE // 2 - 100): 1}}]}).encode(),
    ),
    "many fields in one with a long name": (
        DROPPING,
        PLACE,
        json.dumps({"a" * (SIZE // 2): {f"{place:x}": 1 for place in range(30_000)}}).encode(),
    ),
    "digits that are no number": (NUMBERS, PLACE, json.dumps({"a": "1" * (SIZE - 100) + "x"}).encode()),
    "digits that are no scalar": (SCALAR, f"{PLACE}/a", b"1" * (SIZE - 100) + b"x"),
    "arrays in arrays": (INDEXED, PLACE, json.dumps({"a": [[[[1] * 64] * 64] * 20] * 3}).encode()),
    "values for an expression": (OPC_UA, OPC_UA_PLACE, b'{"Messages":[' + b"0," * (SIZE // 2 - 50) + b"0]}"),
    "numbers that are none": (PLAIN, PLACE, b"[" + b"NaN," * 200_000 + b"NaN]"),
    "a regular expression": (CBOR, PLACE, tagged(35, "(?i)" + "[\\0-\U0010ffff]" * 20_000)),
    "a mail": (CBOR, PLACE, tagged(36, "From: x\n" * 100_000)),
    "a decimal of a million bits": (CBOR, PLACE, tagged(4, [0, 1 << 3_000_000])),
    "a binary fraction of a million bits": (CBOR, PLACE, tagged(5, [0, 1 << 3_000_000])),
    "keys of one hash": (
        CBOR,
        PLACE,
        b"\xb9\xc3\x50"
        + b"".join(
            cbor2.dumps((1 << 65) * (2**61 - 1) + place * (2**61 - 1)) + b"\0" for place in range(50_000)
        ),
    ),
}


@pytest.fixture(scope="module")
def usual() -> float:
    """Seconds that a good message of about a MiB takes."""
    items = ",".join(
        f'{{"ts":{NOW // 1000 - place},"metrics":{{"temperature":21.5,"pressure":{place},"s":"on"}}}}'
        for place in range(9_900)
    )
    message, took = f"[{items}]".encode(), []
    plain = decoder(PLAIN)
    for _ in range(3):
        started = time.perf_counter()
        assert len(plain.decode(PLACE, message, NOW)) == 9_900
        took.append(time.perf_counter() - started)
    return min(took)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_message_takes_no_longer_than_a_good_one(case: str, usual: float) -> None:
    source, topic, payload = HOSTILE[case]
    hostile, took = decoder(source), []
    assert len(payload) <= SIZE
    for _ in range(2):
        with guarded():
            started = time.process_time()
            with pytest.raises(DecodeError) as refused:
                hostile.decode(topic, payload, NOW)
            took.append(time.process_time() - started)
        assert refused.value.reason != "internal_error"
    assert min(took) < TIMES * usual


@pytest.mark.parametrize("tag", [2, 3])
@pytest.mark.parametrize("length", [1, 8, 9, 16, 2000, 500_000])
def test_an_integer_of_any_length_is_a_value_or_a_name_or_left_out(tag: int, length: int) -> None:
    number = cbor2.CBORTag(tag, b"\x01" * length)
    told: list[Skipped] = []
    settings = TelemetrySettings.model_validate({"sources": [CBOR]})
    binary = Decoder(settings, compile_sources(settings.sources), ["acme"], skip=told.append)
    rows = binary.decode(PLACE, cbor2.dumps({"good": 1, "big": number}), NOW)
    assert rows[0][3]["good"] == 1
    if length == 1:
        assert rows[0][3] == {"good": 1, "big": 1 if tag == 2 else -2} and not told
    else:
        assert rows[0][3] == {"good": 1} and [one.reason for one in told] == ["not_exact"]
    named = binary.decode(PLACE, cbor2.dumps({"good": 1, number: 2}), NOW)
    assert named[0][3]["good"] == 1


@pytest.mark.parametrize(
    ("tag", "value", "stands_for"),
    [
        (4, [-2, 2150], 21.5),
        (4, [3, 2], 2000),
        (5, [-1, 43], 21.5),
        (5, [4, -1], -16),
        (4, [10**6, 1], None),
        (4, [-(10**6), 1], None),
        (5, [5000, 1], None),
        (5, [-5000, 1], None),
        (5, [0, 2**60 + 1], None),
        (4, [0, 2**60 + 1], None),
        (4, ["x", 1], ...),
        (5, [1], ...),
        (2, "x", ...),
    ],
)
def test_a_fraction_is_what_was_sent_or_nothing(tag: int, value: object, stands_for: object) -> None:
    binary = decoder(CBOR)
    message = cbor2.dumps({"good": 1, "a": cbor2.CBORTag(tag, value)})
    if stands_for is ...:
        with pytest.raises(DecodeError):
            binary.decode(PLACE, message, NOW)
        return
    metrics = binary.decode(PLACE, message, NOW)[0][3]
    assert metrics == ({"good": 1} if stands_for is None else {"good": 1, "a": stands_for})


NAMES = st.text("ab.*", max_size=12)


@given(NAMES.filter(bool), NAMES)
def test_a_glob_takes_what_it_names_and_what_is_below(glob: str, name: str) -> None:
    around = [name]
    while name := name.rpartition(".")[0]:
        around.append(name)
    expected = any(fnmatchcase(one, glob) for one in around if one)
    assert not around[0] or any(p.match(around[0]) for p in compile_globs((glob,))) == expected


def test_what_is_dropped_is_not_told_however_long_its_names_are() -> None:
    told: list[Skipped] = []
    rules = FieldRules(drop=compile_globs(("meta",)))
    metrics = rules.take({"a": 1, "meta": {"x" * 300: {"y": 1}}, "b" * 300: {"c": 2}}, told.append)
    assert metrics == {"a": 1}
    assert [one.name for one in told] == ["b" * 256]


def test_long_topics_fill_no_memory() -> None:
    named = decoder({"preset": "homie", "customer": "acme"})
    tracemalloc.start()
    try:
        for length, count in ((60_000, 1_000), (4_000, 10_000)):
            for place in range(count):
                with pytest.raises(DecodeError):
                    named.decode(f"homie/boiler/{place:06}{'x' * length}", b"1", NOW)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 40_000_000


def test_a_long_topic_is_not_tried_in_every_way() -> None:
    source = {"topic": "plant/{_}-{device}-{metric}-state", "format": "scalar", "customer": "acme"}
    with guarded(), pytest.raises(DecodeError):
        decoder(source).decode("plant/" + "-" * 60_000, b"1", NOW)


def test_a_packed_message_weighs_what_is_in_it() -> None:
    packing = decoder({"topic": TOPIC, "encoding": "gzip"})
    plain = b'{"a": 1}' + b" " * 100_000
    bomb = gzip.compress(b" " * (8 * SIZE))
    assert len(packing.decode(PLACE, gzip.compress(plain), NOW)) == 1
    assert packing.weight(PLACE, gzip.compress(plain)) == len(plain)
    assert packing.weight(PLACE, bomb) == SIZE
    assert packing.weight(PLACE, b"no gzip") == 7
    unpacked = decoder(PLAIN)
    unpacked.decode(PLACE, plain, NOW)
    assert unpacked.weight(PLACE, plain) == len(plain)


def patterns() -> dict[str, re.Pattern[Any]]:
    """By which rooms look at whole texts of strangers: those that read payloads, and who checks the addresses
    of webhooks. The one of JSON is looked for within texts.
    """
    names = [module.name for module in pkgutil.walk_packages(payloads.__path__, f"{payloads.__name__}.")]
    modules = [importlib.import_module(name) for name in names if name != json_format.__name__]
    return {
        f"{module.__name__}.{name}": held
        for module in (*modules, webhook_request)
        for name, held in vars(module).items()
        if isinstance(held, re.Pattern)
    }


@pytest.mark.parametrize("name", patterns())
def test_a_text_is_not_tried_in_every_way(name: str) -> None:
    pattern = patterns()[name]
    with guarded():
        for atom in ("a", "1", " ", ".", ",", "-", ":", "\\", '"', "1.", "1,", "a.", "e1", "[0]"):
            for end in ("\0", "x", '"'):
                text = atom * (150_000 // len(atom)) + end
                pattern.fullmatch(text.encode() if isinstance(pattern.pattern, bytes) else text)
