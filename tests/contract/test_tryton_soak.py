"""Ten thousand readings to a real Tryton through random faults, 1 % of them refused by a rule there: each is
there once, or dead in Tryton's words.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from connectors.tryton import connector as tryton_module
from gateway.model.outcome import Accepted
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, Calls, reading
from tests.contract.tryton_harness import TrytonHarness
from tests.fixtures.delivering import deliver
from tests.fixtures.tryton import FORBIDDEN
from tests.fixtures.unreliable import KINDS, LATE_SECONDS, Unreliable

READINGS, METERS = 10_000, 80
REFUSED = "You are not allowed to create records"


@pytest.fixture
async def harness() -> AsyncIterator[TrytonHarness]:
    started = TrytonHarness()
    async with started.running(""):
        yield started


def readings(harness: TrytonHarness, *, refused: int) -> list[Reading]:
    """One in `refused` by a rule at Tryton; none with 0."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    made = []
    for number in range(READINGS):
        at = begin + timedelta(minutes=15 * (number // METERS))
        if refused and number % refused == 37:
            made.append(reading(f"{FORBIDDEN}/temperature", at + timedelta(seconds=1 + number % METERS), 1.0))
        else:
            made.append(reading(harness.meter(number % METERS), at, number / 8))
    return made


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_every_reading_once_through_random_faults(
    harness: TrytonHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryton_module, "_SETTLED_SECONDS", 10 * LATE_SECONDS)
    rng = random.Random(20261124)
    everything = readings(harness, refused=100)
    async with Unreliable(harness.tryton.url) as proxy:
        connector = harness.connector(url=proxy.url, timeout_seconds=60.0)

        def before() -> None:
            if not proxy.faults and rng.random() < 0.5:
                proxy.faults.append(rng.choice(KINDS))
                proxy.skip = rng.randrange(
                    3
                )  # the question, the request, or one in the midst of a search for what is refused

        done = await deliver(connector, everything, before, connection=CONNECTION)
        await connector.close()
        assert proxy.struck > 10 and done.unknown > 3
    assert len(done.readings) + len(done.dead) == READINGS
    assert len(done.dead) == READINGS // 100
    assert all(REFUSED in refusal.message for refusal in done.dead.values())
    held = await harness.held()
    assert held == {(item.meter, item.window_start): [item.value] for item in done.readings.values()}
    assert sum(float(values[0]) for values in held.values()) == sum(
        float(str(item.value)) for item in everything if item.key not in done.dead
    )
    print(
        f"\ntryton: {proxy.struck} faults, {done.unknown} times no answer, {len(done.readings)} delivered"
        f" once, {len(done.dead)} dead"
    )


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("refused", [0, 100])
async def test_requests_and_own_time_for_each_thousand(harness: TrytonHarness, refused: int) -> None:
    """Tryton is a process of its own: this thread's time is ours, the HTTP client's included."""
    calls = Calls()
    connector = harness.connector(calls=calls, timeout_seconds=60.0)
    everything = readings(harness, refused=refused)
    size = connector.capabilities.max_items
    seconds = 0.0
    for begin in range(0, READINGS, size):
        batch = make_batch(CONNECTION, everything[begin : begin + size])
        started = time.thread_time()
        outcomes = await connector.push(batch)
        seconds += time.thread_time() - started
        assert refused or set(map(type, outcomes)) == {Accepted}
    requests = len(calls.seen) / (READINGS / 1000)
    share, own = 100 / refused if refused else 0, seconds / READINGS * 1000
    print(
        f"\ntryton, {share:g} % refused: {requests:.1f} requests for 1,000 readings, {own:.3f} ms of our time"
        " each"
    )
    assert requests <= 15
    assert refused or requests <= 11
    await connector.close()
