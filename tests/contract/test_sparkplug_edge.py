"""An edge node by others (Eclipse Tahu's client) against the daemon: what it publishes is stored under its
names, and it is asked for births when something is missing. And what the daemon tells as a host application.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import asyncpg
import pytest

from benchmarks.daemon import Daemon
from benchmarks.servers import PATIENCE, Mosquitto, wait_until
from tests.contract.sap_servers import HERE, installed, node_binary

NODE = [
    {"name": "Inputs/A", "alias": 1, "type": "Boolean", "value": True},
    {"name": "Temperature", "alias": 2, "type": "Double", "value": 21.5},
    {"name": "Level", "alias": 3, "type": "Int16", "value": -30000},
    {"name": "Total", "alias": 4, "type": "UInt64", "value": 2**53},
    {"name": "State", "alias": 5, "type": "String", "value": "running"},
    {"name": "Nothing", "alias": 6, "type": "Float", "value": None},
    {
        "name": "Motor",
        "alias": 7,
        "type": "Template",
        "value": {
            "version": "1",
            "templateRef": "motor",
            "isDefinition": False,
            "metrics": [
                {"name": "rpm", "type": "Int32", "value": -5},
                {"name": "hot", "type": "Boolean", "value": False},
            ],
            "parameters": [],
        },
    },
    {
        "name": "Table",
        "alias": 8,
        "type": "DataSet",
        "value": {"numOfColumns": 2, "columns": ["n", "s"], "types": ["Int32", "String"], "rows": [[1, "a"], [2, "b"]]},
    },
]  # fmt: skip
PUMP = [{"name": "Flow", "alias": 20, "type": "Float", "value": 0.5}]

BIRTHS = {"node": NODE, "devices": {"pump": PUMP}}


class Edge:
    """The process, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))

    def order(self, what: str, **fields: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps({"do": what, **fields}) + "\n").encode())

    def count(self, event: str) -> int:
        return sum(one["event"] == event for one in self.said)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 10 * PATIENCE)
        await self._reading


@asynccontextmanager
async def edge_node(mosquitto: Mosquitto, name: str = "edge") -> AsyncIterator[Edge]:
    modules = installed(HERE / "edge_node")
    config = {
        "serverUrl": f"tcp://127.0.0.1:{mosquitto.port}",
        "clientId": name,
        "groupId": "acme",
        "edgeNode": name,
        "keepalive": 60,  # a machine that is busy keeps it silent for longer than its own 5 s, and it would be born again
    }
    process = await asyncio.create_subprocess_exec(
        node_binary(),
        str(HERE / "edge_node" / "edge.js"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(modules), "EDGE": json.dumps(config)},
    )
    edge = Edge(process)
    try:
        yield edge
    finally:
        if process.returncode is None:
            await edge.end()


class Site:
    """A daemon that is a host application, and what it stored."""

    def __init__(self, tmp_path: Path, mosquitto: Mosquitto, dsn: str, **broker: object) -> None:
        self.mosquitto, self.dsn = mosquitto, dsn
        self._arguments = (tmp_path, broker)
        self.daemon = self.another("daemon")

    def another(self, name: str) -> Daemon:
        directory, broker = self._arguments
        return Daemon(
            directory,
            broker_url=self.mosquitto.url,
            dsn=self.dsn,
            name=name,
            broker=broker,
            sync={"lease": "2s"},
            telemetry={
                "sources": [{"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"}],
                "sparkplug": {"host_id": "plant", "reorder_timeout": "300ms", "rebirth_interval": "1s"},
            },
        )

    async def fetch(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def metrics(self, device: str) -> list[dict[str, Any]]:
        rows = await self.fetch(
            f"select metrics from telemetry where device_id = '{device}' order by ts, revision"
        )
        return [json.loads(row["metrics"]) for row in rows]

    async def has(self, device: str, wanted: Callable[[list[dict[str, Any]]], bool]) -> None:
        async def look() -> bool:
            return wanted(await self.metrics(device))

        await wait_until(look, seconds=20, what=f"{device} has what was sent")


@pytest.fixture
async def site(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> AsyncIterator[Site]:
    made = Site(tmp_path, mosquitto, dsn)
    made.daemon.start()
    await made.daemon.ready(90)
    yield made
    await made.daemon.kill()


@asynccontextmanager
async def listening(mosquitto: Mosquitto, topic: str) -> AsyncIterator[list[tuple[str, bytes, bool]]]:
    """What is published there: topic, payload, whether it was retained."""
    heard: list[tuple[str, bytes, bool]] = []

    async def listen(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            heard.append((str(message.topic), message.payload, message.retain))  # type: ignore[arg-type]  # noqa: PERF401

    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe(topic, qos=1)
        task = asyncio.create_task(listen(client))
        yield heard
        task.cancel()
        await asyncio.wait({task})


async def test_what_it_publishes_is_stored_under_its_names(site: Site, mosquitto: Mosquitto) -> None:
    async with edge_node(mosquitto) as edge:
        edge.order("connect", births=BIRTHS)
        await site.has("edge", lambda held: len(held) == 1)
        [born] = await site.metrics("edge")
        assert born == {
            "Inputs/A": True,
            "Temperature": 21.5,
            "Level": -30000,
            "Total": 2**53,
            "State": "running",
            "Motor.rpm": -5,
            "Motor.hot": False,
            "Table.0.n": 1,
            "Table.0.s": "a",
            "Table.1.n": 2,
            "Table.1.s": "b",
        }
        edge.order("ndata", metrics=[{"alias": 2, "type": "Double", "value": 22.25}])
        edge.order("ddata", device="pump", metrics=[{"alias": 20, "type": "Float", "value": 1.5}])
        # the next is another sample only if it has another millisecond
        await site.has("edge", lambda held: held[-1] == {"Temperature": 22.25})
        edge.order(
            "ndata",
            metrics=[{"alias": 3, "type": "Int16", "value": -1}],
            options={"compress": True, "algorithm": "GZIP"},
        )
        await site.has("edge.pump", lambda held: held[-1:] == [{"Flow": 1.5}])
        await site.has("edge", lambda held: held[-1] == {"Level": -1})
        assert edge.count("ncmd") == 0
        edge.order("ddeath", device="pump")

        async def pump_is_offline() -> bool:
            return bool(
                await site.fetch(
                    "select from sparkplug_device where device_id = 'edge.pump' and offline_since is not null"
                )
            )

        await wait_until(pump_is_offline, seconds=10, what="the pump is offline")


async def test_it_is_asked_for_births_after_a_gap_and_not_after_a_restart(
    site: Site, mosquitto: Mosquitto
) -> None:
    async with edge_node(mosquitto) as edge:
        edge.order("connect", births=BIRTHS)
        await site.has("edge", lambda held: len(held) == 1)
        # a birth that a daemon takes along is gone, at QoS 0, and what follows is a gap
        await site.has("edge.pump", lambda held: len(held) == 1)
        sessions = site.daemon.log.count("ingest.connected")
        await site.daemon.kill()
        site.daemon.start()
        # for a moment it takes the one that was killed for another that serves; what comes then at QoS 0 is gone
        await wait_until(
            lambda: site.daemon.log.count("ingest.connected") > sessions, what="it has a session of its own"
        )
        edge.order("ndata", metrics=[{"alias": 2, "type": "Double", "value": 3.5}])
        await site.has("edge", lambda held: {"Temperature": 3.5} in held)
        assert edge.count("ncmd") == 0
        edge.order("skip", count=3)
        edge.order("ndata", metrics=[{"alias": 2, "type": "Double", "value": 4.5}])
        await wait_until(lambda: edge.count("ncmd") >= 1, seconds=10, what="it was asked")
        assert next(one for one in edge.said if one["event"] == "ncmd")["asked"] is True
        await site.has("edge", lambda held: [one.get("State") for one in held].count("running") >= 2)
        edge.order("ndata", metrics=[{"alias": 2, "type": "Double", "value": 5.5}])
        await site.has("edge", lambda held: {"Temperature": 5.5} in held)


async def test_a_node_that_vanishes_is_offline_with_its_devices(site: Site, mosquitto: Mosquitto) -> None:
    async def offline() -> set[str]:
        rows = await site.fetch("select device_id from sparkplug_device where offline_since is not null")
        return {row["device_id"] for row in rows}

    async def both() -> bool:
        return await offline() == {"edge", "edge.pump"}

    async def none() -> bool:
        return await offline() == set()

    async with edge_node(mosquitto) as edge:
        edge.order("connect", births=BIRTHS)
        await site.has("edge.pump", lambda held: len(held) == 1)
        edge.order("vanish")
        await wait_until(both, seconds=10, what="both are offline")
        await wait_until(none, seconds=10, what="it came back, and was born")


async def test_the_state_of_the_host(site: Site, mosquitto: Mosquitto) -> None:
    topic = "spBv1.0/STATE/plant"

    def told(heard: list[tuple[str, bytes, bool]]) -> list[tuple[bool, int]]:
        documents = [json.loads(payload) for _, payload, _ in heard]
        assert all(set(one) == {"online", "timestamp"} for one in documents)
        return [(one["online"], one["timestamp"]) for one in documents]

    async with listening(mosquitto, topic) as heard:
        await wait_until(lambda: len(heard) == 1, seconds=10, what="it is retained")
        assert heard[0][2]
        [(online, first_at)] = told(heard)
        assert online
        await site.daemon.kill()  # the broker tells its will, with the time of its birth
        await wait_until(lambda: len(heard) == 2, seconds=10, what="the will is told")
        assert told(heard)[1] == (False, first_at)
        site.daemon.start()
        await site.daemon.ready(90)
        await wait_until(lambda: len(heard) == 3, seconds=10, what="it lives again")
        assert told(heard)[2][0] is True
        assert told(heard)[2][1] > first_at
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:  # a will that came late
            await client.publish(topic, json.dumps({"online": False, "timestamp": 1}), qos=1, retain=True)
        await wait_until(lambda: len(heard) == 5, seconds=10, what="it contradicts")
        assert told(heard)[4] == told(heard)[2]
        assert await site.daemon.stop() == 0
        await wait_until(lambda: len(heard) == 6, seconds=10, what="it says that it goes")
        online, at = told(heard)[5]
        assert not online
        assert at > told(heard)[4][1]
    assert await site.fetch("select from dead_letter") == []


async def test_one_state_for_several_partitions_and_replicas(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str
) -> None:
    site = Site(tmp_path, mosquitto, dsn, partitions=3)
    second = site.another("second")
    async with listening(mosquitto, "spBv1.0/STATE/plant") as heard:
        try:
            for daemon in (site.daemon, second):
                daemon.start()
            for daemon in (site.daemon, second):
                await daemon.ready(90)
            await wait_until(lambda: len(heard) >= 1, seconds=20, what="one of them tells it")
            last = json.loads(heard[-1][1])
            assert last["online"] is True
            for daemon in (site.daemon, second):  # whichever it was, the other one goes on
                await daemon.kill()
                alive = second if daemon is site.daemon else site.daemon

                def is_online() -> bool:
                    return json.loads(heard[-1][1])["online"]

                await wait_until(is_online, seconds=30, what="the other one tells it")
                if daemon is site.daemon:
                    daemon.start()
                    await daemon.ready(90)
                    await wait_until(is_online, seconds=30, what="it is told")
                assert alive.exit_code is None
        finally:
            for daemon in (site.daemon, second):
                await daemon.kill()
