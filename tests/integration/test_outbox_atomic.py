"""What is told commits with what happened, or neither does: an event that cannot commit takes everything
back, and what cannot commit takes its event back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.connections.incidents import Incidents
from gateway.connections.verdicts import decide
from gateway.model.errors import LeaseLost, StoreError, Unavailable
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch
from gateway.store import incidents as store
from gateway.store.pool import Database
from gateway.sync.runs import FAILED_AFTER
from tests.fixtures import fleet
from tests.fixtures.fleet import HOSTS, OWNERS, calls, on
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, Rig

FUNCTION = """
create function fail_at_commit() returns trigger language plpgsql as $$
begin
    raise exception 'this does not commit' using errcode = '40001';
end $$
"""


@asynccontextmanager
async def failing(database: Database, table: str) -> AsyncIterator[None]:
    """What writes such a row to the table goes well, and its transaction fails at the very end."""
    async with database.connection() as connection:
        await connection.execute(FUNCTION)
        await connection.execute(
            f"create constraint trigger fail_at_commit after insert or update on {table} "
            f"deferrable initially deferred for each row execute function fail_at_commit()"
        )
    yield
    async with database.connection() as connection:
        await connection.execute("drop function fail_at_commit cascade")


async def refused(batch: Batch) -> Sequence[Outcome]:
    return [Rejected(code="no_such_meter", message="there is none") for _ in batch.readings]


async def down(batch: Batch) -> Sequence[Outcome]:
    raise Unavailable("away")


@pytest.mark.parametrize("table", ["event", "dead_letter"])
async def test_a_dead_letter_and_its_event(database: Database, table: str) -> None:
    rig = await Rig(database, Scripted(answer=refused)).activate()
    await rig.store(("d1", BASE, 1.0))
    async with failing(database, table):
        with pytest.raises(StoreError):
            await rig.run()
    assert await rig.dead() == [] and len(await rig.due()) == 1 and await types(rig) == []
    await rig.execute(
        "update push_intent set sent_at = sent_at - interval '1 hour'"
    )  # it has arrived, or never will
    await rig.run()
    assert len(await rig.dead()) == 1
    assert await types(rig) == ["reading.dead_lettered"]


async def test_a_dead_letter_that_is_not_ours_is_not_told(database: Database) -> None:
    rig = await Rig(database, Scripted()).activate()

    async def taken_over(batch: Batch) -> Sequence[Outcome]:
        await rig.execute("update stream set fence = fence + 1, lease_owner = 'replica-b'")
        return await refused(batch)

    assert isinstance(rig.connector, Scripted)
    rig.connector.answer = taken_over
    await rig.store(("d1", BASE, 1.0))
    with pytest.raises(LeaseLost):
        await rig.run()
    assert await types(rig) == []


@pytest.mark.parametrize("table", ["event", "sync_run"])
async def test_the_end_of_a_run_and_its_event(database: Database, table: str) -> None:
    rig = await Rig(database, Scripted(answer=down)).activate()
    await rig.store(("d1", BASE, 1.0))
    for _ in range(FAILED_AFTER - 1):
        await rig.run()
    runs = await rig.rows("select * from sync_run")
    assert (await rig.stream())["attempts"] == FAILED_AFTER - 1 and await types(rig) == []
    async with failing(database, table):
        with pytest.raises(StoreError):
            await rig.run()
    stream = await rig.stream()
    assert stream["attempts"] == FAILED_AFTER - 1 and stream["lease_owner"] is not None
    assert await rig.rows("select * from sync_run") == runs and await types(rig) == []
    await rig.run()
    assert (await rig.stream())["attempts"] == FAILED_AFTER and await types(rig) == ["sync.failed"]


async def test_the_end_of_a_run_that_is_not_ours_is_not_told(database: Database) -> None:
    rig = await Rig(database, Scripted()).activate()

    async def taken_over(batch: Batch) -> Sequence[Outcome]:
        await rig.execute("update stream set fence = fence + 1, lease_owner = 'replica-b'")
        raise Unavailable("away")

    assert isinstance(rig.connector, Scripted)
    rig.connector.answer = taken_over
    await rig.store(("d1", BASE, 1.0))
    with pytest.raises(LeaseLost):
        await rig.run()
    assert await types(rig) == [] and await rig.rows("select * from sync_run") == []


@pytest.mark.parametrize("table", ["event", "incident"])
async def test_an_incident_and_its_events(database: Database, table: str) -> None:
    async def events() -> int:
        async with database.connection() as connection:
            count: int = await connection.fetchval("select count(*) from event where type like 'incident.%'")
        return count

    await fleet.create(database)
    incidents = Incidents(database, owner="replica-a")
    await calls(incidents, OWNERS, ago=(100.0,))
    await calls(incidents, on(HOSTS[0]), ago=(75.0, 40.0, 5.0), succeeded=False)
    await calls(incidents, on(*HOSTS[1:]))
    async with failing(database, table):
        with pytest.raises(StoreError):
            await decide(database)
    assert await store.listed(database, closed=True) == [] and await events() == 0
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from breaker") == 0
    await decide(database)
    assert len(await store.listed(database, closed=False)) == 1 and await events() > 1


async def types(rig: Rig) -> list[str]:
    told = await rig.rows("select type from event where type not like 'connection.%' order by position")
    return [row["type"] for row in told]
