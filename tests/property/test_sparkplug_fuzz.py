"""The decoder of Sparkplug on whatever bytes come: a DecodeError or values, in bounded time, and nothing
else.
"""

from __future__ import annotations

import os
import random
import struct
import time

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.ingest import sparkplug
from gateway.ingest.sparkplug import Bounds, arrival, take
from gateway.model.errors import DecodeError
from gateway.payloads.document import decompress
from gateway.payloads.sources import compile_one
from gateway.payloads.sparkplug import values, wire
from gateway.payloads.sparkplug.node import Node
from gateway.source_settings import SourceSettings
from tests.fixtures.sparkplug import EdgeNode

SOURCE = compile_one(SourceSettings(topic="spBv1.0/{customer}/#", format="sparkplug_b", arrays="index"))[0]
BOUNDS = Bounds(max_future=300_000_000, retention=10**15)
AT = 1_800_000_000_000
KINDS = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")
KIND = st.sampled_from(KINDS)


def process(node: Node, kind: str, payload: bytes) -> None:
    """As the gateway does; whatever it becomes can be stored."""
    topic = f"spBv1.0/acme/{kind}/e" + ("/d" if kind.startswith("D") else "")
    node_topic = sparkplug.node_topic(topic, "acme", SOURCE)
    try:
        found = take(node, node_topic, arrival(node_topic, topic, payload, AT * 1000), BOUNDS)
    except DecodeError:
        return
    for taken in found:
        for _, _, at, metrics in taken.rows:
            assert -(2**62) < at < 2**62
            assert "\\u0000" not in orjson.dumps(metrics).decode()
    for definitions in node.births.definitions.values():
        assert b"\\u0000" not in definitions.payload()
    for device in node.births.devices.values():
        assert all(-1 <= birth.at < 2**53 for birth in device.births)
        assert device.offline_at is None or device.offline_at < 2**62
    assert node.next is None or 0 <= node.next < 256
    assert node.bd_seq is None or node.bd_seq < 2**63


def message(fields: list[tuple[int, int, object]]) -> bytes:
    """A payload of any fields: number, wire type, value."""
    made = bytearray()
    for number, kind, value in fields:
        made += _varint(number << 3 | kind)
        if kind == 0:
            made += _varint(value)  # type: ignore[arg-type]
        elif kind == 1:
            made += struct.pack("<Q", value)
        elif kind == 5:
            made += struct.pack("<I", value)
        else:
            assert isinstance(value, bytes)
            made += _varint(len(value)) + value
    return bytes(made)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


NUMBER = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1), st.sampled_from([AT, AT + 1]))
CHUNK = st.one_of(st.binary(max_size=20), st.text(max_size=10).map(str.encode))
FIELD = st.one_of(
    st.tuples(st.integers(1, 20), st.just(0), NUMBER),
    st.tuples(st.integers(1, 20), st.just(1), st.integers(0, 2**64 - 1)),
    st.tuples(st.integers(1, 20), st.just(5), st.integers(0, 2**32 - 1)),
    st.tuples(st.integers(1, 20), st.just(2), CHUNK),
)


def nested(depth: int) -> st.SearchStrategy[bytes]:
    fields = FIELD
    if depth:
        inner = st.tuples(st.sampled_from([1, 2, 4, 9, 17, 18]), st.just(2), nested(depth - 1))
        fields = st.one_of(FIELD, inner)
    return st.lists(fields, max_size=6).map(message)


@settings(max_examples=300)
@given(sent=st.lists(st.tuples(KIND, st.one_of(nested(4), st.binary(max_size=200))), max_size=6))
@example(sent=[("NBIRTH", bytes.fromhex("12040a02c328"))])
def test_any_bytes_are_taken_or_refused(sent: list[tuple[str, bytes]]) -> None:
    node = Node()
    for kind, payload in sent:
        process(node, kind, payload)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 5))
def test_spoiled_messages_of_real_nodes(seed: int, cuts: int) -> None:
    spoil(random.Random(seed), 40, cuts)


def spoil(chance: random.Random, count: int, cuts: int) -> int:
    """So many real messages, each with some of its bytes changed."""
    node, done = Node(), 0
    edge = EdgeNode(chance, at=AT - 100_000)
    for sent in edge.life(count):
        payload = bytearray(sent.payload)
        for _ in range(chance.randint(0, cuts)):
            place = chance.randrange(len(payload))
            match chance.randrange(3):
                case 0:
                    payload[place] = chance.randrange(256)
                case 1:
                    del payload[place:]
                    payload += b"\0"
                case _:
                    payload[place:place] = payload[: chance.randrange(len(payload))]
        process(node, sent.kind, bytes(payload))
        done += 1
    return done


@pytest.mark.parametrize(
    "payload",
    [
        b"\x12\x00" * 500_000,
        b"\x12\x02\x10\x01" * 250_000,
        b"\x12\x08\x0a\x01a\x10\x01\x20\x03P" * 80_000,
        message([(2, 2, message([(1, 2, b"t"), (17, 2, message([(4, 2, b"\x0a\x00" * 400_000)]))]))]),
        message([(2, 2, message([(1, 2, b"a"), (4, 0, 22), (16, 2, b"\x01" * 1_000_000)]))]),
        message([(2, 2, message([(1, 2, b"a"), (4, 0, 32), (16, 2, b"\xff" * 1_000_000)]))]),
    ],
    ids=["empty", "aliases", "names", "rows", "array", "booleans"],
)
@pytest.mark.parametrize("kind", ["NBIRTH", "NDATA"])
def test_the_largest_payloads_take_bounded_time(kind: str, payload: bytes) -> None:
    started = time.process_time()
    process(Node(), kind, payload)
    assert time.process_time() - started < 5.0


def test_a_deep_template_is_refused() -> None:
    inner = message([(1, 2, b"x"), (10, 0, 1)])
    for _ in range(90):
        inner = message([(1, 2, b"t"), (18, 2, message([(2, 2, inner)]))])
    process(Node(), "NBIRTH", message([(2, 2, inner)]))


def test_a_body_that_unpacks_to_gigabytes_is_refused() -> None:
    import zlib

    body = zlib.compress(b"\0" * (64 << 20))
    with pytest.raises(DecodeError):
        decompress(body, "deflate")
    with pytest.raises(DecodeError):
        wire.parse(message([(4, 2, wire.COMPRESSED.encode()), (5, 2, body)]))


@given(
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    flags=st.lists(st.booleans(), max_size=40),
)
def test_arrays_are_those_that_were_packed(numbers: list[int], flags: list[bool]) -> None:
    assert values.array(struct.pack(f"<{len(numbers)}i", *numbers), 24) == numbers
    bits = "".join("1" if flag else "0" for flag in flags).ljust(-(-len(flags) // 8) * 8, "0")
    packed = bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))
    assert values.array(struct.pack("<I", len(flags)) + packed, values.BOOLEANS) == flags


@pytest.mark.parametrize(
    ("packed", "datatype", "expected"),
    [
        ("ef7b", 22, [-17, 123]),
        ("d08a3075", 23, [-30000, 30000]),
        ("fffffffffaafcb12", 24, [-1, 315338746]),
        ("ce0672ac189cbac4c4ba9c18ac7206ce", 25, [-4270929666821191986, -3601064768563266876]),
        ("17fa", 26, [23, 250]),
        ("1e0088cc", 27, [30, 52360]),
        ("3400000049fb55c4", 28, [52, 3293969225]),
        ("3400000000000000d99e02d1b27637e4", 29, [52, 16444743074749521625]),
        ("0c00000034d0", 32, [False, False, True, True, False, True, False, False, True, True, False, True]),
        ("4142430068656c6c6f00", 33, ["ABC", "hello"]),
        ("c7d0907524010000b8bab89781010000", 34, [1256102875335, 1656107875000]),
    ],
)
def test_arrays_of_the_specification(packed: str, datatype: int, expected: list[object]) -> None:
    assert values.array(bytes.fromhex(packed), datatype) == expected


@pytest.mark.parametrize(
    ("datatype", "field", "sent", "expected"),
    [
        (1, "int_value", 2**32 - 1, -1),
        (1, "int_value", 255, -1),
        (1, "int_value", 300, None),
        (2, "int_value", 2**32 - 30000, -30000),
        (3, "int_value", 2**31, -(2**31)),
        (3, "long_value", 2**64 - 5, -5),
        (4, "long_value", 2**64 - 5, -5),
        (4, "long_value", 2**63 - 1, 2**63 - 1),
        (5, "int_value", 256, None),
        (6, "int_value", 65535, 65535),
        (7, "int_value", 2**32 - 1, 2**32 - 1),
        (7, "long_value", 2**32, None),
        (8, "long_value", 2**64 - 1, 2**64 - 1),
        (13, "long_value", AT, AT),
        (11, "boolean_value", True, True),
        (11, "int_value", 1, None),
        (12, "string_value", "a", "a"),
        (3, "string_value", "5", None),
        (99, "int_value", 5, None),
    ],
)
def test_values_by_their_datatypes(datatype: int, field: str, sent: object, expected: object) -> None:
    metric = wire.PAYLOAD().metrics.add()  # type: ignore[attr-defined]
    setattr(metric, field, sent)
    if expected is None:
        with pytest.raises(DecodeError):
            values.scalar(metric, datatype)
    else:
        assert values.scalar(metric, datatype) == expected


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_spoiled_messages() -> None:
    wanted, done, seed = int(os.environ.get("INPUTS", "1000000")), 0, 0
    while done < wanted:
        done += spoil(random.Random(seed), 200, 4)
        seed += 1
    print(f"{done} inputs")
