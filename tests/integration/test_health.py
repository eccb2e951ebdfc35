"""Health by operation: who asks the breaker, what counts, and what a success of one operation says of
another.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.connections.incidents import Incidents
from gateway.connections.verdicts import decide
from gateway.model.breaker import Scope
from gateway.model.errors import AuthRefused, ConnectorError, PermissionDenied, RateLimited, Unavailable
from gateway.model.operation import Operation
from gateway.model.outcome import Outcome
from gateway.model.pressure import Pressure
from gateway.model.reading import Batch
from gateway.settings import CreditsSettings
from gateway.store import probes as stored_probes
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection
from gateway.sync.run import Runner
from gateway.sync.turns import Turns
from tests.fixtures import fleet
from tests.fixtures.connection_rig import CALLER, World
from tests.fixtures.fleet import HOSTS, OWNERS, SYSTEM, calls, on, pass_time
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

DOWN = on(HOSTS[0])
FAILED_AGO = (75.0, 40.0, 5.0)
PROBE, PUSH = Operation.PROBE, Operation.PUSH


@pytest.fixture(autouse=True)
async def _pool(database: Database) -> None:
    await sync_capacity(database, CreditsSettings())


async def active(database: Database, connector: Scripted | None = None) -> tuple[World, ServedConnection]:
    world = await World(database, connector or Scripted()).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    return world, link


async def shown(world: World) -> tuple[object, ...]:
    (row,) = await world.rows("select state, operation, reason from connection")
    return tuple(row.values())


# Who asks the breaker


@pytest.mark.parametrize("what", ["run", "probe"])
async def test_a_run_and_a_probe_ask_the_breaker_before_they_call(database: Database, what: str) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.execute(
        "insert into breaker (scope, key, next_trial_at) values ('system', 'scripted', now() + interval"
        " '1 h')"
    )
    engine = rig.engine
    await engine.lifecycle.refresh()
    await engine.incidents.refresh()
    if what == "run":
        runner = Runner(database, rig.settings, engine.health, engine.troubles, Turns(1, Pressure()))
        await runner.run(await rig.claim(), rig.link)
        waits = (
            "select next_run_at > now() + interval '1 second' as waits from stream where phase ="
            " 'incremental'"
        )
    else:
        await rig.execute("update connection set probe_at = now()")
        (due,) = await stored_probes.claim(database, lease_seconds=60, limit=1)
        await engine.lifecycle._look(due)
        waits = (
            "select probe_at between now() + interval '1 second' and now() + interval '30 s' as waits from"
            " connection"
        )
    assert connector.pushes == [] and connector.probes == 0
    assert await rig.rows(waits) == [{"waits": True}]


async def test_a_breaker_that_holds_pushes_back_lets_probes_go(database: Database) -> None:
    await fleet.create(database)
    incidents = Incidents(database, owner="replica")
    await calls(incidents, OWNERS, ago=(100.0,))
    await calls(incidents, DOWN, ago=FAILED_AGO, succeeded=False)
    await calls(incidents, DOWN, ago=(1.0,), operation=PROBE)
    await decide(database)
    await incidents.refresh()
    assert incidents._held_back == {(Scope.HOST, HOSTS[0]): PUSH}
    assert await incidents.admit(DOWN[0], SYSTEM, HOSTS[0], PROBE) is None
    assert await incidents.admit(DOWN[0], SYSTEM, HOSTS[0], PUSH) is not None
    await calls(incidents, DOWN, operation=PROBE)
    await incidents.refresh()
    assert incidents._open  # no number of probes closes it
    await calls(incidents, DOWN[:1])
    await incidents.refresh()
    assert not incidents._open


async def test_a_probe_that_passes_narrows_a_breaker_to_the_pushes_that_fail(database: Database) -> None:
    await fleet.create(database)
    incidents = Incidents(database, owner="replica")
    await calls(incidents, OWNERS, ago=(100.0,))
    await calls(incidents, DOWN[:4], ago=FAILED_AGO, succeeded=False)
    await calls(incidents, DOWN[4:], ago=FAILED_AGO, succeeded=False, operation=PROBE)
    await decide(database)
    await incidents.refresh()
    assert incidents._held_back == {(Scope.HOST, HOSTS[0]): PROBE}
    await pass_time(database, 5)
    await incidents.refresh()
    assert await incidents.admit(DOWN[5], SYSTEM, HOSTS[0], PROBE) is None
    await calls(incidents, [DOWN[5]], operation=PROBE)
    await incidents.refresh()
    assert incidents._held_back == {(Scope.HOST, HOSTS[0]): PUSH}
    assert await incidents.admit(DOWN[6], SYSTEM, HOSTS[0], PROBE) is None
    assert await incidents.admit(DOWN[0], SYSTEM, HOSTS[0], PUSH) is None  # its turn, at once
    assert await incidents.admit(DOWN[1], SYSTEM, HOSTS[0], PUSH) is not None


async def test_a_probe_that_passes_closes_a_breaker_where_only_probes_failed(database: Database) -> None:
    await fleet.create(database)
    incidents = Incidents(database, owner="replica")
    await calls(incidents, OWNERS, ago=(100.0,), operation=PROBE)
    await calls(incidents, DOWN, ago=FAILED_AGO, succeeded=False, operation=PROBE)
    await decide(database)
    await incidents.refresh()
    assert incidents._open
    await calls(incidents, DOWN[:1], operation=PROBE)
    assert not incidents._open


# What counts


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (RateLimited("429", retry_after=1.0), False),
        (PermissionDenied("403"), False),
        (AuthRefused("401", final=True), False),
        (Unavailable("503"), True),
        (AuthRefused("a page", doubtful=True), True),
    ],
)
async def test_only_what_is_transient_counts_as_failing(
    database: Database, error: ConnectorError, counts: bool
) -> None:
    world, link = await active(database)
    for attempts in range(1, 6):
        await world.engine.health.failed(link, error, attempts=attempts)
    (row,) = await world.rows(
        "select failing_since is not null as failing, failures from call_health where operation = 'push'"
    )
    assert row == {"failing": counts, "failures": 5 if counts else 0}
    assert (await world.state() == "degraded") is counts


# What a success says of another operation


async def test_a_good_probe_does_not_cure_failing_pushes(database: Database) -> None:
    world, link = await active(database)
    for attempts in range(1, 4):
        await world.engine.health.failed(link, Unavailable("500"), attempts=attempts)
        await world.engine.health.succeeded(link, PROBE)
    assert await shown(world) == ("degraded", "push", "500")
    for _ in range(5):
        await world.engine.health.succeeded(link, PROBE)
    assert await shown(world) == ("degraded", "push", "500")
    await world.engine.health.succeeded(link, PUSH)
    assert await shown(world) == ("active", None, None)


async def test_a_push_that_passes_proves_that_probes_do(database: Database) -> None:
    world, link = await active(database)
    for attempts in range(1, 4):
        await world.engine.health.failed(link, Unavailable("500"), attempts=attempts, operation=PROBE)
    assert await shown(world) == ("degraded", "probe", "500")
    await world.engine.health.succeeded(link, PUSH)
    assert await world.state() == "active"
    assert await world.rows("select * from call_health where failing_since is not null") == []


async def test_where_both_fail_the_push_decides(database: Database) -> None:
    world, link = await active(database)
    for operation in (PROBE, PUSH):
        for attempts in range(1, 4):
            await world.engine.health.failed(
                link, Unavailable(f"{operation} 500"), attempts=attempts, operation=operation
            )
    assert await shown(world) == ("degraded", "push", "push 500")
    await world.engine.health.succeeded(link, PROBE)
    assert await world.state() == "degraded"
    await world.engine.health.succeeded(link, PUSH)
    assert (await world.events())[2:] == ["connection.degraded", "connection.recovered"]


async def test_a_push_denied_again_half_a_minute_later_blocks_although_the_probe_is_let_in(
    database: Database,
) -> None:
    world, link = await active(database)
    health, denied = world.engine.health, PermissionDenied("403")
    waits = [await health.failed(link, denied, attempts=attempts) for attempts in (1, 2, 3)]
    assert await world.state() == "active" and waits == [30.0] * 3  # a moment's denials are one
    await pass_time(database, 30)
    await health.failed(link, denied, attempts=4)
    assert await shown(world) == ("blocked", "push", "403")
    await health.succeeded(link, PROBE)
    assert await world.state() == "blocked"
    await health.succeeded(link, PUSH)
    assert await world.state() == "active" and await world.issues() == []
    await health.failed(link, denied, attempts=1)
    assert await world.state() == "active"  # it begins anew


async def test_a_recovery_soon_after_another_waits_for_five_quiet_minutes(database: Database) -> None:
    world, link = await active(database)

    async def fails() -> None:
        for attempts in range(1, 4):
            await world.engine.health.failed(link, Unavailable("500"), attempts=attempts)

    await fails()
    await world.engine.health.succeeded(link)
    for _ in range(10):
        await fails()
        await world.engine.health.succeeded(link)
    assert await world.state() == "degraded"
    assert len(await world.events()) == 2 + 3
    await pass_time(database, 301)
    await world.engine.health.succeeded(link)
    assert await world.state() == "active"


async def test_pause_and_resume_keep_what_decides(database: Database) -> None:
    world, link = await active(database)
    await world.engine.health.failed(link, PermissionDenied("403"), attempts=1)
    await pass_time(database, 30)
    await world.engine.health.failed(link, PermissionDenied("403"), attempts=2)
    await world.service.pause("acme-1", CALLER)
    await world.service.resume("acme-1", CALLER)
    assert (await shown(world))[:2] == ("blocked", "push")
    await world.engine.health.succeeded(link, PROBE)
    assert await world.state() == "blocked"


# The trial of a blocked push


async def denied(batch: Batch) -> Sequence[Outcome]:
    raise PermissionDenied("403")


async def blocked(database: Database) -> tuple[Rig, Scripted]:
    connector = Scripted(answer=denied)
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number}", BASE, 1.0) for number in range(5)])
    await rig.run()
    await pass_time(database, 30)
    await rig.run()
    assert await rig.state() == "blocked" and len(connector.pushes) == 2
    return rig, connector


async def look(rig: Rig) -> None:
    engine = rig.engine
    await engine.lifecycle.refresh()
    await rig.execute("update connection set probe_at = now()")
    (due,) = await stored_probes.claim(rig.database, lease_seconds=60, limit=1)
    await engine.lifecycle._look(due)


async def test_the_trial_of_a_blocked_push_is_one_reading_and_no_probe(database: Database) -> None:
    rig, connector = await blocked(database)
    probes = connector.probes
    with pytest.raises(LookupError):
        await rig.claim()  # nothing runs by itself
    await look(rig)
    claim = await rig.claim()
    assert claim.trial
    await rig.runner().run(claim, rig.link)
    assert await rig.state() == "blocked" and [len(batch.readings) for batch in connector.pushes[2:]] == [1]
    assert connector.probes == probes
    with pytest.raises(LookupError):
        await rig.claim()
    (row,) = await rig.rows(
        "select probe_at between now() + interval '1 h' and now() + interval '73 min' as hourly from"
        " connection"
    )
    assert row["hourly"]
    connector.answer = None
    await look(rig)
    await rig.runner().run(await rig.claim(), rig.link)
    assert await rig.state() == "active" and len(connector.taken) == 1
    await rig.run()
    assert len(connector.taken) == 5 and await rig.due() == []


async def test_a_blocked_push_with_nothing_due_is_not_tried_and_not_cured(database: Database) -> None:
    rig, connector = await blocked(database)
    await rig.execute("delete from due_window")
    probes = connector.probes
    await look(rig)
    with pytest.raises(LookupError):
        await rig.claim()
    assert (len(connector.pushes), connector.probes) == (2, probes) and await rig.state() == "blocked"
    connector.answer = None
    await rig.store(("d0", BASE + 15 * MINUTE, 2.0))
    await rig.execute(
        "insert into due_window (connection_id, meter, window_start, phase, closes_at) values ($1, 'd0', $2,"
        " 'incremental', now())",
        rig.name,
        BASE,
    )
    await look(rig)
    await rig.runner().run(await rig.claim(), rig.link)
    assert await rig.state() == "active"


async def test_a_trial_that_meets_an_outage_changes_nothing_and_counts_nothing(database: Database) -> None:
    rig, connector = await blocked(database)

    async def away(batch: Batch) -> Sequence[Outcome]:
        raise Unavailable("503")

    connector.answer = away
    for _ in range(4):
        await look(rig)
        await rig.runner().run(await rig.claim(), rig.link)
        await pass_time(database, 3600)
    assert await rig.state() == "blocked"
    assert await rig.rows("select * from call_health where failing_since is not null") == []
