"""SIGKILL at each point inside a transition: all of it or nothing of it is there, and what others see
converges.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt
import pytest

from benchmarks.servers import Mosquitto, wait_until
from gateway.connections import ending, lifecycle
from gateway.events.mqtt_publisher import StatusPublisher
from gateway.events.relay import Relay
from gateway.settings import BrokerSettings, CreditsSettings
from gateway.store.credits import audit, sync_capacity
from gateway.store.pool import Database
from tests.fault.transition_child import SCENARIOS, perform
from tests.fixtures import programs
from tests.fixtures.connection_rig import CALLER, World, settings, wanted

CASES = [(scenario, point) for scenario, (_, points) in SCENARIOS.items() for point in points]
EVENT = {
    "activate": "connection.activated",
    "refuse": "connection.reauthorization_required",
    "disconnect": "connection.disconnected",
}
TYPE = {scenario: f"fieldgate.{event}" for scenario, event in EVENT.items()}
ROOT = "fieldgate/v1/customers/acme"


class Ears:
    """Everything that the broker says below the customer's topics."""

    def __init__(self) -> None:
        self.retained: dict[str, dict[str, object]] = {}
        self.events: list[dict[str, object]] = []

    async def listen(self, port: int) -> None:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(f"{ROOT}/#", qos=1)
            async for message in client.messages:
                topic, payload = str(message.topic).removeprefix(f"{ROOT}/"), bytes(message.payload)  # type: ignore[arg-type]
                if topic.startswith("events/"):
                    self.events.append(json.loads(payload))
                elif payload:
                    self.retained[topic] = json.loads(payload)
                else:
                    self.retained.pop(topic, None)


@asynccontextmanager
async def telling(world: World, broker: Mosquitto) -> AsyncIterator[Ears]:
    """The publishing half of a replica, and who listens to it."""
    ears = Ears()
    publisher = StatusPublisher(world.settings, world.database, world.owner)
    relay = Relay(world.settings, world.database, owner=world.owner)
    tasks = [asyncio.create_task(work) for work in (ears.listen(broker.port), publisher.run(), relay.run())]
    try:
        yield ears
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def prepared(database: Database, broker: Mosquitto, scenario: str) -> World:
    """The connection as it is before the transition."""
    await sync_capacity(database, CreditsSettings())
    world = World(database, settings=settings(broker=BrokerSettings(url=f"mqtt://127.0.0.1:{broker.port}")))
    if scenario == "activate":
        await world.service.create(wanted(), CALLER)
    else:
        await world.active()
    return world


async def whole(world: World) -> dict[str, object]:
    """The state and everything that goes with it."""
    (row,) = await world.rows("select state, generation from connection")
    moves = await world.rows("select to_state from connection_audit order by audit_id")
    assert moves[-1]["to_state"] == row["state"]
    assert await audit(world.database) == []
    return {**row, "audits": len(moves), "events": await world.events(), "issues": await world.issues()}


@pytest.mark.parametrize(("scenario", "point"), CASES)
async def test_a_kill_leaves_all_or_nothing_and_everything_converges(
    database: Database,
    dsn: str,
    mosquitto: Mosquitto,
    scenario: str,
    point: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(ending, "DRAIN_SECONDS", 0.05)
    world = await prepared(database, mosquitto, scenario)
    before = await whole(world)
    child = await programs.run(dsn, scenario, point, module="tests.fault.transition_child")
    assert child.returncode == -signal.SIGKILL, child.stderr
    target = SCENARIOS[scenario][0]
    after = await whole(world)
    done = after["state"] == target
    assert done is (point == "committed")
    assert (EVENT[scenario] in after["events"]) is done  # type: ignore[operator]
    if not done:
        assert after["issues"] == before["issues"] and after["generation"] == before["generation"]
    async with telling(world, mosquitto) as ears:
        if not done:
            await perform(world, scenario)
        await wait_until(
            lambda: [event["type"] for event in ears.events].count(TYPE[scenario]) >= 1,
            what="the event is told",
            seconds=20,
        )
        if scenario == "disconnect":
            await wait_until(lambda: not ears.retained, what="no topic is left behind", seconds=20)
        else:
            await wait_until(
                lambda: ears.retained.get("connections/acme-1/status", {}).get("state") == target,
                what="the status is right",
                seconds=20,
            )
            wanted_issues = 1 if scenario == "refuse" else 0
            await wait_until(
                lambda: sum("/issues/" in topic for topic in ears.retained) == wanted_issues,
                what="the issue is as it should be",
                seconds=20,
            )
    assert (await whole(world))["state"] == target
    told = [event["id"] for event in ears.events if event["type"] == TYPE[scenario]]
    assert len(set(told)) == 1
