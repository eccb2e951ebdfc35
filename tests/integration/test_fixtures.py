"""The servers that tests stand on: killed and started again they keep what they promised to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiomqtt
import asyncpg
import pytest

from benchmarks.servers import Mosquitto, Postgres, free_port
from gateway.store.pool import Database
from tests.fixtures import sink


async def _rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("select count(*) from kept")
        return count
    finally:
        await connection.close()


async def test_a_killed_postgres_keeps_what_was_committed(
    make_postgres: Callable[..., Awaitable[Postgres]],
) -> None:
    server = await make_postgres()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("create table kept as select generate_series(1, 1000)")
    await server.kill()
    await connection.close(timeout=1)
    with pytest.raises(OSError):
        await asyncpg.connect(server.dsn())
    await server.start()
    assert await _rows(server.dsn()) == 1000


async def test_a_mosquitto_keeps_retained_messages_over_sigterm_only_when_told(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]],
) -> None:
    kept = {}
    for persistence in (True, False):
        broker = await make_mosquitto("log_type notice", persistence)
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish("kept", b"value", qos=1, retain=True)
        await broker.stop()
        await broker.start()
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.subscribe("#", qos=1)
            await client.publish("last", b"", qos=1)
            kept[persistence] = str((await anext(aiter(client.messages))).topic)
    assert kept == {True: "kept", False: "last"}


async def test_lines_of_configuration_reach_the_broker(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]],
) -> None:
    broker = await make_mosquitto("message_size_limit 10")
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish("t", b"x" * 10, qos=1)
        with pytest.raises(aiomqtt.MqttError):
            await client.publish("t", b"x" * 11, qos=1, timeout=1)


async def test_a_database_is_migrated_and_belongs_to_its_test(
    database: Database, dsn: str, empty_dsn: str
) -> None:
    async with database.connection() as connection:
        assert await connection.fetchval(
            "select to_regclass('telemetry') is not null and not exists (select from telemetry)"
        )
    other = await asyncpg.connect(empty_dsn)
    assert await other.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
    await other.close()
    assert dsn.rsplit("/", 1)[1] != empty_dsn.rsplit("/", 1)[1]


async def test_a_sink_is_read_in_one_snapshot_while_it_is_written(empty_dsn: str) -> None:
    writer = await asyncpg.connect(empty_dsn)
    await writer.execute(
        """create table fieldgate_reading (connection text, meter text, window_start timestamptz, value float8, changes int);
        create table fieldgate_reading_journal (connection text, meter text)"""
    )

    stopping = asyncio.Event()

    async def write() -> None:
        while not stopping.is_set():
            await writer.execute(
                """with taken as (insert into fieldgate_reading values ('sink', 'd/value', clock_timestamp(), 1, 0))
                insert into fieldgate_reading_journal values ('sink', 'd/value')"""
            )

    assert await sink.written(empty_dsn, "sink") == []
    writing = asyncio.create_task(write())
    for _ in range(20):
        await sink.written(empty_dsn, "sink")
    stopping.set()
    await writing
    assert len(await sink.delivered(empty_dsn, "sink")) > 1
    await writer.execute("insert into fieldgate_reading_journal values ('sink', 'd/value')")
    with pytest.raises(AssertionError, match="more often"):
        await sink.written(empty_dsn, "sink")
    await writer.close()


async def test_rumqttd_speaks_mqtt_5(rumqttd: int) -> None:
    async with aiomqtt.Client("127.0.0.1", rumqttd, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("t", qos=1)
        await client.publish("t", b"value", qos=1)
        assert (await anext(aiter(client.messages))).payload == b"value"


def test_the_kernel_gives_a_servers_port_to_no_connection() -> None:
    """Else somebody's connection may have it as a server starts again. Linux gives 32768 and higher ones."""
    ports = [free_port() for _ in range(200)]
    assert len({*ports}) == len(ports) and max(ports) < 32_768
