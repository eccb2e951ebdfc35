"""Deliver: every answer that a system can give, and what becomes of the readings and of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from benchmarks.servers import PATIENCE
from connectors.postgres.connector import build
from gateway.bulkhead import Fault
from gateway.model.connector import Capabilities, ConnectorSettings
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    LeaseLost,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.meter import MeterRule
from gateway.model.outcome import Duplicate, Outcome, Rejected, Retry, Unknown
from gateway.model.reading import Batch
from gateway.settings import SyncSettings
from gateway.store.pool import Database
from gateway.store.streams import RunTally
from gateway.sync.scan import scan_slice
from tests.fixtures.fleet import pass_time
from tests.fixtures.scripted import BLIND, CLIENT_REF, UPSERT, Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig, values

Answer = Callable[[Batch], Awaitable[Sequence[Outcome]]]
ZERO = timedelta(0)
QUICK = {
    "backoff_base": timedelta(milliseconds=1),
    "backoff_cap": timedelta(milliseconds=1),
    "unknown_wait": ZERO,
}


def refusing(connector: Scripted, meter: str, outcome: Outcome) -> Answer:
    """Takes everything but one meter."""

    async def answer(batch: Batch) -> Sequence[Outcome]:
        taken = {
            reading.key: made
            for reading in batch.readings
            if reading.meter != meter
            for made in connector.take([reading])
        }
        return [taken.get(reading.key, outcome) for reading in batch.readings]

    return answer


def failing(error: ConnectorError) -> Answer:
    async def answer(batch: Batch) -> Sequence[Outcome]:
        raise error

    return answer


async def three(database: Database, connector: Scripted, **settings: object) -> Rig:
    """Three meters, each with one closed window."""
    rig = Rig(database, connector, settings=SyncSettings.model_validate({**QUICK, **settings}))
    await rig.activate()
    await rig.store(("a", BASE, 1.0), ("bad", BASE, 2.0), ("z", BASE, 3.0))
    return rig


async def test_readings_reach_a_real_system_once_each(database: Database, empty_dsn: str) -> None:
    connector = build(
        ConnectorSettings(
            connection="acme-1",
            hosting="cloud",
            settings={"max_items": 7, "journal": True},
            credentials={"dsn": empty_dsn},
            timeout_seconds=5,
        )
    )
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number % 4}", BASE + number * 5 * MINUTE, float(number)) for number in range(24)])
    await rig.store(("d1", BASE + 5 * MINUTE, "text"), ("d2", BASE + 10 * MINUTE, True))
    await rig.run()
    await rig.store(("d1", BASE + 5 * MINUTE, "other"))
    await rig.run(times=2)
    await connector.close()
    system = await asyncpg.connect(empty_dsn)
    try:
        tables = [
            row[0]
            for row in await system.fetch(
                "select tablename from pg_tables where schemaname = 'public' order by 1"
            )
        ]
        (table,) = [name for name in tables if not name.endswith("_journal")]
        rows = await system.fetch(f'select meter, window_start, value, text_value from "{table}"')
        writes = await system.fetchval(f'select count(*) from "{table}_journal"')
    finally:
        await system.close()
    held = {
        (row["meter"], row["window_start"]): row["value"] if row["text_value"] is None else row["text_value"]
        for row in rows
    }
    expected = {
        key: {True: "true"}.get(value, value) if isinstance(value, bool) else value
        for key, value in (await rig.delivered()).items()
    }
    assert held == expected and len(rows) == 24 and held[("d1", BASE)] == "other"
    assert writes == 25


async def test_a_duplicate_is_delivered(database: Database) -> None:
    connector = Scripted()
    connector.answer = refusing(connector, "bad", Duplicate(remote_id="theirs"))
    rig = await three(database, connector)
    await rig.run()
    assert (await rig.delivered())[("bad", BASE)] == 2 and await rig.due() == []


async def test_rejected_is_a_dead_letter_in_the_systems_words_and_the_stream_goes_on(
    database: Database,
) -> None:
    connector = Scripted()
    connector.answer = refusing(connector, "bad", Rejected(code="E42", message="meter is retired"))
    rig = await three(database, connector)
    row = await rig.run()
    (dead,) = await rig.dead()
    assert (dead["meter"], dead["window_start"], dead["reason"], dead["detail"]) == (
        "bad",
        BASE,
        "E42",
        "meter is retired",
    )
    assert b'"value":2.0' in dead["payload"]
    assert set(await rig.delivered()) == {("a", BASE), ("z", BASE)}
    assert await rig.due() == [] and row["attempts"] == 0 and row["last_error"] is None


async def test_one_meter_that_must_wait_never_blocks_the_others(database: Database) -> None:
    connector = Scripted(capabilities=replace(CLIENT_REF, max_items=1))
    connector.answer = refusing(connector, "bad", Retry(after_seconds=3600, message="locked"))
    rig = await three(database, connector)
    await rig.store(("bad", BASE + HOUR, 9.0), ("z", BASE + HOUR, 4.0))
    row = await rig.run()
    assert set(await rig.delivered()) == {("a", BASE), ("z", BASE), ("z", BASE + HOUR)}
    assert row["state"] == "idle" and row["attempts"] == 0
    assert [reading.meter for batch in connector.pushes for reading in batch.readings].count("bad") == 1, (
        "the meter's later windows wait with it"
    )
    await rig.execute("update meter_mapping set retry_at = now()")
    connector.answer = None
    await rig.run()
    assert (await rig.delivered())[("bad", BASE)] == 2


async def test_a_reading_that_waits_too_often_is_a_dead_letter(database: Database) -> None:
    connector = Scripted()
    connector.answer = refusing(connector, "bad", Retry(after_seconds=0, message="still locked"))
    rig = await three(database, connector, max_attempts=4)
    await rig.run(times=2)
    (dead,) = await rig.dead()
    assert (
        dead["reason"] == "too_many_attempts" and dead["detail"] == "still locked" and await rig.due() == []
    )


async def test_a_change_during_a_delivery_is_not_lost(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(database, connector).activate()
    await rig.store(("a", BASE, 1.0))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if len(connector.pushes) == 1:
            await rig.store(("a", BASE, 5.0))
            claim = replace(claimed, fence=(await rig.stream())["fence"])
            assert await scan_slice(database, claim, rig.link, RunTally())
        return connector.take(batch.readings)

    connector.answer = answer
    claimed = await rig.claim()
    await rig.run()
    assert values(connector) == [("a", 1), ("a", 5)]
    assert await rig.delivered() == {("a", BASE): 5}


async def test_deadband_keeps_small_changes_back_and_never_a_correction(database: Database) -> None:
    connector = Scripted()
    rig = await Rig(
        database,
        connector,
        rules=(MeterRule(device="*", metric="t", meter="{device}", every=15 * MINUTE, deadband=1.0),),
    ).activate()
    quarter = 15 * MINUTE
    await rig.store(
        ("a", BASE, 10.0),
        ("a", BASE + quarter, 10.9),
        ("a", BASE + 2 * quarter, 11.0),
        ("a", BASE + 3 * quarter, 11.5),
    )
    await rig.run()
    assert values(connector) == [("a", 10), ("a", 11)]
    await rig.store(("a", BASE + 4 * quarter, 11.9))
    await rig.run()
    await rig.store(("a", BASE, 10.1))
    await rig.run()
    assert values(connector) == [("a", 10), ("a", 11), ("a", 10.1)]


async def test_unavailable_backs_off_then_degrades_then_recovers(database: Database) -> None:
    connector = Scripted(answer=failing(Unavailable("503", retry_after=600)))
    rig = await three(database, connector)
    row = await rig.run()
    assert (
        row["state"] == "failed"
        and row["attempts"] == 1
        and row["last_error"] == "503"
        and row["last_success_at"] is None
    )
    (wait,) = await rig.rows("select extract(epoch from next_run_at - now())::float8 as seconds from stream")
    assert 590 < wait["seconds"] < 665
    await rig.run()
    assert await rig.state() == "active"
    await rig.run()
    assert await rig.state() == "degraded"
    connector.answer = None
    row = await rig.run()
    assert (
        await rig.state() == "active"
        and row["attempts"] == 0
        and row["last_error"] is None
        and row["last_success_at"] is not None
    )
    assert len(await rig.delivered()) == 3 and len(connector.taken) == 3
    runs = await rig.rows("select outcome from sync_run order by run_id")
    assert [run["outcome"] for run in runs] == ["failed", "failed", "failed", "completed"]


async def test_a_rate_limit_is_no_attempt_and_no_success(database: Database) -> None:
    rig = await three(database, Scripted(answer=failing(RateLimited("slow down", retry_after=600))))
    row = await rig.run(times=4)
    assert (
        row["attempts"] == 0
        and row["last_error"] is None
        and row["last_success_at"] is None
        and await rig.state() == "active"
    )
    (wait,) = await rig.rows("select extract(epoch from next_run_at - now())::float8 as seconds from stream")
    assert 590 < wait["seconds"] < 665 and len(await rig.due()) == 3


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (AuthRefused("401"), "reauthorization_required"),
        (PermissionDenied("403"), "blocked"),
        (BadConfiguration("404"), "blocked"),
    ],
)
async def test_a_refusal_stops_every_call(database: Database, error: ConnectorError, state: str) -> None:
    connector = Scripted(
        capabilities=replace(CLIENT_REF, max_items=1), answer=failing(error), probe_error=error
    )
    rig = await three(database, connector)
    held = await rig.claim()
    await rig.run()
    assert await rig.state() == state and len(connector.pushes) == 1
    with pytest.raises(LookupError):
        await rig.claim()
    fence = (await rig.stream())["fence"]
    await rig.runner().run(replace(held, fence=fence), rig.link)  # a lane that was already under way
    assert len(connector.pushes) == 1 and len(await rig.due()) == 3
    (audit,) = await rig.rows("select trigger, reason from connection_audit where to_state = $1", state)
    assert audit["reason"] == str(error)


@pytest.mark.parametrize("took", [True, False])
async def test_a_lost_answer_is_asked_for_before_anything_is_sent_again(
    database: Database, took: bool
) -> None:
    connector = Scripted()

    async def lost(batch: Batch) -> Sequence[Outcome]:
        if took:
            connector.take(batch.readings)
        raise OutcomeUnknown("cut")

    connector.answer = lost
    rig = await three(database, connector)
    assert (await rig.run())["attempts"] == 1
    connector.answer = None
    await rig.run()
    assert len(connector.finds) == 1 and len(connector.finds[0]) == 3
    assert sorted(values(connector)) == [("a", 1), ("bad", 2), ("z", 3)]
    assert len(await rig.delivered()) == 3 and await rig.rows("select * from push_intent") == []


async def test_a_lost_answer_is_not_asked_for_too_early(database: Database) -> None:
    connector = Scripted(answer=failing(OutcomeUnknown("cut")))
    rig = await three(database, connector, unknown_wait=timedelta(seconds=600))
    await rig.run(times=3)
    assert len(connector.pushes) == 1 and connector.finds == []


async def test_readings_without_an_answer_are_asked_for_one_by_one(database: Database) -> None:
    """The system took one of a batch, and says of it only that it does not know."""
    connector = Scripted(capabilities=replace(CLIENT_REF, max_items=2))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        outcomes = list(connector.take(batch.readings))
        return [
            Unknown(message="?") if reading.meter == "bad" else made
            for reading, made in zip(batch.readings, outcomes, strict=True)
        ]

    connector.answer = answer
    rig = await three(database, connector, unknown_wait=timedelta(seconds=600))
    await rig.run(times=2)
    assert connector.finds == [], "not too early"
    assert await rig.doubts() == {("bad", BASE): 2.0} and await rig.rows("select * from push_intent") == []
    await rig.arrived()
    await rig.execute("update meter_mapping set retry_at = now()")
    await rig.run(times=2)
    assert sorted(values(connector)) == [("a", 1), ("bad", 2), ("z", 3)]
    assert len(connector.finds) == 1 and len(await rig.delivered()) == 3 and await rig.due() == []


async def test_a_reading_that_never_gets_an_answer_ends_as_a_dead_letter(database: Database) -> None:
    connector = Scripted(capabilities=BLIND)
    connector.answer = refusing(connector, "bad", Unknown(message="no idea"))
    rig = await three(database, connector, max_attempts=3)
    await rig.run(times=3)
    (dead,) = await rig.dead()
    assert dead["reason"] == "too_many_attempts" and dead["detail"] == "no idea" and await rig.due() == []


async def test_what_cannot_be_asked_is_sent_again(database: Database) -> None:
    connector = Scripted(capabilities=BLIND)

    async def lost(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        raise OutcomeUnknown("cut")

    connector.answer = lost
    rig = await three(database, connector)
    await rig.run()
    connector.answer = None
    await rig.run()
    assert connector.finds == [] and sorted(values(connector)) == sorted(2 * [("a", 1), ("bad", 2), ("z", 3)])
    (row,) = await rig.rows("select delivery from connection")
    assert row["delivery"] == "at_least_once"


@pytest.mark.parametrize("capabilities", [CLIENT_REF, UPSERT], ids=["client_ref", "upsert"])
async def test_a_kill_between_push_and_commit_sends_nothing_twice(
    database: Database, capabilities: Capabilities
) -> None:
    connector = Scripted(capabilities=capabilities)
    arrived = asyncio.Event()

    async def hang(batch: Batch) -> Sequence[Outcome]:
        connector.take(batch.readings)
        arrived.set()
        await asyncio.Event().wait()
        return []

    connector.answer = hang
    rig = await three(database, connector)
    running = asyncio.create_task(rig.run())
    await asyncio.wait_for(arrived.wait(), 10 * PATIENCE)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    connector.answer = None
    await rig.run()
    assert await rig.delivered() == {}, "nothing is sent again before what is on its way has arrived"
    await rig.arrived()
    await rig.run()
    assert len(await rig.delivered()) == 3 and await rig.due() == []
    distinct = {(reading.key, reading.value) for reading in connector.taken}
    assert len(distinct) == 3
    if capabilities is CLIENT_REF:
        assert len(connector.taken) == 3


async def test_a_push_that_never_ends_is_an_unknown_outcome(database: Database) -> None:
    connector = Scripted()

    async def hang(batch: Batch) -> Sequence[Outcome]:
        await asyncio.Event().wait()
        return []

    connector.answer = hang
    rig = await three(database, connector, push_timeout=timedelta(milliseconds=50))
    row = await rig.run()
    assert row["state"] == "failed" and "no answer within 0.05 s" in row["last_error"]
    assert len(await rig.doubts()) == 3


async def test_too_few_outcomes_are_no_outcome(database: Database) -> None:
    connector = Scripted()

    async def short(batch: Batch) -> Sequence[Outcome]:
        return connector.take(batch.readings)[:1]

    connector.answer = short
    rig = await three(database, connector)
    await rig.run()
    connector.answer = None
    await rig.run()
    assert len(connector.taken) == 3 and len(await rig.delivered()) == 3


@pytest.mark.parametrize("capabilities", [CLIENT_REF, UPSERT], ids=["client_ref", "upsert"])
async def test_a_refused_batch_is_halved_down_to_its_culprit(
    database: Database, capabilities: Capabilities
) -> None:
    connector = Scripted(capabilities=replace(capabilities, push="bulk_opaque"))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if any(reading.meter == "d07" for reading in batch.readings):
            raise BatchRefused("400: something is wrong")
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:02}", BASE, float(number)) for number in range(16)])
    row = await rig.run()
    (dead,) = await rig.dead()
    assert (dead["meter"], dead["reason"], dead["detail"]) == ("d07", "refused", "400: something is wrong")
    assert len(connector.taken) == 15 and len(await rig.delivered()) == 15 and row["attempts"] == 0


async def test_halves_that_were_taken_stay_taken_when_the_rest_fails(database: Database) -> None:
    connector = Scripted(capabilities=replace(BLIND, push="bulk_opaque"))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if len(batch.readings) > 1:
            raise BatchRefused("no")
        if len(connector.taken) == 2:
            raise RateLimited("enough", retry_after=1)
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await three(database, connector)
    await rig.run()
    assert len(await rig.delivered()) == 2
    connector.answer = None
    await rig.run()
    assert len(connector.taken) == 3


@pytest.mark.parametrize("capabilities", [CLIENT_REF, UPSERT, BLIND], ids=["client_ref", "upsert", "blind"])
async def test_after_an_outage_the_backlog_goes_out_in_few_calls(
    database: Database, capabilities: Capabilities
) -> None:
    """However long it lasted: what was taken shows that it is over, so batches grow again in the same run."""
    connector = Scripted(capabilities=replace(capabilities, max_items=64), answer=failing(Unavailable("500")))
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:03}", BASE, 1.0) for number in range(200)])
    row = await rig.run(times=12)
    assert row["attempts"] == 12 and await rig.state() == "degraded"
    connector.answer = None
    connector.pushes.clear()
    row = await rig.run()
    assert (row["attempts"], await rig.state(), len(connector.taken)) == (0, "active", 200)
    assert len(connector.pushes) <= 10


@pytest.mark.parametrize("allowed", [1, 3])
@pytest.mark.parametrize("capabilities", [CLIENT_REF, BLIND], ids=["client_ref", "blind"])
async def test_after_an_outage_a_rate_limit_does_not_keep_batches_small(
    database: Database, capabilities: Capabilities, allowed: int
) -> None:
    """More falls due between two runs than single readings would fit the limit: what was taken before the
    limit was met ends the outage, whatever else there is to send.
    """
    connector = Scripted(capabilities=replace(capabilities, max_items=8), answer=failing(Unavailable("500")))
    rig = await Rig(database, connector).activate()
    meters = [f"d{number:02}" for number in range(8)]
    await rig.store(*[(meter, BASE, 1.0) for meter in meters])
    row = await rig.run(times=12)
    assert row["attempts"] == 12 and await rig.state() == "degraded"

    left = 0

    async def answer(batch: Batch) -> Sequence[Outcome]:
        nonlocal left
        if not left:
            raise RateLimited("the limit is used up", retry_after=0.01)
        left -= 1
        return connector.take(batch.readings)

    connector.answer = answer
    for count in range(1, 13):
        await rig.store(*[(meter, BASE - count * HOUR, 1.0) for meter in meters])
        left = allowed
        row = await rig.run()
        assert await rig.state() == "active"
    assert row["attempts"] == 0
    left = 100
    await rig.run(times=2)
    assert not await rig.due() and len(connector.taken) == 13 * len(meters)
    assert len(connector.pushes) < 12 + 12 * (allowed + 1) + 13 * len(meters) / 2


@pytest.mark.parametrize("allowed", [2, 5])
async def test_a_reading_that_breaks_the_system_is_found_under_a_rate_limit(
    database: Database, allowed: int
) -> None:
    connector, left = Scripted(capabilities=replace(UPSERT, max_items=8)), 0

    async def answer(batch: Batch) -> Sequence[Outcome]:
        nonlocal left
        if not left:
            raise RateLimited("the limit is used up", retry_after=0.01)
        left -= 1
        if any(reading.meter == "d07" for reading in batch.readings):
            raise Unavailable("500 Internal Server Error")
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    meters = [f"d{number:02}" for number in range(16)]
    await rig.store(*[(meter, BASE, 1.0) for meter in meters])
    runner = rig.runner()
    for count in range(1, 61):
        left = allowed
        await runner.run(await rig.claim(), rig.link)
        if await rig.dead():
            break
        await rig.store(("d00", BASE - count * HOUR, 1.0))  # others are there to push
    assert [dead["meter"] for dead in await rig.dead()] == ["d07"]
    assert {"d07"} == {*meters} - {meter for meter, _ in await rig.delivered()}


async def test_a_rate_limit_before_anything_was_taken_ends_no_outage(database: Database) -> None:
    rig = await three(database, Scripted(answer=failing(Unavailable("500"))))
    await rig.run(times=4)
    rig.connector.answer = failing(RateLimited("slow down", retry_after=0.01))  # type: ignore[attr-defined]
    row = await rig.run()
    assert (row["attempts"], await rig.state()) == (4, "degraded")


@pytest.mark.parametrize("capabilities", [CLIENT_REF, UPSERT], ids=["client_ref", "upsert"])
@pytest.mark.parametrize("culprit", ["d00", "d07"])
async def test_a_reading_that_breaks_the_system_is_found_and_parked(
    database: Database, capabilities: Capabilities, culprit: str
) -> None:
    connector = Scripted(capabilities=replace(capabilities, max_items=8))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if any(reading.meter == culprit for reading in batch.readings):
            raise OutcomeUnknown("500 Internal Server Error")
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    meters = [f"d{number:02}" for number in range(16)]
    await rig.store(*[(meter, BASE, 1.0) for meter in meters])
    for _ in range(12):  # it is found, and while nothing else is left to push nobody says that it is to blame
        await rig.run()
    assert len(await rig.dead()) <= 1 and len(connector.taken) == 15
    windows = 1
    while (await rig.run())["attempts"] and windows < 5:  # others pass in the same run, each time
        await rig.store(*[(m, BASE + windows * 15 * MINUTE, 1.0) for m in meters if m != culprit])
        windows += 1
    (dead,) = await rig.dead()
    assert (dead["meter"], dead["reason"], dead["detail"]) == (
        culprit,
        "upstream_error",
        "500 Internal Server Error",
    )
    assert len(connector.taken) == 15 * windows and await rig.due() == []
    assert await rig.state() == "active"
    assert await rig.rows("select * from push_intent") == []


@pytest.mark.parametrize("capabilities", [CLIENT_REF, UPSERT], ids=["client_ref", "upsert"])
@pytest.mark.parametrize(
    "error", [OutcomeUnknown("500"), Unavailable("503"), RateLimited("429", retry_after=0)]
)
async def test_pushes_that_fail_while_the_probe_is_well_park_nothing(
    database: Database, capabilities: Capabilities, error: ConnectorError
) -> None:
    """However long, and whatever failed alone: it is an outage, since nothing passes."""
    connector = Scripted(capabilities=replace(capabilities, max_items=8), answer=failing(error))
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:02}", BASE, 1.0) for number in range(16)])
    await rig.run(times=40)
    assert await rig.dead() == [] and len(await rig.due()) == 16
    assert all(due["attempts"] == 0 for due in await rig.due())
    connector.answer = None
    await rig.run(times=2)
    assert len(connector.taken) == 16 and await rig.due() == [] and await rig.dead() == []


async def test_the_only_reading_that_there_is_waits_and_is_parked_when_others_pass(
    database: Database,
) -> None:
    connector = Scripted(capabilities=UPSERT)

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if any(reading.meter == "bad" for reading in batch.readings):
            raise Unavailable("500: a bad date")
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    await rig.store(("bad", BASE, 1.0))
    await rig.run(times=30)
    assert await rig.dead() == [] and await rig.state() == "degraded"
    (shown,) = await rig.rows("select operation, reason from connection")
    assert shown == {"operation": "push", "reason": "500: a bad date"}
    for window in range(3):
        await rig.store(("good", BASE + window * 15 * MINUTE, 1.0))
        await rig.run(times=4)  # in one of them it is not the first
    (dead,) = await rig.dead()
    assert dead["meter"] == "bad" and dead["reason"] == "upstream_error"
    await rig.store(("good", BASE + 3 * 15 * MINUTE, 1.0))
    await rig.run()
    assert await rig.state() == "active" and len(connector.taken) == 4


async def test_one_bad_window_of_the_only_meter_is_found_among_the_others(database: Database) -> None:
    connector = Scripted(capabilities=replace(UPSERT, max_items=4))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        if any(reading.window_start == BASE for reading in batch.readings):
            raise Unavailable("500: a bad date")
        return connector.take(batch.readings)

    connector.answer = answer
    rig = await Rig(database, connector).activate()
    for window in range(20):
        await rig.store(("a", BASE + window * 15 * MINUTE, 1.0))
        await rig.run()
    (dead,) = await rig.dead()
    assert dead["window_start"] == BASE and len(connector.taken) == 19


@pytest.mark.parametrize("outcome", [Retry(after_seconds=0, message="busy"), Unknown(message="busy")])
async def test_a_system_that_has_every_reading_wait_parks_nothing(
    database: Database, outcome: Retry | Unknown
) -> None:
    connector = Scripted(capabilities=BLIND)

    async def answer(batch: Batch) -> Sequence[Outcome]:
        return [outcome for _ in batch.readings]

    connector.answer = answer
    rig = await three(database, connector, max_attempts=3)
    for _ in range(6):
        await rig.run()
        await rig.execute("update meter_mapping set retry_at = now()")
    assert await rig.dead() == [] and len(await rig.due()) == 3
    assert len(connector.pushes) <= 4 + 5  # "at once" is not taken at its word for ever
    assert await rig.state() == "active"
    await pass_time(database, 61)
    await rig.run()
    assert await rig.state() == "degraded"  # after a minute of it
    connector.answer = None
    await rig.execute("update meter_mapping set retry_at = now()")
    await rig.run()
    assert len(connector.taken) == 3 and await rig.dead() == [] and await rig.state() == "active"


async def test_an_outage_parks_nothing(database: Database) -> None:
    connector = Scripted(answer=failing(Unavailable("503")), probe_error=Unavailable("503"))
    rig = await three(database, connector)
    row = await rig.run(times=20)
    assert await rig.dead() == [] and row["attempts"] == 20 and len(await rig.due()) == 3
    assert max(len(batch.readings) for batch in connector.pushes[-3:]) == 1


async def test_what_the_system_could_never_take_is_not_sent(database: Database) -> None:
    connector = Scripted(
        capabilities=replace(CLIENT_REF, values=frozenset({"number"}), max_backfill=4 * HOUR)
    )
    rig = await Rig(database, connector).activate()
    await rig.store(("text", BASE + 4 * HOUR, "open"), ("flag", BASE + 4 * HOUR, True), ("old", BASE, 1.0))
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    await rig.execute("update due_window set closes_at = now()")
    await rig.run()
    assert values(connector) == [("flag", 1.0)]
    assert {dead["meter"]: dead["reason"] for dead in await rig.dead()} == {
        "text": "unsupported_value",
        "old": "older_than_max_backfill",
    }


async def test_a_lost_lease_commits_nothing(database: Database) -> None:
    connector = Scripted()
    rig = await three(database, connector)

    async def slow(batch: Batch) -> Sequence[Outcome]:
        await rig.execute("update stream set fence = fence + 1, lease_owner = 'replica-b'")
        return connector.take(batch.readings)

    connector.answer = slow
    claim = await rig.claim()
    with pytest.raises(LeaseLost):
        await rig.runner().run(claim, rig.link)
    assert await rig.delivered() == {} and await rig.rows("select * from sync_run") == []
    row = await rig.stream()
    assert row["lease_owner"] == "replica-b"
    with pytest.raises(LeaseLost):
        await rig.runner().crashed(claim, rig.link, Fault(reference="0"))
    assert await rig.rows("select * from sync_run") == []


async def test_live_readings_wait_for_the_history_where_meters_must_ascend(database: Database) -> None:
    connector = Scripted(capabilities=replace(CLIENT_REF, order="per_meter_ascending"))
    rig = Rig(database, connector, initial_days=1)
    await rig.store(("a", BASE, 1.0))
    await rig.activate()
    await rig.store(("a", BASE + HOUR, 2.0))
    row = await rig.run()
    assert connector.taken == [] and row["state"] == "idle" and len(await rig.due()) == 1
    assert (await rig.run("initial"))["state"] == "done"
    await rig.run()
    assert values(connector) == [("a", 1), ("a", 2)]


async def test_scans_and_deliveries_never_wait_for_each_other_in_a_circle(database: Database) -> None:
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    devices = [f"d{number:03}" for number in range(80)]
    stop = asyncio.Event()

    async def feed() -> int:
        rounds = 0
        while not stop.is_set():
            rounds += 1
            order = devices if rounds % 2 else devices[::-1]
            await rig.store(*[(device, BASE, float(rounds)) for device in order])
        return rounds

    feeding = asyncio.create_task(feed())
    try:
        for _ in range(2):
            assert (await rig.run())["last_error"] is None
    finally:
        stop.set()
        rounds = await feeding
    await rig.run()
    assert await rig.delivered() == {(device, BASE): rounds for device in devices}
