"""A small MQTT 5 client that acknowledges only when it is told to, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import mqtt5

SECONDS = 15.0


class Refused(Exception):
    """The broker answered, and it was no."""


class Client:
    """One connection. `received`: the messages in the order in which they came."""

    def __init__(self, port: int, client_id: str) -> None:
        self.client_id = client_id
        self._port = port
        self.received: list[mqtt5.PublishPacket] = []
        self.connack: mqtt5.ConnAckPacket | None = None
        self.goodbye: str | None = None
        self.ended = asyncio.Event()
        self._answers: dict[tuple[str, int], object] = {}
        self._changed = asyncio.Event()
        self._packet_id = 0
        self._auto = False
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]
        self._pongs = 0

    async def connect(
        self,
        *,
        clean: bool = True,
        expiry: int = 0,
        receive_max: int = 65534,
        will: mqtt5.Will | None = None,
        keep_alive: int = 60,
    ) -> Client:
        """Returns at the CONNACK. Raises Refused, OSError, TimeoutError."""
        async with asyncio.timeout(SECONDS):
            reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
            self._reading = asyncio.create_task(self._read(reader))
            self._writer.write(
                mqtt5.ConnectPacket(
                    self.client_id,
                    clean_start=clean,
                    session_expiry_interval=expiry,
                    receive_max=receive_max,
                    will=will,
                    keep_alive=keep_alive,
                ).write()
            )
        await self.until(lambda: self.connack is not None or self.ended.is_set(), "a CONNACK")
        if self.connack is None or self.connack.reason_code.value >= 128:
            reason = "closed without a word" if self.connack is None else self.connack.reason_code.name
            await self.abort()
            raise Refused(f"CONNECT: {reason}")
        return self

    def auto(self) -> None:
        """Acknowledges what is there and what comes."""
        self._auto = True
        for packet in self.received:
            self.ack(packet)

    def ack(self, packet: mqtt5.PublishPacket) -> None:
        if packet.packet_id is not None:
            self._writer.write(mqtt5.PubAckPacket(packet.packet_id).write())

    async def subscribe(self, *filters: str, identifier: int | None = None, handling: int = 1) -> list[int]:
        """The codes that were granted. Raises Refused where one is no."""
        wanted = [
            mqtt5.TopicFilter(
                one, max_qos=mqtt5.QoS.AT_LEAST_ONCE, retain_handling=mqtt5.RetainHandling(handling)
            )
            for one in filters
        ]
        number = self._number()
        self._writer.write(mqtt5.SubscribePacket(number, wanted, subscription_id=identifier).write())
        answer = await self._answer("SubAckPacket", number)
        codes = [code.value for code in answer.reason_codes]  # type: ignore[attr-defined]
        if any(code >= 128 for code in codes):
            raise Refused(f"SUBSCRIBE: {[code.name for code in answer.reason_codes]}")  # type: ignore[attr-defined]
        return codes

    def send(self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None) -> int:
        """Publishes at QoS 1; the packet id."""
        number = self._number()
        packet = mqtt5.PublishPacket(
            topic,
            payload=payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=number,
            retain=retain,
            message_expiry_interval=expiry,
        )
        self._writer.write(packet.write())
        return number

    async def publish(
        self, topic: str, *payloads: bytes, retain: bool = False, expiry: int | None = None
    ) -> None:
        """Returns when the broker acknowledged them all; no more than it allows are open. Raises Refused."""
        assert self.connack is not None
        allowed, numbers = self.connack.receive_max, deque[int]()
        for payload in payloads:
            if self.ended.is_set() or self._writer.is_closing():
                raise Refused(f"the broker ended the connection ({self.goodbye})")
            if len(numbers) == allowed:
                await self._published(numbers.popleft())
            numbers.append(self.send(topic, payload, retain=retain, expiry=expiry))
        for number in numbers:
            await self._published(number)

    async def _published(self, number: int) -> None:
        answer = await self._answer("PubAckPacket", number)
        if answer.reason_code.value >= 128:  # type: ignore[attr-defined]
            raise Refused(f"PUBLISH: {answer.reason_code.name}")  # type: ignore[attr-defined]

    async def ping(self) -> None:
        """What the broker had sent before it has come."""
        before = self._pongs
        self._writer.write(mqtt5.PingReqPacket().write())
        await self.until(lambda: self._pongs > before or self.ended.is_set(), "a PINGRESP")

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        """Raises TimeoutError that names `what`."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"not within {seconds:g} s: {what}") from None

    async def messages(self, count: int, seconds: float = SECONDS) -> list[bytes]:
        """The payloads, once there are so many; fewer where none came for `seconds`. A slow broker is not one
        that loses.
        """
        with contextlib.suppress(TimeoutError):
            while (had := len(self.received)) < count and not self.ended.is_set():
                await self.until(lambda: len(self.received) > had or self.ended.is_set(), "messages", seconds)
        return [packet.payload for packet in self.received]

    async def quiet(self, seconds: float = 1.0) -> list[bytes]:
        """The payloads, once none came for so long."""
        count = -1
        while count != len(self.received):
            count = len(self.received)
            with contextlib.suppress(TimeoutError):
                await self.until(lambda: len(self.received) > count, "another message", seconds)  # noqa: B023
        return [packet.payload for packet in self.received]

    async def leave(self) -> None:
        """DISCONNECT, and the end of the connection."""
        if not self.ended.is_set():
            self._writer.write(mqtt5.DisconnectPacket().write())
            with contextlib.suppress(OSError):
                await self._writer.drain()
        self._writer.close()
        await self._stop()

    async def abort(self) -> None:
        """As a dead link: no word."""
        self._writer.transport.abort()
        await self._stop()

    async def _stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.ended.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _number(self) -> int:
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id

    async def _answer(self, kind: str, number: int) -> object:
        key = (kind, number)
        await self.until(lambda: key in self._answers or self.ended.is_set(), f"a {kind}")
        if key not in self._answers:
            raise Refused(f"the broker ended the connection instead of a {kind} ({self.goodbye})")
        return self._answers.pop(key)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        try:
            while chunk := await reader.read(1 << 18):
                rest = self._packets(rest + chunk)
                self._changed.set()
        except (OSError, ValueError) as error:
            self.goodbye = f"{type(error).__name__}: {error}"
        finally:
            self.ended.set()
            self._changed.set()

    def _packets(self, data: bytes) -> bytes:
        view, position = memoryview(data), 0
        while position < len(data):
            try:
                packet, size = mqtt5.read(view[position:])
            except IndexError:
                break
            position += size
            self._take(packet)
        return data[position:]

    def _take(self, packet: object) -> None:
        match packet:
            case mqtt5.PublishPacket():
                self.received.append(packet)
                if self._auto:
                    self.ack(packet)
            case mqtt5.ConnAckPacket():
                self.connack = packet
            case mqtt5.PingRespPacket():
                self._pongs += 1
            case mqtt5.DisconnectPacket():
                self.goodbye = packet.reason_code.name
            case mqtt5.SubAckPacket() | mqtt5.PubAckPacket() | mqtt5.UnsubAckPacket():
                self._answers[type(packet).__name__, packet.packet_id] = packet
            case _:
                pass
