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
from gateway.inbound.walk import InboundWalk
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
    real = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            rests.append(seconds)
        await real(0)

    monkeypatch.setattr("gateway.inbound.walk.asyncio.sleep", noted)
    await rig.run()
    assert not rests, "what is new is read at once"
    source.requests.clear()
    await rig.finish("initial")
    asked = [request for request in source.requests if request.startswith(("pull", "open"))]
    assert len(rests) == len(asked) >= 7


async def test_history_yields_to_ingest(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After what it worked itself, three times as long while acknowledgements are late; and beside one that
    works too, twice as long.
    """
    pressure = Pressure()
    asked: list[float] = []
    alone = pressure.rest

    def rest(worked_seconds: float, *, now: float) -> float:
        asked.append(worked_seconds)
        pressure.note(0.001, now=now)
        with pressure.company():
            assert alone(1.0, now=now) == 2.0
        return 0.001

    monkeypatch.setattr(pressure, "rest", rest)
    source = Source(streams=(MODIFIED,), now=NOON)
    source.put("k", {"n": 1}, modified_at=NOON - timedelta(hours=1))
    rig = await InboundRig(database, source, initial_days=1).activate()
    engine = rig.engine
    runner = InboundRunner(
        database, rig.settings, rig.records, engine.health, engine.troubles, public_url="", pressure=pressure
    )
    await rig.run()
    await runner.run(await rig.claim("initial"), rig.link)
    assert asked and all(0 < worked < 30 for worked in asked)


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
