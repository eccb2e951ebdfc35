"""A random machine of changes at the system, kills, stale leases and failures, against what the system holds: at quiet
the records equal it, and a consumer that only follows `next` has every last state.

Each guard is taken away once, and the same machine then finds a loss.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.errors import AuthRefused, CursorExpired, LeaseLost, RateLimited, Unavailable
from gateway.model.inbound import InboundStream
from gateway.model.record import Phase
from gateway.settings import SyncSettings
from gateway.store import inbound, queries
from gateway.store.inbound import Claim, Step
from gateway.store.pool import Connection, Database
from tests.fixtures.inbound_rig import Consumer, InboundRig
from tests.fixtures.source import LISTING, MODIFIED, TOMBSTONES, Source

WORLDS = int(os.environ.get("INBOUND_WORLDS", "8"))
STREAMS = (MODIFIED, LISTING, TOMBSTONES)
SETTINGS = SyncSettings(backoff_base=timedelta(milliseconds=1), backoff_cap=timedelta(milliseconds=1))
KEYS = [f"k{number}" for number in range(14)]


class Killed(BaseException):
    """A process that is gone: nothing of it runs any more."""


@dataclass
class World:
    """One connection, its system, and two replicas that may be killed or put to sleep in any request."""

    rig: InboundRig
    dice: random.Random
    wild: bool = True
    asleep: list[tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)
    consumer: Consumer = field(init=False)

    def __post_init__(self) -> None:
        self.consumer = Consumer(self.rig.database, customer=self.rig.customer)
        self.source.before = self.meanwhile

    @property
    def source(self) -> Source:
        return self.rig.source

    def meanwhile(self, what: str) -> None:
        """What happens while a request is on its way."""
        self.source.pass_time(self.dice.choice((0.0, 0.0, 0.2, 1.0, 5.0)))
        for _ in range(self.dice.choice((0, 0, 1, 2)) if self.wild else 0):
            self.change()

    def change(self) -> None:
        """A change at the system; some are visible only later, up to `settle`."""
        stream, key = self.dice.choice(self.source.streams), self.dice.choice(KEYS)
        late = self.dice.choice((0.0, 0.0, 3.0, 29.0)) if stream.settle else 0.0
        states = self.source.history.get(stream.name, {}).get(key)
        gone = states is None or states[-1].body is None
        progress = self.dice.choice((None, "open", "closed"))
        if not gone and self.dice.random() < 0.15:
            self.source.put(key, None, stream=stream.name, late_seconds=late)
        else:
            body = {"n": self.dice.randrange(1000)}
            self.source.put(key, body, stream=stream.name, late_seconds=late, progress=progress)

    async def step(self) -> None:
        """Something happens."""
        match self.dice.randrange(12):
            case 0 | 1 | 2:
                self.change()
            case 3:
                self.source.pass_time(self.dice.choice((1.0, 20.0, 61.0)))
            case 4:
                await self.consumer.follow()
            case 5 if self.asleep:
                await self.wake()
            case 6:
                self.source.cursors_live = self.dice.choice((None, None, 2))
            case _:
                await self.run()

    async def run(self) -> None:
        """One run of some phase by one of two replicas, which may fail, be killed, or stand still in the middle."""
        stream, phase = self.dice.choice(self.phases())
        rig = self.rig if self.dice.random() < 0.5 else self.rig.replica("replica-b")
        try:
            claim = await rig.claim(phase, stream)
        except LookupError:
            return
        self.source.faults = [self.fault() for _ in range(self.dice.randrange(6))] if self.wild else []
        how = self.dice.random()
        if how < 0.15:
            await self.killed(rig, claim)
        elif how < 0.3:
            await self.put_to_sleep(rig, claim)
        else:
            await rig.runner().run(claim, rig.link)

    def phases(self) -> list[tuple[str, Phase]]:
        found: list[tuple[str, Phase]] = []
        for stream in self.source.streams:
            found += [(stream.name, "incremental"), (stream.name, "incremental")]
            if stream.cursor != "listing":
                found.append((stream.name, "initial"))
            if stream.deletions == "keys":
                found.append((stream.name, "reconcile"))
        return found

    def fault(self) -> Exception | None:
        return self.dice.choice(
            (
                None,
                None,
                None,
                None,
                Unavailable("cut"),
                RateLimited("slow down", retry_after=0.0),
                AuthRefused("expired"),
                CursorExpired("gone"),
            )
        )

    async def killed(self, rig: InboundRig, claim: Claim) -> None:
        """It ends at some request, before or after what that page stored."""
        left = self.dice.randrange(5)

        def before(what: str) -> None:
            nonlocal left
            self.meanwhile(what)
            left -= 1
            if left < 0:
                raise Killed

        self.source.before = before
        with suppress(Killed):
            await rig.runner().run(claim, replace(rig.link, connector=self.source))
        self.source.before = self.meanwhile

    async def put_to_sleep(self, rig: InboundRig, claim: Claim) -> None:
        """It stands still between an answer and its transaction, and goes on when others have done its work."""
        awake, reached = asyncio.Event(), asyncio.Event()
        real, left = inbound.apply, self.dice.randrange(3)

        async def apply(database: Database, claim: Claim, step: Step, *, max_records: int) -> inbound.Applied:
            nonlocal left
            left -= 1
            if left < 0 and asyncio.current_task() is sleeper:
                reached.set()
                await awake.wait()
            return await real(database, claim, step, max_records=max_records)

        async def run() -> None:
            with suppress(LeaseLost):
                await rig.runner().run(claim, rig.link)

        inbound.apply = apply  # type: ignore[assignment]
        sleeper = asyncio.create_task(run())
        watch = asyncio.create_task(reached.wait())
        await asyncio.wait({sleeper, watch}, return_when=asyncio.FIRST_COMPLETED)
        watch.cancel()
        inbound.apply = real
        if not sleeper.done():
            self.asleep.append((awake, sleeper))

    async def wake(self) -> None:
        awake, task = self.asleep.pop(0)
        awake.set()
        await task

    async def calm(self) -> None:
        """Nothing fails or changes any more, and everything that is due is read."""
        self.wild = False
        while self.asleep:
            await self.wake()
        self.source.faults, self.source.cursors_live = [], None
        self.source.pass_time(120)
        for stream, phase in dict.fromkeys(self.phases()):
            with suppress(LookupError):  # history that is read
                for _ in range(4):  # what is in hand, then what is new, and two walks in a row
                    await self.rig.finish(phase, stream)
                    if phase == "incremental":
                        self.source.pass_time(60)
        await self.confirm()
        await self.consumer.follow()

    async def confirm(self) -> None:
        """A person says that what vanished is gone."""
        for stream, phase in (("work_orders", "reconcile"), ("meters", "incremental")):
            if stream not in {each.name for each in self.source.streams}:
                continue
            async with self.rig.database.transaction() as connection:
                waits = await inbound.confirm(connection, self.rig.customer, self.rig.name, stream)
            if waits is not None:
                await self.rig.finish(phase, stream)  # type: ignore[arg-type]

    def differences(self) -> list[str]:
        """What the consumer has that the system has not, or otherwise."""
        found = []
        for stream in self.source.streams:
            ours, theirs = self.consumer.holds(self.rig.name, stream.name), self.source.holds(stream.name)
            found += [
                f"{stream.name}/{key}: {ours.get(key)} for {theirs.get(key)}"
                for key in sorted(ours.keys() | theirs.keys())
                if ours.get(key) != theirs.get(key)
            ]
        return found


async def lived(
    database: Database,
    seed: int,
    *,
    steps: int,
    streams: tuple[InboundStream, ...] = STREAMS,
    number: int = 0,
    alter: Callable[[Source], None] | None = None,
) -> World:
    """A world after so many steps, at quiet."""
    dice = random.Random(seed)
    source = Source(streams=streams, skew=timedelta(minutes=dice.choice((0, -10, 10))))
    if alter is not None:
        alter(source)
    rig = InboundRig(
        database,
        source,
        name=f"c-{number}-{seed}",
        customer=f"customer-{number}-{seed}",
        initial_days=2,
        settings=SETTINGS,
    )
    world = World(rig, dice)
    for _ in range(12):
        world.change()
        source.pass_time(dice.choice((0.0, 0.5, 40.0)))
    await rig.activate()
    for _ in range(steps):
        await world.step()
    await world.calm()
    return world


@pytest.mark.parametrize("seed", range(WORLDS))
async def test_at_quiet_the_records_equal_the_system(database: Database, seed: int) -> None:
    world = await lived(database, seed, steps=60)
    assert not world.differences()
    for stream in world.source.streams:
        assert await world.rig.held(stream.name) == world.source.holds(stream.name)
    (log,) = await world.rig.rows("select position from record_log")
    revisions = await world.rig.rows("select revision from record order by revision")
    assert len({row["revision"] for row in revisions}) == len(revisions)
    assert revisions[-1]["revision"] <= log["position"]
    for row in await world.rig.rows(
        "select n.*, (select count(*) from record r where (r.connection_id, r.stream) = (n.connection_id, n.stream)) as rows,"
        " (select count(*) from record r where (r.connection_id, r.stream) = (n.connection_id, n.stream) and not deleted) as there"
        " from inbound_count n"
    ):
        assert (row["held"], row["alive"]) == (row["rows"], row["there"])


def test_whatever_order_things_happen_in(postgres_server: object, request: pytest.FixtureRequest) -> None:
    """As above, with the seeds that hypothesis likes."""
    loop = asyncio.new_event_loop()
    dsn = loop.run_until_complete(_fresh(postgres_server))
    opened = loop.run_until_complete(Database.open(dsn, size=8))
    numbers = iter(range(10**6))

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32), steps=st.integers(0, 40))
    def holds(seed: int, steps: int) -> None:
        world = loop.run_until_complete(lived(opened, seed, steps=steps, number=next(numbers)))
        assert not world.differences()

    try:
        holds()
    finally:
        loop.run_until_complete(opened.close())
        loop.close()


async def _fresh(server: object) -> str:
    import asyncpg

    from tests.conftest import TEMPLATE

    admin = await asyncpg.connect(server.dsn())  # type: ignore[attr-defined]
    try:
        await admin.execute(f"create database inbound_model template {TEMPLATE}")
    finally:
        await admin.close()
    return str(server.dsn("inbound_model"))  # type: ignore[attr-defined]


# Without its guards


async def losses(database: Database, **how: object) -> int:
    """In how many of some worlds something is lost."""
    found = 0
    for seed in range(16):
        try:
            world = await lived(database, seed, steps=50, number=seed, **how)  # type: ignore[arg-type]
        except AssertionError:
            found += 1
            continue
        found += bool(world.differences())
        if found:
            break
    return found


async def test_without_settle_a_late_change_is_lost(database: Database) -> None:
    """Settle and lookback are one guard in two halves: with both it holds (above), with neither it does not."""
    bare = replace(TOMBSTONES, settle=timedelta(0), lookback=timedelta(0))

    def late(source: Source) -> None:
        source.streams = (replace(bare, settle=timedelta(0)),)
        put = source.put

        def put_late(key: str, body: Mapping[str, object] | None, **rest: object) -> None:
            put(key, body, **{**rest, "late_seconds": 29.0})  # type: ignore[arg-type]

        source.put = put_late  # type: ignore[method-assign]

    assert await losses(database, streams=(bare,), alter=late)


async def test_with_lookback_alone_late_changes_are_read_and_without_it_lost(database: Database) -> None:
    """A system that shows changes late and declares it as lookback: taking that away loses some."""

    def late(source: Source) -> None:
        put = source.put

        def put_late(key: str, body: Mapping[str, object] | None, **rest: object) -> None:
            put(key, body, **{**rest, "late_seconds": 29.0})  # type: ignore[arg-type]

        source.put = put_late  # type: ignore[method-assign]

    kept = replace(TOMBSTONES, settle=timedelta(0), lookback=timedelta(seconds=31))
    for seed in range(4):
        world = await lived(database, seed, steps=40, number=100 + seed, streams=(kept,), alter=late)
        assert not world.differences()
    assert await losses(database, streams=(replace(kept, lookback=timedelta(0)),), alter=late)


async def test_without_the_inclusive_bound_equal_times_are_lost(database: Database) -> None:
    """A system that leaves out what was modified at the very lower bound, and no lookback to make up for it."""
    bare = replace(TOMBSTONES, settle=timedelta(0), lookback=timedelta(0))

    def exclusive(source: Source) -> None:
        source.inclusive = False

    def inclusive(source: Source) -> None:
        put = source.put
        source.put = lambda key, body, **rest: put(key, body, **{**rest, "late_seconds": 0.0})  # type: ignore[method-assign,assignment]

    for seed in range(4):
        world = await lived(database, seed, steps=40, number=200 + seed, streams=(bare,), alter=inclusive)
        assert not world.differences()

    def both(source: Source) -> None:
        inclusive(source)
        exclusive(source)

    assert await losses(database, streams=(bare,), alter=both)


async def test_without_the_fence_a_sleeper_overwrites(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing has no times: what a replica that stood still brings late replaces what is newer."""

    async def unfenced(connection: Connection, claim: Claim) -> None:
        """Whoever it is."""

    real = queries.sql("inbound_applied")
    bare = real.replace(
        "s.phase, s.fence) = ($1, $2, $3, $4, $5)", "s.phase) = ($1, $2, $3, $4) and $5::bigint is not null"
    )
    assert bare != real

    def sql(name: str) -> str:
        return bare if name == "inbound_applied" else queries.sql(name)

    await _sleeper(database, number=1)
    monkeypatch.setattr(inbound, "hold", unfenced)
    monkeypatch.setattr(inbound, "sql", sql)
    with pytest.raises(AssertionError):
        await _sleeper(database, number=2)


async def _sleeper(database: Database, *, number: int) -> None:
    """Somebody stands still with an old page of a listing while another reads on."""
    source = Source(streams=(LISTING,))
    source.put("a", {"n": 1}, stream="meters")
    rig = await InboundRig(
        database, source, name=f"sleeper-{number}", customer=f"sleeper-{number}"
    ).activate()
    world = World(rig, random.Random(1), wild=False)
    world.dice.randrange = lambda *_: 0  # type: ignore[method-assign,assignment]
    await world.put_to_sleep(rig, await rig.claim(stream="meters"))
    assert world.asleep
    source.put("a", {"n": 2}, stream="meters")
    await rig.replica("replica-b").run(stream="meters")
    await world.wake()
    assert await rig.held("meters") == source.holds("meters")


async def test_without_the_lock_of_the_log_a_consumer_skips(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections of one customer: the later revision is committed first, and a consumer passes over the other."""
    assert await _race(database, number=1)
    real = queries.sql("record_log_lock")
    # revisions from a sequence, as they would be had without the lock
    async with database.connection() as connection:
        await connection.execute("create sequence unlocked start 1000 increment 100")
    bare = "select nextval('unlocked') as position, clock_timestamp() as at where $1::text is not null"
    assert bare != real
    counted = queries.sql("record_apply").replace(
        "update record_log set position = position + (select count(*) from changed) where customer_id = $1 and exists (select from changed)",
        "select",
    )

    def sql(name: str) -> str:
        return {"record_log_lock": bare, "record_apply": counted}.get(name) or queries.sql(name)

    monkeypatch.setattr(inbound, "sql", sql)
    assert not await _race(database, number=2)


async def _race(database: Database, *, number: int) -> bool:
    """Whether a consumer that reads between two commits has both records in the end."""
    customer = f"race-{number}"
    rigs = [
        await InboundRig(database, Source(), name=f"race-{number}-{side}", customer=customer).activate()
        for side in ("a", "b")
    ]
    for rig in rigs:
        await rig.run()
        rig.source.put(f"of-{rig.name}", {"n": 1})
        rig.source.pass_time(60)
    stopped, go = asyncio.Event(), asyncio.Event()
    real = inbound._advance

    async def advance(connection: Connection, claim: Claim, *rest: object) -> None:
        if claim.connection == rigs[0].name:
            stopped.set()
            await go.wait()
        await real(connection, claim, *rest)  # type: ignore[arg-type]

    inbound._advance = advance  # type: ignore[assignment]
    consumer = Consumer(database, customer=customer)
    try:
        slow = asyncio.create_task(rigs[0].run())
        await stopped.wait()
        quick = asyncio.create_task(rigs[1].run())
        await asyncio.wait({quick}, timeout=0.4)
        await consumer.follow()
        go.set()
        await asyncio.gather(slow, quick)
    finally:
        inbound._advance = real
    await consumer.follow()
    return len(consumer.known) == 2
