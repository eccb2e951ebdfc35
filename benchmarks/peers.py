"""Owns the other consumers, each written as its own documentation has it, with the same receive window as
ours.

`python -m benchmarks.peers NAME PORT CLIENT FILTER COUNT [DSN]` prints `{"first", "last"}`: wall-clock
seconds when it began to connect (the backlog flows from the CONNACK on; aiomqtt shows the first message only
after thousands have been received) and of the last message (for those that store: of the last commit).
Importing is not counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiomqtt
import asyncpg
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WINDOW = 65534
SESSION_SECONDS = 3600
INSERT = """insert into peer_sample (device_id, ts, metrics) values ($1, $2, $3)
on conflict (device_id, ts) do update set metrics = peer_sample.metrics || excluded.metrics"""
TABLE = (
    "create table if not exists peer_sample (device_id text, ts timestamptz, metrics jsonb, primary key"
    " (device_id, ts))"
)


async def _messages(
    port: int, client: str, topic_filter: str, count: int
) -> AsyncIterator[tuple[str, bytes]]:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_SECONDS
    properties.ReceiveMaximum = WINDOW
    session = aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=client,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
    )
    async with session as subscribed:
        await subscribed.subscribe(topic_filter, qos=1)
        received = 0
        async for message in subscribed.messages:
            yield str(message.topic), bytes(message.payload)
            received += 1
            if received == count:
                return


async def aiomqtt_drop(port: int, client: str, topic_filter: str, count: int, _: str) -> tuple[float, float]:
    """aiomqtt: receives, acknowledges and drops."""
    first = time.time()
    async for _message in _messages(port, client, topic_filter, count):
        pass
    return first, time.time()


def _row(topic: str, payload: bytes) -> tuple[str, datetime, str]:
    body = json.loads(payload)
    return topic.split("/")[2], datetime.fromtimestamp(body["ts"] / 1000, UTC), json.dumps(body["metrics"])


async def aiomqtt_rows(
    port: int, client: str, topic_filter: str, count: int, dsn: str
) -> tuple[float, float]:
    """aiomqtt and asyncpg, one statement a message."""
    store = await asyncpg.connect(dsn)
    await store.execute(TABLE)
    first = time.time()
    async for topic, payload in _messages(port, client, topic_filter, count):
        await store.execute(INSERT, *_row(topic, payload))
    last = time.time()
    await store.close()
    return first, last


async def aiomqtt_executemany(
    port: int, client: str, topic_filter: str, count: int, dsn: str
) -> tuple[float, float]:
    """aiomqtt and asyncpg, executemany of 1000."""
    store, rows = await asyncpg.connect(dsn), []
    await store.execute(TABLE)
    first = time.time()
    async for topic, payload in _messages(port, client, topic_filter, count):
        rows.append(_row(topic, payload))
        if len(rows) == 1000:
            await store.executemany(INSERT, rows)
            rows.clear()
    if rows:
        await store.executemany(INSERT, rows)
    last = time.time()
    await store.close()
    return first, last


async def paho_drop(port: int, client: str, topic_filter: str, count: int, _: str) -> tuple[float, float]:
    """paho on MQTT 5, in its own loop: receives, acknowledges and drops."""
    return await asyncio.to_thread(_paho, port, client, topic_filter, count)


def _paho(port: int, client: str, topic_filter: str, count: int) -> tuple[float, float]:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_SECONDS
    properties.ReceiveMaximum = WINDOW
    received = 0

    def on_message(consumer: Client, _userdata: object, _message: MQTTMessage) -> None:
        nonlocal received
        received += 1
        if received == count:
            consumer.disconnect()

    consumer = Client(CallbackAPIVersion.VERSION2, client_id=client, protocol=MQTTv5)
    consumer.on_message = on_message
    first = time.time()
    consumer.connect("127.0.0.1", port, clean_start=False, properties=properties)
    consumer.subscribe(topic_filter, qos=1)
    consumer.loop_forever()
    return first, time.time()


PEERS = {
    "aiomqtt": aiomqtt_drop,
    "paho": paho_drop,
    "aiomqtt_asyncpg_rows": aiomqtt_rows,
    "aiomqtt_asyncpg_executemany": aiomqtt_executemany,
}


def main(name: str, port: str, client: str, topic_filter: str, count: str, dsn: str = "") -> None:
    """Drains one backlog."""
    first, last = asyncio.run(PEERS[name](int(port), client, topic_filter, int(count), dsn))
    print(json.dumps({"first": first, "last": last}))


if __name__ == "__main__":
    main(*sys.argv[1:])
