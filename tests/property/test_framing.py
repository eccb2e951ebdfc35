"""Framing: however the network cuts the stream, the packets are the same; whatever comes, only
MalformedPacket leaves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

import mqtt5
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.ingest.decode import Decoder
from gateway.ingest.framing import (
    HEAD_BYTES,
    MAX_PACKET_BYTES,
    Framer,
    MalformedPacket,
    Oversized,
    UnreadablePublish,
)
from gateway.model.errors import DecodeError
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings

TOPIC = "acme/devices/pump/telemetry"

# The codec's panic also reports, as unraisable, the UnicodeDecodeError that it dies of.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def publish(packet_id: int | None, payload: bytes = b"{}", topic: str = TOPIC) -> bytes:
    if packet_id is None:
        return mqtt5.PublishPacket(topic, payload=payload).write()
    return mqtt5.PublishPacket(
        topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id
    ).write()


def fed(framer: Framer, data: bytes, cuts: Sequence[int] = ()) -> list[object]:
    """What the framer makes of the stream when each read ends at a cut (or where the buffer ends)."""
    found: list[object] = []
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    place = 0
    for end in ends:
        while place < end:
            room = framer.buffer()
            assert len(room) > 0
            step = min(len(room), end - place)
            room[:step] = data[place : place + step]
            found += framer.packets(step)
            place += step
    return found


def said(packets: Sequence[object]) -> list[object]:
    """Comparable: the codec's packets are written again."""
    return [packet if isinstance(packet, Oversized) else packet.write() for packet in packets]  # type: ignore[attr-defined]


packet = st.one_of(
    st.builds(publish, st.one_of(st.none(), st.integers(1, 65535)), st.binary(max_size=300)),
    st.just(mqtt5.PingRespPacket().write()),
    st.just(mqtt5.ConnAckPacket(session_present=True).write()),
    st.just(mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write()),
    st.just(mqtt5.DisconnectPacket().write()),
)


@given(st.lists(packet, max_size=20), st.lists(st.integers(0, 10_000), max_size=40))
def test_cuts_change_nothing(packets: list[bytes], cuts: list[int]) -> None:
    assert said(fed(Framer(), b"".join(packets), cuts)) == packets


@given(
    st.lists(st.integers(0, 3 * MAX_PACKET_BYTES), max_size=12),
    st.integers(1, MAX_PACKET_BYTES),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
@example(cuts=[], excess=1, qos1=True)
def test_an_oversized_packet_between_others_is_seen_in_its_turn(
    cuts: list[int], excess: int, qos1: bool
) -> None:
    body = b"\x07" * (MAX_PACKET_BYTES + excess)
    stream = publish(1) + publish(2 if qos1 else None, body) + publish(3)
    first, large, last = fed(Framer(), stream, cuts)
    assert said([first, last]) == [publish(1), publish(3)]
    assert isinstance(large, Oversized)
    assert (large.topic, large.packet_id, large.size) == (
        TOPIC,
        2 if qos1 else None,
        len(stream) - len(publish(1)) - len(publish(3)),
    )
    assert len(large.head) == HEAD_BYTES and large.head.endswith(b"\x07" * 1000)


def test_the_largest_packet_that_is_taken_is_taken_whole_at_any_place_in_the_buffer() -> None:
    overhead = len(publish(9, b"x" * (1 << 20))) - (1 << 20)
    largest = publish(9, b"x" * (MAX_PACKET_BYTES - overhead))
    assert len(largest) == MAX_PACKET_BYTES
    stream = publish(1) + largest + publish(2) + largest + largest + publish(3)
    assert [len(part) for part in said(fed(Framer(), stream, [100, MAX_PACKET_BYTES + 40]))] == [
        len(publish(1)), len(largest), len(publish(2)), len(largest), len(largest), len(publish(3)),
    ]  # fmt: skip


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
@example(b"\x30\xff\xff\xff\xff\x01", [])
@example(b"\x30\xff\xff\xff\xff", [5])
@example(b"\x20\xff\xff\xff\x7f", [])
def test_random_bytes_raise_nothing_but_malformed(data: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(MalformedPacket):
        fed(Framer(), data, cuts)


@given(packet, st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_raises_nothing_but_malformed(data: bytes, place: int, value: int) -> None:
    changed = bytearray(data)
    changed[place % len(data)] = value
    with contextlib.suppress(MalformedPacket):
        fed(Framer(), bytes(changed))


INVALID = b"\xff\xfe\xff\xff"


def test_invalid_utf8_makes_the_codec_panic() -> None:
    with pytest.raises(BaseException) as caught:
        mqtt5.read(publish(1).replace(b"pump", INVALID))
    assert not isinstance(caught.value, Exception), "the codec no longer panics: framing can be simpler"


def raw(topic: bytes, packet_id: int | None, rest: bytes, *, flags: int = 0) -> bytes:
    """A PUBLISH as no honest client writes it. `rest`: properties and payload."""
    number = b"" if packet_id is None else packet_id.to_bytes(2)
    body = len(topic).to_bytes(2) + topic + number + rest
    length = [len(body)] if len(body) < 128 else [len(body) & 127 | 128, len(body) >> 7]
    return bytes([0x30 | flags | (packet_id is not None) << 1, *length]) + body


@given(
    st.binary(min_size=1, max_size=200),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.sampled_from([b"\0{}", b"", b"\5\3\0\2\xff\xfe{}", b"\7\x26\0\1\xff\0\1a{}"]),
    st.lists(st.integers(0, 10_000), max_size=12),
)
@example(topic=b"acme/\xc3\x28", packet_id=7, rest=b"", cuts=[])
@example(topic=b"acme/t", packet_id=7, rest=b"\5\3\0\2\xff\xfe{}", cuts=[9])
def test_a_publish_that_is_not_utf8_is_seen_in_its_turn(
    topic: bytes, packet_id: int | None, rest: bytes, cuts: list[int]
) -> None:
    """However it is cut, what is before and behind it is read, and what is needed to
    acknowledge it is known.
    """
    bad = raw(topic, packet_id, rest)
    try:
        topic.decode()
    except UnicodeDecodeError:
        pass
    else:
        if b"\xff" not in rest:
            return
    first, skipped, last = fed(Framer(), publish(1) + bad + publish(3), cuts)
    assert said([first, last]) == [publish(1), publish(3)]
    assert isinstance(skipped, UnreadablePublish)
    assert (skipped.packet_id, skipped.size, skipped.rest) == (packet_id, len(bad), rest)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(raw(INVALID, 0, b"\0{}"), id="packet id 0"),
        pytest.param(raw(INVALID, 7, b"\0{}", flags=4), id="QoS 2 and 3"),
        pytest.param(b"\xa2" + raw(INVALID, 7, b"\0{}")[1:], id="no PUBLISH"),
    ],
)
def test_what_is_not_utf8_and_cannot_be_acknowledged_is_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        fed(Framer(), packet)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x20" + publish(1, bytes(MAX_PACKET_BYTES))[1:], id="a control packet"),
        pytest.param(
            publish(1, bytes(MAX_PACKET_BYTES)).replace(
                TOPIC.encode() + b"\0\1", TOPIC.encode() + b"\0\0", 1
            ),
            id="packet id 0",
        ),
        pytest.param(b"\x34" + publish(1, bytes(MAX_PACKET_BYTES))[1:], id="QoS 2"),
    ],
)
def test_an_oversized_packet_that_was_not_agreed_is_malformed(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        fed(Framer(), packet)


DECODER = Decoder(
    TelemetrySettings(auto_register_customers=True),
    compile_sources(TelemetrySettings().sources),
    (),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["ts", "metrics"]), inner)
    ),
)


def taken(topic: str, payload: bytes) -> None:
    """Decodes, and checks what PostgreSQL counts on."""
    try:
        rows = DECODER.decode(topic, payload, 1_769_851_800_000_000)
    except DecodeError:
        return
    for _, _, at, metrics in rows:
        assert type(at) is int and abs(at) < 2**63 and metrics
        assert all("\0" not in name and "\0" not in str(value) for name, value in metrics.items())


@given(st.binary(max_size=60), st.sampled_from([TOPIC, f"{TOPIC}/rpm"]))
def test_any_payload_is_decoded_or_has_a_reason(payload: bytes, topic: str) -> None:
    taken(topic, payload)


@given(documents)
@settings(max_examples=40)
def test_any_json_is_decoded_or_has_a_reason(document: object) -> None:
    taken(TOPIC, json.dumps(document).encode())


@given(st.text(max_size=40) | st.lists(st.text(max_size=6), min_size=4, max_size=5).map("/".join))
def test_any_topic_is_routed_or_has_a_reason(topic: str) -> None:
    taken(topic, b'{"a":1}')
