"""SIGHUP to a daemon: other sources, a new customer, a setting that waits for a
restart, a file with a fault.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from benchmarks.daemon import Daemon
from benchmarks.servers import Mosquitto, wait_until
from gateway.store.pool import Database
from tests.fixtures.commanding import customer

LINE = {"topic": "line/{device}/out", "customer": "globex"}
USUAL = {"topic": "{customer}/devices/{device}/telemetry"}


@pytest.fixture
async def daemon(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn, telemetry={"sources": [USUAL]})
    made.start()
    await made.ready()
    yield made
    await made.kill()


def events(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in daemon.log.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


async def reload(daemon: Daemon, change: Callable[[dict[str, Any]], None], told: str) -> dict[str, Any]:
    """Writes the file, sends the signal, waits for what is told."""
    before = len(events(daemon, told))
    content = json.loads(daemon._path.read_text())
    change(content)
    daemon._path.write_text(json.dumps(content))
    os.kill(daemon.pid, signal.SIGHUP)
    await wait_until(lambda: len(events(daemon, told)) > before, seconds=20, what=told)
    return events(daemon, told)[-1]


async def stored(database: Database) -> set[tuple[str, str]]:
    async with database.connection() as connection:
        rows = await connection.fetch("select distinct customer_id, device_id from telemetry")
    return {(row["customer_id"], row["device_id"]) for row in rows}


async def test_a_reload_takes_new_sources_and_customers_and_names_what_waits(
    daemon: Daemon, mosquitto: Mosquitto, database: Database
) -> None:
    def add(content: dict[str, Any]) -> None:
        content["customers"].append("globex")
        content["telemetry"]["sources"].append(LINE)
        content["sync"] = {"workers": 3}
        content["broker"]["keepalive"] = "77s"

    told = await reload(daemon, add, "gateway.reloaded")
    assert (told["customers"], told["sources"]) == (2, 2)
    (waits,) = events(daemon, "gateway.restart_needed")
    assert waits["settings"] == ["broker.keepalive", "sync.workers"]
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for topic in ("line/press/out", "globex/devices/pump/telemetry", "acme/devices/pump/telemetry"):
            await client.publish(topic, b'{"a": 1}', qos=1)
    expected = {("globex", "press"), ("globex", "pump"), ("acme", "pump")}

    async def are_stored() -> bool:
        return await stored(database) == expected

    await wait_until(are_stored, seconds=20, what="telemetry of the new customer is stored")

    async with customer(mosquitto.port, "globex") as asking:
        answer = await asking.ask("explain", {"topic": "line/press/out", "payload": '{"a": 1}'})
    explained = answer["explanation"]
    assert isinstance(explained, dict) and explained["source"] == LINE["topic"]

    def remove(content: dict[str, Any]) -> None:
        content["telemetry"]["sources"].pop(0)

    told = await reload(daemon, remove, "gateway.reloaded")
    assert told["sources"] == 1
    async with database.connection() as connection:
        assert await connection.fetchval("select array_agg(filter) from ingest_subscription") == [
            "line/+/out"
        ]
        assert await connection.fetchval("select count(*) from dead_letter") == 0
    assert len(events(daemon, "ingest.connected")) == 1 and not events(daemon, "ingest.disconnected")
    assert await daemon.stop() == 0


@pytest.mark.parametrize("fault", ["a source", "a connection", "what runs"])
async def test_a_file_with_a_fault_changes_nothing(daemon: Daemon, database: Database, fault: str) -> None:
    """`what runs`: the file is good, and not with the settings that only a restart changes."""

    def spoil(content: dict[str, Any]) -> None:
        content["customers"].append("globex")
        content["telemetry"]["sources"].append(LINE)
        if fault == "a source":
            content["telemetry"]["sources"].append({"topic": "no/customer/{device}"})
        elif fault == "a connection":
            content["connections_file"] = "nowhere.yaml"
        else:
            content["telemetry"]["sources"].append({"topic": "{customer}/{_}/{device}/telemetry"})

    if fault == "what runs":
        content = json.loads(daemon._path.read_text())
        content["broker"]["partitions"] = 2
        daemon._path.write_text(json.dumps(content))
        await daemon.stop()
        daemon.start()
        await daemon.ready()
        content["broker"]["partitions"] = 1
        daemon._path.write_text(json.dumps(content))
    told = await reload(daemon, spoil, "gateway.reload_refused")
    assert {"a source": "sources[2]", "a connection": "nowhere.yaml", "what runs": "overlaps"}[fault] in told[
        "detail"
    ]
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from customer where customer_id = 'globex'") == 0
        assert not await connection.fetchval(
            "select count(*) from ingest_subscription where filter = 'line/+/out'"
        )
    assert not events(daemon, "ingest.disconnected") and not events(daemon, "gateway.reloaded")
    assert await daemon.stop() == 0
