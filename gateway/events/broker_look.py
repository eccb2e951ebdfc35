"""Looks at the broker by behaviour, with sessions of its own that leave nothing: what it grants, refuses and
keeps.

It blocks, so it runs in a thread. Every wait is bounded.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.broker_tls import tls_context
from gateway.model.diagnosis_broker import BrokerFacts
from gateway.settings import BrokerSettings

ANSWER_SECONDS = 5.0
QUIET_SECONDS = 2.0
"""A message that is on its way comes within."""

TELL_SECONDS = 1.0
QUEUE_MESSAGES = 1_500
"""More than the 1,000 that Mosquitto keeps where nobody raised it."""

QUEUE_SECONDS = 20.0
QUEUE_EXPIRY_SECONDS = 120
WINDOW = 200
MAX_FILTERS = 50
DROPPED = "$SYS/broker/publish/messages/dropped"
VERSION = "$SYS/broker/version"
NOT_RETAINED = 2
"""Retain handling: what is retained is not sent when a filter is subscribed."""


class BrokerSilent(OSError):
    """The broker did not answer in time, or ended the connection."""


def look(settings: BrokerSettings, filters: Sequence[str]) -> BrokerFacts:
    """At one broker (`settings.at`): what `gateway.model.diagnosis_broker` judges. `filters`: those of
    ingest; the first MAX_FILTERS are tried. Raises ConfigError for TLS files that cannot be used.
    """
    name = f"fieldgate-doctor-{secrets.token_hex(6)}"
    own = (
        f"{settings.topic_root}/gateway/{name}",
        f"{settings.topic_root}/customers/{name}/events/{name}",
    )
    asking = _Client(settings, name, expiry_seconds=int(settings.session_expiry.total_seconds()))
    client = _Client(settings, name)
    try:
        with asking.connected(forgets=True):
            facts = asking.facts()
        with client.connected():
            granted = client.subscribe(filters[:MAX_FILTERS]) if filters else {}
        facts = replace(facts, granted=granted)
        if facts.max_qos < 1:
            return facts  # it ends whoever publishes at QoS 1
        tried = {topic: _refusal(settings, name, topic, retain=facts.has_retain) for topic in own}
        facts = replace(facts, denied={topic: why for topic, why in tried.items() if why is not None})
        told = _told(settings, name)  # before the queue is tried: what that loses counts there
        facts = replace(facts, dropped=_number(told.get(DROPPED)), version=told.get(VERSION))
        return facts if own[1] in facts.denied else _with_queue(facts, settings, own[1], name)
    except OSError as error:  # ssl.SSLError is one
        return BrokerFacts(refused=str(error) or type(error).__name__)


def _refusal(settings: BrokerSettings, name: str, topic: str, *, retain: bool) -> str | None:
    """Why a message there is refused, or does not come back; None where it does. In a session of its own:
    Mosquitto 2.0.11 ends one whose message it refused.
    """
    client = _Client(settings, name)
    with client.connected():
        client.subscribe([topic])
        if (reason := client.publish(topic, b"1", retain=retain)) is not None:
            return f"publishing is refused ({reason})"
        came_back = client.wait(lambda: topic in client.received, QUIET_SECONDS)
        if retain:
            client.publish(topic, b"", retain=True)
    return None if came_back else "what is published there does not come back to a subscription"


def _with_queue(facts: BrokerFacts, settings: BrokerSettings, topic: str, name: str) -> BrokerFacts:
    """A session goes away, messages are published for it, it comes back and counts them."""
    away = _Client(settings, f"{name}-queue", expiry_seconds=QUEUE_EXPIRY_SECONDS)
    with away.connected():
        away.subscribe([topic])
    publisher = _Client(settings, name)
    with publisher.connected():
        accepted = publisher.publish_all(topic, QUEUE_MESSAGES)
    back = _Client(settings, f"{name}-queue", expiry_seconds=QUEUE_EXPIRY_SECONDS, resumes=True)
    with back.connected(forgets=True):
        if not accepted:
            return facts
        seen = -1
        while seen < back.count < QUEUE_MESSAGES:
            seen = back.count
            back.wait(lambda seen=seen: back.count > seen, QUIET_SECONDS)  # type: ignore[misc]
        return replace(facts, sent=QUEUE_MESSAGES, kept=min(back.count, QUEUE_MESSAGES), resumed=back.resumed)


def _told(settings: BrokerSettings, name: str) -> Mapping[str, str]:
    """What the broker says of itself. In a session of its own: some brokers end one that asks."""
    client = _Client(settings, name)
    try:
        with client.connected():
            client.subscribe([DROPPED, VERSION], qos=0, retained=True)
            client.wait(lambda: DROPPED in client.received, TELL_SECONDS)
            return {
                topic: payload.decode(errors="replace")[:100] for topic, payload in client.received.items()
            }
    except OSError:
        return {}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) < 19 else None


class _Client:
    """paho with its answers by packet. Callbacks run in paho's thread; each ends with a notification."""

    def __init__(
        self,
        settings: BrokerSettings,
        identifier: str,
        *,
        expiry_seconds: int = 0,
        resumes: bool = False,
    ) -> None:
        self._settings = settings
        self._clean = not resumes
        self._expiry_seconds = expiry_seconds
        self._changed = threading.Condition()
        self._subscribed: dict[int, list[ReasonCode]] = {}
        self._published: dict[int, ReasonCode] = {}
        self._code: ReasonCode | None = None
        self._ended: str | None = None
        self._connack: Properties | None = None
        self.resumed = False
        self.count = 0
        self.received: dict[str, bytes] = {}
        self._paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=identifier,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._paho.max_inflight_messages_set(WINDOW)
        self._paho.max_queued_messages_set(0)
        self._paho.connect_timeout = settings.connect_timeout.total_seconds()
        password = settings.password
        if settings.username is not None:
            self._paho.username_pw_set(
                settings.username, None if password is None else password.get_secret_value()
            )
        self._tls = tls_context(settings)
        if self._tls is not None:
            self._paho.tls_set_context(self._tls)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_publish = self._on_publish
        self._paho.on_message = self._on_message

    @contextmanager
    def connected(self, *, forgets: bool = False) -> Iterator[None]:
        """Raises OSError where no session can be had. `forgets`: the broker drops the session at the end."""
        url = urlsplit(self._settings.urls[0])
        introduction = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        introduction.SessionExpiryInterval = self._expiry_seconds
        introduction.ReceiveMaximum = WINDOW
        self._paho.connect(
            url.hostname or "127.0.0.1",
            url.port or (1883 if self._tls is None else 8883),
            keepalive=30,
            clean_start=self._clean,
            properties=introduction,
        )
        self._paho.loop_start()
        try:
            seconds = self._settings.connect_timeout.total_seconds()
            if not self.wait(lambda: self._code is not None or self._ended is not None, seconds):
                raise BrokerSilent(f"no answer to CONNECT within {seconds:g} s")
            if self._code is None or self._code.is_failure:
                raise BrokerSilent(f"the broker refuses the connection: {self._code or self._ended}")
            yield
        finally:
            farewell = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            if forgets:
                farewell.SessionExpiryInterval = 0
            self._paho.disconnect(properties=farewell)
            self._paho.loop_stop()

    def facts(self) -> BrokerFacts:
        """What the CONNACK says."""
        said = self._connack
        expiry = getattr(said, "SessionExpiryInterval", None)
        return BrokerFacts(
            max_qos=getattr(said, "MaximumQoS", 2),
            has_retain=getattr(said, "RetainAvailable", 1) != 0,
            has_identifiers=getattr(said, "SubscriptionIdentifierAvailable", 1) != 0,
            max_packet_bytes=getattr(said, "MaximumPacketSize", None),
            session_expiry_seconds=expiry,
        )

    def subscribe(self, filters: Sequence[str], *, qos: int = 1, retained: bool = False) -> dict[str, int]:
        """The reason codes of the SUBACK, by filter. Raises BrokerSilent."""
        options = SubscribeOptions(qos=qos, retainHandling=0 if retained else NOT_RETAINED)
        code, number = self._paho.subscribe([(name, options) for name in filters])
        self._expect(code, lambda: number in self._subscribed, "SUBSCRIBE")
        codes = self._subscribed[number or 0]
        return {name: given.value for name, given in zip(filters, codes, strict=False)}

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> str | None:
        """At QoS 1; why it was refused, None where it was taken. Raises BrokerSilent."""
        made = self._paho.publish(topic, payload, 1, retain=retain)
        self._expect(made.rc, lambda: made.mid in self._published, "PUBLISH")
        reason = self._published[made.mid]
        return str(reason) if reason.is_failure else None

    def publish_all(self, topic: str, count: int) -> bool:
        """Whether the broker accepted each. Raises BrokerSilent."""
        self._published.clear()
        made = [self._paho.publish(topic, b"%d" % number, 1).mid for number in range(count)]
        self._expect(
            MQTTErrorCode.MQTT_ERR_SUCCESS,
            lambda: len(self._published) >= count,
            "PUBLISH",
            seconds=QUEUE_SECONDS,
        )
        return not any(self._published[number].is_failure for number in made)

    def wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it holds within this time, or before the connection ends."""
        with self._changed:
            self._changed.wait_for(lambda: holds() or self._ended is not None, seconds)
            return holds()

    def _expect(
        self, code: MQTTErrorCode, holds: Callable[[], bool], packet: str, *, seconds: float = ANSWER_SECONDS
    ) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or not self.wait(holds, seconds):
            raise BrokerSilent(
                f"no answer to {packet}" + (f": {self._ended}" if self._ended else f" within {seconds:g} s")
            )

    def _on_connect(
        self, _: paho.Client, __: object, flags: paho.ConnectFlags, code: ReasonCode, said: Properties | None
    ) -> None:
        with self._changed:
            self._code, self.resumed, self._connack = code, flags.session_present, said
            self._changed.notify_all()

    def _on_disconnect(
        self, _: paho.Client, __: object, ___: paho.DisconnectFlags, code: ReasonCode, ____: Properties | None
    ) -> None:
        with self._changed:
            self._ended = f"the connection ended ({code})"
            self._changed.notify_all()

    def _on_subscribe(
        self, _: paho.Client, __: object, number: int, codes: list[ReasonCode], ___: Properties | None
    ) -> None:
        with self._changed:
            self._subscribed[number] = codes
            self._changed.notify_all()

    def _on_publish(
        self, _: paho.Client, __: object, number: int, code: ReasonCode, ___: Properties | None
    ) -> None:
        with self._changed:
            self._published[number] = code
            self._changed.notify_all()

    def _on_message(self, _: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.count += 1
            if len(self.received) < MAX_FILTERS and (message.payload or message.topic not in self.received):
                self.received[message.topic] = bytes(message.payload)
            self._changed.notify_all()
