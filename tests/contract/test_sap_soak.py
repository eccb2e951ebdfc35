"""Ten thousand readings through random faults, 1 % of them refused: each delivered once or a dead letter in
SAP's own words; the sum is exact.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.errors import AuthRefused, BadConfiguration, ConnectorError, PermissionDenied
from gateway.model.outcome import Accepted, Duplicate, Rejected
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, Calls, reading
from tests.contract.sap_harness import EccHarness, S4hanaHarness, SapHarness, need_node
from tests.contract.sap_rules import Fault

READINGS, BATCH, METERS = 10_000, 100, 50


@pytest.fixture(params=[S4hanaHarness, EccHarness], ids=["s4hana", "ecc"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[SapHarness]:
    if request.param is EccHarness:
        need_node(request)
    started: SapHarness = request.param()
    async with started.running(""):
        yield started


def readings(harness: SapHarness, count: int) -> list[Reading]:
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    every = [begin + timedelta(minutes=15 * (number // METERS)) for number in range(count)]
    names = ["999999" if number % 100 == 37 else harness.meter(number % METERS) for number in range(count)]
    return [
        reading(name, at + timedelta(seconds=number % METERS), number / 8, "GC")
        for number, (name, at) in enumerate(zip(names, every, strict=True))
    ]


def random_fault(rng: random.Random) -> Fault:
    return rng.choice(
        [
            Fault(status=429, headers=(("retry-after", "1"),)),
            Fault(status=503, headers=(("retry-after", "1"),)),
            Fault(status=500),
            Fault(status=502, after=True),
            Fault(cut=True),
            Fault(cut=True, after=True),
        ]
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_every_reading_once_through_random_faults(harness: SapHarness) -> None:
    rng = random.Random(20261124)
    connector = harness.connector(timeout_seconds=120.0)
    delivered: dict[str, Reading] = {}
    dead: dict[str, str] = {}
    everything = readings(harness, READINGS)
    faults = 0
    for begin in range(0, READINGS, BATCH):
        pending = everything[begin : begin + BATCH]
        while pending:
            if rng.random() < 0.15:
                harness.front.faults.append(random_fault(rng))
                faults += 1
            if rng.random() < 0.05:
                harness.front.sessions.clear()
            batch = make_batch(CONNECTION, pending)
            try:
                outcomes = await connector.push(batch)
            except (AuthRefused, BadConfiguration, PermissionDenied):
                raise
            except ConnectorError:
                continue  # a transient fault: the same again
            pending = []
            for item, outcome in zip(batch.readings, outcomes, strict=True):
                match outcome:
                    case Accepted() | Duplicate():
                        assert item.key not in delivered
                        delivered[item.key] = item
                    case Rejected():
                        dead[item.key] = outcome.message
                    case _:
                        pending.append(item)
    assert faults > 10
    assert len(delivered) + len(dead) == READINGS
    assert set(dead.values()) == {"Measuring point 999999 does not exist"}
    assert len(dead) == READINGS // 100
    assert harness.rules.created == len(delivered)
    assert harness.rules.held() == {
        (item.meter, item.window_start): [item.value] for item in delivered.values()
    }
    held = sum(float(values[0]) for values in harness.rules.held().values())
    assert held == sum(float(str(item.value)) for item in everything if item.key not in dead)
    await connector.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_requests_and_own_time_for_each_thousand(
    harness: SapHarness, record_property: Callable[[str, object], None]
) -> None:
    """The server works in a thread of its own: this thread's time is ours, the HTTP client's included."""
    calls = Calls()
    connector = harness.connector(calls=calls, timeout_seconds=60.0)
    everything = readings(harness, READINGS)
    seconds = 0.0
    for begin in range(0, READINGS, BATCH):
        batch = make_batch(CONNECTION, everything[begin : begin + BATCH])
        started = time.thread_time()
        outcomes = await connector.push(batch)
        seconds += time.thread_time() - started
        assert len(outcomes) == BATCH
    requests = len(calls.seen) / (READINGS / 1000)
    milliseconds = seconds / READINGS * 1000
    record_property("requests_per_1000", requests)
    record_property("milliseconds_per_reading", milliseconds)
    print(
        f"\n{harness.system}: {requests:.1f} requests for 1,000 readings, {milliseconds:.3f} ms of our time"
        " for each reading"
    )
    assert requests <= 11
    await connector.close()
