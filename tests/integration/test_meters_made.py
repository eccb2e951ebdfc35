"""Meters that are made where they are missing: once each, before their first reading, by whatever way they
become known.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.model.errors import BadConfiguration, ConnectorError, OutcomeUnknown, RateLimited, Unavailable
from gateway.model.exchange import RemoteMeter
from gateway.model.meter import MeterRule
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch
from gateway.store import status
from gateway.store.pool import Database
from tests.fixtures.alerting import MAKES, Takes
from tests.fixtures.sync_rig import BASE, HOUR, Rig

MADE = MeterRule(
    device="*", metric="t", meter="{device}/t", unit="Cel", every=timedelta(minutes=15), create=True
)
PLAIN = MeterRule(device="*", metric="p", meter="{device}/p", every=timedelta(minutes=15))


async def rig_of(database: Database, **changed: object) -> Rig:
    system = Takes(capabilities=MAKES)

    async def checked(batch: Batch) -> list[Outcome]:
        """A system that has a meter only once it was made."""
        known = {meter.meter for meter in system.made}
        assert all(r.meter in known or r.meter.endswith("/p") for r in batch.readings), (
            "pushed before it was made"
        )
        return list(system.take(batch.readings))

    system.answer = checked
    return await Rig(database=database, connector=system, rules=(MADE, PLAIN), **changed).activate()  # type: ignore[arg-type]


def made(rig: Rig) -> list[str]:
    assert isinstance(rig.connector, Takes)
    return [meter.meter for meter in rig.connector.made]


async def states(rig: Rig) -> dict[str, str]:
    return {row["meter"]: row["state"] for row in await rig.rows("select meter, state from meter_made")}


async def test_a_new_device_has_its_meter_made_once_before_its_first_reading(database: Database) -> None:
    rig = await rig_of(database)
    await rig.store(("a", BASE, 1.0))
    await rig.run(times=2)  # the first one finds the device
    await rig.store(("a", BASE + HOUR, 2.0), ("b", BASE, 3.0))
    await rig.run(times=3)
    assert sorted(meter for meter, _ in await rig.delivered()) == ["a/t", "a/t", "b/t"]
    assert made(rig) == ["a/t", "b/t"]
    assert isinstance(rig.connector, Takes)
    assert rig.connector.made[0] == RemoteMeter(meter="a/t", title="a t", unit="Cel")
    assert await states(rig) == {"a/t": "made", "b/t": "made"}


async def test_devices_that_are_known_have_theirs_made_at_activation(database: Database) -> None:
    rig = Rig(database=database, connector=Takes(capabilities=MAKES), rules=(MADE,), initial_days=1)
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    assert await states(rig) == {"a/t": "wanted"}
    await rig.run("initial")  # it waits, and hands over what it may not deliver
    assert not await rig.delivered()
    await rig.run(times=2)
    assert made(rig) == ["a/t"] and len(await rig.delivered()) == 1


@pytest.mark.parametrize(
    "answer", [Rejected(code="x", message="no equipment"), BadConfiguration("no equipment")]
)
async def test_a_refusal_holds_back_that_meter_only_is_an_issue_and_is_tried_again(
    database: Database, answer: Rejected | ConnectorError
) -> None:
    rig = await rig_of(database)
    assert isinstance(rig.connector, Takes)

    async def refuse(wanted: RemoteMeter) -> RemoteMeter | Rejected:
        if isinstance(answer, ConnectorError):
            raise answer
        return answer

    rig.connector.on_ensure = refuse
    await rig.store(("a", BASE, 1.0))
    await rig.store(("a", BASE, 5.0), metric="p")
    await rig.run(times=3)
    assert [meter for meter, _ in await rig.delivered()] == ["a/p"]
    (row,) = await rig.rows("select state, error, due_at - now() as wait from meter_made")
    assert row["state"] == "refused" and "no equipment" in row["error"]
    assert timedelta(hours=23) < row["wait"] < timedelta(hours=27)
    (issue,) = await rig.rows("select code, title, instructions from issue where solved_at is null")
    assert issue["code"] == "meters_refused" and "no equipment" in issue["instructions"]
    (shown,) = await status.read(database, [rig.name])
    assert (shown.meters_refused, shown.meters_waiting) == (1, 0)
    rig.connector.on_ensure = None
    await rig.change_rules(MADE, PLAIN)  # settings that are put right ask at once
    await rig.run(times=2)
    assert len(await rig.delivered()) == 2 and await states(rig) == {"a/t": "made"}
    assert not await rig.rows("select from issue where solved_at is null")


@pytest.mark.parametrize(
    "error", [Unavailable("503"), OutcomeUnknown("cut"), RateLimited("429", retry_after=0.01)]
)
async def test_a_system_that_is_away_is_asked_again_and_nothing_is_refused(
    database: Database, error: ConnectorError
) -> None:
    rig = await rig_of(database)
    assert isinstance(rig.connector, Takes)
    system, failing = rig.connector, [error]

    async def flaky(wanted: RemoteMeter) -> RemoteMeter | Rejected:
        if failing:
            system.made.append(wanted)  # it may well have been made
            raise failing.pop()
        if wanted not in system.made:
            system.made.append(wanted)
        return wanted

    system.on_ensure = flaky
    await rig.store(("a", BASE, 1.0))
    await rig.run()
    await rig.run()
    assert await states(rig) == {"a/t": "wanted"}
    await rig.run(times=2)
    assert await states(rig) == {"a/t": "made"} and made(rig) == ["a/t"]
    assert len(await rig.delivered()) == 1


@pytest.mark.parametrize("how", ["lost", "slow", "killed"])
async def test_a_meter_that_may_be_on_its_way_is_not_asked_for_before_it_has_arrived(
    database: Database, how: str
) -> None:
    """The system makes it after we gave up: looked up too soon it is not there, and is made a second time."""
    rig = await rig_of(database)
    push_timeout = timedelta(seconds=0.05 if how == "slow" else 30)
    rig.settings = rig.settings.model_copy(
        update={"unknown_wait": timedelta(seconds=60), "push_timeout": push_timeout}
    )
    assert isinstance(rig.connector, Takes)
    system, asked = rig.connector, list[RemoteMeter]()

    async def late(wanted: RemoteMeter) -> RemoteMeter | Rejected:
        asked.append(wanted)
        if how == "slow":
            await asyncio.Event().wait()
        if how == "killed":
            raise asyncio.CancelledError
        raise OutcomeUnknown("cut")

    system.on_ensure = late
    await rig.store(("a", BASE, 1.0))
    await rig.store(("a", BASE, 5.0), metric="p")
    await rig.run()
    with suppress(asyncio.CancelledError):
        await rig.run()
    await rig.execute("update stream set lease_until = now()")
    await rig.run(times=2)
    assert len(asked) == 1 and await states(rig) == {"a/t": "wanted"}
    assert [meter for meter, _ in await rig.delivered()] == ["a/p"], "nothing else waits for it"
    system.made += asked  # it has arrived
    system.on_ensure = None
    await rig.execute("update meter_made set due_at = now()")
    await rig.run(times=2)
    assert made(rig) == ["a/t"] and await states(rig) == {"a/t": "made"}


async def test_what_was_made_is_not_asked_for_again(database: Database) -> None:
    rig = await rig_of(database)
    await rig.store(("a", BASE, 1.0))
    await rig.run(times=2)
    await rig.change_rules(PLAIN)
    await rig.change_rules(replace(MADE, every=timedelta(minutes=30)))
    await rig.store(("a", BASE + HOUR, 2.0))
    await rig.run(times=2)
    assert made(rig) == ["a/t"] and len(await rig.delivered()) == 2


async def test_a_rule_that_no_longer_wants_it_made_delivers_at_once(database: Database) -> None:
    rig = await rig_of(database)
    assert isinstance(rig.connector, Takes)

    async def refuse(wanted: RemoteMeter) -> RemoteMeter | Rejected:
        return Rejected(code="x", message="no")

    rig.connector.on_ensure, rig.connector.answer = refuse, None
    await rig.store(("a", BASE, 1.0))
    await rig.run(times=2)
    await rig.change_rules(replace(MADE, create=False))
    await rig.run(times=2)
    assert len(await rig.delivered()) == 1 and not await states(rig)
