"""SIGHUP to a daemon: other sources, a new customer, a setting that waits for a
restart, a file with a fault.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto, wait_until
from gateway.store.pool import Database
from tests.fixtures.commanding import customer

LINE = {"topic": "line/{device}/out", "customer": "globex"}
USUAL = {"topic": "{customer}/devices/{device}/telemetry"}


@pytest.fixture
async def daemon(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn, telemetry={"sources": [USUAL]})
    made.start()
    await made.ready(120)
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
    await wait_until(lambda: len(events(daemon, told)) > before, seconds=60, what=told)
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
        content["logging"] = {"level": "error"}
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
    assert len(events(daemon, "gateway.stopped")) == len(events(daemon, "gateway.started")), "nor the level"


LINES = (
    {"topic": "mill/{device}/out", "customer": "acme"},
    {"topic": "line/{device}/out", "customer": "acme"},
)
FAULTY = {"topic": "no/customer/{device}"}


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_hundred_signals_under_load_lose_nothing_and_every_fifth_file_has_a_fault(
    daemon: Daemon, mosquitto: Mosquitto, database: Database
) -> None:
    """2,000 messages a second (`RATE`) to topics that are taken all the time, while sources beside them come and
    go (`RELOADS` times).
    """
    rate, reloads = int(os.environ.get("RATE", "2000")), int(os.environ.get("RELOADS", "100"))
    done, sent = asyncio.Event(), 0

    async def publish() -> None:
        nonlocal sent
        base, started = time.time_ns() // 1000, time.monotonic()
        async with Publisher[None](mosquitto.port, "flow") as publisher:
            while not done.is_set():
                payload = b'{"ts":%d,"metrics":{"n":%d}}' % (base + sent, sent)
                await publisher.publish(f"acme/devices/d{sent % 50}/telemetry", payload, None)
                sent += 1
                await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
            await publisher.flush()

    def change(content: dict[str, Any], *, last: dict[str, str] | None) -> None:
        kept = [source for source in content["telemetry"]["sources"] if source != FAULTY]
        content["telemetry"]["sources"] = [*kept, FAULTY] if last is None else [USUAL, last]

    publishing = asyncio.create_task(publish())
    refused = 0
    for number in range(1, reloads + 1):
        is_faulty = number % 5 == 0
        which = None if is_faulty else LINES[number % 2]
        told = "gateway.reload_refused" if is_faulty else "gateway.reloaded"
        await reload(daemon, partial(change, last=which), told)
        refused += is_faulty
    done.set()
    await publishing

    async def are_stored() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval("select count(*) = $1 from telemetry", sent))

    await wait_until(are_stored, seconds=120, what=f"{sent} samples are stored")
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from dead_letter") == 0
        filters = await connection.fetchval("select array_agg(filter) from ingest_subscription")
    last = max(number for number in range(1, reloads + 1) if number % 5)
    assert set(filters) == {"+/devices/+/telemetry", LINES[last % 2]["topic"].replace("{device}", "+")}
    assert len(events(daemon, "gateway.reloaded")) == reloads - refused
    assert len(events(daemon, "gateway.reload_refused")) == refused
    assert len(events(daemon, "ingest.connected")) == 1 and not events(daemon, "ingest.disconnected")
    assert await daemon.stop() == 0
    print(f"{sent} messages, {reloads} reloads, {refused} of them refused")


async def test_a_customer_that_is_not_listed_is_told_at_the_start_and_at_a_reload(daemon: Daemon) -> None:
    assert events(daemon, "configuration.customer_unlisted") == []

    def slip(content: dict[str, Any]) -> None:
        content["quotas"] = {"customers": {"acmee": {"devices": 5}}}

    told = await reload(daemon, slip, "configuration.customer_unlisted")
    assert told["setting"] == "quotas.customers.acmee" and "did you mean 'acme'?" in told["detail"]
    assert await daemon.stop() == 0
    daemon.start()
    await daemon.ready(120)
    assert len(events(daemon, "configuration.customer_unlisted")) == 2
