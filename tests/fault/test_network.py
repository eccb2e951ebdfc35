"""Links that are cut, links that hang, a database that is away, and one connection of several in a black
hole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from benchmarks.relay import Relay
from benchmarks.report import quantile
from benchmarks.servers import wait_until
from tests.fault.rig import Fleet, Rig, started


async def test_a_cut_and_a_hung_broker_link_lose_nothing(tmp_path: Path) -> None:
    async with started(tmp_path) as rig, Relay(rig.broker.port) as relay:
        daemon = rig.daemon(broker_url=f"mqtt://127.0.0.1:{relay.port}", broker={"keepalive": "2s"})
        daemon.start()
        await daemon.ready()
        stopping = asyncio.Event()
        async with Fleet(rig.broker.port) as fleet:
            publishing = asyncio.create_task(fleet.publish_until(stopping, rate=500))
            await rig.reaches("telemetry", 200)
            relay.cut()
            await rig.reaches("telemetry", await rig.count("telemetry") + 500)
            relay.hang()  # the kernel still takes our packets: only silence tells

            async def is_not_ready() -> bool:
                return await daemon.status("/readyz") == 503

            await wait_until(is_not_ready, seconds=20, what="the daemon notices that the link is dead")
            relay.cut()
            relay.resume()
            await rig.reaches("telemetry", await rig.count("telemetry") + 500)
            stopping.set()
            await publishing
        await rig.reaches("telemetry", len(fleet.acknowledged))
        await rig.reaches("fieldgate_reading", len(fleet.acknowledged), dsn=rig.sink_dsn)
        assert await rig.stored() == fleet.acknowledged
        assert await rig.delivered() == fleet.acknowledged
        assert (await daemon.metrics())["fieldgate_mqtt_reconnects_total"] >= 2


async def test_the_session_stays_up_while_the_database_is_away(tmp_path: Path) -> None:
    async with started(tmp_path) as rig, Relay(rig.broker.port) as relay:
        daemon = rig.daemon(broker_url=f"mqtt://127.0.0.1:{relay.port}", broker={"keepalive": "2s"})
        daemon.start()
        await daemon.ready()
        stopping = asyncio.Event()
        async with Fleet(rig.broker.port) as fleet:
            publishing = asyncio.create_task(fleet.publish_until(stopping, rate=500))
            await rig.reaches("telemetry", 200)
            await rig.postgres.kill()
            sent = fleet.sent
            await wait_until(
                lambda: fleet.sent >= sent + 5500,
                what="eleven seconds' worth of samples was published meanwhile",
            )
            await rig.postgres.start()
            back, known = time.monotonic(), await rig.count("telemetry")
            await rig.reaches("telemetry", known + 1)
            assert time.monotonic() - back <= 5
            stopping.set()
            await publishing
        await rig.reaches("telemetry", len(fleet.acknowledged))
        await rig.reaches("fieldgate_reading", len(fleet.acknowledged), dsn=rig.sink_dsn)
        assert await rig.stored() == fleet.acknowledged
        assert await rig.delivered() == fleet.acknowledged
        assert daemon.log.count("ingest.connected") == 1, "the session was lost while the database was away"
        assert daemon.exit_code is None


async def test_a_connection_in_a_black_hole_delays_no_other(tmp_path: Path) -> None:
    async with started(tmp_path) as rig, Relay(rig.postgres.port) as relay:
        hole = f"postgresql://postgres:postgres@127.0.0.1:{relay.port}/sink"
        connections = [rig.connection("well1"), rig.connection("well2"), rig.connection("hole", dsn=hole)]
        daemon = rig.daemon(connections=connections, sync={"push_timeout": "5s", "workers": 4})
        daemon.start()
        await daemon.ready()
        stopping = asyncio.Event()
        async with Fleet(rig.broker.port) as fleet:
            publishing = asyncio.create_task(fleet.publish_until(stopping, rate=100))
            await rig.reaches("fieldgate_reading where connection = 'hole'", 100, dsn=rig.sink_dsn)
            since = time.time()
            await rig.reaches(
                "telemetry", await rig.count("telemetry") + 800
            )  # two spans of as many samples are compared
            relay.hang()
            hung = time.time()
            await rig.reaches("telemetry", await rig.count("telemetry") + 800)
            idle = await _lags(rig, since, hung)
            during = await _lags(rig, hung, time.time())  # delivered while the hole is one
            assert await rig.count(
                "fieldgate_reading where connection = 'hole'", dsn=rig.sink_dsn
            ) < await rig.count("fieldgate_reading where connection = 'well1'", dsn=rig.sink_dsn)
            relay.resume()
            stopping.set()
            await publishing
        # The schedule runs once a second: that is the lag of a healthy connection; a tenth and half a second
        # are noise on a shared machine.
        assert quantile(during, 0.95) <= 1.1 * max(1.0, quantile(idle, 0.95)) + 0.5
        for name in ("well1", "well2", "hole"):
            await rig.reaches(
                f"fieldgate_reading where connection = '{name}'", len(fleet.acknowledged), dsn=rig.sink_dsn
            )
            assert await rig.delivered(name) == fleet.acknowledged


async def _lags(rig: Rig, since: float, until: float) -> list[float]:
    """Seconds from receipt to the sink, of the healthy connections' samples received in the span, once all of
    them are there.
    """
    received = await rig.fetch(
        """select device_id, ts, extract(epoch from received_at)::float8 as at from telemetry
        where received_at between to_timestamp($1) and to_timestamp($2)""",
        since,
        until,
    )
    arrivals = {(row["device_id"], row["ts"]): row["at"] for row in received}
    lags: list[float] = []

    async def are_there() -> bool:
        lags[:] = await _written(rig, arrivals)
        return len(lags) == 2 * len(arrivals)

    await wait_until(are_there, what="the healthy connections have delivered the span's samples", every=0.5)
    return lags


async def _written(rig: Rig, arrivals: Mapping[tuple[str, datetime], float]) -> list[float]:
    written = await rig.fetch(
        """select split_part(meter, '/', 1) as device, window_start, extract(epoch from updated_at)::float8 as at from fieldgate_reading
        where connection like 'well%'""",
        dsn=rig.sink_dsn,
    )
    return [
        row["at"] - arrivals[row["device"], row["window_start"]]
        for row in written
        if (row["device"], row["window_start"]) in arrivals
    ]
