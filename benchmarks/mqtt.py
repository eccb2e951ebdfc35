"""Owns the measuring side of MQTT: a fast QoS 1 publisher that knows what was acknowledged, and persistent
sessions to fill.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

import mqtt5

TagT = TypeVar("TagT")

SESSION_SECONDS = 3600


class Publisher(Generic[TagT]):
    """Publishes at QoS 1 and hands each tag to `acknowledged` at its PUBACK. What a lost connection left open
    is published again.
    """

    def __init__(
        self,
        port: int,
        client_id: str,
        *,
        window: int = 2000,
        acknowledged: Callable[[TagT], None] | None = None,
    ) -> None:
        self._port = port
        self._client_id = client_id
        self._acknowledged = acknowledged
        self._window = window
        self._free = asyncio.Semaphore(window)
        self._open: dict[int, tuple[str, bytes, TagT]] = {}
        self._next = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.acknowledged_count = 0

    async def __aenter__(self) -> Publisher[TagT]:
        self._reading = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    async def publish(self, topic: str, payload: bytes, tag: TagT) -> None:
        """Returns when it is written or waits for the connection to return; at most `window` are
        unacknowledged.
        """
        await self._free.acquire()
        identifier = self._identifier()
        self._open[identifier] = (topic, payload, tag)
        self._idle.clear()
        self._write(identifier)
        if self._next % 256 == 0:
            await self._drained()

    async def flush(self, seconds: float = 120.0) -> None:
        """Waits until everything is acknowledged."""
        async with asyncio.timeout(seconds):
            await self._idle.wait()

    def _identifier(self) -> int:
        while True:
            self._next = self._next % 65535 + 1
            if self._next not in self._open:
                return self._next

    def _write(self, identifier: int) -> None:
        if self._writer is not None and not self._writer.is_closing():
            topic, payload, _ = self._open[identifier]
            self._writer.write(
                mqtt5.PublishPacket(
                    topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=identifier
                ).write()
            )

    async def _drained(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.drain()
        await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, EOFError):
                await self._converse()
            self._writer = None
            await asyncio.sleep(0.1)

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                mqtt5.ConnectPacket(
                    self._client_id, clean_start=True, keep_alive=0, receive_max=65534
                ).write()
            )
            buffer = bytearray()
            while True:
                chunk = await reader.read(65536)
                if not chunk:
                    return
                buffer += chunk
                self._take(buffer, writer)
        finally:
            writer.close()

    def _take(self, buffer: bytearray, writer: asyncio.StreamWriter) -> None:
        position = 0
        while position < len(buffer):
            try:
                packet, size = mqtt5.read(memoryview(bytes(buffer[position : position + 4096])))
            except IndexError:
                break
            position += size
            match packet:
                case mqtt5.PubAckPacket():
                    self._settle(packet)
                case mqtt5.ConnAckPacket():
                    self._writer = writer
                    for identifier in list(self._open):
                        self._write(identifier)
                case _:
                    pass
        del buffer[:position]

    def _settle(self, packet: mqtt5.PubAckPacket) -> None:
        held = self._open.pop(packet.packet_id, None)
        if held is None:
            return
        if packet.reason_code.value >= 128:
            raise ConnectionRefusedError(
                f"the broker refused a message on {held[0]}: {packet.reason_code.name}"
            )
        self.acknowledged_count += 1
        self._free.release()
        if self._acknowledged is not None:
            self._acknowledged(held[2])
        if not self._open:
            self._idle.set()


async def open_session(port: int, client_id: str, topic_filter: str) -> None:
    """Makes a persistent session with the subscription, and leaves it."""
    await _visit(
        port,
        mqtt5.ConnectPacket(
            client_id, clean_start=True, session_expiry_interval=SESSION_SECONDS, receive_max=65534
        ),
        topic_filter,
    )


async def drop_session(port: int, client_id: str) -> None:
    """Ends the session and its queue."""
    await _visit(port, mqtt5.ConnectPacket(client_id, clean_start=True), None)


async def _visit(port: int, connect: mqtt5.ConnectPacket, topic_filter: str | None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(connect.write())
        await reader.read(1024)
        if topic_filter is not None:
            wanted = mqtt5.TopicFilter(topic_filter, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
            writer.write(mqtt5.SubscribePacket(1, [wanted]).write())
            await reader.read(1024)
        writer.write(mqtt5.DisconnectPacket().write())
        await writer.drain()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
