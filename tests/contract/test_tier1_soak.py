"""Ten thousand readings to the first two systems through random faults, 1 % of them refused: the sum is
exact, and what may repeat is counted.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.model.outcome import Accepted
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, Calls, Harness, MaintainXHarness, PostgresHarness, reading
from tests.fixtures.delivering import deliver
from tests.fixtures.unreliable import KINDS, Unreliable

READINGS, METERS = 10_000, 80
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def readings(harness: Harness, *, refused: int) -> list[Reading]:
    """Of the last 63 hours, for MaintainX takes nothing older than three days."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=63)
    at = [
        begin + timedelta(minutes=30 * (number // METERS), seconds=number % METERS)
        for number in range(READINGS)
    ]
    return [
        (
            harness.refused(at[number])
            if refused and number % refused == 37
            else reading(harness.meter(number % METERS), at[number], number / 8)
        )
        for number in range(READINGS)
    ]


async def test_maintainx_through_random_faults() -> None:
    rng, harness = random.Random(20261124), MaintainXHarness()
    async with harness.running(""), Unreliable(harness.cmms.url) as proxy:
        connector = harness.connector(url=proxy.url + urlsplit(harness.cmms.url).path, timeout_seconds=30.0)
        kinds = [fault for fault in KINDS if fault != "late"]

        def before() -> None:
            if rng.random() < 0.3:
                proxy.faults.append(rng.choice(kinds))

        everything = readings(harness, refused=100)
        done = await deliver(connector, everything, before, connection=CONNECTION)
        await connector.close()
        assert proxy.struck > 10
        assert len(done.readings) + len(done.dead) == READINGS and len(done.dead) == READINGS // 100
        held = await harness.held()
        assert {slot: set(values) for slot, values in held.items()} == {
            (item.meter, item.window_start): {item.value} for item in done.readings.values()
        }
        repeats = sum(len(values) - 1 for values in held.values())
    print(
        f"\nmaintainx: {proxy.struck} faults, {done.unknown} times no answer, {len(done.readings)} delivered,"
        f" {repeats} repeats"
    )


async def test_postgres_through_random_cuts(contract_dsn: str) -> None:
    rng, harness = random.Random(20261124), PostgresHarness()
    cuts = 0
    async with harness.running(contract_dsn):
        connector = harness.connector(timeout_seconds=30.0)
        killer = await asyncpg.connect(contract_dsn)
        everything = readings(harness, refused=100)
        batches = [everything[begin : begin + 200] for begin in range(0, READINGS, 200)]
        dead, delivered = 0, 0
        for batch in batches:
            if rng.random() < 0.3:
                await killer.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and"
                    " query ilike '%insert into%'"
                )
                cuts += 1
            done = await deliver(connector, batch, lambda: None, connection=CONNECTION)
            dead, delivered = dead + len(done.dead), delivered + len(done.readings)
        await connector.close()
        await killer.close()
        assert (dead, delivered) == (READINGS // 100, READINGS - READINGS // 100) and cuts > 5
        held = await harness.held()
        assert len(held) == delivered and sum(float(str(values[0])) for values in held.values()) == sum(
            float(str(item.value)) for item in everything if item.meter != "unbelievable"
        )
    print(
        f"\npostgres ({connector.capabilities.delivery}): {cuts} cuts, {delivered} delivered once, {dead}"
        " dead letters"
    )


@pytest.mark.parametrize("kind", [MaintainXHarness, PostgresHarness])
async def test_requests_and_own_time_for_each_thousand(kind: type[Harness], contract_dsn: str) -> None:
    """The CPU of this thread: the HTTP client's or the driver's included, and for MaintainX the stand-in's
    too, which runs in it.
    """
    harness, calls = kind(), Calls()
    async with harness.running(contract_dsn):
        connector = harness.connector(calls=calls, timeout_seconds=30.0)
        everything = readings(harness, refused=0)
        seconds, size = 0.0, min(100, connector.capabilities.max_items)
        for begin in range(0, READINGS, size):
            started = time.thread_time()
            outcomes = await connector.push(make_batch(CONNECTION, everything[begin : begin + size]))
            seconds += time.thread_time() - started
            assert set(map(type, outcomes)) == {Accepted}
        await connector.close()
    requests = len(calls.seen) / (READINGS / 1000)
    print(
        f"\n{kind.__name__}: {requests:.1f} requests for 1,000 readings, {seconds / READINGS * 1000:.3f} ms"
        " of our time each"
    )
    assert requests <= 11
