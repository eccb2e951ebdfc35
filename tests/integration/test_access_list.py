"""mosquitto/acl with the gateway's commands behind it: a customer sees and changes nothing of another
customer, by any topic.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.settings import Settings
from gateway.store.pool import Database
from tests.fixtures.commanding import ROOT, Service, commanded, holder
from tests.integration.test_mosquitto_files import (
    NOT_AUTHORIZED,
    PASSWORDS,
    Broker,
    Client,
    broker,
    process,
    wait_for,
)

__all__ = ["broker", "process"]

OURS, THEIRS = f"{ROOT}/customers/acme", f"{ROOT}/customers/globex"
BELOW = (
    "connections/c/status",
    "connections/c/issues/1",
    "connections/c/records/readings/1",
    "devices/pump-1/status",
    "events/connection.activated",
    "responses/me",
)
"""What the gateway tells a customer."""


@pytest.fixture
async def service(
    broker: Broker, process: subprocess.Popen[bytes], database: Database
) -> AsyncIterator[Service]:
    settings = Settings.model_validate(
        {
            "broker": {
                "url": f"mqtts://localhost:{broker.port}",
                "username": "gateway",
                "password": PASSWORDS["gateway"],
                "ca_file": str(broker.directory / "certificates" / "ca.crt"),
            },
            "security": {"encryption_keys": ["k"]},
            "customers": ["acme", "globex"],
        }
    )
    async with commanded(settings, database) as found:
        while await holder(database) is None:
            await asyncio.sleep(0.01)
        yield found


def ask(client: Client, customer: str, verb: str, payload: bytes, reply: str) -> int:
    """The PUBACK's reason."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = reply
    properties.CorrelationData = reply.encode()
    mid = client._client.publish(
        f"{ROOT}/customers/{customer}/commands/{verb}", payload, qos=1, properties=properties
    ).mid
    wait_for(lambda: mid in client.puback, "PUBACK")
    return client.puback[mid]


def ask_until_answered(client: Client, customer: str) -> None:
    """Everything that was asked before is dealt with when this one is answered."""
    fence = f"{ROOT}/customers/{customer}/responses/fence"
    for _ in range(100):
        ask(client, customer, "status", b"", fence)
        try:
            wait_for(lambda: any(topic == fence for topic, _ in client.received), "the answer", seconds=0.3)
        except AssertionError:
            continue
        return
    raise AssertionError("no answer")


def test_a_customer_reads_what_it_is_told_and_nothing_of_another(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway, Client(broker, "acme", "acme-1") as acme:
        for below in BELOW:
            for customer in (OURS, THEIRS):
                assert gateway.publish(f"{customer}/{below}", b"retained", retain=True) in (0, 0x10)
        gateway.publish(f"{ROOT}/gateway/status", b"retained", retain=True)
        for wildcard in (
            "#",
            "+/#",
            f"{ROOT}/#",
            f"{ROOT}/customers/#",
            f"{ROOT}/customers/+/+/#",
            f"{THEIRS}/#",
            f"$share/g/{THEIRS}/#",
            f"{THEIRS}/commands/+",
            "globex/#",
        ):
            acme.subscribe(wildcard)
        wait_for(
            lambda: (
                {topic for topic, _ in acme.received}
                >= {f"{ROOT}/gateway/status", *(f"{OURS}/{below}" for below in BELOW)}
            ),
            "what is retained",
        )
        for below in (*BELOW, "commands/status"):
            gateway.publish(f"{THEIRS}/{below}", b"live")
        gateway.publish("globex/devices/pump-1/telemetry", b"live")
        gateway.publish(f"{ROOT}/gateway/events/incident.opened", b"live")
        gateway.publish(f"{ROOT}/replicas/one/status", b"live")
        gateway.publish(
            f"{OURS}/commands/status", b"live"
        )  # of another device of its own: has a response topic that is not its affair
        gateway.publish(f"{OURS}/responses/last", b"live")
        wait_for(
            lambda: any(topic == f"{OURS}/responses/last" for topic, _ in acme.received), "the last message"
        )
        seen = {topic for topic, _ in acme.received}
    assert seen == {
        f"{ROOT}/gateway/status",
        f"{OURS}/responses/last",
        *(f"{OURS}/{below}" for below in BELOW),
    }


@pytest.mark.parametrize("retain", [False, True])
def test_a_customer_writes_its_telemetry_and_its_commands_and_nothing_else(
    broker: Broker, process: subprocess.Popen[bytes], retain: bool
) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway, Client(broker, "acme", "acme-1") as acme:
        gateway.subscribe("#")
        for topic in (
            *(f"{THEIRS}/{below}" for below in (*BELOW, "commands/status", "commands/sync")),
            *(f"{OURS}/{below}" for below in BELOW),
            f"{ROOT}/gateway/status",
            f"{ROOT}/gateway/events/incident.opened",
            f"{ROOT}/replicas/one/status",
            f"{ROOT}/customers/commands/sync",
            f"{ROOT}/customers/acme/globex/commands/sync",
            "globex/devices/pump-1/telemetry",
            "devices/pump-1/telemetry",
        ):
            assert acme.publish(topic, b"forged", retain=retain) == NOT_AUTHORIZED, topic
        assert acme.publish("acme/devices/pump-1/telemetry", b"mine") == 0
        assert acme.publish(f"{OURS}/commands/status", b"mine") == 0
        wait_for(lambda: len(gateway.received) >= 2, "what is allowed")
        assert {payload for _, payload in gateway.received} == {b"mine"}


def test_a_last_will_reaches_no_further(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway:
        gateway.subscribe("#")
        for topic in (
            f"{THEIRS}/commands/sync",
            f"{THEIRS}/connections/c/status",
            f"{OURS}/connections/c/status",
            "acme/devices/pump-1/telemetry",
        ):
            dying = Client(broker, "acme", "dying")
            dying._client.will_set(topic, b"will", qos=1)
            with dying:
                dying._client.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=4))
        wait_for(lambda: bool(gateway.received), "the will that is allowed")
        assert [topic for topic, _ in gateway.received] == ["acme/devices/pump-1/telemetry"]


async def test_commands_are_answered_over_the_access_list_to_the_one_who_may_ask(
    broker: Broker, service: Service
) -> None:
    await asyncio.to_thread(try_everything, broker, service)


def try_everything(broker: Broker, service: Service) -> None:
    with Client(broker, "acme", "acme-1") as acme, Client(broker, "globex", "globex-1") as globex:
        for client, customer in ((acme, OURS), (globex, THEIRS)):
            client.subscribe(f"{customer}/#")
        ask_until_answered(acme, "acme")
        ask_until_answered(globex, "globex")
        assert all(b"acme-1" in payload and b"globex" not in payload for _, payload in acme.received)
        assert all(b"globex-1" in payload and b"acme" not in payload for _, payload in globex.received)
        acme.received.clear()
        globex.received.clear()

        # As another customer: the broker stops it.
        assert (
            ask(acme, "globex", "sync", b'{"connection": "globex-1"}', f"{OURS}/responses/me")
            == NOT_AUTHORIZED
        )
        assert ask(acme, "globex", "status", b"", f"{OURS}/responses/me") == NOT_AUTHORIZED
        # About another customer: it does not exist.
        assert ask(acme, "acme", "sync", b'{"connection": "globex-1"}', f"{OURS}/responses/me") == 0
        # Into another customer's topics, or into topics that are believed: the gateway, which may write them,
        # does not.
        for reply in (
            *(f"{THEIRS}/{below}" for below in (*BELOW, "commands/sync")),
            f"{OURS}/connections/acme-1/status",
            f"{OURS}/responses/+",
            f"{ROOT}/gateway/status",
        ):
            if "+" not in reply:  # the broker itself refuses such a packet
                assert ask(acme, "acme", "sync", b'{"connection": "acme-1"}', reply) == 0
                assert ask(acme, "acme", "status", b"", reply) == 0
        ask_until_answered(acme, "acme")
        ask_until_answered(globex, "globex")
        assert service.asked == []
        assert {topic for topic, _ in globex.received} == {f"{THEIRS}/responses/fence"}
        assert {topic for topic, _ in acme.received} == {f"{OURS}/responses/fence", f"{OURS}/responses/me"}
        [refused] = [payload for topic, payload in acme.received if topic.endswith("/me")]
        assert b"request.not_found" in refused
