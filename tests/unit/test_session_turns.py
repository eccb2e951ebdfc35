"""A session reads in turns: however fast a broker sends, what else waits on the loop has its turn between."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from typing import cast

import mqtt5
import pytest

from benchmarks.servers import patient
from gateway.ingest.batch import Message
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.session import TURN_BYTES, IngestSession
from gateway.ingest.subscriptions import Subscription
from gateway.settings import BrokerSettings

COUNT = 60
PAYLOAD = b"x" * 60_000
SUBSCRIPTION = Subscription(client_id="c", partition=0, filters=("acme/#",))

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
if sys.platform != "win32":
    import uvloop

    LOOPS.append(uvloop.new_event_loop)


class Taking:
    """A pipeline that notes in which turn of the loop how much came."""

    is_holding = False

    def __init__(self) -> None:
        self.turn = 0
        self.by_turn: dict[int, int] = {}
        self.count = 0
        self.stands_at: int | None = None

    def receive(self, session: IngestSession, messages: Sequence[Message]) -> None:
        size = sum(len(payload) for _, payload, _, _ in messages)
        self.by_turn[self.turn] = self.by_turn.get(self.turn, 0) + size
        self.count += len(messages)
        if self.stands_at is not None and self.count >= self.stands_at:
            session.pause()


def flood() -> bytes:
    sent = mqtt5.ConnAckPacket().write()
    for number in range(1, COUNT + 1):
        sent += mqtt5.PublishPacket(
            "acme/t", payload=PAYLOAD, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number
        ).write()
    return sent


async def connected(taking: Taking) -> tuple[IngestSession, socket.socket]:
    ours, brokers = socket.socketpair()
    for one in (ours, brokers):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        one.setblocking(False)
    settings = BrokerSettings.model_validate({"url": "mqtt://127.0.0.1:1"})
    session = IngestSession(settings, SUBSCRIPTION, cast(Pipeline, taking))
    await asyncio.get_running_loop().create_connection(lambda: session, sock=ours)
    return session, brokers


async def ticking(taking: Taking) -> None:
    while True:
        taking.turn += 1
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with patient(20):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_turn_takes_no_more_than_its_part(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        taking = Taking()
        _, broker = await connected(taking)
        ticks = asyncio.create_task(ticking(taking))
        await asyncio.get_running_loop().sock_sendall(broker, flood())
        await until(lambda: taking.count == COUNT)
        ticks.cancel()
        assert max(taking.by_turn.values()) <= 2 * TURN_BYTES
        broker.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("loop", LOOPS)
def test_who_pauses_in_a_turn_stands_until_told(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        taking = Taking()
        taking.stands_at = 5
        session, broker = await connected(taking)
        ticks = asyncio.create_task(ticking(taking))
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(broker, flood()))
        await until(lambda: taking.count >= 5)
        stood, turn = taking.count, taking.turn
        await until(lambda: taking.turn > turn + 50)
        assert taking.count == stood
        taking.stands_at = None
        session.resume()
        await until(lambda: taking.count == COUNT)
        await sending
        ticks.cancel()
        broker.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
