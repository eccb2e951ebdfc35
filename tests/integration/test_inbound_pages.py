"""A page of more records than anybody asked for: its stream's failure, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from connectors.http_json.records import Lists
from connectors.http_json.streams import ListStream
from connectors.kit.inbound import page_at
from gateway.connections.guard import guarded
from gateway.inbound.run import InboundRunner
from gateway.inbound.walk import HISTORY_RESTS, MAX_WORKED_SECONDS, InboundWalk
from gateway.model.errors import PageTooLarge
from gateway.model.inbound import MAX_PAGE, InboundPage, InboundRecord, KeyPage
from gateway.model.pressure import Pressure
from gateway.model.record import Kept, keep
from gateway.store import inbound_pages
from gateway.store.pool import Database
from gateway.store.queries import sql
from tests.fixtures.inbound_rig import InboundRig
from tests.fixtures.source import MODIFIED, Source

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Flood(Source):
    """Answers with everything at once."""

    count = 0

    async def pull(self, *_: object) -> InboundPage:
        return InboundPage(
            records=[InboundRecord(key=str(n), modified_at=NOON, body={"n": n}) for n in range(self.count)]
        )

    async def keys(self, *_: object) -> KeyPage:
        return KeyPage(keys=[str(n) for n in range(self.count)])


async def test_a_page_beyond_its_bound_is_its_streams_failure(database: Database) -> None:
    source = Flood()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    source.pass_time(120)
    source.count = MAX_PAGE + 1
    row = await rig.run()
    assert row["state"] == "failed" and "10,001 records" in row["last_error"] and "pages" in row["last_error"]
    assert not await rig.held()
    source.count = 1_200
    row = await rig.run()
    assert (row["last_error"], len(await rig.held())) == (None, 1_200)
    log = await rig.rows(
        "select position, (select count(distinct revision) from record) as n from record_log"
    )
    assert [tuple(each.values()) for each in log] == [(1_200, 1_200)]


async def test_a_list_of_keys_has_a_bound_too() -> None:
    source = Flood()
    connector: Any = guarded(source, "acme-1", secrets=(), max_wait_seconds=1.0, left_behind=set())
    source.count = 10 * MAX_PAGE + 1
    with pytest.raises(PageTooLarge, match="100,001"):
        await connector.keys("work_orders")


async def test_behind_the_first_page_too_many_records_are_no_lost_cursor() -> None:
    with pytest.raises(PageTooLarge), page_at("2"):
        raise PageTooLarge("too many")


class _Answers:
    """Stands for an HTTP client whose every answer is this document."""

    def __init__(self, document: object) -> None:
        self.json, self.request_id, self.headers = document, None, {}

    async def call(self, *_: object, **__: object) -> Any:
        return self


async def test_a_list_without_pages_is_refused_before_anything_is_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = Lists(
        _Answers([{"id": 0}] * (MAX_PAGE + 1)),  # type: ignore[arg-type]
        "https://cmms.example",
        {"orders": ListStream.model_validate({"path": "/orders", "items": ".", "key": "id"})},
    )

    def made(*_: object) -> str:
        raise AssertionError("something was made of it")

    monkeypatch.setattr("connectors.http_json.records.key_of", made)
    for asked in (lists.pull("orders", None, NOON, None), lists.keys("orders", None)):
        with pytest.raises(PageTooLarge, match="orders holds 10,001"):
            await asked


async def test_others_have_their_turn_while_a_page_is_worked(database: Database) -> None:
    """By turns, not by time: whoever else waits for the loop gets it many times."""
    rows = [{"id": n, "text": "x" * 200} for n in range(MAX_PAGE)]
    lists = Lists(
        _Answers(orjson.loads(orjson.dumps(rows))),  # type: ignore[arg-type]
        "https://cmms.example",
        {"orders": ListStream.model_validate({"path": "/orders", "items": ".", "key": "id"})},
    )
    page = await turns(lists.pull("orders", None, NOON, None), least=20)
    rig = await InboundRig(database).activate()
    walk = InboundWalk.__new__(InboundWalk)
    walk._claim = await rig.claim()
    kept = await turns(walk._kept(page.records), least=3)
    assert len(kept) == MAX_PAGE


async def test_history_rests_after_each_page_and_news_do_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind the last page of a slice, which a day of history often is: else half of the rate would be
    all of it.
    """
    source = Source(streams=(MODIFIED,), now=NOON)
    for day in range(6):
        source.put(f"k{day}", {"n": day}, modified_at=NOON - timedelta(days=day, hours=1))
    rig = await InboundRig(database, source, initial_days=7).activate()
    rests: list[float] = []

    async def noted(_: asyncio.Event, seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr("gateway.inbound.walk.until_set", noted)
    await rig.run()
    assert not rests, "what is new is read at once"
    source.requests.clear()
    await rig.finish("initial")
    asked = [request for request in source.requests if request.startswith(("pull", "open"))]
    assert len(rests) == len(asked) >= 7


async def test_history_yields_to_ingest(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rests many times as long as a page took to store, and not for what its system took to answer. A page
    that waited long for others counts as a long one, and not more.
    """
    rests, worked = await _rests(database, monkeypatch, is_active=True)
    assert worked and all(0 < seconds <= MAX_WORKED_SECONDS for seconds in worked)
    assert rests == [pytest.approx(HISTORY_RESTS * seconds) for seconds in worked]


async def test_history_does_not_rest_for_ingest_that_has_nothing_to_do(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, worked = await _rests(database, monkeypatch, is_active=False)
    assert worked and max(rests) < min(worked) * HISTORY_RESTS


async def _rests(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, is_active: bool
) -> tuple[list[float], list[float]]:
    """How long a history rested after each page, and what it had worked, in seconds."""
    pressure, rests, worked = Pressure(), list[float](), list[float]()
    real_rest = pressure.rest

    async def noted(_: asyncio.Event, seconds: float) -> None:
        rests.append(seconds)

    def rest(seconds: float, *, now: float, times: float) -> float:
        worked.append(seconds)
        return real_rest(seconds, now=now, times=times)

    monkeypatch.setattr(pressure, "rest", rest)
    monkeypatch.setattr(pressure, "is_active", lambda *, now: is_active)
    monkeypatch.setattr("gateway.inbound.walk.until_set", noted)
    source = Source(streams=(MODIFIED,), now=NOON)
    for day in range(3):
        source.put(f"k{day}", {"n": day}, modified_at=NOON - timedelta(days=day, hours=1))
    rig = await InboundRig(database, source, initial_days=4).activate()
    await rig.run()
    runner = paced(rig, pressure)
    for _ in range(10):
        if (await rig.row("initial"))["state"] == "done":
            break
        await runner.run(await rig.claim("initial"), rig.link)
    return rests, worked


async def test_a_connection_that_was_paused_in_a_long_rest_is_not_called(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its system is slow, so that the rest is for its sake."""

    async def paused(_: asyncio.Event, seconds: float) -> None:
        await rig.execute("update connection set state = 'paused', prior_state = 'active'")

    monkeypatch.setattr("gateway.inbound.walk.LONG_SECONDS", 0.0)
    monkeypatch.setattr("gateway.inbound.walk.until_set", paused)
    source = Source(streams=(MODIFIED,), now=NOON)
    for number in range(4):
        source.put(f"k{number}", {"n": number}, modified_at=NOON - timedelta(hours=1, minutes=number))
    rig = await InboundRig(database, source, initial_days=1).activate()
    await rig.run()
    source.requests.clear()
    await rig.run("initial")
    asked = [request for request in source.requests if request.startswith(("pull", "open"))]
    assert len(asked) == 1, "the one after which it was paused"


async def test_a_walk_that_rests_ends_when_the_engine_stops(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rest may take half a minute, and whoever takes over waits for the lease of its stream."""
    pressure, rests = Pressure(), asyncio.Event()
    monkeypatch.setattr(pressure, "rest", lambda *_, **__: rests.set() or 3600.0)
    source = Source(streams=(MODIFIED,), now=NOON)
    for number in range(4):
        source.put(f"k{number}", {"n": number}, modified_at=NOON - timedelta(hours=1, minutes=number))
    rig = await InboundRig(database, source, initial_days=1).activate()
    await rig.run()
    source.requests.clear()
    running = asyncio.create_task(paced(rig, pressure).run(await rig.claim("initial"), rig.link))
    await rests.wait()
    assert not running.done()
    await rig.engine.stop(grace_seconds=0.0)
    await running
    asked = [request for request in source.requests if request.startswith(("pull", "open"))]
    row = await rig.row("initial")
    assert len(asked) == 1 and row["state"] == "running" and row["lease_owner"] is None


def paced(rig: InboundRig, pressure: Pressure) -> InboundRunner:
    """Of the rig's engine, beside an ingest that fares like that."""
    engine = rig.engine
    return InboundRunner(
        rig.database, rig.settings, rig.records, engine.health, engine.troubles,
        public_url="", pressure=pressure, stopping=engine.stopping,
    )  # fmt: skip


async def turns(work: Coroutine[Any, Any, Any], *, least: int) -> Any:
    """What it gives, having let others work so many times at least."""
    count, task = 0, asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    assert count >= least
    return task.result()


async def test_a_part_of_a_page_reads_its_records_alone_whenever_its_plan_was_made(
    database: Database,
) -> None:
    """A plan of a small table read all records of the stream for each dozen of a page, until statistics were
    taken: a history of many thousand took ten times as long, and so did what it left to a commit.
    """
    rig = await InboundRig(database).activate()
    held = [keep(InboundRecord(key=f"k{n}", modified_at=NOON, body={"n": n})) for n in range(300)]
    statement = sql("record_apply")

    def arguments(part: list[Kept], position: int) -> list[object]:
        columns = inbound_pages._columns(part)
        return [
            rig.customer,
            rig.name,
            "work_orders",
            *columns,
            position,
            NOON,
            10**6,
            None,
            False,
            None,
            None,
        ]

    async with database.transaction() as connection:
        await connection.fetchrow(sql("record_log_lock"), rig.customer)
        await connection.fetchrow(statement, *arguments(held, 0))
        plan = await connection.fetchval(
            f"explain (analyze, format json) {statement}",
            *arguments(held[:12], 300),
        )
    nodes = list(_nodes(json.loads(plan)[0]["Plan"]))
    read = [node for node in nodes if node.get("Relation Name") == "record" and "Scan" in node["Node Type"]]
    assert read and all(node["Actual Loops"] == 12 for node in read), read
    # a row that a filter throws away was read, too
    assert all(node["Actual Rows"] <= 1 and node.get("Rows Removed by Filter", 0) <= 1 for node in read), read


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _nodes(part)
