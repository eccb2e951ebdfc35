"""Every bad input through broker and daemon: kept with its reason, counted, nothing else lost; and starts
that cannot work say why.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mqtt5
import pytest

from benchmarks.daemon import Daemon, Tree
from benchmarks.mqtt import Publisher
from benchmarks.servers import wait_until
from tests.fault.rig import Rig, started

TOPIC = "acme/devices/pump/telemetry"
OVERSIZED = json.dumps({"metrics": {"a": "x" * (2 << 20)}}).encode()


def _bad() -> list[tuple[str, bytes, str]]:
    """topic, payload, reason: no two are equal, for equal dead letters are counted and not repeated."""
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ancient = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    return [
        (TOPIC, b"{", "invalid_json"),
        (TOPIC, b"\xff\xfe", "invalid_json"),
        (TOPIC, b'"text"', "wrong_shape"),
        (TOPIC, b'{"metrics": [1]}', "array"),
        (TOPIC, b'{"metrics": {"a": NaN}}', "not_finite"),
        (TOPIC, b'{"metrics": {"a": Infinity}}', "not_finite"),
        (TOPIC, b'{"metrics": {"a": 1e999}}', "not_finite"),
        (TOPIC, b'{"metrics": {"a": 9007199254740993}}', "not_exact"),
        (f"{TOPIC}/a", b"1708703790535904509", "not_exact"),
        (f"{TOPIC}/a", b"nan", "not_finite"),
        (f"{TOPIC}/a", b"-inf", "not_finite"),
        (
            TOPIC,
            json.dumps({"metrics": {f"m{number}": number for number in range(300)}}).encode(),
            "too_many_metrics",
        ),
        (TOPIC, OVERSIZED, "oversized_packet"),
        (TOPIC, json.dumps({"ts": future, "metrics": {"a": 1}}).encode(), "timestamp_in_future"),
        (TOPIC, json.dumps({"ts": ancient, "metrics": {"a": 1}}).encode(), "timestamp_too_old"),
        (TOPIC, b'{"ts": "yesterday", "metrics": {"a": 1}}', "invalid_timestamp"),
        ("stranger/devices/pump/telemetry", b'{"a": 1}', "unknown_customer"),
        ("acme/devices//telemetry", b'{"a": 2}', "invalid_identifier"),
    ]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with started(tmp_path) as made:
        yield made


async def _dead_letters(rig: Rig) -> dict[tuple[str, bytes], tuple[str, str]]:
    rows = await rig.fetch("select topic, reason, payload, detail from dead_letter where kind = 'message'")
    return {(row["topic"], row["payload"][:100]): (row["reason"], row["detail"]) for row in rows}


async def test_each_bad_message_is_kept_with_its_reason_and_hurts_no_other(rig: Rig) -> None:
    daemon = rig.daemon(connections=[])
    daemon.start()
    await daemon.ready()
    bad, at = _bad(), time.time_ns() // 1_000_000 - 60_000
    async with Publisher[None](rig.broker.port, "device") as publisher:
        for number, (topic, payload, _) in enumerate(bad):
            await publisher.publish(
                TOPIC, json.dumps({"ts": at + number, "metrics": {"good": number}}).encode(), None
            )
            await publisher.publish(topic, payload, None)
        await publisher.publish(
            TOPIC, json.dumps({"ts": at + len(bad), "metrics": {"good": len(bad)}}).encode(), None
        )
        await publisher.flush()
    await rig.reaches("telemetry", len(bad) + 1)
    await rig.reaches("dead_letter", len(bad))
    letters = await _dead_letters(rig)
    # Of a packet that is skipped unparsed, the dead letter has what follows the packet id: first the length
    # of its properties, none here.
    expected = {
        (topic, (b"\0" + payload if payload is OVERSIZED else payload)[:100]): reason
        for topic, payload, reason in bad
    }
    assert expected == {key: reason for key, (reason, _) in letters.items()}
    assert all(len(detail) > 10 for _, detail in letters.values()), "a detail says nothing"
    good = await rig.fetch("select (metrics ->> 'good')::int as good from telemetry order by ts")
    assert [row["good"] for row in good] == list(range(len(bad) + 1))
    counted = await daemon.metrics()
    assert counted['fieldgate_mqtt_messages_total{outcome="dead_letter"}'] == len(bad)
    assert counted['fieldgate_mqtt_messages_total{outcome="stored"}'] == len(bad) + 1
    assert counted["fieldgate_mqtt_oversized_messages_total"] == 1
    assert daemon.exit_code is None
    assert await daemon.stop() == 0


async def test_a_topic_that_no_source_matches_any_more_is_a_dead_letter(rig: Rig) -> None:
    daemon = rig.daemon(connections=[])
    daemon.start()
    await daemon.ready()
    await daemon.stop()
    client = (await rig.fetch("select client_id from ingest_subscription limit 1"))[0][0]
    await _subscribe_beside(rig.broker.port, client)
    async with Publisher[None](rig.broker.port, "device") as publisher:
        await publisher.publish("elsewhere/7", b"what is this", None)
        await publisher.publish(TOPIC, b'{"good": 1}', None)
        await publisher.flush()
    daemon.start()
    await rig.reaches("telemetry", 1)
    await rig.reaches("dead_letter", 1)
    letters = await rig.fetch("select topic, reason, payload from dead_letter")
    assert [tuple(row) for row in letters] == [("elsewhere/7", "unmatched_topic", b"what is this")]


async def _subscribe_beside(port: int, client: str) -> None:
    """Adds a filter to the gateway's own session, as an older configuration would have left it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        mqtt5.ConnectPacket(
            client, clean_start=False, session_expiry_interval=3600, receive_max=65534
        ).write()
    )
    await reader.read(1024)
    writer.write(
        mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("elsewhere/+", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]).write()
    )
    await reader.read(1024)
    writer.write(mqtt5.DisconnectPacket().write())
    await writer.drain()
    writer.close()


async def _says(daemon: Daemon, text: str, seconds: float = 20.0) -> None:
    await wait_until(
        lambda: text in daemon.log,
        seconds=seconds,
        what=f"the daemon says {text}; it said {daemon.log[-800:]}",
    )


async def _answers(daemon: Daemon, path: str, status: int) -> None:
    """HTTP is answered by a process of its own, which starts beside."""

    async def does() -> bool:
        return await daemon.status(path) == status

    await wait_until(does, what=f"{path} is {status}")


async def test_it_waits_for_a_broker_that_is_away_and_says_so(rig: Rig) -> None:
    await rig.broker.stop()
    daemon = rig.daemon(connections=[])
    daemon.start()
    await _says(daemon, "ingest.disconnected")
    await _answers(daemon, "/healthz", 200)
    await _answers(daemon, "/readyz", 503)
    await rig.broker.start()
    await daemon.ready()


async def test_it_waits_for_a_database_that_is_away_and_says_so(rig: Rig) -> None:
    await rig.postgres.stop()
    daemon = rig.daemon(connections=[])
    daemon.start()
    await _says(daemon, "gateway.database_awaited")
    await _answers(daemon, "/healthz", 200)
    await _answers(daemon, "/readyz", 503)
    await rig.postgres.start()
    await daemon.ready()


async def test_it_can_be_stopped_while_it_waits_for_the_database(rig: Rig) -> None:
    await rig.postgres.stop()
    daemon = rig.daemon(connections=[])
    daemon.start()
    await _says(daemon, "gateway.database_awaited")
    assert await daemon.stop() == 0


async def _ends(daemon: Daemon) -> int:
    daemon.start()
    await wait_until(lambda: daemon.exit_code is not None, seconds=30, what="the daemon stops by itself")
    code = daemon.exit_code
    assert code is not None
    return code


async def test_wrong_credentials_at_the_broker_stop_it(tmp_path: Path) -> None:
    async with started(tmp_path, anonymous=False) as rig:
        daemon = rig.daemon(connections=[], broker={"username": "gateway", "password": "${env:BENCH_KEY}"})
        assert await _ends(daemon) == 1
        said = daemon.log.lower()
        assert "refuse" in said and "broker.username" in said
        assert "bm90lwetc2vjcmv0" not in said


async def test_a_database_that_does_not_exist_stops_it(rig: Rig) -> None:
    rig.dsn = rig.postgres.dsn("nowhere")
    daemon = rig.daemon(connections=[])
    assert await _ends(daemon) == 2
    assert "database.dsn" in daemon.log and "nowhere" in daemon.log


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        pytest.param(
            {"telemetry": {"retentoin": "30d"}},
            ["telemetry.retentoin", "unknown key", "retention"],
            id="unknown key",
        ),
        pytest.param(
            {"broker": {"password": "${env:NOWHERE_TO_BE_FOUND}"}},
            ["broker.password", "NOWHERE_TO_BE_FOUND"],
            id="missing secret",
        ),
        pytest.param(
            {
                "telemetry": {
                    "sources": [
                        {"topic": "{customer}/devices/{device}/telemetry"},
                        {"topic": "{customer}/devices/{device}/telemetry"},
                    ]
                }
            },
            ["telemetry.sources", "overlap"],
            id="overlapping sources",
        ),
    ],
)
async def test_a_faulty_configuration_starts_nothing(
    tmp_path: Path, sections: dict[str, Tree], said: list[str]
) -> None:
    daemon = Daemon(
        tmp_path,
        broker_url="mqtt://127.0.0.1:1",
        dsn="postgresql:///nowhere",
        customers=["acme"],
        connections=[],
        name="daemon",
        **sections,
    )
    assert await _ends(daemon) == 2
    assert "daemon.yaml:" in daemon.log, "the fault has no line"
    assert [text for text in said if text not in daemon.log] == []
