"""The ingest session against a broker that says what we tell it to: what we write, in which order, and what
no broker can do to us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import mqtt5
import pytest

from benchmarks.servers import PATIENCE, free_port, patient, wait_until
from gateway import metrics
from gateway.clock import now_microseconds
from gateway.ingest import Ingest
from gateway.ingest.framing import MAX_PACKET_BYTES
from gateway.model.errors import BrokerRefused
from gateway.settings import Settings
from gateway.store.pool import Database

TOPIC = "acme/devices/pump/telemetry"
# The codec's panic also reports, as unraisable, the UnicodeDecodeError that it dies of.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Peer:
    """The broker's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._bytes = bytearray()
        self.ended = False

    async def read(self) -> object:
        """The next packet but PINGREQ, None at the end of the connection."""
        async with patient(10):
            while True:
                try:
                    packet, size = mqtt5.read(bytes(self._bytes))
                except IndexError:
                    chunk = await self._reader.read(65536)
                    if not chunk:
                        self.ended = True
                        return None
                    self._bytes += chunk
                    continue
                del self._bytes[:size]
                if not isinstance(packet, mqtt5.PingReqPacket):
                    return packet

    async def acks(self, count: int) -> list[int]:
        """The packet ids of the next `count` PUBACKs."""
        found = []
        for _ in range(count):
            packet = await self.read()
            assert isinstance(packet, mqtt5.PubAckPacket), packet
            found.append(packet.packet_id)
        return found

    async def ending(self) -> list[object]:
        """Everything until the end."""
        found = []
        while (packet := await self.read()) is not None:
            found.append(packet)
        return found

    def send(self, *packets: bytes) -> None:
        self._writer.write(b"".join(packets))

    def close(self) -> None:
        self._writer.close()

    async def welcome(self, **connack: object) -> mqtt5.ConnectPacket:
        """Answers CONNECT and SUBSCRIBE; the CONNECT."""
        connect = await self.read()
        assert isinstance(connect, mqtt5.ConnectPacket)
        self.send(mqtt5.ConnAckPacket(**connack).write())  # type: ignore[arg-type]
        await self.granted()
        await self.granted()
        return connect

    async def granted(self) -> list[mqtt5.TopicFilter]:
        """Answers the next SUBSCRIBE; what it asked for."""
        subscribe = await self.read()
        assert isinstance(subscribe, mqtt5.SubscribePacket)
        granted = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(subscribe.topic_filters)
        self.send(mqtt5.SubAckPacket(subscribe.packet_id, granted).write())
        return list(subscribe.topic_filters)


class Broker:
    """Accepts on loopback; `peer()` is the next connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []

    async def peer(self) -> Peer:
        return await asyncio.wait_for(self._peers.get(), 10 * PATIENCE)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Broker]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        yield self
        server.close()
        for peer in self._all:
            peer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(Peer(reader, writer))
        self._peers.put_nowait(self._all[-1])


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker().serving() as made:
        yield made


def settings_for(port: int, **broker: object) -> Settings:
    return Settings.model_validate({
        "broker": {"url": f"mqtt://127.0.0.1:{port}", **broker},
        "security": {"encryption_keys": ["k"]},
        "telemetry": {"auto_register_customers": True},
    })  # fmt: skip


@asynccontextmanager
async def ingesting(settings: Settings, database: Database) -> AsyncIterator[Ingest]:
    ingest = Ingest(settings, database, "one")
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def peer(broker: Broker, database: Database) -> AsyncIterator[Peer]:
    """A welcomed session."""
    async with ingesting(settings_for(broker.port), database):
        found = await broker.peer()
        await found.welcome()
        yield found


def publish(packet_id: int | None, payload: bytes, topic: str = TOPIC) -> bytes:
    if packet_id is None:
        return mqtt5.PublishPacket(topic, payload=payload).write()
    return mqtt5.PublishPacket(
        topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id
    ).write()


async def stored(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval("select count(*) from telemetry")
    return count


async def buried(database: Database) -> dict[str, str]:
    async with database.connection() as connection:
        return {
            row["topic"]: row["reason"]
            for row in await connection.fetch("select topic, reason from dead_letter")
        }


def malformed() -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_malformed_packets_total") or 0


async def test_connect_says_what_the_design_counts_on(broker: Broker, database: Database) -> None:
    settings = settings_for(
        broker.port,
        username="gateway",
        password="secret",
        keepalive="40s",
        session_expiry="2d",
        receive_maximum=65534,
    )
    async with ingesting(settings, database):
        peer = await broker.peer()
        connect = await peer.read()
        assert isinstance(connect, mqtt5.ConnectPacket)
        assert not connect.clean_start and connect.session_expiry_interval == 2 * 86400
        assert connect.receive_max == 65534, "65535 is not written, and mosquitto then takes 20"
        assert connect.max_packet_size is None, (
            "mosquitto drops what is larger in silence, and a window slot with each"
        )
        assert not connect.topic_alias_max, "rumqttd puts wrong topics on messages with aliases"
        assert (connect.username, connect.password, connect.keep_alive, connect.will) == (
            "gateway",
            b"secret",
            40,
            None,
        )
        peer.send(mqtt5.ConnAckPacket().write())
        asked = {wanted.pattern: wanted for wanted in await peer.granted() + await peer.granted()}
        assert set(asked) == {
            "+/devices/+/telemetry",
            "+/devices/+/telemetry/+",
            "$SYS/broker/publish/messages/dropped",
        }
        assert not any(pattern.startswith("$share") for pattern in asked)
        assert all(wanted.max_qos == 1 for wanted in asked.values()), (
            "RabbitMQ keeps what a lasting session has at QoS 0 on one node: with that node gone no other one"
            " resumed the session, whose queue they all had"
        )
        assert {wanted.retain_handling.name for wanted in asked.values()} == {
            "SEND_IF_SUBSCRIPTION_NOT_EXISTS"
        }
        assert not any(wanted.retain_as_published for wanted in asked.values())


async def test_the_default_receive_maximum_is_written_too(broker: Broker, database: Database) -> None:
    async with ingesting(settings_for(broker.port), database):
        connect = await (await broker.peer()).read()
    assert isinstance(connect, mqtt5.ConnectPacket) and connect.receive_max <= 65534


async def test_nothing_is_acknowledged_before_its_commit_and_then_in_order(
    peer: Peer, database: Database
) -> None:
    async def waits_for_the_lock() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval("select count(*) from pg_locks where not granted"))

    peer.send(publish(1, b'{"ts":1,"a":0}'))
    assert await peer.acks(1) == [1]
    async with database.transaction() as locking:
        await locking.execute("lock table telemetry, device in exclusive mode")
        peer.send(
            *(
                publish(packet_id, b'{"m%d":1}' % packet_id, f"acme/devices/d{packet_id}/telemetry")
                for packet_id in (7, 3, 9, 2)
            )
        )
        await wait_until(waits_for_the_lock, what="the commit waits", seconds=10)
        reading = asyncio.create_task(peer.acks(4))
        await asyncio.wait({reading}, timeout=0.2)
        assert not reading.done() and not peer._bytes
    assert await reading == [7, 3, 9, 2]
    assert await stored(database) == 4


async def test_what_came_on_a_lost_connection_is_not_acknowledged_on_the_next(
    broker: Broker, database: Database
) -> None:
    async with ingesting(settings_for(broker.port), database):
        first = await broker.peer()
        connect = await first.welcome()
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry, device in exclusive mode")
            first.send(publish(1, b'{"ts":%d,"a":1}' % now()), publish(2, b'{"ts":%d,"a":2}' % (now() - 60)))
            first.close()
            second = await broker.peer()
            again = await second.welcome(session_present=True)
            assert (again.client_id, again.clean_start) == (connect.client_id, False)
            second.send(publish(11, b'{"ts":%d,"a":3}' % (now() - 120)))
        assert await second.acks(1) == [11]
        assert await stored(database) == 3, "it was stored all the same"
        second.send(publish(12, b'{"a":4}'))
        assert await second.acks(1) == [12]


async def test_who_leaves_reads_what_still_comes_so_that_no_puback_is_lost_to_a_reset(
    broker: Broker, database: Database
) -> None:
    async def sends_on(to: Peer) -> None:
        number = 1
        while True:
            number = number % 65_000 + 1
            to.send(publish(number, b'{"ts":%d,"a":1}' % number) * 20)
            await asyncio.sleep(0)

    async with ingesting(settings_for(broker.port), database) as ingest:
        peer = await broker.peer()
        await peer.welcome()
        sending = asyncio.create_task(sends_on(peer))
        assert await peer.acks(20)
        leaving = asyncio.create_task(ingest.stop())
        said = await peer.ending()
        sending.cancel()
        peer.close()
        await leaving
    assert isinstance(said[-1], mqtt5.DisconnectPacket)


def now() -> int:
    return now_microseconds() // 1_000_000


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n" * 5, id="garbage"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="a length of five bytes"),
        pytest.param(publish(5, b"{}").replace(b"telemetry\0\5", b"telemetry\0\0"), id="packet id 0"),
        pytest.param(b"\x34" + publish(5, b"{}")[1:], id="QoS 2"),
        pytest.param(mqtt5.PublishPacket(TOPIC, payload=b"{}", topic_alias=1).write(), id="a topic alias"),
        pytest.param(b"\xf0" + (MAX_PACKET_BYTES + 1).to_bytes(4, "big"), id="a reserved packet type"),
        pytest.param(b"\x30\x04\0\0\0x", id="no topic"),
        pytest.param(mqtt5.ConnAckPacket().write(), id="a second CONNACK"),
    ],
)
async def test_a_malformed_packet_ends_the_connection_and_not_the_daemon(
    broker: Broker, database: Database, poison: bytes
) -> None:
    before = malformed()
    async with ingesting(settings_for(broker.port), database):
        peer = await broker.peer()
        await peer.welcome()
        peer.send(publish(1, b'{"ts":%d,"good":1}' % now()), poison, publish(6, b'{"never":1}'))
        said = await peer.ending()
        assert (
            isinstance(said[-1], mqtt5.DisconnectPacket) and said[-1].reason_code.name == "MALFORMED_PACKET"
        )
        assert malformed() == before + 1
        again = await broker.peer()
        await again.welcome(session_present=True)
        again.send(publish(1, b'{"a":1}'))
        assert await again.acks(1) == [1]
        async with database.connection() as connection:
            assert await connection.fetchval("select count(*) from telemetry where metrics ? 'good'") == 1
            assert await connection.fetchval("select count(*) from telemetry where metrics ? 'never'") == 0


async def test_oversized_packets_are_buried_and_acknowledged_between_the_others(
    peer: Peer, database: Database
) -> None:
    before = metrics.REGISTRY.get_sample_value("fieldgate_mqtt_oversized_messages_total") or 0
    large = b'{"a":"' + b"x" * (3 << 20) + b'"}'
    peer.send(publish(1, b'{"a":1}'), publish(2, large, "acme/devices/fan/telemetry"), publish(3, b'{"b":1}'))
    peer.send(
        publish(None, large, "acme/devices/valve/telemetry"),
        publish(4, b"x" * MAX_PACKET_BYTES, "acme/x"),
        publish(5, b'{"c":1}'),
    )
    assert await peer.acks(5) == [1, 2, 3, 4, 5]
    assert await buried(database) == dict.fromkeys(
        ["acme/devices/fan/telemetry", "acme/devices/valve/telemetry", "acme/x"], "oversized_packet"
    )
    assert (metrics.REGISTRY.get_sample_value("fieldgate_mqtt_oversized_messages_total") or 0) - before == 3
    async with database.connection() as connection:
        assert await connection.fetchval("select max(length(payload)) from dead_letter") == 64 << 10


async def test_packets_that_come_byte_by_byte_are_whole_at_the_end(peer: Peer) -> None:
    for byte in publish(1, b'{"a":1}') + publish(2, b'{"b":1}')[:9]:
        peer.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await peer.acks(1) == [1]
    peer.send(publish(2, b'{"b":1}')[9:])
    assert await peer.acks(1) == [2]


async def test_topics_that_no_broker_should_send_are_dead_letters(peer: Peer, database: Database) -> None:
    topics = ["acme/devices/\0/telemetry", "acme/devices/+/telemetry", "#", "acme/devices/pump/telemetry/\0"]
    for packet_id, topic in enumerate(topics, 1):  # by hand: the codec refuses to write them
        peer.send(
            bytes([0x32, len(topic) + 6]),
            len(topic).to_bytes(2, "big"),
            topic.encode(),
            packet_id.to_bytes(2, "big"),
            b"\0",
            b"1",
        )
    assert await peer.acks(len(topics)) == [1, 2, 3, 4]
    assert await buried(database) == {
        "acme/devices/\\0/telemetry": "invalid_identifier",
        "acme/devices/+/telemetry": "wrong_shape",
        "#": "unmatched_topic",
        "acme/devices/pump/telemetry/\\0": "invalid_metric",
    }


async def test_a_silent_broker_is_left_and_one_that_answers_is_kept(
    broker: Broker, database: Database
) -> None:
    async with ingesting(settings_for(broker.port, keepalive="1s"), database) as ingest:
        first = await broker.peer()
        await first.welcome()
        reading = asyncio.create_task(first.ending())
        second = await broker.peer()  # nobody answered the pings on the first
        await reading
        await second.welcome()
        reading = asyncio.create_task(second.ending())
        for _ in range(22):
            second.send(mqtt5.PingRespPacket().write())
            await asyncio.sleep(0.1)
        assert not reading.done() and ingest.connected
        await reading


async def test_silence_is_excused_while_messages_wait_for_their_commit(
    broker: Broker, database: Database
) -> None:
    """A broker whose window is full says nothing: the database away must not cost the session."""
    async with ingesting(settings_for(broker.port, keepalive="1s"), database):
        peer = await broker.peer()
        await peer.welcome()
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry, device in exclusive mode")
            peer.send(publish(1, b'{"a":1}'))
            reading = asyncio.create_task(peer.read())
            done, _ = await asyncio.wait({reading}, timeout=3.5)  # twice the silence that would end it
            assert not done
        assert isinstance(await reading, mqtt5.PubAckPacket)


async def test_the_broker_may_set_the_keepalive(broker: Broker, database: Database) -> None:
    async with ingesting(settings_for(broker.port, keepalive="600s"), database):
        peer = await broker.peer()
        await peer.welcome(server_keep_alive=1)
        reading = asyncio.create_task(peer.ending())
        await asyncio.wait_for(reading, 5 * PATIENCE)


async def test_a_broker_that_never_answers_connect_is_given_up(broker: Broker, database: Database) -> None:
    async with ingesting(settings_for(broker.port, connect_timeout="200ms"), database) as ingest:
        for _ in range(2):
            peer = await broker.peer()
            await peer.ending()
        assert not ingest.connected


@pytest.mark.parametrize(
    "reason", ["BAD_USER_NAME_OR_PASSWORD", "NOT_AUTHORIZED", "BANNED", "CLIENT_ID_NOT_VALID"]
)
async def test_a_refusal_for_good_ends_it_with_the_reason(
    broker: Broker, database: Database, reason: str
) -> None:
    running = asyncio.create_task(Ingest(settings_for(broker.port), database, "one").run())
    peer = await broker.peer()
    await peer.read()
    peer.send(mqtt5.ConnAckPacket(reason_code=getattr(mqtt5.ConnAckReasonCode, reason)).write())
    await asyncio.wait({running}, timeout=10 * PATIENCE)
    assert reason in str(innermost(running.exception()))


async def test_a_refused_subscription_ends_it_and_names_the_filter(
    broker: Broker, database: Database
) -> None:
    running = asyncio.create_task(Ingest(settings_for(broker.port), database, "one").run())
    peer = await broker.peer()
    await peer.read()
    peer.send(mqtt5.ConnAckPacket().write())
    await peer.read()
    good, bad = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, mqtt5.SubAckReasonCode.NOT_AUTHORIZED
    peer.send(mqtt5.SubAckPacket(1, [good, bad]).write())
    await asyncio.wait({running}, timeout=10 * PATIENCE)
    assert "+/devices/+/telemetry/+ (NOT_AUTHORIZED)" in str(innermost(running.exception()))


@pytest.mark.parametrize("closes", [True, False])
async def test_a_broker_that_refuses_its_counters_is_served_without(
    broker: Broker, database: Database, closes: bool
) -> None:
    """By its answer, or as rumqttd does by closing the connection."""
    async with ingesting(settings_for(broker.port), database) as ingest:
        peer = await broker.peer()
        await peer.read()
        peer.send(mqtt5.ConnAckPacket().write())
        await peer.granted()
        assert isinstance(await peer.read(), mqtt5.SubscribePacket)
        assert not ingest.connected
        if closes:
            peer.close()
            peer = await broker.peer()
            await peer.read()
            peer.send(mqtt5.ConnAckPacket().write())
            assert {wanted.pattern for wanted in await peer.granted()} == {
                "+/devices/+/telemetry",
                "+/devices/+/telemetry/+",
            }
        else:
            peer.send(mqtt5.SubAckPacket(3, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]).write())
        await wait_until(lambda: ingest.connected, what="the session is up", seconds=5)
        peer.send(publish(1, b'{"a":1}'))
        assert await peer.acks(1) == [1]


def innermost(error: BaseException | None) -> BrokerRefused:
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, BrokerRefused)
    return error


async def test_a_passing_refusal_is_waited_for(broker: Broker, database: Database) -> None:
    async with ingesting(settings_for(broker.port), database) as ingest:
        peer = await broker.peer()
        await peer.read()
        peer.send(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY).write())
        again = await broker.peer()
        await again.welcome()
        await wait_until(lambda: ingest.connected, what="connected", seconds=5)


async def test_the_brokers_count_of_dropped_messages_is_a_metric_and_no_sample(
    peer: Peer, database: Database
) -> None:
    topic = "$SYS/broker/publish/messages/dropped"
    peer.send(
        publish(None, b"949", topic),
        publish(1, b"950", topic),
        publish(2, b"9" * 5000, topic),
        publish(3, b"x", topic),
        publish(4, b'{"a":1}'),
    )
    assert await peer.acks(4) == [1, 2, 3, 4]
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_broker_dropped_messages") == 950
    assert await buried(database) == {}


async def test_stop_commits_and_acknowledges_what_is_in_hand_then_says_disconnect(
    broker: Broker, database: Database
) -> None:
    async with ingesting(settings_for(broker.port), database) as ingest:
        peer = await broker.peer()
        await peer.welcome()
        await wait_until(lambda: ingest.connected, what="connected", seconds=5)
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry, device in exclusive mode")
            peer.send(*(publish(number, b'{"ts":%d,"a":1}' % (now() - number)) for number in range(1, 101)))
            partition = ingest._ours[0][0]
            await wait_until(lambda: partition._pipeline.is_holding, what="messages are in hand", seconds=5)
            stopping = asyncio.create_task(ingest.stop())
            await asyncio.sleep(0)
        said = await peer.ending()
        await stopping
        acked = [packet.packet_id for packet in said if isinstance(packet, mqtt5.PubAckPacket)]
        assert acked == list(range(1, len(acked) + 1)) and acked
        assert isinstance(said[-1], mqtt5.DisconnectPacket) and said[-1].reason_code.value == 0
        assert await stored(database) == len(acked)
        async with database.connection() as connection:
            assert not await connection.fetchval(
                "select count(*) from lease where name = 'ingest/0' and lease_until > now() and owner = 'one'"
            )
