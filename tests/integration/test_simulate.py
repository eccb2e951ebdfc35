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

from benchmarks.servers import Mosquitto
from gateway.demo.fleet import Fleet, advance, new_machine, publish_steadily
from gateway.demo.publisher import Publisher
from gateway.settings import BrokerSettings
from tests.fixtures.waiting import wait_until

START = datetime(2026, 11, 1, tzinfo=UTC)


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "simulate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


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
    assert {topic for topic, _ in one} == {
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
    async with aiomqtt.Client(
        "127.0.0.1",
        mosquitto.port,
        identifier="listener",
        clean_session=False,
        max_queued_incoming_messages=10_000,
    ) as listener:
        async with asyncio.timeout(30):
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


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["--broker", "mqtt://127.0.0.1:1", "--duration", "200ms"], 1, "no connection to the broker"),
    (["--broker", "http://127.0.0.1"], 2, "expected mqtt://host:port"),
    (["--duration", "3"], 2, "a duration is a number and a unit"),
    (["--customer", "a/b"], 2, "--customer"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    done = simulate(*arguments)
    assert done.returncode == code
    assert said in done.stderr
