"""What pages show of a connection beside its state: the hours in which it delivered, its meters with their last
readings, dead letters that are let go of; and that an open page is told when something changes.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from benchmarks.servers import PATIENCE, wait_until
from gateway import clock
from gateway.http.dashboard.rendering import window
from gateway.http.live import Live, Watcher
from gateway.model.calendar import Calendar
from gateway.model.errors import ConfigError
from gateway.model.meter import MeterRule
from gateway.model.outcome import Rejected
from gateway.store import retention
from gateway.store.migrate import migrate, migrations
from gateway.store.pool import Database
from gateway.store.views import Hour, Views
from tests.fixtures.scripted import UPSERT, Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig
from tests.integration.test_ingest_fence import waits
from tests.integration.test_operating import Shell
from tests.integration.test_sync_deliver import refusing

BEFORE = "0044"
RULES = (
    MeterRule(device="*", metric="t", meter="{device}", every=15 * MINUTE, unit="CEL"),
    MeterRule(device="*", metric="p", meter="{device} p", every=15 * MINUTE),
)
MADE = """
insert into customer values ('acme');
insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest, state)
values ('c1', 'acme', 'postgres', 'cloud', 1, '', 'active');
"""


def now_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


async def test_what_runs_deliver_and_refuse_is_added_to_their_hour(database: Database) -> None:
    connector = Scripted(UPSERT)
    rig = await Rig(database, connector, rules=RULES).activate()
    views = Views(database)
    await rig.store(*((device, BASE + n * 15 * MINUTE, n) for device in ("a", "b") for n in range(4)))
    before = now_hour()
    await rig.run()
    connector.answer = refusing(connector, "b", Rejected(code="no", message="no"))
    await rig.store(("a", BASE, 9), ("b", BASE, 9))
    await rig.run()
    [hours] = [await views.hours([rig.name], since=before)]
    found = hours[rig.name]
    assert sum(hour.delivered for hour in found) == 9, "eight, and one that was corrected"
    assert sum(hour.rejected for hour in found) == 1
    assert {hour.start for hour in found} <= {before, before + HOUR}
    assert await views.hours([rig.name], since=before + 2 * HOUR) == {}
    for whose, count in ((None, found[-1].delivered), (rig.customer, found[-1].delivered), ("globex", 0)):
        totals = await views.totals(whose, hour=found[-1].start)
        assert (totals.readings, totals.silent) == (count, 0)


async def test_meters_are_shown_with_the_last_reading_of_each(database: Database) -> None:
    connector = Scripted(UPSERT)
    rig = await Rig(database, connector, rules=RULES).activate()
    await rig.store(*(("a", BASE + n * 15 * MINUTE, n) for n in range(4)))
    await rig.run()
    views, since = Views(database), BASE - timedelta(days=1)
    [first, second] = await views.meters(rig.name, since=since, limit=10)
    assert (first.meter, first.device, first.metric, first.unit) == ("a", "a", "t", "CEL")
    assert (first.value, first.window_start) == (3, BASE + 45 * MINUTE) and first.delivered_at is not None
    assert (second.meter, second.value, second.delivered_at) == ("a p", None, None)
    assert [one.meter for one in await views.meters(rig.name, after="a", since=since, limit=10)] == ["a p"]
    [late, _] = await views.meters(rig.name, since=BASE + HOUR, limit=10)
    assert late.value is None


async def test_a_meter_of_the_calendar_is_shown_with_its_zone(database: Database) -> None:
    night = Calendar(period="shift", zone="Europe/Berlin", shifts=(time(6), time(22)))
    rig = await Rig(database, rules=(MeterRule(device="a", metric="t", meter="m", every=night),)).activate()
    [meter] = await Views(database).meters(rig.name, since=BASE, limit=10)
    assert meter.window == night and window(meter.window) == "a shift from 06:00, 22:00 in Europe/Berlin"
    assert window(timedelta(minutes=90)) == "90m"


async def test_dead_letters_are_let_go_of_and_another_connections_are_not(database: Database) -> None:
    connector = Scripted(UPSERT)
    rig = await Rig(database, connector).activate()
    connector.answer = refusing(connector, "a", Rejected(code="no", message="no"))
    await rig.store(("a", BASE, 1), ("a", BASE + HOUR, 2))
    await rig.run()
    first, second = [letter["dead_letter_id"] for letter in await rig.dead()]
    views = Views(database)
    assert [letter.value for letter in await views.dead_letters(rig.name, limit=9)] == [2, 1]
    assert await views.discard("another", [first, second]) == 0
    assert await views.discard(rig.name, [first, 2**62]) == 1
    assert [letter["dead_letter_id"] for letter in await rig.dead()] == [second]


async def test_letters_are_let_go_of_in_the_order_in_which_deliveries_take_them(database: Database) -> None:
    letter = "select from dead_letter where meter = $1 for update"
    async with database.connection() as connection:
        await connection.execute(MADE)
        for meter in ("b", "a"):
            await connection.execute(
                "insert into dead_letter (kind, digest, customer_id, connection_id, meter, window_start, reason, detail)"
                " values ('reading', $1, 'acme', 'c1', $2, $3, 'rejected', '')",
                meter.encode(),
                meter,
                BASE,
            )
    async with database.transaction() as delivery:
        await delivery.execute(letter, "a")
        discarding = asyncio.create_task(Views(database).discard("c1", None))
        await waits(database, "from dead_letter\n    where connection_id = $1")
        await delivery.execute(letter, "b")
    assert await discarding == 2


async def test_dead_readings_are_discarded_on_the_command_line_once_somebody_agreed(
    tmp_path: Path, dsn: str, empty_dsn: str, database: Database
) -> None:
    connector = Scripted(UPSERT)
    rig = await Rig(database, connector).activate()
    connector.answer = refusing(connector, "a", Rejected(code="no", message="no"))
    await rig.store(*(("a", BASE + n * HOUR, n) for n in range(3)))
    await rig.run()
    first, *rest = [letter["dead_letter_id"] for letter in await rig.dead()]
    shell = Shell(tmp_path, dsn, empty_dsn)
    words = ("dead-letters", "discard", "--connection", rig.name)
    asked = await asyncio.to_thread(shell.refused, *words)
    assert isinstance(asked, ConfigError) and "every dead reading (3)" in str(asked)
    one = await asyncio.to_thread(shell.run, *words, str(first), "--yes")
    assert "1 dead reading discarded" in one.stdout
    assert [letter["dead_letter_id"] for letter in await rig.dead()] == rest
    assert (await asyncio.to_thread(shell.json, *words, "--yes")) == {"discarded": 2}
    assert "0 dead readings" in (await asyncio.to_thread(shell.run, *words, "--yes")).stdout
    for wrong in (("7",), ("--connection", "nobody"), ("--messages", "7"), ("--messages", *words[2:])):
        await asyncio.to_thread(shell.refused, "dead-letters", "discard", *wrong)


async def test_hours_are_kept_as_long_as_runs(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(MADE)
        await connection.execute(
            "insert into connection_hour values ('c1', now() - interval '31 days', 1, 0, 0), ('c1', now(), 2, 0, 0)"
        )
    await retention.drop_expired(database, now=clock.now(), retention=timedelta(days=100))
    found = await Views(database).hours(["c1"], since=datetime(2000, 1, 1, tzinfo=UTC))
    assert [hour.delivered for hour in found["c1"]] == [2]


async def test_a_database_in_use_has_the_hours_of_the_runs_that_it_knows(empty_dsn: str) -> None:
    database = await Database.open(empty_dsn, size=2)
    try:
        async with database.transaction() as connection:
            await connection.execute(
                "create table migration (name text primary key, applied_at timestamptz not null default now())"
            )
            for name, text in migrations():
                if name < BEFORE:
                    await connection.execute(text)
                    await connection.execute("insert into migration (name) values ($1)", name)
            await connection.execute(MADE)
            await connection.execute(
                "insert into sync_run (connection_id, name, phase, started_at, ended_at, outcome, delivered, rejected)"
                " select 'c1', 'readings', 'incremental', at, at, 'completed', n, n % 2"
                " from (values (timestamptz '2026-11-01 10:05Z', 3), ('2026-11-01 10:59Z', 4), ('2026-11-01 11:00Z', 5),"
                " ('2026-11-01 12:00Z', 0)) run (at, n)"
            )
        await migrate(database)
        found = await Views(database).hours(["c1"], since=datetime(2000, 1, 1, tzinfo=UTC))
        ten = datetime(2026, 11, 1, 10, tzinfo=UTC)
        assert found["c1"] == [
            Hour(start=ten, delivered=7, rejected=1),
            Hour(start=ten + HOUR, delivered=5, rejected=1),
        ]
    finally:
        await database.close()


# Live


async def changed(watcher: Watcher) -> bool:
    return await watcher.changed(0.05)


async def settled(*watchers: Watcher) -> None:
    """What was said when the listening began is heard."""
    for watcher in watchers:
        await wait_until(lambda watcher=watcher: changed(watcher), what="the line is up", every=0.01)


async def test_who_looks_is_told_of_their_customers_changes_and_nobody_is_listened_for_otherwise(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute(MADE)
        await connection.execute("insert into customer values ('globex')")
    live = Live(database, limit=5)
    listeners = (
        "select count(*) from pg_stat_activity where query ~* '^(un)?listen' and datname = current_database()"
    )

    async def listening() -> int:
        async with database.connection() as connection:
            return int(await connection.fetchval(listeners))

    assert await listening() == 0
    with live.watching(None) as everybody, live.watching("acme") as acme, live.watching("globex") as globex:
        await settled(everybody, acme, globex)
        assert await listening() == 1, "one session for all"
        async with database.connection() as connection:
            await connection.execute("update connection set state = 'degraded'")
        assert await everybody.changed(5) and await acme.changed(5)
        assert not await globex.changed(0.3)
        async with database.connection() as connection:
            await connection.execute("update connection set version = version + 1")
        assert not await everybody.changed(0.3), "a version is no change that a person waits for"

    async def is_over() -> bool:
        return await listening() == 0

    await wait_until(is_over, what="nobody listens for nobody")


async def test_a_line_that_is_cut_is_made_again_and_what_was_missed_is_told(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(MADE)
    live = Live(database, limit=5)
    with live.watching("acme") as watcher:
        await settled(watcher)
        async with database.connection() as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and datname = current_database() and query ~* '^(un)?listen'"
            )
        assert await watcher.changed(15), "whatever was said meanwhile"


async def test_leaving_wakes_everybody(database: Database) -> None:
    live = Live(database, limit=5)
    with live.watching(None) as watcher:
        await settled(watcher)
        waiting = asyncio.create_task(watcher.changed(60))
        live.leave()
        assert await asyncio.wait_for(waiting, 5 * PATIENCE) and watcher.is_over
