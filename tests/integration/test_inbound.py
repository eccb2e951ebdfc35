"""Records are read: intervals, history, deletions, and what a system does wrong meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.inbound import walk
from gateway.model.breaker import Scope
from gateway.model.errors import (
    AuthRefused,
    CursorExpired,
    LeaseLost,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.inbound import Deletions, InboundPage, InboundRecord, KeyPage
from gateway.model.operation import Operation
from gateway.model.record import Phase, keep
from gateway.settings import RecordsSettings
from gateway.store import breakers, inbound, inbound_pages
from gateway.store.pool import Database
from tests.fixtures.inbound_rig import Consumer, InboundRig
from tests.fixtures.source import LISTING, MODIFIED, NOON, TOMBSTONES, Source

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class Killed(BaseException):
    """A process that is gone."""


async def test_what_is_new_comes_with_the_next_interval_and_the_rest_with_the_history(
    database: Database,
) -> None:
    source = Source()
    for number in range(10):
        source.put(f"old-{number}", {"n": number}, modified_at=NOON - number * DAY - HOUR)
    rig = await InboundRig(database, source).activate()
    await rig.run()  # where news begin
    source.pass_time(60)
    source.put("new", {"n": 100})
    source.pass_time(60)
    await rig.run()
    assert set(await rig.held()) == {"new"}
    assert (await rig.finish("initial"))["state"] == "done"
    assert await rig.held() == source.holds()


async def test_what_is_still_open_is_read_first_however_old(database: Database) -> None:
    source = Source()
    source.put("ancient", {"n": 1}, modified_at=NOON - 400 * DAY, progress="open")
    source.put("closed", {"n": 2}, modified_at=NOON - 400 * DAY, progress="closed")
    rig = await InboundRig(database, source, initial_days=1).activate()
    await rig.finish("initial")
    assert set(await rig.held()) == {"ancient"}
    (row,) = await rig.rows("select progress from record")
    assert row["progress"] == "open"


async def test_an_equal_body_changes_nothing(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    source.put("a", {"x": 1, "y": [1, 2]})
    source.pass_time(60)
    await rig.run()
    source.put("a", {"y": [1, 2], "x": 1})
    source.pass_time(60)
    row = await rig.run()
    (record,) = await rig.rows("select * from record")
    assert (record["version"], record["revision"], row["created"]) == (1, 1, 0)


async def test_an_older_time_never_replaces_a_newer_one(database: Database) -> None:
    rig = await InboundRig(database).activate()
    claim = await rig.claim()
    for minutes, n, held in ((5, 2, 2), (1, 1, 2), (5, 3, 3)):
        await _apply(
            rig,
            claim,
            InboundRecord(key="a", modified_at=NOON + minutes * timedelta(minutes=1), body={"n": n}),
        )
        assert await rig.held() == {"a": {"n": held}}


async def test_a_clock_that_is_set_back_gives_no_change_an_earlier_time(database: Database) -> None:
    """Whoever follows by `modified_after` would pass it."""
    rig = await InboundRig(database).activate()
    claim = await rig.claim()
    await rig.execute("insert into record_log (customer_id, at) values ('acme', now() + interval '1 hour')")
    for n in (1, 2):
        await _apply(rig, claim, InboundRecord(key=f"k{n}", modified_at=NOON, body={"n": n}))
    times = await rig.rows(
        "select modified_at, at from record join record_log using (customer_id) order by key"
    )
    assert len(times) == 2 and all(row["modified_at"] >= row["at"] for row in times)


async def test_a_page_of_history_never_replaces_what_changed_since_it_was_asked_for(
    database: Database,
) -> None:
    """Both times are the same second: only the order of asking tells which is newer."""
    rig = await InboundRig(database).activate()
    claim = await rig.claim()
    await _apply(rig, claim, InboundRecord(key="a", modified_at=NOON, body={"n": 2}))
    await _apply(rig, claim, InboundRecord(key="a", modified_at=NOON, body={"n": 1}), asked=0)
    assert await rig.held() == {"a": {"n": 2}}
    await _apply(rig, claim, InboundRecord(key="a", modified_at=NOON, body={"n": 3}), asked=1)
    assert await rig.held() == {"a": {"n": 3}}


async def test_a_page_of_a_lost_lease_stores_nothing(database: Database) -> None:
    rig = await InboundRig(database).activate()
    old = await rig.claim()
    new = await rig.replica("replica-b").claim()
    await _apply(rig, new, InboundRecord(key="a", modified_at=None, body={"n": 2}))
    with pytest.raises(LeaseLost):
        await _apply(rig, old, InboundRecord(key="a", modified_at=None, body={"n": 1}))
    assert await rig.held() == {"a": {"n": 2}}


async def test_a_refused_token_is_renewed_and_the_walk_goes_on_with_the_same_page(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(8):
        source.put(f"r-{number}", {"n": number})
    source.pass_time(60)
    source.requests.clear()
    source.faults = [None, None, AuthRefused("expired")]
    row = await rig.run()
    assert (row["state"], row["attempts"]) == ("idle", 0)
    assert await rig.held() == source.holds()
    pages = [what for what in source.requests if what == "pull work_orders"]
    assert (len(pages), source.requests.count("probe")) == (4, 1)  # three pages, one of them twice


async def test_what_one_stream_may_not_read_is_its_own_affair(database: Database) -> None:
    """The connection stays active, the other stream is read, and the reason is shown."""
    source = Source(streams=(MODIFIED, LISTING))
    source.put("m", {"n": 1}, stream="meters")
    rig = await InboundRig(database, source).activate()
    source.faults = [PermissionDenied("no right to work orders")]
    row = await rig.run()
    assert (row["state"], row["last_error"]) == ("failed", "no right to work orders")
    await rig.run(stream="meters")
    assert set(await rig.held("meters")) == {"m"}
    (connection,) = await rig.rows("select state from connection")
    assert connection["state"] == "active"
    (trouble,) = await rig.rows("select part, detail from connection_trouble")
    assert trouble["part"] == "pull work_orders" and "no right to work orders" in trouble["detail"]
    await rig.run()
    assert not await rig.rows("select * from connection_trouble")


async def test_a_credential_that_a_probe_finds_refused_too_needs_a_person(database: Database) -> None:
    source = Source(probe_error=AuthRefused("revoked"), faults=[AuthRefused("revoked")])
    rig = await InboundRig(database, source).activate()
    await rig.run()
    (connection,) = await rig.rows("select state, operation from connection")
    assert (connection["state"], connection["operation"]) == ("reauthorization_required", "pull")
    with pytest.raises(LookupError):
        await rig.claim()


async def test_a_walk_goes_on_after_a_limit_of_the_rate_where_it_was(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(8):
        source.put(f"r-{number}", {"n": number})
    source.pass_time(60)
    source.requests.clear()
    source.faults = [None, None, RateLimited("slow down", retry_after=1)]
    row = await rig.run()
    assert (row["attempts"], row["put_off"], row["high"]) == (0, 1, None)
    await rig.run()
    assert await rig.held() == source.holds()
    assert source.requests.count("pull work_orders") == 4 and source.requests.count("now work_orders") == 1


@pytest.mark.parametrize("refusal", [RateLimited, Unavailable])
@pytest.mark.parametrize(("phase", "kind"), [("incremental", "pull"), ("reconcile", "keys")])
async def test_a_walk_of_more_pages_than_a_system_gives_in_an_hour_comes_to_its_end(
    database: Database, phase: Phase, kind: str, refusal: type[RateLimited] | type[Unavailable]
) -> None:
    """However long it has us wait in mid-walk: begun again each time it would never end."""
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.finish("incremental")
    for number in range(14):
        source.put(f"r-{number:02}", {"n": number})
    source.pass_time(60)
    source.requests.clear()
    for _ in range(5):
        source.faults = [
            *([None] * (3 if source.requests == [] else 2)),
            refusal("enough", retry_after=3600),
        ]
        row = await rig.run(phase)
        if row["state"] == "idle":
            break
        assert row["next_run_at"] > datetime.now(UTC) + 50 * MINUTE
        # the hour passes
        await rig.execute("update inbound_stream set walk_at = walk_at - (next_run_at - now())")
    assert row["state"] == "idle"
    assert source.requests.count(f"{kind} work_orders") == 5 + 2, "each page once, and the two refusals"


async def test_an_expired_cursor_begins_the_interval_again_and_halves_it(database: Database) -> None:
    source = Source(cursors_live=None)
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(12):
        source.put(f"r-{number:02}", {"n": number})
        source.pass_time(10)
    source.pass_time(60)
    source.faults = [None, None, CursorExpired("gone"), None, None, CursorExpired("gone")]
    await rig.run()
    assert 0 < len(await rig.held()) < 12  # a part of the time
    for _ in range(4):
        await rig.run()
    assert await rig.held() == source.holds()


class Heavy(Source):
    """Gives everything at once, and what is more than some records is more than an answer may have."""

    async def pull(self, stream: str, since: Any, until: Any, cursor: str | None = None) -> InboundPage:
        page = await super().pull(stream, since, until, None)
        if len(page.records) > 10:
            raise Unavailable("the system's answer is larger than 8388608 bytes")
        return page


async def test_what_is_too_much_for_one_answer_is_asked_for_in_parts(database: Database) -> None:
    source = Heavy(streams=(replace(MODIFIED, page=10_000),))
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(100):
        source.put(f"r-{number:02}", {"n": number})
        source.pass_time(60)
    source.pass_time(60)
    for _ in range(100):
        row = await rig.run()
        if row["state"] == "idle":
            break
    assert await rig.held() == source.holds()
    assert row["state"] == "idle"


@pytest.mark.parametrize("run_seconds", [30.0, 0.0], ids=["many-in-a-run", "one-in-a-run"])
async def test_pages_that_go_round_end(
    database: Database, monkeypatch: pytest.MonkeyPatch, run_seconds: float
) -> None:
    """Of a slow system a run reads one: what it led to before is the next run's beginning."""
    monkeypatch.setattr(walk, "RUN_SECONDS", run_seconds)
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(40):
        source.put(f"r-{number:02}", {"n": number})
    source.pass_time(60)
    first = source._cursor("", "")
    source._cursor = lambda at, key: first  # type: ignore[method-assign]
    row = await rig.run()
    if not run_seconds:
        assert row["state"] == "lagging"
        row = await rig.run()
    assert row["state"] == "failed" and "do not end" in row["last_error"]
    assert len(source.requests) < 20


async def test_deletions_are_seen_by_two_walks_of_all_keys(database: Database) -> None:
    source = Source()
    for number in range(10):
        source.put(f"r-{number}", {"n": number}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.finish("initial")
    source.put("r-3", None)
    await rig.finish("reconcile")
    assert len(await rig.held()) == 10
    await rig.finish("reconcile")
    assert await rig.held() == source.holds()
    (gone,) = await rig.rows("select version, deleted from record where key = 'r-3'")
    assert (gone["version"], gone["deleted"]) == (2, True)


@pytest.mark.parametrize("by", ["keys", "listing"])
async def test_what_is_met_again_is_there_again_however_old_it_is(database: Database, by: Deletions) -> None:
    """A user of the system lost a right, and has it again: nothing changed there, so no interval has it."""
    source = Source(streams=(replace(MODIFIED, deletions=by),))
    for number in range(10):
        source.put(f"r-{number}", {"n": number}, modified_at=NOON - 5 * DAY)
    rig = await InboundRig(database, source).activate()
    consumer = Consumer(database)
    await rig.finish("initial")
    hidden = source.history["work_orders"].pop("r-3")
    for _ in range(2):
        await rig.finish("reconcile")
    await consumer.follow()
    assert "r-3" not in await rig.held() and consumer.holds() == source.holds()
    source.history["work_orders"]["r-3"] = [replace(hidden[0], modified_at=NOON - 6 * DAY)]
    for _ in range(2):
        await rig.finish("reconcile")
    await consumer.follow()
    assert await rig.held() == source.holds() == consumer.holds()
    (row,) = await rig.rows("select version from record where key = 'r-3'")
    (count,) = await rig.rows("select held, alive from inbound_count")
    assert row["version"] == 3 and (count["held"], count["alive"]) == (10, 10)


class Marking(Source):
    """Marks r-3 as deleted, and goes on listing its key."""

    async def pull(self, stream: str, since: Any, until: Any, cursor: str | None = None) -> InboundPage:
        page = await super().pull(stream, since, until, cursor)
        gone = InboundRecord(key="r-3", modified_at=NOON, body={}, is_deleted=True)
        return replace(page, records=[*page.records, gone])

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        page = await super().keys(stream, cursor)
        return replace(page, keys=sorted({*page.keys, "r-3"}))


async def test_what_the_system_marks_as_deleted_is_not_there_by_its_key(database: Database) -> None:
    source = Marking(streams=(replace(MODIFIED, deletions="keys"),))
    for number in range(10):
        source.put(f"r-{number}", {"n": number}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.finish("initial")
    source.put("r-3", None)
    for _ in range(3):
        await rig.finish("reconcile")
    assert await rig.held() == source.holds()


async def test_a_walk_that_was_interrupted_deletes_nothing_that_is_there(database: Database) -> None:
    source = Source()
    for number in range(10):
        source.put(f"r-{number}", {"n": number}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.finish("initial")
    for _ in range(3):
        source.faults = [None, None, None, Unavailable("cut")]
        await rig.run("reconcile")
        source.faults = [CursorExpired("gone")]
        await rig.run("reconcile")
    assert await rig.held() == source.holds()


async def test_when_too_much_has_vanished_a_person_is_asked(database: Database) -> None:
    source = Source()
    for number in range(10):
        source.put(f"r-{number}", {"n": number}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.finish("initial")
    hidden = {key: source.history["work_orders"].pop(key) for key in ("r-1", "r-2", "r-3")}
    for _ in range(3):
        await rig.finish("reconcile")
    assert len(await rig.held()) == 10 and await rig.open_issues() == {"records_vanished"}
    source.history["work_orders"] |= hidden  # its user may see them again
    await rig.finish("reconcile")
    assert not await rig.open_issues()
    for key in hidden:
        del source.history["work_orders"][key]
    for _ in range(2):
        await rig.finish("reconcile")
    assert await rig.open_issues() == {"records_vanished"}
    async with database.transaction() as connection:
        assert await inbound.confirm(connection, "acme", "acme-1", "work_orders") == 3
    await rig.finish("reconcile")
    assert await rig.held() == source.holds() and not await rig.open_issues()
    row = await rig.row("reconcile")
    assert row["vanished"] == 0


@pytest.mark.parametrize("walks_between", [False, True])
async def test_a_confirmation_deletes_what_was_told_and_nothing_else(
    database: Database, walks_between: bool
) -> None:
    source = Source()
    for number in range(20):
        source.put(f"r-{number:02}", {"n": number}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.finish("initial")
    work_orders = source.history["work_orders"]
    told = {key: work_orders.pop(key) for key in [f"r-{number:02}" for number in range(6)]}
    for _ in range(2):
        await rig.finish("reconcile")
    assert (await rig.row("reconcile"))["vanished"] == 6
    back = min(told)
    work_orders[back] = told[back]
    for number in range(6, 16):
        del work_orders[f"r-{number:02}"]

    async def confirm() -> int | None:
        async with database.transaction() as connection:
            return await inbound.confirm(connection, "acme", "acme-1", "work_orders")

    if walks_between:  # it sees the others missing for the first time
        await rig.finish("reconcile")
        assert await confirm() == 5
    else:
        assert await confirm() == 6
    for _ in range(3):
        await rig.finish("reconcile")
    held = await rig.held()
    assert held.keys() == {back, *(f"r-{number:02}" for number in range(6, 20))}
    assert await rig.open_issues() == {"records_vanished"}
    assert (await rig.row("reconcile"))["vanished"] == 10
    assert await confirm() == 10
    await rig.finish("reconcile")
    assert await rig.held() == source.holds() and not await rig.open_issues()


async def test_a_listing_shows_what_is_gone_itself(database: Database) -> None:
    source = Source(streams=(LISTING,))
    for number in range(8):
        source.put(f"m-{number}", {"n": number}, stream="meters")
    rig = await InboundRig(database, source).activate()
    assert len(await rig.rows("select * from inbound_stream")) == 1
    await rig.run(stream="meters")
    assert await rig.held("meters") == source.holds("meters")
    source.put("m-2", None, stream="meters")
    await rig.run(stream="meters", times=2)
    assert await rig.held("meters") == source.holds("meters")
    source.put("m-2", {"n": 22}, stream="meters")
    await rig.run(stream="meters")
    assert await rig.held("meters") == source.holds("meters")
    (row,) = await rig.rows("select held, alive from inbound_count")
    assert (row["held"], row["alive"]) == (8, 8)


async def test_tombstones_delete_at_once(database: Database) -> None:
    source = Source(streams=(TOMBSTONES,))
    rig = await InboundRig(database, source).activate()
    await rig.run(stream="notes")
    source.put("a", {"n": 1}, stream="notes")
    source.put("never-had", {"n": 1}, stream="notes")
    source.put("never-had", None, stream="notes")
    source.pass_time(60)
    await rig.run(stream="notes")
    source.put("a", None, stream="notes")
    source.pass_time(60)
    await rig.run(stream="notes")
    rows = await rig.rows("select key, deleted, body from record")
    assert [(row["key"], row["deleted"], row["body"]) for row in rows] == [("a", True, {"n": 1})]


async def test_beyond_the_limit_records_are_left_out_and_a_person_is_told(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source, records=RecordsSettings(per_connection=5)).activate()
    await rig.run()
    for number in range(9):
        source.put(f"r-{number}", {"n": number})
    source.pass_time(60)
    await rig.run()
    assert len(await rig.held()) == 5 and await rig.open_issues() == {"records_limit"}
    source.put("r-0", {"n": "changed"})
    source.pass_time(60)
    await rig.run()
    assert (await rig.held())["r-0"] == {"n": "changed"}


async def test_a_body_that_is_too_large_is_kept_cut_and_told(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    source.put("big", {"id": "7", "text": "x" * 300_000, "nul": "a\0b", "deep": [[["d"]]]})
    source.put("small", {"id": "8"})
    source.pass_time(60)
    await rig.run()
    held = await rig.held()
    assert held["small"] == {"id": "8"} and held["big"]["id"] == "7"
    (record,) = await rig.rows("select truncated, pg_column_size(body) as size from record where key = 'big'")
    assert record["truncated"] and record["size"] < 256 << 10
    (letter,) = await rig.rows("select * from dead_letter")
    assert (letter["kind"], letter["reason"], letter["meter"]) == ("record", "record_cut", "work_orders/big")


async def test_each_run_that_changed_something_is_told_once(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    consumer = Consumer(database)
    await consumer.follow()
    for number in range(7):
        source.put(f"r-{number}", {"n": number})
    source.pass_time(60)
    await rig.run()
    await rig.run()
    (told,) = await rig.events("records.changed")
    assert {name: told[name] for name in ("stream", "phase", "created", "modified", "deleted")} == {
        "stream": "work_orders",
        "phase": "incremental",
        "created": 7,
        "modified": 0,
        "deleted": 0,
    }


async def test_what_a_killed_run_changed_is_told_by_the_next(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(7):
        source.put(f"r-{number}", {"n": number})
    source.pass_time(60)
    source.faults = [None, None, Killed()]
    claim = await rig.claim()
    walk = asyncio.ensure_future(rig.runner().run(claim, replace(rig.link, connector=source)))
    with pytest.raises(Killed):
        await walk
    assert not await rig.events("records.changed")
    await rig.run()
    (told,) = await rig.events("records.changed")
    assert told["created"] == 7


async def test_a_stream_that_is_read_no_more_is_off_and_comes_back(database: Database) -> None:
    source = Source(streams=(MODIFIED, LISTING))
    rig = await InboundRig(database, source).activate()
    await rig.run()
    source.streams = (LISTING,)
    await rig.begin()
    with pytest.raises(LookupError):
        await rig.claim()
    source.streams = (MODIFIED, LISTING)
    await rig.begin()
    source.put("a", {"n": 1})
    source.pass_time(60)
    await rig.run()
    assert await rig.held() == source.holds()


async def test_a_full_sync_reads_history_again_and_looks_at_every_key(database: Database) -> None:
    source = Source()
    source.put("a", {"n": 1}, modified_at=NOON - DAY)
    rig = await InboundRig(database, source).activate()
    await rig.run()
    await rig.finish("initial")
    await rig.execute("delete from record")  # by a mistake of somebody's
    async with database.transaction() as connection:
        await inbound.begin_again(connection, "acme", "acme-1", None, initial_days=30)
    await rig.finish("initial")
    assert await rig.held() == source.holds()


@pytest.mark.parametrize("phase", ["incremental", "initial"])
async def test_nothing_more_is_asked_for_once_somebody_has_paused_the_connection(
    database: Database, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    for number in range(8):
        at = None if phase == "incremental" else NOON - (1 + number) * HOUR
        source.put(f"r-{number}", {"n": number}, modified_at=at)
    source.pass_time(60)
    source.requests.clear()
    pull = source.pull

    async def interrupted(*asked: Any) -> InboundPage:
        await rig.execute("update connection set state = 'paused', prior_state = 'active'")
        return await pull(*asked)

    monkeypatch.setattr(source, "pull", interrupted)
    await rig.run(phase)
    assert source.requests.count("pull work_orders") == 1
    assert len(await rig.held()) == 3, "the page in hand is stored"
    monkeypatch.setattr(source, "pull", pull)
    await rig.execute("update connection set state = 'active', prior_state = null")
    await rig.finish(phase)
    assert await rig.held() == source.holds()


async def test_an_idle_stream_costs_one_request_and_one_look_at_the_clock(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run(times=2)
    source.requests.clear()
    source.pass_time(300)
    row = await rig.run()
    assert source.requests == ["now work_orders", "pull work_orders"]
    assert row["state"] == "idle" and row["last_success_at"] is not None


async def _apply(
    rig: InboundRig, claim: inbound.InboundClaim, record: InboundRecord, *, asked: int | None = None
) -> inbound_pages.Applied:
    step = inbound_pages.WalkStep(
        records=[keep(record)], low=None, high=NOON, cursor=None, begins=True, done="high", asked=asked
    )
    return await inbound_pages.apply(rig.database, claim, step, max_records=100)


async def test_failing_pulls_degrade_and_only_a_pull_cures(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    for _ in range(3):
        source.faults = [Unavailable("503")]
        await rig.run()
    (connection,) = await rig.rows("select state, operation from connection")
    assert (connection["state"], connection["operation"]) == ("degraded", "pull")
    (told,) = await rig.events("sync.failed")
    assert told["stream"] == "work_orders"
    for operation in (Operation.PROBE, Operation.PUSH):
        await rig.engine.health.succeeded(rig.link, operation)
    (connection,) = await rig.rows("select state from connection")
    assert connection["state"] == "degraded"
    await rig.run()
    (connection,) = await rig.rows("select state from connection")
    assert connection["state"] == "active"


async def test_a_breaker_that_is_open_holds_pulls_back(database: Database) -> None:
    source = Source()
    rig = await InboundRig(database, source).activate()
    link = replace(rig.link, host="cmms.example")
    async with database.transaction() as connection:
        await breakers.open_breaker(connection, (Scope.HOST, "cmms.example"), seconds=30.0)
    await rig.engine.incidents.refresh()
    await rig.runner().run(await rig.claim(), link)
    assert not source.requests
    row = await rig.row()
    assert (row["state"], row["attempts"]) == ("idle", 0)
