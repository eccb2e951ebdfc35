"""One run scans for all of its customer's connections: samples are read once, and no connection gets anything
else than it would get alone.
"""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from gateway.model.errors import StoreRejected
from gateway.model.meter import MeterRule
from gateway.store import windows
from gateway.store.pool import Connection, Database
from gateway.store.streams import RunTally
from gateway.sync import scan
from gateway.sync.scan import scan_slice
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig

MEAN = MeterRule(device="*", metric="t", meter="{device}/mean", every=15 * MINUTE, reduce="mean")
DELTA = MeterRule(device="*", metric="t", meter="{device}/delta", every=HOUR, reduce="delta")
EACH = MeterRule(device="d*", metric="t", meter="{device}", every=timedelta(0), reduce="each")
COUNT = MeterRule(device="?[0-3]", metric="t", meter="{device}/count", every=5 * MINUTE, reduce="count")
RULES = [(MEAN,), (DELTA, MEAN), (EACH,), (COUNT, DELTA)]


async def _customer(database: Database, *rules: tuple[MeterRule, ...]) -> list[Rig]:
    """Connections of one customer that one replica serves, active."""
    rigs = [
        await Rig(database, Scripted(), name=f"acme-{n}", rules=each).activate()
        for n, each in enumerate(rules)
    ]
    for rig in rigs:
        rig.beside = [other for other in rigs if other is not rig]
    return rigs


async def _scan(rig: Rig) -> int:
    """A slice as a run of this connection scans it; the samples that were looked at."""
    tally = RunTally()
    await scan_slice(rig.database, await rig.claim(), rig.link, tally, [other.link for other in rig.beside])
    return tally.samples


async def test_samples_are_read_once_for_all(database: Database) -> None:
    first, second, third = await _customer(database, *RULES[:3])
    await first.store(("known", BASE - HOUR, 1.0))
    for rig in (first, second, third):
        await rig.run()
    await first.store(("known", BASE, 1.0), ("known", BASE + MINUTE, 3.0))
    assert [await _scan(rig) for rig in (first, second, third)] == [2, 0, 0]
    rows = [await rig.stream() for rig in (first, second, third)]
    assert len({row["watermark"] for row in rows}) == 1
    assert [len(await rig.due()) for rig in (first, second, third)] == [1, 2, 0]
    for rig in (first, second, third):
        await rig.run()
    assert (await first.delivered())["known/mean", BASE] == 2
    assert (await second.delivered())["known/delta", BASE] == 2


async def test_each_has_its_own_lateness(database: Database) -> None:
    early, late = await _customer(database, (MEAN,), (MEAN,))
    late.lateness = 3 * HOUR
    await early.store(("d1", BASE - HOUR, 1.0))
    await early.run()
    await late.run()
    await early.store(("d1", BASE, 1.0))
    await _scan(early)
    ends = [(await rig.due())[-1]["closes_at"] for rig in (early, late)]
    assert ends == [BASE + 15 * MINUTE, BASE + 15 * MINUTE + 3 * HOUR]


@pytest.mark.parametrize("why", ["paused", "meters", "device", "behind", "served elsewhere"])
async def test_one_that_cannot_come_along_catches_up_by_itself(database: Database, why: str) -> None:
    leader, other = await _customer(database, (MEAN,), (MEAN,))
    await leader.store(("d1", BASE - HOUR, 1.0))
    await leader.run()
    await other.run()
    watermark = (await other.stream())["watermark"]
    match why:
        case "paused":
            await leader.execute(
                "update connection set state = 'paused' where connection_id = $1", other.name
            )
        case "meters":
            await leader.execute(
                "update stream set meters_of = meters_of + 1 where connection_id = $1", other.name
            )
        case "device":
            await leader.store(("d2", BASE, 5.0))
        case "behind":
            await leader.execute("update stream set watermark = 0 where connection_id = $1", other.name)
            watermark = 0
        case _:
            leader.beside = []
    await leader.store(("d1", BASE, 7.0))
    await leader.run()
    assert (await leader.delivered())["d1/mean", BASE] == 7
    assert (await other.stream())["watermark"] == watermark
    await leader.execute("update connection set state = 'active'")
    await leader.execute("update stream set meters_of = 0")
    await other.run()
    assert await other.delivered() == await leader.delivered()
    leader.beside = [other]
    await leader.store(("d1", BASE + HOUR, 8.0))
    assert await _scan(leader) == 1
    assert (await other.stream())["watermark"] == (await leader.stream())["watermark"]


async def test_what_is_odd_about_one_stops_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, _ = await _customer(database, (MEAN,), (MEAN,))
    await leader.store(("d1", BASE - HOUR, 1.0))
    await leader.run()
    mark = windows.mark_changed

    async def refuses(connection: Connection, *arguments: object, **more: object) -> int:
        if len(arguments[2]) > 1:  # type: ignore[arg-type]
            raise StoreRejected("PostgreSQL refuses the data")
        return await mark(connection, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "mark_changed", refuses)
    await leader.store(("d1", BASE, 7.0))
    await leader.run()
    assert (await leader.delivered())["d1/mean", BASE] == 7


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_scans_everybody_gets_what_it_would_get_alone(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs in any order, small slices, pauses, changes of meters, new devices, late
    samples and corrections.
    """
    monkeypatch.setattr(scan, "SLICE_ROWS", 4)
    monkeypatch.setattr(scan, "ALONG_SECONDS", 0.02)
    dice = random.Random(seed)
    rigs = await _customer(database, *RULES)
    alone = await Rig(database, Scripted(), name="acme-alone", rules=(*RULES[1], *RULES[2], COUNT)).activate()
    for _ in range(60):
        rig = dice.choice(rigs)
        match dice.choice(["store", "store", "run", "run", "run", "pause", "resume", "rules"]):
            case "store":
                await rig.store(
                    *{
                        (device, at): (device, at, float(dice.randrange(100)))
                        for device, at in (
                            (f"d{dice.randrange(7)}", BASE + dice.randrange(90) * MINUTE)
                            for _ in range(dice.randrange(1, 9))
                        )
                    }.values()
                )
            case "run" if await rig.state() == "active":
                await rig.run()
            case "pause":
                await rig.execute("update connection set state = 'paused' where connection_id = $1", rig.name)
            case "rules":
                await rig.change_rules(*rig.rules)
            case _:
                await rig.execute("update connection set state = 'active' where connection_id = $1", rig.name)
    await alone.execute("update connection set state = 'active'")
    for rig in [*rigs, alone, *rigs]:
        for _ in range(30):
            await rig.run()
        assert await rig.due() == []
    expected = await alone.delivered()
    for rig in rigs:
        kinds = {meter.partition("/")[2] for meter, _ in await rig.delivered()}
        assert await rig.delivered() == {
            key: value for key, value in expected.items() if key[0].partition("/")[2] in kinds
        }
        assert len(kinds) == len(rig.rules)
