"""aiomqtt and asyncpg, as their documentation has it, by `rows` (a statement a message) or `executemany` (what
has arrived meanwhile, 1000 at most). aiomqtt acknowledges a message as it receives it and has no way to wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import aiomqtt
import asyncpg
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

INSERT = "insert into sample (device, ts, metrics) values ($1, $2, $3) on conflict do nothing"
BATCH = 1000


def row(message: aiomqtt.Message) -> tuple[str, int, str]:
    body = json.loads(bytes(message.payload))
    return body["device"], body["ts"], json.dumps(body["metrics"])


def session() -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = 65534
    return aiomqtt.Client(
        "127.0.0.1",
        int(os.environ["PEER_BROKER_PORT"]),
        identifier=os.environ["PEER_CLIENT"],
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
    )


async def rows(store: asyncpg.Connection) -> None:
    async with session() as subscribed:
        await subscribed.subscribe(os.environ["PEER_FILTER"], qos=1)
        async for message in subscribed.messages:
            await store.execute(INSERT, *row(message))


async def executemany(store: asyncpg.Connection) -> None:
    waiting: list[tuple[str, int, str]] = []
    arrived = asyncio.Event()

    async def write() -> None:
        while True:
            await arrived.wait()
            while waiting:
                batch = waiting[:BATCH]
                del waiting[:BATCH]
                await store.executemany(INSERT, batch)
            arrived.clear()

    async with asyncio.TaskGroup() as tasks, session() as subscribed:
        tasks.create_task(write())
        await subscribed.subscribe(os.environ["PEER_FILTER"], qos=1)
        async for message in subscribed.messages:
            waiting.append(row(message))
            arrived.set()


async def main() -> None:
    store = await asyncpg.connect(os.environ["PEER_DSN"])
    await {"rows": rows, "executemany": executemany}[sys.argv[1]](store)


if __name__ == "__main__":
    asyncio.run(main())
