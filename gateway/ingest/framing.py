"""Framing: bytes from the broker to packets, on the mqtt5 codec. No I/O. A packet too large to read is
skipped, not refused.

The codec panics (a BaseException of its runtime) on invalid UTF-8. A PUBLISH with such bytes is whole and
comes again until it is acknowledged, so it is skipped too; any other fault leaves here as MalformedPacket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mqtt5

MAX_PACKET_BYTES = (1 << 20) + (128 << 10)
"""The largest payload that is taken, with room for the topic and the properties."""

BUFFER_BYTES = 2 * MAX_PACKET_BYTES
MIN_ROOM_BYTES = 64 << 10
HEAD_BYTES = 64 << 10
PUBLISH = 3

Packet = (
    mqtt5.ConnAckPacket
    | mqtt5.PublishPacket
    | mqtt5.SubAckPacket
    | mqtt5.UnsubAckPacket
    | mqtt5.PingRespPacket
    | mqtt5.DisconnectPacket
    | object
)


class MalformedPacket(Exception):
    """The bytes are no MQTT 5: the connection cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oversized:
    """A PUBLISH that is skipped. `size` is the whole packet's; `head` the first bytes after topic and packet
    id.
    """

    topic: str
    packet_id: int | None
    size: int
    head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadablePublish:
    """A PUBLISH whose topic or properties are not UTF-8, skipped. `rest` is what
    follows topic and packet id.
    """

    topic: str
    packet_id: int | None
    size: int
    rest: bytes


class Framer:
    """One connection's receive buffer. Fill what `buffer()` gives, then take `packets(count)`."""

    def __init__(self) -> None:
        self._bytes = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._bytes)
        self._start = 0
        self._end = 0
        self._skip = 0

    def buffer(self) -> memoryview:
        """Room for what comes next; never empty."""
        if BUFFER_BYTES - self._end < MIN_ROOM_BYTES:
            held = self._end - self._start
            self._bytes[:held] = self._bytes[self._start : self._end]
            self._start, self._end = 0, held
        return self._view[self._end :]

    def packets(self, count: int) -> Iterator[Packet]:
        """The packets that are whole after `count` more bytes. Raises MalformedPacket; nothing can be read
        after it.
        """
        self._end += count
        view, read = self._view, mqtt5.read
        packet: Packet
        while self._start < self._end:
            if self._skip:
                step = min(self._skip, self._end - self._start)
                self._skip -= step
                self._start += step
                continue
            try:
                packet, size = read(view[self._start : self._end])
            except IndexError:
                oversized = self._oversized()
                if oversized is None:
                    return
                yield oversized
                continue
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # ValueError, or the codec's panic, which is no Exception
                unreadable = None if isinstance(error, Exception) else self._unreadable()
                if unreadable is not None:
                    self._start += unreadable.size
                    yield unreadable
                    continue
                raise MalformedPacket(f"{type(error).__name__}: {error}") from error
            if (
                size > MAX_PACKET_BYTES
            ):  # whole in the buffer by chance: what is taken must not depend on how the bytes came
                packet, size = self._oversized(), 0
            self._start += size
            yield packet
        self._start = self._end = 0

    def _unreadable(self) -> UnreadablePublish | None:
        """What is known of a whole packet that the codec panics on; None unless it is a PUBLISH that can be
        acknowledged.
        """
        data, whole = self._bytes, self._body()
        if whole is None or data[self._start] >> 4 != PUBLISH or data[self._start] & 4:
            return None
        place, size = whole
        end, qos1 = self._start + size, data[self._start] & 2
        body = place + 2 + int.from_bytes(data[place : place + 2], "big")
        after = body + 2 if qos1 else body
        packet_id = int.from_bytes(data[body : body + 2], "big") if qos1 else None
        if after > end or end > self._end or packet_id == 0:
            return None
        return UnreadablePublish(
            topic=bytes(data[place + 2 : body]).decode("utf-8", "backslashreplace"),
            packet_id=packet_id,
            size=size,
            rest=bytes(data[after:end]),
        )

    def _body(self) -> tuple[int, int] | None:
        """Where the body of the packet in hand begins, and the packet's whole size; None while its length is
        not here.
        """
        data, place, length, shift = self._bytes, self._start + 1, 0, 0
        while True:
            if place >= self._end:
                return None
            byte = data[place]
            length |= (byte & 127) << shift
            shift += 7
            place += 1
            if not byte & 128:
                return place, place - self._start + length
            if shift > 21:
                raise MalformedPacket("the length of a packet takes more than four bytes")

    def _oversized(self) -> Oversized | None:
        """What is known of a packet that will not fit, once its topic and packet id are here; None while it
        may still fit or they are not.
        """
        data, whole = self._bytes, self._body()
        if whole is None or whole[1] <= MAX_PACKET_BYTES:
            return None
        place, size = whole
        kind, flags = data[self._start] >> 4, data[self._start] & 15
        if kind != PUBLISH:
            raise MalformedPacket(f"a control packet (type {kind}) of {size} bytes")
        body = place + 2 + int.from_bytes(data[place : place + 2], "big")
        after = body + 2 if flags & 6 else body
        if after + HEAD_BYTES > self._end:
            return None
        packet_id = int.from_bytes(data[body : body + 2], "big") if flags & 6 else None
        if packet_id == 0 or flags & 4:
            raise MalformedPacket("a PUBLISH with packet id 0 or above QoS 1")
        self._skip = size
        return Oversized(
            topic=bytes(data[place + 2 : body]).decode("utf-8", "replace"),
            packet_id=packet_id,
            size=size,
            head=bytes(data[after : after + HEAD_BYTES]),
        )
