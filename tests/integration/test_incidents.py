"""Incidents and breakers on a real database, by three replicas with pools of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from benchmarks.servers import patient
from gateway import metrics
from gateway.connections import incidents as room
from gateway.connections.incidents import Incidents
from gateway.connections.verdicts import decide
from gateway.events.backlog import Backlog
from gateway.model.breaker import Scope
from gateway.model.event import EventType, NewEvent
from gateway.store import incidents as store
from gateway.store.pool import Connection, Database
from tests.fixtures import fleet
from tests.fixtures.fleet import CUSTOMERS, HOSTS, OWNERS, SYSTEM, call, calls, on, pass_time
from tests.fixtures.statuses import every_status

DOWN = on(HOSTS[0])
FAILED_AGO = (75.0, 40.0, 5.0)


@pytest.fixture(autouse=True)
async def customers(database: Database) -> None:
    await fleet.create(database)


@pytest.fixture
async def replicas(dsn: str) -> AsyncIterator[list[Incidents]]:
    async with AsyncExitStack() as stack:
        pools = [await Database.open(dsn, size=3) for _ in range(3)]
        for pool in pools:
            stack.push_async_callback(pool.close)
        yield [Incidents(pool, owner=f"replica-{number}") for number, pool in enumerate(pools)]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[NewEvent]:
    """What is appended to the outbox."""
    appended: list[NewEvent] = []

    async def append(connection: Connection, event: NewEvent) -> None:
        assert connection.is_in_transaction()
        appended.append(event)

    monkeypatch.setattr("gateway.store.outbox.append", append)
    return appended


async def goes_well(incidents: Incidents) -> None:
    await calls(incidents, OWNERS, ago=(100.0,))


async def host_goes_down(incidents: Incidents) -> None:
    """One host for more than a minute, while the others serve."""
    await goes_well(incidents)
    await calls(incidents, DOWN, ago=FAILED_AGO, succeeded=False)
    await calls(incidents, on(*HOSTS[1:]))


async def opened(database: Database) -> list[tuple[Scope, str]]:
    return [incident.where for incident in await store.listed(database, closed=False)]


def gauge(name: str, scope: Scope) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"fieldgate_{name}", {"scope": scope})


async def test_a_host_that_is_down_is_one_incident(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    running = [asyncio.create_task(replica.run()) for replica in replicas]
    await host_goes_down(replicas[0])
    async with patient(15):
        while not await opened(database):
            await asyncio.sleep(0.05)
    await decide(database)
    async with patient(10):
        while not all((Scope.HOST, HOSTS[0]) in replica._open for replica in replicas):  # each learns of it
            await asyncio.sleep(0.05)
    for task in running:
        task.cancel()
    await asyncio.wait(running)

    [incident] = await store.listed(database, closed=True)
    assert incident.where == (Scope.HOST, HOSTS[0])
    assert set(incident.connections) == set(DOWN)
    assert set(incident.customers) == {OWNERS[name] for name in DOWN}
    assert (incident.systems, incident.operations) == ((SYSTEM,), ("push",))
    assert 0 < len(incident.request_ids) <= 10
    assert 75 <= (incident.opened_at - incident.since).total_seconds() < 95
    assert incident.detail.startswith(
        "7 of 7 connections on host one.example fail (7 of 7 customers), none succeeded for 1"
    )
    assert {
        found.connection: found.incident for found in await every_status(database) if found.incident
    } == dict.fromkeys(DOWN, incident.incident)
    for name in OWNERS:
        waits = [await replica.admit(name, SYSTEM, fleet.PLACES[name]) for replica in replicas]
        assert name in DOWN or waits == [None, None, None]
    async with database.connection() as connection:
        changed = await connection.fetch("select connection_id from connection where version = 2")
    assert {row["connection_id"] for row in changed} == set(DOWN)
    await Backlog(database).refresh()
    assert [gauge("incidents_open", scope) for scope in Scope] == [0, 1, 0]
    assert [gauge("breaker_open", scope) for scope in Scope] == [len(DOWN), 1, 0]


async def test_each_customer_is_told_of_its_own_and_the_gateway_in_numbers(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    [whole] = [event for event in events if event.customer is None]
    assert (whole.data["connections"], whole.data["customers"], whole.type) == (
        7,
        7,
        EventType.INCIDENT_OPENED,
    )
    assert not any(customer in str(whole.data) for customer in CUSTOMERS)
    assert not any(name in str(whole.data) for name in OWNERS)
    told = {event.customer: event for event in events if event.customer is not None}
    assert set(told) == {OWNERS[name] for name in DOWN} and len(events) == 1 + len(told)
    for customer, event in told.items():
        own = [name for name in DOWN if OWNERS[name] == customer]
        assert event.data["connections"] == own
        assert {str(identifier).partition("-")[0] for identifier in event.data["request_ids"]} == set(own)  # type: ignore[attr-defined]
        assert "7 of" not in str(event.data)

    events.clear()
    late = "erp05"  # of the one customer that was not there: its settings change
    await replicas[1].note(replace(call(late, succeeded=False), host=HOSTS[0]))
    await decide(database)
    assert [(event.customer, event.data["connections"]) for event in events] == [(OWNERS[late], [late])]

    events.clear()
    await calls(replicas[1], [*DOWN, late])
    await decide(database)
    await pass_time(database, 121)
    await decide(database)
    assert {event.type for event in events} == {EventType.INCIDENT_CLOSED}
    assert {event.customer for event in events} == {None, *told, OWNERS[late]}
    assert [found.incident for found in await every_status(database) if found.incident] == []


async def test_a_black_holed_connection_is_its_own_affair(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await goes_well(replicas[0])
    hung = DOWN[0]
    await calls(replicas[1], [hung], ago=(90.0, 60.0, 30.0), succeeded=False)
    await calls(replicas[0], [name for name in OWNERS if name != hung])
    for _ in range(3):
        await decide(database)
    [incident] = await store.listed(database, closed=True)
    assert (incident.where, incident.connections) == ((Scope.CONNECTION, hung), (hung,))
    assert (
        incident.detail
        == "3 calls in a row failed, 6 of 6 other connections on host one.example succeeded since"
    )
    [event] = events
    assert (event.customer, event.connection, event.type) == (OWNERS[hung], hung, EventType.INCIDENT_OPENED)
    for name in DOWN:
        assert await replicas[0].admit(name, SYSTEM, HOSTS[0]) is None

    await calls(replicas[2], [hung])
    await decide(database)
    assert await opened(database) == [(Scope.CONNECTION, hung)]  # two minutes of quiet first
    await pass_time(database, 60)
    await calls(replicas[2], [hung], succeeded=False)
    await decide(database)  # not calm
    await calls(replicas[2], [hung])
    await decide(database)
    await pass_time(database, 61)
    await decide(database)
    assert await opened(database) == [(Scope.CONNECTION, hung)]
    await pass_time(database, 60)
    await decide(database)
    assert await opened(database) == []
    assert [event.type for event in events] == [EventType.INCIDENT_OPENED, EventType.INCIDENT_CLOSED]


async def test_answers_open_nothing(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    """429, refused logins, 403 and bad records, from everybody and for minutes."""
    await calls(replicas[0], OWNERS, ago=(290.0, 200.0, 100.0, 50.0, 0.0), succeeded=False, transient=False)
    for replica in replicas:
        await replica.decide()
        await replica.refresh()
    assert (await opened(database), events) == ([], [])
    assert {await replicas[0].admit(name, SYSTEM, fleet.PLACES[name]) for name in OWNERS} == {None}


async def test_one_customer_with_ten_connections_is_not_systemic(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    owners = dict.fromkeys(OWNERS, CUSTOMERS[0])
    for ago in FAILED_AGO:
        for name in DOWN:
            await replicas[0].note(call(name, succeeded=False, ago=ago, owners=owners))
    await decide(database)
    assert await opened(database) == []  # a wider verdict may still come
    await pass_time(database, 60)
    await decide(database)
    assert set(await opened(database)) == {
        (Scope.CONNECTION, name) for name in DOWN
    }  # but nobody is forgotten
    assert await replicas[0].admit(DOWN[0], SYSTEM, HOSTS[0]) is None


async def test_failures_on_several_hosts_are_the_systems_and_take_the_others_in(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await calls(replicas[0], DOWN[:1], ago=(290.0, 200.0, 130.0), succeeded=False)
    await calls(replicas[0], DOWN[1:], ago=(200.0,))
    await decide(database)
    assert await opened(database) == [(Scope.CONNECTION, DOWN[0])]
    await calls(replicas[0], OWNERS, ago=FAILED_AGO, succeeded=False)
    await decide(database)
    assert await opened(database) == [(Scope.SYSTEM, SYSTEM)]
    [first] = [
        incident
        for incident in await store.listed(database, closed=True)
        if incident.scope is Scope.CONNECTION
    ]
    assert (first.closing_detail or "").startswith("became part of incident")
    for replica in replicas:
        await replica.refresh()
    assert set(replicas[2]._open) == {(Scope.SYSTEM, SYSTEM), *((Scope.HOST, host) for host in HOSTS)}
    [public] = await store.public(database)
    assert (public.scope, public.systems, public.state) == (Scope.SYSTEM, (SYSTEM,), "open")


async def test_two_that_decide_at_once_open_one_incident(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await asyncio.gather(*(decide(replica._database) for replica in replicas for _ in range(3)))
    assert await opened(database) == [(Scope.HOST, HOSTS[0])]
    assert len([event for event in events if event.customer is None]) == 1


# Half-open


class Trials:
    """Callers of one host on every replica. Counts how many are let through at once."""

    def __init__(self, replicas: list[Incidents]) -> None:
        self._replicas = replicas
        self.most, self.now, self.admitted = 0, 0, 0
        self.succeed = False

    async def caller(self, replica: Incidents, name: str) -> None:
        """Asks until it has called once with success."""
        while True:
            if await replica.admit(name, SYSTEM, HOSTS[0]) is not None:
                await asyncio.sleep(0.005)
                await replica.refresh()
                continue
            succeeded = self.succeed
            self.now += 1
            self.admitted += 1
            if not succeeded:
                self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            await replica.note(call(name, succeeded=succeeded))
            if succeeded:
                return

    async def run(self, trials: int) -> None:
        """So many failed trials, and then success for all."""
        async with patient(30), asyncio.TaskGroup() as group:
            for replica in self._replicas:
                for name in DOWN:
                    group.create_task(self.caller(replica, name))
            while self.admitted < trials:
                await asyncio.sleep(0.01)
            self.succeed = True


async def test_one_caller_at_a_time_over_all_replicas(
    database: Database, replicas: list[Incidents], events: list[NewEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []

    def interval(attempt: int, *, rand: float) -> float:
        failed.append(attempt)
        return 0.01

    monkeypatch.setattr(room, "probe_interval_seconds", interval)
    await host_goes_down(replicas[0])
    await decide(database)
    for replica in replicas:
        await replica.refresh()
    trials = Trials(replicas)
    await trials.run(25)
    assert trials.most == 1
    assert failed[:20] == list(range(1, 21))  # each failed trial makes the next rest longer
    for replica in replicas:
        await replica.refresh()
        assert await replica.admit(DOWN[0], SYSTEM, HOSTS[0]) is None
    assert await opened(database) == [(Scope.HOST, HOSTS[0])]  # the incident waits for two minutes of quiet

    await pass_time(database, 100)  # it breaks again, within the same incident
    restarted = [
        Incidents(replica._database, owner=f"restarted-{number}") for number, replica in enumerate(replicas)
    ]  # memory knows no passing of time
    await calls(restarted[0], DOWN, ago=FAILED_AGO, succeeded=False)
    await decide(database)
    for replica in restarted:
        await replica.refresh()
        assert await replica.admit(DOWN[0], SYSTEM, HOSTS[0]) is not None
    await pass_time(database, 5)
    again = Trials(restarted)
    await again.run(3)
    assert again.most == 1
    await decide(database)
    await pass_time(database, 119)
    await decide(database)
    assert await opened(database) == [(Scope.HOST, HOSTS[0])]
    await pass_time(database, 2)
    await decide(database)
    assert await opened(database) == []
    assert [event.type for event in events if event.customer is None] == [
        EventType.INCIDENT_OPENED,
        EventType.INCIDENT_CLOSED,
    ]


async def test_a_caller_that_dies_holds_its_turn_no_longer_than_a_call(
    database: Database, dsn: str, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    await pass_time(database, 5)
    await replicas[0].refresh()
    await replicas[1].refresh()
    assert await replicas[0].admit(DOWN[0], SYSTEM, HOSTS[0]) is None  # and never says how it went
    assert await replicas[1].admit(DOWN[1], SYSTEM, HOSTS[0]) is not None
    await pass_time(database, 60)
    await replicas[1].refresh()
    assert await replicas[1].admit(DOWN[1], SYSTEM, HOSTS[0]) is None


async def test_a_turn_that_is_not_used_goes_to_somebody_else_at_once(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    await pass_time(database, 5)
    await replicas[0].refresh()
    assert await replicas[0].admit(DOWN[0], SYSTEM, HOSTS[0]) is None
    await replicas[0].unused(DOWN[1], SYSTEM, HOSTS[0])  # it had no turn
    await replicas[1].refresh()
    assert await replicas[1].admit(DOWN[1], SYSTEM, HOSTS[0]) is not None
    await replicas[0].unused(DOWN[0], SYSTEM, HOSTS[0])
    await replicas[1].refresh()
    assert await replicas[1].admit(DOWN[1], SYSTEM, HOSTS[0]) is None
    assert await replicas[0].admit(DOWN[0], SYSTEM, HOSTS[0]) is not None


async def test_a_refused_login_in_a_trial_neither_counts_nor_hides_a_fix(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    await pass_time(database, 5)
    await replicas[0].refresh()
    assert await replicas[0].admit(DOWN[0], SYSTEM, HOSTS[0]) is None
    await replicas[0].note(call(DOWN[0], succeeded=False, transient=False))
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "select trials, caller, next_trial_at - now() < interval '3 s' as soon from breaker"
        )
        assert row is not None and tuple(row.values()) == (0, None, True)
    await replicas[0].note(
        call(DOWN[0])
    )  # the new credentials are verified without a turn, and that call succeeds
    await replicas[1].refresh()
    assert await replicas[1].admit(DOWN[1], SYSTEM, HOSTS[0]) is None


async def test_a_breaker_where_nobody_fails_any_more_closes(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    async with database.connection() as connection:
        await connection.execute("update connection set state = 'paused'")
    await decide(database)
    await pass_time(database, 121)
    await decide(database)
    await replicas[0].refresh()
    assert (await opened(database), replicas[0]._open) == ([], {})


# What is written


async def test_successes_are_written_now_and_then_and_failures_always(
    database: Database, replicas: list[Incidents]
) -> None:
    async def row() -> tuple[object, ...]:
        async with database.connection() as connection:
            found = await connection.fetchrow(
                "select xmin::text, failures, failing_since is null, operation, cardinality(request_ids) from"
                " call_health"
            )
        assert found is not None
        return tuple(found.values())

    replica, name = replicas[0], DOWN[0]
    await replica.note(call(name))
    first = await row()
    for _ in range(5):
        await replica.note(call(name))
    assert await row() == first
    for ago in range(20):
        await replica.note(call(name, succeeded=False, ago=float(ago)))
    assert (await row())[1:] == (20, False, "push", 10)
    await replica.note(call(name))
    assert (await row())[1:3] == (0, True)
    await replica.note(call(name, succeeded=False))
    assert (await row())[1:] == (1, False, "push", 1)  # a new run of failures
    await replica.note(call(name, succeeded=False, transient=False))
    assert (await row())[1:3] == (0, True)  # an answer ends it
    await replica.note(call("erp01", succeeded=False))
    async with database.connection() as connection:
        await connection.execute("delete from connection where connection_id = 'erp02'")
    await replica.note(call("erp02", succeeded=False))  # it is gone: nothing to say of it


async def test_admitting_asks_nobody_while_no_breaker_is_open(dsn: str) -> None:
    pool = await Database.open(dsn, size=1)
    incidents = Incidents(pool, owner="replica")
    await incidents.refresh()
    await pool.close()
    assert await incidents.admit(DOWN[0], SYSTEM, HOSTS[0]) is None


async def test_a_database_that_is_away_is_waited_for(
    database: Database, dsn: str, events: list[NewEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(room, "DECIDE_SECONDS", 0.02)
    pool = await Database.open(dsn, size=2)
    incidents = Incidents(pool, owner="replica")
    await host_goes_down(incidents)
    async with database.connection() as connection:
        await connection.execute("alter table breaker rename to elsewhere")
    running = asyncio.create_task(incidents.run())
    await asyncio.sleep(0.1)
    assert not running.done()
    async with database.connection() as connection:
        await connection.execute("alter table elsewhere rename to breaker")
    async with patient(10):
        while not incidents._open:
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait([running])
    await pool.close()


# What is read


async def test_a_customer_sees_its_own_of_an_incident(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await host_goes_down(replicas[0])
    await decide(database)
    [whole] = await store.listed(database, closed=False)
    customer = OWNERS[DOWN[0]]
    [own] = await store.listed(database, closed=False, customer=customer)
    assert (own.connections, own.customers, own.request_ids) == (
        tuple(name for name in DOWN if OWNERS[name] == customer),
        (customer,),
        (),
    )
    assert "7 of" not in own.detail
    assert await store.read(database, whole.incident) == whole
    assert await store.read(database, whole.incident, customer=customer) == own
    stranger = next(name for name in CUSTOMERS if name not in whole.customers)
    assert await store.read(database, whole.incident, customer=stranger) is None
    assert await store.listed(database, closed=True, customer=stranger) == []


async def test_incidents_are_listed_in_pages(
    database: Database, replicas: list[Incidents], events: list[NewEvent]
) -> None:
    await calls(replicas[0], on(HOSTS[1])[:5], ago=(200.0, 180.0, 160.0), succeeded=False)
    await calls(replicas[0], on(HOSTS[1])[5:])
    await decide(database)
    everything = await store.listed(database, closed=True)
    pages = [await store.listed(database, closed=True, limit=2)]
    while len(pages[-1]) == 2:
        pages.append(await store.listed(database, closed=True, limit=2, after=pages[-1][-1].incident))
    assert [incident for page in pages for incident in page] == everything and len(everything) == 5
    assert await store.public(database) == []  # of single connections nobody else hears
