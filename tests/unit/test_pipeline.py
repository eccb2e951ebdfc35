"""The pipeline on a real database: what is stored, counted, buried and acknowledged, in which order, and when
reading pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from benchmarks.servers import PATIENCE, patient, wait_until
from gateway import metrics
from gateway.clock import now_microseconds
from gateway.ingest.batch import Message
from gateway.ingest.decode import Decoder
from gateway.ingest.pipeline import Pipeline
from gateway.model.errors import StoreUnavailable
from gateway.model.moving import MARK
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings
from gateway.store.leases import Term
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore

TOPIC = "acme/devices/pump/telemetry"


class Connection:
    """The pipeline's side of a TCP connection: notes in `log` what it is told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gone = False

    def acknowledge(self, packets: bytes) -> bool:
        if not self.gone:
            assert len(packets) % 4 == 0
            self.log += [
                str(int.from_bytes(packets[place + 2 : place + 4], "big"))
                for place in range(0, len(packets), 4)
            ]
        return not self.gone

    def pause(self) -> None:
        self.log.append("pause")

    def resume(self) -> None:
        self.log.append("resume")


def pipeline_on(database: Database, *, term: Term | None = None, **telemetry: object) -> Pipeline:
    settings = TelemetrySettings.model_validate({"auto_register_customers": True, **telemetry})
    decoder = Decoder(settings, compile_sources(settings.sources), ())
    return Pipeline(settings, decoder, TelemetryStore(database, register_customers=True, term=term))


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[None]:
    task = asyncio.create_task(pipeline.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def committed(pipeline: Pipeline) -> None:
    async with patient(20), running(pipeline):
        await pipeline.drained()


def sample(second: int, packet_id: int | None, *, device: str = "pump", **values: object) -> Message:
    """A message with a time of its own in today's first minutes."""
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return (
        f"acme/devices/{device}/telemetry",
        orjson.dumps({"ts": int(day) - 3600 + second, "metrics": values}),
        packet_id,
        False,
    )


async def rows(database: Database) -> list[tuple[str, dict[str, object]]]:
    async with database.connection() as connection:
        found = await connection.fetch("select device_id, metrics from telemetry order by device_id, ts")
    return [(row["device_id"], row["metrics"]) for row in found]


async def buried(database: Database) -> list[tuple[str, str, bytes, int]]:
    async with database.connection() as connection:
        found = await connection.fetch(
            "select topic, reason, payload, occurrences from dead_letter order by dead_letter_id"
        )
    return [(row["topic"], row["reason"], row["payload"], row["occurrences"]) for row in found]


def counted(outcome: str) -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_messages_total", {"outcome": outcome}) or 0


class Counted:
    """What the counters rose by since it was made."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        return {
            outcome: counted(outcome)
            for outcome in (
                "stored",
                "modified",
                "duplicate",
                "dead_letter",
                "dropped_qos0",
                "ignored_empty",
                "ignored_retained",
            )
        }

    def risen(self) -> dict[str, int]:
        return {
            outcome: int(value - self._before[outcome])
            for outcome, value in self._now().items()
            if value != self._before[outcome]
        }


async def test_messages_are_stored_and_acknowledged_in_order_of_receipt(database: Database) -> None:
    pipeline, connection, counts = pipeline_on(database, batch_messages=3), Connection(), Counted()
    pipeline.receive(connection, [sample(number, 10 - number, a=number) for number in range(8)])
    assert connection.log == [], "nothing is acknowledged before it is committed"
    await committed(pipeline)
    assert connection.log == [str(10 - number) for number in range(8)]
    assert await rows(database) == [("pump", {"a": number}) for number in range(8)]
    assert counts.risen() == {"stored": 8}


async def test_samples_of_one_instant_are_merged_whether_in_one_batch_or_in_two(database: Database) -> None:
    pipeline, connection, counts = pipeline_on(database), Connection(), Counted()
    pipeline.receive(connection, [sample(1, 1, a=1, b=1), sample(1, 2, b=2, c=3), sample(1, 3, c=3)])
    await committed(pipeline)
    assert await rows(database) == [("pump", {"a": 1, "b": 2, "c": 3})]
    assert counts.risen() == {"stored": 1, "modified": 1, "duplicate": 1}
    pipeline.receive(connection, [sample(1, 4, a=1), sample(2, 5, a=1)])
    pipeline.receive(connection, [sample(1, 6, a=9)])
    await committed(pipeline)
    assert await rows(database) == [("pump", {"a": 9, "b": 2, "c": 3}), ("pump", {"a": 1})]
    assert counts.risen() == {"stored": 2, "modified": 3, "duplicate": 1}
    pipeline.receive(connection, [sample(1, 7, a=9), sample(2, 8, a=1)])
    await committed(pipeline)
    assert counts.risen() == {"stored": 2, "modified": 3, "duplicate": 3}


async def test_a_repeated_sample_keeps_its_revision(database: Database) -> None:
    pipeline, connection = pipeline_on(database), Connection()
    revisions = []
    for packet_id in (1, 2):
        pipeline.receive(connection, [sample(1, packet_id, a=1)])
        await committed(pipeline)
        async with database.connection() as session:
            revisions.append(await session.fetchrow("select revision::text, changes from telemetry"))
    assert revisions[0] == revisions[1]


async def test_dead_letters_share_the_commit_and_are_acknowledged_in_their_turn(database: Database) -> None:
    pipeline, connection, counts = pipeline_on(database), Connection(), Counted()
    pipeline.receive(
        connection, [sample(1, 1, a=1), (TOPIC, b"{", 2, False), ("a\0b", b"x", 3, False), sample(2, 4, a=1)]
    )
    pipeline.receive_skipped(connection, 5, TOPIC, b"head", "oversized_packet", "large")
    pipeline.receive(connection, [(TOPIC, b"{", 6, False)])
    await committed(pipeline)
    pipeline.receive(connection, [(TOPIC, b"{", 7, False)])
    await committed(pipeline)
    assert connection.log == ["1", "2", "3", "4", "5", "6", "7"]
    assert sorted(await buried(database)) == [
        ("a\\0b", "unmatched_topic", b"x", 1),
        (TOPIC, "invalid_json", b"{", 3),
        (TOPIC, "oversized_packet", b"head", 1),
    ]
    assert counts.risen() == {"stored": 2, "dead_letter": 5}


async def test_what_came_on_another_connection_is_never_acknowledged_on_this_one(database: Database) -> None:
    pipeline, old, new = pipeline_on(database), Connection(), Connection()
    pipeline.receive(old, [sample(1, 1, a=1)])
    old.gone = True
    pipeline.receive(new, [sample(1, 1, a=1), sample(2, 2, a=1)])
    await committed(pipeline)
    assert old.log == [] and new.log == ["1", "2"]
    assert len(await rows(database)) == 2


async def test_a_flood_of_marks_between_gateways_costs_few_commits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark ends its batch, and anybody may publish one. Those of one customer leave room for another's."""
    connection, pipeline = Connection(), pipeline_on(database)
    noted: list[tuple[str, str]] = []
    commits = 0

    async def marked(marks: Sequence[tuple[str, str]]) -> None:
        noted.extend(marks)

    write = TelemetryStore.write

    async def counting(self: TelemetryStore, *given: Any, **more: Any) -> Any:
        nonlocal commits
        commits += 1
        return await write(self, *given, **more)

    monkeypatch.setattr(TelemetryStore, "write", counting)
    monkeypatch.setattr(pipeline._committer, "_on_marks", marked)
    marks = [(f"acme/devices/{MARK}x/telemetry", b"", number, False) for number in range(1, 1001)]
    other = (f"globex/devices/{MARK}y/telemetry", b"", 1001, False)
    pipeline.receive(connection, [*marks, other])
    await committed(pipeline)
    assert commits <= 102
    assert "1001" in connection.log
    assert ("globex", other[0]) in noted
    assert ("acme", marks[0][0]) in noted


async def test_reading_pauses_above_the_high_mark_and_resumes_below_the_low_one(database: Database) -> None:
    pipeline, connection = (
        pipeline_on(database, memory_high_bytes=1 << 20, memory_low_bytes=1 << 18, batch_messages=100),
        Connection(),
    )
    pipeline.receive(connection, [sample(number, number, a="x" * 1000) for number in range(1, 801)])
    assert connection.log == []
    pipeline.receive(connection, [sample(number, number, a="x" * 1000) for number in range(801, 1001)])
    assert connection.log == ["pause"]
    await committed(pipeline)
    resumed = connection.log.index("resume")
    assert 800 < resumed < len(connection.log) - 1, (
        "it goes on only when little is held, and before all is done"
    )
    assert len(connection.log) == 1002
    assert pipeline._in_hand.bytes == 0 and not pipeline.is_holding


async def test_qos_0_beyond_the_queue_is_dropped_counted_and_holds_nothing(database: Database) -> None:
    pipeline, connection, counts = pipeline_on(database, qos0_queue=5), Connection(), Counted()
    held = metrics.REGISTRY.get_sample_value("fieldgate_mqtt_inflight_messages")
    pipeline.receive(connection, [sample(number, None, a=1) for number in range(8)] + [sample(100, 1, a=1)])
    pipeline.receive(connection, [sample(9, None, a=1)])
    await committed(pipeline)
    assert connection.log == ["1"]
    assert counts.risen() == {"stored": 6, "dropped_qos0": 4}
    assert pipeline._in_hand.bytes == 0, "what was dropped would hold reading back for ever"
    assert metrics.REGISTRY.get_sample_value("fieldgate_mqtt_inflight_messages") == held
    pipeline.receive(connection, [sample(number, None, a=2) for number in range(5)])
    await committed(pipeline)
    assert counts.risen() == {"stored": 6, "modified": 5, "dropped_qos0": 4}


@pytest.fixture
async def poisoned(database: Database) -> Database:
    """Refuses samples with the metric `poison`."""
    async with database.connection() as connection:
        await connection.execute("alter table telemetry add check (not metrics ? 'poison')")
    return database


@pytest.mark.parametrize("bad", [{0}, {39}, {13, 14, 27}, set(range(40))])
async def test_what_the_database_refuses_is_isolated(poisoned: Database, bad: set[int]) -> None:
    pipeline, connection, counts = pipeline_on(poisoned), Connection(), Counted()
    messages = [
        sample(number, number + 1, **({"poison": number} if number in bad else {"a": number}))
        for number in range(40)
    ]
    pipeline.receive(connection, [*messages, (TOPIC, b"{", 41, False)])
    await committed(pipeline)
    assert connection.log == [str(number) for number in range(1, 42)]
    assert await rows(poisoned) == [("pump", {"a": number}) for number in range(40) if number not in bad]
    found = await buried(poisoned)
    assert {payload for _, reason, payload, _ in found if reason == "refused_by_database"} == {
        messages[number][1] for number in bad
    }
    assert len(found) == len(bad) + 1
    assert counts.risen() == {
        outcome: count
        for outcome, count in (("stored", 40 - len(bad)), ("dead_letter", len(bad) + 1))
        if count
    }


async def test_what_is_held_is_bounded_whatever_it_consists_of(database: Database) -> None:
    pipeline, connection = (
        pipeline_on(database, memory_high_bytes=1_200_000, memory_low_bytes=1 << 18),
        Connection(),
    )
    for number in range(40):
        pipeline.receive(connection, [(f"{number:03}{'x' * 60_000}", b"1", None, False)])
        if "pause" in connection.log:
            break
    assert 15 <= number < 22
    await committed(pipeline)


async def test_a_database_that_goes_while_a_refusal_is_isolated_is_waited_for_and_told(
    poisoned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, connection, calls = pipeline_on(poisoned), Connection(), 0
    write = TelemetryStore.write

    async def goes_once(self: TelemetryStore, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the batch was refused, and which of its samples is to be found
            raise StoreUnavailable("away")
        assert pipeline.is_stuck is (calls > 2)
        return await write(self, *given, **named)

    monkeypatch.setattr(TelemetryStore, "write", goes_once)
    pipeline.receive(connection, [sample(n, n + 1, **{"poison" if n == 3 else "n": n}) for n in range(4)])
    await committed(pipeline)
    assert connection.log == ["1", "2", "3", "4"] and not pipeline.is_stuck
    assert [values["n"] for _, values in await rows(poisoned)] == [0, 1, 2]
    assert len(await buried(poisoned)) == 1


async def test_a_day_that_was_dropped_meanwhile_is_made_again(database: Database) -> None:
    pipeline, connection = pipeline_on(database), Connection()
    pipeline.receive(connection, [sample(1, 1, a=1)])
    await committed(pipeline)
    async with database.connection() as session:
        for (name,) in await session.fetch(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'telemetry'::regclass"
        ):
            await session.execute(f"drop table {name}")
    pipeline.receive(connection, [sample(2, 2, a=2)])
    await committed(pipeline)
    assert await rows(database) == [("pump", {"a": 2})]
    assert await buried(database) == []


async def test_devices_register_with_their_first_sample_and_only_known_customers_have_them(
    database: Database,
) -> None:
    settings = TelemetrySettings()
    decoder = Decoder(settings, compile_sources(settings.sources), ["acme"])
    pipeline, connection = (
        Pipeline(settings, decoder, TelemetryStore(database, register_customers=False)),
        Connection(),
    )
    async with database.connection() as session:
        await session.execute("insert into customer (customer_id) values ('acme')")
    stranger: Message = ("globex/devices/pump/telemetry", b'{"a":1}', 3, False)
    pipeline.receive(connection, [sample(1, 1, a=1), sample(1, 2, device="fan", a=1), stranger])
    await committed(pipeline)
    async with database.connection() as session:
        devices = [
            tuple(row) for row in await session.fetch("select customer_id, device_id from device order by 2")
        ]
    assert devices == [("acme", "fan"), ("acme", "pump")]
    assert [(topic, reason) for topic, reason, _, _ in await buried(database)] == [
        ("globex/devices/pump/telemetry", "unknown_customer")
    ]


async def test_the_next_batch_fills_while_one_is_committed(database: Database) -> None:
    """A lock holds the first commit; what comes meanwhile goes in one commit, not in one each."""
    pipeline, connection = pipeline_on(database), Connection()
    pipeline.receive(connection, [sample(0, 1, a=0)])
    await committed(pipeline)
    commits = metrics.REGISTRY.get_sample_value("fieldgate_ingest_commit_seconds_count") or 0
    async with running(pipeline):
        async with database.transaction() as locking:
            await locking.execute("lock table telemetry in exclusive mode")
            pipeline.receive(connection, [sample(1, 2, a=1)])
            await wait_until(lambda: pipeline._open is None, what="the first commit has begun", seconds=5)
            for number in range(2, 50):
                pipeline.receive(connection, [sample(number, number + 1, a=number)])
                await asyncio.sleep(0)
            assert connection.log == ["1"]
        await asyncio.wait_for(pipeline.drained(), 10 * PATIENCE)
    assert connection.log == [str(number) for number in range(1, 51)]
    assert metrics.REGISTRY.get_sample_value("fieldgate_ingest_commit_seconds_count") == commits + 2


async def test_every_acknowledgement_is_in_the_histogram(database: Database) -> None:
    def acknowledged() -> float:
        return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_ack_seconds_count") or 0

    before = acknowledged()
    pipeline, connection = pipeline_on(database, batch_messages=3), Connection()
    messages: Sequence[Message] = [
        sample(number, None if number % 4 == 0 else number, a=1) for number in range(20)
    ]
    pipeline.receive(connection, messages)
    pipeline.receive_skipped(connection, 40, TOPIC, b"head", "oversized_packet", "large")
    pipeline.receive_skipped(connection, None, TOPIC, b"head", "oversized_packet", "large")
    await committed(pipeline)
    assert acknowledged() - before == 16 == len(connection.log)


async def test_receipt_stands_for_a_time_that_is_missing(database: Database) -> None:
    before = now_microseconds()
    pipeline, connection = pipeline_on(database), Connection()
    pipeline.receive(connection, [(f"{TOPIC}/rpm", b"5", 1, False)])
    await committed(pipeline)
    async with database.connection() as session:
        at, received = await session.fetchrow("select ts, received_at from telemetry")
    assert before <= at.timestamp() * 1e6 + 1 and at == received


async def test_what_was_retained_without_a_time_of_its_own_is_no_new_reading(database: Database) -> None:
    pipeline, connection, counts = pipeline_on(database), Connection(), Counted()
    topic, payload, _, _ = sample(5, 1, a=5)
    ours = orjson.loads(payload)["ts"]
    pipeline.receive(
        connection,
        [
            (topic, payload, 1, True),
            (topic, b'{"temperature":-3}', 2, True),
            (f"{TOPIC}/rpm", b"9", 3, True),
            (topic, b'[{"a":1},{"ts":%d,"a":2},{"a":3}]' % (ours + 1), 4, True),
            (topic, b"{", 5, True),
            (topic, b'{"temperature":-3}', 6, False),
        ],
    )
    await committed(pipeline)
    assert [values for _, values in await rows(database)] == [{"a": 5}, {"a": 2}, {"temperature": -3}]
    assert [(reason, payload) for _, reason, payload, _ in await buried(database)] == [("invalid_json", b"{")]
    assert counts.risen() == {"stored": 3, "ignored_retained": 2, "dead_letter": 1}
    assert connection.log == ["1", "2", "3", "4", "5", "6"]
    assert pipeline._in_hand.bytes == 0


@pytest.mark.parametrize("is_retained", [True, False])
async def test_an_empty_message_is_acknowledged_and_counted_and_nothing_else(
    database: Database, is_retained: bool
) -> None:
    """It takes away what was retained; who is subscribed already gets it without the flag."""
    pipeline, connection, counts = pipeline_on(database), Connection(), Counted()
    empty: list[Message] = [
        (topic, b"", number, is_retained) for number, topic in enumerate((TOPIC, f"{TOPIC}/rpm", "a/b"), 1)
    ]
    pipeline.receive(connection, empty)
    await committed(pipeline)
    assert await rows(database) == [] and await buried(database) == []
    assert counts.risen() == {"ignored_empty": 3} and connection.log == ["1", "2", "3"]


async def test_held_bytes_return_to_zero_after_oversized_packets(database: Database) -> None:
    pipeline, connection = pipeline_on(database, batch_messages=2), Connection()
    for packet_id in range(1, 6):
        pipeline.receive_skipped(connection, packet_id, TOPIC, b"head" * 100, "oversized_packet", "large")
        pipeline.receive(connection, [sample(packet_id, packet_id + 10, a=1)])
    assert pipeline._in_hand.bytes > 0
    await committed(pipeline)
    assert (pipeline._in_hand.bytes, pipeline._in_hand.count, pipeline._in_hand.qos0) == (0, 0, 0)
