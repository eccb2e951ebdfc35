"""A real Patroni cluster as the gateway's database: it loses its leader in the middle of a load, fails over
by itself, takes the old one back as its standby, and loses that leader too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks.patroni import Cluster, documented, programs
from benchmarks.servers import wait_until
from tests.fault.rig import Fleet, size, started


def test_the_documented_configuration_loses_nothing() -> None:
    """Runs everywhere: what the page says is whole, and synchronous."""
    found = documented()
    assert found["bootstrap"]["dcs"]["synchronous_mode"] is True
    assert found["bootstrap"]["dcs"]["postgresql"]["parameters"]["synchronous_commit"] == "on"
    assert {"superuser", "replication", "rewind"} == set(found["postgresql"]["authentication"])


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    try:
        await made.start()
        yield made
    except BaseException:
        print(made.log)
        raise
    finally:
        await made.stop()


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.skipif(programs() is None, reason="Patroni and etcd are not here: make patroni")
async def test_a_patroni_cluster_fails_over_by_itself(tmp_path: Path, record_property: Any) -> None:
    messages, rate = size("MESSAGES", 100_000), 1_000
    stood: list[float] = []
    async with cluster() as patroni, started(tmp_path) as rig:
        connection = await asyncpg.connect(patroni.dsn("postgres"))
        await connection.execute("create database fieldgate")
        await connection.close()
        rig.dsn = patroni.dsn("fieldgate")
        replicas = [rig.daemon(name, sync={"lease": "15s"}) for name in ("first", "second")]
        for daemon in replicas:
            daemon.start()
            await daemon.ready()
        async with Fleet(rig.broker.port) as fleet:
            stopping = asyncio.Event()
            publishing = asyncio.create_task(fleet.publish_until(stopping, rate=rate))
            for part in (1, 2):
                await rig.reaches("telemetry", messages * part // 3, seconds=600)
                leader = await patroni.leader()
                known = await rig.count("telemetry")
                await leader.kill()
                killed_at = time.monotonic()
                await rig.reaches("telemetry", known + rate, seconds=120)
                stood.append(round(time.monotonic() - killed_at, 1))
                assert await patroni.leader() is not leader
                patroni.restart(leader)
                await patroni.in_step()
            await wait_until(
                lambda: fleet.sent >= messages, seconds=600, what=f"{messages} messages are sent"
            )
            stopping.set()
            await publishing
        await rig.reaches("telemetry", len(fleet.acknowledged), seconds=600)
        await rig.reaches("fieldgate_reading", len(fleet.acknowledged), dsn=rig.sink_dsn, seconds=600)
        assert await rig.stored() == fleet.acknowledged
        assert await rig.delivered() == fleet.acknowledged
        assert [daemon.exit_code for daemon in replicas] == [None, None]
    record_property("seconds_from_kill", stood)
    print(
        "seconds from the kill of the leader until messages are stored again:", stood, len(fleet.acknowledged)
    )
