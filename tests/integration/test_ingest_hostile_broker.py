"""Ingest against a broker that misbehaves: nothing it sends crashes, hangs or confuses the gateway, and every
good message is stored once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import mqtt5
import pytest
from structlog.testing import capture_logs

from benchmarks.servers import PATIENCE, wait_until
from gateway import metrics
from gateway.ingest import Ingest
from gateway.ingest.framing import HEAD_BYTES, MAX_PACKET_BYTES
from gateway.model.errors import BrokerRefused
from gateway.settings import Settings
from gateway.store.connections import register_customers
from gateway.store.pool import Database
from tests.fixtures.broker_script import CONNACK, Link, ScriptedBroker, publish

TOPIC = "acme/devices/pump/telemetry"
GRANTED = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
Script = Callable[[Link], Awaitable[None]]


def sample(value: float) -> bytes:
    return json.dumps({"ts": "2026-01-01T00:00:00Z", "metrics": {"value": value}}).encode()


def good(number: int, packet_id: int = 1) -> bytes:
    return publish(f"acme/devices/d{number}/telemetry", sample(number), packet_id)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter may be next to nothing; here it always is."""
    monkeypatch.setattr("gateway.ingest.partition.random.random", lambda: 0.999)


@asynccontextmanager
async def serving(
    database: Database, broker: ScriptedBroker, /, **sections: dict[str, object]
) -> AsyncIterator[asyncio.Task[None]]:
    """The gateway's ingest on that broker; the task that runs it."""
    async with _running(database, broker, sections) as (_, task):
        yield task


@asynccontextmanager
async def ingesting(
    database: Database, broker: ScriptedBroker, /, **sections: dict[str, object]
) -> AsyncIterator[Ingest]:
    """The gateway's ingest on that broker."""
    async with _running(database, broker, sections) as (ingest, _):
        yield ingest


@asynccontextmanager
async def _running(
    database: Database, broker: ScriptedBroker, sections: dict[str, dict[str, object]]
) -> AsyncIterator[tuple[Ingest, asyncio.Task[None]]]:
    settings = Settings.model_validate(
        {
            "broker": {"url": broker.url, **sections.get("broker", {})},
            "customers": ["acme"],
            "security": {"encryption_keys": ["k" * 32]},
            "telemetry": {"retention": "10000d", **sections.get("telemetry", {})},
        }
    )
    await register_customers(database, settings.customers)
    ingest = Ingest(settings, database, replica="test")
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest, task
    finally:
        await ingest.stop()
        task.cancel()
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task


async def stored(database: Database) -> dict[str, object]:
    """Telemetry as {device: metrics}; fails when a device has two rows."""
    async with database.connection() as connection:
        rows = await connection.fetch("select device_id, metrics from telemetry")
    assert len({row["device_id"] for row in rows}) == len(rows)
    return {row["device_id"]: row["metrics"] for row in rows}


async def dead_letters(database: Database) -> list[tuple[str, str, bytes]]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select topic, reason, payload from dead_letter order by dead_letter_id"
        )
    return [(row["topic"], row["reason"], row["payload"]) for row in rows]


def malformed() -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_malformed_packets_total") or 0.0


async def test_how_it_introduces_itself(database: Database) -> None:
    async def nothing(link: Link) -> None: ...

    async with ScriptedBroker(nothing).running() as broker, serving(database, broker):
        link = await broker.link(0)
    connect, subscribe = link.connect, link.subscribe
    assert connect is not None and subscribe is not None
    assert connect.client_id.startswith("fg-") and len(connect.client_id) >= 20
    assert (connect.clean_start, connect.receive_max, connect.topic_alias_max, connect.max_packet_size) == (
        False,
        65534,
        0,
        None,
    )
    assert (connect.keep_alive, connect.session_expiry_interval) == (30, 7 * 86400)
    assert [item.pattern for item in subscribe.topic_filters] == [
        "+/devices/+/telemetry",
        "+/devices/+/telemetry/+",
    ]
    assert all(item.max_qos == 1 for item in subscribe.topic_filters)
    assert all(
        item.retain_handling == mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        for item in subscribe.topic_filters
    )
    assert link.disconnect is not None and link.disconnect.reason_code == 0, "it left without a word"


LARGE = b"\x30" + b"\xff\xff\xff\x7f"  # a PUBLISH of 268 MB, or whatever type is put in its place
BROKEN = {
    "noise": b"\xff" * 50,
    "a control packet that is not UTF-8, on which the codec panics": b"\xe0\x07\x00\x05\x1f\x00\x02\xc3\x28",
    "packet id 0": b"\x32\x06\x00\x02ab\x00\x00\x00",
    "an empty topic without an alias": b"\x32\x06\x00\x00\x00\x03\x00x",
    "QoS 2": mqtt5.PublishPacket("acme/a", b"x", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=3).write(),
    "a topic alias": mqtt5.PublishPacket("acme/a", b"x", topic_alias=3).write(),
    "a second CONNACK": CONNACK,
    "a packet that only a client sends": mqtt5.PingReqPacket().write(),
    "a SUBACK that answers one filter of many": mqtt5.SubAckPacket(1, [GRANTED]).write(),
    "a length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "an oversized control packet": b"\x90" + LARGE[1:],
    "an oversized PUBLISH of QoS 2": b"\x34" + LARGE[1:] + b"\x00\x01a\x00\x05" + bytes(HEAD_BYTES),
    "an oversized PUBLISH with packet id 0": b"\x32" + LARGE[1:] + b"\x00\x01a\x00\x00" + bytes(HEAD_BYTES),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_mqtt_ends_the_connection_cleanly(database: Database, broken: bytes) -> None:
    async def script(link: Link) -> None:
        if link.number == 0:
            link.send(good(1, 7), broken, good(2, 8))
        else:
            link.send(good(1, 9), good(2, 10))

    before = malformed()
    async with ScriptedBroker(script).running() as broker, serving(database, broker) as task:
        second = await broker.link(1)
        await second.acknowledged(9, 10)
        first = broker.links[0]
        await asyncio.wait_for(first.gone.wait(), 10 * PATIENCE)
        assert first.disconnect is not None and first.disconnect.reason_code == 0x81
        assert first.acks in ([], [7]), "something behind the broken packet was acknowledged"
        assert not task.done()
    assert malformed() == before + 1
    assert set(await stored(database)) == {"d1", "d2"}


async def test_a_message_before_the_connack_is_not_taken(database: Database) -> None:
    async def script(link: Link) -> None:
        link.send(good(1))

    before = malformed()
    async with ScriptedBroker(script, granting=False).running() as broker, serving(database, broker):
        await broker.link(1)
        assert broker.links[0].acks == []
    assert malformed() > before
    assert await stored(database) == {}


async def test_packets_may_come_in_any_pieces(database: Database) -> None:
    async def script(link: Link) -> None:
        for byte in good(1, 1) + publish(TOPIC, b"{", 2) + good(3, 3):
            link.send(bytes([byte]))
            await link.writer.drain()
            await asyncio.sleep(0)

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1, 2, 3)
    assert set(await stored(database)) == {"d1", "d3"}
    assert await dead_letters(database) == [(TOPIC, "invalid_json", b"{")]


async def test_what_is_too_large_is_skipped_kept_and_acknowledged_in_its_turn(database: Database) -> None:
    body = b'{"metrics": {"a": "' + b"x" * (3 << 20) + b'"}}'
    oversized = metrics.REGISTRY.get_sample_value("fieldgate_mqtt_oversized_messages_total") or 0.0

    async def script(link: Link) -> None:
        link.send(good(1, 1), publish(TOPIC, body, 2), good(3, 3), publish(TOPIC, body, None), good(5, 5))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1, 2, 3, 5)
    assert set(await stored(database)) == {"d1", "d3", "d5"}
    letters = await dead_letters(database)
    assert {(topic, reason) for topic, reason, _ in letters} == {(TOPIC, "oversized_packet")}
    assert all(len(kept) == HEAD_BYTES and body[:1000] in kept for _, _, kept in letters)
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_oversized_messages_total") == oversized + 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_is_not_utf8_is_skipped_kept_and_acknowledged_in_its_turn(database: Database) -> None:
    """One old device's message must not end the session again at each redelivery."""
    topic = publish("acme/devices/????/telemetry", sample(2), 2).replace(b"????", b"K\xfcche")
    prop = bytearray(publish(TOPIC, sample(4), 4))
    at = prop.index(b"\0\4\0") + 2
    prop[at : at + 1] = b"\5\3\0\2\xff\xfe"  # a content type
    prop[1] += 5

    async def script(link: Link) -> None:
        link.send(good(1, 1), topic.replace(b"K\xfcche", b"K\xfcch", 1), good(3, 3), bytes(prop), good(5, 5))

    before = malformed()
    async with ScriptedBroker(script).running() as broker, serving(database, broker) as task:
        await (await broker.link(0)).acknowledged(1, 2, 3, 4, 5)
        assert len(broker.links) == 1 and not task.done()
    assert malformed() == before
    assert set(await stored(database)) == {"d1", "d3", "d5"}
    first, second = await dead_letters(database)
    assert first == ("acme/devices/K\\xfcch/telemetry", "not_utf8", b"\0" + sample(2))
    assert second[:2] == (TOPIC, "not_utf8") and second[2].endswith(sample(4))


async def test_a_subscription_at_qos_0_is_not_ready_and_told_once(database: Database) -> None:
    """It is asked for again until the broker grants what is safe."""
    qos0 = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE

    granted = asyncio.Event()

    async def script(link: Link) -> None:
        if link.number == 3:
            await granted.wait()
        link.send(mqtt5.SubAckPacket(1, [GRANTED, qos0] if link.number < 3 else [GRANTED] * 2).write())

    with capture_logs() as logs:
        broker = ScriptedBroker(script, grants=False)
        async with broker.running(), ingesting(database, broker) as ingest:
            await broker.link(3)
            assert not ingest.connected and all(link.disconnect for link in broker.links[:3])
            granted.set()
            await wait_until(lambda: ingest.connected, seconds=20, what="the session is ready")
    told = [entry for entry in logs if entry["event"] == "ingest.qos_refused"]
    assert len(told) == 1 and "broker.allow_qos0" in told[0]["advice"]
    assert "acme" not in told[0]["reason"] and "+/devices/+/telemetry/+" in told[0]["reason"]
    assert not [entry for entry in logs if entry["event"] == "ingest.disconnected"]


async def test_an_operator_may_take_qos_0(database: Database) -> None:
    async def script(link: Link) -> None:
        link.send(mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE] * 2).write())

    broker = ScriptedBroker(script, grants=False)
    async with broker.running(), ingesting(database, broker, broker={"allow_qos0": True}) as ingest:
        await wait_until(lambda: ingest.connected, seconds=20, what="the session is ready")
        assert len(broker.links) == 1


async def test_the_largest_packet_that_is_read_and_the_smallest_that_is_not(database: Database) -> None:
    largest = MAX_PACKET_BYTES - (len(publish(TOPIC, bytes(1 << 20), 1)) - (1 << 20))

    async def script(link: Link) -> None:
        link.send(publish(TOPIC, bytes(largest), 1), publish(TOPIC, bytes(largest + 1), 2), good(3, 3))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1, 2, 3)
    assert [reason for _, reason, _ in await dead_letters(database)] == [
        "payload_too_large",
        "oversized_packet",
    ]


@pytest.mark.parametrize(
    "topic",
    [
        "acme/devices/a\0b/telemetry",
        "#",
        "$SYS/elsewhere",
    ],
)
async def test_a_topic_that_is_none_of_ours_is_a_dead_letter(database: Database, topic: str) -> None:
    async def script(link: Link) -> None:
        link.send(publish(topic, b"1", 1), good(2, 2))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1, 2)
    assert [
        (name, reason in ("unmatched_topic", "invalid_identifier"))
        for name, reason, _ in await dead_letters(database)
    ] == [(topic.replace("\0", "\\0"), True)]
    assert set(await stored(database)) == {"d2"}


async def test_equal_dead_letters_are_counted_each(database: Database) -> None:
    async def script(link: Link) -> None:
        link.send(*(publish(TOPIC, b"{", number) for number in range(1, 6)))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1, 2, 3, 4, 5)
    async with database.connection() as connection:
        assert await connection.fetchval("select sum(occurrences) from dead_letter") == 5


async def test_samples_without_a_time_of_their_own_do_not_overwrite_each_other(database: Database) -> None:
    async def script(link: Link) -> None:
        array = publish(TOPIC, b'[{"level": 101}, {"level": 102}]', 101)
        link.send(
            *(publish(f"{TOPIC}/level", str(number).encode(), number) for number in range(1, 101)), array
        )

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(*range(1, 102))
    async with database.connection() as connection:
        rows = await connection.fetch("select metrics from telemetry order by ts")
    assert [row["metrics"]["level"] for row in rows] == list(range(1, 103))


@asynccontextmanager
async def commits_held(database: Database) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Telemetry cannot be written inside; gives what says whether a commit waits for it."""
    async with database.transaction() as connection:
        await connection.execute("lock table telemetry in access exclusive mode")

        async def waits() -> bool:
            async with database.connection() as beside:
                return bool(await beside.fetchval("select count(*) from pg_locks where not granted"))

        yield waits


async def test_nothing_is_acknowledged_before_its_commit(database: Database) -> None:
    async def script(link: Link) -> None:
        link.send(good(1, 1), good(2, 2))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        async with commits_held(database) as waits:
            link = await broker.link(0)
            await wait_until(waits, what="a commit waits")
            assert link.acks == []
        await link.acknowledged(1, 2)


async def test_an_acknowledgement_never_goes_to_another_connection(database: Database) -> None:
    async def script(link: Link) -> None:
        if link.number == 0:
            link.send(good(1, 5), good(2, 6))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        async with commits_held(database) as waits:
            first = await broker.link(0)
            await wait_until(waits, what="a commit waits")
            first.writer.transport.abort()
            second = await broker.link(1)
        second.send(good(3, 9))
        await second.acknowledged(
            9
        )  # committed after the others, whose acknowledgements would have come first
        assert first.acks == []
    assert set(await stored(database)) == {"d1", "d2", "d3"}


async def test_a_message_sent_again_is_stored_once(database: Database) -> None:
    async def script(link: Link) -> None:
        link.send(*(good(number, number + 10 * link.number) for number in range(1, 4)))

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        first = await broker.link(0)
        await first.acknowledged(1, 2, 3)
        first.writer.transport.abort()
        await (await broker.link(1)).acknowledged(11, 12, 13)
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == 3
        assert await connection.fetchval("select max(changes) from telemetry") == 0


async def test_reading_pauses_when_too_much_is_held_and_goes_on(database: Database) -> None:
    count = 30_000

    async def script(link: Link) -> None:
        for number in range(1, count + 1):
            link.send(
                publish(
                    TOPIC,
                    json.dumps({"ts": 1_767_225_600_000 + number, "metrics": {"value": number}}).encode(),
                    number,
                )
            )

    def paused() -> bool:
        return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_reading_paused", {"partition": "0"}) == 1

    low: dict[str, object] = {"memory_high_bytes": 1 << 20, "memory_low_bytes": 1 << 18}
    async with (
        ScriptedBroker(script).running() as broker,
        serving(database, broker, telemetry=low, broker={"keepalive": "1s"}),
    ):
        async with commits_held(database) as waits:
            link = await broker.link(0)
            await wait_until(waits, what="a commit waits")
            await wait_until(paused, what="reading is paused")
            assert (metrics.REGISTRY.get_sample_value("fieldgate_mqtt_inflight_messages") or 0) < count
            pings = link.pings
            await wait_until(
                lambda: link.pings >= pings + 4, what="it pings on for longer than a dead link would be given"
            )
        await link.acknowledged(*range(1, count + 1))
        assert not paused()
        assert len(broker.links) == 1, "the session was given up"
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_inflight_messages") == 0


async def test_qos_0_is_bounded_and_what_is_dropped_is_counted_and_forgotten(database: Database) -> None:
    def dropped() -> float:
        return (
            metrics.REGISTRY.get_sample_value("fieldgate_mqtt_messages_total", {"outcome": "dropped_qos0"})
            or 0.0
        )

    async def script(link: Link) -> None:
        link.send(
            *(
                publish(
                    TOPIC,
                    json.dumps({"ts": 1_767_225_600_000 + number, "metrics": {"v": "x" * 500}}).encode(),
                    None,
                )
                for number in range(5000)
            )
        )

    before = dropped()
    bounded: dict[str, object] = {"qos0_queue": 10, "memory_high_bytes": 1 << 20, "memory_low_bytes": 1 << 18}
    async with ScriptedBroker(script).running() as broker, serving(database, broker, telemetry=bounded):
        async with commits_held(database):
            link = await broker.link(0)
            await wait_until(lambda: dropped() - before == 4990, what="all but ten are dropped")
        link.send(good(1, 1))
        await link.acknowledged(1)  # dropped messages hold no memory: reading was never paused
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_inflight_messages") == 0


async def test_a_broker_that_falls_silent_is_given_up(database: Database) -> None:
    async def nothing(link: Link) -> None: ...

    async with (
        ScriptedBroker(nothing, answers_pings=False).running() as broker,
        serving(database, broker, broker={"keepalive": "1s"}),
    ):
        await broker.link(1)
        assert broker.links[0].pings >= 2


async def test_a_broker_that_sends_its_queue_before_it_grants_is_waited_for(database: Database) -> None:
    async def slow(link: Link) -> None:
        for number in range(1, 16):
            link.send(good(number, number))
            await asyncio.sleep(0.1)
        link.send(mqtt5.SubAckPacket(1, [GRANTED] * 2).write())

    async with (
        ScriptedBroker(slow, grants=False).running() as broker,
        ingesting(database, broker, broker={"connect_timeout": "500ms"}) as ingest,
    ):
        await wait_until(lambda: ingest.connected, what="the session is up")
        assert len(broker.links) == 1


@pytest.mark.parametrize("sends", [False, True], ids=["nothing at all", "nothing after a message"])
async def test_a_broker_that_never_grants_is_given_up(database: Database, sends: bool) -> None:
    async def silent(link: Link) -> None:
        if sends:
            link.send(good(1, 1))

    async with (
        ScriptedBroker(silent, grants=False).running() as broker,
        serving(database, broker, broker={"connect_timeout": "200ms"}) as task,
    ):
        await broker.link(1)
        assert not task.done()


async def test_a_broker_that_never_answers_the_connect_is_given_up(database: Database) -> None:
    async def nothing(link: Link) -> None: ...

    async with (
        ScriptedBroker(nothing, granting=False).running() as broker,
        serving(database, broker, broker={"connect_timeout": "200ms"}) as task,
    ):
        await broker.link(2)
        assert not task.done()


@pytest.mark.parametrize(
    "code", ["BAD_USER_NAME_OR_PASSWORD", "NOT_AUTHORIZED", "BANNED", "CLIENT_ID_NOT_VALID"]
)
async def test_a_refusal_for_good_stops_it(database: Database, code: str) -> None:
    async def refuse(link: Link) -> None:
        link.send(mqtt5.ConnAckPacket(reason_code=getattr(mqtt5.ConnAckReasonCode, code)).write())

    async with ScriptedBroker(refuse, granting=False).running() as broker, serving(database, broker) as task:
        await wait_until(task.done, what="ingest ends")
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, BrokerRefused) and code in str(error)


async def test_a_refusal_for_now_is_waited_out(database: Database) -> None:
    async def refuse_twice(link: Link) -> None:
        busy = mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY).write()
        granted = mqtt5.SubAckPacket(1, [GRANTED] * 2).write()
        link.send(*([busy] if link.number < 2 else [CONNACK, granted, good(1, 1)]))

    async with ScriptedBroker(refuse_twice, granting=False).running() as broker, serving(database, broker):
        await (await broker.link(2)).acknowledged(1)


async def test_kicked_again_and_again_it_suspects_a_second_gateway(database: Database) -> None:
    async def kick(link: Link) -> None:
        link.writer.transport.abort()

    with capture_logs() as logs:
        async with ScriptedBroker(kick).running() as broker, serving(database, broker):
            await broker.link(6)
    told = [
        entry
        for entry in logs
        if entry["event"] == "ingest.disconnected" and "same instance" in entry["advice"]
    ]
    assert len(told) == 1, "not said, or said more than once"


async def test_the_server_s_keepalive_is_obeyed(database: Database) -> None:
    async def grant(link: Link) -> None:
        link.send(
            mqtt5.ConnAckPacket(server_keep_alive=1).write(), mqtt5.SubAckPacket(1, [GRANTED] * 2).write()
        )

    async with (
        ScriptedBroker(grant, granting=False).running() as broker,
        serving(database, broker, broker={"keepalive": "600s"}),
    ):
        link = await broker.link(0)
        await wait_until(lambda: link.pings >= 3, what="it pings twice a second")


async def test_filters_that_are_configured_no_more_are_given_up(database: Database) -> None:
    async def nothing(link: Link) -> None: ...

    async with ScriptedBroker(nothing).running() as broker:
        old: dict[str, object] = {
            "sources": [
                {"topic": "old/{customer}/{device}"},
                {"topic": "{customer}/devices/{device}/telemetry"},
            ]
        }
        async with serving(database, broker, telemetry=old):
            first = await broker.link(0)
            await wait_until(lambda: first.pings > 0, what="the session is up")
        async with serving(database, broker):
            second = await broker.link(1)
            await wait_until(
                lambda: second.unsubscribed == ["old/+/+"], what="it unsubscribes the filter that is gone"
            )
    assert first.connect is not None and second.connect is not None
    assert first.connect.client_id == second.connect.client_id
    assert first.unsubscribed == []


async def test_the_broker_s_count_of_dropped_messages_is_a_metric_and_no_telemetry(
    database: Database,
) -> None:
    topic = "$SYS/broker/publish/messages/dropped"

    async def script(link: Link) -> None:
        link.send(
            publish(topic, b"950", None),
            publish(topic, b"9" * 5000, None),
            publish(topic, b"none", None),
            good(1, 1),
        )

    async with ScriptedBroker(script).running() as broker, serving(database, broker):
        await (await broker.link(0)).acknowledged(1)
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_broker_dropped_messages") == 950
    assert await dead_letters(database) == []
