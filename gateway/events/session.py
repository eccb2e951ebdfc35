"""The control plane's MQTT client: aiomqtt made strict. A new client object for each connection, since an old
one keeps ghosts.

aiomqtt 2.5 ignores the PUBACK's reason, lets paho keep a "failed" publish and send it later, and does not
wake a publish when the connection ends. It is pinned exactly, because this module reads its private
attributes.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import aiomqtt
import structlog
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway import clock
from gateway.broker_tls import tls_context
from gateway.model.backoff import full_jitter
from gateway.model.rotation import Rotation
from gateway.settings import BrokerSettings

log = structlog.get_logger(__name__)

PUBLISH_SECONDS = 5.0
RECONNECT_BASE_SECONDS = 0.5
RECONNECT_CAP_SECONDS = 15.0
FAREWELL_SECONDS = 2.0
STABLE_SECONDS = 10.0
KEEPALIVE_SECONDS = 10


class PublishRefused(aiomqtt.MqttError):
    """The broker took the packet and refused the message (its access list, say): this topic, not the
    connection.
    """


class StrictClient(aiomqtt.Client):
    """Publishes only while connected, and only succeeds on a good PUBACK."""

    def __init__(
        self, settings: BrokerSettings, identifier: str, will: aiomqtt.Will | None, tls: ssl.SSLContext | None
    ) -> None:
        url = urlsplit(settings.urls[0])
        super().__init__(
            url.hostname or "127.0.0.1",
            url.port or (1883 if tls is None else 8883),
            username=settings.username,
            password=None if settings.password is None else settings.password.get_secret_value(),
            identifier=identifier,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            will=will,
            timeout=settings.connect_timeout.total_seconds(),
            keepalive=KEEPALIVE_SECONDS,
            tls_context=tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self.pending_calls_threshold = 1_000_000
        self._reasons: dict[int, ReasonCode] = {}

    async def retain(self, topic: str, payload: bytes) -> None:
        """Publishes at QoS 1, retained; an empty payload removes it. Raises MqttError
        without a good PUBACK.
        """
        await self.publish_once(topic, payload, retain=True)

    async def publish_once(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        content_type: str | None = None,
        expiry_seconds: int | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Publishes at QoS 1; returns on a good PUBACK. Raises PublishRefused on a bad one, and MqttError
        where none came.
        """
        if self._disconnected.done():
            raise aiomqtt.MqttError("not connected")  # paho would keep it and send it at some later time
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if content_type is not None:
            properties.ContentType = content_type
        if expiry_seconds is not None:
            properties.MessageExpiryInterval = expiry_seconds
        if correlation is not None:
            properties.CorrelationData = correlation
        info = self._client.publish(topic, payload, 1, retain=retain, properties=properties)
        if info.rc != 0:
            raise aiomqtt.MqttError(f"publish to {topic}: code {info.rc}")
        if not info.is_published():
            await self._acknowledged(info.mid, topic)
        reason = self._reasons.pop(info.mid, None)
        if reason is not None and reason.is_failure:
            raise PublishRefused(f"the broker refused the publish to {topic}: {reason}")

    async def ended(self) -> None:
        """Returns when the connection has ended, however it did."""
        await asyncio.wait({self._disconnected})

    async def _acknowledged(self, mid: int, topic: str) -> None:
        confirmation = asyncio.Event()
        self._pending_publishes[mid] = confirmation
        waiter: asyncio.Future[None] = asyncio.ensure_future(occurred(confirmation))
        try:
            done, _ = await asyncio.wait(
                {waiter, self._disconnected}, timeout=PUBLISH_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
            self._pending_publishes.pop(mid, None)
        if waiter not in done:
            raise aiomqtt.MqttError(f"no PUBACK for {topic}")

    def _on_publish(
        self, client: PahoClient, userdata: object, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._reasons[mid] = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)


class ControlSession:
    """Keeps one client connected: `serve` runs with each new one, and is over when it returns without an
    error. Where a broker that stands earlier in the list answers again `serve` is cancelled, and runs there.

    `farewell` is said before a disconnection of our own, for the broker keeps the last will to itself then.
    """

    def __init__(
        self,
        name: str,
        settings: BrokerSettings,
        *,
        serve: Callable[[StrictClient], Awaitable[None]],
        will: Callable[[], aiomqtt.Will] | None = None,
        farewell: Callable[[StrictClient], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._will = will
        self._serve = serve
        self._farewell = farewell
        self._identifier = (  # nobody else can guess it, and push us off
            f"fieldgate-{name}-{secrets.token_hex(12)}"
        )
        self._rotation = Rotation(settings.urls)
        for url in settings.urls:
            tls_context(settings.at(url))  # files that cannot be used end us now

    async def run(self) -> None:
        """Until `serve` returns or this is cancelled. Reconnects with full jitter, saying once that it is
        down and once that it is up.
        """
        attempt, down, since = 0, False, clock.monotonic()
        while True:
            try:
                will = self._will() if self._will else None
                async with self._client(self._rotation.current, self._identifier, will) as client:
                    if down:
                        log.info("events.broker_returned", client=self._name, broker=self._rotation.current)
                    down, since = False, clock.monotonic()
                    try:
                        earlier = await self._until_earlier(client)
                    finally:
                        await self._part(client)
                if earlier is None:
                    return
                log.info("events.broker_changed", client=self._name, broker=earlier)
                self._rotation.answers(earlier)
                continue
            except (aiomqtt.MqttError, OSError) as error:
                lasted = not down and clock.monotonic() - since > STABLE_SECONDS
                if not down:
                    log.warning(
                        "events.broker_away",
                        client=self._name,
                        broker=self._rotation.current,
                        detail=str(error),
                    )
                down = True
                if not self._rotation.ended(steady=lasted):
                    continue
                attempt = 1 if lasted else attempt + 1  # being let in and thrown out again is no success
            await asyncio.sleep(
                full_jitter(
                    attempt,
                    rand=random.random(),
                    base_seconds=RECONNECT_BASE_SECONDS,
                    cap_seconds=RECONNECT_CAP_SECONDS,
                )
            )

    def _client(self, url: str, identifier: str, will: aiomqtt.Will | None) -> StrictClient:
        settings = self._settings.at(url)
        return StrictClient(settings, identifier, will, tls_context(settings))

    async def _until_earlier(self, client: StrictClient) -> str | None:
        """Serves until that is over (None), or until one of the earlier brokers answers again: its URL."""
        every = self._settings.return_interval
        if every is None or not self._rotation.earlier:
            await self._serve(client)
            return None
        serving = asyncio.ensure_future(self._serve(client))
        try:
            while True:
                await asyncio.wait({serving}, timeout=every.total_seconds())
                url = None if serving.done() else await self._answering()
                if serving.done():
                    serving.result()
                    return None
                if url is not None:
                    return url
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _answering(self) -> str | None:
        for url in self._rotation.earlier:
            with suppress(aiomqtt.MqttError, OSError):
                async with self._client(url, f"fieldgate-ask-{secrets.token_hex(12)}", None):
                    return url
        return None

    async def _part(self, client: StrictClient) -> None:
        if self._farewell is None:
            return
        with suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._farewell(client)


async def occurred(event: asyncio.Event) -> None:
    """Waits, as a future of nothing."""
    await event.wait()
