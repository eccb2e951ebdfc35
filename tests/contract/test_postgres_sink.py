"""The PostgreSQL sink as an oracle: counts, journal, hostile names, races and broken sessions, on a real
server.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.bounded import MAX_MESSAGE_BYTES, Frames
from connectors.postgres.connector import PostgresConnector
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import BadConfiguration, Unavailable
from gateway.model.outcome import Accepted, Duplicate, Superseded
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, reading, recent

BATCH = make_batch(CONNECTION, [reading(f"m{number}", recent(), float(number)) for number in range(4)])


@pytest.fixture
async def owner(contract_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(contract_dsn)
    yield connection
    await connection.close()


def sink(dsn: str, **settings: object) -> PostgresConnector:
    return PostgresConnector(
        ConnectorSettings(
            connection=CONNECTION,
            hosting="cloud",
            settings=settings,
            credentials={"dsn": dsn},
            timeout_seconds=5,
        )
    )


async def test_changes_and_journal_count_effective_writes_only(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    table = f"counted_{secrets.token_hex(4)}"
    connector = sink(contract_dsn, table=table, journal=True)
    for _ in range(3):
        await connector.push(BATCH)
    changed = replace(BATCH.readings[0], value=7.5)
    for _ in range(2):
        await connector.push(make_batch(CONNECTION, [changed]))
    assert await owner.fetchval(f"select array_agg(changes order by meter) from {table}") == [1, 0, 0, 0]
    assert await owner.fetchval(
        f"select array_agg((meter, value, changes)::text order by entry) from {table}_journal where meter ="
        " 'm0'"
    ) == [
        "(m0,0,0)",
        "(m0,7.5,1)",
    ]
    assert await owner.fetchval(f"select count(*) from {table}_journal") == 5
    await connector.close()


async def test_a_name_is_only_ever_a_name(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    table = f"odd\"; drop '{secrets.token_hex(4)}{{x}}"
    connector = sink(contract_dsn, table=table, journal=True)
    await connector.probe()
    assert await connector.push(BATCH) == [Accepted()] * 4
    assert (
        await owner.fetchval(
            "select count(*) from pg_class where relname = any($1)", [table, table + "_journal"]
        )
        == 2
    )
    await connector.close()


async def test_connectors_that_start_together_make_one_table(contract_dsn: str) -> None:
    table = f"raced_{secrets.token_hex(4)}"
    connectors = [sink(contract_dsn, table=table) for _ in range(8)]
    outcomes = await asyncio.gather(*(connector.push(BATCH) for connector in connectors))
    flat = [type(outcome) for part in outcomes for outcome in part]
    assert flat.count(Accepted) == 4
    assert flat.count(Duplicate) == 28
    for connector in connectors:
        await connector.close()


async def test_a_missing_table_is_the_integrators_to_make(contract_dsn: str) -> None:
    connector = sink(contract_dsn, table="never_made", create_table=False)
    with pytest.raises(BadConfiguration, match="never_made"):
        await connector.push(BATCH)
    await connector.close()


async def test_a_dropped_table_is_made_again(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    table = f"dropped_{secrets.token_hex(4)}"
    connector = sink(contract_dsn, table=table)
    await connector.push(BATCH)
    await owner.execute(f"drop table {table}")
    with pytest.raises(BadConfiguration):
        await connector.push(BATCH)
    assert await connector.push(BATCH) == [Accepted()] * 4
    await connector.close()


async def test_a_session_that_was_ended_is_replaced(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    connector = sink(contract_dsn, table=f"ended_{secrets.token_hex(4)}")
    await connector.push(BATCH)
    await owner.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'fieldgate'"
    )
    try:
        outcomes = await connector.push(BATCH)
    except Unavailable:  # the end of the session was seen only by the statement
        outcomes = await connector.push(BATCH)
    assert outcomes == [Duplicate()] * 4
    await connector.close()


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "nonsense",
        "http://secret-host",
        "postgresql://u:secret-word@[half/db",
        "postgresql://u:secret-word@h:port/db",
    ],
)
async def test_a_faulty_dsn_is_a_configuration_fault_and_is_not_repeated(dsn: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        await sink(dsn).probe()
    assert "secret" not in str(caught.value)


async def test_an_older_position_never_replaces_a_newer_one(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    """An equal value takes the position too: what was under way before it comes too late as well."""
    table = f"placed_{secrets.token_hex(4)}"
    connector = sink(contract_dsn, table=table, journal=True)
    first, other = reading("m", recent(), 1.0), reading("m", recent(), 2.0)

    async def push(value: Reading, position: int) -> object:
        (outcome,) = await connector.push(make_batch(CONNECTION, [value], position))
        return outcome

    assert await push(first, 10) == Accepted() and connector.capabilities.keeps_latest
    assert await push(first, 30) == Duplicate()
    assert await push(other, 20) == Superseded(position=30)
    assert await push(other, 30) == Accepted(), "the same batch again"
    row = await owner.fetchrow(f"select value, position, changes from {table}")
    assert row is not None and tuple(row) == (2.0, 30, 1)
    assert await owner.fetchval(f"select count(*) from {table}_journal") == 2
    outcomes = await connector.push(make_batch(CONNECTION, [other, reading("n", recent(), 5.0)], 25))
    assert outcomes == [Superseded(position=30), Accepted()], "each reading has its own outcome"
    await connector.close()


@pytest.mark.parametrize("kind", ["text", None])
async def test_a_table_without_positions_is_used_as_it_is(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record], kind: str | None
) -> None:
    """Of a version before, or with a column of that name that is something else; and
    with one from then on.
    """
    table = f"unplaced_{secrets.token_hex(4)}"
    before = sink(contract_dsn, table=table, position_column=None)
    await before.probe()
    if kind is not None:
        await owner.execute(f"alter table {table} add column position {kind}")
    connector = sink(contract_dsn, table=table)
    for position, value in ((20, 1.0), (10, 2.0)):
        batch = make_batch(CONNECTION, [reading("m", recent(), value)], position)
        assert await connector.push(batch) == [Accepted()]
    assert not connector.capabilities.keeps_latest
    await owner.execute(f"alter table {table} drop column if exists position")
    await owner.execute(f"alter table {table} add column position bigint")
    later = sink(contract_dsn, table=table)
    batch = make_batch(CONNECTION, [reading("m", recent(), 3.0)], 5)
    assert await later.push(batch) == [Accepted()] and later.capabilities.keeps_latest
    assert await later.push(replace(batch, position=4)) == [Superseded(position=5)]
    for each in (before, connector, later):
        await each.close()


async def test_what_was_written_is_accepted_although_its_session_breaks_afterwards(
    contract_dsn: str, owner: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at the end would say that nothing was taken, and the window would be settled by comparison."""
    table = f"kept_{secrets.token_hex(4)}"
    connector = sink(contract_dsn, table=table)
    await connector.probe()

    async def broken(*_: object, **__: object) -> None:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.pool.Pool, "release", broken)
        outcomes = await connector.push(BATCH)
    assert outcomes == [Accepted()] * len(BATCH.readings)
    assert await owner.fetchval(f"select count(*) from {table}") == len(BATCH.readings)


@pytest.mark.parametrize(
    "head", [b"R" + (0x7FFFFFF0).to_bytes(4, "big"), b"D" + (4 << 20).to_bytes(4, "big")]
)
async def test_a_server_that_never_ends_takes_no_memory(head: bytes) -> None:
    """One message of two gigabytes, or ever more messages."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        with suppress(ConnectionError):
            while sent < 512 << 20:
                writer.write(head + bytes((4 << 20) - 4))
                await writer.drain()
                sent += 4 << 20
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connector = sink(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable")
        with pytest.raises(Unavailable):
            await connector.probe()
        await connector.close()
    assert sent < 128 << 20


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 17))
def test_messages_are_followed_however_the_network_cuts_them(bodies: list[bytes], step: int) -> None:
    stream = b"".join(b"D" + (len(body) + 4).to_bytes(4, "big") + body for body in bodies)
    frames = Frames()
    assert all(frames.are_within(stream[at : at + step]) for at in range(0, len(stream), step))
    assert not frames.are_within(b"D" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
