"""Status on a real broker from a real database: retained, current, with last wills, by
one replica at a time.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import jsonschema
import orjson
import pytest

from benchmarks.servers import Mosquitto, free_port, patient
from gateway.broker_tls import tls_context
from gateway.events import mqtt_publisher
from gateway.events.documents import IssueDocument, StatusDocument
from gateway.events.mqtt_publisher import StatusPublisher
from gateway.events.session import StrictClient
from gateway.model.errors import ConfigError
from gateway.settings import BrokerSettings, Settings
from gateway.store.pool import Database

GATEWAY = "fieldgate/v1/gateway/status"
STATUS = "fieldgate/v1/customers/acme/connections/sink/status"
CONNECTION = """
insert into customer (customer_id) values ('acme');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest, delivery, price)
values ('sink', 'acme', 'postgres', 'on_premises', 3, 'active', '', 'exactly_once', 8);
insert into stream (connection_id, name, phase) values ('sink', 'readings', 'incremental');
insert into stream (connection_id, name, phase, initial_from, initial_cursor, initial_until, initial_clipped_to)
values ('sink', 'readings', 'initial', '2026-01-01Z', '2026-01-02Z', '2026-01-05Z', interval '3 days');
"""


class Watcher:
    """What is retained under the root, as it stands."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.held: dict[str, bytes] = {}
        self.history: list[tuple[str, bytes]] = []

    async def watch(self) -> None:
        await self.client.subscribe("fieldgate/v1/#", qos=1)
        async for message in self.client.messages:
            payload = bytes(message.payload)
            self.history.append((str(message.topic), payload))
            self.held[str(message.topic)] = payload

    def document(self, topic: str) -> dict[str, object]:
        return orjson.loads(self.held[topic]) if self.held.get(topic) else {}

    async def until(self, condition: Callable[[], object], seconds: float = 15) -> None:
        async with patient(seconds):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(port: int) -> AsyncIterator[Watcher]:
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        watcher = Watcher(client)
        task = asyncio.create_task(watcher.watch())
        yield watcher
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def watcher(mosquitto: Mosquitto) -> AsyncIterator[Watcher]:
    async with watching(mosquitto.port) as found:
        yield found


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {"broker": {"url": f"mqtt://127.0.0.1:{port}"}, "security": {"encryption_keys": ["k"]}}
    )


@asynccontextmanager
async def publishing(port: int, database: Database, replica: str) -> AsyncIterator[StatusPublisher]:
    publisher = StatusPublisher(settings(port), database, replica)
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
        await publisher.stop()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def execute(database: Database, sql: str) -> None:
    async with database.connection() as connection:
        await connection.execute(sql)


async def test_the_gateway_and_its_replica_are_told_from_start_to_stop(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    replica = "fieldgate/v1/replicas/one/status"
    async with publishing(mosquitto.port, database, "one") as publisher:
        await watcher.until(
            lambda: (
                watcher.document(GATEWAY).get("state") == "ready"
                and watcher.document(replica).get("online") is True
            )
        )
        assert watcher.document(GATEWAY)["replicas"] == 1
        await publisher.draining()
        await watcher.until(lambda: watcher.document(GATEWAY).get("state") == "draining")
    await watcher.until(
        lambda: (
            watcher.document(GATEWAY).get("state") == "lost"
            and watcher.document(replica).get("online") is False
        )
    )
    async with watching(mosquitto.port) as later:
        await later.until(lambda: len(later.held) == 2)
        assert later.document(GATEWAY)["replicas"] == 0


async def test_a_connections_document_is_published_at_each_change_and_removed_with_it(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    await execute(database, CONNECTION)
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: STATUS in watcher.held)
        document = StatusDocument.model_validate_json(watcher.held[STATUS])
        assert (
            document.state,
            document.credits,
            document.delivery,
            document.version,
            document.accepting_telemetry,
        ) == ("active", 8, "exactly_once", 1, True)
        incremental, initial = document.streams
        assert (incremental.phase, incremental.progress) == ("incremental", None)
        assert initial.progress is not None
        assert (initial.progress.fraction, initial.progress.clipped_to_days) == (0.25, 3.0)
        await execute(
            database,
            "update connection set state = 'reauthorization_required', version = 2, reason = 'refused'",
        )
        await watcher.until(lambda: watcher.document(STATUS).get("version") == 2)
        assert watcher.document(STATUS)["reauthorization_required"] is True
        assert watcher.document(STATUS)["next_sync"] is None
        await execute(database, "delete from connection")
        await watcher.until(lambda: watcher.held[STATUS] == b"")


async def test_everything_is_published_again_after_the_broker_returns_without_memory(
    mosquitto: Mosquitto, database: Database
) -> None:
    await execute(database, CONNECTION)
    async with publishing(mosquitto.port, database, "one"):
        async with watching(mosquitto.port) as before:
            await before.until(lambda: STATUS in before.held)
            await before.client.publish(STATUS, b"", qos=1, retain=True)
        await mosquitto.stop()
        await mosquitto.start()
        async with watching(mosquitto.port) as after:
            await after.until(
                lambda: after.held.get(STATUS) and after.document(GATEWAY).get("state") == "ready", 30
            )


ISSUE = "fieldgate/v1/customers/acme/connections/sink/issues/i1"
OPEN = """
insert into issue (issue_id, connection_id, code, severity, title, instructions, action_url, request_id)
values ('i1', 'sink', 'reauthorization_required', 'error', 'New credentials are needed', 'Make a key, then paste it.', 'http://gateway/reauthorize/x', 'r-1')
"""
SOLVE = "update issue set solved_at = now()"


async def test_an_issue_is_retained_while_it_is_open(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    await execute(database, CONNECTION + OPEN)
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: watcher.held.get(ISSUE))
        document = watcher.document(ISSUE)
        assert IssueDocument.model_validate(document).code == "reauthorization_required"
        schema = orjson.loads(
            (Path(__file__).parents[2] / "config" / "schemas" / "connection-issue.schema.json").read_bytes()
        )
        jsonschema.validate(document, schema)
        assert list(document) == [
            "id",
            "code",
            "severity",
            "since",
            "title",
            "instructions",
            "action_url",
            "request_id",
        ]
        await execute(database, "update issue set action_url = 'http://gateway/reauthorize/y'")
        await watcher.until(lambda: watcher.document(ISSUE)["action_url"] == "http://gateway/reauthorize/y")
        await execute(database, SOLVE)
        await watcher.until(lambda: watcher.held[ISSUE] == b"")
    async with watching(mosquitto.port) as later:
        await later.until(lambda: STATUS in later.held)
        assert ISSUE not in later.held


async def test_an_issue_that_was_solved_while_nobody_spoke_is_emptied(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    await execute(database, CONNECTION + OPEN)
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: watcher.held.get(ISSUE))
    await execute(database, SOLVE)
    async with publishing(mosquitto.port, database, "two"):
        await watcher.until(lambda: watcher.held[ISSUE] == b"")


async def test_issues_converge_when_the_broker_returns_without_memory(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]], database: Database
) -> None:
    broker = await make_mosquitto(persistence=False)
    await execute(database, CONNECTION + OPEN)
    async with publishing(broker.port, database, "one"):
        async with watching(broker.port) as before:
            await before.until(lambda: before.held.get(ISSUE))
        await broker.stop()
        await broker.start()
        async with watching(broker.port) as after:
            await after.until(lambda: after.held.get(ISSUE), 30)
            await execute(database, SOLVE)
            await after.until(lambda: after.held[ISSUE] == b"")


async def test_issues_converge_when_the_broker_returns_with_what_it_had_saved_long_ago(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]], database: Database, tmp_path: Path
) -> None:
    broker = await make_mosquitto()
    await execute(database, CONNECTION + OPEN)
    async with publishing(broker.port, database, "one"):
        async with watching(broker.port) as before:
            await before.until(lambda: before.held.get(ISSUE))
        await broker.stop()
        (saved,) = tmp_path.glob("mosquitto_*/mosquitto.db")
        shutil.copy(saved, tmp_path / "saved")
        await broker.start()
        async with watching(broker.port) as solved:
            await solved.until(lambda: solved.held.get(ISSUE), 30)
            await execute(database, SOLVE)
            await solved.until(lambda: solved.held.get(ISSUE) == b"", 30)
        await broker.stop()
        shutil.copy(tmp_path / "saved", saved)
        await broker.start()
        async with patient(30):
            while ISSUE in await retained_at(broker.port):
                await asyncio.sleep(0.1)


async def retained_at(port: int) -> dict[str, bytes]:
    """What the broker gives a new subscriber: a message of its own comes after all that is retained."""
    async with watching(port) as found:
        await found.client.subscribe("mark", qos=1)
        await found.client.publish("mark", b"", qos=1)
        await found.until(lambda: "mark" in found.held)
        return {topic: payload for topic, payload in found.held.items() if topic != "mark"}


@pytest.mark.parametrize("ended", [False, True], ids=["solved", "disconnected"])
async def test_what_a_speaker_that_stood_still_says_late_is_put_right(
    mosquitto: Mosquitto, database: Database, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """It read the documents, stood still, and publishes after its successor has told what came later."""
    monkeypatch.setattr(mqtt_publisher, "REPEAT_SECONDS", 1.0)
    await execute(database, CONNECTION + OPEN)
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: watcher.held.get(ISSUE) and watcher.held.get(STATUS))
        issue, status = watcher.held[ISSUE], watcher.held[STATUS]
        if ended:
            await execute(database, "update connection set state = 'disconnected', version = 2")
            await watcher.until(lambda: watcher.held[STATUS] == b"")
        else:
            await execute(database, "update connection set reason = 'later', version = 2; " + SOLVE)
            await watcher.until(lambda: watcher.held[STATUS] != status)
        await watcher.until(lambda: watcher.held[ISSUE] == b"")
        right = watcher.held[STATUS]
        said = len(watcher.history)
        for topic, payload in ((ISSUE, issue), (STATUS, status)):
            await watcher.client.publish(topic, payload, qos=1, retain=True)
        late = [(ISSUE, issue), (STATUS, status)]
        await watcher.until(lambda: all(each in watcher.history[said:] for each in late))
        await watcher.until(lambda: watcher.held[ISSUE] == b"" and _same(watcher.held[STATUS], right))


def _same(held: bytes, right: bytes) -> bool:
    """Whether they are one document, but for what it says of the time."""
    return held == right or bool(
        held and right and orjson.loads(held)["version"] == orjson.loads(right)["version"]
    )


async def test_nothing_is_left_behind_after_a_disconnect(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    await execute(database, CONNECTION + OPEN)
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: watcher.held.get(ISSUE) and watcher.held.get(STATUS))
        await execute(database, "update connection set state = 'disconnected', version = 2")
        await watcher.until(lambda: watcher.held[STATUS] == b"" and watcher.held[ISSUE] == b"")
    final = [payload for topic, payload in watcher.history if topic == STATUS and payload]
    assert [orjson.loads(payload)["state"] for payload in final] == ["active", "disconnected"]
    told = len(watcher.history)
    async with publishing(mosquitto.port, database, "two"):  # it does not say it again
        await watcher.until(lambda: watcher.document(GATEWAY).get("state") == "ready")
        await execute(
            database,
            CONNECTION.replace("'sink'", "'other'").replace(
                "insert into customer (customer_id) values ('acme');", ""
            ),
        )
        await watcher.until(lambda: watcher.held.get(STATUS.replace("sink", "other")))
    assert not any(payload for topic, payload in watcher.history[told:] if topic in {STATUS, ISSUE})
    async with watching(mosquitto.port) as later:
        await later.until(lambda: STATUS.replace("sink", "other") in later.held and GATEWAY in later.held)
        assert not {STATUS, ISSUE} & later.held.keys()


async def test_a_topic_that_is_refused_stalls_no_other(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]], database: Database, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text(f"topic deny {STATUS}\ntopic readwrite #\n")
    broker = await make_mosquitto(f"acl_file {rules}")
    await execute(database, CONNECTION + OPEN)
    async with watching(broker.port) as watcher, publishing(broker.port, database, "one"):
        await watcher.until(
            lambda: watcher.held.get(ISSUE) and watcher.document(GATEWAY).get("state") == "ready"
        )


async def test_anothers_word_is_corrected(mosquitto: Mosquitto, database: Database, watcher: Watcher) -> None:
    """The will of our own lost connection can come after we are back."""
    replica = "fieldgate/v1/replicas/one/status"
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: GATEWAY in watcher.held and replica in watcher.held)
        for topic, wrong in ((GATEWAY, b'{"state":"lost"}'), (replica, b'{"online":false}')):
            await watcher.client.publish(topic, wrong, qos=1, retain=True)
            await watcher.until(lambda topic=topic, wrong=wrong: (topic, wrong) in watcher.history)
        await watcher.until(
            lambda: (
                watcher.document(GATEWAY).get("state") == "ready"
                and watcher.document(replica).get("online") is True
            )
        )


async def test_one_replica_speaks_and_another_takes_over(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    async with publishing(mosquitto.port, database, "one") as first:
        await watcher.until(lambda: watcher.document(GATEWAY).get("state") == "ready")
        async with publishing(mosquitto.port, database, "two"):
            await watcher.until(lambda: watcher.document(GATEWAY).get("replicas") == 2)
            since = watcher.document(GATEWAY)["since"]
            await first.stop()
            await watcher.until(
                lambda: (
                    watcher.document(GATEWAY).get("state") == "ready"
                    and watcher.document(GATEWAY)["since"] != since
                )
            )
            assert watcher.document("fieldgate/v1/replicas/two/status")["online"] is True
            assert watcher.document("fieldgate/v1/replicas/one/status")["online"] is False


async def test_a_cancelled_publisher_says_that_it_is_lost(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    running = asyncio.create_task(StatusPublisher(settings(mosquitto.port), database, "one").run())
    await watcher.until(lambda: watcher.document(GATEWAY).get("state") == "ready")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await watcher.until(lambda: watcher.document(GATEWAY).get("state") == "lost")


KILLED = """
import asyncio, os, signal, sys
from gateway.events.mqtt_publisher import StatusPublisher
from gateway.settings import Settings
from gateway.store.pool import Database

async def main(url, dsn):
    settings = Settings.model_validate({"broker": {"url": url}, "security": {"encryption_keys": ["k"]}})
    await StatusPublisher(settings, await Database.open(dsn, size=3), "victim").run()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_last_wills_of_a_killed_replica(mosquitto: Mosquitto, dsn: str, watcher: Watcher) -> None:
    replica = "fieldgate/v1/replicas/victim/status"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, mosquitto.url, dsn)
    try:
        await watcher.until(
            lambda: (
                watcher.document(GATEWAY).get("state") == "ready"
                and watcher.document(replica).get("online") is True
            )
        )
    finally:
        process.kill()
        await process.wait()
    await watcher.until(
        lambda: (
            watcher.document(GATEWAY).get("state") == "lost"
            and watcher.document(replica).get("online") is False
        )
    )


async def test_it_stops_soon_while_the_broker_is_away(database: Database) -> None:
    async with patient(10), publishing(free_port(), database, "one") as publisher:
        await publisher.draining()


async def test_a_publish_fails_at_once_when_the_connection_ends(mosquitto: Mosquitto) -> None:
    broker = BrokerSettings(url=f"mqtt://127.0.0.1:{mosquitto.port}")
    will = aiomqtt.Will("w", b"")
    with pytest.raises(aiomqtt.MqttError):
        async with StrictClient(broker, "strict", will, None) as client:
            await client.retain("t", b"1")
            await mosquitto.stop()
            async with patient(4):
                await client.retain("t", b"2")
    await mosquitto.start()
    async with watching(mosquitto.port) as after, StrictClient(broker, "strict", will, None) as client:
        await client.retain("fieldgate/v1/end", b"e")
        await after.until(lambda: "fieldgate/v1/end" in after.held)
        assert b"2" not in after.held.values()


def test_tls_files_that_cannot_be_used_are_a_fault_of_configuration() -> None:
    with pytest.raises(ConfigError, match="TLS files"):
        tls_context(BrokerSettings(url="mqtts://broker", ca_file="/nowhere/ca.crt"))
