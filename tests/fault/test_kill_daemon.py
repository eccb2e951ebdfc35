"""SIGKILL of the daemon at random instants, a restart of the broker and a kill of the database: nothing
acknowledged is lost, nothing is twice.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.fault.rig import Fleet, Rig, size, started

pytestmark = pytest.mark.usefixtures("started_alone")


async def _survives(rig: Rig, *, messages: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    daemon = rig.daemon()
    async with Fleet(rig.broker.port) as fleet:
        daemon.start()
        await daemon.ready()  # its session exists: from now on the broker keeps what it acknowledges
        publishing = asyncio.create_task(fleet.publish(messages, rate=messages / (kills * 2.0)))
        for kill in range(kills):
            # From before it has connected to long after: the instant is the point.
            await asyncio.sleep(chance.uniform(0.2, 3.0))
            await daemon.kill()
            daemon.start()
            if kill == kills // 3:
                await rig.broker.stop()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                await rig.broker.start()
            if kill == 2 * kills // 3:
                await rig.postgres.kill()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                await rig.postgres.start()
        await publishing
        await fleet.flush()
    assert len(fleet.acknowledged) == messages
    await daemon.ready(60)
    await rig.reaches("telemetry", messages, seconds=120)
    await rig.reaches("fieldgate_reading", messages, dsn=rig.sink_dsn, seconds=180)
    assert await daemon.stop() == 0
    assert await rig.stored() == fleet.acknowledged
    assert await rig.delivered() == fleet.acknowledged


async def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await _survives(rig, messages=20_000, kills=4, seed=7)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_nothing_is_lost_or_doubled_over_many_kills(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await _survives(
            rig, messages=size("MESSAGES", 200_000), kills=size("KILLS", 22), seed=size("SEED", 11)
        )
