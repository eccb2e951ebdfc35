"""The simulated fleet: plausible signals, and a client that loses no message to a
broker that comes and goes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from random import Random

import aiomqtt
import orjson
import pytest

from benchmarks.servers import Mosquitto, patient
from gateway.demo.fleet import Fleet, advance, new_machine, publish_steadily
from gateway.demo.publisher import Publisher
from gateway.payloads.sparkplug.wire import rebirth
from gateway.settings import BrokerSettings
from tests.fixtures import programs
from tests.fixtures.waiting import wait_until

START = datetime(2026, 11, 1, tzinfo=UTC)


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return programs.fieldgate("simulate", *arguments)


@pytest.mark.parametrize("seed", range(5))
def test_machines_are_plausible(seed: int) -> None:
    rand = Random(seed)
    machine = new_machine("pump-01", START, rand)
    first, stood, swings = machine.running_hours, 0, []
    for step in range(1, 7200):
        before, machine = machine, advance(machine, START + timedelta(seconds=step), rand)
        swings.append(abs(machine.temperature - before.temperature))
        assert 15.0 < machine.temperature < 70.0
        assert 0.0 <= machine.vibration < 6.0
        assert 0.0 <= machine.running_hours - before.running_hours <= 1 / 3600 + 1e-9
        stood += not machine.running
    assert max(swings) < 1.0
    assert 0 < stood < 7200
    assert machine.running_hours - first == pytest.approx((7200 - stood) / 3600, abs=0.01)
    again = new_machine("pump-01", START + timedelta(seconds=7200), Random(seed))
    assert again.running_hours >= machine.running_hours, "a fleet that is started again counts backwards"


def test_equal_seeds_give_equal_fleets() -> None:
    fleets = [Fleet(customer="acme", devices=5, seed=7, at=START) for _ in range(2)]
    at = [START + timedelta(seconds=step) for step in range(50)]
    one, two = ([fleet.next_message(moment) for moment in at] for fleet in fleets)
    assert one == two
    assert {topic for topic, _, _ in one} == {
        f"acme/devices/{device}/telemetry"
        for device in ("pump-01", "press-01", "fan-01", "pump-02", "press-02")
    }


async def test_every_message_reaches_the_subscriber_through_a_killed_connection(mosquitto: Mosquitto) -> None:
    publisher = Publisher(BrokerSettings(url=mosquitto.url), "fleet")
    seen: set[str] = set()
    async with aiomqtt.Client(
        "127.0.0.1", mosquitto.port, identifier="listener", clean_session=False
    ) as listener:
        await listener.subscribe("acme/devices/+/telemetry", qos=1)
    connection = asyncio.create_task(publisher.run())
    wanted = [str(number) for number in range(3000)]

    async def publish() -> None:
        for text in wanted:
            await publisher.publish("acme/devices/d/telemetry", text.encode())

    publishing = asyncio.create_task(publish())
    await wait_until(lambda: publisher.acknowledged_count > 200, what="the broker acknowledges", every=0.001)
    await mosquitto.stop(signal.SIGTERM)
    await wait_until(lambda: publisher.problem is not None, what="the end of the broker is noticed")
    await mosquitto.start()
    await publishing
    assert await publisher.settled(30)
    connection.cancel()
    assert publisher.published_count == publisher.acknowledged_count == len(wanted)
    async with (
        aiomqtt.Client(
            "127.0.0.1",
            mosquitto.port,
            identifier="listener",
            clean_session=False,
            max_queued_incoming_messages=10_000,
        ) as listener,
        patient(30),
    ):
        async for message in listener.messages:
            assert isinstance(message.payload, bytes)
            seen.add(message.payload.decode())
            if len(seen) == len(wanted):
                break
    assert seen == set(wanted)


async def test_no_more_is_in_flight_than_the_broker_takes(rumqttd: int) -> None:
    """rumqttd closes a connection that exceeds its window."""
    publisher = Publisher(BrokerSettings(url=f"mqtt://127.0.0.1:{rumqttd}"), "fleet")
    fleet = Fleet(customer="acme", devices=3, seed=1, at=datetime.now(UTC))
    connection = asyncio.create_task(publisher.run())
    publishing = asyncio.create_task(publish_steadily(fleet, publisher, rate=20_000))
    await wait_until(lambda: publisher.acknowledged_count > 5000, what="5000 messages are acknowledged")
    assert publisher.problem is None
    publishing.cancel()
    assert await publisher.settled(10)
    connection.cancel()


async def test_the_command_reports_what_was_acknowledged(mosquitto: Mosquitto) -> None:
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as listener:
        await listener.subscribe("acme/#", qos=1)
        arguments = (
            "--broker",
            mosquitto.url,
            "--customer",
            "acme",
            "--devices",
            "4",
            "--rate",
            "100",
            "--duration",
            "1s",
            "--json",
        )
        done = await asyncio.to_thread(simulate, *arguments)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["published"] == figures["acknowledged"] > 0
        assert figures["unheard"] == 0
        received = [await anext(listener.messages) for _ in range(figures["published"])]
    assert {str(message.topic).split("/")[2] for message in received} == {
        "pump-01",
        "press-01",
        "fan-01",
        "pump-02",
    }
    sample = orjson.loads(received[0].payload if isinstance(received[0].payload, bytes) else b"")
    assert set(sample["metrics"]) == {"temperature", "vibration", "running_hours", "running"}


async def test_a_preset_is_published_as_its_devices_do(mosquitto: Mosquitto) -> None:
    """Retained availability is there for who comes later, and says at the end that they are gone."""
    done = await asyncio.to_thread(
        simulate, "--broker", mosquitto.url, "--customer", "acme", "--preset", "zigbee2mqtt",
        "--devices", "3", "--rate", "100", "--duration", "1s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "- {preset: zigbee2mqtt, customer: acme}" in done.stderr
    assert "reached nobody: no gateway has a source for them" in done.stderr
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as listener:
        await listener.subscribe("zigbee2mqtt/#", qos=1)
        kept = {}
        async with patient(10):
            async for message in listener.messages:
                assert message.retain and isinstance(message.payload, bytes)
                kept[str(message.topic)] = orjson.loads(message.payload)
                if len(kept) == 5:
                    break
    assert "zigbee2mqtt/kitchen" not in kept
    assert kept["zigbee2mqtt/Pump Room/availability"] == {"state": "offline"}
    assert kept["zigbee2mqtt/bridge/state"] == {"state": "offline"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_an_edge_node_that_is_simulated_is_born_again_when_asked_and_its_death_is_told(
    mosquitto: Mosquitto, how: signal.Signals
) -> None:
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as host:
        await host.subscribe("spBv1.0/#", qos=1)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "simulate", "--broker", mosquitto.url, "--preset",
            "sparkplug_b", "--devices", "2", "--rate", "20", stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        told: list[str] = []
        try:
            async with patient(30):
                async for message in host.messages:
                    told.append(str(message.topic).split("/")[2])
                    if told.count("DDATA") == 3 and told[-1] == "DDATA":
                        await host.publish("spBv1.0/plant/NCMD/line1", rebirth(0), qos=0)
                    if told.count("DBIRTH") == 4:
                        break
        finally:
            process.send_signal(how)
            await process.wait()
        told = [kind for kind in told if kind != "NCMD"]
        assert told[:3] == ["NBIRTH", "DBIRTH", "DBIRTH"] and told[-3:] == told[:3]
        async with patient(10):
            async for message in host.messages:
                if "NDEATH" in str(message.topic):
                    break


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["--broker", "mqtt://127.0.0.1:1", "--duration", "200ms"], 1, "no connection to mqtt://127.0.0.1:1"),
    (["--broker", "http://127.0.0.1"], 2, "expected mqtt://host:port"),
    (["--duration", "3"], 2, "expected a number and a unit"),
    (["--customer", "a/b"], 2, "--customer"),
    (["--preset", "zigbee"], 2, "--preset zigbee: there is no such preset; known are chirpstack_v4"),
    (["--preset", "tasmota", "--zone", "Mars"], 2, "--zone Mars: no time zone"),
    (["--preset", "tasmota", "--zone", "right/Europe/Rome"], 2, "--zone right/Europe/Rome: no time zone"),
    (["--zone", "Europe/Berlin"], 2, "--zone: only the devices of a --preset"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    done = simulate(*arguments)
    assert done.returncode == code
    assert said in done.stderr
