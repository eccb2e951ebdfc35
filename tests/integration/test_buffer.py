"""What a connection does not read is kept for its customer alone, for as long as was promised, and told of
before it goes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from gateway.events.documents import status_document
from gateway.model.arithmetic import Arithmetic
from gateway.model.calendar import Calendar
from gateway.model.meter import HELD, MeterRule, Reduce
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch
from gateway.store import outbox, retention, status
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.views import Views
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import DAY, HOUR, Rig

URL = "https://gateway.example"
KEPT = {"retention": 10 * DAY, "buffer": 30 * DAY}


async def told(rig: Rig, kind: str) -> list[Any]:
    events = await outbox.read(rig.database, customer=rig.customer)
    return [dict(event.data) for event in events if event.type == f"connection.{kind}"]


async def issues(rig: Rig) -> list[str]:
    rows = await rig.rows(
        "select code from issue where connection_id = $1 and solved_at is null order by code", rig.name
    )
    return [row["code"] for row in rows]


async def samples(rig: Rig) -> list[tuple[str, int]]:
    rows = await rig.rows(
        "select customer_id, (now()::date - ts::date) as age from telemetry order by 1, 2 desc"
    )
    return [(row["customer_id"], row["age"]) for row in rows]


async def two(database: Database) -> tuple[Rig, Rig, datetime]:
    """A connection that does not read, and one of another customer that does."""
    now = datetime.now(UTC)
    asleep = await Rig(database).activate()
    awake = await Rig(database, name="globex-1", customer="globex", owner="replica-a").activate()
    for rig in (asleep, awake):
        for days in (40, 26, 12, 1):
            await rig.store(("d0", now - days * DAY, float(days)))
    await awake.run()
    return asleep, awake, now


async def test_a_day_is_held_for_its_own_customer_only(database: Database) -> None:
    asleep, awake, now = await two(database)
    delivered = len(await awake.delivered())
    await retention.drop_expired(database, now=now, **KEPT)
    assert await samples(asleep) == [("acme", 26), ("acme", 12), ("acme", 1), ("globex", 1)]
    assert len(await asleep.rows("select from telemetry where customer_id = 'globex'")) == 1
    assert delivered == 4 and await told(awake, "telemetry_dropped") == []
    await asleep.run()
    assert len(await asleep.delivered()) == 3, "what was kept is delivered"


async def test_what_is_dropped_unread_is_told_and_in_the_status(database: Database) -> None:
    asleep, awake, now = await two(database)
    await retention.drop_expired(database, now=now, **KEPT)
    day = (now - 40 * DAY).date()
    assert await told(asleep, "telemetry_dropped") == [{"day": day.isoformat(), "samples": 1, "windows": 0}]
    [found] = await status.read(database, [asleep.name])
    document = status_document(found, now=now).model_dump(mode="json", by_alias=True)
    [lost] = {stream["lost_until"] for stream in document["streams"]}
    assert lost == f"{day + timedelta(days=1)}T00:00:00Z"
    assert (await status.read(database, [awake.name]))[0].streams[0].lost_until is None
    await retention.drop_expired(database, now=now, **KEPT)
    assert len(await told(asleep, "telemetry_dropped")) == 1, "told once"


async def test_a_day_that_is_kept_keeps_those_after_it(database: Database) -> None:
    """Nothing is computed of what begins before a day that was dropped: what came late for an older one would
    be lost, and nobody told.
    """
    now = datetime.now(UTC)
    rig = await Rig(database).activate()
    await rig.store(("d0", now - 12 * DAY, 1.0))
    await rig.run()
    await rig.store(("d0", now - 14 * DAY, 2.0))
    await retention.drop_expired(database, now=now, **KEPT)
    await rig.run()
    assert sorted(await rig.delivered()) == [
        ("d0", at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0))
        for at in (now - 14 * DAY, now - 12 * DAY)
    ]
    dropped = await retention.drop_expired(database, now=now, **KEPT)
    assert len([name for name in dropped if name.startswith("telemetry")]) == 2
    assert await told(rig, "telemetry_dropped") == []


@pytest.mark.parametrize("every", [Calendar(period="day", zone="Europe/Berlin"), 3 * DAY])
async def test_a_day_stays_while_unread_samples_of_the_next_may_be_of_its_windows(
    database: Database, every: Calendar | timedelta
) -> None:
    """A local day begins in the UTC day before, of which nobody need have sent anything."""
    now = datetime.now(UTC)
    connector = Scripted()
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="sum", every=every)
    rig = await Rig(database, connector, rules=(rule,)).activate()
    start = datetime.fromtimestamp((now - 14 * DAY).timestamp() // 259200 * 259200, UTC)
    other = await Rig(database, name="globex-1", customer="globex", owner="replica-a").activate()
    await other.store(("d0", start + HOUR, 1.0))  # so there is a partition of the day
    await other.run()
    await rig.store(("d0", start + DAY + HOUR, 2.0))
    await retention.drop_expired(database, now=start + 11 * DAY, retention=10 * DAY, buffer=30 * DAY)
    await rig.run()
    assert [reading.value for reading in connector.taken] == [2.0]


async def test_a_meter_without_windows_stops_no_retention(database: Database) -> None:
    """`reduce: each` may have `every: 0s`: of one customer it must not keep the days of all."""
    now = datetime.now(UTC)
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="each", every=timedelta(0))
    rig = await Rig(database, rules=(rule,)).activate()
    await rig.store(("d0", now - 14 * DAY, 1.0))
    await rig.run()
    await rig.store(("d0", now - 12 * DAY, 2.0))
    dropped = await retention.drop_expired(database, now=now, **KEPT)
    assert [name for name in dropped if name.startswith("telemetry")] != []


async def test_windows_of_a_dropped_day_go_with_it(database: Database) -> None:
    """Computed from what is left they would be wrong."""
    now = datetime.now(UTC)
    rig = await Rig(database, lateness=100 * DAY).activate()
    await rig.store(("d0", now - 40 * DAY, 1.0), ("d0", now - 12 * DAY, 2.0))
    await rig.run()
    assert len(await rig.due()) == 2
    await retention.drop_expired(database, now=now, **KEPT)
    assert [row["window_start"].date() for row in await rig.due()] == [(now - 12 * DAY).date()]
    [data] = await told(rig, "telemetry_dropped")
    assert data["windows"] == 1


async def test_history_that_is_dropped_is_not_walked(database: Database) -> None:
    now = datetime.now(UTC)
    rig = Rig(database, initial_days=60)
    await rig.store(("d0", now - 40 * DAY, 1.0))
    await rig.activate()
    await retention.drop_expired(database, now=now, **KEPT)
    row = await rig.stream("initial")
    assert (
        row["initial_cursor"].date() == (now - 39 * DAY).date() and row["lost_until"] == row["initial_cursor"]
    )
    assert (await rig.stream())["initial_cursor"] is None


async def test_without_a_buffer_of_its_own_retention_is_the_promise(database: Database) -> None:
    asleep, _, now = await two(database)
    await retention.drop_expired(database, now=now, retention=10 * DAY)
    assert await samples(asleep) == [("acme", 1), ("globex", 1)]
    assert len(await told(asleep, "telemetry_dropped")) == 3


async def test_at_80_percent_the_customer_is_told_once_and_the_issue_goes_when_it_reads_on(
    database: Database,
) -> None:
    now = datetime.now(UTC)
    rig = await Rig(database).activate()
    await rig.store(("d0", now - 23 * DAY, 1.0))
    tell = {"buffer": 30 * DAY, "public_url": URL}
    assert await retention.tell_filling(database, now=now, **tell) == []
    assert await issues(rig) == []
    later = now + 2 * DAY
    assert await retention.tell_filling(database, now=later, **tell) == [rig.name]
    assert await retention.tell_filling(database, now=later, **tell) == []
    day = (now - 23 * DAY).date()
    assert await told(rig, "buffer_filling") == [
        {"oldest": day.isoformat(), "dropped_on": (day + timedelta(days=31)).isoformat()}
    ]
    assert await issues(rig) == ["buffer_filling"]
    await rig.run()
    assert await retention.tell_filling(database, now=later, **tell) == []
    assert await issues(rig) == []
    await rig.store(("d0", now - 23 * DAY, 2.0))
    assert await retention.tell_filling(database, now=later, **tell) == [rig.name], "a new cause is told anew"


async def test_names_that_are_no_days_stop_no_retention(database: Database) -> None:
    """Whatever the planner looks at first: indexes of partitions are children in the catalogue as well."""
    async with database.connection() as connection:
        await connection.execute("select ensure_partition('telemetry', '2020-01-01')")
        for method in ("hashjoin", "mergejoin", "nestloop"):
            async with connection.transaction():
                for other in {"hashjoin", "mergejoin", "nestloop"} - {method}:
                    await connection.execute(f"set local enable_{other} = off")
                await connection.execute("set local enable_indexscan = off")
                rows = await connection.fetch(sql("partitions_expired"), "telemetry", date(2021, 1, 1))
                assert [row["name"] for row in rows] == ["telemetry_20200101"], method


@pytest.mark.parametrize(
    "every", [Calendar(period="day", zone="Europe/Berlin"), 3 * DAY], ids=["day", "span"]
)
async def test_a_window_of_which_a_part_was_dropped_is_corrected_no_more(
    database: Database, every: Calendar | timedelta
) -> None:
    """Neither by a late sample, nor by a history that is walked again: from what is left it would be wrong."""
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="sum", every=every)
    rig = await Rig(database, rules=(rule,), initial_days=60).activate()
    now = datetime.now(UTC)
    other = await Rig(database, name="globex-1", customer="globex", rules=(rule,)).activate()
    middle = (now - 11 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    if isinstance(every, timedelta):
        middle = datetime.fromtimestamp(
            middle.timestamp() // every.total_seconds() * every.total_seconds(), UTC
        )
        middle += DAY
    for own in (rig, other):
        await own.store(("d0", middle - HOUR / 2, 1.0), ("d0", middle + HOUR, 1.0))
        await own.store(("d0", middle + 4 * DAY, 3.0))
        await own.run()
    whole = await rig.delivered()
    assert sorted(whole.values()) == [2.0, 3.0]
    await retention.drop_expired(database, now=middle + 10 * DAY, retention=10 * DAY)
    for own in (rig, other):
        await own.store(("d0", middle + 2 * HOUR, 5.0), ("d0", middle + 4 * DAY + HOUR, 4.0))
        await own.run()
    await rig.change_rules(rule, MeterRule(device="d0", metric="t", meter="n", reduce="sum", every=every))
    await rig.run("initial")
    found = await rig.delivered()
    first, second = sorted(whole)  # that the first was delivered is dropped with its day
    assert found == {second: 7.0, ("n", second[1]): 7.0}
    assert await other.delivered() == {second: 7.0}
    assert isinstance(system := rig.connector, Scripted)
    assert [reading.value for reading in system.taken if reading.window_start == first[1]] == [2.0]
    assert await rig.dead() == [] and await rig.due() == []


async def test_a_window_that_begins_in_a_dropped_day_without_samples_is_told_once(database: Database) -> None:
    """That it was delivered is dropped with the day: told again it would be another reading."""
    connector = Scripted()
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="sum", every=3 * DAY)
    rig = await Rig(database, connector, rules=(rule,), initial_days=60).activate()
    start = datetime.fromtimestamp((datetime.now(UTC) - 14 * DAY).timestamp() // 259200 * 259200, UTC)
    await rig.store(("d0", start + DAY + HOUR, 1.0))
    await rig.run()
    await retention.drop_expired(database, now=start + 11 * DAY, retention=10 * DAY)
    await rig.store(("d0", start + DAY + 2 * HOUR, 2.0))
    await rig.run()
    await rig.run("initial")
    assert [reading.value for reading in connector.taken] == [1.0]


@pytest.mark.parametrize(
    ("reduce", "before", "late"),
    [
        ("delta", [10.0, 12.0, 17.0], 15.0),
        ("cycles", [0.0, 1.0, 0.0], 1.0),
        ("run_time", [1.0, 1.0, 0.0], 1.0),
        ("time_weighted_mean", [10.0, 12.0, 17.0], 15.0),
    ],
)
async def test_a_window_whose_sample_before_was_dropped_is_corrected_no_more(
    database: Database, reduce: Reduce, before: list[float], late: float
) -> None:
    """The last value of the dropped day is in what was delivered; what is left would make another of it."""
    arithmetic = Arithmetic(hold=12 * HOUR if reduce in HELD else None, valid=(-5.0, 1e6))
    rule = MeterRule(device="d0", metric="t", meter="m", reduce=reduce, every=DAY, arithmetic=arithmetic)
    new = replace(rule, device="d1", meter="new")
    rig = await Rig(database, rules=(rule, new)).activate()
    middle = (datetime.now(UTC) - 11 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    for at, value in zip((-HOUR, 2 * HOUR, 5 * HOUR), before, strict=True):
        await rig.store(("d0", middle + at, value))
    await rig.store(
        ("d0", middle + DAY + HOUR, before[2]), ("d1", middle + HOUR, 0.0), ("d1", middle + 2 * HOUR, 7.0)
    )
    await rig.store(("d1", middle + DAY + HOUR, 7.0))
    await rig.run()
    whole = await rig.delivered()
    await retention.drop_expired(database, now=middle + 10 * DAY, retention=10 * DAY)
    after = {key: value for key, value in whole.items() if key[1] >= middle}
    assert len(after) == 4
    await rig.store(("d0", middle + HOUR, -9.0))  # outside `valid`: no value to begin with
    await rig.store(("d0", middle + 3 * HOUR, late), ("d0", middle + DAY + 2 * HOUR, late + 40))
    await rig.store(("d1", middle + 3 * HOUR, 9.0))
    await rig.run()
    found = await rig.delivered()
    assert found["m", middle] == whole["m", middle], "its sample before is gone"
    assert found["m", middle + DAY] != whole["m", middle + DAY] or reduce == "cycles", "it has one"
    assert found["new", middle] != whole["new", middle] or reduce == "cycles", "it never had one"
    assert await rig.dead() == [] and await rig.due() == []


async def test_a_window_that_was_never_delivered_waits_for_no_sample_that_was_dropped(
    database: Database,
) -> None:
    """A counter that is seen again after a long silence begins anew, and so does one that is new."""
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="delta", every=DAY)
    rig = await Rig(database, rules=(rule,)).activate()
    middle = (datetime.now(UTC) - 11 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    await rig.store(("d0", middle - HOUR, 10.0), ("d0", middle + HOUR, 20.0), ("d0", middle + 2 * HOUR, 30.0))
    await retention.drop_expired(database, now=middle + 10 * DAY, retention=10 * DAY)
    await rig.store(("d0", middle + 5 * DAY, 40.0), ("d0", middle + 5 * DAY + HOUR, 45.0))
    await rig.run()
    assert await rig.delivered() == {("m", middle + 5 * DAY): 15.0}, "of the first, 10 of 20 would be missing"
    await rig.execute("delete from telemetry where ts < $1", middle + 5 * DAY)
    await rig.store(("d0", middle + 5 * DAY + 2 * HOUR, 46.0))
    await rig.run()
    assert await rig.delivered() == {("m", middle + 5 * DAY): 15.0}


async def test_what_is_kept_for_others_is_dropped_for_whoever_has_read_it(database: Database) -> None:
    asleep, _, now = await two(database)
    await retention.drop_expired(database, now=now, **KEPT)
    rows = await asleep.rows(
        "select customer_id, (now()::date - until::date) as age from telemetry_dropped order by 1"
    )
    assert [(row["customer_id"], row["age"]) for row in rows] == [("acme", 39), ("globex", 11)]


async def test_a_dead_letter_of_which_a_part_was_dropped_stays(database: Database) -> None:
    """Nobody computes its window any more: tried again, it would be gone without a word."""
    connector = Scripted()
    rule = MeterRule(device="d0", metric="t", meter="m", reduce="sum", every=3 * DAY)
    rig = await Rig(database, connector, rules=(rule,)).activate()
    start = datetime.fromtimestamp((datetime.now(UTC) - 14 * DAY).timestamp() // 259200 * 259200, UTC)
    await rig.store(("d0", start + HOUR, 1.0), ("d0", start + DAY + HOUR, 2.0))

    async def refuse(batch: Batch) -> list[Outcome]:
        return [Rejected(code="closed", message="not now") for _ in batch.readings]

    connector.answer = refuse
    await rig.run()
    assert len(await rig.dead()) == 1
    await retention.drop_expired(database, now=start + 11 * DAY, retention=10 * DAY)
    assert await Views(database).replay(rig.name, None) == 0
    assert len(await rig.dead()) == 1
