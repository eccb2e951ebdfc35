"""Connections with nothing to do: what they ask of PostgreSQL, what wakes them, and
that none is forgotten.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from benchmarks import growth_idle
from benchmarks.servers import wait_until
from gateway import clock as gateway_clock
from gateway.connections import answers, following
from gateway.model.connection import State
from gateway.model.connector import ProbeResult
from gateway.model.errors import Unavailable
from gateway.model.meter import MAX_METERS, MeterRule, made_of
from gateway.model.sample import to_microseconds
from gateway.store import breakers, connections, mappings, probes, streams
from gateway.store.notices import Notices
from gateway.store.pool import Database
from gateway.store.probes import Due
from gateway.store.queries import sql
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import CALLER, World, wanted
from tests.fixtures.failing import Failing
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import ALL, BASE, HOUR, MINUTE, Rig

NAMES = [f"acme-{number}" for number in range(12)]


async def many(database: Database, names: list[str] = NAMES) -> World:
    """Active ones, their streams at rest, no probe due."""
    world = World(database)
    await world.engine.prepare()
    for name in names:
        await world.service.create(wanted(name), CALLER)
    async with world.living():
        for name in names:
            await world.reaches("active", name)
    await world.engine.lifecycle.refresh()
    await world.execute("update stream set state = 'idle', next_run_at = now() + interval '1 hour'")
    await world.execute("update connection set probe_at = now() + interval '1 hour'")
    return world


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    engine = world.engine
    loops = [asyncio.create_task(engine.lifecycle.run()), asyncio.create_task(engine.scheduler.run())]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


# Streams at rest


async def next_runs(world: World) -> list[float]:
    rows = await world.rows(
        "select extract(epoch from next_run_at - now())::float8 as seconds from stream where phase ="
        " 'incremental' order by 1"
    )
    return [row["seconds"] for row in rows]


async def test_streams_with_nothing_to_do_rest_in_one_statement(database: Database) -> None:
    world = await many(database)
    await world.execute("update stream set next_run_at = now() - interval '1 second', every = '1 minute'")
    await world.execute("update stream set next_run_at = now() + interval '1 hour' where phase = 'initial'")
    assert await streams.rest(database, 100) is False
    assert all(50 < seconds <= 60 for seconds in await next_runs(world))
    assert await streams.claim(database, "replica-a", 15.0, None, 10, in_hand=[]) == []


_TO_DO = {
    "samples": "",
    "a window that is due": (
        "insert into due_window (connection_id, meter, window_start, phase, closes_at)"
        " values ('acme-0', 'm', now(), 'incremental', now() - interval '1 second')"
    ),
    "a window that closes later": (
        "insert into due_window (connection_id, meter, window_start, phase, closes_at)"
        " values ('acme-0', 'm', now(), 'incremental', now() + interval '1 hour')"
    ),
    "a push that was begun": (
        "insert into push_intent select 'acme-0', 'readings', 'incremental', 1, 1, '{}', '{}', '{}', now()"
    ),
    "doubt": (
        "insert into delivery_doubt (connection_id, meter, window_start, value, ask_at)"
        " values ('acme-0', 'm', now(), '1', now() + interval '1 hour')"
    ),
    "a failure": "update stream set attempts = 1 where connection_id = 'acme-0'",
    "an error that is shown": "update stream set last_error = 'x' where connection_id = 'acme-0'",
    "a wait that its system asked for": "update stream set put_off = 1 where connection_id = 'acme-0'",
    "a trouble": "insert into connection_trouble (connection_id, part, detail) values ('acme-0', 'run', 'x')",
    "degraded": "update connection set state = 'degraded' where connection_id = 'acme-0'",
    "lagging": "update stream set state = 'lagging' where connection_id = 'acme-0'",
    "meters that changed": (
        "update connection set configuration = configuration + 1 where connection_id = 'acme-0'"
    ),
    "a meter that is to be made": "insert into meter_made (connection_id, meter) values ('acme-0', 'm')",
    "an interval that is not known": "update stream set every = null where connection_id = 'acme-0'",
}


@pytest.mark.parametrize("what", _TO_DO)
async def test_whoever_has_anything_to_do_does_not_rest(database: Database, what: str) -> None:
    world = await many(database, NAMES[:2])
    await world.execute("delete from stream where phase = 'initial'")
    await world.execute("update stream set every = '1 minute'")
    if what == "samples":
        at = to_microseconds(BASE)
        await TelemetryStore(database, register_customers=True).write(
            [(("globex", "d", at), {"t": 1.0}, at)], []
        )
        await world.execute("update connection set customer_id = 'globex' where connection_id = 'acme-0'")
    else:
        await world.execute(_TO_DO[what])
    await world.execute("update stream set next_run_at = now() - interval '1 second'")
    assert await streams.rest(database, 100) is True
    claimed = await streams.claim(database, "replica-a", 15.0, None, 10, in_hand=[])
    assert [claim.connection for claim in claimed] == ["acme-0"]


@pytest.mark.parametrize(
    "state", ["paused", "pending", "reauthorization_required", "disconnecting", "blocked"]
)
async def test_those_that_may_not_call_are_not_looked_at_each_time(database: Database, state: str) -> None:
    """And run at once when they may again."""
    world = await many(database, ["acme-1"])
    await world.execute("update connection set state = $1, prior_state = 'active'", state)
    await world.execute("update stream set next_run_at = now() - interval '1 second'")
    before = await world.rows("select last_success_at from stream")
    assert await streams.rest(database, 100) is False
    assert all(seconds > 50 for seconds in await next_runs(world))
    assert await world.rows("select last_success_at from stream") == before
    if state == "paused":
        await world.service.resume("acme-1", CALLER)
        assert all(seconds <= 0 for seconds in await next_runs(world))


async def test_a_stream_that_rests_delivers_what_comes_next(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.execute("update stream set every = '100 ms'; update connection set configuration = meters_of")
    engine = rig.engine
    engine.scheduler.serve({rig.name: rig.link})
    running = asyncio.create_task(engine.scheduler.run())
    for number in range(3):

        async def rests() -> bool:
            before = await rig.stream()

            async def again() -> bool:
                return bool((await rig.stream())["last_success_at"] != before["last_success_at"])

            await wait_until(again, what="it succeeds again")
            return bool((await rig.stream())["fence"] == before["fence"])

        await wait_until(rests, what="it rests: no run, and it succeeds all the same")
        await rig.store(("d1", BASE + number * 15 * MINUTE, float(number)))
        await wait_until(lambda n=number: len(connector.taken) == n + 1, what="it is delivered")  # type: ignore[misc]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_replica_cannot_serve_is_left_to_others_and_asked_for_once(database: Database) -> None:
    mine, theirs = Scripted(), Scripted()
    rig = await Rig(database, mine).activate()
    other = await Rig(database, theirs, name="acme-2").activate()
    engine = rig.engine
    engine.scheduler.serve({rig.name: rig.link})
    running = asyncio.create_task(engine.scheduler.run())
    await rig.store(("d1", BASE, 1.0))
    await wait_until(lambda: len(mine.taken) == 1, what="its own is delivered")

    async def fence() -> int:
        return int((await other.stream())["fence"])

    seen = await fence()
    await rig.store(("d1", BASE + 15 * MINUTE, 2.0))
    await wait_until(lambda: len(mine.taken) == 2, what="its own goes on")
    assert await fence() == seen <= 1 and (await other.stream())["lease_owner"] is None
    await other.run()
    assert len(theirs.taken) == 2
    engine.scheduler.serve({rig.name: rig.link, other.name: other.link})
    await rig.store(("d1", BASE + 30 * MINUTE, 3.0))
    await wait_until(lambda: len(theirs.taken) == 3, what="served from now on")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# Statements


async def test_statements_of_idle_connections_do_not_grow_with_their_number(database: Database) -> None:
    """Also counted per connection: none is asked for."""
    await many(database)
    world = World(failing := Failing(database), owner="replica-b")
    async with running(world):
        await wait_until(lambda: len(world.engine.links.current) == len(NAMES), what="all are served")

        async def listens() -> bool:
            return (
                world.engine.lifecycle._notices.is_listening
                and not world.engine.lifecycle._notices._everything
            )

        await wait_until(listens, what="it listens")
        for _ in range(2):
            failing.asked.clear()
            await wait_until(lambda: failing.asked[sql("stream_next")] >= 4, what="a while has passed")
    for whole in ("connection_configurations", "connection_read", "trouble_list", "connection_lock"):
        assert failing.asked[sql(whole)] == 0, whole
    assert sum(failing.asked.values()) < 40


async def test_a_change_of_one_connection_costs_that_one(database: Database) -> None:
    await many(database)
    world = World(database, owner="replica-b")
    built: list[str] = []
    build = world.engine.builder._connector

    def counting(held: connections.StoredConnection, credential: object) -> object:
        built.append(held.connection)
        return build(held, credential)  # type: ignore[arg-type]

    world.engine.builder._connector = counting  # type: ignore[assignment, method-assign]
    async with running(world):
        await wait_until(lambda: len(world.engine.links.current) == len(NAMES), what="all are served")
        assert sorted(built) == sorted(NAMES)
        built.clear()
        await world.execute(
            "update connection set configuration = configuration + 1 where connection_id = 'acme-3'"
        )
        await wait_until(lambda: built != [], what="it is built anew", seconds=5)
        await world.execute(
            "update connection set configuration = configuration + 1 where connection_id = 'acme-5'"
        )
        await wait_until(lambda: "acme-5" in built, what="what was told later is built", seconds=5)
    assert built == ["acme-3", "acme-5"]


async def test_a_lost_session_of_notices_loses_no_change(database: Database) -> None:
    notices = Notices(database)
    running = asyncio.create_task(notices.run())
    await wait_until(lambda: notices.is_listening, what="it listens")
    assert notices.take() is None and notices.take() == set()
    world = World(database)
    await world.engine.prepare()
    await world.service.create(wanted(), CALLER)
    await wait_until(lambda: notices.wake.is_set(), what="it is told")
    assert notices.take() == {"acme-1"}
    await world.execute("update connection set probe_at = now(), version = version + 1")
    await world.execute(
        "insert into connection_trouble (connection_id, part, detail) values ('acme-1', 'run', 'x')"
    )
    await wait_until(lambda: notices.wake.is_set(), what="it is told of troubles")
    assert notices.take() == set() and notices.take_troubles()
    await world.execute("select pg_terminate_backend(pid) from pg_stat_activity where query like 'UNLISTEN%'")
    await wait_until(lambda: not notices.is_listening, what="the session is gone")
    await wait_until(lambda: notices.is_listening, what="it listens again")
    assert notices.take() is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_notices_changes_are_found_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler that passes none on."""
    monkeypatch.setattr(following, "UNTOLD_SECONDS", 0.3)
    world = World(database)
    await world.engine.prepare()

    async def deaf() -> None:
        await asyncio.Event().wait()

    world.engine.lifecycle._notices.run = deaf  # type: ignore[method-assign]
    async with world.living():
        await world.service.create(wanted(), CALLER)
        await world.reaches("active")
        await world.execute("update connection set configuration = configuration + 1")

        async def followed() -> bool:
            (row,) = await world.rows("select configuration, meters_of from connection")
            return bool(row["configuration"] == row["meters_of"])

        await wait_until(followed, what="the change is followed")


# Probes


async def test_probes_that_went_well_are_written_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "TOGETHER_SECONDS", 1.0)
    await many(database)
    world = World(failing := Failing(database), owner="replica-b")
    async with running(world):
        await wait_until(lambda: len(world.engine.links.current) == len(NAMES), what="all are served")
        failing.asked.clear()
        await world.execute("update connection set probe_at = now(), probe_attempts = 1")
        await wait_until(lambda: world.connector.probes >= len(NAMES), what="all were probed")

        async def written() -> bool:
            (row,) = await world.rows(
                "select count(*) as held from connection where probe_attempts = 0 and probe_at > now() +"
                " interval '30 seconds'"
            )
            return bool(row["held"] == len(NAMES))

        await wait_until(written, what="all are written")
        (row,) = await world.rows(
            "select count(*) as held from call_health where last_success_at > now() - interval '9 s'"
        )
    assert row["held"] == len(NAMES)
    assert failing.asked[sql("health_succeeded")] == failing.asked[sql("probe_schedule")] == 0
    assert failing.asked[sql("probe_well")] <= 3


async def test_what_failed_before_is_never_written_with_the_others(database: Database) -> None:
    """A degraded connection recovers by its own rules, one that failed ends its failures."""
    world = await many(database, NAMES[:2])
    world.connector.probe_error = Unavailable("503")
    async with running(world):
        await world.execute("update connection set probe_at = now() where connection_id = 'acme-0'")
        await wait_until(lambda: world.connector.probes >= 3, what="it was probed")
        world.connector.probe_error = None
        await world.execute("update connection set probe_at = now()")

        async def calm() -> bool:
            rows = await world.rows("select failing_since from call_health where operation = 'probe'")
            states = await world.rows("select state from connection")
            return {row["failing_since"] for row in rows} == {None} and {row["state"] for row in states} == {
                "active"
            }

        await wait_until(calm, what="both are well")


def test_what_is_overdue_is_probed_by_the_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No burst after a start, and all within an interval."""
    now = [1000.0]
    monkeypatch.setattr(gateway_clock, "monotonic", lambda: now[0])
    budget = answers.Budget(45.0)
    for count in (1, 100, 5000, 50_000):
        taken = []
        for _ in range(90):
            now[0] += 0.5
            taken.append(budget.take(count))
        assert sum(taken) >= count
        assert max(taken) <= max(answers.MIN_PER_SECOND / 2, 2 * count / 90 + 1)
    assert [budget.take(5000) for _ in range(100)] == [0] * 100, "who asks often is given no more"
    now[0] += 3600
    assert budget.take(5000) <= 5000 / 45 * 2


@pytest.mark.parametrize(
    ("interval", "found", "is_told", "seconds"),
    [
        (50.0, 31, True, 1.0),
        (50.0, 32, True, 0.5),
        (50.0, 0, False, 0.5),
        (2.0, 0, True, 0.5),
        (40.0, 0, True, 0.8),
    ],
)
def test_turns_are_longer_where_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, interval: float, found: int, is_told: bool, seconds: float
) -> None:
    now = 0.0
    monkeypatch.setattr(gateway_clock, "monotonic", lambda: now)
    budget = answers.Budget(interval)
    now = 1.0
    budget.take(100)  # in an interval of 50 s: 32
    assert budget.turn_seconds(found, at_least=0.5, is_told=is_told) == pytest.approx(seconds)


async def test_who_waits_for_a_verification_does_not_wait_for_overdue_probes(database: Database) -> None:
    world = await many(database)
    await world.execute("update connection set probe_at = now() - interval '1 hour'")
    await world.execute(
        "update connection set state = 'verifying', probe_at = now() where connection_id = 'acme-7'"
    )
    due = await probes.claim(database, lease_seconds=60, limit=5, probes=3)
    assert len(due) == 4 and "acme-7" in {one.connection for one in due}
    assert len(await probes.claim(database, lease_seconds=60, limit=2, probes=9)) == 2


# Meters and devices


async def test_a_restart_computes_nothing_where_rules_and_devices_are_as_they_were(
    database: Database,
) -> None:
    await many(database, NAMES[:2])
    world = World(failing := Failing(database), owner="replica-b")
    await world.engine.lifecycle.refresh()
    assert len(world.engine.links.current) == 2
    for statement in ("mapping_list", "devices_new", "mapping_remove", "stream_take_all"):
        assert failing.asked[sql(statement)] == 0, statement
    await world.execute(
        "update connection set meters_digest = 'of another version' where connection_id = 'acme-1'"
    )
    again = World(failing, owner="replica-c")
    await again.engine.lifecycle.refresh()
    assert len(again.engine.links.current) == 2 and failing.asked[sql("mapping_list")] == 1


async def test_a_new_credential_computes_no_meters_anew(database: Database) -> None:
    world = await many(database, ["acme-1"])
    failing = Failing(database)
    other = World(failing, owner="replica-b")
    await world.execute("update connection set configuration = configuration + 1")
    await other.engine.lifecycle.refresh()
    (row,) = await world.rows("select configuration, meters_of from connection")
    assert row["configuration"] == row["meters_of"]
    assert failing.asked[sql("mapping_list")] == 0


@pytest.mark.parametrize("change", ["rule", "resolution"])
async def test_what_meters_are_made_of_is_told_apart(database: Database, change: str) -> None:
    rule = MeterRule(device="*", metric="t", meter="{device}", every=timedelta(seconds=1))
    rig = await Rig(database, Scripted(), rules=(rule,)).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.run()
    other = made_of([ALL], timedelta(0)) if change == "rule" else made_of([rule], HOUR)
    assert other != made_of([rule], rig.connector.capabilities.resolution)


async def test_the_number_of_meters_is_kept(database: Database) -> None:
    rig = await Rig(database, Scripted()).activate()

    async def kept() -> int | None:
        (row,) = await rig.rows("select meter_count from connection")
        return row["meter_count"]  # type: ignore[no-any-return]

    assert await kept() == 0
    for number in range(3):
        await rig.store((f"d{number}", BASE, 1.0), (f"e{number}", BASE, 1.0))
        await rig.run()
        (row,) = await rig.rows("select count(*) as held from meter_mapping")
        assert await kept() == row["held"] == 2 * (number + 1)
    await rig.execute("update connection set meter_count = $1", MAX_METERS - 1)
    await rig.store(("f1", BASE, 1.0), ("f2", BASE, 1.0))
    await rig.run()
    assert await kept() == MAX_METERS
    await rig.execute("update connection set meter_count = null")
    async with database.connection() as connection:
        assert await mappings.count(connection, rig.name) == 7
    await rig.change_rules(MeterRule(device="d1", metric="t", meter="only"))
    assert await kept() == 1


@pytest.mark.parametrize(
    ("every", "due_in", "company"),
    [("60 seconds", 0.01, 1.0), ("15 seconds", 0.01, 0.25), ("1 second", 0.01, 0.125), ("1 day", 0.01, 1.0),
     ("60 seconds", 30.0, 30.0)],
)  # fmt: skip
async def test_what_is_due_in_a_moment_waits_for_company_by_its_interval(
    database: Database, every: str, due_in: float, company: float
) -> None:
    world = await many(database)
    await world.execute(
        f"update stream set every = interval '{every}', next_run_at = now() + interval '{due_in} seconds'"
    )
    found = await streams.seconds_to_next(database)
    assert found is None or found <= company + 0.001  # None: it is due by now, on a slow machine
    if due_in > 1:
        assert found is not None and found > due_in - 10


async def test_a_short_interval_does_not_wait_behind_many_long_ones(database: Database) -> None:
    world = await many(database, NAMES[:1])
    await world.execute(
        "insert into stream (connection_id, name, phase, state, every, next_run_at)"
        " select connection_id, 'at rest ' || number, 'incremental', 'idle', interval '60 seconds',"
        " now() + interval '0.1 seconds' from connection, generate_series(1, 100) number"
    )
    await world.execute(
        "update stream set every = interval '1 second', next_run_at = now() + interval '0.2 seconds'"
        " where name = 'readings'"
    )
    found = await streams.seconds_to_next(database)
    assert found is None or found <= 0.2  # None: all are due by now, on a slow machine


def due_now(number: int, state: State = State.ACTIVE) -> Due:
    return Due(
        connection=f"c{number}",
        state=state,
        generation=1,
        candidate=None,
        configuration=1,
        is_offered=False,
        operation=None,
        attempts=0,
        verified_long_enough=False,
    )


def test_probes_of_idle_connections_follow_each_other() -> None:
    """Each that begins beside others needs a connection of its own; whom somebody waits for waits for none, and
    a system that is slow for nobody longer than the turn.
    """
    due = [due_now(number, State.VERIFYING if number in (7, 19) else State.ACTIVE) for number in range(20)]
    found = answers.starts(due, 1.0)
    assert [item.connection for item, _ in found[:3]] == ["c7", "c19", "c0"]
    assert [after for _, after in found[:3]] == [0.0, 0.0, 0.0]
    assert [after for _, after in found[3:]] == pytest.approx([place / 18 for place in range(1, 18)])
    two = answers.starts([due_now(1), due_now(2)], 1.0)
    assert [after for _, after in two] == [0.0, answers.ANSWER_SECONDS]


async def test_probes_of_one_turn_are_not_under_way_together(database: Database) -> None:
    """Where their systems answer at once they need one connection to one host, and not one each."""
    world = await many(database)
    together = most = 0

    async def probe() -> ProbeResult:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.001)
        together -= 1
        return ProbeResult()

    for link in world.engine.links.current.values():
        link.connector.probe = probe  # type: ignore[method-assign]
    async with running(world):
        await world.execute("update connection set probe_at = now()")

        async def all_probed() -> bool:
            return not await world.rows(
                "select from connection where probe_at <= now() + interval '30 seconds'"
            )

        await wait_until(all_probed, what="each was probed")
    assert most <= 2  # on a machine that stands still for 40 ms


async def test_turns_of_probes_are_longer_where_nothing_is_left(database: Database) -> None:
    """Twice as many probes share what a turn costs."""
    await many(database)
    world = World(failing := Failing(database), owner="replica-b")
    async with running(world):
        await wait_until(lambda: world.engine.lifecycle._notices.is_listening, what="it listens")
        failing.asked.clear()
        await world.execute(  # one each quarter of a second, for three seconds
            "update connection set probe_at = now() + substr(connection_id, 6)::int * interval '0.25 seconds'"
        )
        await wait_until(lambda: world.connector.probes >= len(NAMES), what="each was probed")
    assert 1 <= failing.asked[sql("probe_claim")] <= 5


async def test_what_fails_is_found_without_a_look_at_what_does_not(database: Database) -> None:
    """Each few seconds it is asked for: counted in blocks, not in time."""
    world = World(database)
    await world.execute("insert into customer (customer_id) values ('acme')")
    await world.execute(
        "insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)"
        " select 'acme-' || n, 'acme', 'scripted', 'cloud', 1, 'active', '' from generate_series(1, 2000) n"
    )
    await world.execute(
        "insert into call_health (connection_id, customer_id, system, host, operation, failing_since)"
        " select connection_id, 'acme', 'scripted', 'h', called,"
        " case when connection_id = 'acme-7' and called = 'push' then now() end"
        " from connection, unnest(array['probe', 'push']) called"
    )
    await world.execute("analyze")
    _, failing = await breakers.failing(database)
    assert [one.connection for one in failing] == ["acme-7"]
    asked = sql("health_failing").replace("$1", "array['active']")
    async with database.connection() as session:
        found = await session.fetchval(f"explain (analyze, buffers, format json) {asked}")
    (explained,) = json.loads(found) if isinstance(found, str) else found
    assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 30


async def test_the_benchmark_of_idle_connections_seeds_what_a_daemon_takes(dsn: str) -> None:
    """A change of the tables is a change of the seed."""
    given = argparse.Namespace(partitions=2)
    assert await growth_idle._seed(dsn, 7, 9, given) == ["k00000", "k00001"]
