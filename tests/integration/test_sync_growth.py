"""What a run and a window cost does not grow with what there is nothing to do about: counted in sessions and
plan nodes, not in time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.model.errors import LeaseLost
from gateway.model.meter import MeterRule
from gateway.model.reading import Reading
from gateway.store import deliveries, windows
from gateway.store.deliveries import BatchResults
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.streams import RunTally
from gateway.sync.judge import delivered_from
from gateway.sync.scan import scan_slice
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import ALL, BASE, DAY, MINUTE, Rig

DELTA = MeterRule(device="*", metric="t", meter="{device}", reduce="delta", every=10 * MINUTE)
DAYS = 40


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def days_asked(rig: Rig) -> int:
    """Partitions of telemetry that computing what is due has looked into."""
    claim = await rig.claim()
    await scan_slice(rig.database, claim, rig.link, RunTally())
    async with rig.database.connection() as connection:
        plan = await connection.fetchval(
            "explain (analyze, format json) " + sql("due_compute"),
            *(claim.connection, claim.phase, claim.customer, 1_000, *windows.BEGINNING),
        )
    found = json.loads(plan) if isinstance(plan, str) else plan
    return len(
        {
            node["Relation Name"]
            for node in nodes(found[0]["Plan"])
            if node.get("Relation Name", "").startswith("telemetry_") and node["Actual Loops"] > 0
        }
    )


async def test_the_first_window_of_a_counter_asks_no_earlier_day(database: Database) -> None:
    rig = Rig(database, rules=(DELTA,))
    await rig.store(*[("old", BASE - number * DAY, float(number)) for number in range(DAYS)])
    await rig.activate()
    await rig.run()
    await rig.store(("new", BASE, 5.0))
    assert await days_asked(rig) <= 2
    await rig.run()
    await rig.store(("new", BASE - 3 * DAY, 2.0), ("new", BASE + 20 * MINUTE, 9.0))
    assert await days_asked(rig) <= 6, "as far back as there is a sample"
    await rig.run()
    delivered = await rig.delivered()
    assert {at - BASE: value for (meter, at), value in delivered.items() if meter == "new"} == {
        0 * MINUTE: 3.0,
        20 * MINUTE: 4.0,
    }, "what comes late from before the first sample counts"


async def test_of_a_device_that_was_there_before_every_day_is_asked(database: Database) -> None:
    rig = Rig(database, rules=(DELTA,))
    await rig.store(("pump", BASE - 5 * DAY, 1.0))
    await rig.execute("update device set oldest_at = null")
    await rig.activate()
    await rig.store(("pump", BASE, 4.0))
    await rig.run()
    assert await rig.delivered() == {("pump", BASE): 3.0}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a session was taken, by what for."""
    counted = Counter[str]()
    for kind in ("connection", "transaction"):
        original = getattr(Database, kind)

        @asynccontextmanager
        async def counting(
            self: Database, kind: str = kind, original: Any = original
        ) -> AsyncIterator[Connection]:
            counted[kind] += 1
            async with original(self) as connection:
                yield connection

        monkeypatch.setattr(Database, kind, counting)
    return counted


async def test_a_run_with_one_reading_takes_a_session_for_each_thing_that_it_does(
    database: Database, sessions: Counter[str]
) -> None:
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    await rig.store(("a", BASE + MINUTE, 2.0))
    claim, runner = await rig.claim(), rig.runner()
    sessions.clear()
    await runner.run(claim, rig.link)
    # what was on its way; scan; compute; the day; intent; outcomes; two of health; the end
    assert sessions.total() <= 9 and sessions["transaction"] == 1, sessions
    assert list((await rig.delivered()).values()) == [2.0]


async def test_a_batch_of_a_lost_lease_leaves_nothing(database: Database) -> None:
    rig = await Rig(database, rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0), ("b", BASE, 2.0))
    claim = await rig.claim()
    await scan_slice(database, claim, rig.link, RunTally())
    async with database.connection() as connection:
        due = await windows.compute_due(connection, claim, 10)
    readings = [
        Reading(key=w.meter, meter=w.meter, window_start=w.window_start, value=w.value or 0.0) for w in due
    ]
    results = BatchResults(delivered=[delivered_from(d, r, None) for d, r in zip(due, readings, strict=True)])
    await rig.execute("update stream set fence = fence + 1")
    before = await rig.rows("select meter, mark from due_window order by meter")
    for following in ((), readings):
        with pytest.raises(LeaseLost, match="acme-1"):
            await deliveries.commit(
                database, claim, results, resolved=True, next_readings=following, lease_seconds=15
            )
    assert await rig.rows("select meter, mark from due_window order by meter") == before
    assert await rig.delivered() == {} and await rig.rows("select from push_intent") == []
