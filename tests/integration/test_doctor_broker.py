"""What the doctor sees of a broker: real ones, each with one fault made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.servers import Mosquitto, wait_until
from gateway.doctor import Doctor
from gateway.model.diagnosis import Finding, Looked, Severity
from gateway.model.diagnosis_broker import BrokerFacts, BrokerNeeds, judge_queue, judge_session
from tests.contract.pki import make_authority
from tests.fixtures.connection_rig import settings

BROKER_CHECKS = ("broker", "broker access", "broker queue")
Make = Callable[..., Awaitable[Mosquitto]]


async def looked(url: str, **broker: Any) -> dict[str, Looked]:
    """By check."""
    wanted = settings(broker={"url": url, **broker})
    report = await Doctor(wanted, database=None, keys=frozenset()).examine(BROKER_CHECKS)
    return {each.check: each.looked for each in report.checks}


async def only_finding(url: str, check: str, **broker: Any) -> Finding:
    """All that is found, by this check."""
    seen = await looked(url, **broker)
    assert [name for name, each in seen.items() if each.findings] == [check], seen
    [found] = seen[check].findings
    assert found.advice and found.where.startswith(url)
    return found


async def heard(port: int, topic: str) -> list[str]:
    """Topics that are retained."""
    topics: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    client.on_message = lambda _c, _u, message: topics.append(message.topic)
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(done.set)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(topic, qos=1)
    await done.wait()
    await asyncio.sleep(0.1)  # what is retained comes with the SUBACK
    client.disconnect()
    client.loop_stop()
    return topics


async def test_a_broker_that_is_well_gives_nothing_and_keeps_nothing_of_the_look(
    mosquitto: Mosquitto,
) -> None:
    seen = await looked(mosquitto.url)
    assert not any(each.findings for each in seen.values()), seen
    assert await heard(mosquitto.port, "fieldgate/#") == []


async def test_one_that_is_away_is_one_finding() -> None:
    found = await only_finding("mqtt://127.0.0.1:1", "broker")
    assert found.severity is Severity.PROBLEM and "refused" in found.what


async def test_credentials_that_are_refused(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "closed", persistent=False, anonymous=False)
    await broker.start()
    try:
        found = await only_finding(broker.url, "broker", username="gateway", password="wrong")
        assert "Not authorized" in found.what
    finally:
        await broker.stop()


async def test_a_listener_that_takes_qos_0_only(make_mosquitto: Make) -> None:
    broker = await make_mosquitto("max_qos 0")
    seen = await looked(broker.url)
    assert "QoS 0 only" in seen["broker"].findings[0].what
    assert "granted at QoS 0" in seen["broker access"].findings[0].what
    assert not any(each.findings for each in (await looked(broker.url, allow_qos0=True)).values())


async def test_one_that_retains_nothing(make_mosquitto: Make) -> None:
    broker = await make_mosquitto("retain_available false")
    assert "retained" in (await only_finding(broker.url, "broker")).what


async def test_packets_that_are_too_small_for_documents(make_mosquitto: Make) -> None:
    broker = await make_mosquitto("max_packet_size 2000")
    assert "2000 bytes" in (await only_finding(broker.url, "broker")).what


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("topic read #\n", "publishing is refused"),
        ("topic write #\n", "does not come back"),
        ("topic readwrite fieldgate/v1/gateway/#\ntopic read +/devices/#\n", "publishing is refused"),
    ],
    ids=["may not write", "may not read", "may write one part"],
)
async def test_an_access_list_that_lacks_what_the_gateway_does(
    make_mosquitto: Make, tmp_path: Path, rules: str, said: str
) -> None:
    (tmp_path / "acl").write_text(rules)
    broker = await make_mosquitto(f"acl_file {tmp_path / 'acl'}")
    seen = await looked(broker.url)
    assert seen["broker access"].findings, seen
    assert said in seen["broker access"].findings[0].what
    assert not seen["broker"].findings


async def test_the_delivered_access_list_lets_the_gateway_do_what_it_does(
    make_mosquitto: Make, tmp_path: Path
) -> None:
    rules = (Path(__file__).parents[2] / "mosquitto" / "acl").read_text()
    (tmp_path / "acl").write_text(rules.replace("user gateway\n", ""))  # as whoever gives no name
    broker = await make_mosquitto(f"acl_file {tmp_path / 'acl'}")
    seen = await looked(broker.url)
    assert not any(each.findings for each in seen.values()), seen


@pytest.mark.parametrize("limit", ["max_queued_messages 1000", "max_queued_bytes 2000"])
async def test_a_queue_that_is_too_short_for_an_outage(make_mosquitto: Make, limit: str) -> None:
    broker = await make_mosquitto(f"{limit}\nmax_inflight_messages 20")
    found = await only_finding(broker.url, "broker queue")
    assert found.severity is Severity.PROBLEM
    assert "of 1500 messages" in found.what and "max_queued_messages" in found.advice


async def test_what_the_broker_dropped_is_told(make_mosquitto: Make) -> None:
    broker = await make_mosquitto("max_queued_messages 5\nmax_inflight_messages 5\nsys_interval 1")
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="away", protocol=paho.MQTTv5)
    keeping = Properties(PacketTypes.CONNECT)
    keeping.SessionExpiryInterval = 600
    subscribed = asyncio.Event()
    loop = asyncio.get_running_loop()
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
    client.connect("127.0.0.1", broker.port, properties=keeping)
    client.loop_start()
    client.subscribe("t", qos=1)
    await subscribed.wait()
    client.disconnect()
    client.loop_stop()
    publisher = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    publisher.connect("127.0.0.1", broker.port)
    publisher.loop_start()
    for number in range(40):
        publisher.publish("t", str(number), qos=1).wait_for_publish(5)
    publisher.disconnect()
    publisher.loop_stop()

    async def is_told() -> bool:
        found = (await looked(broker.url))["broker queue"].findings
        return any("has dropped" in each.what for each in found)

    await wait_until(is_told, what="$SYS tells what was dropped", every=0.5)


async def test_a_broker_of_another_make_is_looked_at_too(rumqttd: int) -> None:
    seen = await looked(f"mqtt://127.0.0.1:{rumqttd}")
    assert not seen["broker"].findings, seen
    assert any("$SYS" in text for text in seen["broker queue"].unseen)


async def test_tls_that_is_not_believed_is_no_session(make_mosquitto: Make, tmp_path: Path) -> None:
    authority = make_authority("ours")
    certificate, key = authority.issue("localhost")
    (tmp_path / "server.crt").write_text(certificate)
    (tmp_path / "server.key").write_text(key)
    (tmp_path / "ca.crt").write_text(authority.pem)
    (tmp_path / "other.crt").write_text(make_authority("another").pem)
    broker = await make_mosquitto(f"certfile {tmp_path}/server.crt\nkeyfile {tmp_path}/server.key")
    url = f"mqtts://localhost:{broker.port}"
    assert not (await looked(url, ca_file=str(tmp_path / "ca.crt")))["broker"].findings
    found = await only_finding(url, "broker", ca_file=str(tmp_path / "other.crt"))
    assert "certificate verify failed" in found.what


def test_what_no_broker_here_does_is_judged_as_well() -> None:
    wanted = BrokerNeeds(url="mqtt://b", session_expiry_seconds=604_800, allows_qos0=False, overlaps=True)
    [short] = judge_session(BrokerFacts(session_expiry_seconds=3_600), wanted).findings
    assert "60 min" in short.what and short.severity is Severity.WARNING
    [twice] = judge_session(BrokerFacts(has_identifiers=False), wanted).findings
    assert "could come twice" in twice.what
    [forgotten] = judge_queue(BrokerFacts(sent=10, kept=0, resumed=False), wanted).findings
    assert "does not keep the session" in forgotten.what
