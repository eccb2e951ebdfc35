"""A broker that is looked at: at a bounded pace, what is retained once, and until it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import aiomqtt
import pytest

from benchmarks.servers import PATIENCE, Mosquitto, wait_until
from gateway.events.listening import MAX_HEARD_BYTES, SubscriptionRefused, TopicMessage, listen, look
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings
from tests.fixtures.broker_script import Link, ScriptedBroker, publish


def settings_of(port: int) -> BrokerSettings:
    return BrokerSettings.model_validate({"url": f"mqtt://127.0.0.1:{port}"})


async def test_a_flood_is_seen_in_part_and_what_is_kept_once(mosquitto: Mosquitto) -> None:
    heard: list[TopicMessage | None] = []

    async def listen() -> None:
        async with aclosing(look(settings_of(mosquitto.port), ["f/#"], each_second=5)) as messages:
            async for message in messages:
                heard.append(message)  # noqa: PERF401 - one after another

    async with aiomqtt.Client("127.0.0.1", mosquitto.port, identifier="device") as device:
        await device.publish("f/kept", b"k" * (MAX_HEARD_BYTES + 1), retain=True, qos=1)
        listening = asyncio.create_task(listen())

        async def flooded() -> bool:
            for number in range(50):
                await device.publish(f"f/{number}", b"x", qos=1)
            return heard.count(None) >= 3

        await wait_until(flooded, what="more than is shown, three times", seconds=30)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    kept = [one for one in heard if one is not None and one.is_retained]
    assert [(one.topic, one.size_bytes, len(one.payload)) for one in kept] == [
        ("f/kept", MAX_HEARD_BYTES + 1, MAX_HEARD_BYTES)
    ]
    parts = "".join("n" if one is None else "m" for one in heard).split("n")
    assert all(len(part) == 5 for part in parts[:3]) and len(parts[-1]) <= 5


async def test_a_quiet_topic_is_seen_whole_and_in_order(mosquitto: Mosquitto) -> None:
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, identifier="device") as device:
        messages = look(settings_of(mosquitto.port), ["q/#"], each_second=5)
        first = asyncio.ensure_future(anext(messages))

        async def comes() -> bool:
            await device.publish("q/a", b"0", qos=1)
            return first.done()

        await wait_until(comes, what="the first message", seconds=15)
        for number in range(1, 4):
            await device.publish("q/a", str(number).encode(), qos=1)
        seen: list[bytes] = []
        while not seen or seen[-1] != b"3":
            message = await anext(messages)
            if message is not None:
                seen.append(message.payload)
        assert seen[-3:] == [b"1", b"2", b"3"]
        await messages.aclose()


async def test_a_broker_that_ends_is_said(mosquitto: Mosquitto) -> None:
    messages = look(settings_of(mosquitto.port), ["q/#"], each_second=5)
    waiting = asyncio.ensure_future(anext(messages))
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, identifier="device") as device:

        async def comes() -> bool:
            await device.publish("q/a", b"0", qos=1)
            return waiting.done()

        await wait_until(comes, what="the first message", seconds=15)
    await mosquitto.stop()
    with pytest.raises(BrokerRefused):
        async for _ in messages:
            pass


async def test_a_broker_that_grants_nothing_is_said_and_what_it_grants_of_several_is_heard() -> None:
    async def script(link: Link) -> None:
        link.send(publish("q/a", b"0", None))

    async with ScriptedBroker(script).running() as broker:
        settings = BrokerSettings.model_validate({"url": broker.url})
        broker.refused = {"r/#"}
        with pytest.raises(SubscriptionRefused, match="does not let the gateway listen to r/#"):
            await asyncio.wait_for(anext(look(settings, ["r/#"], each_second=5)), 10 * PATIENCE)
        with pytest.raises(SubscriptionRefused):
            await asyncio.wait_for(anext(aiter(listen(settings, ["r/#"], 0.5))), 10 * PATIENCE)
        messages = look(settings, ["q/#", "r/#"], each_second=5)
        message = await asyncio.wait_for(anext(messages), 10 * PATIENCE)
        assert message is not None and message.topic == "q/a"
        await messages.aclose()
