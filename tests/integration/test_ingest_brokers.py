"""Ingest on real brokers and a real database: what arrives, what survives, and who serves a partition."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import mqtt5
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.mqtt import Publisher
from benchmarks.relay import Relay
from benchmarks.servers import PATIENCE, Mosquitto, Postgres, patient, wait_until
from gateway import clock, metrics
from gateway.ingest import Ingest
from gateway.model.errors import BrokerRefused, ConfigError
from gateway.model.topics import partition_of
from gateway.settings import Settings
from gateway.store import sessions
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.memory import in_memory

TOPIC = "acme/devices/pump/telemetry"


def settings_for(
    url: str | int | list[str],
    *,
    lease: str = "15s",
    telemetry: dict[str, object] | None = None,
    **broker: object,
) -> Settings:
    return Settings.model_validate({
        "broker": {"url": f"mqtt://127.0.0.1:{url}" if isinstance(url, int) else url, **broker},
        "security": {"encryption_keys": ["k"]},
        "telemetry": {"auto_register_customers": True, **(telemetry or {})},
        "sync": {"lease": lease},
    })  # fmt: skip


@asynccontextmanager
async def ingesting(settings: Settings, database: Database, replica: str = "one") -> AsyncIterator[Ingest]:
    """Runs until the block ends, and is then cancelled: nothing is released."""
    ingest = Ingest(settings, database, replica)
    task = asyncio.create_task(ingest.run())
    try:
        await wait_until(lambda: ingest.connected or task.done(), what="the session is up", seconds=15)
        assert not task.done(), task.exception()
        yield ingest
    finally:
        task.cancel()
        await asyncio.wait({task})


async def publish(port: int, *messages: tuple[str, bytes]) -> None:
    """At QoS 1; returns when the broker has them."""
    async with Publisher[None](port, "device") as publisher:
        for topic, payload in messages:
            await publisher.publish(topic, payload, None)
        await publisher.flush(20)


async def publish_with_keepalive(port: int, *messages: tuple[str, bytes]) -> None:
    """At QoS 1, one by one: rumqttd refuses the keepalive 0 of the fast publisher."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(mqtt5.ConnectPacket("device", clean_start=True, keep_alive=60).write())
    async with patient(20):
        mqtt5.read(await reader.read(1024))
        for topic, payload in messages:
            writer.write(
                mqtt5.PublishPacket(topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1).write()
            )
            packet, _ = mqtt5.read(await reader.read(1024))
            assert isinstance(packet, mqtt5.PubAckPacket)
    writer.close()


async def publish_retained(port: int, *messages: tuple[str, bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(mqtt5.ConnectPacket("retainer", clean_start=True, keep_alive=60).write())
    async with patient(20):
        mqtt5.read(await reader.read(1024))
        for topic, payload in messages:
            packet = mqtt5.PublishPacket(
                topic, payload=payload, retain=True, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1
            )
            writer.write(packet.write())
            answer, _ = mqtt5.read(await reader.read(1024))
            assert isinstance(answer, mqtt5.PubAckPacket)
    writer.close()


async def publish_qos0(port: int, *messages: tuple[str, bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(mqtt5.ConnectPacket("device-0", clean_start=True, keep_alive=60).write())
    await reader.read(1024)
    for topic, payload in messages:
        writer.write(mqtt5.PublishPacket(topic, payload=payload).write())
    writer.write(mqtt5.PingReqPacket().write())
    await writer.drain()
    await reader.read(1024)
    writer.close()


def samples(count: int, *, since: int = 0, topic: str = TOPIC) -> list[tuple[str, bytes]]:
    start = clock.now_microseconds() // 1_000_000 - 80_000
    return [(topic, b'{"ts":%d,"a":%d}' % (start + number, number)) for number in range(since, since + count)]


async def value(database: Database, query: str) -> object:
    async with database.connection() as connection:
        return await connection.fetchval(query)


async def reaches(database: Database, wanted: int, *, table: str = "telemetry", seconds: float = 15) -> None:
    async def holds() -> bool:
        return await value(database, f"select count(*) from {table}") == wanted

    await wait_until(holds, what=f"{table} has {wanted} rows", seconds=seconds)


async def reasons(database: Database) -> dict[str, str]:
    async with database.connection() as connection:
        return {
            row["topic"]: row["reason"]
            for row in await connection.fetch("select topic, reason from dead_letter")
        }


def metric(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"fieldgate_{name}", labels) or 0


async def refusal(settings: Settings, database: Database) -> BaseException:
    """What ends an Ingest that cannot work."""
    async with patient(15):
        try:
            await Ingest(settings, database, "one").run()
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                (error,) = error.exceptions
            return error
    raise AssertionError("it ended without a word")


# Messages


async def test_mosquitto_both_qualities_and_dead_letters(mosquitto: Mosquitto, database: Database) -> None:
    async with ingesting(settings_for(mosquitto.port), database):
        await publish(
            mosquitto.port,
            *samples(300),
            (f"{TOPIC}/rpm", b"9"),
            (TOPIC, b"{"),
            ("acme/devices/pu mp/telemetry", b"{}"),
            ("acme/other", b"1"),
        )
        await publish_qos0(mosquitto.port, *samples(20, since=1000), (f"{TOPIC}/x", b"nan"))
        await reaches(database, 321)
        await reaches(database, 3, table="dead_letter")
        assert await reasons(database) == {
            TOPIC: "invalid_json",
            "acme/devices/pu mp/telemetry": "empty",
            f"{TOPIC}/x": "not_finite",
        }


async def test_rumqttd_both_qualities(rumqttd: int, database: Database) -> None:
    """Its window is 100, it knows no expiry, and it writes topic aliases to whoever allows them."""
    async with ingesting(settings_for(rumqttd), database):
        await publish_with_keepalive(
            rumqttd, *samples(300), *samples(300, topic="acme/devices/fan/telemetry"), (TOPIC, b"{")
        )
        await publish_qos0(rumqttd, *samples(10, since=1000))
        await reaches(database, 610)
        await reaches(database, 1, table="dead_letter")
        assert await value(database, "select count(*) from telemetry where device_id = 'fan'") == 300


async def test_retained_messages_come_once_and_not_at_every_connection(
    mosquitto: Mosquitto, database: Database
) -> None:
    await publish(mosquitto.port, *samples(1))
    timed = ("acme/devices/fan/telemetry", samples(1)[0][1])
    await publish_retained(mosquitto.port, timed, (f"{TOPIC}/rpm", b"9"))
    ignored = metric("mqtt_messages_total", outcome="ignored_retained")
    for _ in range(2):
        async with ingesting(settings_for(mosquitto.port, lease="1s"), database, "same"):
            await reaches(database, 1)
            await publish(mosquitto.port, ("acme/devices/mark/telemetry", b"{"))

            async def marked() -> bool:
                return bool(await value(database, "select count(*) from dead_letter"))

            await wait_until(marked, what="what came behind it", seconds=10)
            await reaches(database, 1)
        async with database.connection() as connection:
            await connection.execute("delete from dead_letter")
    assert metric("mqtt_messages_total", outcome="ignored_retained") == ignored + 1
    assert await value(database, "select string_agg(device_id, ',') from telemetry") == "fan"


@pytest.mark.parametrize("broker", ["mosquitto", "rumqttd"])
async def test_what_devices_publish_to_be_retained_is_live_for_who_is_subscribed(
    broker: str, mosquitto: Mosquitto, rumqttd: int, database: Database
) -> None:
    """Many devices retain everything: only what the broker had before the subscription is no new reading."""
    port = mosquitto.port if broker == "mosquitto" else rumqttd
    before = {
        name: metric("mqtt_messages_total", outcome=name) for name in ("ignored_empty", "ignored_retained")
    }
    async with ingesting(settings_for(port), database):
        await publish_retained(port, (f"{TOPIC}/rpm", b"9"), (TOPIC, b'{"a":1}'), (TOPIC, b""))
        await reaches(database, 2)
        await publish_with_keepalive(port, (TOPIC, b"{"))
        await reaches(database, 1, table="dead_letter")
    risen = {name: metric("mqtt_messages_total", outcome=name) - count for name, count in before.items()}
    assert risen["ignored_retained"] == 0 and risen["ignored_empty"] in (0, 1)


async def test_expired_messages_before_fresh_ones_do_not_stall_the_session(
    mosquitto: Mosquitto, database: Database
) -> None:
    """Mosquitto stops when an acknowledgement promotes only expired messages: our window is larger than any
    such run.
    """
    settings = settings_for(mosquitto.port, lease="1s")
    async with ingesting(settings, database) as ingest:
        await ingest.stop()
    reader, writer = await asyncio.open_connection("127.0.0.1", mosquitto.port)
    writer.write(mqtt5.ConnectPacket("expiring", clean_start=True).write())
    for number in range(1, 201):
        packet = mqtt5.PublishPacket(
            f"{TOPIC}/e{number}",
            payload=b"1",
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=number,
            message_expiry_interval=1,
        )
        writer.write(packet.write())
    received = 0
    while received < 200 * 4:
        received += len(await asyncio.wait_for(reader.read(65536), 5 * PATIENCE))
    writer.close()
    expired_at = clock.monotonic() + 2.1
    await wait_until(lambda: clock.monotonic() > expired_at, what="the messages have expired")
    await publish(mosquitto.port, *samples(3))
    async with ingesting(settings, database):
        await publish(mosquitto.port, *samples(3, since=10))
        await reaches(database, 6)


async def test_qos_0_beyond_the_queue_is_dropped_and_counted(
    mosquitto: Mosquitto, database: Database
) -> None:
    before = metric("mqtt_messages_total", outcome="dropped_qos0")
    async with ingesting(settings_for(mosquitto.port, telemetry={"qos0_queue": 50}), database):
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry, device in exclusive mode")
            await publish_qos0(mosquitto.port, *samples(400))
            await wait_until(
                lambda: metric("mqtt_messages_total", outcome="dropped_qos0") == before + 350,
                what="350 were dropped",
                seconds=10,
            )
            await publish(mosquitto.port, *samples(100, since=1000))
        await reaches(database, 150)


async def test_a_sample_that_the_database_refuses_does_not_stop_the_others(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with database.connection() as connection:
        await connection.execute("alter table telemetry add check (not metrics ? 'poison')")
    async with ingesting(settings_for(mosquitto.port), database):
        await publish(
            mosquitto.port,
            *samples(60),
            (TOPIC, b'{"poison":1}'),
            *samples(60, since=60),
            ("acme/devices/fan/telemetry", b'{"poison":2}'),
        )
        await reaches(database, 120)
        await reaches(database, 2, table="dead_letter")
        assert await reasons(database) == dict.fromkeys(
            [TOPIC, "acme/devices/fan/telemetry"], "refused_by_database"
        )


# Sessions


async def test_filters_that_left_the_configuration_are_unsubscribed(
    mosquitto: Mosquitto, database: Database
) -> None:
    both: list[dict[str, object]] = [
        {"topic": "{customer}/devices/{device}/telemetry"},
        {"topic": "old/{customer}/{device}"},
    ]
    async with ingesting(settings_for(mosquitto.port, telemetry={"sources": both}), database) as ingest:
        await publish(mosquitto.port, ("old/acme/pump", b'{"a":1}'), *samples(1))
        await reaches(database, 2)
        await ingest.stop()
    async with ingesting(settings_for(mosquitto.port, telemetry={"sources": both[:1]}), database):
        await publish(mosquitto.port, ("old/acme/pump", b'{"a":2}'), *samples(1, since=5))
        await reaches(database, 3)
        assert await value(database, "select count(*) from dead_letter") == 0, (
            "the broker still sends what nobody asks for"
        )
        assert (
            await value(database, "select string_agg(filter, ' ') from ingest_subscription")
            == "+/devices/+/telemetry"
        )


async def test_a_broker_restart_loses_nothing(mosquitto: Mosquitto, database: Database) -> None:
    async with ingesting(settings_for(mosquitto.port), database) as ingest:
        await publish(mosquitto.port, *samples(50))
        await mosquitto.stop()
        await wait_until(lambda: not ingest.connected, what="the end is noticed", seconds=5)
        await mosquitto.start()
        await publish(mosquitto.port, *samples(50, since=50))
        await reaches(database, 100)
        await wait_until(lambda: ingest.connected, what="the session is up again", seconds=15)


async def test_a_broker_that_starts_later_is_waited_for(mosquitto: Mosquitto, database: Database) -> None:
    await mosquitto.stop()
    ingest = Ingest(settings_for(mosquitto.port), database, "one")
    before = metric("mqtt_reconnects_total")
    task = asyncio.create_task(ingest.run())
    await wait_until(
        lambda: metric("mqtt_reconnects_total") > before, what="a first attempt has failed", seconds=5
    )
    await mosquitto.start()
    await wait_until(lambda: ingest.connected, what="the session is up", seconds=15)
    task.cancel()
    await asyncio.wait({task})


async def test_the_database_may_die_and_return_within_one_session(mosquitto: Mosquitto) -> None:
    server = Postgres(in_memory(), fsync="off")
    try:
        await server.start()
        database = await Database.open(await server.create("telemetry"), size=4)
        await migrate(database)
        before = metric("mqtt_reconnects_total")
        async with (
            Relay(mosquitto.port) as relay,
            ingesting(settings_for(relay.port, keepalive="1s"), database) as ingest,
        ):
            session = ingest._ours[0][0]._session
            await publish(mosquitto.port, *samples(50))
            await reaches(database, 50)
            await server.kill()
            await publish(mosquitto.port, *samples(50, since=50), (TOPIC, b"{"))
            away_until = clock.monotonic() + 2.5  # longer than the silence that ends a session
            await wait_until(
                lambda: clock.monotonic() > away_until or not ingest.connected,
                what="the keepalive has passed",
            )
            assert ingest.connected
            await server.start()
            await reaches(database, 100, seconds=30)
            await reaches(database, 1, table="dead_letter")
            assert ingest._ours[0][0]._session is session and metric("mqtt_reconnects_total") == before
        await database.close()
    finally:
        await server.stop()
        server.remove()


async def test_reading_pauses_by_bytes_and_goes_on(mosquitto: Mosquitto, database: Database) -> None:
    limits: dict[str, object] = {"memory_high_bytes": 1 << 20, "memory_low_bytes": 1 << 18}
    messages = [(topic, payload[:-1] + b',"text":"%s"}' % (b"x" * 1000)) for topic, payload in samples(4000)]
    async with ingesting(settings_for(mosquitto.port, telemetry=limits), database) as ingest:
        pipeline = ingest._ours[0][0]._pipeline
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry, device in exclusive mode")
            await publish(mosquitto.port, *messages)
            await wait_until(
                lambda: metric("mqtt_reading_paused", partition="0") == 1,
                what="reading is paused",
                seconds=10,
            )
            assert (1 << 20) < pipeline._in_hand.bytes < 4 << 20, "one read more than the mark, at most"
        await reaches(database, 4000)
        await wait_until(lambda: not pipeline.is_holding, what="all is acknowledged", seconds=5)
        assert metric("mqtt_reading_paused", partition="0") == 0 and pipeline._in_hand.bytes == 0


# Who may


async def test_wrong_credentials_end_it_with_advice(tmp_path: Path, database: Database) -> None:
    broker = Mosquitto(tmp_path / "closed", persistent=False, anonymous=False)
    await broker.start()
    try:
        error = await refusal(settings_for(broker.port, username="gateway", password="wrong"), database)
    finally:
        await broker.stop()
    assert isinstance(error, BrokerRefused)
    assert "NOT_AUTHORIZED" in str(error) and "broker.username" in str(error)
    assert "wrong" not in str(error)


class Authority:
    """A certificate authority and what it signs, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.file = self._write(
            "ca", self._build(self._name, self._key.public_key(), authority=True), self._key
        )[0]

    def issue(self, name: str) -> tuple[str, str]:
        """The paths of a certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(
            name,
            self._build(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), authority=False
            ),
            key,
        )

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        now = clock.now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
        )
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        return builder.sign(self._key, hashes.SHA256())

    def _write(
        self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> tuple[str, str]:
        certificate_path, key_path = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        key_path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        )
        return str(certificate_path), str(key_path)


async def test_tls_with_a_client_certificate(tmp_path: Path, database: Database) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker")
    client_certificate, client_key = authority.issue("gateway")
    broker = Mosquitto(tmp_path / "tls", persistent=False)
    with (tmp_path / "tls" / "mosquitto.conf").open("a") as configuration:
        configuration.write(
            f"cafile {authority.file}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate"
            " true\nuse_identity_as_username true\n"
        )
    await broker.start()
    url = f"mqtts://127.0.0.1:{broker.port}"
    try:
        whole = {
            "ca_file": authority.file,
            "client_certificate": client_certificate,
            "client_key": client_key,
        }
        settings = settings_for(url, **whole)
        async with ingesting(settings, database) as ingest:
            assert ingest.connected
            await ingest.stop()
        before = metric("mqtt_reconnects_total")
        for broker_settings in (
            {"ca_file": authority.file},
            {"client_certificate": client_certificate, "client_key": client_key},
        ):
            unwelcome = Ingest(settings_for(url, **broker_settings), database, "one")
            task = asyncio.create_task(unwelcome.run())
            await wait_until(
                lambda before=before: metric("mqtt_reconnects_total") > before,
                what="it is refused",
                seconds=10,
            )
            assert not unwelcome.connected and not task.done()
            task.cancel()
            await asyncio.wait({task})
            before = metric("mqtt_reconnects_total")
        error = await refusal(settings_for(url, ca_file=str(tmp_path / "missing.crt")), database)
        assert isinstance(error, ConfigError) and "ca_file" in str(error)
    finally:
        await broker.stop()


async def test_a_client_id_is_stable_and_cannot_be_guessed(
    database: Database, postgres_server: Postgres
) -> None:
    """Whoever knows it can end the session and its queue: it hangs on a seed that only the database knows."""
    ids = [
        await sessions.client_id(database, instance, number)
        for instance in ("fieldgate", "other")
        for number in (0, 1)
    ]
    assert len(set(ids)) == 4 and all(re.fullmatch(r"fg-[0-9a-f]{20}", client) for client in ids)
    assert [await sessions.client_id(database, "fieldgate", number) for number in (0, 1)] == ids[:2]
    elsewhere = await Database.open(await postgres_server.create("elsewhere"), size=3)
    await migrate(elsewhere)
    assert await sessions.client_id(elsewhere, "fieldgate", 0) not in ids
    await elsewhere.close()


# Who serves


async def test_two_replicas_share_the_partitions_and_one_takes_over_what_the_other_left(
    mosquitto: Mosquitto, database: Database
) -> None:
    customers = [f"c{number}" for number in range(8)]
    assert {partition_of(customer, 2) for customer in customers} == {0, 1}
    base = settings_for(
        mosquitto.port, lease="1s", partitions=2, telemetry={"auto_register_customers": False}
    )
    settings = base.model_copy(update={"customers": tuple(customers)})
    async with database.connection() as connection:
        await connection.execute("insert into customer (customer_id) select unnest($1::text[])", customers)
    async with ingesting(settings, database, "one") as one:
        assert len(one._ours) == 2
        async with ingesting(settings, database, "two") as two:
            await wait_until(
                lambda: one.connected and two.connected and len(one._ours) == len(two._ours) == 1,
                what="one partition each",
                seconds=10,
            )
            await publish(
                mosquitto.port,
                *(
                    pair
                    for customer in customers
                    for pair in samples(5, topic=f"{customer}/devices/d/telemetry")
                ),
            )
            await reaches(database, 40)
        # `two` was cancelled and released nothing
        await publish(
            mosquitto.port,
            *(
                pair
                for customer in customers
                for pair in samples(5, since=5, topic=f"{customer}/devices/d/telemetry")
            ),
        )
        await wait_until(
            lambda: len(one._ours) == 2 and one.connected, what="all partitions are taken over", seconds=10
        )
        await reaches(database, 80)
        assert await value(database, "select count(*) from dead_letter") == 0


async def test_a_killed_brokers_persisted_session_is_resumed_under_the_same_client_id(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with ingesting(settings_for(mosquitto.port, lease="1s"), database, "one"):
        await publish(mosquitto.port, *samples(5))
        await reaches(database, 5)
    await publish(mosquitto.port, *samples(20, since=5))
    await mosquitto.stop(signal.SIGTERM)
    await mosquitto.start()
    async with ingesting(settings_for(mosquitto.port, lease="1s"), database, "two"):
        await reaches(database, 25)


async def test_of_filters_that_overlap_a_message_is_one_sample(
    mosquitto: Mosquitto, database: Database
) -> None:
    """Mosquitto sends a copy for each filter; none of these messages has a time of its own to be known by."""
    sources = [
        {"topic": "{customer}/{device}/telemetry"},
        {"topic": "acme/{metric}/{device}", "customer": "acme"},
        {"topic": "{customer}/{device...}"},
    ]
    settings = settings_for(mosquitto.port, telemetry={"sources": sources})
    sent = [
        (topic, b'{"t": %d}' % number)
        for number in range(100)
        for topic in ("acme/p/telemetry", "acme/x/q", "acme/z")
    ]
    async with ingesting(settings, database):
        await publish(mosquitto.port, *sent[:150])
        await wait_until_stored(database, 150)
    async with ingesting(settings, database, "two"):  # the session is resumed, with the copies that it has
        await publish(mosquitto.port, *sent[150:])
        await wait_until_stored(database, 300)
        # what is surplus has come by then: the broker keeps the order
        await publish(mosquitto.port, ("acme/last", b'{"t": 1}'))
        await wait_until_stored(database, 301)
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select device_id, count(*) as held from telemetry group by 1 order by 1"
        )
    assert {row["device_id"]: row["held"] for row in rows} == {"last": 1, "p": 100, "q": 100, "z": 100}


async def wait_until_stored(database: Database, count: int) -> None:
    async with patient(30):
        while True:
            async with database.connection() as connection:
                held = await connection.fetchval("select count(*) from telemetry")
            if held >= count:
                return
            await asyncio.sleep(0.05)
