"""Ten thousand readings to a receiver of JSON through random faults, 1 % of them refused.

Exactly once where the receiver deduplicates or can be asked; else every one at least once, and the repeats
are counted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.outcome import Accepted
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, Calls, reading
from tests.contract.http_json_harness import HttpJsonHarness, HttpJsonOpaqueHarness
from tests.fixtures.delivering import deliver
from tests.fixtures.unreliable import KINDS, Unreliable

READINGS, METERS = 10_000, 80


class HttpJsonBlindHarness(HttpJsonOpaqueHarness):
    """Neither deduplicates nor can be asked."""

    settings: Mapping[str, object] = {"body": {"items": "{readings}"}}  # type: ignore[misc]


def readings(harness: HttpJsonHarness, *, refused: int) -> list[Reading]:
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    at = [
        begin + timedelta(minutes=15 * (number // METERS), seconds=number % METERS)
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


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [HttpJsonHarness, HttpJsonOpaqueHarness, HttpJsonBlindHarness])
async def test_every_reading_through_random_faults(kind: type[HttpJsonHarness]) -> None:
    rng = random.Random(20261124)
    harness = kind()
    async with harness.running(""), Unreliable(harness.url) as proxy:
        connector = harness.connector(url=proxy.url, timeout_seconds=30.0)
        kinds = [
            fault for fault in KINDS if fault != "late"
        ]  # this receiver has answered or never got it: it does nothing behind the client's back

        def before() -> None:
            if rng.random() < 0.15:
                proxy.faults.append(rng.choice(kinds))
                proxy.skip = rng.randrange(6)  # also in the midst of a search for what is refused

        everything = readings(harness, refused=100)
        done = await deliver(connector, everything, before, connection=CONNECTION)
        delivery = connector.capabilities.delivery
        await connector.close()
        assert proxy.struck > 10
        assert len(done.readings) + len(done.dead) == READINGS
        assert len(done.dead) == READINGS // 100
        assert all("no such meter: refused" in refusal.message for refusal in done.dead.values())
        held = await harness.held()
        assert {slot: set(values) for slot, values in held.items()} == {
            (item.meter, item.window_start): {item.value} for item in done.readings.values()
        }
        repeats = sum(len(values) - 1 for values in held.values())
        assert sum(float(values[0]) for values in held.values()) == sum(
            float(str(item.value)) for item in everything if item.key not in done.dead
        )
        assert (repeats == 0) if delivery == "exactly_once" else (repeats > 0)
    print(
        f"\n{kind.__name__} ({delivery}): {proxy.struck} faults, {done.unknown} times no answer,"
        f" {len(done.readings)} delivered, {repeats} repeats"
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [HttpJsonHarness, HttpJsonOpaqueHarness])
async def test_requests_and_own_time_for_each_thousand(kind: type[HttpJsonHarness]) -> None:
    """The receiver works in a thread of its own: this thread's time is ours, the HTTP client's included."""
    harness, calls = kind(), Calls()
    async with harness.running(""):
        connector = harness.connector(calls=calls, timeout_seconds=30.0)
        everything = readings(harness, refused=0)
        seconds = 0.0
        for begin in range(0, READINGS, connector.capabilities.max_items):
            batch = make_batch(CONNECTION, everything[begin : begin + connector.capabilities.max_items])
            started = time.thread_time()
            outcomes = await connector.push(batch)
            seconds += time.thread_time() - started
            assert set(map(type, outcomes)) == {Accepted}
        await connector.close()
    requests = len(calls.seen) / (READINGS / 1000)
    print(
        f"\n{kind.__name__}: {requests:.1f} requests for 1,000 readings, {seconds / READINGS * 1000:.3f} ms"
        " of our time each"
    )
    assert requests <= 11
