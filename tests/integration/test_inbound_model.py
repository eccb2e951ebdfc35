"""A random machine of changes at the system, kills, stale leases and failures, against what the system holds:
at quiet the records equal it, and a consumer that only follows `next` has every last state.

Each guard is taken away once, and the same machine then finds a loss.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.servers import Postgres
from connectors.kit import local_time
from gateway.store import inbound_pages, queries, records
from gateway.store.inbound import InboundClaim
from gateway.store.pool import Connection, Database
from tests.conftest import TEMPLATE
from tests.fixtures.inbound_rig import Consumer, InboundRig
from tests.fixtures.inbound_world import World, lived
from tests.fixtures.source import LISTING, MODIFIED, TOMBSTONES, Source

TURNS = [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)]
WORLDS = int(os.environ.get("INBOUND_WORLDS", "8"))


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
        "select n.*, (select count(*) from record r where (r.connection_id, r.stream) = (n.connection_id,"
        " n.stream)) as rows, (select count(*) from record r where (r.connection_id, r.stream) ="
        " (n.connection_id, n.stream) and not deleted) as there from inbound_count n"
    ):
        assert (row["held"], row["alive"]) == (row["rows"], row["there"])


def test_whatever_order_things_happen_in(postgres_server: Postgres) -> None:
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


async def _fresh(server: Postgres) -> str:
    admin = await asyncpg.connect(server.dsn())
    try:
        await admin.execute(f"create database inbound_model template {TEMPLATE}")
    finally:
        await admin.close()
    return server.dsn("inbound_model")


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
    """Settle and lookback are one guard in two halves: with both it holds (above), with
    neither it does not.
    """
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
    """A system that leaves out what was modified at the very lower bound, and no
    lookback to make up for it.
    """
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


BERLIN = ZoneInfo("Europe/Berlin")
BARE = replace(TOMBSTONES, settle=timedelta(0), lookback=timedelta(seconds=1))


def by_the_hands(turn: datetime) -> Callable[[Source], None]:
    """A clock without a zone that turns while the world lives; nothing is late."""

    def alter(source: Source) -> None:
        source.zone, source.skew = BERLIN, timedelta(0)
        source.now = turn - timedelta(minutes=2)
        put = source.put
        source.put = lambda key, body, **rest: put(key, body, **{**rest, "late_seconds": 0.0})  # type: ignore[method-assign,assignment]

    return alter


@pytest.mark.parametrize("turn", TURNS, ids=["autumn", "spring"])
async def test_a_clock_without_a_zone_is_read_over_its_turn(database: Database, turn: datetime) -> None:
    for seed in range(4):
        world = await lived(
            database, seed, steps=60, number=300 + seed, streams=(BARE, MODIFIED), alter=by_the_hands(turn)
        )
        assert not world.differences()


async def test_without_the_wider_question_the_hour_that_happens_twice_is_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plainly(since: datetime | None, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, datetime]:
        low = None if since is None else since.astimezone(zone).replace(tzinfo=None)
        return low, until.astimezone(zone).replace(tzinfo=None)

    monkeypatch.setattr(local_time, "walls_within", plainly)
    assert await losses(database, streams=(BARE,), alter=by_the_hands(TURNS[0]))


async def test_without_the_fence_a_sleeper_overwrites(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing has no times: what a replica that stood still brings late replaces what is newer."""

    async def unfenced(connection: Connection, claim: InboundClaim, configuration: int) -> bool:
        """Whoever it is."""
        return True

    real = queries.sql("inbound_applied")
    bare = real.replace(
        "s.phase, s.fence) = ($1, $2, $3, $4, $5)", "s.phase) = ($1, $2, $3, $4) and $5::bigint is not null"
    )
    assert bare != real

    def sql(name: str) -> str:
        return bare if name == "inbound_applied" else queries.sql(name)

    await _sleeper(database, number=1)
    monkeypatch.setattr(inbound_pages, "hold", unfenced)
    monkeypatch.setattr(inbound_pages, "sql", sql)
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
    """Two connections of one customer: the later revision is committed first, and a consumer passes over the
    other.
    """
    assert await _race(database, number=1)
    real = queries.sql("record_log_lock")
    # revisions from a sequence, as they would be had without the lock
    async with database.connection() as connection:
        await connection.execute("create sequence unlocked start 1000 increment 100")
    bare = "select nextval('unlocked') as position, clock_timestamp() as at where $1::text is not null"
    assert bare != real
    counted = queries.sql("record_apply").replace(
        "update record_log set position = position + (select count(*) from changed) where customer_id = $1"
        " and exists (select from changed)",
        "select",
    )

    def sql(name: str) -> str:
        return {"record_log_lock": bare, "record_apply": counted}.get(name) or queries.sql(name)

    async def unchecked(*_: object) -> None:
        """Such revisions are beyond the end of every log."""

    monkeypatch.setattr(inbound_pages, "sql", sql)
    monkeypatch.setattr(records, "_check", unchecked)
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
    real = inbound_pages._advance

    async def advance(connection: Connection, claim: InboundClaim, *rest: object) -> None:
        if claim.connection == rigs[0].name:
            stopped.set()
            await go.wait()
        await real(connection, claim, *rest)  # type: ignore[arg-type]

    inbound_pages._advance = advance  # type: ignore[assignment]
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
        inbound_pages._advance = real
    await consumer.follow()
    return len(consumer.known) == 2
