"""Listens on the broker for a while as one more subscriber: nothing is acknowledged for anybody else, nothing
stored.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TypeVar

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.broker_tls import tls_context
from gateway.events.session import StrictClient
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings


class SubscriptionRefused(BrokerRefused):
    """The broker lets us in, and does not let us listen to what was asked for."""


async def listen(
    settings: BrokerSettings, filters: Sequence[str], seconds: float
) -> AsyncIterator[tuple[str, bytes, bool]]:
    """Topic, payload and whether the broker had it retained, of each message within `seconds`. At QoS 0, with
    a session of its own that ends. Raises BrokerRefused.
    """
    name = f"fieldgate-discover-{secrets.token_hex(4)}"
    try:
        async with AsyncExitStack() as stack:
            client = await first_of(settings, name, stack, StrictClient)
            await _subscribe(client, filters, SubscribeOptions(qos=0))
            end = asyncio.get_running_loop().time() + seconds
            messages = aiter(client.messages)
            while (left := end - asyncio.get_running_loop().time()) > 0:
                try:
                    message = await asyncio.wait_for(anext(messages), left)
                except TimeoutError:
                    return
                payload = message.payload if isinstance(message.payload, bytes) else b""
                yield str(message.topic), payload, message.retain
    except aiomqtt.MqttError as error:
        raise BrokerRefused(f"{', '.join(settings.urls)}: {error}") from error


MAX_WAITING = 100
"""Messages that are held for who looks; what comes beyond is dropped."""

MAX_HEARD_BYTES = 64 << 10
"""Of a payload that are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMessage:
    """A message as the broker sent it. `payload`: its first bytes, of `size_bytes`."""

    topic: str
    payload: bytes
    size_bytes: int
    is_retained: bool


class LookingClient(StrictClient):
    """Holds few messages, and of each its first bytes: what comes beyond was not asked for."""

    def __init__(
        self, settings: BrokerSettings, identifier: str, will: aiomqtt.Will | None, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(settings, identifier, will, tls)
        self.heard: asyncio.Queue[TopicMessage] = asyncio.Queue(MAX_WAITING)

    def _on_message(self, client: PahoClient, userdata: object, message: MQTTMessage) -> None:  # noqa: ARG002
        with suppress(asyncio.QueueFull, UnicodeDecodeError):
            self.heard.put_nowait(
                TopicMessage(
                    topic=message.topic,
                    payload=bytes(message.payload[:MAX_HEARD_BYTES]),
                    size_bytes=len(message.payload),
                    is_retained=bool(message.retain),
                )
            )

    async def next_heard(self) -> TopicMessage:
        """Waits for it. Raises MqttError when the connection has ended."""
        if not self.heard.empty():
            return self.heard.get_nowait()
        getting, ended = asyncio.ensure_future(self.heard.get()), asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({getting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise aiomqtt.MqttError("the connection has ended")
        finally:
            getting.cancel()
            ended.cancel()

    def drop_waiting(self) -> None:
        """What waits is not handed over."""
        while not self.heard.empty():
            self.heard.get_nowait()


async def look(
    settings: BrokerSettings, filters: Sequence[str], *, each_second: int
) -> AsyncGenerator[TopicMessage | None, None]:
    """Messages as they come, so many a second at most: where there are more, None, and the filters are given
    up for the rest of the second, so that neither the broker nor anybody here has work that nobody sees. At
    QoS 0, with a session of its own, until it is closed. Raises BrokerRefused.
    """
    name, loop = f"fieldgate-look-{secrets.token_hex(4)}", asyncio.get_running_loop()
    retained = 0  # as they are kept, once: not again each time that the filters are taken up
    try:
        async with AsyncExitStack() as stack:
            client = await first_of(settings, name, stack, LookingClient)
            while True:
                await _subscribe(client, filters, SubscribeOptions(qos=0, retainHandling=retained))
                retained, taken, end = 2, 0, loop.time() + 1.0
                while taken < each_second:
                    yield await client.next_heard()
                    taken += 1
                    if loop.time() > end:
                        taken, end = 0, loop.time() + 1.0
                for wanted in filters:
                    await client.unsubscribe(wanted)
                client.drop_waiting()
                yield None
                await asyncio.sleep(max(0.1, end - loop.time()))
    except aiomqtt.MqttError as error:
        raise BrokerRefused(f"{', '.join(settings.urls)}: {error}") from error


async def _subscribe(client: StrictClient, filters: Sequence[str], options: SubscribeOptions) -> None:
    """Raises SubscriptionRefused where the broker grants not one of them: it would be silent for ever."""
    refused: dict[str, ReasonCode] = {}
    for wanted in filters:
        for reason in await client.subscribe(wanted, options=options):
            if isinstance(reason, ReasonCode) and reason.is_failure:
                refused[wanted] = reason
    if refused and len(refused) == len(filters):
        told = ", ".join(f"{wanted} ({reason})" for wanted, reason in refused.items())
        raise SubscriptionRefused(f"the broker does not let the gateway listen to {told}")


ClientT = TypeVar("ClientT", bound=StrictClient)


async def first_of(
    settings: BrokerSettings, name: str, stack: AsyncExitStack, kind: type[ClientT]
) -> ClientT:
    """The first that answers; the error is that of the last."""
    *others, last = (settings.at(url) for url in settings.urls)
    for one in others:
        with suppress(aiomqtt.MqttError):
            client = kind(one, name, None, tls_context(one))
            await stack.enter_async_context(client)
            return client
    client = kind(last, name, None, tls_context(last))
    await stack.enter_async_context(client)
    return client
