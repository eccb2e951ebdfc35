"""A replica lives for as long as a session of its own does. What it had leased ends with it, and nothing
else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import asyncpg
import pytest

from benchmarks.servers import Postgres, patient, wait_until
from gateway.model.errors import StoreError
from gateway.store import leases, presence, telemetry
from gateway.store.leases import Term
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.presence import Presence

LEASE_SECONDS = 60.0
WORLD = """
insert into customer values ('acme');
insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest, state)
values ('c1', 'acme', 'postgres', 'cloud', 1, '', 'active');
"""


@asynccontextmanager
async def living(database: Database, owner: str) -> AsyncIterator[Presence]:
    """A replica that lives; killed at the end: it gives nothing back."""
    shown = Presence(database, owner, lease_seconds=LEASE_SECONDS)
    running = asyncio.create_task(shown.run())
    try:
        await wait_until(lambda: _is_known(database, owner), what=f"{owner} lives", every=0.01)
        yield shown
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _is_known(database: Database, owner: str) -> bool:
    return await _life(database, owner) is not None


async def _life(database: Database, owner: str) -> int | None:
    async with database.connection() as connection:
        life: int | None = await connection.fetchval("select life from replica where replica_id = $1", owner)
    return life


async def _looked(database: Database) -> None:
    """Whoever lives has looked since: one that died now was found, and forgotten."""
    async with living(database, "passing"):
        pass

    async def is_forgotten() -> bool:
        return not await _is_known(database, "passing")

    await wait_until(is_forgotten, seconds=10, what="one that died is found", every=0.02)


async def _claim(database: Database, owner: str, name: str = "ingest/0") -> Term | None:
    return await leases.claim(database, name, owner, LEASE_SECONDS)


async def _cut(database: Database, owner: str) -> None:
    """Ends the replica's session at the server, as a network does that is cut: the replica itself goes on."""
    async with database.connection() as connection:
        await connection.execute(
            """select pg_terminate_backend(l.pid) from pg_locks l join replica r
            on l.locktype = 'advisory' and (l.classid::bigint << 32 | l.objid::bigint) = r.life where r.replica_id = $1""",
            owner,
        )


async def test_what_a_replica_leased_ends_with_it(database: Database) -> None:
    async with living(database, "two/b"):
        async with living(database, "one/a"):
            for name, owner in (
                ("ingest/0", "one/a"),
                ("outbox", "one/a/ff"),
                ("other", "one/ab"),
                ("x", "two/b"),
            ):
                assert await _claim(database, owner, name) is not None
            async with database.connection() as connection:
                await connection.execute(WORLD)
                await connection.execute(
                    """insert into stream (connection_id, name, phase, lease_owner, lease_until, fence)
                    values ('c1', 'readings', 'incremental', 'one/a', now() + interval '1 hour', 7),
                           ('c1', 'readings', 'initial', 'two/b', now() + interval '1 hour', 7)"""
                )
                await connection.execute(
                    """insert into alert_stream (connection_id, customer_id, watermark, rules_of, lease_owner, lease_until, fence)
                    values ('c1', 'acme', 0, 0, 'one/a', now() + interval '1 hour', 7)"""
                )
            await _looked(database)  # while it lives nothing of it ends
            assert await _claim(database, "two/b") is None
        await wait_until(lambda: _is_taken(database, "two/b", "ingest/0"), seconds=5, what="it is taken over")
        assert await _claim(database, "two/b", "outbox") is not None
        assert await _claim(database, "two/b", "other") is None, "one of another's"
        async with database.connection() as connection:
            free = await connection.fetch(
                "select phase, lease_until > now() as leased, fence from stream order by phase"
            )
            assert [tuple(row) for row in free] == [("incremental", False, 7), ("initial", True, 7)]
            judging = await connection.fetchrow(
                "select lease_until > now() as leased, fence from alert_stream"
            )
            assert tuple(judging or ()) == (False, 7)
            assert await connection.fetchval("select array_agg(replica_id) from replica") == ["two/b"]


async def _is_taken(database: Database, owner: str, name: str) -> bool:
    return await _claim(database, owner, name) is not None


async def test_what_only_time_may_end_is_left_to_it(database: Database) -> None:
    """A request may be under way: to an authorization server, to a system that counts
    logons, to a webhook.
    """
    async with database.connection() as connection:
        held = {
            row["table_name"]: row["columns"]
            for row in await connection.fetch(
                """select table_name, array_agg(column_name::text order by column_name) as columns from information_schema.columns
                where table_schema = 'public' and column_name in ('lease_until', 'claimed_until') and table_name not like '%\\_2%'
                group by table_name"""
            )
        }
    # a new kind of lease is either ended with its holder (presence_end.sql) or named here
    by_time = {"token", "logon", "webhook_delivery"}
    assert set(held) - by_time == {"lease", "stream", "inbound_stream", "alert_stream"}


async def test_a_lease_under_which_a_commit_is_under_way_ends_after_it(database: Database) -> None:
    async with living(database, "two/b"), AsyncExitStack() as stack:
        async with living(database, "one/a"):
            term = await _claim(database, "one/a")
            committing = await stack.enter_async_context(database.transaction())
            assert await committing.fetchval(
                "select true from lease where (name, owner, fence) = ('ingest/0', 'one/a', $1) for key share",
                term.fence if term else 0,
            )

        async def has_run_out() -> bool:
            async with database.connection() as connection:
                return bool(await connection.fetchval("select lease_until <= now() from lease"))

        await wait_until(has_run_out, seconds=5, what="it runs out beside the commit")
        assert await _claim(database, "two/b") is None, "it was taken under a commit"
        await stack.aclose()
        assert await _claim(database, "two/b") is not None


@pytest.mark.parametrize("table", ["lease", "stream", "alert_stream"])
async def test_what_is_locked_is_ended_at_a_later_look(database: Database, table: str) -> None:
    async with database.connection() as connection:
        await connection.execute(WORLD)
        await connection.execute("""insert into stream (connection_id, name, phase, lease_owner, lease_until)
            values ('c1', 'readings', 'incremental', 'one/a', now() + interval '1 hour')""")
        await connection.execute(
            """insert into alert_stream (connection_id, customer_id, watermark, rules_of, lease_owner, lease_until)
            values ('c1', 'acme', 0, 0, 'one/a', now() + interval '1 hour')"""
        )
    async with living(database, "two/b"), AsyncExitStack() as stack:
        async with living(database, "one/a"):
            await _claim(database, "one/a")
            writing = await stack.enter_async_context(database.transaction())
            await writing.execute(f"update {table} set fence = fence")
        tables = ("lease", "stream", "alert_stream")
        each = f"select {', '.join(f'(select lease_until <= now() from {one})' for one in tables)}"
        first = tuple(one != table for one in tables)

        async def are(wanted: tuple[bool, ...]) -> bool:
            async with database.connection() as connection:
                return tuple(await connection.fetchrow(each) or ()) == wanted

        await wait_until(lambda: are(first), seconds=5, what="what is not locked has run out")
        assert await _life(database, "one/a") is not None, "it was forgotten with something leased"
        await stack.aclose()
        await wait_until(lambda: are((True, True, True)), seconds=5, what="and then the rest")


async def test_a_replica_whose_session_is_cut_lives_on_and_keeps_what_nobody_took(database: Database) -> None:
    async with living(database, "two/b"), living(database, "one/a"):
        term, before = await _claim(database, "one/a"), await _life(database, "one/a")
        assert term is not None
        await _cut(database, "one/a")

        async def is_back() -> bool:
            return await _life(database, "one/a") not in (None, before)

        await wait_until(is_back, seconds=5, what="it has another session")
        assert await _claim(database, "one/a") == term
        await _looked(database)
        assert await _claim(database, "two/b") is None, "its new life was not seen"


async def test_one_that_was_taken_for_dead_learns_that_it_lost(database: Database) -> None:
    async with living(database, "two/b"):
        async with living(database, "one/a"):
            term = await _claim(database, "one/a")
        await wait_until(lambda: _is_taken(database, "two/b", "ingest/0"), seconds=5, what="it is taken")
        async with living(database, "one/a"):
            assert term is not None and await _claim(database, "one/a") is None
            store = telemetry.TelemetryStore(database, register_customers=True, term=term)
            with pytest.raises(StoreError, match="another replica's"):
                await store.write([(("acme", "d", 1_700_000_000_000_000), {"value": 1.0}, 1)], [])


async def test_a_restart_of_the_database_takes_nothing_from_those_who_live(
    make_postgres: Callable[..., Awaitable[Postgres]],
) -> None:
    """Every session ends at once, and every replica comes back: no lease changes hands."""
    server = await make_postgres()
    dsn = await server.create("fieldgate")
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, size=6)
        stack.push_async_callback(database.close)
        await migrate(database)
        owners = [f"r{number}/x" for number in range(6)]
        for owner in owners:
            await stack.enter_async_context(living(database, owner))
        terms = {owner: await _claim(database, owner, f"ingest/{owner}") for owner in owners}
        for how in (server.stop, server.kill):
            lives = {owner: await _life(database, owner) for owner in owners}
            await how()
            await server.start()

            async def are_back(lives: dict[str, int | None] = lives) -> bool:
                with suppress(StoreError):
                    now = {owner: await _life(database, owner) for owner in owners}
                    return all(now[owner] not in (None, lives[owner]) for owner in owners)
                return False

            await wait_until(are_back, what="all live again")
            await _looked(database)
            for owner in owners:
                leased = "select lease_until > now() from lease where owner = $1"
                async with database.connection() as connection:
                    assert await connection.fetchval(leased, owner), f"{owner} lost its lease"
                assert await _claim(database, owner, f"ingest/{owner}") == terms[owner]


async def test_who_waits_is_told_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LOOK_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(presence, "ALONE_SECONDS", LEASE_SECONDS)
    async with living(database, "two/b") as waiting:
        told = asyncio.Event()
        waiting.on_change(told.set)
        await _claim(database, "one/a")
        told.clear()
        await leases.release(database, "ingest/0", "one/a")
        async with patient(2):  # a look is later, after a sixth of the lease
            await told.wait()


async def test_who_waits_is_told_of_a_death(database: Database) -> None:
    async with living(database, "two/b") as waiting:
        told = asyncio.Event()
        async with living(database, "one/a"):
            await _claim(database, "one/a")
            waiting.on_change(told.set)

        async def is_free() -> bool:
            await told.wait()
            return await _claim(database, "two/b") is not None

        await wait_until(is_free, seconds=5, what="it is told, and what the dead one held is free")


async def test_who_leaves_or_dies_takes_no_share(database: Database) -> None:
    async def seen() -> int:
        return await presence.replicas_seen(database, "two/b", LEASE_SECONDS)

    async with living(database, "two/b"):
        async with living(database, "one/a"):
            assert await presence.replicas_seen(database, "one/a", LEASE_SECONDS) == await seen() == 2
            await presence.leave(database, "one/a", LEASE_SECONDS)
            assert await seen() == 1
            assert await _life(database, "one/a") is not None, "what it still does has no owner"
            assert await presence.replicas_seen(database, "one/a", LEASE_SECONDS) == await seen() == 2

        async def is_alone() -> bool:
            return await seen() == 1

        await wait_until(is_alone, seconds=5, what="the dead one is not counted")


async def test_an_ordinary_role_can_do_all_of_it(make_postgres: Callable[..., Awaitable[Postgres]]) -> None:
    """No view of statistics is asked, and nothing of another's session."""
    server = await make_postgres()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("create role plain login password 'plain'")
    await connection.execute("create database plain owner plain")
    await connection.close()
    database = await Database.open(server.dsn("plain").replace("postgres:postgres@", "plain:plain@"), size=4)
    try:
        await migrate(database)
        async with living(database, "two/b"):
            async with living(database, "one/a"):
                await _claim(database, "one/a")
            await wait_until(lambda: _is_taken(database, "two/b", "ingest/0"), seconds=5, what="it is taken")
    finally:
        await database.close()
