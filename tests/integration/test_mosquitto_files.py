"""mosquitto/: a broker started from the delivered files keeps customers apart and keeps the gateway's queue
over a restart.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.servers import PATIENCE, free_port

ROOT = Path(__file__).parents[2]
PASSWORDS = {"gateway": "gate-secret", "acme": "acme-secret", "globex": "globex-secret"}
NOT_AUTHORIZED = 0x87


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds:g} s"
        time.sleep(0.01)


class Broker(NamedTuple):
    """A running broker from the delivered files."""

    directory: Path
    configuration: Path
    port: int

    def start(self) -> subprocess.Popen[bytes]:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen([program, "-c", str(self.configuration)], stderr=log, stdout=log)
        wait_for(lambda: process.poll() is not None or self._answers(), "the broker")
        assert process.poll() is None, (self.directory / "log").read_text()
        return process

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Client:
    """A paho client that keeps what it was told."""

    def __init__(
        self, broker: Broker, username: str | None, client_id: str, *, password: str | None = None
    ) -> None:
        self.codes: list[int] = []
        self.puback: dict[int, int] = {}
        self.received: list[tuple[str, bytes]] = []
        self.subscribed = False
        self._broker = broker
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        if username is not None:
            self._client.username_pw_set(username, password or PASSWORDS[username])
        self._client.tls_set(
            str(broker.directory / "certificates" / "ca.crt"), tls_version=ssl.PROTOCOL_TLS_CLIENT
        )
        self._client.on_connect = lambda _c, _u, _f, code, _p: self.codes.append(code.value)
        self._client.on_publish = lambda _c, _u, mid, code, _p: self.puback.__setitem__(mid, code.value)
        self._client.on_message = lambda _c, _u, message: self.received.append(
            (message.topic, bytes(message.payload))
        )
        self._client.on_subscribe = lambda *_: setattr(self, "subscribed", True)

    def __enter__(self) -> Client:
        expiry = Properties(PacketTypes.CONNECT)
        expiry.SessionExpiryInterval = 600
        self._client.connect("localhost", self._broker.port, clean_start=False, properties=expiry)
        self._client.loop_start()
        wait_for(lambda: bool(self.codes), "CONNACK")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        wait_for(lambda: self.subscribed, "SUBACK")

    def answers_commands(self) -> None:
        """As the gateway does, where an answer is asked for."""

        def answer(client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
            self.received.append((message.topic, bytes(message.payload)))
            if (topic := getattr(message.properties, "ResponseTopic", None)) is not None:
                client.publish(topic, b"answered", qos=1)

        self._client.on_message = answer

    def publish_all(self, topic: str, payloads: list[bytes]) -> None:
        """Returns when the broker has accepted each."""
        mids = [self._client.publish(topic, payload, qos=1).mid for payload in payloads]
        wait_for(lambda: all(self.puback.get(mid) == 0 for mid in mids), "every PUBACK", seconds=30)

    def publish(self, topic: str, payload: bytes = b"1", *, retain: bool = False) -> int:
        """The PUBACK's reason."""
        mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        wait_for(lambda: mid in self.puback, "PUBACK")
        return self.puback[mid]


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    port = free_port()
    environment = {**os.environ, **{f"PASSWORD_{user}": password for user, password in PASSWORDS.items()}}
    command = [str(ROOT / "mosquitto" / "provision"), str(tmp_path), "localhost,127.0.0.1", *PASSWORDS]
    subprocess.run(command, check=True, env=environment, timeout=60)
    (tmp_path / "state").mkdir()
    text = (ROOT / "mosquitto" / "mosquitto.conf").read_text()
    for written, here in {
        "/etc/mosquitto/": f"{tmp_path}/",
        "/var/lib/mosquitto/": f"{tmp_path}/state/",
        "listener 8883": f"listener {port} 127.0.0.1",
    }.items():
        assert written in text
        text = text.replace(written, here)
    if os.geteuid() == 0:
        text += "user root\n"  # else it gives up the right to read a directory of root's
    configuration = tmp_path / "mosquitto.conf"
    configuration.write_text(text)
    return Broker(tmp_path, configuration, port)


@pytest.fixture
def process(broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    running = broker.start()
    yield running
    running.terminate()
    running.wait(timeout=10 * PATIENCE)


def test_customers_are_kept_apart(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway, Client(broker, "acme", "pump-1") as device:
        gateway.subscribe("+/devices/#")
        assert device.publish("acme/devices/pump-1/telemetry", b"mine") == 0
        assert device.publish("globex/devices/pump-1/telemetry", b"theirs") == NOT_AUTHORIZED
        assert device.publish("fieldgate/v1/customers/acme/connections/c/status", b"forged") == NOT_AUTHORIZED
        assert device.publish("acme/devices/pump-1/telemetry", b"last") == 0
        wait_for(lambda: len(gateway.received) >= 2, "the message")
        assert [payload for _, payload in gateway.received] == [b"mine", b"last"]


def test_a_customer_reads_its_own_status_only(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway, Client(broker, "acme", "pump-1") as device:
        assert gateway.publish(
            "fieldgate/v1/customers/globex/connections/c/status", b"theirs", retain=True
        ) in (0, 0x10)
        assert gateway.publish("fieldgate/v1/customers/acme/connections/c/status", b"mine", retain=True) in (
            0,
            0x10,
        )
        device.subscribe("fieldgate/v1/customers/#")
        wait_for(lambda: bool(device.received), "the retained status")
        gateway.publish("fieldgate/v1/customers/acme/connections/c/status", b"again")
        wait_for(lambda: len(device.received) >= 2, "the next status")
        assert [payload for _, payload in device.received] == [b"mine", b"again"]


@pytest.mark.parametrize(("username", "password"), [(None, None), ("acme", "wrong"), ("nobody", "x")])
def test_strangers_are_refused(
    broker: Broker, process: subprocess.Popen[bytes], username: str | None, password: str | None
) -> None:
    with Client(broker, username, "stranger", password=password) as stranger:
        assert stranger.codes[0] == NOT_AUTHORIZED


def test_the_delivered_files_give_no_warning(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    """And are readable by the broker's user only, which later versions warn of."""
    with Client(broker, "acme", "pump-1"):
        pass
    lines = (broker.directory / "log").read_text().splitlines()
    assert lines  # warnings are logged at all: this one is the test's own
    assert [line for line in lines if "arning" in line and "run as root" not in line] == []
    for name in ("acl", "passwords", "certificates/server.key"):
        assert (broker.directory / name).stat().st_mode & 0o077 == 0


def test_every_customer_knows_whether_the_gateway_is_there(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    with Client(broker, "gateway", "gateway-1") as gateway:
        gateway.publish("fieldgate/v1/gateway/status", b"online", retain=True)
        for customer in ("acme", "globex"):
            with Client(broker, customer, f"{customer}-1") as device:
                device.subscribe("fieldgate/v1/gateway/status")
                wait_for(lambda found=device.received: bool(found), "the status")  # type: ignore[misc]


def test_whoever_guessed_the_gateways_client_id_reads_nothing_of_its_queue(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    """Mosquitto 2.0 binds no id to a user: the queue would be lost, and so the id is a secret; it is not
    read.
    """
    with Client(broker, "gateway", "fg-secret") as gateway:
        gateway.subscribe("+/devices/#")
    with Client(broker, "acme", "pump-1") as device:
        device.publish_all("acme/devices/pump-1/telemetry", [b"%d" % number for number in range(50)])
    with Client(broker, "globex", "fg-secret") as thief, Client(broker, "acme", "pump-1") as device:
        device.publish("acme/devices/pump-1/telemetry", b"later")
        thief.subscribe("fieldgate/v1/gateway/status")  # an answer that comes after whatever was queued
        assert thief.received == []


def test_plain_text_is_refused(broker: Broker, process: subprocess.Popen[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as plain:
        plain.sendall(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x00")
        plain.settimeout(10)
        try:
            answer = plain.recv(64)
        except ConnectionResetError:
            answer = b""
        assert not answer.startswith(b"\x20")  # no CONNACK


def test_the_queue_outlives_a_restart(broker: Broker) -> None:
    first = broker.start()
    try:
        with Client(broker, "gateway", "gateway-1") as gateway:
            gateway.subscribe("+/devices/#")
        with Client(broker, "acme", "pump-1") as device:
            device.publish_all(
                "acme/devices/pump-1/telemetry", [b"%d" % number for number in range(1500)]
            )  # more than the default limit
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=20 * PATIENCE)
    second = broker.start()
    try:
        with Client(broker, "gateway", "gateway-1") as gateway:
            wait_for(lambda: len(gateway.received) >= 1500, "the queue")
            assert [int(payload) for _, payload in gateway.received] == list(range(1500))
    finally:
        second.terminate()
        second.wait(timeout=20 * PATIENCE)


def documented(page: str) -> str:
    """The `mosquitto_*` commands of a page as they are to be pasted, with what they are given by variables."""
    text = (ROOT / "docs" / page).read_text()
    lines = re.findall(r"^BROKER=.*$|^mosquitto_.*$", text, re.MULTILINE)
    return "\n".join([*lines, *re.findall(r"`(mosquitto_[^`]+)`", text)])


def test_the_documented_commands_are_taken_by_the_delivered_broker(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    """It refuses a client without an id, and whoever has no account."""
    here = {
        "broker.example.com": "localhost",
        " HOST ": " localhost ",
        "8883": str(broker.port),
        "ca.crt": str(broker.directory / "certificates" / "ca.crt"),
        "-u acme -P secret": "-u acme -P acme-secret",
        "-u gateway -P ...": "-u gateway -P gate-secret",
    }
    found = [documented("commands.md"), documented("operations.md")]
    assert [text.count("mosquitto_") for text in found] == [4, 1]
    with Client(broker, "gateway", "gateway-1") as gateway:
        gateway.subscribe("fieldgate/v1/customers/+/commands/#")
        gateway.answers_commands()
        for script in found:
            pasted = script
            for written, instead in here.items():
                pasted = pasted.replace(written, instead)
            done = subprocess.run(
                ["bash", "-ec", pasted], capture_output=True, text=True, check=False, timeout=30 * PATIENCE
            )
            assert (done.returncode, done.stderr) == (0, ""), script
            assert done.stdout.count("answered") == script.count("mosquitto_rr")
    assert len(gateway.received) == 4
