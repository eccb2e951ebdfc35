"""The scheduler: who works which stream, and that nothing of one connection delays another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from benchmarks.servers import PATIENCE, wait_until
from gateway.model.errors import LeaseLost, Unavailable
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch
from gateway.settings import SyncSettings
from gateway.store import leases, streams
from gateway.store.leases import Term
from gateway.store.pool import Database
from gateway.sync import schedule
from gateway.sync.schedule import OutboundWork, Scheduler
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, CONNECTION, MINUTE, Rig

SETTINGS = SyncSettings(
    lease=timedelta(seconds=1),
    backoff_base=timedelta(milliseconds=10),
    backoff_cap=timedelta(milliseconds=20),
    unknown_wait=timedelta(0),
)


def _scheduler(rig: Rig, owner: str) -> Scheduler[streams.Claim]:
    engine = rig.engine
    work = OutboundWork(rig.database, rig.settings, engine.health, engine.troubles, owner=owner)
    return Scheduler(work, lease_seconds=rig.settings.lease.total_seconds())


@asynccontextmanager
async def scheduled(
    rig: Rig, *rigs: Rig, owner: str = "replica-a", grace: float = 5.0
) -> AsyncIterator[Scheduler[streams.Claim]]:
    scheduler = _scheduler(rig, owner)
    scheduler.serve({each.name: each.link for each in (rig, *rigs)})
    running = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        await scheduler.stop(grace)
        await running


async def test_two_schedulers_share_streams_and_double_nothing(database: Database) -> None:
    connectors = [Scripted() for _ in range(4)]
    rigs = [
        await Rig(database, connector, name=f"acme-{number}", settings=SETTINGS).activate()
        for number, connector in enumerate(connectors)
    ]
    workers: dict[str, set[str]] = {}

    async def sees(connector: Scripted, name: str, batch: Batch) -> Sequence[Outcome]:
        (row,) = await rigs[0].rows("select lease_owner from stream where connection_id = $1", name)
        workers.setdefault(row["lease_owner"], set()).add(name)
        return connector.take(batch.readings)

    for rig, connector in zip(rigs, connectors, strict=True):
        connector.answer = lambda batch, connector=connector, name=rig.name: sees(connector, name, batch)
    async with scheduled(*rigs, owner="replica-a"), scheduled(*rigs, owner="replica-b"):
        for number in range(6):
            await rigs[0].store(("d1", BASE + 15 * number * MINUTE, float(number)))
        await wait_until(
            lambda: all(len(connector.taken) == 6 for connector in connectors), what="everything is delivered"
        )
    assert all(
        len({reading.key for reading in connector.taken}) == len(connector.taken) == 6
        for connector in connectors
    )
    assert workers and workers.keys() <= {"replica-a", "replica-b"}


async def test_a_connector_that_never_answers_does_not_delay_another(database: Database) -> None:
    hung, well = Scripted(), Scripted()

    async def never(batch: Batch) -> Sequence[Outcome]:
        await asyncio.Event().wait()
        return []

    hung.answer = never
    settings = SETTINGS.model_copy(update={"workers": 1})
    first = await Rig(database, hung, name="hung", settings=settings).activate()
    second = await Rig(database, well, name="well", settings=settings).activate()
    async with scheduled(first, second, grace=0.1):
        await first.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(hung.pushes) == 1, what="the hung system is called")
        for number in range(3):
            await first.store(("d1", BASE + (number + 1) * 15 * MINUTE, 1.0))
            await wait_until(
                lambda count=number: len(well.taken) >= count + 2, seconds=5, what="the other is served"
            )
    assert len(hung.pushes) == 1 and len(await first.rows("select * from push_intent")) == 1


async def test_a_customer_whose_systems_hang_leaves_places_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "MAX_STREAMS", 4)
    hung, well = Scripted(), Scripted()

    async def never(batch: Batch) -> Sequence[Outcome]:
        await asyncio.Event().wait()
        return []

    hung.answer = never
    patient = SETTINGS.model_copy(update={"push_timeout": timedelta(hours=1)})
    theirs = [
        await Rig(database, hung, name=f"hung-{number}", settings=patient).activate() for number in range(6)
    ]
    other = await Rig(database, well, name="well", customer="globex", settings=patient).activate()
    async with scheduled(other, *theirs, grace=0.1):
        await theirs[0].store(("d1", BASE, 1.0))
        await wait_until(lambda: len(hung.pushes) >= 2, what="systems hang")
        for number in range(3):
            await other.store(("d1", BASE + number * 15 * MINUTE, 1.0))
            await wait_until(lambda count=number: len(well.taken) == count + 1, what="the other is served")
    assert len(hung.pushes) == 2, "of four places two"


async def test_a_fault_of_one_stream_ends_that_run_only(database: Database) -> None:
    broken, well = Scripted(), Scripted()

    async def crash(batch: Batch) -> Sequence[Outcome]:
        raise KeyError("a fault of ours")

    broken.answer = crash
    # what a push that crashed may have left there is sent again when it has arrived, or never will
    settings = SETTINGS.model_copy(update={"push_timeout": timedelta(milliseconds=500)})
    first = await Rig(database, broken, name="broken", settings=settings).activate()
    second = await Rig(database, well, name="well", settings=settings).activate()
    async with scheduled(first, second):
        await first.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(broken.pushes) >= 1 and len(well.taken) == 1, what="both are worked")

        async def recorded() -> bool:
            return str((await first.stream())["last_error"]).startswith("internal error, reference ")

        await wait_until(recorded, what="the fault is seen")
        broken.answer = None
        await first.execute("update stream set next_run_at = now()")
        await wait_until(lambda: len(broken.taken) == 1, what="it goes on")
    assert (await first.stream())["attempts"] == 0


async def test_a_lost_lease_cancels_the_run_and_commits_nothing(database: Database) -> None:
    connector = Scripted()
    cancelled = asyncio.Event()

    async def hang(batch: Batch) -> Sequence[Outcome]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    connector.answer = hang
    rig = await Rig(database, connector, settings=SETTINGS).activate()
    async with scheduled(rig, grace=0.1):
        await rig.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(connector.pushes) == 1, what="the push began")
        await rig.execute(
            "update stream set fence = fence + 1, lease_owner = 'replica-b', lease_until = now() + interval"
            " '1 hour'"
        )
        await asyncio.wait_for(cancelled.wait(), 10 * PATIENCE)
    row = await rig.stream()
    assert (
        row["lease_owner"] == "replica-b"
        and await rig.delivered() == {}
        and await rig.rows("select * from sync_run") == []
    )


async def test_a_lease_is_renewed_while_a_push_takes_long(database: Database) -> None:
    connector = Scripted()
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(batch: Batch) -> Sequence[Outcome]:
        arrived.set()
        await go.wait()
        return connector.take(batch.readings)

    connector.answer = slow
    rig = await Rig(database, connector, settings=SETTINGS).activate()
    async with scheduled(rig):
        await rig.store(("d1", BASE, 1.0))
        await asyncio.wait_for(arrived.wait(), 10 * PATIENCE)
        before = (await rig.stream())["lease_until"]

        async def renewed_twice() -> bool:
            row = await rig.stream()
            return bool(
                row["lease_until"] - before > SETTINGS.lease / 2 and row["lease_owner"] == "replica-a"
            )

        await wait_until(renewed_twice, what="the lease is renewed")
        assert await streams.claim(database, "replica-b", 15.0, [CONNECTION], 10, in_hand=[]) == []
        go.set()
        await wait_until(lambda: len(connector.taken) == 1, what="it is delivered")
    assert len(connector.taken) == 1 and len(await rig.delivered()) == 1


async def test_an_interrupted_lease_of_our_own_is_taken_again_at_once(database: Database) -> None:
    rig = await Rig(database).activate()
    first = await rig.claim(lease_seconds=3600)
    again = await rig.claim()
    assert again.fence == first.fence + 1
    with pytest.raises(LeaseLost):
        await streams.renew(database, first, 15.0)
    await rig.execute("update stream set next_run_at = now()")
    assert await streams.claim(database, "replica-b", 15.0, [CONNECTION], 10, in_hand=[]) == []
    assert (
        await streams.claim(database, rig.owner, 15.0, [CONNECTION], 10, in_hand=["/".join(again.key)]) == []
    )
    await rig.execute("update stream set lease_until = now()")
    (theirs,) = await streams.claim(database, "replica-b", 15.0, [CONNECTION], 10, in_hand=[])
    assert theirs.fence == again.fence + 1


async def test_stopping_lets_a_run_end_and_starts_no_other(database: Database) -> None:
    connector = Scripted()
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(batch: Batch) -> Sequence[Outcome]:
        arrived.set()
        await go.wait()
        return connector.take(batch.readings)

    connector.answer = slow
    rig = await Rig(database, connector, settings=SETTINGS).activate()
    await rig.store(("d1", BASE, 1.0))
    scheduler = _scheduler(rig, "replica-a")
    scheduler.serve({rig.name: rig.link})
    running = asyncio.create_task(scheduler.run())
    await asyncio.wait_for(arrived.wait(), 10 * PATIENCE)
    stopping = asyncio.create_task(scheduler.stop(10))
    go.set()
    await asyncio.wait_for(asyncio.gather(stopping, running), 10 * PATIENCE)
    assert len(await rig.delivered()) == 1 and (await rig.stream())["lease_owner"] is None


async def test_a_connection_that_is_no_longer_served_is_left_alone(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector, settings=SETTINGS).activate()
    other = await Rig(database, Scripted(), name="acme-2", settings=SETTINGS).activate()
    async with scheduled(rig, other) as scheduler:
        await rig.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(connector.taken) == 1, what="it is delivered")
        scheduler.serve({other.name: other.link})
        assert isinstance(other.connector, Scripted)
        await wait_until(lambda: len(other.connector.taken) == 1, what="the other is delivered")
        await rig.execute("update stream set lease_until = null where lease_until < now()")

        async def free() -> bool:
            return (await rig.stream())["lease_owner"] is None

        await wait_until(free, what="its last run ended")
        await rig.store(("d1", BASE + 15 * MINUTE, 2.0))
        await wait_until(lambda: len(other.connector.taken) == 2, what="the other goes on")
    assert len(connector.taken) == 1


async def test_a_connection_that_is_served_while_streams_are_claimed_is_worked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = Scripted()
    first = await Rig(database, Scripted(), name="acme-0", settings=SETTINGS).activate()
    second = await Rig(database, connector, name="acme-1", settings=SETTINGS).activate()
    claim = streams.claim

    async def served_meanwhile(*arguments: Any, **named: Any) -> list[streams.Claim]:
        claimed = await claim(*arguments, **named)
        if any(each.connection == second.name for each in claimed):
            scheduler.serve({first.name: first.link, second.name: second.link})
        return claimed

    monkeypatch.setattr(streams, "claim", served_meanwhile)
    async with scheduled(first) as scheduler:
        await second.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(connector.taken) == 1, seconds=10, what="it is worked")


async def test_failures_are_tried_again_by_themselves(database: Database) -> None:
    connector = Scripted()

    async def flaky(batch: Batch) -> Sequence[Outcome]:
        if len(connector.pushes) < 5:
            raise Unavailable("503")
        return connector.take(batch.readings)

    connector.answer = flaky
    rig = await Rig(database, connector, settings=SETTINGS).activate()
    async with scheduled(rig):
        await rig.store(("d1", BASE, 1.0))
        await wait_until(lambda: len(connector.taken) == 1, what="it recovers")

        async def active() -> bool:
            return await rig.state() == "active"

        await wait_until(active, what="it is active again")
    moves = await rig.rows("select to_state from connection_audit order by audit_id")
    assert [move["to_state"] for move in moves] == ["verifying", "active", "degraded", "active"]


async def test_named_leases_change_hands_with_a_fence(database: Database) -> None:
    first = await leases.claim(database, "x", "a", 60)
    assert first is not None
    assert await leases.claim(database, "x", "a", 60) == first
    assert await leases.claim(database, "x", "b", 60) is None
    await leases.release(database, "x", "b")
    assert await leases.claim(database, "x", "b", 60) is None
    await leases.release(database, "x", "a")
    assert await leases.claim(database, "x", "b", 60) == Term(name="x", owner="b", fence=first.fence + 1)
