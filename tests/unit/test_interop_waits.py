"""What `make interop` waits for ends when a broker stands still, and not when it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import mqtt5
import pytest

from gateway.store.pool import Database
from tests.interop import run, suite, through
from tests.interop.adapters import Broker
from tests.interop.client import Client
from tests.interop.through import Fleet

STEP, STILL = 0.05, 0.6


async def test_messages_that_come_slowly_come() -> None:
    client = Client(0, "slow")

    async def comes() -> None:
        for number in range(30):
            await asyncio.sleep(STEP)
            client._take(mqtt5.PublishPacket("t", payload=b"%d" % number))
            client._changed.set()

    coming = asyncio.create_task(comes())
    assert len(await client.messages(30, STILL)) == 30
    await coming
    assert len(await client.messages(31, STEP)) == 30, "the last one never comes"


async def test_a_slow_broker_is_waited_for_and_one_that_stands_still_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(through, "STALL_SECONDS", STILL / 3)
    fleet = Fleet(lambda: 0, 30)

    async def acknowledges() -> None:
        for number in range(29):
            await asyncio.sleep(STEP)
            fleet.acknowledged.add(number)

    going = asyncio.create_task(acknowledges())
    await fleet.until(lambda: len(fleet.acknowledged) == 29, "most of it is published")
    await going
    with pytest.raises(TimeoutError, match="all is published"):
        await fleet.until(lambda: len(fleet.acknowledged) == 30, "all is published")


class Rows:
    """A database that has one row less than wanted until `late` seconds have passed."""

    def __init__(self, late: float) -> None:
        self._until = asyncio.get_running_loop().time() + late

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Rows]:
        yield self

    async def fetchval(self, _query: str) -> int:
        return 10 if asyncio.get_running_loop().time() >= self._until else 9


async def test_what_a_cluster_holds_for_a_while_is_not_lost() -> None:
    late = through.POLL_SECONDS * 1.5
    assert await through._settled(cast(Database, Rows(late)), 10, quiet=4 * late) == 10
    assert await through._settled(cast(Database, Rows(60)), 10, quiet=late) == 9
    assert through.quiet_seconds(nodes=3) > 60, "RabbitMQ's consumer_disconnected_timeout"


async def test_a_node_that_refuses_at_first_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "NODE_SECONDS", STILL)
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            await reader.read(1 << 16)
            writer.write(mqtt5.ConnAckPacket(session_present=True).write())
            for number in range(suite.QUEUED):
                packet = mqtt5.PublishPacket(
                    "t", payload=b"%d" % number, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number + 1
                )
                writer.write(packet.write())
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await suite._kept(server.sockets[0].getsockname()[1], "one", "queued")
    assert asked == 2


async def test_a_check_that_takes_too_long_is_no_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHECK_SECONDS", STEP)

    async def long(_broker: Broker) -> str:
        await asyncio.Event().wait()
        return "yes"

    found = await run.checked(
        cast(Broker, None), suite.Check(name="long", title="Long", required=True, run=long)
    )
    assert (found["outcome"], found["said"]) == ("error", "not done within 0.05 s")
