"""A connection that may not call its system any more, as one that somebody pauses while a run is at work:
the call in hand is the last one, whatever the run is about, and nothing of what is left is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from gateway.model.connector import RemoteReading
from gateway.model.errors import (
    AuthRefused,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.meter import MeterRule
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch, Reading
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from gateway.store.streams import Phase
from tests.fixtures.alerting import MAKES, Takes, rig_on
from tests.fixtures.connection_rig import CALLER, World
from tests.fixtures.scripted import BLIND, CLIENT_REF, UPSERT, Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig

ENDED = pytest.mark.parametrize("state", ["paused", "reauthorization_required", "blocked", "disconnecting"])


async def end_calls(rig: Rig, state: str = "paused") -> None:
    await rig.execute("update connection set state = $1, prior_state = 'active'", state)


async def resume(rig: Rig) -> None:
    await rig.execute("update connection set state = 'active', prior_state = null")


@ENDED
@pytest.mark.parametrize("phase", ["incremental", "initial"])
async def test_the_push_in_hand_is_the_last(database: Database, state: str, phase: Phase) -> None:
    connector = Scripted(capabilities=replace(UPSERT, max_items=10))
    rig = Rig(database, connector, initial_days=1 if phase == "initial" else 0)
    samples = [(f"d{number:03}", BASE, float(number)) for number in range(50)]
    if phase == "initial":
        await rig.store(*samples)
    await rig.activate()
    if phase == "incremental":
        await rig.store(*samples)

    async def answer(batch: Batch) -> Sequence[Outcome]:
        await end_calls(rig, state)
        return connector.take(batch.readings)

    connector.answer = answer
    row = await rig.run(phase)
    if not connector.pushes:  # the first run of a walk marks what is due
        row = await rig.run(phase)
    assert len(connector.pushes) == 1
    assert len(await rig.delivered()) == 10 and await rig.rows("select from push_intent") == []
    assert row["lease_owner"] is None and row["last_error"] is None and row["attempts"] == 0
    connector.answer = None
    await resume(rig)
    await rig.run(phase)
    assert len(await rig.delivered()) == len(connector.taken) == 50, "each once"


async def test_a_push_whose_outcome_is_unknown_is_the_last_too(database: Database) -> None:
    connector = Scripted(capabilities=replace(BLIND, max_items=10))
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:03}", BASE, 1.0) for number in range(30)])

    async def lost(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        await end_calls(rig)
        raise OutcomeUnknown("cut")

    connector.answer = lost
    await rig.run()
    assert len(connector.pushes) == 1 and len(await rig.doubts()) == 10


async def test_what_is_in_doubt_is_not_asked_for(database: Database) -> None:
    @dataclass
    class Asked(Scripted):
        ends: bool = True

        async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
            if self.ends:
                await end_calls(rig)
            return await super().find(readings)

    connector = Asked(capabilities=replace(CLIENT_REF, max_items=30))
    rig = await Rig(database, connector).activate()

    async def lost(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        raise OutcomeUnknown("cut")

    connector.answer = lost
    await rig.store(*[(f"d{number:02}", BASE, 1.0) for number in range(30)])
    await rig.run()
    assert len(await rig.doubts()) == 30
    connector.answer, connector.capabilities = None, replace(CLIENT_REF, max_items=10)
    await rig.arrived()
    await rig.run()
    assert (len(connector.finds), len(connector.pushes)) == (1, 1)
    connector.ends = False
    await resume(rig)
    await rig.run(times=2)
    assert len(await rig.delivered()) == len(connector.taken) == 30 and await rig.doubts() == {}


@pytest.mark.parametrize(
    "refusal", [AuthRefused("no such key"), PermissionDenied("no")], ids=["refused", "denied"]
)
async def test_no_second_opinion_is_asked_for(database: Database, refusal: ConnectorError) -> None:
    """The answer to the call in hand comes when somebody has paused the connection."""
    await sync_capacity(database, CreditsSettings())
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.service.pause("acme-1", CALLER)
    before = world.connector.probes
    await world.engine.health.failed(link, refusal, attempts=1)
    assert world.connector.probes == before
    assert await world.state() == "paused" and await world.issues() == []


async def test_whose_fault_a_failure_is_is_not_asked_for(database: Database) -> None:
    connector = Scripted(capabilities=replace(UPSERT, max_items=1))
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number}", BASE, 1.0) for number in range(4)])
    await rig.execute("update stream set attempts = 6")
    before = connector.probes

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if not connector.taken:
            return connector.take(batch.readings)
        await end_calls(rig)
        raise Unavailable("500")

    connector.answer = answer
    await rig.run()
    assert connector.probes == before and len(connector.taken) == 1


async def test_no_meter_is_made(database: Database) -> None:
    system = Takes(capabilities=MAKES)
    made = MeterRule(device="*", metric="t", meter="{device}/t", every=15 * MINUTE, create=True)
    rig = Rig(database=database, connector=system, rules=(made,))
    await rig.store(*[(f"d{number}", BASE, 1.0) for number in range(5)])
    await rig.activate()

    async def answer(wanted: RemoteMeter) -> RemoteMeter:
        await end_calls(rig)
        system.made.append(wanted)
        return wanted

    system.on_ensure = answer
    await rig.run()
    assert len(system.made) == 1 and not system.pushes
    system.on_ensure = None
    await resume(rig)
    await rig.store(*[(f"d{number}", BASE + HOUR, 2.0) for number in range(5)])
    await rig.run(times=3)
    assert len(system.made) == 5


@ENDED
async def test_no_alert_is_raised(database: Database, state: str) -> None:
    rig = await rig_on(database).activate()

    async def answer(event: EventToRaise) -> Outcome:
        await end_calls(rig, state)
        return rig.system.take_event(event)

    rig.system.on_raise = answer
    await rig.store(*[(f"pump-{number}", BASE, 99.0) for number in range(5)])
    await rig.work()
    assert rig.system.looked_up == 1
    if state == "disconnecting":
        return
    rig.system.on_raise = None
    await resume(rig)
    await rig.work(2)
    assert len(rig.system.raised) == 5
