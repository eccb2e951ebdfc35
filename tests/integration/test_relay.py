"""The outbox on a real broker: every event once in the good case and at least once in any other, in order,
none stalled by another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import orjson
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as ReadEvent

from benchmarks.relay import Relay as Wire
from benchmarks.servers import PATIENCE, Mosquitto, Postgres, free_port, patient, wait_until
from gateway import clock, metrics
from gateway.events.backlog import Backlog
from gateway.events.cloudevent import cloud_event, topic
from gateway.events.relay import Relay
from gateway.model.event import Event, EventType, NewEvent
from gateway.settings import Settings
from gateway.store import outbox
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.told import append, listening, numbered


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {
            "instance": "plant-1",
            "broker": {"url": f"mqtt://127.0.0.1:{port}"},
            "security": {"encryption_keys": ["k"]},
        }
    )


@asynccontextmanager
async def relaying(port: int, database: Database, name: str = "one") -> AsyncIterator[Relay]:
    relay = Relay(settings(port), database, owner=name)
    running = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


async def drained(database: Database) -> bool:
    return await outbox.pending(database) == 0


async def test_the_envelope_is_a_cloud_event_for_seven_days(mosquitto: Mosquitto, database: Database) -> None:
    async with listening(mosquitto.port) as listener, relaying(mosquitto.port, database):
        await append(database, numbered(0, connection="other"))
        await listener.until(lambda: listener.messages)  # it is connected
        event = NewEvent(
            type=EventType.CONNECTION_DEGRADED,
            customer="acme",
            connection="sink",
            data={"reason": "503", "request_id": "theirs"},
            request_id="r-9",
        )
        began = time.monotonic()
        await append(database, event)
        await listener.until(lambda: len(listener.messages) == 2)
        assert time.monotonic() - began < 2.0
        await append(database, NewEvent(type=EventType.CREDITS_LOW, customer=None, data={"available": 3}))
        await listener.until(lambda: len(listener.messages) == 3)
    _, message, gateway = listener.messages
    assert (str(message.topic), message.qos, message.retain) == (
        "fieldgate/v1/customers/acme/events/connection.degraded",
        1,
        False,
    )
    assert str(gateway.topic) == "fieldgate/v1/gateway/events/credits.low"
    properties: Any = message.properties
    assert properties.ContentType == "application/cloudevents+json"
    assert 7 * 86400 - 10 <= properties.MessageExpiryInterval <= 7 * 86400
    read = from_structured(
        HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=bytes(message.payload)),
        JSONFormat(),
        ReadEvent,
    )
    [_, stored, _] = await outbox.read(database, customer=None)
    assert (read.get_id(), read.get_type(), read.get_source(), read.get_subject()) == (
        stored.event_id,
        "fieldgate.connection.degraded",
        "fieldgate/plant-1",
        "sink",
    )
    assert read.get_time() == stored.at
    assert read.get_data() == {"customer": "acme", "connection": "sink", "request_id": "r-9", "reason": "503"}
    assert "subject" not in orjson.loads(bytes(gateway.payload))
    schema = orjson.loads(
        (Path(__file__).parents[2] / "config" / "schemas" / "event.schema.json").read_bytes()
    )
    for told in listener.messages:
        jsonschema.validate(orjson.loads(bytes(told.payload)), schema)
    await wait_until(lambda: drained(database), what="all marked")


async def test_two_replicas_publish_each_event_once_and_in_order(
    mosquitto: Mosquitto, database: Database
) -> None:
    names = [f"c{number}" for number in range(20)]
    async with (
        listening(mosquitto.port) as listener,
        relaying(mosquitto.port, database, "one"),
        relaying(mosquitto.port, database, "two"),
    ):
        await asyncio.gather(
            *(append(database, *(numbered(n, connection=name) for n in range(30))) for name in names)
        )
        await wait_until(lambda: drained(database), what="all marked")
        await listener.until(lambda: len(listener.messages) >= 600)
    assert {name: listener.numbers(name) for name in names} == {name: list(range(30)) for name in names}


async def test_the_relay_goes_on_at_another_replica(mosquitto: Mosquitto, database: Database) -> None:
    async with listening(mosquitto.port) as listener:
        async with relaying(mosquitto.port, database, "one"):
            await append(database, numbered(0))
            await listener.until(lambda: listener.messages)
        async with relaying(mosquitto.port, database, "two"):
            await append(database, numbered(1))
            await listener.until(lambda: listener.numbers() == [0, 1])


async def test_a_replica_that_stops_leaves_nothing_to_be_told_twice(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with listening(mosquitto.port) as listener:
        await append(database, *(numbered(n) for n in range(300)))
        async with relaying(mosquitto.port, database, "one"):
            await listener.until(lambda: listener.messages)
        async with relaying(mosquitto.port, database, "two"):
            await wait_until(lambda: drained(database), what="all marked")
            await listener.until(lambda: len(listener.messages) >= 300)
    assert listener.numbers() == list(range(300))


async def test_a_refused_topic_stalls_its_own_connection_only(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]], database: Database, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic deny fieldgate/v1/customers/acme/events/sync.failed\ntopic readwrite #\n")
    broker = await make_mosquitto(f"acl_file {rules}")
    refused = numbered(1, connection="refused", type=EventType.SYNC_FAILED)
    async with listening(broker.port) as listener, relaying(broker.port, database):
        await append(database, numbered(0, connection="refused"), refused, numbered(2, connection="refused"))
        await append(database, *(numbered(n) for n in range(200)))
        await listener.until(lambda: listener.numbers() == list(range(200)))
        await wait_until(
            lambda: _pending(database, 2), what="only the refused one and the one behind it are left"
        )
        assert listener.numbers("refused") == [0]
    rules.write_text("topic readwrite #\n")
    await broker.stop()
    await broker.start()
    async with listening(broker.port) as listener, relaying(broker.port, database):
        await listener.until(lambda: listener.numbers("refused") == [1, 2])


async def _pending(database: Database, count: int) -> bool:
    return await outbox.pending(database) == count


async def test_what_is_written_while_the_broker_is_away_is_told_when_it_is_back(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with relaying(mosquitto.port, database):
        await append(database, numbered(0))
        await wait_until(lambda: drained(database), what="the first is marked")
        await mosquitto.stop()
        await append(database, *(numbered(n) for n in range(1, 100)))
        await mosquitto.start()
        async with listening(mosquitto.port) as listener:
            await wait_until(lambda: drained(database), what="all marked")
            await listener.until(lambda: listener.numbers()[-1:] == [99])
    assert list(dict.fromkeys(listener.numbers())) == sorted(set(listener.numbers()))


async def test_a_connection_that_hangs_and_is_cut_loses_nothing(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with (
        listening(mosquitto.port) as listener,
        Wire(mosquitto.port) as wire,
        relaying(wire.port, database) as relay,
    ):
        await append(database, numbered(0))
        await listener.until(lambda: listener.messages)
        wire.hang()
        await append(database, *(numbered(n) for n in range(1, 50)))
        relay.wake()
        await wait_until(lambda: relay.busy, what="it publishes into the dead link")
        wire.cut()
        wire.resume()
        await wait_until(lambda: drained(database), what="all marked")
        await listener.until(lambda: set(listener.numbers()) == set(range(50)))
    assert list(dict.fromkeys(listener.numbers())) == list(range(50))


async def test_a_database_that_is_killed_loses_nothing(
    mosquitto: Mosquitto, make_postgres: Callable[..., Awaitable[Postgres]]
) -> None:
    server = await make_postgres()
    database = await Database.open(server.dsn(), size=4)
    await migrate(database)
    async with listening(mosquitto.port) as listener, relaying(mosquitto.port, database):
        await append(database, *(numbered(n) for n in range(100)))
        await server.kill()
        await server.start()
        await append(database, *(numbered(n) for n in range(100, 120)))
        await listener.until(lambda: set(listener.numbers()) == set(range(120)))
        await wait_until(lambda: drained(database), what="all marked")
    assert list(dict.fromkeys(listener.numbers())) == list(range(120))
    await database.close()


KILLED = """
import asyncio, sys
from gateway.events.relay import Relay
from gateway.settings import Settings
from gateway.store import outbox
from gateway.store.pool import Database

async def stuck(database, positions):
    print("acknowledged", len(positions), file=sys.stderr, flush=True)
    await asyncio.Event().wait()

async def main(url, dsn):
    outbox.mark_published = stuck
    settings = Settings.model_validate({"instance": "plant-1", "broker": {"url": url}, "security": {"encryption_keys": ["k"]}})
    await Relay(settings, await Database.open(dsn, size=3), owner="victim").run()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_relay_killed_between_puback_and_mark_tells_again_with_the_same_id(
    mosquitto: Mosquitto, dsn: str, database: Database
) -> None:
    await append(database, *(numbered(n) for n in range(5)))
    async with listening(mosquitto.port) as listener:
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, mosquitto.url, dsn, stderr=asyncio.subprocess.PIPE
        )
        assert victim.stderr is not None
        try:
            assert await asyncio.wait_for(victim.stderr.readline(), 20 * PATIENCE) == b"acknowledged 5\n"
        finally:
            victim.kill()
            await victim.wait()
        assert await outbox.pending(database) == 5
        async with database.connection() as connection:
            await connection.execute("update lease set lease_until = now()")  # as if its time had run out
        async with relaying(mosquitto.port, database):
            await wait_until(lambda: drained(database), what="all marked")
            await listener.until(lambda: len(listener.messages) >= 10)
    assert listener.numbers() == [0, 1, 2, 3, 4] * 2
    ids = [orjson.loads(bytes(message.payload))["id"] for message in listener.messages]
    assert ids[:5] == ids[5:]
    assert len(set(ids)) == 5


async def test_it_ends_soon_while_the_broker_is_away(database: Database) -> None:
    async with patient(10), relaying(free_port(), database):
        await append(database, numbered(0))
    assert await outbox.pending(database) == 1
    await Backlog(database).refresh()
    assert metrics.OUTBOX_PENDING._value.get() == 1


def test_what_credits_say_of_a_customer_is_kept_in_an_event_of_the_gateway() -> None:
    event = Event(
        position=1,
        event_id="e",
        type=EventType.CREDITS_EXHAUSTED,
        customer=None,
        connection=None,
        lane="/",
        at=clock.now(),
        data={"customer": "acme"},
        request_id=None,
    )
    document = cloud_event(event, instance="plant-1")
    assert document.data.customer == "acme"
    assert topic(event, root="r") == "r/gateway/events/credits.exhausted"
