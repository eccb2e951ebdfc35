"""The fleet's MQTT 5 client: QoS 1, never more in flight than the broker takes, reconnecting; it counts what
was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import mqtt5

from gateway import clock
from gateway.broker_tls import tls_context
from gateway.ingest.framing import Framer, MalformedPacket, Packet
from gateway.ingest.session import PINGREQ, REFUSING
from gateway.model.backoff import full_jitter
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings

MAX_IN_FLIGHT = 1000
MAX_PACKET_ID = 65535
RECONNECT_CAP_SECONDS = 5.0


class Publisher:
    """Publishes while `run` runs. A message whose PUBACK was lost with a connection is published again."""

    def __init__(
        self,
        broker: BrokerSettings,
        client_id: str,
        *,
        listens_to: str | None = None,
        will: tuple[str, bytes, bool] | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._keepalive = broker.keepalive.total_seconds()
        self._transport: asyncio.Transport | None = None
        self._limit = 0
        self._listens_to = listens_to
        self._will = will
        self._open: dict[int, tuple[str, bytes, bool]] = {}
        self._unsent: deque[int] = deque()
        self._last_id = 0
        self._attempt = 0
        self._moved = asyncio.Event()
        self.published_count = 0
        self.acknowledged_count = 0
        self.refused_count = 0
        """Answered with an error: the broker's ACL, or its quota."""
        self.unheard_count = 0
        """Acknowledged, and nobody had subscribed."""
        self.occasion_count = 0
        """Connections, and messages on the topic that it listens to."""
        self.problem: str | None = None
        """Why there is no connection at the moment."""

    @property
    def in_flight(self) -> int:
        """Published and not yet answered."""
        return len(self._open)

    async def publish(self, topic: str, payload: bytes, is_retained: bool = False) -> None:
        """Returns when the message is handed to the connection; waits while the broker's window is full or
        there is none.
        """
        while self._transport is None or len(self._open) >= self._limit:
            self._moved.clear()
            await self._moved.wait()
        packet_id = self._free_id()
        self._open[packet_id] = (topic, payload, is_retained)
        self._unsent.append(packet_id)
        self.published_count += 1
        self._flush()

    async def settled(self, seconds: float) -> bool:
        """Whether every message is answered within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self._open:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Keeps a connection until cancelled. Raises BrokerRefused when the broker will never have us, and
        ConfigError for TLS files.
        """
        while True:
            try:
                await self._converse()
            except (OSError, TimeoutError, MalformedPacket) as error:
                self.problem = f"{type(error).__name__}: {error}"
            self._attempt += 1
            await asyncio.sleep(
                full_jitter(
                    self._attempt, rand=random.random(), base_seconds=0.2, cap_seconds=RECONNECT_CAP_SECONDS
                )
            )

    async def _converse(self) -> None:
        address = urlsplit(self._broker.urls[0])
        tls = tls_context(self._broker)
        port = address.port or (8883 if tls else 1883)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._broker.connect_timeout.total_seconds()):
            transport, link = await loop.create_connection(
                lambda: _Link(self), address.hostname or "127.0.0.1", port, ssl=tls
            )
        try:
            transport.write(self._introduction())
            while not link.closed.done():
                await asyncio.wait({link.closed}, timeout=self._keepalive / 2)
                if clock.monotonic() - link.heard_monotonic > 1.5 * self._keepalive:
                    transport.abort()
                    raise TimeoutError("the broker is silent")
                if not transport.is_closing():
                    transport.write(PINGREQ)
            link.closed.result()
        finally:
            self._transport = None
            if not transport.is_closing():
                transport.write(mqtt5.DisconnectPacket().write())
                transport.close()

    def _introduction(self) -> bytes:
        password = self._broker.password
        will = None
        if self._will is not None:
            topic, payload, is_retained = self._will
            will = mqtt5.Will(topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=is_retained)
        return mqtt5.ConnectPacket(
            self._client_id,
            username=self._broker.username,
            password=None if password is None else password.get_secret_value().encode(),
            clean_start=True,
            will=will,
            keep_alive=max(1, round(self._keepalive)),
        ).write()

    def received(self, packet: Packet, transport: asyncio.Transport) -> None:
        """A packet from the broker. Raises BrokerRefused and ConnectionError."""
        match packet:
            case mqtt5.ConnAckPacket():
                code = packet.reason_code
                if code.name in REFUSING:
                    raise BrokerRefused(
                        f"the broker refused the connection: {code.name}; check the user and the password"
                    )
                if code.value >= 128:
                    raise ConnectionError(f"the broker refused the connection: {code.name}")
                self._limit = min(packet.receive_max, MAX_IN_FLIGHT)
                self._keepalive = float(packet.server_keep_alive or self._keepalive)
                self._transport, self.problem = transport, None
                self._unsent = deque(
                    self._open
                )  # a clean session knows nothing of what the last one was sent
                self._attempt = 0
                self.occasion_count += 1
                self._listen()
                self._flush()
            case mqtt5.PublishPacket():  # QoS 0: it is not acknowledged
                self.occasion_count += 1
            case mqtt5.PubAckPacket():
                self._settle(packet)
            case mqtt5.DisconnectPacket():
                raise ConnectionError(f"the broker said {packet.reason_code.name}")
            case _:
                pass
        self._moved.set()

    def _listen(self) -> None:
        """Asks for the messages that it is to hear, at QoS 0."""
        if self._transport is not None and self._listens_to is not None:
            self._transport.write(
                mqtt5.SubscribePacket(
                    self._free_id(), [mqtt5.TopicFilter(self._listens_to, max_qos=mqtt5.QoS.AT_MOST_ONCE)]
                ).write()
            )

    def _settle(self, packet: mqtt5.PubAckPacket) -> None:
        if self._open.pop(packet.packet_id, None) is None:
            return
        if packet.reason_code.value >= 128:
            self.refused_count += 1
        else:
            self.acknowledged_count += 1
            self.unheard_count += packet.reason_code.name == "NO_MATCHING_SUBSCRIBERS"
        self._flush()

    def _flush(self) -> None:
        """Writes what is open and not written, as far as the window goes."""
        while (
            self._transport is not None and self._unsent and len(self._open) - len(self._unsent) < self._limit
        ):
            packet_id = self._unsent.popleft()
            topic, payload, is_retained = self._open[packet_id]
            self._transport.write(
                mqtt5.PublishPacket(
                    topic,
                    payload=payload,
                    qos=mqtt5.QoS.AT_LEAST_ONCE,
                    packet_id=packet_id,
                    retain=is_retained,
                ).write()
            )

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % MAX_PACKET_ID + 1
            if self._last_id not in self._open:
                return self._last_id


class _Link(asyncio.BufferedProtocol):
    """One TCP connection. `closed` resolves at its end, with the error where there is one."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._framer = Framer()
        self._transport: asyncio.Transport
        self.heard_monotonic = clock.monotonic()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._framer.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_monotonic = clock.monotonic()
        try:
            for packet in self._framer.packets(nbytes):
                self._publisher.received(packet, self._transport)
        except (BrokerRefused, ConnectionError, MalformedPacket) as error:
            self._end(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the broker closed the connection"))

    def _end(self, error: Exception) -> None:
        if not self.closed.done():
            self.closed.set_exception(error)
            self.closed.exception()  # seen, also when nobody waits
