"""Meters in force: a run maps by the rules that are, or writes nothing; a walk begun again is never lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers import wait_until
from gateway.configuration.meters import MAX_METER_BYTES
from gateway.model.meter import MeterRule
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch
from gateway.payloads.formats.values import MAX_NAME_LENGTH
from gateway.store import meters_in_force, streams, windows
from gateway.store.pool import Database
from gateway.store.streams import RunTally
from gateway.store.views import Views
from gateway.sync import initial
from gateway.sync.initial import mark_more
from gateway.sync.link import READINGS, MetersChanged
from gateway.sync.scan import scan_slice
from tests.fixtures.connection_rig import CALLER, World
from tests.fixtures.scripted import UPSERT, Scripted
from tests.fixtures.sync_rig import ALL, BASE, HOUR, MINUTE, Rig


async def mapped(world: World) -> list[str]:
    rows = await world.rows("select meter from meter_mapping where connection_id = 'acme-1' order by 1")
    return [row["meter"] for row in rows]


@pytest.mark.parametrize("state", ["paused", "blocked", "reauthorization_required", "verifying", "degraded"])
async def test_meters_changed_in_any_state_are_in_force_when_it_is_left(
    database: Database, state: str
) -> None:
    """By whatever way it comes back."""
    world = World(database)
    await world.engine.prepare()
    await world.active()
    await world.execute("insert into customer values ('acme') on conflict do nothing")
    await world.execute("insert into device (customer_id, device_id) values ('acme', 'pump')")
    await world.execute("update connection set state = $1, probe_at = 'infinity'", state)
    held = await world.engine.service._stored("acme-1")
    (rule,) = held.meters
    changed = {**rule, "meter": "other-{device}"}
    await world.execute("update connection set meters = $1, configuration = configuration + 1", [changed])
    await world.engine.lifecycle.refresh()
    await world.execute("update connection set state = 'active'")
    await world.engine.lifecycle.refresh()
    assert await mapped(world) == ["other-pump"]
    (row,) = await world.rows(
        "select c.configuration, c.meters_of, s.meters_of as of_stream from connection c"
        " join stream s using (connection_id) where s.phase = 'incremental'"
    )
    assert row["configuration"] == row["meters_of"] == row["of_stream"]


async def test_resume_brings_the_meters_that_were_changed_while_it_was_paused(database: Database) -> None:
    world = World(database)
    await world.engine.prepare()
    await world.active()
    await world.execute("insert into device (customer_id, device_id) values ('acme', 'pump')")
    await world.service.pause("acme-1", CALLER)
    held = await world.engine.service._stored("acme-1")
    await world.execute(
        "update connection set meters = $1, configuration = configuration + 1",
        [{**held.meters[0], "meter": "other-{device}"}],
    )
    async with world.living():
        await world.service.resume("acme-1", CALLER)
        await world.reaches("active")
    await world.engine.lifecycle.refresh()
    assert await mapped(world) == ["other-pump"]


async def test_a_run_with_older_rules_writes_nothing(database: Database) -> None:
    rig = Rig(database, initial_days=1)
    await rig.store(("early", BASE, 1.0))
    await rig.activate()
    old = rig.link
    await rig.change_rules(replace(ALL, meter="new-{device}"))
    await rig.store(("late", BASE, 1.0))
    before = (await rig.stream())["watermark"], (await rig.stream("initial"))["initial_cursor"]
    with pytest.raises(MetersChanged):
        await scan_slice(database, await rig.claim(), old, RunTally())
    with pytest.raises(MetersChanged):
        await mark_more(database, await rig.claim("initial"), old, RunTally())
    await rig.runner().run(await rig.claim(), old)
    row = await rig.stream()
    assert (row["watermark"], (await rig.stream("initial"))["initial_cursor"]) == before
    assert row["lease_owner"] is None and row["last_error"] is None and row["attempts"] == 0
    assert [row["meter"] for row in await rig.rows("select meter from meter_mapping")] == ["new-early"]
    await rig.run()
    assert {meter for meter, _ in await rig.delivered()} == {"new-late"}


async def test_older_rules_never_replace_newer_ones(database: Database) -> None:
    """A replica whose link is a moment behind begins what another has begun anew."""
    rig = await Rig(database).activate()
    await rig.store(("d", BASE, 1.0))
    behind = replace(rig, rules=rig.rules, configuration=rig.configuration - 1)
    await rig.change_rules(replace(ALL, meter="new-{device}"))
    await behind.change_rules(ALL)
    rows = await rig.rows("select meter from meter_mapping where connection_id = $1", rig.name)
    assert [row["meter"] for row in rows] == ["new-d"]


async def test_what_was_computed_by_older_rules_is_computed_again(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector, rules=(replace(ALL, reduce="min"),))
    changed = False

    async def answer(batch: Batch) -> Sequence[Outcome]:
        nonlocal changed
        if not changed:
            changed = True
            await rig.change_rules(replace(ALL, reduce="max"))
        return connector.take(batch.readings)

    connector.answer = answer
    await rig.activate()
    await rig.store(("d", BASE, 1.0), ("d", BASE + MINUTE, 5.0))
    await rig.run(times=3)
    assert [reading.value for reading in connector.taken] == [1, 5]
    assert await rig.delivered() == {("d", BASE): 5}


# A walk that is begun again


async def begin_again(rig: Rig) -> datetime:
    async with rig.database.transaction() as connection:
        await streams.begin_again(
            connection, rig.name, READINGS, days=2, max_backfill=None, max_future=5 * MINUTE
        )
    start: datetime = (await rig.stream("initial"))["initial_from"]
    return start


async def walking(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that has come ten hours far."""
    await rig.store(*[("d", BASE - hours * HOUR, float(hours)) for hours in range(45)])
    await rig.activate()
    monkeypatch.setattr(initial, "ENOUGH_WINDOWS", 1)
    while (await rig.stream("initial"))["initial_cursor"] < BASE - 30 * HOUR:
        await mark_more(rig.database, await rig.claim("initial"), rig.link, RunTally())
    await rig.execute("delete from due_window")


async def test_a_full_sync_between_reading_and_writing_of_a_step_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database, initial_days=2)
    await walking(rig, monkeypatch)
    mark, begun = windows.mark_initial, list[datetime]()

    async def after_it(*arguments: Any, **counts: int) -> windows.Marked:
        if not begun:
            begun.append(await begin_again(rig))
            assert (await rig.stream("initial"))["initial_cursor"] == begun[0]
            monkeypatch.setattr(initial, "ENOUGH_WINDOWS", 0)
        return await mark(*arguments, **counts)

    monkeypatch.setattr(windows, "mark_initial", after_it)
    await mark_more(database, await rig.claim("initial"), rig.link, RunTally())
    assert (await rig.stream("initial"))["initial_cursor"] == begun[0]


async def test_a_full_sync_at_the_end_of_a_step_waits_for_it_and_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database, initial_days=2)
    await walking(rig, monkeypatch)
    prove, asked = streams.prove, list[asyncio.Task[datetime]]()

    async def after_it(*arguments: Any) -> None:
        asked.append(asyncio.create_task(begin_again(rig)))
        monkeypatch.setattr(initial, "ENOUGH_WINDOWS", 0)  # no further step

        async def waits() -> bool:
            query = (
                "select from pg_stat_activity where wait_event_type = 'Lock' and query like"
                " '%initial_clipped_to%'"
            )
            return bool(await rig.rows(query))

        await wait_until(waits, what="the full sync waits for the step", seconds=10)
        await prove(*arguments)

    monkeypatch.setattr(streams, "prove", after_it)
    await mark_more(database, await rig.claim("initial"), rig.link, RunTally())
    monkeypatch.undo()
    start = await asked[0]
    assert (await rig.stream("initial"))["initial_cursor"] == start


@pytest.mark.parametrize("before", [True, False])
async def test_a_full_sync_while_the_walk_ends_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Before and after the windows are handed over, with the walk's run still to be recorded."""
    connector = Scripted()
    rig = Rig(database, connector, initial_days=2)
    await rig.store(("d", BASE, 1.0))
    await rig.activate()
    end = initial.finish

    async def meanwhile(*arguments: Any) -> None:
        if before:
            await begin_again(rig)
        await end(*arguments)
        if not before:
            await begin_again(rig)

    monkeypatch.setattr(initial, "finish", meanwhile)
    row = await rig.run("initial")
    monkeypatch.undo()
    assert row["state"] == "idle" and row["initial_cursor"] == row["initial_from"]
    assert (await rig.run("initial"))["state"] == "done"


# Dead letters tried again


async def letter(rig: Rig, connector: Scripted) -> None:
    """A reading of the meter `d` that the system refused."""

    async def refuse(batch: Batch) -> Sequence[Outcome]:
        return [Rejected(code="no", message="no")] * len(batch.readings)

    connector.answer = refuse
    await rig.store(("d", BASE + 15 * MINUTE, 1.0))
    await rig.run()
    assert len(await rig.dead()) == 1
    connector.answer = None


GONE = MeterRule(device="another", metric="t", meter="d", every=15 * MINUTE)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(replace(ALL, meter="other-{device}"), id="no longer mapped"),
        pytest.param(replace(ALL, every=HOUR), id="another grid"),
        pytest.param(replace(ALL, every=timedelta(seconds=421)), id="a grid that does not meet it"),
        pytest.param(GONE, id="a device without samples there"),
        pytest.param(replace(ALL, metric="u"), id="a metric without samples there"),
    ],
)
async def test_a_letter_whose_window_nobody_computes_stays(database: Database, rule: MeterRule) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await letter(rig, connector)
    await rig.change_rules(rule)
    await rig.execute("delete from due_window")
    assert await Views(database).replay(rig.name, None) == 0
    assert await rig.due() == [] and len(await rig.dead()) == 1
    await rig.change_rules(ALL)
    await rig.execute("delete from due_window")
    assert await Views(database).replay(rig.name, None) == 1
    await rig.run()
    assert await rig.delivered() == {("d", BASE + 15 * MINUTE): 1} and await rig.dead() == []


async def test_a_letter_of_each_is_tried_again_only_where_its_sample_is(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.store(("d", BASE + 16 * MINUTE, 2.0))
    await letter(rig, connector)
    await rig.change_rules(replace(ALL, reduce="each"))
    assert await Views(database).replay(rig.name, None) == 1, "there is one at its very start"
    await rig.run()
    assert await rig.delivered() == {("d", BASE + 15 * MINUTE): 1}


async def test_a_replay_waits_for_a_change_of_meters(database: Database) -> None:
    """Else it would mark a window of a meter that goes in that moment."""
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await letter(rig, connector)
    async with database.transaction() as connection:
        await meters_in_force.begin(
            connection, rig.name, rig._outbound(replace(ALL, meter="x"), configuration=1)
        )
        replaying = asyncio.create_task(Views(database).replay(rig.name, None))

        async def waits() -> bool:
            return bool(await rig.rows("select from pg_stat_activity where wait_event_type = 'Lock'"))

        await wait_until(waits, what="the replay waits", seconds=10)
    assert await replaying == 0
    assert await rig.due() == []


async def test_the_longest_names_that_a_rule_may_make_are_delivered(database: Database) -> None:
    """What is longer is refused: in the database's indexes it would end each run of the customer's."""
    chance = random.Random(1)  # what does not repeat itself is not made shorter

    def letters(count: int) -> str:
        return "".join(chr(chance.randrange(0x20000, 0x2A000)) for _ in range(count))

    metric, meter = letters(MAX_NAME_LENGTH), letters(MAX_METER_BYTES // 4)
    connector = Scripted(UPSERT)
    rules = (MeterRule(device="*", metric=metric, meter=meter, every=15 * MINUTE),)
    rig = await Rig(database, connector, rules=rules).activate()
    await rig.store(("a" * 64, BASE, 1), ("a" * 64, BASE + HOUR, 2), metric=metric)
    await rig.run()
    assert {row["meter"] for row in await rig.rows("select meter from delivery")} == {meter}
