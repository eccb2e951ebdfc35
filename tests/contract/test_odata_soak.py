"""Ten thousand readings to odatapy through random faults, 1 % of them refused: each is there once, or dead in
the service's own words.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.outcome import Accepted
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, Calls, reading
from tests.contract.odata_harness import ODataHarness, ODataJsonHarness
from tests.fixtures.delivering import deliver
from tests.fixtures.unreliable import KINDS, Unreliable

READINGS, METERS = 10_000, 80
both = pytest.mark.parametrize("kind", [ODataHarness, ODataJsonHarness], ids=["multipart", "json"])


def readings(harness: ODataHarness) -> list[Reading]:
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    at = [
        begin + timedelta(minutes=15 * (number // METERS), seconds=number % METERS)
        for number in range(READINGS)
    ]
    return [
        (
            harness.refused(at[number])
            if number % 100 == 37
            else reading(harness.meter(number % METERS), at[number], number / 8)
        )
        for number in range(READINGS)
    ]


@pytest.mark.soak
@pytest.mark.timeout(1800)
@both
async def test_every_reading_once_through_random_faults(kind: type[ODataHarness]) -> None:
    rng = random.Random(20261124)
    harness = kind()
    async with harness.running(""), Unreliable(harness.url) as proxy:
        connector = harness.connector(url=proxy.url, timeout_seconds=60.0)
        kinds = [
            fault for fault in KINDS if fault != "late"
        ]  # a repeat that overtakes its original is refused by the unique key all the same

        def before() -> None:
            if not proxy.faults and rng.random() < 0.3:
                proxy.faults.append(rng.choice(kinds))
                proxy.skip = rng.randrange(2)

        everything = readings(harness)
        done = await deliver(connector, everything, before, connection=CONNECTION)
        await connector.close()
        assert proxy.struck > 10 and done.unknown > 3
        assert len(done.readings) + len(done.dead) == READINGS
        assert len(done.dead) == READINGS // 100
        assert {refusal.message for refusal in done.dead.values()} == {"The meter 999999 does not exist."}
        held = await harness.held()
        assert held == {(item.meter, item.window_start): [item.value] for item in done.readings.values()}
        assert sum(float(str(values[0])) for values in held.values()) == sum(
            float(str(item.value)) for item in everything if item.key not in done.dead
        )
    print(
        f"\n{kind.__name__}: {proxy.struck} faults, {done.unknown} times no answer, {len(done.readings)}"
        f" delivered once, {len(done.dead)} dead"
    )


@pytest.mark.soak
@pytest.mark.timeout(900)
@both
async def test_requests_and_own_time_for_each_thousand(kind: type[ODataHarness]) -> None:
    """The server works in a thread of its own: this thread's time is ours, the HTTP client's included."""
    harness, calls = kind(), Calls()
    async with harness.running(""):
        connector = harness.connector(calls=calls, timeout_seconds=60.0)
        everything = [item for item in readings(harness) if item.meter != "999999"]
        seconds = 0.0
        for begin in range(0, len(everything), 100):
            batch = make_batch(CONNECTION, everything[begin : begin + 100])
            started = time.thread_time()
            outcomes = await connector.push(batch)
            seconds += time.thread_time() - started
            assert set(map(type, outcomes)) == {Accepted}
        await connector.close()
    requests = len(calls.seen) / (len(everything) / 1000)
    print(
        f"\n{kind.__name__}: {requests:.1f} requests for 1,000 readings,"
        f" {seconds / len(everything) * 1000:.3f} ms of our time each"
    )
    assert requests <= 11
