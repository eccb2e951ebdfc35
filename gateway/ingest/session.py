"""One TCP connection of an ingest session: it connects, keeps alive, pauses reading, and acknowledges. What
it subscribes, which can change while it lives, is in `gateway.ingest.subscriptions`.

A message is acknowledged on the connection object on which it arrived. What happens after the end of a
connection is the partition's to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import mqtt5
import structlog

from gateway import clock, metrics
from gateway.broker_tls import tls_context
from gateway.ingest.batch import Message
from gateway.ingest.certificate import STATE_ID, StateCertificate
from gateway.ingest.framing import Framer, MalformedPacket, Oversized, Packet, UnreadablePublish
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.subscriptions import Subscription, Subscriptions
from gateway.payloads.formats.values import Reason
from gateway.settings import BrokerSettings

log = structlog.get_logger(__name__)

PINGREQ = b"\xc0\x00"
CLOSING_SECONDS = 2.0
"""How long we wait for the broker to close after a DISCONNECT: the link may be dead."""
UNREAD_BYTES = 1 << 16
"""The size of the buffer into which is read what comes after our DISCONNECT."""

TURN_BYTES = 256 << 10
"""About how many bytes are read in one turn of the event loop. A broker can send faster than we read. libuv
would then read megabytes before anything else has its turn, and the answers of the database would wait for
that: so would the commits of the messages that were read before.
"""

REFUSING = frozenset(
    {
        "BAD_USER_NAME_OR_PASSWORD",
        "NOT_AUTHORIZED",
        "BANNED",
        "CLIENT_ID_NOT_VALID",
        "UNSUPPORTED_PROTOCOL_VERSION",
        "BAD_AUTHENTICATION_METHOD",
    }
)
"""Reasons of a refusal that no waiting changes."""


class IngestSession(asyncio.BufferedProtocol):
    """Lives as long as its TCP connection. When that is gone `closed` has the reason."""

    def __init__(self, broker: BrokerSettings, subscription: Subscription, pipeline: Pipeline) -> None:
        self._broker = broker
        self._subscription = subscription
        self._subscriptions = Subscriptions(
            subscription, allow_qos0=broker.allow_qos0, write=self._write, end=self.end
        )
        self._pipeline = pipeline
        self._framer = Framer()
        self._transport: asyncio.Transport
        self._keepalive = broker.keepalive.total_seconds()
        self._ping: asyncio.TimerHandle | None = None
        self._heard_monotonic = self._fed_monotonic = clock.monotonic()
        self._paused = False
        self._turn_bytes = 0
        self._yields = False
        self._finishing = False
        self._unread: memoryview | None = None
        """A buffer for what comes after our DISCONNECT and is thrown away; None before."""
        self._introduced = False
        self._certificate = StateCertificate(subscription.state_topic, clock.now_microseconds() // 1000)
        self._reason = "the connection was closed without a word"
        self.session_present = False
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # --- Acknowledger

    def acknowledge(self, packets: bytes) -> bool:
        """Writes PUBACKs, unless the connection is gone."""
        return self._write(packets)

    def pause(self) -> None:
        """Reads nothing until `resume`. Keepalives are still sent."""
        if not self._paused and not self._is_over:
            self._paused = True
            if not self._yields:
                self._transport.pause_reading()
            metrics.READING_PAUSED.labels(str(self._subscription.partition)).set(1)

    def resume(self) -> None:
        """Reads again, unless `finish` was called."""
        if self._finishing:
            return
        if self._paused and not self._is_over:
            self._paused = False
            self._heard_monotonic = clock.monotonic()
            if not self._yields:
                self._transport.resume_reading()
        metrics.READING_PAUSED.labels(str(self._subscription.partition)).set(0)

    def finish(self) -> None:
        """Reads nothing more, ever; what is in hand can still be acknowledged."""
        self.pause()
        self._finishing = True

    # --- what is told

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publishes at QoS 0, unless the connection is gone."""
        return self._introduced and self._write(mqtt5.PublishPacket(topic, payload).write())

    def tell_state(self, *, online: bool) -> None:
        """Tells that the Sparkplug host application lives, or that it ends, where this session is the one to
        tell.
        """
        if online:
            packet = self._certificate.birth()
        else:
            packet = self._certificate.death(clock.now_microseconds() // 1000)
        self._write(packet)

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends CONNECT."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        password = self._broker.password
        expiry_seconds = self._broker.session_expiry.total_seconds() if self._subscription.is_lasting else 0
        connect = mqtt5.ConnectPacket(
            self._subscription.client_id,
            username=self._broker.username,
            password=None if password is None else password.get_secret_value().encode(),
            clean_start=not self._subscription.is_lasting,
            will=self._certificate.will(),
            keep_alive=max(1, round(self._keepalive)),
            session_expiry_interval=min(round(expiry_seconds), 0xFFFFFFFF),
            receive_max=self._broker.receive_maximum,
            topic_alias_max=0,
        )
        self._transport.write(connect.write())

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the transport writes the next bytes."""
        if self._unread is not None:
            return self._unread
        return self._framer.buffer()[:TURN_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Takes the packets of one read: messages go to the pipeline together, control packets one by one."""
        self._heard_monotonic = clock.monotonic()
        if self._unread is not None:
            return
        messages: list[Message] = []
        try:
            for packet in self._framer.packets(nbytes):
                if type(packet) is mqtt5.PublishPacket:
                    self._take(packet, messages)
                else:
                    # These go to the pipeline as well, and the messages before them come first.
                    if messages and type(packet) in (Oversized, UnreadablePublish):
                        self._pipeline.receive(self, messages)
                        messages = []
                    self._control(packet)
        except MalformedPacket as error:
            metrics.MALFORMED.inc()
            self.end(f"malformed packet: {error}", mqtt5.DisconnectReasonCode.MALFORMED_PACKET)
        if messages:
            self._fed_monotonic = self._heard_monotonic
            self._pipeline.receive(self, messages)
        self._turn_bytes += nbytes
        if self._turn_bytes >= TURN_BYTES and not self._paused and not self._is_over:
            self._yields = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        """Reads in the next turn of the loop, unless reading is paused. What comes after our DISCONNECT is
        read even then.
        """
        self._turn_bytes = 0
        self._yields = False
        if not self._transport.is_closing() and (not self._paused or self._unread is not None):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The broker ended the connection. False: the transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: tells whoever waits for it."""
        metrics.READING_PAUSED.labels(str(self._subscription.partition)).set(0)
        if self._ping is not None:
            self._ping.cancel()
        if exc is not None:
            self._reason = f"{type(exc).__name__}: {exc}"
        self._subscriptions.lost(self._reason)
        if not self.closed.done():
            self.closed.set_result(self._reason)

    # --- what is subscribed

    async def until_ready(self, seconds: float) -> None:
        """Returns when the broker has granted our subscriptions. Raises BrokerRefused, ConnectionError with
        its subclasses, and TimeoutError where neither an answer nor a message comes for `seconds`.

        A broker may send its whole queue before it grants anything, so messages count as a sign of life: the
        next session would meet the same queue again. Time in which we read nothing does not count either.
        """
        ready = self._subscriptions.ready
        while not ready.done():
            if self._paused or self._pipeline.is_holding:
                self._fed_monotonic = clock.monotonic()
            left = self._fed_monotonic + seconds - clock.monotonic()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait({ready}, timeout=left)
        ready.result()

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """As `Subscriptions.subscribe`."""
        self._raise_closed()
        await self._subscriptions.subscribe(filters)

    async def unsubscribe(self, stale: Sequence[str]) -> tuple[str, ...]:
        """As `Subscriptions.unsubscribe`."""
        self._raise_closed()
        return await self._subscriptions.unsubscribe(stale)

    def _raise_closed(self) -> None:
        if self.closed.done():
            raise ConnectionError(self._reason)

    def end(
        self, reason: str, code: mqtt5.DisconnectReasonCode = mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
    ) -> None:
        """Sends DISCONNECT. The broker closes the connection, or we do after CLOSING_SECONDS. It keeps the
        session and every message that is not acknowledged.

        What still comes is read and thrown away. A socket that is closed with bytes unread is reset, and the
        broker might never read the PUBACKs that we sent before: it would send their messages once more.
        """
        if self._is_over:
            return
        self._reason = reason
        if self._certificate.has_will and code is mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION:
            code = mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
        self._transport.write(mqtt5.DisconnectPacket(reason_code=code).write())
        self._unread = memoryview(bytearray(UNREAD_BYTES))
        if self._paused and not self._yields:
            self._transport.resume_reading()
        if self._transport.can_write_eof():  # not over TLS
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(CLOSING_SECONDS, self._transport.abort)

    def _write(self, packets: bytes) -> bool:
        """Writes, unless DISCONNECT was sent or the connection is gone: a transport raises when something is
        written after its end.
        """
        if self._is_over:
            return False
        self._transport.write(packets)
        return True

    @property
    def _is_over(self) -> bool:
        return self._unread is not None or self._transport.is_closing()

    # --- packets

    def _take(self, packet: mqtt5.PublishPacket, messages: list[Message]) -> None:
        packet_id = packet.packet_id
        if packet_id == 0 or packet.qos == 2 or packet.topic_alias is not None or not self._introduced:
            raise MalformedPacket(
                "a PUBLISH with packet id 0, QoS 2 or a topic alias, or before the CONNACK: nothing of this"
                " was agreed"
            )
        copies = self._subscriptions.copies
        if copies is not None and copies.is_surplus(packet.topic, packet.subscription_ids or ()):
            messages.append(
                (packet.topic, b"", packet_id, packet.retain)
            )  # acknowledged in its turn, and nothing more
            return
        messages.append((packet.topic, packet.payload, packet_id, packet.retain))

    def _control(self, packet: Packet) -> None:
        match packet:
            case Oversized() | UnreadablePublish() if not self._introduced:
                raise MalformedPacket("a PUBLISH before the CONNACK")
            case Oversized():
                metrics.OVERSIZED.inc()
                detail = f"a packet of {packet.size} bytes; its first {len(packet.head)} bytes are kept"
                refused = (packet.topic, packet.head, Reason.OVERSIZED_PACKET, detail)
                self._pipeline.receive_skipped(self, packet.packet_id, *refused)
            case UnreadablePublish():
                detail = "its topic or its properties are not UTF-8; what follows the packet id is kept"
                refused = (packet.topic, packet.rest, Reason.NOT_UTF8, detail)
                self._pipeline.receive_skipped(self, packet.packet_id, *refused)
            case mqtt5.ConnAckPacket():
                self._connected(packet)
            case mqtt5.SubAckPacket():
                self._subscriptions.suback(packet)
            case mqtt5.DisconnectPacket():
                self._reason = f"the broker said {packet.reason_code.name}"
                if packet.reason_code.name == "SESSION_TAKEN_OVER":
                    self._reason += ": another client uses this gateway's client id"
                self._transport.close()
            case mqtt5.UnsubAckPacket():
                self._subscriptions.unsuback(packet)
            case mqtt5.PubAckPacket() if packet.packet_id == STATE_ID:
                _log_refused_state(packet, self._certificate.topic)
            case mqtt5.PingRespPacket():
                pass  # `_heard_monotonic` was set as it came
            case _:
                raise MalformedPacket(f"a {type(packet).__name__}, which a broker has no reason to send")

    def _connected(self, packet: mqtt5.ConnAckPacket) -> None:
        if self._introduced:
            raise MalformedPacket("a second CONNACK")
        self._introduced = True
        code = packet.reason_code
        if code.value >= 128:
            words = f" ({packet.reason_str})" if packet.reason_str else ""
            self._reason = f"the broker refused the connection: {code.name}{words}"
            if code.name in REFUSING:
                self._subscriptions.refuse(
                    f"{self._reason}; check broker.username, broker.password and the broker's ACL"
                )
            self._transport.close()
            return
        if packet.server_keep_alive:
            self._keepalive = float(packet.server_keep_alive)
        self.session_present = packet.session_present
        self._subscription.on_accepted()
        self._subscriptions.begin(has_identifiers=packet.subscription_id_available)
        self._beat()

    def _beat(self) -> None:
        """Pings, and gives up a connection on which nothing is heard. While the broker waits for our
        acknowledgements, or we do not read, silence is no sign that the link is dead.
        """
        if self._is_over:
            return
        if self._paused or self._pipeline.is_holding:
            self._heard_monotonic = clock.monotonic()
        elif clock.monotonic() - self._heard_monotonic > 1.5 * self._keepalive:
            self._reason = f"nothing heard for {1.5 * self._keepalive:g} s: the link is dead"
            self._transport.abort()
            return
        self._write(PINGREQ)
        self._ping = asyncio.get_running_loop().call_later(self._keepalive / 2, self._beat)


def _log_refused_state(packet: mqtt5.PubAckPacket, topic: str | None) -> None:
    if packet.reason_code.value >= 128:
        log.error(
            "ingest.state_refused",
            topic=topic,
            reason=packet.reason_code.name,
            advice="allow the gateway to publish it in the broker's ACL: edge nodes wait for it",
        )


async def connect(broker: BrokerSettings, subscription: Subscription, pipeline: Pipeline) -> IngestSession:
    """Connects to the first broker of the settings. Returns a session whose subscriptions are granted. Raises
    BrokerRefused, OptionalRefused, OSError, TimeoutError, ConfigError (TLS files).
    """
    address = urlsplit(broker.urls[0])
    tls = tls_context(broker)
    port = address.port or (8883 if tls else 1883)
    session: IngestSession | None = None
    try:
        seconds = broker.connect_timeout.total_seconds()
        async with asyncio.timeout(seconds):
            loop = asyncio.get_running_loop()
            _, session = await loop.create_connection(
                lambda: IngestSession(broker, subscription, pipeline),
                address.hostname or "127.0.0.1",
                port,
                ssl=tls,
            )
        await session.until_ready(seconds)
    except BaseException:
        if session is not None:
            session.end("given up while connecting")
        raise
    return session
