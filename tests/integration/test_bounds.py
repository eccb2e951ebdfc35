"""What a customer's devices can make the gateway hold is bounded: invented devices, and messages that are no
samples.
"""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

from gateway.ingest.decode import Decoder
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quotas import Quotas
from gateway.payloads.sources import compile_sources
from gateway.quota_settings import QuotasSettings
from gateway.settings import TelemetrySettings
from gateway.store import retention
from gateway.store.dead_messages import DeadMessage
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.unit.test_pipeline import Connection, committed

_IDS = itertools.count(1)


def pipeline(database: Database, **quotas: object) -> Pipeline:
    bounds = Quotas(QuotasSettings.model_validate(quotas))
    settings = TelemetrySettings(auto_register_customers=True)
    sources = compile_sources(settings.sources)
    store = TelemetryStore(
        database, register_customers=True, max_devices=lambda customer: bounds.of(customer).devices
    )
    return Pipeline(settings, Decoder(settings, sources, ()), store, quotas=bounds)


def message(
    device: str, customer: str = "acme", payload: bytes = b'{"t": 1}'
) -> tuple[str, bytes, int, bool]:
    return f"{customer}/devices/{device}/telemetry", payload, next(_IDS), False


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.connection() as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def test_invented_devices_are_refused_and_the_others_go_on(database: Database) -> None:
    """The whole batch is acknowledged; what there is room for is stored; another customer notices nothing."""
    session, taking = Connection(), pipeline(database, devices=3)
    taking.receive(session, [message(f"d{number}") for number in range(3)])
    await committed(taking)
    for turn in range(2):  # the second time it is known without asking
        taking.receive(
            session,
            [
                message("d0"),
                *(message(f"x{turn}-{number}") for number in range(5)),
                message("g1", "globex"),
                message("x-again"),
            ],
        )
        await committed(taking)
    assert len(session.log) == 3 + 2 * 8
    assert await rows(database, "select customer_id, count(*) from device group by 1 order by 1") == [
        ("acme", 3),
        ("globex", 1),
    ]
    assert await rows(database, "select device_id, count(*) from telemetry group by 1 order by 1") == [
        ("d0", 3), ("d1", 1), ("d2", 1), ("g1", 2),
    ]  # fmt: skip
    assert await rows(
        database, "select reason, customer_id, sum(occurrences)::int from dead_letter group by 1, 2"
    ) == [("too_many_devices", "acme", 12)]
    assert await rows(
        database, "select type, customer_id, data ->> 'quota', data ->> 'allowed' from event"
    ) == [("quota.exceeded", "acme", "devices", "3")]
    assert await rows(database, "select dead_letters, dropped, ended_at from quota_excess") == [(12, 0, None)]


async def test_a_refused_device_is_taken_when_there_is_room(database: Database) -> None:
    session = Connection()
    small = pipeline(database, devices=1)
    small.receive(session, [message("d0"), message("d1")])
    await committed(small)
    larger = pipeline(database, devices=2)
    larger.receive(session, [message("d1")])
    await committed(larger)
    assert await rows(database, "select device_id from device order by 1") == [("d0",), ("d1",)]


async def test_a_batch_that_the_database_refuses_in_part_is_bounded_too(database: Database) -> None:
    """Found by halves, and still no device beyond the limit."""
    session, taking = Connection(), pipeline(database, devices=2)
    bad = b'{"ts": "0001-01-01T00:00:00Z", "t": 1}'
    taking.receive(
        session,
        [message("d0"), message("d1"), message("d1", payload=bad), *(message(f"x{n}") for n in range(4))],
    )
    await committed(taking)
    assert await rows(database, "select count(*) from device") == [(2,)]
    assert len(session.log) == 7


async def test_dead_letters_are_bounded_by_customer_and_the_oldest_go(database: Database) -> None:
    store = TelemetryStore(database, register_customers=False)
    noise = [bytes([number]) + f"{number}".encode() * 7 for number in range(200)]
    await store.write([], [dead(customer, body) for body in noise for customer in ("acme", "globex")])
    await store.write([], [dead(None, noise[0])])
    async with database.connection() as connection:
        await connection.execute(
            "update dead_letter set last_at = now() - dead_letter_id * interval '1 second'"
        )
        await connection.execute(
            "delete from dead_letter where customer_id = 'globex' and dead_letter_id > 20"
        )
        held = await connection.fetchval(
            "select max(dead_letter_id) from dead_letter where customer_id = 'acme'"
        )
        kept = await connection.fetchval("select count(*) from dead_letter where customer_id = 'globex'")
    assert held > 100
    for _ in range(2):
        dropped = await trimmed(database, max_bytes=20_000)
    counted = dict(
        await rows(database, "select coalesce(customer_id, ''), count(*)::int from dead_letter group by 1")
    )
    assert 20_000 / 400 < counted["acme"] < 20_000 / 200 and counted[""] == 1
    assert dropped == {} and counted["globex"] == kept > 0
    (newest,) = await rows(
        database,
        "select min(dead_letter_id), max(dead_letter_id) from dead_letter where customer_id = 'acme'",
    )
    assert newest[0] == 1 and int(str(newest[1])) < held  # the oldest went
    assert await rows(database, "select type, customer_id from event") == [("dead_letters.dropped", "acme")]


async def test_topics_of_dead_letters_take_room_as_well(database: Database) -> None:
    store = TelemetryStore(database, register_customers=False)
    noise = [random.Random(number).randbytes(30_000).hex() for number in range(50)]
    await store.write([], [dead("acme", b"", topic=topic) for topic in noise])
    for _ in range(2):
        await trimmed(database, max_bytes=500_000)
    (held,) = await rows(database, "select sum(octet_length(topic))::int from dead_letter")
    assert 0 < int(str(held[0])) <= 500_000


async def test_dead_letters_have_an_age_of_their_own(database: Database) -> None:
    store = TelemetryStore(database, register_customers=False)
    await store.write([], [dead("acme", b"old"), dead("acme", b"new")])
    async with database.connection() as connection:
        await connection.execute(
            "update dead_letter set last_at = now() - interval '8 days' where payload = 'old'"
        )
    assert await trimmed(database, max_bytes=1 << 30) == {}
    assert await rows(database, "select payload from dead_letter") == [(b"new",)]
    assert await rows(database, "select from event") == []


def dead(customer: str | None, body: bytes, *, topic: str = "") -> DeadMessage:
    topic = topic or f"{customer}/devices/d/telemetry"
    return DeadMessage(topic=topic, payload=body, reason="invalid_json", detail="no", customer=customer)


async def trimmed(database: Database, *, max_bytes: int) -> dict[str | None, int]:
    return await retention.trim_dead_letters(
        database, now=datetime.now(UTC), retention=timedelta(days=7), max_bytes=max_bytes
    )
