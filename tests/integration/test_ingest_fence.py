"""Whoever has lost a partition stores nothing of it any more: the proof of its lease is
part of the commit.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import structlog.testing

from benchmarks.mqtt import Publisher
from benchmarks.servers import PATIENCE, Mosquitto, patient, wait_until
from gateway.ingest import Ingest
from gateway.model.errors import LeaseLost, StoreRejected
from gateway.model.quota import Excess
from gateway.model.sample import Metrics
from gateway.settings import Settings
from gateway.store import leases
from gateway.store.dead_messages import DeadMessage
from gateway.store.leases import Term
from gateway.store.pool import Connection as StoreConnection
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.retention import trim_dead_letters
from gateway.store.telemetry import Key, TelemetryStore, Written
from tests.unit.test_pipeline import Connection, pipeline_on, sample

Also = Callable[[StoreConnection], Awaitable[None]] | None
LEASE = "ingest/0"
NOW = int(time.time()) * 1_000_000
KEY: Key = ("acme", "pump", NOW)
LETTER = DeadMessage(
    topic="acme/devices/pump/telemetry", payload=b"{", reason="invalid_json", detail="", customer="acme"
)


def one(value: int, key: Key = KEY) -> Sequence[tuple[Key, Metrics, int]]:
    return [(key, {"value": value}, NOW)]


async def claimed(database: Database, owner: str) -> Term:
    term = await leases.claim(database, LEASE, owner, 60)
    assert term is not None
    return term


async def run_out(database: Database) -> None:
    await execute(database, "update lease set lease_until = now() - interval '1 second'")


async def execute(database: Database, query: str) -> None:
    async with database.connection() as connection:
        await connection.execute(query)


async def held(database: Database) -> list[Metrics]:
    async with database.connection() as connection:
        return [
            row["metrics"]
            for row in await connection.fetch("select metrics from telemetry order by device_id, ts")
        ]


async def count(database: Database, table: str) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval(f"select count(*) from {table}"))


async def waits(database: Database, statement: str) -> None:
    """Returns when a session waits for a lock in this statement."""

    async def found() -> bool:
        async with database.connection() as connection:
            return bool(
                await connection.fetchval(
                    """select true from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                    and query like $1 and pid <> pg_backend_pid()""",
                    f"%{statement}%",
                )
            )

    await wait_until(found, seconds=10, what=f"{statement} waits", every=0.02)


def store_of(database: Database, term: Term | None) -> TelemetryStore:
    return TelemetryStore(database, register_customers=True, term=term)


async def test_a_batch_of_known_devices_is_one_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a transaction around it, that is two round trips less before each PUBACK; it proves its lease
    by itself, and a batch that was overtaken leaves nothing.
    """
    term = await claimed(database, "a")
    store = store_of(database, term)
    await store.write(one(1), ())
    monkeypatch.setattr(Database, "transaction", None)
    assert (await store.write(one(2), ())).modified == 1
    assert (await store.write(one(2), ())).modified == 0
    await run_out(database)
    monkeypatch.undo()
    assert await leases.claim(database, LEASE, "b", 60) is not None
    with pytest.raises(LeaseLost):
        await store.write(one(3), ())
    assert await held(database) == [{"value": 2}]


async def test_a_batch_of_an_earlier_term_is_neither_stored_nor_acknowledged(database: Database) -> None:
    """The first owner wakes up with a batch in hand, after the second has stored a later value."""
    early = await claimed(database, "one")
    old, connection = pipeline_on(database, term=early), Connection()
    await run_out(database)
    late = await claimed(database, "two")
    assert late.fence == early.fence + 1
    new, successor = pipeline_on(database, term=late), Connection()
    for value in (1, 2):
        new.receive(successor, [sample(1, value, value=value)])
    running = asyncio.create_task(new.run())
    await asyncio.wait_for(new.drained(), 10 * PATIENCE)
    running.cancel()
    old.receive(
        connection,
        [sample(1, 1, value=1), sample(2, 2, value=3), ("acme/devices/pump/telemetry", b"{", 3, False)],
    )
    with pytest.raises(LeaseLost, match=LEASE):
        await asyncio.wait_for(old.run(), 10 * PATIENCE)
    assert await held(database) == [{"value": 2}]
    assert connection.log == [] and successor.log == ["1", "2"]
    assert await count(database, "dead_letter") == 0
    await asyncio.wait_for(old.drained(), 1 * PATIENCE)  # whoever stops it need not wait


@pytest.mark.parametrize(
    ("samples", "dead"),
    [(one(1), ()), ((), (LETTER,)), (one(1), (LETTER,))],
    ids=["samples", "letters", "both"],
)
@pytest.mark.parametrize(
    "hands", [("two",), ("two", "one"), (None,)], ids=["taken", "taken and back", "given back"]
)
async def test_nothing_is_written_once_the_lease_has_changed_hands(
    database: Database,
    samples: Sequence[tuple[Key, Metrics, int]],
    dead: Collection[DeadMessage],
    hands: Sequence[str | None],
) -> None:
    store = store_of(database, await claimed(database, "one"))
    for owner in hands:
        if owner is None:
            await leases.release(database, LEASE, "one")
        else:
            await run_out(database)
            await claimed(database, owner)
    with pytest.raises(LeaseLost):
        await store.write(samples, dead)
    for table in ("telemetry", "dead_letter", "device", "customer"):
        assert await count(database, table) == 0, table


async def test_a_term_lasts_past_its_time_until_somebody_takes_it(database: Database) -> None:
    """While the database was away nobody could: no session is dropped for that."""
    term = await claimed(database, "one")
    await run_out(database)
    assert (await store_of(database, term).write(one(1), ())).stored == 1
    assert await claimed(database, "one") == term


async def test_renewal_and_commit_do_not_wait_for_each_other(database: Database) -> None:
    term = await claimed(database, "one")
    store = store_of(database, term)
    await store.write(one(0), ())
    async with patient(20):
        async with database.transaction() as locker:
            await locker.execute("select from telemetry for update")
            committing = asyncio.create_task(store.write(one(1), ()))
            await waits(database, "insert into telemetry")
            assert await claimed(database, "one") == term
            assert await claimed(database, "one") == term  # also where the row is new meanwhile
            assert not committing.done()
        assert (await committing).modified == 1
        async with database.transaction() as renewing:
            assert await renewing.fetchval(sql("lease_claim"), LEASE, "one", 60.0) == term.fence
            assert (await store.write(one(2), (LETTER,))).modified == 1


@pytest.mark.parametrize("renewed", [False, True])
async def test_a_lease_is_not_taken_while_a_commit_under_it_is_under_way(
    database: Database, renewed: bool
) -> None:
    """And nobody waits for that commit, whose process may stand still. A renewal in between takes no proof
    away.
    """
    term = await claimed(database, "one")
    store = store_of(database, term)
    await store.write(one(0), ())
    async with database.transaction() as locker:
        await locker.execute("select from telemetry for update")
        writing = asyncio.create_task(store.write(one(1), ()))
        await waits(database, "insert into telemetry")
        if renewed:
            await claimed(database, "one")
        await run_out(database)
        async with patient(5):
            assert await leases.claim(database, LEASE, "two", 60) is None
    assert (await asyncio.wait_for(writing, 5 * PATIENCE)).modified == 1
    assert (await claimed(database, "two")).fence == term.fence + 1
    with pytest.raises(LeaseLost):
        await store.write(one(2), ())
    assert await held(database) == [{"value": 1}]


async def test_a_commit_waits_for_a_take_over_that_is_under_way_and_fails(database: Database) -> None:
    term = await claimed(database, "one")
    store = store_of(database, term)
    await store.write(one(0), ())
    await run_out(database)
    async with database.transaction() as taking:
        assert await taking.fetchval(sql("lease_claim"), LEASE, "two", 60.0) == term.fence + 1
        writing = asyncio.create_task(store.write(one(1), (LETTER,)))
        await waits(database, "insert into telemetry")
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(writing, 5 * PATIENCE)
    assert await held(database) == [{"value": 0}] and await count(database, "dead_letter") == 0


async def test_a_batch_that_is_taken_apart_ends_with_the_term_too(database: Database) -> None:
    term = await claimed(database, "one")
    pipeline, connection = pipeline_on(database, term=term), Connection()
    write, refusals = pipeline._committer._store.write, 0

    async def refused_first(
        samples: Sequence[tuple[Key, Metrics, int]],
        dead: Collection[DeadMessage],
        excesses: Sequence[Excess] = (),
        *,
        also: Also = None,
    ) -> Written:
        nonlocal refusals
        refusals += 1
        if refusals == 1:
            await run_out(database)
            await claimed(database, "two")
            raise StoreRejected("one of them")
        return await write(samples, dead, excesses, also=also)

    pipeline._committer._store.write = refused_first  # type: ignore[method-assign]
    pipeline.receive(connection, [sample(1, 1, value=1), sample(2, 2, value=1)])
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(pipeline.run(), 10 * PATIENCE)
    assert await held(database) == [] and connection.log == []


async def test_one_of_many_who_want_a_lease_gets_it(database: Database) -> None:
    for fence in range(1, 6):
        found = await asyncio.gather(*(leases.claim(database, LEASE, f"r{fence}-{n}", 60) for n in range(8)))
        assert [term.fence for term in found if term is not None] == [fence]
        await run_out(database)


# Replicas with a broker between them.


def settings_for(mosquitto: Mosquitto) -> Settings:
    return Settings.model_validate({
        "broker": {"url": f"mqtt://127.0.0.1:{mosquitto.port}"},
        "security": {"encryption_keys": ["k"]},
        "telemetry": {"auto_register_customers": True},
        "sync": {"lease": "1s"},
    })  # fmt: skip


@asynccontextmanager
async def ingesting(mosquitto: Mosquitto, database: Database, replica: str) -> AsyncIterator[Ingest]:
    ingest = Ingest(settings_for(mosquitto), database, replica)
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        task.cancel()
        await asyncio.wait({task})


async def publish(mosquitto: Mosquitto, value: int) -> None:
    async with Publisher[None](mosquitto.port, "device") as publisher:
        payload = json.dumps({"ts": NOW // 1000, "metrics": {"value": value}}).encode()
        await publisher.publish("acme/devices/pump/telemetry", payload, None)
        await publisher.flush()


def serves(ingest: Ingest) -> Callable[[], bool]:
    return lambda: ingest.connected and 0 in ingest._ours


async def test_a_replica_that_stood_still_does_not_undo_what_its_successor_stored(
    mosquitto: Mosquitto, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still with a message in hand; the successor gets that again, and a correction after it."""
    claim, frozen = leases.claim, False
    in_hand, goes_on, claims_again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def claim_unless_frozen(database: Database, name: str, owner: str, seconds: float) -> Term | None:
        if owner == "one" and frozen:
            await claims_again.wait()  # the commit comes first
        return await claim(database, name, owner, seconds)

    monkeypatch.setattr(leases, "claim", claim_unless_frozen)
    with structlog.testing.capture_logs() as logs:
        async with ingesting(mosquitto, database, "one") as one:
            await wait_until(serves(one), seconds=10, what="it is served")
            store = one._ours[0][0]._pipeline._committer._store
            write = store.write

            async def write_late(
                samples: Sequence[tuple[Key, Metrics, int]],
                dead: Collection[DeadMessage],
                excesses: Sequence[Excess] = (),
                *,
                also: Also = None,
            ) -> Written:
                in_hand.set()
                await goes_on.wait()
                try:
                    return await write(samples, dead, excesses, also=also)
                finally:
                    claims_again.set()

            store.write = write_late  # type: ignore[method-assign]
            await publish(mosquitto, 1)
            await asyncio.wait_for(in_hand.wait(), 10 * PATIENCE)
            frozen = True
            async with ingesting(mosquitto, database, "two") as two:
                await wait_until(serves(two), seconds=20, what="the other serves it")
                await publish(mosquitto, 2)

                async def corrected() -> bool:
                    return await held(database) == [{"value": 2}]

                await wait_until(corrected, seconds=10, what="the correction is stored")
                goes_on.set()
                await wait_until(lambda: 0 not in one._ours, seconds=10, what="the first knows")
                await wait_until(lambda: one.connected, seconds=10, what="it has no part in it")
                # until it knew, the first took the session back each time that the other had it
                await wait_until(lambda: two.connected, seconds=20, what="the other serves it again")
                assert await corrected() and claims_again.is_set()
                assert await count(database, "dead_letter") == 0
    events = [entry["event"] for entry in logs]
    assert events.count("ingest.partition_lost") == 1, events
    assert "ingest.commit_deferred" not in events


async def test_a_partition_that_was_another_s_meanwhile_is_served_anew(
    mosquitto: Mosquitto, database: Database
) -> None:
    """What the first session holds may be older than what the other stored; it begins again, and loses
    nothing.
    """
    async with ingesting(mosquitto, database, "one") as ingest:
        await wait_until(serves(ingest), seconds=10, what="it is served")
        first = ingest._ours[0][0].term
        async with database.transaction() as session:
            await session.execute("update lease set lease_until = now() - interval '1 second'")
            assert await session.fetchval(sql("lease_claim"), LEASE, "two", 60.0) == first.fence + 1
            await session.execute(sql("lease_release"), LEASE, "two")
        await wait_until(
            lambda: serves(ingest)() and ingest._ours[0][0].term.fence == first.fence + 2,
            seconds=20,
            what="it is served under the new term",
        )
        await publish(mosquitto, 7)

        async def stored() -> bool:
            return await held(database) == [{"value": 7}]

        await wait_until(stored, seconds=10, what="what comes is stored")


# Writers that meet.


async def _trim(database: Database, max_bytes: int) -> None:
    await trim_dead_letters(
        database, now=datetime.now(UTC), retention=timedelta(days=30), max_bytes=max_bytes
    )


async def test_writers_of_the_same_samples_never_wait_in_a_circle(database: Database) -> None:
    """The row in the middle is held: who goes up and who goes down hold one end each,
    and want the other's.
    """
    keys: list[Key] = [("acme", device, NOW) for device in ("a", "b", "c")]
    writer, other = store_of(database, None), store_of(database, None)
    await writer.write([(key, {"value": 0}, NOW) for key in keys], ())
    async with database.transaction() as locker:
        await locker.execute("select from telemetry where device_id = 'b' for update")
        up = asyncio.create_task(writer.write([(key, {"value": 1}, NOW) for key in keys], ()))
        await waits(database, "insert into telemetry")
        down = asyncio.create_task(other.write([(key, {"value": 2}, NOW) for key in reversed(keys)], ()))

        async def both() -> bool:
            async with database.connection() as connection:
                return bool(
                    await connection.fetchval(
                        """select count(*) = 2 from pg_stat_activity where datname = current_database()
                        and wait_event_type = 'Lock' and query ~ 'insert into (telemetry|customer_log)' and pid <> pg_backend_pid()"""
                    )
                )

        await wait_until(both, seconds=10, what="both wait", every=0.02)
    async with patient(10):
        await asyncio.gather(up, down)
    assert await held(database) == [{"value": 2}] * 3


@pytest.mark.parametrize("max_bytes", [1, 1 << 30], ids=["for room", "by age"])
async def test_making_room_among_dead_letters_waits_for_no_message_that_comes_again(
    database: Database, max_bytes: int
) -> None:
    """Each holds rows and wants others: trimming leaves what is being counted, for the next time."""
    letters = [
        DeadMessage(topic="t", payload=bytes([n]), reason="invalid_json", detail="", customer="acme")
        for n in range(5)
    ]
    await store_of(database, None).write((), letters)
    await execute(database, "insert into customer values ('acme') on conflict do nothing")
    await execute(database, "update dead_letter set last_at = now() - interval '40 days'")
    async with database.transaction() as counting:
        await counting.execute("update dead_letter set occurrences = 2 where payload = '\\x02'")
        async with patient(5):
            await _trim(database, max_bytes)
    assert await count(database, "dead_letter") == 1
    await _trim(database, max_bytes)
    assert await count(database, "dead_letter") == 0
