# mypy: ignore-errors
"""FastStream on MQTT 5: each handler waits until the batch with its message is committed, and acknowledges
then.

FastStream has no batches for MQTT, so many handlers run at a time and a task writes what they hold.
"""

import asyncio
import json
import os

import asyncpg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.mqtt import MQTTBroker
from zmqtt import QoS

INSERT = """insert into sample select * from unnest($1::text[], $2::bigint[], $3::jsonb[])
on conflict do nothing"""
WORKERS = 1000

broker = MQTTBroker(
    f"mqtt://127.0.0.1:{os.environ['PEER_BROKER_PORT']}",
    client_id=os.environ["PEER_CLIENT"],
    clean_session=False,
    session_expiry_interval=3600,
    receive_maximum=1000,  # its queue: with more, a resumed session waits for its SUBACK for ever
    session_replay_buffer_size=0,  # what flows before the subscription is there
    apply_types=False,
    logger=None,
)
app = FastStream(broker, logger=None)
waiting: list[tuple[tuple, asyncio.Future]] = []
arrived = asyncio.Event()


@broker.subscriber(
    os.environ["PEER_FILTER"],
    qos=QoS.AT_LEAST_ONCE,
    ack_policy=AckPolicy.NACK_ON_ERROR,
    no_reply=True,
    decoder=lambda message: message.body,
    max_workers=WORKERS,
)
async def store(body):
    sample = json.loads(body)
    row = sample["device"], sample["ts"], json.dumps(sample["metrics"])
    done = asyncio.get_running_loop().create_future()
    waiting.append((row, done))
    arrived.set()
    await done


async def write():
    pool = await asyncpg.create_pool(os.environ["PEER_DSN"], min_size=1, max_size=2)
    while True:
        await arrived.wait()
        arrived.clear()
        batch = waiting[:]
        waiting.clear()
        while True:
            try:
                await pool.execute(INSERT, *map(list, zip(*(row for row, _ in batch), strict=True)))
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.5)
        for _, done in batch:
            done.set_result(None)


async def main():
    writer = asyncio.create_task(write())
    await app.run()
    writer.cancel()


uvloop.run(main())
