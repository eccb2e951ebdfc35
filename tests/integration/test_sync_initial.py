"""Initial sync: the stored history, every window once, whatever interrupts it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers import PATIENCE
from gateway.model.meter import MeterRule
from gateway.model.outcome import Outcome, Retry
from gateway.model.reading import Batch
from gateway.store import retention
from gateway.store.pool import Database
from gateway.store.streams import RunTally
from gateway.sync import initial
from gateway.sync.scan import scan_slice
from tests.fixtures.scripted import CLIENT_REF, Scripted
from tests.fixtures.sync_rig import ALL, BASE, DAY, HOUR, MINUTE, Rig

QUARTER = 15 * MINUTE


async def history(rig: Rig, *, hours: int = 30, meters: int = 2) -> dict[tuple[str, datetime], float]:
    """A sample in every quarter of an hour until now; the closed windows that it makes."""
    start = BASE - (hours - 6) * HOUR
    samples = [
        (f"d{meter}", start + number * QUARTER, float(number))
        for number in range(hours * 4)
        for meter in range(meters)
    ]
    await rig.store(*samples)
    return {(device, at): value for device, at, value in samples if at + QUARTER <= datetime.now(UTC)}


async def finish(rig: Rig) -> None:
    for _ in range(20):
        if (await rig.run("initial"))["state"] == "done":
            return
    raise AssertionError("the initial sync never ends")


async def test_every_window_is_delivered_once_across_the_seam(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector, initial_days=3)
    expected = await history(rig)
    await rig.activate()
    await rig.store(("d0", BASE + MINUTE, 1000.0), ("d1", BASE - 20 * HOUR + MINUTE, 2000.0))
    expected |= {("d0", BASE): 1000.0, ("d1", BASE - 20 * HOUR): 2000.0}
    running = asyncio.create_task(rig.runner().run(await rig.claim("initial"), rig.link))
    await rig.runner().run(await rig.claim("incremental"), rig.link)
    await running
    assert (await rig.stream("initial"))["state"] == "done"
    await rig.run()
    assert await rig.delivered() == expected
    sent = [reading.key for reading in connector.taken if not reading.modified]
    assert len(sent) == len(set(sent)) == len(expected)
    assert all(due["closes_at"] > datetime.now(UTC) for due in await rig.due())


@pytest.mark.parametrize("seed", range(3))
async def test_it_goes_on_where_it_was_cancelled(database: Database, seed: int) -> None:
    """Source: risingwave#10249, a restart of the initial sync from zero."""
    connector = Scripted(capabilities=replace(CLIENT_REF, max_items=20))
    rig = Rig(database, connector, initial_days=2)
    expected = await history(rig)
    await rig.activate()
    dice = random.Random(seed)
    cursors = []
    for _ in range(6):
        running = asyncio.create_task(rig.runner().run(await rig.claim("initial"), rig.link))
        await asyncio.wait({running}, timeout=dice.uniform(0.0, 0.15))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        row = await rig.stream("initial")
        cursors.append(row["initial_cursor"])
        if row["state"] == "done":
            break
    else:
        await finish(rig)
    await rig.arrived()
    await rig.run()
    assert cursors == sorted(cursors)
    assert await rig.delivered() == expected
    keys = [reading.key for reading in connector.taken]
    assert len(keys) == len(set(keys)) == len(expected)


async def test_it_starts_from_its_cursor_and_not_from_zero(database: Database) -> None:
    rig = Rig(database, initial_days=2)
    await history(rig)
    await rig.activate()
    await rig.execute("update stream set initial_cursor = $1 where phase = 'initial'", BASE)
    await finish(rig)
    assert min(start for _, start in await rig.delivered()) == BASE


async def test_a_system_that_takes_little_history_gets_that_and_the_status_knows(database: Database) -> None:
    connector = Scripted(capabilities=replace(CLIENT_REF, max_backfill=10 * HOUR))
    rig = Rig(database, connector, initial_days=3)
    await history(rig)
    await rig.activate()
    await finish(rig)
    oldest = min(reading.window_start for reading in connector.taken)
    assert timedelta(0) <= oldest - (datetime.now(UTC) - 10 * HOUR) < 16 * MINUTE
    assert (await rig.stream("initial"))["initial_clipped_to"] == 10 * HOUR
    assert await rig.dead() == []


async def test_no_history_is_wanted_where_its_days_are_zero(database: Database) -> None:
    rig = Rig(database, initial_days=0)
    await history(rig)
    await rig.activate()
    assert await rig.rows("select * from stream where phase = 'initial'") == []
    await rig.run()
    assert await rig.delivered() == {}


async def test_new_meters_bring_the_history_and_equal_values_are_not_sent_again(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector, initial_days=2)
    expected = await history(rig, meters=1)
    await rig.activate()
    await finish(rig)
    await rig.change_rules(
        ALL, MeterRule(device="d0", metric="t", meter="maximum", reduce="max", every=15 * MINUTE)
    )
    row = await rig.stream("initial")
    assert row["state"] == "idle" and row["initial_cursor"] == row["initial_from"]
    await finish(rig)
    meters = [reading.meter for reading in connector.taken]
    assert meters.count("d0") == len(expected) and meters.count("maximum") == len(expected)
    await rig.change_rules(*rig.rules)
    assert (await rig.stream("initial"))["state"] == "done"


async def test_a_change_of_meters_while_it_ends_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database, initial_days=2)
    expected = await history(rig, meters=1)
    await rig.activate()
    end = initial.finish

    async def changed_meanwhile(*arguments: object) -> None:
        await end(*arguments)  # type: ignore[arg-type]
        await rig.change_rules(ALL, MeterRule(device="d0", metric="t", meter="late", every=15 * MINUTE))

    monkeypatch.setattr(initial, "finish", changed_meanwhile)
    row = await rig.run("initial")
    monkeypatch.undo()
    assert row["state"] == "idle"
    await finish(rig)
    assert len([meter for meter, _ in await rig.delivered() if meter == "late"]) == len(expected)


async def test_a_change_of_meters_without_history_keeps_what_waits(database: Database) -> None:
    rig = await Rig(database, lateness=DAY).activate()
    await rig.store(("d0", BASE, 1.0))
    await rig.run()
    assert len(await rig.due()) == 1
    await rig.change_rules(replace(ALL, deadband=0.5))
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    assert await rig.delivered() == {("d0", BASE): 1}


async def test_a_meter_that_is_gone_takes_its_windows_with_it(database: Database) -> None:
    rig = await Rig(database, lateness=DAY).activate()
    await rig.store(("d0", BASE, 1.0), ("d1", BASE, 1.0))
    await rig.run()
    await rig.change_rules(replace(ALL, device="d1"))
    assert [due["meter"] for due in await rig.due()] == ["d1"]


async def test_one_meter_that_must_wait_does_not_stop_the_history(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial, "ENOUGH_WINDOWS", 5)
    connector = Scripted()

    async def answer(batch: Batch) -> list[Outcome]:
        return [
            Retry(after_seconds=3600, message="locked") if r.meter == "d0" else connector.take([r])[0]
            for r in batch.readings
        ]

    connector.answer = answer
    rig = Rig(database, connector, initial_days=2)
    expected = await history(rig)
    await rig.activate()
    await asyncio.wait_for(finish(rig), 15 * PATIENCE)
    assert await rig.delivered() == {key: value for key, value in expected.items() if key[0] == "d1"}
    assert {due["phase"] for due in await rig.due()} == {"incremental"}, (
        "what waits goes on with the incremental sync"
    )


async def test_samples_ahead_of_time_are_part_of_the_history(database: Database) -> None:
    rig = Rig(database, initial_days=1)
    ahead = datetime.now(UTC) + 3 * MINUTE
    await rig.store(("d0", ahead, 1.0))
    await rig.activate()
    await finish(rig)
    assert [due["meter"] for due in await rig.due()] == ["d0"]
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    assert list((await rig.delivered()).values()) == [1]


async def test_marking_stops_while_enough_windows_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial, "ENOUGH_WINDOWS", 8)
    rig = Rig(database, initial_days=2)
    await history(rig)
    await rig.activate()
    assert not await initial.mark_more(database, await rig.claim("initial"), rig.link, RunTally())
    assert 8 <= len(await rig.due()) <= 16


async def partitions(rig: Rig) -> set[str]:
    return {
        row["name"]
        for row in await rig.rows(
            "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'telemetry'::regclass"
        )
    }


async def test_retention_drops_whole_days_that_no_stream_needs(database: Database) -> None:
    rig = await Rig(database).activate()
    now = datetime.now(UTC)
    for days in (12, 11, 10):
        await rig.store(("d0", now - days * DAY, 1.0))
    assert await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY) == [], (
        "nobody scanned them yet"
    )
    await rig.run()
    names = [
        f"{parent}_{now - days * DAY:%Y%m%d}" for parent in ("telemetry", "delivery") for days in (12, 11)
    ]
    assert await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY) == names
    assert await partitions(rig) == {f"telemetry_{now - 10 * DAY:%Y%m%d}"}
    assert await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY) == []


async def test_retention_keeps_what_the_initial_sync_has_not_read(database: Database) -> None:
    rig = Rig(database, initial_days=20)
    now = datetime.now(UTC)
    await rig.store(("d0", now - 12 * DAY, 1.0))
    await rig.activate()
    assert await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY) == []
    await finish(rig)
    assert len(await rig.delivered()) == 1
    assert len(await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY)) == 2


async def test_retention_keeps_a_window_that_is_still_due(database: Database) -> None:
    rig = await Rig(database, lateness=30 * DAY).activate()
    now = datetime.now(UTC)
    await rig.store(("d0", now - 12 * DAY, 1.0))
    await rig.run()
    assert await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY) == []
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    assert len(await retention.drop_expired(database, now=now, retention=10 * DAY, buffer=30 * DAY)) == 2


async def test_windows_of_the_history_wait_for_late_samples_too(database: Database) -> None:
    """`each` does not: its window is its sample."""
    each = MeterRule(device="*", metric="t", meter="each-{device}", reduce="each")
    rig = Rig(database, rules=(ALL, each), initial_days=1, lateness=8 * HOUR)
    await rig.store(("d", BASE, 1.0), ("d", BASE - 5 * HOUR, 2.0))
    await rig.activate()
    await rig.run("initial")
    assert set(await rig.delivered()) == {
        ("d", BASE - 5 * HOUR),
        ("each-d", BASE),
        ("each-d", BASE - 5 * HOUR),
    }
    (waiting,) = await rig.due()
    assert waiting["closes_at"] == BASE + QUARTER + 8 * HOUR and waiting["phase"] == "incremental"


async def test_a_window_that_is_marked_again_keeps_its_phase_and_gets_a_new_mark(database: Database) -> None:
    """One worker only ever delivers it, whichever was first."""
    rig = Rig(database, initial_days=1)
    await rig.store(("d", BASE, 1.0))
    await rig.activate()
    await initial.mark_more(database, await rig.claim("initial"), rig.link, RunTally())
    (first,) = await rig.due()
    await rig.store(("d", BASE, 2.0), ("d", BASE + HOUR, 2.0))
    assert await scan_slice(database, await rig.claim(), rig.link, RunTally())
    again, live = await rig.due()
    assert (again["phase"], live["phase"]) == ("initial", "incremental")
    assert again["mark"] != first["mark"] and again["closes_at"] == first["closes_at"]
    await rig.execute(
        "update stream set initial_cursor = initial_from, state = 'idle' where phase = 'initial'"
    )
    await initial.mark_more(database, await rig.claim("initial"), rig.link, RunTally())
    assert [row["phase"] for row in await rig.due()] == ["initial", "incremental"]
    assert all(row["mark"] != old["mark"] for row, old in zip(await rig.due(), (again, live), strict=True))
