"""What metrics say of connections, from a real database: bounded, of one instant, made once however often
they are asked for, and never by the daemon.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

import asyncpg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from gateway import clock, metrics
from gateway.events.backlog import Backlog
from gateway.http import exposition
from gateway.http.exposition import Exposition
from gateway.model.connection import State
from gateway.model.errors import StoreUnavailable
from gateway.model.status import UNWELL
from gateway.processes.readiness import Readiness
from gateway.settings import MetricsSettings
from gateway.store import counts, observed
from gateway.store.pool import Database

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PEOPLE = """
insert into customer (customer_id) select 'customer-' || n from generate_series(0, 9) n;
"""
CONNECTIONS = """
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
select 'connection-' || n, 'customer-' || n % 10, case n % 2 when 0 then 'postgres' else 'odata' end, 'cloud', 1, $2, ''
from generate_series($1::int, $3::int) n
"""
WINDOWS = """
insert into due_window (connection_id, meter, window_start, phase, closes_at)
select $1, 'm' || $2, '2026-01-01Z'::timestamptz + n * interval '1 minute', $2, now() + $3::float8 * interval '1 s' from generate_series(1, $4::int) n
"""


class World:
    """Some connections, and what is said of them."""

    def __init__(self, database: Database, **settings: object) -> None:
        self.database = database
        self.exposition = Exposition(Readiness(), MetricsSettings.model_validate(settings))
        self.exposition.serve(database)

    async def connections(self, first: int, last: int, state: State = State.ACTIVE) -> None:
        async with self.database.connection() as connection:
            await connection.execute(CONNECTIONS, first, state, last)

    async def windows(
        self, number: int, *, seconds: float, count: int = 1, phase: str = "incremental"
    ) -> None:
        """They close in so many seconds."""
        async with self.database.connection() as connection:
            await connection.execute(WINDOWS, f"connection-{number}", phase, seconds, count)

    async def said(self, accept: str = "") -> dict[str, dict[tuple[str, ...], float]]:
        """Of each series of connections: the values of its labels, in the order of their names; its value."""
        text, _ = await self.exposition.exposition(accept)
        ours = {family.name for family in metrics.CONNECTIONS.collect()}
        parse = open_families if accept else families
        return {
            family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
            for family in parse(text)
            if family.name in ours
        }


@pytest.fixture
async def people(database: Database) -> Database:
    async with database.connection() as connection:
        await connection.execute(PEOPLE)
    return database


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, in the first place."""
    moment = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: moment[0])
    return moment


async def test_each_connection_is_told_of_while_there_are_not_too_many(people: Database) -> None:
    world = World(people)
    await world.connections(1, 3)
    await world.connections(4, 4, State.REAUTHORIZATION_REQUIRED)
    await world.connections(5, 5, State.DISCONNECTED)
    await world.windows(1, seconds=-100)
    await world.windows(1, seconds=50, phase="initial")
    await counts.fold(people)
    await world.windows(2, seconds=50, count=3)
    async with people.connection() as connection:
        await connection.execute(
            "insert into stream (connection_id, name, phase, last_success_at) values ('connection-1',"
            " 'readings', 'incremental', '2026-01-01Z')"
        )
    said = await world.said()
    assert said["fieldgate_sync_pending_readings"] == {
        ("connection-1",): 2, ("connection-2",): 3, ("connection-3",): 0, ("connection-4",): 0,
    }  # fmt: skip
    lag = said["fieldgate_sync_lag_seconds"]
    assert 100 <= lag.pop(("connection-1",)) < 160 and set(lag.values()) == {0}
    assert said["fieldgate_sync_last_success_timestamp_seconds"][("connection-1",)] == 1767225600
    assert said["fieldgate_connection_state_code"] == {
        ("connection-1", "customer-1", "odata"): 0,
        ("connection-2", "customer-2", "postgres"): 0,
        ("connection-3", "customer-3", "odata"): 0,
        ("connection-4", "customer-4", "postgres"): 6,
    }
    assert (
        said["fieldgate_connection_reauthorization_required"][("connection-4", "customer-4", "postgres")] == 1
    )
    assert said["fieldgate_connection_state"] == {}
    assert said["fieldgate_connections"] == {
        ("active", "odata"): 2, ("active", "postgres"): 1, ("reauthorization_required", "postgres"): 1,
    }  # fmt: skip
    assert said["fieldgate_system_pending_readings"] == {("odata",): 2, ("postgres",): 3}
    assert said["fieldgate_connections_without_series"] == {("well",): 0, ("unwell",): 0}
    assert said["fieldgate_customer_connections"] == {}


async def test_of_many_connections_only_those_are_named_that_are_not_well(people: Database) -> None:
    world = World(people, connections=5, customers=2)
    await world.connections(1, 20)
    await world.connections(21, 21, State.DEGRADED)
    await world.connections(22, 22, State.BLOCKED)
    await world.connections(23, 23, State.PENDING)
    await world.windows(7, seconds=-400)  # it lags
    await world.windows(8, seconds=-200)  # it is behind, and well
    said = await world.said()
    assert {name for name, *_ in said["fieldgate_connection_state_code"]} == {
        "connection-7", "connection-21", "connection-22",
    }  # fmt: skip
    assert said["fieldgate_connections_without_series"] == {("well",): 20, ("unwell",): 0}
    assert sum(said["fieldgate_connections"].values()) == 23
    assert 400 <= said["fieldgate_system_lag_seconds"][("odata",)] < 460
    # the two customers with the most that are not well
    assert said["fieldgate_customer_connections"][("customer-7", "unwell")] == 1
    assert set(said["fieldgate_customer_lag_seconds"]) == {("customer-7",), ("customer-1",)}


async def test_of_many_that_are_not_well_the_worst_are_named(people: Database) -> None:
    world = World(people, connections=3)
    await world.connections(1, 5, State.DEGRADED)
    await world.connections(6, 7, State.REAUTHORIZATION_REQUIRED)
    await world.windows(3, seconds=-5)
    said = await world.said()
    assert {name for name, *_ in said["fieldgate_connection_state_code"]} == {
        "connection-6", "connection-7", "connection-3",
    }  # fmt: skip
    assert said["fieldgate_connections_without_series"] == {("well",): 0, ("unwell",): 4}


async def test_none_is_named_where_none_is_wanted(people: Database) -> None:
    world = World(people, connections=0)
    await world.connections(1, 2, State.DEGRADED)
    said = await world.said()
    assert said["fieldgate_sync_lag_seconds"] == {}
    assert said["fieldgate_connections"] == {("degraded", "odata"): 1, ("degraded", "postgres"): 1}


async def test_one_hot_where_it_is_wanted(people: Database) -> None:
    world = World(people, one_hot=True)
    await world.connections(1, 1, State.PAUSED)
    said = await world.said()
    of = Counter({labels[2]: value for labels, value in said["fieldgate_connection_state"].items()})
    assert of == Counter({state: state is State.PAUSED for state in State})


async def test_every_state_has_a_code_of_its_own() -> None:
    assert set(metrics.STATE_CODES) == set(State) - {State.DISCONNECTED}
    assert len(set(metrics.STATE_CODES.values())) == len(metrics.STATE_CODES)
    assert set(UNWELL) <= set(metrics.STATE_CODES)


async def test_it_is_read_once_however_often_it_is_asked_for(
    people: Database, time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = 0, observed.read

    async def counting(*arguments: object, **options: object) -> observed.Observation:
        nonlocal reads
        reads += 1
        return await read(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(observed, "read", counting)
    world = World(people)
    await world.connections(1, 1)
    for accept in ("", OPEN_METRICS, "", OPEN_METRICS):
        assert ("connection-1",) in (await world.said(accept))["fieldgate_sync_lag_seconds"]
    assert reads == 1
    await world.connections(2, 2)
    time[0] += exposition.HELD_SECONDS - 0.1
    assert ("connection-2",) not in (await world.said())["fieldgate_sync_lag_seconds"]
    time[0] += 0.2
    assert ("connection-2",) in (await world.said())["fieldgate_sync_lag_seconds"]
    assert reads == 2


async def test_what_was_read_last_stands_while_the_database_is_away(
    people: Database, time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> observed.Observation:
        raise StoreUnavailable("away")

    world, silent = World(people), World(people)
    await world.connections(1, 1)
    before = await world.said()
    monkeypatch.setattr(observed, "read", away)
    time[0] += exposition.HELD_SECONDS + 1
    assert await world.said() == before
    text, _ = await silent.exposition.exposition("")  # nothing was read yet
    assert "fieldgate_build_info" in text and "fieldgate_connections" not in text


async def test_the_daemon_knows_nothing_of_connections(people: Database) -> None:
    await World(people).connections(1, 3)
    await Backlog(people).refresh()
    text, _ = await Readiness().exposition("")
    assert "connection-1" not in text


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
async def test_five_thousand_connections_are_a_megabyte_at_most(people: Database, accept: str) -> None:
    world = World(people)
    await world.connections(1, 1000)
    small, _ = await world.exposition.exposition(accept)
    assert small.count("connection-1000") == 5
    world = World(people)
    await world.connections(1001, 4000)
    await world.connections(4001, 5400, State.DEGRADED)
    large, _ = await world.exposition.exposition(accept)
    assert max(len(small), len(large)) < 1_000_000
    assert large.endswith("# EOF\n") is bool(accept) and large.count("# EOF") == bool(accept)
    if shutil.which("promtool") and not accept:
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=large, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_a_row_that_cannot_be_read_costs_only_itself(people: Database, database: Database) -> None:
    world = World(people)
    await world.connections(1, 2)
    async with database.connection() as connection:
        try:
            await connection.execute(
                "update connection set state = 'no such state' where connection_id = 'connection-1'"
            )
        except asyncpg.CheckViolationError:
            pytest.skip("the database holds no such row")
    said = await world.said()
    assert set(said["fieldgate_sync_lag_seconds"]) == {("connection-2",)}
