"""Two replicas: when one is killed, the other takes its ingest partition and its streams, and nothing is lost
or doubled.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.servers import wait_until
from tests.fault.rig import Fleet, Rig, started

LEASE_SECONDS = 2.0


async def _ingesting(rig: Rig) -> str | None:
    rows = await rig.fetch(
        "select split_part(owner, '/', 1) from lease where name = 'ingest/0' and lease_until > now()"
    )
    return rows[0][0] if rows else None


async def test_the_other_replica_takes_over(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        replicas = {name: rig.daemon(name) for name in ("first", "second")}
        for daemon in replicas.values():
            daemon.start()
            await daemon.ready()
        stopping = asyncio.Event()
        async with Fleet(rig.broker.port) as fleet:
            publishing = asyncio.create_task(fleet.publish_until(stopping, rate=500))
            await rig.reaches("fieldgate_reading", 200, dsn=rig.sink_dsn)
            victim = await _ingesting(rig)
            assert victim is not None
            survivor = next(name for name in replicas if name != victim)
            await replicas[victim].kill()
            killed_at, known = time.monotonic(), await rig.count("telemetry")

            async def is_taken() -> bool:
                return await _ingesting(rig) == survivor

            await wait_until(is_taken, seconds=15, what="the survivor holds the ingest partition")
            await rig.reaches("telemetry", known + 500, seconds=15)
            assert time.monotonic() - killed_at < 5 * LEASE_SECONDS
            stopping.set()
            await publishing
        await rig.reaches("telemetry", len(fleet.acknowledged))
        await rig.reaches("fieldgate_reading", len(fleet.acknowledged), dsn=rig.sink_dsn)
        assert await rig.stored() == fleet.acknowledged
        assert await rig.delivered() == fleet.acknowledged


async def test_a_replica_that_leaves_hands_over_at_once(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        first, second = (
            rig.daemon("first", sync={"lease": "30s"}),
            rig.daemon("second", sync={"lease": "30s"}),
        )
        first.start()
        await first.ready()
        assert await _ingesting(rig) == "first"
        second.start()
        await second.ready()
        async with Fleet(rig.broker.port) as fleet:
            await fleet.publish(300, rate=1000)
            await fleet.flush()
            assert await first.stop() == 0
            await fleet.publish(300, rate=1000)
            await fleet.flush()
        await rig.reaches("telemetry", 600, seconds=25)
        await rig.reaches("fieldgate_reading", 600, dsn=rig.sink_dsn, seconds=25)
        assert await _ingesting(rig) == "second"
        assert await rig.delivered() == fleet.acknowledged
