"""Edge nodes of Sparkplug that know what is true, a channel that loses and swaps, and a daemon that is
killed: of what the broker acknowledged every value is stored under its right name, or its message is a dead
letter.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import wait_until
from gateway.store.dead_messages import message_digest
from tests.fault.rig import CUSTOMER, Rig, size, started
from tests.fixtures.sparkplug import LEAST_NUMBER, EdgeNode, Sent, channel

TELEMETRY = {
    "sources": [{"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"}],
    "sparkplug": {"reorder_timeout": "200ms", "rebirth_interval": "1s"},
    "dead_letter_bytes": 4 << 30,
}
HOURS_AGO = 20 * 3_600_000


class Plant:
    """Nodes that publish at QoS 1, and answer when they are asked for their births."""

    def __init__(self, rig: Rig, chance: random.Random, nodes: int) -> None:
        self._rig = rig
        self._chance = chance
        start = time.time_ns() // 1_000_000 - HOURS_AGO
        self.nodes = {f"n{number}": EdgeNode(chance, at=start) for number in range(nodes)}
        self.asked: set[str] = set()
        self.times_asked = 0
        self.sent: list[tuple[str, bytes, Sent]] = []
        self.truth: dict[tuple[str, int], dict[str, object]] = {}
        self._publisher: Publisher[int] = Publisher(rig.broker.port, "plant", window=500)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self._publisher, aiomqtt.Client("127.0.0.1", self._rig.broker.port) as client:
            await client.subscribe("spBv1.0/+/NCMD/#")
            hearing = asyncio.create_task(self._hear(client))
            yield
            hearing.cancel()
            await asyncio.wait({hearing})

    async def _hear(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self.asked.add(str(message.topic).rpartition("/")[2])
            self.times_asked += 1

    async def live(self, count: int, *, lost: float, swapped: float) -> None:
        """Publishes about so many messages."""
        while len(self.sent) < count:
            name = self._chance.choice(sorted(self.nodes))
            edge = self.nodes[name]
            messages = list(edge.life(40))
            if name in self.asked and edge.is_up:
                self.asked.discard(name)
                messages += [*edge.births()] if edge.seq >= LEAST_NUMBER else []
            for message in messages:
                for device, at, metric, value in message.facts:
                    own = f"{name}.{device}" if device else name
                    self.truth.setdefault((own, at), {})[metric] = value
            for message in channel(messages, self._chance, lost=lost, swapped=swapped):
                topic = f"spBv1.0/{CUSTOMER}/{message.kind}/{name}"
                topic += f"/{message.device}" if message.device else ""
                await self._publisher.publish(topic, message.payload, 0)
                self.sent.append((topic, message.payload, message))
        await self._publisher.flush()

    async def vanished(self) -> int:
        """Messages that are neither stored nor dead letters. Fails where a value is under a wrong name."""
        rows = await self._rig.fetch(
            "select device_id, (extract(epoch from ts) * 1000)::bigint as at, metrics from telemetry"
        )
        stored = {(row["device_id"], row["at"]): json.loads(row["metrics"]) for row in rows}
        for key, metrics in stored.items():
            wrong = {name: value for name, value in metrics.items() if self.truth[key].get(name) != value}
            assert not wrong, (key, wrong, self.truth[key])
        letters = await self._rig.fetch("select digest from dead_letter where kind = 'message'")
        dead = {bytes(row["digest"]) for row in letters}
        return sum(
            not _is_stored(topic, message, stored) and message_digest(topic, payload) not in dead
            for topic, payload, message in self.sent
        )


def _is_stored(topic: str, message: Sent, stored: dict[tuple[str, int], dict[str, object]]) -> bool:
    name = topic.split("/")[3]
    return all(
        metric in stored.get((f"{name}.{device}" if device else name, at), {})
        for device, at, metric, _ in message.facts
    )


async def _survives(rig: Rig, *, messages: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    daemon: Daemon = rig.daemon(connections=[], telemetry=TELEMETRY)
    plant = Plant(rig, chance, nodes=8)
    async with plant.running():
        daemon.start()
        await daemon.ready(120)
        publishing = asyncio.create_task(plant.live(messages, lost=0.003, swapped=0.01))
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.5, 4.0))
            await daemon.kill()
            daemon.start()
        await publishing
        await daemon.ready(120)

        async def is_all_there() -> bool:
            return await plant.vanished() == 0

        async def was_asked() -> bool:
            """A gap that ended while the daemon was away is nobody's to ask about: then more is lost."""
            if not plant.times_asked:
                await plant.live(len(plant.sent) + 100, lost=0.3, swapped=0.0)
            return plant.times_asked > 0

        await wait_until(was_asked, what="births are asked for", every=1.0)
        await wait_until(is_all_there, seconds=200, what="nothing has vanished", every=2.0)
    assert await daemon.stop() == 0
    assert await plant.vanished() == 0
    dead = (await rig.fetch("select count(*) from dead_letter"))[0][0]
    print(
        f"{len(plant.sent)} messages, {dead} dead letters, {plant.times_asked} rebirths asked, {kills} kills"
    )
    assert dead < len(plant.sent)


@pytest.mark.timeout(900)
async def test_nothing_vanishes_and_every_value_has_its_name(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await _survives(rig, messages=4_000, kills=3, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_many_messages_and_kills(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await _survives(
            rig, messages=size("MESSAGES", 300_000), kills=size("KILLS", 30), seed=size("SEED", 5)
        )
