"""What a push may have left at a system: in doubt until it is known, fenced, and never an older value over a
newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files

import asyncpg
import pytest

from benchmarks.servers import PATIENCE
from connectors.postgres.connector import PostgresConnector
from gateway import clock, metrics
from gateway.model.connector import Capabilities, Connector, ConnectorSettings
from gateway.model.errors import BatchRefused, LeaseLost, OutcomeUnknown, StoreUnavailable
from gateway.model.meter import MeterRule
from gateway.model.outcome import Outcome, Rejected, Superseded
from gateway.model.pressure import Pressure
from gateway.model.reading import Batch
from gateway.settings import SyncSettings
from gateway.store import deliveries, streams
from gateway.store.pool import Connection, Database
from gateway.store.streams import Claim, RunTally
from gateway.store.views import Views
from gateway.sync import initial
from gateway.sync.deliver import Delivery
from gateway.sync.scan import scan_slice
from gateway.sync.turns import Turns
from tests.fixtures.scripted import BLIND, CLIENT_REF, UPSERT, Scripted
from tests.fixtures.sync_rig import ALL, BASE, HOUR, MINUTE, Rig, values

BY_DEDUP = pytest.mark.parametrize(
    "capabilities", [UPSERT, CLIENT_REF, BLIND], ids=["upsert", "client_ref", "blind"]
)


def held(connector: Scripted) -> dict[str, object]:
    """What a system that keeps the last value of each key has of each meter, at one window."""
    return {reading.meter: reading.value for reading in connector.taken}


def losing(connector: Scripted) -> None:
    """From now on everything is taken and no answer arrives."""

    async def lost(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        raise OutcomeUnknown("cut")

    connector.answer = lost


async def run_once(rig: Rig) -> None:
    """One run, when all that was on its way has arrived."""
    await rig.arrived()
    await rig.run()


# In doubt is not equal.


@BY_DEDUP
@pytest.mark.parametrize("deadband", [0.0, 100.0])
async def test_a_correction_back_after_a_lost_answer_is_sent(
    database: Database, capabilities: Capabilities, deadband: float
) -> None:
    connector = Scripted(capabilities=capabilities)
    rule = MeterRule(device="*", metric="t", meter="{device}", every=15 * MINUTE, deadband=deadband)
    rig = await Rig(database, connector, rules=(rule,)).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    losing(connector)
    await rig.store(("a", BASE, 200.0))
    await rig.run()
    assert held(connector) == {"a": 200.0}
    connector.answer = None
    await rig.store(("a", BASE, 1.0))
    await run_once(rig)
    assert held(connector) == {"a": 1.0} and await rig.delivered() == {("a", BASE): 1.0}
    assert await rig.doubts() == {} and await rig.due() == []


@BY_DEDUP
async def test_a_correction_back_after_a_kill_is_sent(database: Database, capabilities: Capabilities) -> None:
    connector = Scripted(capabilities=capabilities)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    arrived = asyncio.Event()

    async def hang(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        arrived.set()
        await asyncio.Event().wait()
        return []

    connector.answer = hang
    await rig.store(("a", BASE, 2.0))
    running = asyncio.create_task(rig.run())
    await asyncio.wait_for(arrived.wait(), 10 * PATIENCE)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    connector.answer = None
    await rig.store(("a", BASE, 1.0))
    await run_once(rig)
    assert held(connector) == {"a": 1.0} and await rig.delivered() == {("a", BASE): 1.0}


async def test_a_first_value_in_doubt_is_not_kept_back_by_a_deadband(database: Database) -> None:
    connector = Scripted(capabilities=UPSERT)
    rule = MeterRule(device="*", metric="t", meter="{device}", every=15 * MINUTE, deadband=10.0)
    rig = await Rig(database, connector, rules=(rule,)).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    losing(connector)
    await rig.store(("a", BASE + HOUR, 50.0))
    await rig.run()
    connector.answer = None
    await rig.store(("a", BASE + HOUR, 2.0))
    await run_once(rig)
    assert values(connector) == [("a", 1), ("a", 50), ("a", 2)]


async def test_what_find_shows_with_another_value_is_sent_again(database: Database) -> None:
    """The answer was lost, and the value changed before the system could be asked."""
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    losing(connector)
    await rig.store(("a", BASE, 1.0), ("b", BASE, 5.0))
    await rig.run()
    connector.answer = None
    await rig.store(("a", BASE, 2.0))
    await run_once(rig)
    assert values(connector) == [("a", 1), ("b", 5), ("a", 2)], "b is there; a holds another value"
    assert connector.taken[-1].modified and len(connector.finds) == 1
    assert await rig.delivered() == {("a", BASE): 2.0, ("b", BASE): 5.0}


async def test_what_is_found_is_not_sent(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    losing(connector)
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    await run_once(rig)
    assert values(connector) == [("a", 1)] and await rig.delivered() == {("a", BASE): 1.0}


async def test_a_dead_letter_does_not_end_a_doubt(database: Database) -> None:
    """The correction was lost, the value before it is refused now, and replayed: it is not taken for held."""
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    losing(connector)
    await rig.store(("a", BASE, 2.0))
    await rig.run()

    async def refuse(batch: Batch) -> Sequence[Outcome]:
        return [Rejected(code="closed", message="the month is closed") for _ in batch.readings]

    connector.answer = refuse
    await rig.store(("a", BASE, 1.0))
    await run_once(rig)
    assert len(await rig.dead()) == 1 and await rig.due() == [] and await rig.doubts() == {("a", BASE): 2.0}
    connector.answer = None
    assert await Views(database).replay(rig.name, None) == 1
    await run_once(rig)
    assert held(connector) == {"a": 1.0} and await rig.doubts() == {}


@BY_DEDUP
async def test_a_batch_that_was_refused_leaves_nothing_in_doubt(
    database: Database, capabilities: Capabilities
) -> None:
    """Nor do the halves that it was cut into; a kill in one of them leaves only that one."""
    connector = Scripted(capabilities=replace(capabilities, push="bulk_opaque"))
    hanging = asyncio.Event()

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if len(batch.readings) > 2:
            raise BatchRefused("400")
        if batch.readings[0].meter == "d2":
            hanging.set()
            await asyncio.Event().wait()
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number}", BASE, float(number)) for number in range(4)])
    running = asyncio.create_task(rig.run())
    await asyncio.wait_for(hanging.wait(), 10 * PATIENCE)
    (intent,) = await rig.rows("select meters from push_intent")
    assert intent["meters"] == ["d2", "d3"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    connector.answer = None
    await run_once(rig)
    assert {meter for meter, _ in values(connector)} == {"d0", "d1", "d2", "d3"}
    assert await rig.rows("select * from push_intent") == [] and await rig.doubts() == {}


async def test_the_commit_of_a_batch_records_the_intent_of_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten batches cost eleven transactions of this room, and every push finds its own intent committed."""
    connector = Scripted(capabilities=replace(UPSERT, max_items=10))
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:03}", BASE, 1.0) for number in range(100)])
    seen = []

    async def answer(batch: Batch) -> Sequence[Outcome]:
        (intent,) = await rig.rows("select * from push_intent")
        seen.append(intent["position"] == batch.position)
        assert intent["meters"] == [reading.meter for reading in batch.readings]
        return connector.take(batch.readings)

    connector.answer = answer
    commits = []
    commit = deliveries.commit

    async def counted(*given: object, **named: object) -> object:
        commits.append(1)
        return await commit(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(deliveries, "commit", counted)
    await rig.run()
    assert seen == [True] * 10 and len(commits) == 11
    assert await rig.rows("select * from push_intent") == []
    positions = [batch.position for batch in connector.pushes]
    assert positions == sorted(set(positions))


async def test_windows_of_other_meters_go_on_while_some_are_in_doubt(database: Database) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    losing(connector)
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    await rig.execute("update delivery_doubt set ask_at = now() + interval '1 hour'")
    connector.answer = None
    await rig.store(("a", BASE + HOUR, 2.0), ("b", BASE, 3.0))
    await rig.run()
    assert values(connector) == [("a", 1), ("b", 3)], "a's later window waits with it, b's does not"


async def test_the_intents_of_the_version_before_are_in_doubt(database: Database) -> None:
    """The migration keeps what a process was sending when it was replaced."""
    text = files("gateway.store").joinpath("migrations/0013_doubt.sql").read_text()
    rig = await Rig(database).activate()
    async with database.transaction() as connection:
        await connection.execute("drop table push_intent, delivery_doubt, delivery_clock")
        await connection.execute(
            "create table push_intent (connection_id text, name text, phase text, batch_id text, readings"
            " jsonb, sent_at timestamptz default now())"
        )
        readings = [{"key": "k", "meter": "a", "window_start": BASE.isoformat(), "value": 7.0, "unit": None}]
        await connection.execute(
            "insert into push_intent values ($1, 'readings', 'incremental', 'b', $2)", rig.name, readings
        )
        await connection.execute(text)
    assert await rig.doubts() == {("a", BASE): 7.0}


# No zombie writes.


async def _stolen(rig: Rig) -> None:
    await rig.execute("update stream set fence = fence + 1, lease_owner = 'replica-b'")


async def test_a_lease_lost_before_the_intent_pushes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    claim = await rig.claim()
    await scan_slice(database, claim, rig.link, RunTally())
    ensure = deliveries.ensure_days

    async def slept(*given: object) -> None:
        await ensure(*given)  # type: ignore[arg-type]
        await _stolen(rig)  # the values are computed, and nothing is sent yet

    monkeypatch.setattr(deliveries, "ensure_days", slept)
    with pytest.raises(LeaseLost):
        await rig.runner().run(claim, rig.link)
    assert connector.pushes == [] and await rig.rows("select * from push_intent") == []


async def test_no_push_begins_long_after_the_proof(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process sleeps between the commit of the intent and the call: it proves its
    fence again, or ends.
    """
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    commit, now, slept = deliveries.commit, clock.monotonic, [0.0]

    async def sleeping(*given: object, **named: object) -> object:
        intent = await commit(*given, **named)  # type: ignore[arg-type]
        if intent is not None and not slept[0]:
            slept[0] = 6.0  # more than a third of 15 s
            await _stolen(rig)
        return intent

    monkeypatch.setattr(deliveries, "commit", sleeping)
    monkeypatch.setattr(clock, "monotonic", lambda: now() + slept[0])
    with pytest.raises(LeaseLost):
        await rig.run()
    assert connector.pushes == []


async def test_a_slow_replica_whose_lease_is_still_its_own_proves_it_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    commit, now, slept = deliveries.commit, clock.monotonic, [0.0]

    async def sleeping(*given: object, **named: object) -> object:
        intent = await commit(*given, **named)  # type: ignore[arg-type]
        slept[0] = slept[0] or 6.0
        return intent

    monkeypatch.setattr(deliveries, "commit", sleeping)
    monkeypatch.setattr(clock, "monotonic", lambda: now() + slept[0])
    await rig.run()
    assert values(connector) == [("a", 1)]


async def test_the_proof_of_the_fence_renews_the_lease(database: Database) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    left: list[float] = []

    async def answer(batch: Batch) -> Sequence[Outcome]:
        (row,) = await rig.rows(
            "select extract(epoch from lease_until - clock_timestamp())::float8 as seconds from stream where"
            " phase = 'incremental'"
        )
        left.append(row["seconds"])
        return connector.take(batch.readings)

    connector.answer = answer
    claim = await rig.claim(lease_seconds=1.0)
    await rig.runner().run(claim, rig.link)
    assert left[0] > 2.0


@pytest.mark.parametrize("how", ["answered", "cancelled"])
async def test_a_push_that_outlives_its_lease_is_made_good(database: Database, how: str) -> None:
    """The one that slips between the proof and the system's door: it arrives after its successor's."""
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    at_the_door, go = asyncio.Event(), asyncio.Event()

    async def sleeping(batch: Batch) -> Sequence[Outcome]:
        at_the_door.set()
        await go.wait()
        connector.take(batch.readings)
        if how == "cancelled":
            await asyncio.Event().wait()
        return connector.take(batch.readings)

    connector.answer = sleeping
    zombie = asyncio.create_task(rig.runner().run(await rig.claim(lease_seconds=0.0), rig.link))
    await asyncio.wait_for(at_the_door.wait(), 10 * PATIENCE)
    connector.answer = None
    await rig.store(("a", BASE, 2.0))
    await rig.execute("update stream set lease_until = now()")
    await rig.arrived()
    successor = rig.replica("replica-b")
    await successor.run()
    assert held(connector) == {"a": 2.0}
    go.set()
    if how == "cancelled":
        while len(connector.taken) < 2:
            await asyncio.sleep(0.01)
        zombie.cancel()
    outcome = (await asyncio.gather(zombie, return_exceptions=True))[0]
    assert isinstance(outcome, LeaseLost if how == "answered" else asyncio.CancelledError)
    assert held(connector) == {"a": 1.0}, "the older value stands over the newer one"
    await successor.run()
    assert held(connector) == {"a": 2.0} and await rig.delivered() == {("a", BASE): 2.0}


async def test_a_reading_that_was_superseded_ends_a_run_whose_lease_is_lost(database: Database) -> None:
    connector = Scripted(capabilities=replace(UPSERT, keeps_latest=True))
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))

    async def later(batch: Batch) -> Sequence[Outcome]:
        await _stolen(rig)
        return [Superseded(position=batch.position + 1) for _ in batch.readings]

    connector.answer = later
    with pytest.raises(LeaseLost):
        await rig.run()
    assert await rig.delivered() == {} and len(await rig.due()) == 1


async def test_a_clock_that_fell_behind_passes_what_the_system_holds(database: Database) -> None:
    """A dump was restored, or the database's clock went back: the fence is ours and the position is old."""
    connector = Scripted(capabilities=replace(UPSERT, keeps_latest=True))
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    ahead = 10**17

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if batch.position <= ahead:
            return [Superseded(position=ahead) for _ in batch.readings]
        return connector.take(batch.readings)

    connector.answer = answer
    await rig.run()
    assert values(connector) == [("a", 1)] and connector.pushes[-1].position == ahead + 1
    assert await rig.delivered() == {("a", BASE): 1.0} and await rig.doubts() == {}


async def test_a_superseded_reading_without_a_position_waits(database: Database) -> None:
    connector = Scripted(capabilities=replace(UPSERT, keeps_latest=True))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        return [Superseded() for _ in batch.readings]

    connector.answer = answer
    rig = await Rig(database, connector, settings=_settings(unknown_wait=timedelta(hours=1))).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.run(times=3)
    assert len(connector.pushes) == 1 and len(await rig.due()) == 1 and await rig.dead() == []


async def test_positions_grow_over_phases_fences_and_a_clock_that_goes_back(database: Database) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = Rig(database, connector, initial_days=1)
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    assert (await rig.run("initial"))["state"] == "done"
    await rig.execute(
        "update delivery_clock set position = position + 3600000000"
    )  # given out by a clock ahead
    await rig.store(("a", BASE + HOUR, 2.0))
    await rig.run()
    await rig.store(("a", BASE + 2 * HOUR, 2.0))
    await rig.replica("replica-b").run()
    positions = [batch.position for batch in connector.pushes]
    assert len(positions) == 3 and positions == sorted(set(positions))


async def test_an_older_push_never_replaces_a_newer_one_in_the_table(
    database: Database, empty_dsn: str
) -> None:
    """The zombie's push arrives last, at the real sink."""

    class Sleeping(PostgresConnector):
        at_the_door, go = asyncio.Event(), asyncio.Event()

        async def push(self, batch: Batch) -> Sequence[Outcome]:
            if not self.at_the_door.is_set():
                self.at_the_door.set()
                await self.go.wait()
            return await super().push(batch)

    connector: Connector = Sleeping(
        ConnectorSettings(
            connection="acme-1",
            hosting="cloud",
            settings={},
            credentials={"dsn": empty_dsn},
            timeout_seconds=5,
        )
    )
    await connector.probe()
    assert connector.capabilities.keeps_latest
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))
    zombie = asyncio.create_task(rig.runner().run(await rig.claim(lease_seconds=0.0), rig.link))
    await asyncio.wait_for(Sleeping.at_the_door.wait(), 10 * PATIENCE)
    await rig.store(("a", BASE, 2.0))
    await rig.execute("update stream set lease_until = now()")
    await rig.replica("replica-b").run()  # at once: the table keeps the later one
    system = await asyncpg.connect(empty_dsn)
    try:
        assert await system.fetchval("select value from fieldgate_reading") == 2.0
        Sleeping.go.set()
        assert isinstance((await asyncio.gather(zombie, return_exceptions=True))[0], LeaseLost)
        assert await system.fetchval("select value from fieldgate_reading") == 2.0
        assert await rig.delivered() == {("a", BASE): 2.0}
    finally:
        await system.close()
        await connector.close()


# Fences of the transactions that mark windows.


async def test_a_lease_lost_while_a_slice_is_scanned_marks_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await Rig(database).activate()
    await rig.store(("a", BASE, 1.0))
    claim, tally = await rig.claim(), RunTally()
    _steal_after_read(rig, monkeypatch)
    with pytest.raises(LeaseLost):
        await scan_slice(database, claim, rig.link, tally)
    assert await rig.due() == [] and tally.samples == 0
    before = await rig.rows("select watermark::text from stream where phase = 'incremental'")
    monkeypatch.undo()
    await rig.execute("update stream set lease_until = now()")
    await rig.run()
    assert len(await rig.delivered()) == 1
    assert before != await rig.rows("select watermark::text from stream where phase = 'incremental'")


async def test_a_lease_lost_while_the_history_is_walked_marks_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database, initial_days=1)
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    claim, before = await rig.claim("initial"), await rig.stream("initial")
    _steal_after_read(rig, monkeypatch)
    with pytest.raises(LeaseLost):
        await initial.mark_more(database, claim, rig.link, RunTally())
    after = await rig.stream("initial")
    assert await rig.due() == [] and after["initial_cursor"] == before["initial_cursor"]


def _steal_after_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    read = streams.read

    async def stolen(connection: Connection, claim: Claim, **how: float) -> streams.Position:
        position = await read(connection, claim, **how)
        await _stolen(rig)
        return position

    monkeypatch.setattr(streams, "read", stolen)


# Counters count what was committed.


async def test_nothing_is_counted_that_was_rolled_back(database: Database) -> None:
    connector, tally = Scripted(capabilities=UPSERT), RunTally()
    rig = await Rig(database, connector, rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0))
    claim = await rig.claim()
    await scan_slice(database, claim, rig.link, tally)
    delivery = Delivery(
        database,
        claim,
        rig.link,
        tally,
        push_timeout=timedelta(seconds=5),
        max_attempts=3,
        unknown_wait=timedelta(0),
        lease=timedelta(seconds=15),
        days=set(),
        turns=Turns(4, Pressure()),
    )
    counter = metrics.SYNC_READINGS.labels("scripted", "delivered")
    before = counter._value.get()

    async with database.connection() as connection:
        await connection.execute("""create function away() returns trigger language plpgsql as
            $$ begin raise exception 'gone at the end' using errcode = 'cannot_connect_now'; end $$;
            create trigger away before delete on push_intent for each row execute function away()""")
    with pytest.raises(StoreUnavailable):
        await delivery.deliver_once()
    assert values(connector) == [("a", 1)] and await rig.delivered() == {}
    assert (tally.delivered, tally.modified, counter._value.get()) == (0, 0, before)


def _settings(**more: object) -> SyncSettings:
    quick = {
        "backoff_base": timedelta(milliseconds=1),
        "backoff_cap": timedelta(milliseconds=1),
        "unknown_wait": timedelta(0),
    }
    return SyncSettings.model_validate({**quick, **more})
