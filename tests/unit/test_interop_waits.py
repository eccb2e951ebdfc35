"""What `make interop` waits for ends when a broker stands still, and not when it is slow."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest

from tests.interop import through
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
