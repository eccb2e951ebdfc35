"""Initial sync from stored samples beside live traffic, with SIGKILLs on the way: every window once, with the
right value, and no gap at the seam.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from benchmarks.daemon import Daemon
from benchmarks.report import quantile
from benchmarks.servers import wait_until
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fault.rig import CUSTOMER, EACH, Fleet, Rig, size, started
from tests.fixtures import sink

Sample = tuple[str, datetime, float, float]
"""device, time, temperature, pressure."""
Window = tuple[str, datetime]
"""meter, start."""


def _meters(every: str) -> list[dict[str, object]]:
    return [
        {"device": "s*", "metric": "temperature", "meter": "{device}/mean", "reduce": "mean", "every": every},
        {"device": "s*", "metric": "pressure", "meter": "{device}/max", "reduce": "max", "every": every},
    ]


async def _store(rig: Rig, samples: Iterator[Sample], devices: int, days: int) -> None:
    """Writes samples as ingest would have, before any connection exists: a device, its
    rows, many revisions.
    """
    database = await Database.open(rig.dsn, size=3)
    await migrate(database)
    await database.close()
    connection = await asyncpg.connect(rig.dsn)
    try:
        await connection.execute("insert into customer values ($1) on conflict do nothing", CUSTOMER)
        await connection.execute(
            "insert into device (customer_id, device_id) select $1, 's' || g from generate_series(0, $2) g",
            CUSTOMER,
            devices - 1,
        )
        for day in range(days + 2):
            await connection.execute(
                "select ensure_partition('telemetry', $1::date)",
                (datetime.now(UTC) - timedelta(days=day)).date(),
            )
        now, batch = datetime.now(UTC), []
        for device, at, temperature, pressure in samples:
            batch.append(
                (CUSTOMER, device, at, json.dumps({"temperature": temperature, "pressure": pressure}), now, 0)
            )
            if len(batch) == 5000:
                await _copy(connection, batch)
        await _copy(connection, batch)
    finally:
        await connection.close()


async def _copy(
    connection: asyncpg.Connection[asyncpg.Record], batch: list[tuple[str, str, datetime, str, datetime, int]]
) -> None:
    columns = ["customer_id", "device_id", "ts", "metrics", "received_at", "revision"]
    await connection.copy_records_to_table("telemetry", records=batch, columns=columns)
    batch.clear()


async def _expected(rig: Rig, every: timedelta) -> dict[Window, float]:
    """The oracle: each window's value from what telemetry holds at the end, in plain Python and by another
    way than the gateway's.
    """
    held: dict[Window, list[float]] = defaultdict(list)
    connection = await asyncpg.connect(rig.dsn)
    try:
        async with connection.transaction():
            async for row in connection.cursor(
                "select device_id, ts, metrics::text as metrics from telemetry where device_id like 's%'",
                prefetch=10_000,
            ):
                metrics = json.loads(row["metrics"])
                seconds = math.floor(row["ts"].timestamp() / every.total_seconds()) * every.total_seconds()
                start = datetime.fromtimestamp(seconds, UTC)
                held[f"{row['device_id']}/mean", start].append(metrics["temperature"])
                held[f"{row['device_id']}/max", start].append(metrics["pressure"])
    finally:
        await connection.close()
    return {
        key: max(values) if key[0].endswith("/max") else math.fsum(values) / len(values)
        for key, values in held.items()
    }


async def _delivered(rig: Rig) -> dict[Window, float]:
    rows = await sink.written(rig.sink_dsn, "sink", meters="s%/m%")
    return {(row["meter"], row["window_start"]): row["value"] for row in rows}


def _assert_equal(delivered: dict[Window, float], expected: dict[Window, float]) -> None:
    assert sorted(expected.keys() - delivered.keys())[:5] == [], "windows are missing"
    assert sorted(delivered.keys() - expected.keys())[:5] == [], "windows were made up"
    wrong = [key for key, value in expected.items() if not math.isclose(delivered[key], value, rel_tol=1e-9)]
    assert [(key, delivered[key], expected[key]) for key in wrong[:5]] == []


class _Live(Fleet):
    """A fleet whose samples have the stored ones' metrics."""

    def body(self, at: int, value: float) -> bytes:
        chance = random.Random(at)
        return json.dumps(
            {
                "ts": at,
                "metrics": {
                    "temperature": round(chance.uniform(10, 30), 3),
                    "pressure": round(chance.uniform(900, 1100), 3),
                    "value": value,
                },
            }
        ).encode()


def _history(devices: int, since: datetime, until: datetime, step: timedelta) -> Iterator[Sample]:
    chance, at = random.Random(3), since
    while at < until:
        for device in range(devices):
            yield (
                f"s{device}",
                at + timedelta(milliseconds=device),
                round(chance.uniform(10, 30), 3),
                round(chance.uniform(900, 1100), 3),
            )
        at += step


async def _all_windows(rig: Rig, daemon: Daemon, seconds: float) -> None:
    async def is_done() -> bool:
        try:
            left = await rig.fetch(
                "select (select count(*) from due_window), (select count(*) from stream where phase ="
                " 'initial' and state <> 'done')"
            )
        except (OSError, asyncpg.PostgresError):
            return False
        return tuple(left[0]) == (0, 0)

    await daemon.ready()
    await wait_until(
        is_done, seconds=seconds, what="the initial sync is done and no window is due", every=0.5
    )


async def test_every_window_once_and_no_gap_at_the_seam(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        now = datetime.now(UTC)
        sparse = _history(5, now - timedelta(days=3), now - timedelta(minutes=10), timedelta(minutes=5))
        await _store(rig, sparse, devices=5, days=3)
        await _store_more(rig, _history(5, now - timedelta(minutes=9), now, timedelta(seconds=1)))
        connection = rig.connection("sink", meters=_meters("10s"))
        # A window is late enough to survive the longest outage here: none is delivered before its samples are
        # in.
        daemon = rig.daemon(connections=[connection], sync={"lateness": "12s"})
        chance, stopping = random.Random(5), asyncio.Event()
        daemon.start()
        await daemon.ready()
        async with _Live(rig.broker.port, devices=[f"s{number}" for number in range(5)]) as fleet:
            live = asyncio.create_task(fleet.publish_until(stopping, rate=200))
            for _ in range(2):
                await asyncio.sleep(chance.uniform(0.3, 2.0))
                await daemon.kill()
                daemon.start()
            await rig.reaches("fieldgate_reading", 4000, dsn=rig.sink_dsn)
            stopping.set()
            await live
        await rig.reaches("telemetry where metrics ? 'value'", len(fleet.acknowledged))
        await _all_windows(rig, daemon, 60)
        assert await daemon.stop() == 0
        _assert_equal(await _delivered(rig), await _expected(rig, timedelta(seconds=10)))


async def _store_more(rig: Rig, samples: Iterator[Sample]) -> None:
    now = datetime.now(UTC)
    connection = await asyncpg.connect(rig.dsn)
    try:
        await _copy(
            connection,
            [
                (CUSTOMER, device, at, json.dumps({"temperature": t, "pressure": p}), now, 0)
                for device, at, t, p in samples
            ],
        )
    finally:
        await connection.close()


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_month_of_history_beside_live_traffic(tmp_path: Path) -> None:
    devices, days, samples, rate, kills = (
        size("DEVICES", 100),
        size("DAYS", 30),
        size("SAMPLES", 1_000_000),
        size("RATE", 1000),
        size("KILLS", 5),
    )
    async with started(tmp_path) as rig:
        # The history ends with a whole window, so that nothing but the live traffic is still open (the seam
        # within a window is the short test's).
        end = datetime.fromtimestamp(time.time() // 900 * 900, UTC)
        step = timedelta(days=days) * devices / samples
        await _store(
            rig,
            _history(devices, datetime.now(UTC) - timedelta(days=days) + timedelta(minutes=20), end, step),
            devices=devices,
            days=days,
        )
        meters = [*_meters("15m"), *EACH]
        daemon = rig.daemon(connections=[rig.connection("sink", meters=meters)], sync={"lateness": "30s"})
        chance, stopping, calm = random.Random(5), asyncio.Event(), []
        daemon.start()
        async with Fleet(rig.broker.port, devices=[f"live{number}" for number in range(100)]) as fleet:
            await daemon.ready()
            live = asyncio.create_task(fleet.publish_until(stopping, rate=rate))
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(1.0, 4.0))
                await daemon.kill()
                daemon.start()
            await daemon.ready()
            busy = await _calm_span(rig, 10, "initial' and state <> 'done")
            calm.append(busy)
            await _initial_done(rig)
            calm.append(await _calm_span(rig, 10, "incremental"))
            stopping.set()
            await live
        await rig.reaches(
            "fieldgate_reading where meter like 'live%'",
            len(fleet.acknowledged),
            dsn=rig.sink_dsn,
            seconds=120,
        )
        during, idle = [quantile(await _lags(rig, *span), 0.99) for span in calm]
        print(f"live lag p99: {during:.2f} s during the initial sync, {idle:.2f} s after it")
        await _all_windows(rig, daemon, 300)
        assert await daemon.stop() == 0
        _assert_equal(await _delivered(rig), await _expected(rig, timedelta(minutes=15)))
        assert during <= 2 * idle


async def _initial_done(rig: Rig) -> None:
    async def is_done() -> bool:
        return await rig.count("stream where phase = 'initial' and state = 'done'") == 1

    await wait_until(is_done, seconds=600, what="the initial sync is done", every=0.5)


async def _calm_span(rig: Rig, seconds: float, phase: str) -> tuple[float, float]:
    """A span without faults: starts when the live backlog is delivered, and must end while the phase is still
    the same.
    """

    async def is_caught_up() -> bool:
        behind = await rig.fetch("select count(*) from telemetry where device_id like 'live%'")
        written = await rig.count("fieldgate_reading where meter like 'live%'", dsn=rig.sink_dsn)
        return bool(behind[0][0] - written < 3000)

    await wait_until(is_caught_up, seconds=120, what="live traffic has caught up", every=0.5)
    since = time.time()
    await asyncio.sleep(seconds)
    assert await rig.count(f"stream where phase = '{phase}'") == 1, f"the span does not fall into {phase}"
    return since, time.time()


async def _lags(rig: Rig, since: float, until: float) -> Sequence[float]:
    received = await rig.fetch(
        """select device_id, ts, extract(epoch from received_at)::float8 as at from telemetry
        where device_id like 'live%' and received_at between to_timestamp($1) and to_timestamp($2)""",
        since,
        until,
    )
    arrivals = {(row["device_id"], row["ts"]): row["at"] for row in received}
    written = await rig.fetch(
        """select split_part(meter, '/', 1) as device, window_start, extract(epoch from updated_at)::float8 as at from fieldgate_reading
        where meter like 'live%'""",
        dsn=rig.sink_dsn,
    )
    return [
        row["at"] - arrivals[row["device"], row["window_start"]]
        for row in written
        if (row["device"], row["window_start"]) in arrivals
    ]
