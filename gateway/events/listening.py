"""Listens on the broker for a while as one more subscriber: nothing is acknowledged for anybody else, nothing
stored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress

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
    name = f"fieldgate-discover-{secrets.token_hex(4)}"
    try:
        async with AsyncExitStack() as stack:
            client = await _first(settings, name, stack)
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
        raise BrokerRefused(f"{', '.join(settings.urls)}: {error}") from error


async def _first(settings: BrokerSettings, name: str, stack: AsyncExitStack) -> StrictClient:
    """The first that answers; the error is that of the last."""
    *others, last = (settings.at(url) for url in settings.urls)
    for one in others:
        with suppress(aiomqtt.MqttError):
            return await stack.enter_async_context(StrictClient(one, name, None, tls_context(one)))
    return await stack.enter_async_context(StrictClient(last, name, None, tls_context(last)))
