"""Windows of the calendar in a gateway that runs: late samples, other rules, other windows, other machines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from gateway import zones
from gateway.model.calendar import Calendar
from gateway.model.meter import MeterRule
from gateway.store import calendars
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.views import Views
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, CONNECTION, CUSTOMER, DAY, HOUR, MINUTE, Rig

BERLIN = Calendar(period="day", zone="Europe/Berlin")
SPRING = datetime(2026, 3, 28, 23, tzinfo=UTC)
"""The day in Berlin that has 23 hours."""
SHIFTS = Calendar(period="shift", zone="Europe/Berlin", shifts=(time(6), time(14), time(22)))


def rule(every: Calendar | timedelta, **more: object) -> MeterRule:
    return MeterRule(device="d", metric="t", meter="m", reduce="sum", every=every, **more)  # type: ignore[arg-type]


async def hourly(rig: Rig, since: datetime, count: int) -> None:
    await rig.store(*[("d", since + hour * HOUR, 1.0) for hour in range(count)])


async def test_a_day_has_as_many_hours_as_its_clocks_show(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(rule(BERLIN),)).activate()
    await hourly(rig, SPRING - DAY, 24 + 23 + 24)
    await rig.run()
    assert await rig.delivered() == {
        ("m", SPRING - DAY): 24.0,
        ("m", SPRING): 23.0,
        ("m", SPRING + 23 * HOUR): 24.0,
    }


async def test_a_late_sample_corrects_the_day_that_it_is_of(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector, rules=(rule(SHIFTS),)).activate()
    await hourly(rig, SPRING - HOUR, 16)
    await rig.run()
    first = await rig.delivered()
    assert first == {
        ("m", SPRING - 2 * HOUR): 6.0,  # 22:00 to 06:00 in seven hours, of which the first has no sample
        ("m", SPRING + 5 * HOUR): 8.0,
        ("m", SPRING + 13 * HOUR): 2.0,
    }
    await rig.store(("d", SPRING + 5 * HOUR - timedelta(microseconds=1), 5.0))
    await rig.run()
    assert await rig.delivered() == {**first, ("m", SPRING - 2 * HOUR): 11.0}
    assert [reading.modified for reading in connector.taken] == [False, False, False, True]


async def test_a_day_is_due_when_it_has_ended_there_and_late_samples_were_waited_for(
    database: Database,
) -> None:
    rig = await Rig(database, Scripted(), rules=(rule(BERLIN),), lateness=5 * MINUTE).activate()
    await rig.store(("d", SPRING + HOUR, 1.0), ("d", datetime.now(UTC), 1.0))
    await rig.run()
    assert [at for _, at in await rig.delivered()] == [SPRING]
    (due,) = await rig.due()
    zone = ZoneInfo("Europe/Berlin")
    end = (due["closes_at"] - 5 * MINUTE).astimezone(zone)
    assert due["window_start"].astimezone(zone).timetz() == end.timetz() == time(tzinfo=zone)
    assert end.date() == due["window_start"].astimezone(zone).date() + DAY


async def test_what_is_delivered_stays_when_a_zone_gets_other_rules(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = Scripted()
    rig = await Rig(database, connector, rules=(rule(BERLIN),)).activate()
    await hourly(rig, SPRING, 23)
    await rig.run()
    # From a version of the database on that came too late, the clocks were never put forward.
    monkeypatch.setattr(zones, "zone", lambda name: ZoneInfo("Africa/Lagos"))
    await hourly(rig, SPRING, 23)
    await hourly(rig, SPRING + 23 * HOUR, 49)
    await rig.run()
    cut = await rig.rows("select window_start, window_end from calendar_window order by 1")
    joined = [row["window_start"] for row in cut[1:]]
    assert joined == [row["window_end"] for row in cut[:-1]], "in each window what is in no other"
    found = await rig.delivered()
    assert found["m", SPRING] == 23.0 and sum(float(value) for value in found.values()) == 72.0
    assert all(not reading.modified for reading in connector.taken)
    assert len({reading.key for reading in connector.taken}) == len(connector.taken), "nothing twice"


async def test_two_that_cut_at_once_by_rules_of_two_versions_have_one_grid(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await Rig(database, Scripted(), rules=(rule(BERLIN),)).activate()
    await hourly(rig, SPRING, 60)
    rules = iter(["Europe/Berlin", "Africa/Lagos", "Europe/London", "Asia/Tokyo"] * 10)
    monkeypatch.setattr(zones, "zone", lambda name: ZoneInfo(next(rules)))

    async def cut() -> None:
        async with database.transaction() as connection:
            await calendars.cut(connection, CUSTOMER, [BERLIN])
            await asyncio.sleep(0.05)

    await asyncio.gather(*(cut() for _ in range(4)))
    rows = await rig.rows("select window_start, window_end from calendar_window order by 1")
    assert [row["window_start"] for row in rows[1:]] == [row["window_end"] for row in rows[:-1]]


async def test_a_meter_goes_from_hours_to_days_and_back_like_any_other_window(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(rule(HOUR),), initial_days=1).activate()
    # an hour of a day that is not over: it waits in the old windows
    await rig.store(("d", BASE - 30 * HOUR, 1.0), ("d", BASE, 2.0), ("d", datetime.now(UTC), 4.0))
    await rig.run()
    assert {at for _, at in await rig.delivered()} == {BASE - 30 * HOUR, BASE}
    await rig.change_rules(rule(BERLIN))
    assert await rig.due() == [], "what waited is no window any more"
    await rig.execute(
        "update stream set initial_from = now() - interval '3 days', initial_cursor = now() - interval '3 days'"
        " where connection_id = $1 and phase = 'initial'",
        CONNECTION,
    )
    await rig.run("initial")
    await rig.run()
    zone = ZoneInfo("Europe/Berlin")
    days = {row["window_start"].astimezone(zone).time() for row in await rig.due()}
    assert days == {time(0)}, "the day that is not over"
    past = (BASE - 30 * HOUR).astimezone(zone).replace(hour=0)
    assert ("m", past.astimezone(UTC)) in await rig.delivered()
    await rig.change_rules(rule(2 * HOUR))
    assert await rig.due() == []
    await rig.store(("d", BASE - HOUR, 3.0))
    await rig.run()
    two_hours = datetime.fromtimestamp((BASE - HOUR).timestamp() // 7200 * 7200, UTC)
    assert (await rig.delivered())["m", two_hours] in (3.0, 5.0)


async def test_a_dead_letter_of_a_day_is_sent_again_and_one_of_another_grid_stays(database: Database) -> None:
    connector = Scripted()
    text = MeterRule(device="d", metric="t", meter="m", reduce="mean", every=BERLIN)
    rig = await Rig(database, connector, rules=(text,)).activate()
    await rig.store(("d", SPRING + HOUR, "on"))
    await rig.run()
    assert [row["window_start"] for row in await rig.dead()] == [SPRING]
    await rig.change_rules(MeterRule(device="d", metric="t", meter="m", reduce="last", every=SHIFTS))
    assert await Views(database).replay(CONNECTION, None) == 0
    await rig.change_rules(MeterRule(device="d", metric="t", meter="m", reduce="last", every=BERLIN))
    assert await Views(database).replay(CONNECTION, None) == 1
    await rig.run()
    assert (await rig.delivered())["m", SPRING] == "on"


async def test_what_a_lost_push_may_have_changed_is_due_again_where_it_is_a_window(
    database: Database,
) -> None:
    rig = await Rig(database, Scripted(), rules=(rule(BERLIN),)).activate()
    await hourly(rig, SPRING, 23)
    await rig.run()
    async with database.transaction() as connection:
        starts = [SPRING, SPRING + HOUR, SPRING + 24 * HOUR]
        await connection.execute(sql("doubt_mark"), CONNECTION, ["m"] * 3, starts)
    assert [row["window_start"] for row in await rig.due()] == [SPRING]


async def test_a_zone_that_this_machine_does_not_know_is_said_and_nothing_else_is_touched(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await Rig(database, rules=(rule(Calendar(period="day", zone="Europe/Atlantis")),)).activate()
    other = await Rig(database, name="other", customer="globex").activate()
    links = other.engine.links
    assert [link.connection for link in await links.refresh([CONNECTION, "other"])] == ["other"]
    said = capsys.readouterr().out
    assert "Europe/Atlantis" in said and "tzdata" in said and "restart" in said
    await links.close()


async def test_one_sample_of_many_years_ago_holds_no_transaction_until_the_server_ends_it(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan failed by that, and failed again in each run."""
    rig = await Rig(database, Scripted(), rules=(rule(SHIFTS),)).activate()
    await rig.store(("d", SPRING - 30 * 365 * DAY, 1.0), ("d", SPRING, 2.0))
    monkeypatch.setattr(calendars, "AT_ONCE", 500)
    impatient = await Database.open(dsn, size=2, lease_seconds=0.6)
    async with impatient.transaction() as connection:
        await calendars.cut(connection, CUSTOMER, [SHIFTS])
    await impatient.close()
    await rig.run()
    assert len(await rig.delivered()) == 2
