"""Records on their way out: over HTTP, MQTT, and in answers to commands, on real servers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import aiomqtt
import orjson
import pytest

from benchmarks.servers import Mosquitto, wait_until
from connectors.kit.inbound import key_of
from connectors.kit.json_text import parse_json
from gateway import clock
from gateway.events.command_documents import RecordsAnswer
from gateway.events.commands import ENVELOPE_BYTES
from gateway.events.record_documents import answer_payload, page_payload
from gateway.events.record_publisher import AT_ONCE, FEW, TOGETHER, RecordPublisher
from gateway.model.errors import RequestRefused
from gateway.model.inbound import InboundRecord
from gateway.model.pressure import Pressure
from gateway.model.record import BEGINNING, MAX_BODY_BYTES, LogPlace, keep, read_cursor, topic_level
from gateway.settings import Settings
from gateway.store import inbound, records
from gateway.store.pool import Database
from gateway.store.queries import sql
from gateway.store.records import Records, StoredRecord
from tests.fixtures.commanding import Customer, commanded, customer
from tests.fixtures.inbound_rig import Consumer, InboundRig
from tests.fixtures.source import NOON, Source

ROOT = "fieldgate/v1/customers/acme/connections/acme-1/records/work_orders"


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {
            "broker": {"url": f"mqtt://127.0.0.1:{port}"},
            "security": {"encryption_keys": ["k"]},
            "customers": ["acme", "globex"],
        }
    )


@dataclass
class Heard:
    """What a subscriber got, and what the broker retains by topic."""

    messages: list[aiomqtt.Message] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)

    def items(self) -> list[dict[str, Any]]:
        return [orjson.loads(message.payload) for message in self.messages if message.payload]


@asynccontextmanager
async def hearing(port: int, topic: str = "fieldgate/v1/customers/#") -> AsyncIterator[Heard]:
    heard = Heard()
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(topic, qos=1)

        async def listen() -> None:
            async for message in client.messages:
                heard.messages.append(message)

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def kept(port: int) -> dict[str, dict[str, Any]]:
    """What the broker retains of records, by the last level of its topic."""
    async with hearing(port) as heard:
        mark = "fieldgate/v1/customers/acme/mark"
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.publish(mark, b"1", qos=1)

        async def marked() -> bool:
            return any(str(message.topic) == mark for message in heard.messages)

        await wait_until(marked, what="everything retained has come")
        return {
            str(message.topic).rsplit("/", 1)[-1]: orjson.loads(message.payload)
            for message in heard.messages
            if message.retain
        }


@asynccontextmanager
async def publishing(port: int, database: Database) -> AsyncIterator[None]:
    running = asyncio.create_task(RecordPublisher(settings(port), database, owner="one").run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def told(database: Database) -> None:
    async def all_told() -> bool:
        return not await records.behind(database)

    await wait_until(all_told, what="every record is told")


async def changed(rig: InboundRig, *puts: tuple[str, dict[str, object] | None]) -> None:
    for key, body in puts:
        rig.source.put(key, body)
    rig.source.pass_time(60)
    await rig.run()


async def delete(rig: InboundRig, key: str) -> None:
    """As the walks of all keys would, at once."""
    for _ in range(2):
        await rig.finish("reconcile")
    assert key not in await rig.held()


@pytest.fixture
async def rig(database: Database) -> InboundRig:
    found = await InboundRig(database, Source()).activate()
    await found.run()
    return found


async def test_changes_are_told_once_each_with_the_keys_encoded(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    hostile = ["plain-1", "a/b", "+", "#", "$SYS", "ümläut", "%2F", "a b"]
    async with hearing(mosquitto.port) as heard, publishing(mosquitto.port, database):
        await changed(rig, *[(key, {"k": key}) for key in hostile])
        await told(database)

        async def all_heard() -> bool:
            return len(heard.messages) >= len(hostile)

        await wait_until(all_heard, what="all are heard")
    topics = {str(message.topic) for message in heard.messages}
    assert topics == {f"{ROOT}/{topic_level(key)}" for key in hostile}
    assert {item["key"] for item in heard.items()} == set(hostile) and len(heard.messages) == len(hostile)
    message = heard.messages[0]
    assert (message.qos, message.retain) == (1, False)
    assert 0 < message.properties.MessageExpiryInterval <= 7 * 86400
    assert not await kept(mosquitto.port)


async def test_records_are_told_in_small_rounds_with_rests_while_messages_come_in(
    database: Database, mosquitto: Mosquitto, rig: InboundRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of hundreds would stand before an acknowledgement; with nothing coming
    in, it is the quick one.
    """
    pressure, rounds = Pressure(), []
    real = records.to_tell

    async def to_tell(database: Database, customer: str, position: int, limit: int) -> Any:
        rounds.append(limit)
        return await real(database, customer, position, limit)

    monkeypatch.setattr(records, "to_tell", to_tell)
    rests: list[float] = []
    monkeypatch.setattr(pressure, "rest", lambda worked, *, now, times: rests.append(worked) or 0.0)
    await changed(rig, *[(f"k{number}", {"n": number}) for number in range(60)])
    publisher = RecordPublisher(settings(mosquitto.port), database, owner="one", pressure=pressure)
    monkeypatch.setattr(pressure, "is_active", lambda *, now: True)
    running = asyncio.create_task(publisher.run())
    try:
        await told(database)
        assert len(rests) >= 60 / TOGETHER and set(rounds) == {FEW}
        monkeypatch.setattr(pressure, "is_active", lambda *, now: False)
        rounds.clear()
        await changed(rig, ("one more", {"n": 1}))
        await told(database)
        assert set(rounds) == {AT_ONCE}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_retained_states_are_kept_and_emptied_when_the_record_or_the_connection_goes(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    await rig.execute('update connection set sync = \'{"publish_records": "retained"}\'')
    async with publishing(mosquitto.port, database):
        await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(8)])
        await told(database)
        assert {key: item["body"] for key, item in (await kept(mosquitto.port)).items()} == rig.source.holds()
        rig.source.put("r-3", None)
        await delete(rig, "r-3")
        await told(database)
        assert set(await kept(mosquitto.port)) == set(rig.source.holds())
        async with database.transaction() as connection:
            await connection.execute("update connection set state = 'disconnected'")
            await inbound.clear(connection, rig.name)

        async def gone() -> bool:
            return not await rig.rows(
                "select * from record union all select * from record"
            ) and not await rig.rows("select * from inbound_count")

        await wait_until(gone, what="the records are gone", seconds=30)
    assert not await kept(mosquitto.port)


async def test_what_is_no_longer_to_be_retained_is_emptied(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    await rig.execute('update connection set sync = \'{"publish_records": "retained"}\'')
    async with publishing(mosquitto.port, database):
        await changed(rig, ("a", {"n": 1}), ("b", {"n": 2}))
        await told(database)
        assert set(await kept(mosquitto.port)) == {"a", "b"}
        await rig.execute('update connection set sync = \'{"publish_records": "off"}\'')

        async def emptied() -> bool:
            return not await rig.rows("select * from record where retained")

        await wait_until(emptied, what="nothing is retained", seconds=30)
    assert not await kept(mosquitto.port)


async def test_off_tells_nothing_and_the_log_goes_on(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    await rig.execute('update connection set sync = \'{"publish_records": "off"}\'')
    async with hearing(mosquitto.port) as heard, publishing(mosquitto.port, database):
        await changed(rig, ("a", {"n": 1}))
        await told(database)
        await rig.execute("update connection set sync = '{}'")
        await changed(rig, ("b", {"n": 1}))
        await told(database)

        async def one_heard() -> bool:
            return bool(heard.messages)

        await wait_until(one_heard, what="the second is heard")
    assert [item["key"] for item in heard.items()] == ["b"]


async def test_a_publisher_that_was_killed_tells_the_rest(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    await changed(rig, *[(f"r-{number:03}", {"n": number}) for number in range(450)])
    async with hearing(mosquitto.port) as heard:
        async with publishing(mosquitto.port, database):

            async def some() -> bool:
                return len(heard.messages) > 50

            await wait_until(some, what="some are told")
        await rig.execute("update lease set lease_until = now() where name = 'records'")
        async with publishing(mosquitto.port, database):
            await told(database)

            async def every() -> bool:
                return {item["key"] for item in heard.items()} == set(rig.source.holds())

            await wait_until(every, what="all are told")


async def test_a_customer_that_was_away_catches_up_by_command(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(25)])
    other = await InboundRig(database, Source(), name="globex-1", customer="globex").activate()
    await other.run()
    await changed(other, ("secret", {"n": 1}))
    async with commanded(settings(mosquitto.port), database), customer(mosquitto.port) as acme:
        await acme.ask("status")
        seen, cursor = await _all_of(acme, limit=7)
        assert seen == rig.source.holds()
        await changed(rig, ("r-3", {"n": "changed"}), ("new", {"n": 1}))
        fresh, cursor = await _all_of(acme, cursor=cursor, limit=7)
        assert fresh == {"r-3": {"n": "changed"}, "new": {"n": 1}}
        only = await acme.ask("records", {"connection": "globex-1"})
        assert only["code"] == "request.not_found"
        assert (await acme.ask("records", {"cursor": "rubbish"}))["code"] == "request.invalid"
        assert (await acme.ask("records", {"limit": 0}))["code"] == "request.invalid"


async def _all_of(acme: Customer, *, cursor: str | None = None, limit: int) -> tuple[dict[str, Any], str]:
    seen: dict[str, Any] = {}
    while True:
        answer = await acme.ask("records", {"limit": limit, **({"cursor": cursor} if cursor else {})})
        seen |= {item["key"]: item["body"] for item in answer["items"]}
        cursor = answer["next"]
        assert isinstance(cursor, str)
        if not answer["has_more"]:
            return seen, cursor


async def test_answers_hold_as_many_records_as_fit(database: Database, rig: InboundRig) -> None:
    await changed(rig, *[(f"r-{number}", {"text": "x" * 100_000}) for number in range(5)])
    page = await Records(database).page("acme", limit=100)
    written = answer_payload(page, request_id="one", max_bytes=250_000)
    part = RecordsAnswer.model_validate_json(written)
    assert (part.request_id, len(part.items), part.has_more) == ("one", 2, True)
    assert len(written) < 250_000 + ENVELOPE_BYTES
    rest = await Records(database).page("acme", place=read_cursor(part.next, customer="acme"), limit=100)
    assert [*(item.key for item in part.items), *(found.key for found in rest.records)] == [
        f"r-{number}" for number in range(5)
    ]
    least = RecordsAnswer.model_validate_json(answer_payload(page, request_id="one", max_bytes=10))
    assert ([item.key for item in least.items], least.has_more) == (["r-0"], True)


@dataclass
class Interrupted:
    """A database of which something is committed between the statements of whoever reads it."""

    database: Database
    meanwhile: Callable[[], Awaitable[None]]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        async with self.database.connection() as session:
            yield InterruptedSession(session, self.meanwhile)


@dataclass
class InterruptedSession:
    session: Any
    meanwhile: Callable[[], Awaitable[None]]

    def __getattr__(self, name: str) -> Any:
        async def asked(*arguments: object) -> Any:
            found = await getattr(self.session, name)(*arguments)
            await self.meanwhile()
            return found

        return asked


@pytest.mark.parametrize("how", ["page", "narrowed", "told"])
async def test_what_is_committed_while_a_reader_reads_is_not_skipped(
    database: Database, rig: InboundRig, how: str
) -> None:
    """Where the log ends is read before its records: the other way round a reader would go on from behind a
    record that it has not seen.
    """
    numbers, seen, position = iter(range(6)), list[str](), 0

    async def meanwhile() -> None:
        if (number := next(numbers, None)) is not None:
            await changed(rig, (f"r-{number}", {"n": number}))

    reading: Any = Interrupted(database, meanwhile)
    for _ in range(12):
        if how == "told":
            batch, position = await records.to_tell(reading, "acme", position, 100)
            seen += [each.record.key for each in batch]
        else:
            place = LogPlace(customer="acme", epoch=None, position=position)
            stream = "work_orders" if how == "narrowed" else None
            page = await Records(reading).page("acme", place=place, stream=stream, limit=100)
            seen, position = seen + [record.key for record in page.records], page.position
    assert sorted(set(seen)) == [f"r-{number}" for number in range(6)]


@pytest.mark.parametrize("stream", [None, "work_orders"])
async def test_a_page_ends_with_so_many_bytes_and_skips_nothing(
    database: Database, rig: InboundRig, stream: str | None
) -> None:
    bodies = {f"r-{number}": {"text": "é" * 50_000} for number in range(7)}
    await changed(rig, *bodies.items())
    reads, place, pages = Records(database), BEGINNING, []
    while True:
        page = await reads.page("acme", place=place, stream=stream, limit=100, max_bytes=250_000)
        pages.append([record.key for record in page.records])
        place = read_cursor(page.next, customer="acme")
        if not page.has_more:
            break
    assert pages == [["r-0", "r-1", "r-2"], ["r-3", "r-4", "r-5"], ["r-6"]]
    whole = await reads.page("acme", stream=stream, limit=100, max_bytes=700_000)
    assert (len(whole.records), whole.has_more) == (7, False), "the last one alone makes it so many"
    (first,) = (await reads.page("acme", stream=stream, limit=100, max_bytes=1)).records
    assert first.key == "r-0", "one goes out, however large"


async def test_every_statement_gives_a_record_in_the_order_of_its_fields(database: Database) -> None:
    async with database.connection() as connection:
        for name in ("record_page", "record_page_of", "record_one", "record_list", "publication_page"):
            columns = [each.name for each in (await connection.prepare(sql(name))).get_attributes()]
            given = StoredRecord._fields[1:]
            assert tuple(columns[: len(given)]) == tuple(
                {"connection": "connection_id"}.get(field, field) for field in given
            ), name


async def test_the_largest_record_there_can_be_fits_into_an_answer(
    database: Database, mosquitto: Mosquitto, rig: InboundRig
) -> None:
    """PostgreSQL writes its JSON with spaces, which make it half as large again."""
    dense = {"n": [7] * (MAX_BODY_BYTES // 2 - 100), "text": 'a, b: "c" \\', "exact": 10**40}
    await changed(rig, ("first", {"n": 1}), ("dense", dense), ("last", {"n": 2}))
    found: dict[str, object] = {}
    cursor = None
    async with commanded(settings(mosquitto.port), database), customer(mosquitto.port) as acme:
        while True:
            asked = {"limit": 100} | ({} if cursor is None else {"cursor": cursor})
            assert "code" not in await acme.ask("records", asked)
            answer = json.loads(acme.last)
            found |= {item["key"]: item["body"] for item in answer["items"]}
            cursor = answer["next"]
            if not answer["has_more"]:
                break
    assert found == {"first": {"n": 1}, "dense": dense, "last": {"n": 2}}


async def test_a_command_gives_what_http_gives(
    mosquitto: Mosquitto, database: Database, rig: InboundRig
) -> None:
    body = {"n": 10**40, "f": 0.1, "text": 'é "\u2028 \\', "none": None, "deep": [[{"a": [1.5, -2]}]]}
    await changed(rig, ("a/b", body), ("gone", {"n": 1}), *((f"r-{n}", {"n": n}) for n in range(9)))
    await changed(rig, ("gone", None))
    await delete(rig, "gone")
    async with commanded(settings(mosquitto.port), database), customer(mosquitto.port) as acme:
        await acme.ask("records", {"limit": 100})
        answer = json.loads(acme.last)
    page = await Records(database).page("acme", limit=100)
    over_http = json.loads(page_payload(page))
    assert (over_http["items"][0]["key"], over_http["items"][-1]["change"]) == ("a/b", "deleted")
    assert over_http["items"][0]["body"] == body
    answer.pop("request_id")
    assert answer == over_http


async def test_a_page_can_be_narrowed_and_a_cursor_goes_on(database: Database, rig: InboundRig) -> None:
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(5)])
    second = await InboundRig(database, Source(), name="acme-2").activate()
    await second.run()
    await changed(second, ("x", {"n": 1}))
    reads = Records(database)
    first = await reads.page("acme", connection="acme-1", limit=3)
    rest = await reads.page(
        "acme", connection="acme-1", place=read_cursor(first.next, customer="acme"), limit=3
    )
    assert [record.key for record in (*first.records, *rest.records)] == [
        f"r-{number}" for number in range(5)
    ]
    assert (first.has_more, rest.has_more, rest.position) == (True, False, 6)
    assert [r.key for r in (await reads.page("acme", stream="work_orders", limit=9)).records][-1] == "x"
    assert not (await reads.page("acme", connection="acme-2", stream="meters", limit=9)).records
    assert not (await reads.page("globex", limit=9)).records
    boundary = first.records[-1].modified_at
    later = await reads.page("acme", modified_after=boundary, limit=100)
    assert {record.key for record in later.records} == {"r-0", "r-1", "r-2", "r-3", "r-4", "x"}
    own = await reads.page("acme", connection="acme-1", modified_after=boundary, limit=100)
    assert {record.key for record in own.records} == {"r-0", "r-1", "r-2", "r-3", "r-4"}
    after = await reads.page(
        "acme", modified_after=boundary + timedelta(microseconds=1), stream="work_orders", limit=100
    )
    assert {record.key for record in after.records} == {"r-3", "r-4", "x"}
    nothing = await reads.page("acme", modified_after=boundary + timedelta(days=1), limit=100)
    assert (list(nothing.records), nothing.position) == ([], 6)
    payload = orjson.loads(page_payload(first))
    assert (
        read_cursor(payload["next"], customer="acme").position == first.position
        and payload["has_more"] is True
    )


async def test_a_cursor_of_a_log_that_was_restored_away_is_refused(
    database: Database, rig: InboundRig
) -> None:
    """What comes until the log has caught up with it would be missed, and nobody would know."""
    reads = Records(database)
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(3)])
    early = (await reads.page("acme", limit=1)).next
    dump = await rig.rows("select position from record_log")
    await changed(rig, *[(f"late-{number}", {"n": number}) for number in range(4)])
    late, latest = (await reads.page("acme", limit=5)).next, (await reads.page("acme", limit=100)).next
    # a restore of the state at the dump
    await rig.execute("delete from record where revision > $1", dump[0]["position"])
    await rig.execute("update record_log set position = $1", dump[0]["position"])
    with pytest.raises(RequestRefused, match="read all records again") as refused:
        await reads.page("acme", place=read_cursor(latest, customer="acme"), limit=9)
    assert refused.value.code == "records.cursor_gone"
    await changed(rig, *[(f"new-{number}", {"n": number}) for number in range(9)])
    for cursor in (early, late, latest):  # one reader has shown it, and all are told
        with pytest.raises(RequestRefused, match="restored"):
            await reads.page("acme", place=read_cursor(cursor, customer="acme"), limit=9)
    consumer = Consumer(database)
    await consumer.follow()
    assert {f"new-{number}" for number in range(9)} <= consumer.holds().keys()
    with pytest.raises(RequestRefused):  # a cursor of an older version: by where the log ends alone
        await reads.page("acme", place=LogPlace(customer=None, epoch=None, position=1_000), limit=9)
    assert (
        await reads.page("acme", place=LogPlace(customer=None, epoch=None, position=2), limit=100)
    ).records


async def test_a_cursor_of_an_empty_log_goes_on_when_there_is_one(
    database: Database, rig: InboundRig
) -> None:
    reads = Records(database)
    empty = (await reads.page("acme", limit=9)).next
    await changed(rig, ("a", {"n": 1}))
    assert (await reads.page("acme", place=read_cursor(empty, customer="acme"), limit=9)).records
    with pytest.raises(ValueError, match="another customer"):
        read_cursor(empty, customer="globex")


async def test_the_cursor_of_an_event_is_one_to_go_on_from(database: Database, rig: InboundRig) -> None:
    await changed(rig, ("a", {"n": 1}))
    await changed(rig, ("b", {"n": 1}))
    *_, event = await rig.events("records.changed")
    page = await Records(database).page("acme", place=read_cursor(event["cursor"], customer="acme"), limit=9)
    assert [record.key for record in page.records] == ["b"]


async def test_what_was_told_beyond_the_logs_end_is_told_anew(database: Database, rig: InboundRig) -> None:
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(3)])
    await records.told(database, "acme", 1_000)
    assert await records.behind(database) == {"acme": 0}
    batch, until = await records.to_tell(database, "acme", 0, 2)
    await records.told(database, "acme", until)
    assert (len(batch), await records.behind(database)) == (2, {"acme": until})
    await records.told(database, "acme", 3)
    assert await records.behind(database) == {}
    await records.told(database, "acme", 1)
    assert await records.behind(database) == {}


async def test_what_a_system_wrote_is_kept_and_told_exactly(database: Database, rig: InboundRig) -> None:
    rows = parse_json(
        b'[{"id":123456789012345678901,"n":-98765432109876543210},{"id":123456789012345678902},'
        b'{"id":3,"t":"a\\ud800b"},{"id":4,"in":[{"x":"\\udc00"}]},{"id":5,"t":"fine"}]'
    )
    assert isinstance(rows, list)
    await changed(rig, *[(key_of([row["id"]], row), {**row}) for row in rows])
    page = await Records(database).page("acme", limit=9)
    by_key = {record.key: record for record in page.records}
    assert {key: json.loads(record.body) for key, record in by_key.items()} == {
        "123456789012345678901": {"id": 123456789012345678901, "n": -98765432109876543210},
        "123456789012345678902": {"id": 123456789012345678902},
        "3": {"id": 3, "t": "a\ufffdb"},
        "4": {"id": 4, "in": [{"x": "\ufffd"}]},
        "5": {"id": 5, "t": "fine"},
    }
    assert {key for key, record in by_key.items() if record.truncated} == {"3", "4"}
    assert b"123456789012345678901" in page_payload(page)


async def test_a_large_body_is_cut_with_its_numbers_exact() -> None:
    body = {"a": 10**30 + 1, "b": "x" * 300_000, "c": 2**64}
    kept = keep(InboundRecord(key="k", modified_at=None, body=body))
    assert kept.truncated and json.loads(kept.body) == {"a": 10**30 + 1, "b": "x" * 512, "c": 2**64}


async def test_a_record_tells_when_it_changed(database: Database, rig: InboundRig) -> None:
    for number in range(60):
        await changed(rig, ("a", {"n": number}))
    found = await Records(database).one("acme", "acme-1", "work_orders", "a")
    assert found is not None
    record, times = found
    assert record.version == 60 and 45 <= len(times) <= 50 and times == sorted(times)
    assert times[-1] == record.modified_at
    assert await Records(database).one("globex", "acme-1", "work_orders", "a") is None


def written(parts: list[object]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        written([-1]),
        written([2**63]),
        written([1, -1, "acme"]),
        written([1, True, "acme"]),
        written([1, 1]),
        written([1, 1, 1]),
        "W10",
        "WyJhIl0",
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        read_cursor(cursor, customer="acme")


async def test_records_of_an_ended_connection_are_not_there_at_once(
    database: Database, rig: InboundRig
) -> None:
    await changed(rig, ("a", {"n": 1}))
    await rig.execute("update connection set state = 'disconnecting'")
    assert not (await Records(database).page("acme", limit=10)).records
    assert await Records(database).one("acme", "acme-1", "work_orders", "a") is None


async def test_deleted_records_go_after_their_retention(database: Database, rig: InboundRig) -> None:
    for number in range(8):
        rig.source.put(f"r-{number}", {"n": number})
    rig.source.pass_time(60)
    await rig.run()
    rig.source.put("r-1", None)
    await delete(rig, "r-1")
    consumer = Consumer(database)
    await consumer.follow()
    retention = timedelta(days=90)
    assert await records.expire(database, now=clock.now(), retention=retention) == 0
    assert await records.expire(database, now=clock.now() + 2 * retention, retention=retention) == 1
    (count,) = await rig.rows("select held, alive from inbound_count")
    assert (count["held"], count["alive"]) == (7, 7)
    await consumer.follow()
    assert consumer.holds() == rig.source.holds() and rig.source.now > NOON


@pytest.mark.parametrize(("year", "hours", "keys"), [(1, 14, ["a"]), (9999, -12, [])])
async def test_a_time_at_the_ends_of_the_calendar_is_one_to_begin_at(
    database: Database, rig: InboundRig, year: int, hours: int, keys: list[str]
) -> None:
    await changed(rig, ("a", {"n": 1}))
    at = datetime(
        year, 1 if year == 1 else 12, 1 if year == 1 else 31, 12, tzinfo=timezone(timedelta(hours=hours))
    )
    for stream in (None, "work_orders"):
        page = await Records(database).page("acme", stream=stream, modified_after=at, limit=9)
        assert [record.key for record in page.records] == keys


async def test_who_was_away_while_a_deleted_record_was_removed_is_told_to_read_again(
    database: Database, rig: InboundRig
) -> None:
    """Nothing would tell him that it is gone, and he would hold it for ever."""
    reads = Records(database)
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(8)])
    rig.source.put("r-1", None)
    before = (await reads.page("acme", limit=100)).next
    await delete(rig, "r-1")
    seen = (await reads.page("acme", limit=100)).next
    await changed(rig, ("r-2", {"n": 20}))
    await records.expire(database, now=clock.now() + timedelta(days=180), retention=timedelta(days=90))
    for how in ({}, {"connection": "acme-1"}, {"stream": "work_orders"}):
        with pytest.raises(RequestRefused, match="read all records again") as refused:
            await reads.page("acme", place=read_cursor(before, customer="acme"), limit=1, **how)
        assert refused.value.code == "records.cursor_gone"
        page = await reads.page("acme", place=read_cursor(seen, customer="acme"), limit=9, **how)
        assert [record.key for record in page.records] == ["r-2"]
    assert len((await reads.page("acme", limit=100)).records) == 7
    assert not (await reads.page("globex", limit=100)).records


@pytest.mark.parametrize("how", [{}, {"connection": "acme-1"}, {"stream": "work_orders"}])
async def test_who_begins_reads_all_pages_whatever_was_removed_before(
    database: Database, rig: InboundRig, how: dict[str, str]
) -> None:
    """He was told to begin anew at his second page, and each time again."""
    reads = Records(database)
    await changed(rig, *[(f"r-{number}", {"n": number}) for number in range(8)])
    rig.source.put("r-7", None)
    await delete(rig, "r-7")
    await records.expire(database, now=clock.now() + timedelta(days=180), retention=timedelta(days=90))

    async def follow(cursor: str | None, pages: int) -> tuple[list[str], str]:
        keys: list[str] = []
        for _ in range(pages):
            place = read_cursor(cursor, customer="acme")
            page = await reads.page("acme", place=place, limit=2, **how)
            keys += [record.key for record in page.records]
            cursor = page.next
        assert cursor is not None
        return keys, cursor

    keys, cursor = await follow(None, 4)
    assert sorted(keys) == [f"r-{number}" for number in range(7)]
    assert (await follow(cursor, 2))[0] == []
    # one that is deleted and removed while he reads is one that he may hold
    _, between = await follow(None, 1)
    rig.source.put("r-0", None)
    await delete(rig, "r-0")
    await records.expire(database, now=clock.now() + timedelta(days=180), retention=timedelta(days=90))
    with pytest.raises(RequestRefused, match="read all records again"):
        await follow(between, 1)
    assert sorted((await follow(None, 3))[0]) == [f"r-{number}" for number in range(1, 7)]


async def test_decimals_are_kept_and_told_with_every_digit(database: Database, rig: InboundRig) -> None:
    written = (
        b'{"id":1,"money":12345678901234567.89,"n":[0.12345678901234567890123,-98765432109876543210],'
        b'"double":0.1000000000000000055511151231257827,"small":1.5}'
    )
    row = parse_json(written)
    assert isinstance(row, dict) and row["money"] == 12345678901234567.89 and row["double"] == 0.1
    await changed(rig, ("1", {**row}))
    (record,) = (await Records(database).page("acme", limit=9)).records
    told = json.loads(record.body, parse_float=str, parse_int=str)
    assert told["money"] == "12345678901234567.89" and not record.truncated
    assert told["n"] == ["0.12345678901234567890123", "-98765432109876543210"]
    assert (told["double"], told["small"]) == ("0.1", "1.5")
    (version,) = await rig.rows("select version from record")
    await changed(rig, ("1", {**row, "money": 12345678901234567.0}))
    assert (await rig.rows("select version from record"))[0]["version"] == version["version"] + 1
