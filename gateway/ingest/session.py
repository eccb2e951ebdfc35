"""One TCP connection of an ingest session: CONNECT, SUBSCRIBE, keepalive, back-pressure, acknowledgements.
What it subscribes can change while it lives.

An acknowledgement belongs to the connection object on which its message arrived. What happens after the end
of a connection is the partition's to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
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
from gateway.model.errors import BrokerRefused
from gateway.model.subscriptions import Copies, copies_of
from gateway.payloads.formats.values import Reason
from gateway.settings import BrokerSettings

log = structlog.get_logger(__name__)

DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"
PINGREQ = b"\xc0\x00"
UNSUBSCRIBE_ID, OPTIONAL_ID, GIVE_UP_ID, SUBSCRIBE_ID = 2, 3, 4, 10
"""Packet ids. Filters that overlap are subscribed one by one, from SUBSCRIBE_ID on."""
CLOSING_SECONDS = 2.0
"""How long a DISCONNECT may take to leave on a link that may be dead."""
UNREAD_BYTES = 1 << 16
TURN_BYTES = 256 << 10
"""What is read in one turn of the loop, about. Where a broker sends faster than it is read one read has
megabytes, and libuv reads on while there is more: the answers of the database would wait for that, and by
them the commits that the messages before wait for.
"""

NO_IDENTIFIERS = (
    "the broker has no subscription identifiers, and filters of telemetry.sources overlap: a message could"
    " come twice"
)

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
"""What no waiting can change."""


class QosRefused(ConnectionError):
    """The broker grants our subscriptions at QoS 0 only: what it sends could be lost,
    and nobody would know.
    """


class OptionalRefused(ConnectionError):
    """The broker ended the connection over a subscription that we can do without
    (rumqttd does, over `$SYS`).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Whom the session is, and what it holds: `stale` filters are given up, `optional`
    ones may be refused. One that is not `is_lasting` ends with its connection. `let_in` is called when the
    broker has accepted us, before the first message can come. `state_topic`: where it tells that a host
    application of Sparkplug lives, None where it does not.
    """

    client_id: str
    partition: int
    filters: tuple[str, ...]
    stale: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    is_lasting: bool = True
    let_in: Callable[[], None] = lambda: None
    state_topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subscribing:
    """What a SUBSCRIBE, or one for each filter, asked for, and the answers by packet id."""

    filters: tuple[str, ...]
    copies: Copies | None
    count: int
    granted: dict[int, mqtt5.SubAckPacket] = field(default_factory=dict)


class IngestSession(asyncio.BufferedProtocol):
    """Lives as long as its TCP connection. `ready` resolves at the SUBACK, `closed` when the connection is
    gone, with the reason.
    """

    def __init__(self, broker: BrokerSettings, subscription: Subscription, pipeline: Pipeline) -> None:
        loop = asyncio.get_running_loop()
        self._broker = broker
        self._subscription = subscription
        self._filters = subscription.filters
        self._copies = copies_of(subscription.filters)
        self._has_identifiers = True
        self._asking: _Subscribing | None = None
        self._changing: asyncio.Future[None] | None = None
        self._giving_up: asyncio.Future[tuple[int, ...]] | None = None
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
        """Where what still comes is thrown away, once DISCONNECT is said."""
        self._introduced = False
        self._certificate = StateCertificate(subscription.state_topic, clock.now_microseconds() // 1000)
        self._asking_optional = False
        self._reason = "the connection was closed without a word"
        self.session_present = False
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()

    # --- Acknowledger

    def acknowledge(self, packets: bytes) -> bool:
        """Writes PUBACKs, unless the connection is gone."""
        return self._write(packets)

    def pause(self) -> None:
        """Reads nothing until `resume`; the keepalive goes on."""
        if not self._paused and not self._is_over:
            self._paused = True
            if not self._yields:
                self._transport.pause_reading()
            metrics.READING_PAUSED.labels(str(self._subscription.partition)).set(1)

    def resume(self) -> None:
        """Reads on, unless `finish` was said."""
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
        """Tells that the host application of Sparkplug lives, or that it ends, where that is for this session
        to say.
        """
        told = self._certificate
        self._write(told.birth() if online else told.death(clock.now_microseconds() // 1000))

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduces us."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        password = self._broker.password
        lasts = self._broker.session_expiry.total_seconds() if self._subscription.is_lasting else 0
        connect = mqtt5.ConnectPacket(
            self._subscription.client_id,
            username=self._broker.username,
            password=None if password is None else password.get_secret_value().encode(),
            clean_start=not self._subscription.is_lasting,
            will=self._certificate.will(),
            keep_alive=max(1, round(self._keepalive)),
            session_expiry_interval=min(round(lasts), 0xFFFFFFFF),
            receive_max=self._broker.receive_maximum,
            topic_alias_max=0,
        )
        self._transport.write(connect.write())

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._framer.buffer()[:TURN_BYTES] if self._unread is None else self._unread

    def buffer_updated(self, nbytes: int) -> None:
        """Takes what came: messages to the pipeline in one call, control packets one by one."""
        self._heard_monotonic = clock.monotonic()
        if self._unread is not None:
            return
        messages: list[Message] = []
        try:
            for packet in self._framer.packets(nbytes):
                if type(packet) is mqtt5.PublishPacket:
                    self._take(packet, messages)
                else:
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
        """The next turn, unless reading stands; what comes behind the end is read all the same."""
        self._turn_bytes, self._yields = 0, False
        if not self._transport.is_closing() and (not self._paused or self._unread is not None):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The broker ended the connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever waits."""
        metrics.READING_PAUSED.labels(str(self._subscription.partition)).set(0)
        if self._ping is not None:
            self._ping.cancel()
        if exc is not None:
            self._reason = f"{type(exc).__name__}: {exc}"
        if not self.ready.done():
            self.ready.set_exception(
                (OptionalRefused if self._asking_optional else ConnectionError)(self._reason)
            )
            self.ready.exception()  # seen, also when nobody waits
        for waiting in (self._changing, self._giving_up):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError(self._reason))
        if not self.closed.done():
            self.closed.set_result(self._reason)

    # --- what is subscribed

    async def until_ready(self, seconds: float) -> None:
        """Raises what `ready` holds, and TimeoutError where neither that nor a message comes for so long.

        A broker may send what it has queued before it grants anything: a long queue is no silence, and a
        session that was given up for it would meet the same queue again. Nor is it one while we read nothing.
        """
        while not self.ready.done():
            if self._paused or self._pipeline.is_holding:
                self._fed_monotonic = clock.monotonic()
            if (left := self._fed_monotonic + seconds - clock.monotonic()) <= 0:
                raise TimeoutError
            await asyncio.wait({self.ready}, timeout=left)
        self.ready.result()

    async def change(self, filters: tuple[str, ...]) -> None:
        """Subscribes these on the live connection, beside what it holds; returns when they are granted.

        Where filters overlap, now or before, all are subscribed again: an identifier belongs to the whole
        list, and one of an earlier list that stayed would be mistaken when that list returns. Raises
        BrokerRefused where the broker grants less than is needed, and ConnectionError when the connection
        ends meanwhile.
        """
        if self.closed.done():
            raise ConnectionError(self._reason)
        if filters == self._filters:
            return
        copies = copies_of(filters)
        if copies is not None and not self._has_identifiers:
            raise BrokerRefused(NO_IDENTIFIERS)
        renewed = copies is not None or self._copies is not None
        wanted = filters if renewed else tuple(one for one in filters if one not in self._filters)
        self._filters = ()  # should it be refused nobody knows what is held, and the next change asks for all
        if wanted:
            self._changing = asyncio.get_running_loop().create_future()
            try:
                self._ask(wanted, copies)
                await self._changing
            finally:
                self._changing = None
        self._filters, self._copies = filters, copies

    async def give_up(self, stale: Sequence[str]) -> tuple[str, ...]:
        """Unsubscribes these, the last first: of overlapping ones the first, which takes the message, holds
        longest. Returns at the UNSUBACK those that the broker did not let go. Raises ConnectionError.
        """
        if self.closed.done():
            raise ConnectionError(self._reason)
        patterns = list(reversed(stale))
        self._giving_up = asyncio.get_running_loop().create_future()
        self._write(mqtt5.UnsubscribePacket(GIVE_UP_ID, patterns).write())
        codes = await self._giving_up
        return tuple(pattern for pattern, code in zip(patterns, codes, strict=False) if code >= 128)

    def end(
        self, reason: str, code: mqtt5.DisconnectReasonCode = mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
    ) -> None:
        """Says DISCONNECT; the broker closes, or we do after a while. It keeps the session and every message
        that is not acknowledged.

        What still comes is read and thrown away: a socket that is closed with something unread is reset, and
        then the PUBACKs before the DISCONNECT may never be read. Their messages would come once more.
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
        """Writes, unless DISCONNECT was said or the connection is gone: behind the end of what we send a
        transport takes nothing and raises.
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
        if packet_id is None and packet.topic.startswith("$SYS/"):
            if packet.topic == DROPPED_TOPIC and packet.payload.isdigit() and len(packet.payload) < 19:
                metrics.BROKER_DROPPED.set(int(packet.payload))
            return
        if packet_id == 0 or packet.qos == 2 or packet.topic_alias is not None or not self._introduced:
            raise MalformedPacket(
                "a PUBLISH with packet id 0, QoS 2 or a topic alias, or before the CONNACK: nothing of this"
                " was agreed"
            )
        if self._copies is not None and self._copies.is_surplus(packet.topic, packet.subscription_ids or ()):
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
                self._subscribed(packet)
            case mqtt5.DisconnectPacket():
                self._reason = f"the broker said {packet.reason_code.name}"
                if packet.reason_code.name == "SESSION_TAKEN_OVER":
                    self._reason += ": another client uses this gateway's client id"
                self._transport.close()
            case mqtt5.UnsubAckPacket() if packet.packet_id == GIVE_UP_ID:
                if self._giving_up is not None and not self._giving_up.done():
                    self._giving_up.set_result(tuple(code.value for code in packet.reason_codes))
            case mqtt5.PubAckPacket() if packet.packet_id == STATE_ID:
                _check_told(packet, self._certificate.topic)
            case mqtt5.PingRespPacket() | mqtt5.UnsubAckPacket():
                pass  # that they came is all they say
            case _:
                raise MalformedPacket(f"a {type(packet).__name__}, which a broker has no reason to send")

    def _connected(self, packet: mqtt5.ConnAckPacket) -> None:
        if self._introduced:
            raise MalformedPacket("a second CONNACK")
        self._introduced = True
        code = packet.reason_code
        if code.value >= 128:
            self._reason = f"the broker refused the connection: {code.name}" + (
                f" ({packet.reason_str})" if packet.reason_str else ""
            )
            if code.name in REFUSING and not self.ready.done():
                self.ready.set_exception(
                    BrokerRefused(
                        f"{self._reason}; check broker.username, broker.password and the broker's ACL"
                    )
                )
            self._transport.close()
            return
        if packet.server_keep_alive:
            self._keepalive = float(packet.server_keep_alive)
        self.session_present = packet.session_present
        self._subscription.let_in()
        self._has_identifiers = packet.subscription_id_available
        if self._copies is not None and not self._has_identifiers:
            self._refuse(NO_IDENTIFIERS)
            return
        if self._subscription.stale:  # before the SUBSCRIBE, whose SUBACK then says that both are done
            self._write(mqtt5.UnsubscribePacket(UNSUBSCRIBE_ID, list(self._subscription.stale)).write())
        if self._filters:
            self._ask(self._filters, self._copies)
        else:  # a partition without customers; there is no SUBSCRIBE of nothing
            self._all_granted()
        self._beat()

    def _ask(self, filters: Sequence[str], copies: Copies | None) -> None:
        """Subscribes: all at once, or with their identifiers one by one in the order of the list."""
        wanted = [_filter(pattern, mqtt5.QoS.AT_LEAST_ONCE) for pattern in filters]
        if copies is None:
            self._asking = _Subscribing(filters=tuple(filters), copies=copies, count=1)
            self._write(mqtt5.SubscribePacket(SUBSCRIBE_ID, wanted).write())
            return
        self._asking = _Subscribing(filters=tuple(filters), copies=copies, count=len(wanted))
        self._write(
            b"".join(
                mqtt5.SubscribePacket(SUBSCRIBE_ID + place, [one], subscription_id=number).write()
                for place, (one, number) in enumerate(zip(wanted, copies.ids.values(), strict=True))
            )
        )

    def _subscribed(self, packet: mqtt5.SubAckPacket) -> None:
        if packet.packet_id == OPTIONAL_ID:
            self._asking_optional = False
            self._is_ready()
            return
        asking = self._asking
        if asking is None:
            raise MalformedPacket("a SUBACK that answers no SUBSCRIBE")
        # Copies that were sent before this SUBACK have identifiers of the list before, those behind it of
        # this one.
        self._copies = asking.copies
        asking.granted[packet.packet_id] = packet
        if len(asking.granted) < asking.count:
            return
        self._asking = None
        codes = [code for _, granted in sorted(asking.granted.items()) for code in granted.reason_codes]
        if len(codes) != len(asking.filters):
            raise MalformedPacket("a SUBACK that does not answer each filter")
        pairs = list(zip(asking.filters, codes, strict=True))
        refused = [f"{pattern} ({code.name})" for pattern, code in pairs if code.value >= 128]
        lesser = [pattern for pattern, code in pairs if code.value < 1]
        too_little = f"the broker grants QoS 0 only for {', '.join(lesser)}"
        if refused:
            self._refuse(f"the broker refused to subscribe {', '.join(refused)}; check the broker's ACL")
        elif lesser and not self._broker.allow_qos0:
            self._grants_too_little(too_little)
        else:
            self._all_granted()

    def _all_granted(self) -> None:
        if self._changing is not None:
            self._changing.set_result(None)
        elif self._subscription.optional and not self.ready.done():
            self._asking_optional = True
            wanted = [_filter(pattern, mqtt5.QoS.AT_MOST_ONCE) for pattern in self._subscription.optional]
            self._write(mqtt5.SubscribePacket(OPTIONAL_ID, wanted).write())
        else:
            self._is_ready()

    def _grants_too_little(self, why: str) -> None:
        if self._changing is not None:
            self._changing.set_exception(BrokerRefused(why))
            return
        self._reason = why
        if not self.ready.done():
            self.ready.set_exception(QosRefused(why))
        self.end(why)

    def _refuse(self, why: str) -> None:
        if self._changing is not None:  # what the connection held before it holds still
            self._changing.set_exception(BrokerRefused(why))
            return
        if not self.ready.done():
            self.ready.set_exception(BrokerRefused(why))
        self.end("a subscription was refused")

    def _is_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def _beat(self) -> None:
        """Pings, and gives a silent connection up. A broker that waits for our acknowledgements, or that we
        do not read, may be silent.
        """
        if self._is_over:
            return
        excused = self._paused or self._pipeline.is_holding
        if excused:
            self._heard_monotonic = clock.monotonic()
        elif clock.monotonic() - self._heard_monotonic > 1.5 * self._keepalive:
            self._reason = f"nothing heard for {1.5 * self._keepalive:g} s: the link is dead"
            self._transport.abort()
            return
        self._write(PINGREQ)
        self._ping = asyncio.get_running_loop().call_later(self._keepalive / 2, self._beat)


def _check_told(packet: mqtt5.PubAckPacket, topic: str | None) -> None:
    if packet.reason_code.value >= 128:
        log.error(
            "ingest.state_refused",
            topic=topic,
            reason=packet.reason_code.name,
            advice="allow the gateway to publish it in the broker's ACL: edge nodes wait for it",
        )


async def connect(broker: BrokerSettings, subscription: Subscription, pipeline: Pipeline) -> IngestSession:
    """A session whose subscriptions the broker, the first of a list, has granted. Raises BrokerRefused,
    OptionalRefused, OSError, TimeoutError, ConfigError (TLS files).
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


def stale_filters(held: Iterable[str], wanted: Collection[str]) -> tuple[str, ...]:
    """Filters that the session at the broker still holds and the configuration no longer has."""
    return tuple(sorted(set(held) - set(wanted)))


def _filter(pattern: str, qos: mqtt5.QoS) -> mqtt5.TopicFilter:
    """With the flag only on what the broker had retained before, and not on live messages of devices that
    retain everything.
    """
    return mqtt5.TopicFilter(
        pattern,
        max_qos=qos,
        retain_as_published=False,
        retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
    )
