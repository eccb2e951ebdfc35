"""Listens on the broker for a while as one more subscriber: nothing is acknowledged for anybody else, nothing
stored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence

import aiomqtt

from gateway.events.session import StrictClient, tls_context
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings


async def listen(
    settings: BrokerSettings, filters: Sequence[str], seconds: float
) -> AsyncIterator[tuple[str, bytes, bool]]:
    """Topic, payload and whether the broker had it retained, of each message within `seconds`. At QoS 0, with
    a session of its own that ends. Raises BrokerRefused.
    """
    client = StrictClient(settings, f"fieldgate-discover-{secrets.token_hex(4)}", None, tls_context(settings))
    try:
        async with client:
            for wanted in filters:
                await client.subscribe(wanted, qos=0)
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
        raise BrokerRefused(f"{settings.url}: {error}") from error
