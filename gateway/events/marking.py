"""Publishes marks: empty messages on topics of a customer, by which gateways know how far a session has
read.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack

import aiomqtt

from gateway.events.listening import first_of
from gateway.events.session import PublishRefused, StrictClient
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings


async def mark(settings: BrokerSettings, topics: Sequence[str]) -> None:
    """Publishes an empty message to each, in this order, at QoS 1. Raises BrokerRefused."""
    name = f"fieldgate-mover-{secrets.token_hex(4)}"
    try:
        async with AsyncExitStack() as stack:
            client = await first_of(settings, name, stack, StrictClient)
            for topic in topics:
                await client.publish_once(topic, b"")
    except PublishRefused as error:
        raise BrokerRefused(
            f"{error}: let the gateway's account write to its customers' topics while it moves one of them"
            " (docs/cells.md)"
        ) from error
    except aiomqtt.MqttError as error:
        raise BrokerRefused(f"{', '.join(settings.urls)}: {error}") from error
