"""A system's clock that jumps: what changes meanwhile is read, whatever it showed before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.store.pool import Database
from tests.fixtures.inbound_rig import Consumer, InboundRig
from tests.fixtures.source import MODIFIED, TOMBSTONES, Source

JUMPS = [timedelta(minutes=3), timedelta(hours=20), timedelta(days=3), timedelta(days=11 * 365)]
STREAM = replace(MODIFIED, lookback=timedelta(seconds=1), settle=timedelta(seconds=2))


@dataclass
class Clocked:
    """A rig whose system lives by our time, but for what its clock is off."""

    rig: InboundRig
    source: Source

    async def passes(self, seconds: float) -> None:
        """For both: what we noted by our clock is so long ago."""
        self.source.pass_time(seconds)
        await self.rig.execute(
            "update inbound_stream set asked_at = asked_at - make_interval(secs => $1), walk_asked_at ="
            " walk_asked_at - make_interval(secs => $1)",
            seconds,
        )
        await self.rig.execute(
            "update record set modified_at = modified_at - make_interval(secs => $1)", seconds
        )

    async def reads(self, *, changed: int) -> None:
        """One run, after so many seconds in which a record changed each minute."""
        for number in range(changed):
            self.source.put(f"k{number % 7}", {"n": self.source.now.isoformat()})
            self.source.put(f"new-{self.source.now.isoformat()}", {"n": 1})
            await self.passes(60)
        await self.rig.finish("incremental")


async def clocked(database: Database, *, name: str = "acme-1") -> Clocked:
    source = Source(streams=(STREAM,), now=datetime.now(UTC).replace(microsecond=0))
    return Clocked(await InboundRig(database, source, name=name).activate(), source)


@pytest.mark.parametrize("jump", [*JUMPS, *(-jump for jump in JUMPS[:2])], ids=str)
async def test_what_changes_after_a_jump_and_back_is_read(database: Database, jump: timedelta) -> None:
    at = await clocked(database)
    consumer = Consumer(database)
    await at.reads(changed=3)
    await at.rig.finish("initial")
    for off in (jump, timedelta(0), jump, timedelta(0)):
        at.source.off = off
        await at.reads(changed=4)
    at.source.off = timedelta(0)
    await at.reads(changed=1)
    await at.passes(60)
    await at.rig.finish("incremental")
    await consumer.follow()
    assert consumer.holds() == at.source.holds() == await at.rig.held()


@pytest.mark.parametrize("jump", JUMPS, ids=str)
async def test_a_history_that_began_in_the_future_is_read_again(database: Database, jump: timedelta) -> None:
    at = await clocked(database)
    for number in range(20):
        at.source.put(f"old-{number}", {"n": number}, modified_at=at.source.now - timedelta(days=number))
    at.source.off = jump
    await at.rig.finish("incremental")
    await at.rig.finish("initial")
    at.source.off = timedelta(0)
    await at.reads(changed=2)
    if jump > timedelta(minutes=3):
        await at.rig.finish("initial")
    await at.passes(60)
    await at.rig.finish("incremental")
    assert await at.rig.held() == at.source.holds()


async def test_a_jump_in_a_walk_that_is_gone_on_with(database: Database) -> None:
    at = await clocked(database)
    await at.reads(changed=3)
    at.source.off = timedelta(hours=5)
    for number in range(10):
        at.source.put(f"burst-{number}", {"n": number})
    await at.passes(60)
    at.source.faults = [None, None, RuntimeError("the process ends")]
    with pytest.raises(RuntimeError):
        await at.rig.runner().run(await at.rig.claim(), replace(at.rig.link, connector=at.source))
    at.source.faults, at.source.off = [], timedelta(0)
    for number in range(10):
        at.source.put(f"burst-{number}", {"n": -number})
    await at.passes(60)
    await at.rig.finish("incremental")
    await at.reads(changed=2)
    assert {key: body for key, body in (await at.rig.held()).items() if key.startswith("burst")} == {
        f"burst-{number}": {"n": -number} for number in range(10)
    }


async def test_a_clock_that_goes_back_by_years_is_not_believed(database: Database) -> None:
    """Else everything since then would be read, and history up to then only."""
    at = await clocked(database)
    at.source.put("ancient", {"n": 0}, modified_at=at.source.now - timedelta(days=900))
    await at.reads(changed=2)
    await at.rig.finish("initial")
    at.source.off = -timedelta(days=5 * 365)
    row = await at.rig.run()
    assert row["state"] == "failed" and "the system's clock shows" in row["last_error"]
    at.source.off = timedelta(0)
    await at.reads(changed=2)
    await at.passes(60)
    await at.rig.finish("incremental")
    held = await at.rig.held()
    assert held == {key: body for key, body in at.source.holds().items() if key != "ancient"}


async def test_a_tombstone_of_a_clock_that_was_ahead_is_replaced(database: Database) -> None:
    source = Source(
        streams=(replace(TOMBSTONES, settle=timedelta(seconds=2)),),
        now=datetime.now(UTC).replace(microsecond=0),
    )
    at = Clocked(await InboundRig(database, source).activate(), source)
    source.put("a", {"n": 1}, stream="notes")
    source.off = timedelta(hours=2)
    source.put("a", None, stream="notes")
    await at.passes(10)
    await at.rig.finish("incremental", "notes")
    source.off = timedelta(0)
    source.put("a", {"n": 2}, stream="notes")
    await at.passes(10)
    await at.rig.finish("incremental", "notes")
    assert await at.rig.held("notes") == {"a": {"n": 2}}
