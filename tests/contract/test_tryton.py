"""Tryton: what an inspection holds, repeats and corrections, keys and rights, lost answers, what is listed,
made, pulled and raised. A real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from benchmarks.servers import patient
from connectors.tryton import connector as tryton_module
from connectors.tryton import controls as controls_module
from connectors.tryton.connector import TrytonConnector
from connectors.tryton.mapping import reference_of
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from gateway.model.exchange import (
    EnsuresMeters,
    EventToRaise,
    ListsMeters,
    RaisesEvents,
    RemoteMeter,
)
from gateway.model.inbound import InboundRecord, ReadsRecords
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected
from gateway.model.reading import Reading, make_batch
from tests.contract.faults import FaultServer, answer
from tests.contract.harness import CONNECTION, Calls, reading, recent
from tests.contract.tryton_harness import LISTED, TrytonHarness, after_the_question
from tests.fixtures.tryton import FORBIDDEN
from tests.fixtures.unreliable import Unreliable

FAR = timedelta(days=1)


@pytest.fixture
async def harness() -> AsyncIterator[TrytonHarness]:
    started = TrytonHarness()
    async with started.running(""):
        yield started


@pytest.fixture
async def connector(harness: TrytonHarness) -> AsyncIterator[TrytonConnector]:
    built = harness.connector()
    yield built
    await built.close()


async def push(connector: TrytonConnector, *readings: Reading) -> dict[str, Outcome]:
    """By meter."""
    batch = make_batch(CONNECTION, readings)
    return dict(zip((item.meter for item in batch.readings), await connector.push(batch), strict=True))


async def inspections(harness: TrytonHarness) -> list[dict[str, Any]]:
    fields = ["reference", "state", "points", "control.name"]
    rows: list[dict[str, Any]] = await asyncio.to_thread(
        harness.tryton.rpc,
        "model.quality.inspection.search_read",
        [],
        0,
        None,
        [["id", "ASC"]],
        fields,
        {"company": 1},
    )
    return rows


async def process(harness: TrytonHarness, *, value: float) -> None:
    """A person fills in what is missing and closes the inspection."""
    [row] = await inspections(harness)
    points = {
        "vibration": 1.0,
        "energy": {"__class__": "Decimal", "decimal": "1"},
        "running": True,
        "starts": 1,
        "temperature": value,
    }
    await asyncio.to_thread(
        harness.tryton.rpc, "model.quality.inspection.write", [row["id"]], {"points": points}, {"company": 1}
    )
    await asyncio.to_thread(
        harness.tryton.rpc, "model.quality.inspection.process", [row["id"]], {"company": 1}
    )


async def test_the_readings_of_a_control_at_a_time_are_one_inspection(
    harness: TrytonHarness, connector: TrytonConnector
) -> None:
    at = recent()
    sent = [
        reading("pump-3/temperature", at, 21.5),
        reading("pump-3/energy", at, 0.1),
        reading("pump-3/running", at, True),
        reading("pump-3/starts", at, 4.0),
    ]
    outcomes = await push(connector, *sent)
    assert set(map(type, outcomes.values())) == {Accepted}
    [row] = await inspections(harness)
    assert row["reference"] == reference_of(CONNECTION, sent[0])
    assert row["points"] == {
        "temperature": 21.5,
        "energy": {"__class__": "Decimal", "decimal": "0.1"},
        "running": True,
        "starts": 4,
    }
    found = await connector.find(sent)
    assert {item.key: item.value for item in sent} == {key: remote.value for key, remote in found.items()}


async def test_a_later_point_joins_its_inspection_and_a_correction_changes_it(
    harness: TrytonHarness, connector: TrytonConnector
) -> None:
    at = recent()
    first = await push(connector, reading("pump-3/temperature", at, 1.0))
    second = await push(
        connector,
        reading("pump-3/vibration", at, 2.0),
        replace(reading("pump-3/temperature", at, 3.0), modified=True),
    )
    [row] = await inspections(harness)
    assert row["points"] == {"temperature": 3.0, "vibration": 2.0}
    assert {*first.values(), *second.values()} == {Accepted(remote_id=str(row["id"]))}


async def test_what_a_person_has_closed_is_corrected_by_a_further_inspection(
    harness: TrytonHarness, connector: TrytonConnector
) -> None:
    at = recent()
    await push(connector, reading("pump-3/temperature", at, 1.0))
    await process(harness, value=1.0)
    corrected = replace(reading("pump-3/temperature", at, 3.0), modified=True)
    assert isinstance((await push(connector, corrected))["pump-3/temperature"], Accepted)
    assert [row["state"] for row in await inspections(harness)] == ["passed", "pending"]
    assert (await connector.find([corrected]))[corrected.key].value == 3.0
    assert isinstance((await push(connector, corrected))["pump-3/temperature"], Duplicate)


async def test_a_repeat_is_recognised_by_a_connector_that_never_sent_it(
    harness: TrytonHarness, connector: TrytonConnector
) -> None:
    sent = [reading(f"pump-{number}/temperature", recent(), 0.1 + number) for number in range(30)]
    await push(connector, *sent)
    other = harness.connector()
    assert set(map(type, (await push(other, *sent)).values())) == {Duplicate}
    assert len(await inspections(harness)) == 30
    await other.close()


async def test_what_tryton_would_store_blindly_is_refused_here(harness: TrytonHarness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    at = recent()
    wrong = {
        "pump-3/no_such_point": (1.0, "unknown_meter"),
        "no such control/temperature": (1.0, "unknown_meter"),
        "temperature": (1.0, "unknown_meter"),
        "pump-3/temperature": ("warm", "unsupported_value"),
        "pump-4/temperature": (float("nan"), "not_finite"),
        "pump-3/running": (2.0, "unsupported_value"),
        "pump-3/starts": (1.5, "unsupported_value"),
        "x" * 5000: (1.0, "unknown_meter"),
    }
    outcomes = await push(connector, *(reading(meter, at, value) for meter, (value, _) in wrong.items()))
    assert {meter: outcome.code for meter, outcome in outcomes.items() if isinstance(outcome, Rejected)} == {
        meter: code for meter, (_, code) in wrong.items()
    }
    assert {operation for operation, _ in calls.seen} == {"list_meters"}
    await connector.close()


async def test_a_rule_at_tryton_costs_its_own_control_only_and_is_remembered(harness: TrytonHarness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    for second in range(2):
        good = [reading(f"pump-{number}/temperature", recent(second), 1.0) for number in range(20)]
        outcomes = await push(connector, *good, reading(f"{FORBIDDEN}/temperature", recent(second), 1.0))
        refused = outcomes.pop(f"{FORBIDDEN}/temperature")
        assert isinstance(refused, Rejected) and "fail on at least one of these rules" in refused.message
        assert set(map(type, outcomes.values())) == {Accepted}
        if second == 0:
            calls.seen.clear()
    assert [operation for operation, _ in calls.seen] == ["find", "push"]
    await connector.close()


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (
            "400 Bad Request",
            b'{"status": 400, "message": "A value is required.", "description": "d"}',
            Rejected(code="400", message="A value is required. d"),
        ),
        (
            "409 Conflict",
            b'{"status": 409, "message": "Are you sure?", "description": ""}',
            Rejected(code="409", message="Are you sure?"),
        ),
        (
            "413 Content Too Large",
            b"<!doctype html><p>The data is too large.</p>",
            Rejected(code="413", message="the data is too large"),
        ),
        ("423 Locked", b'{"status": 423, "message": "busy", "description": ""}', Unavailable),
        ("400 Bad Request", b"<html>proxy</html>", BadConfiguration),
        ("200 OK", b"[1, 2]", OutcomeUnknown),
        ("200 OK", b"{}", OutcomeUnknown),
    ],
)
async def test_what_tryton_answers_to_a_create(
    harness: TrytonHarness, status: str, body: bytes, wanted: object
) -> None:
    """Those that the real server gives only in rare moments."""
    server = FaultServer(on_get=answer("200 OK", orjson.dumps(LISTED)), on_other=answer(status, body))
    server.on_other = after_the_question(server, server.on_other)
    async with server:
        connector = harness.connector(url=server.url)
        if isinstance(wanted, Rejected):
            assert await push(connector, reading("pump-3/temperature", recent(), 1.0)) == {
                "pump-3/temperature": wanted
            }
        else:
            with pytest.raises(ConnectorError) as caught:
                await push(connector, reading("pump-3/temperature", recent(), 1.0))
            assert type(caught.value) is wanted
        await connector.close()


async def test_the_future_is_taken(harness: TrytonHarness, connector: TrytonConnector) -> None:
    """Tryton compares no clocks, so neither a device's nor ours can be wrong for it."""
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)
    assert isinstance(
        (await push(connector, reading("pump-3/temperature", ahead, 1.0)))["pump-3/temperature"], Accepted
    )
    assert (await harness.held())["pump-3/temperature", ahead] == [1.0]


async def test_a_cancelled_key_is_refused_and_its_successor_goes_on(harness: TrytonHarness) -> None:
    user = await asyncio.to_thread(harness.tryton.first, "res.user", "login", "=", "gateway")
    number, key = await asyncio.to_thread(harness.tryton.new_key, user)
    connector = harness.connector(key=key)
    await push(connector, reading("pump-3/temperature", recent(), 1.0))
    await asyncio.to_thread(harness.tryton.cancel_key, number)
    for call in (
        connector.probe(),
        push(connector, reading("pump-3/temperature", recent(1), 1.0)),
        connector.find([reading("pump-3/vibration", recent(), 1.0)]),
    ):
        with pytest.raises(AuthRefused) as caught:
            await call
        assert key not in str(caught.value)
    await connector.close()
    successor = harness.connector()
    assert isinstance(
        (await push(successor, reading("pump-3/temperature", recent(), 1.0)))["pump-3/temperature"], Duplicate
    )
    await successor.close()


async def test_a_user_without_the_right_is_blocked_not_asked_to_log_in(harness: TrytonHarness) -> None:
    def make() -> str:
        company = {"companies": [["add", [1]]], "company": 1}
        user = harness.tryton.make(
            "res.user", name="guest", login=f"guest-{recent().timestamp()}-{id(harness)}", **company
        )
        return harness.tryton.new_key(user)[1]

    connector = harness.connector(key=await asyncio.to_thread(make))
    await connector.probe()
    with pytest.raises(PermissionDenied, match="not allowed to access"):
        await push(
            connector,
            reading("pump-3/temperature", recent(), 1.0),
            reading("pump-4/temperature", recent(), 1.0),
        )
    await connector.close()


async def test_an_answer_lost_after_the_commit_is_found(harness: TrytonHarness) -> None:
    async with Unreliable(harness.tryton.url, path=b"/create ") as proxy:
        connector = harness.connector(url=proxy.url)
        batch = make_batch(
            CONNECTION, [reading(f"pump-{number}/temperature", recent(), 1.0) for number in range(10)]
        )
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.push(batch)
        assert len(await connector.find(batch.readings)) == 10
        await connector.close()


async def test_nothing_is_missing_before_a_lost_request_can_be_over(
    harness: TrytonHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is gone and the server commits later: what is not there yet must not be sent again."""
    monkeypatch.setattr(tryton_module, "_SETTLED_SECONDS", 2.0)
    async with Unreliable(harness.tryton.url, path=b"/create ") as proxy:
        connector = harness.connector(url=proxy.url)
        sent = [reading(f"pump-{number}/temperature", recent(), 1.0) for number in range(2)]
        proxy.faults.append("late")
        with pytest.raises(OutcomeUnknown):
            await push(connector, *sent)
        with pytest.raises(Unavailable, match="still be at work") as caught:
            await connector.find(sent)
        assert 0 < (caught.value.retry_after or 0) <= 2.0
        async with patient(20):
            while True:
                try:
                    found = await connector.find(sent)
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
        assert found.keys() == {item.key for item in sent}
        assert len(await inspections(harness)) == 2
        absent = reading("pump-3/vibration", recent(), 1.0)
        async with patient(20):
            while True:
                try:
                    assert await connector.find([absent]) == {}
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
        await connector.close()


async def test_meters_are_every_point(
    harness: TrytonHarness, connector: TrytonConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls_module, "_PAGE", 7)
    assert (
        isinstance(connector, ListsMeters)
        and isinstance(connector, EnsuresMeters)
        and isinstance(connector, ReadsRecords)
    )
    assert isinstance(connector, RaisesEvents)
    meters = [meter async for meter in connector.meters()]
    wanted = {
        f"pump-{number}/{point}"
        for number in range(40)
        for point in ("temperature", "vibration", "energy", "running", "starts")
    }
    assert wanted <= {meter.meter for meter in meters}
    assert RemoteMeter(meter="pump-3/temperature", title="Temperature") in meters
    assert len(meters) == len({meter.meter for meter in meters})


async def test_a_meter_is_made_once_where_that_is_allowed(harness: TrytonHarness) -> None:
    name = f"made-{id(harness)}"
    wanted = RemoteMeter(meter=f"{name}/flow", title="Flow")
    reads = harness.connector()
    assert not reads.capabilities.can_create_meter
    with pytest.raises(BadConfiguration, match="create_points"):
        await reads.ensure_meter(wanted)
    assert await reads.ensure_meter(RemoteMeter(meter="pump-3/temperature")) == RemoteMeter(
        meter="pump-3/temperature", title="Temperature"
    )
    may_not = harness.connector(create_points=True)
    with pytest.raises(PermissionDenied):
        await may_not.ensure_meter(wanted)
    makes = harness.connector(create_points=True, key=harness.tryton.administrator_key)
    for meter in (wanted, wanted, RemoteMeter(meter=f"{name}/level")):
        assert await makes.ensure_meter(meter) == RemoteMeter(meter=meter.meter, title=meter.title or "level")
    assert isinstance(await makes.ensure_meter(RemoteMeter(meter="no slash")), Rejected)
    outcomes = await push(
        makes, reading(f"{name}/flow", recent(), 1.5), reading(f"{name}/level", recent(), 2.5)
    )
    assert {type(outcome) for outcome in outcomes.values()} <= {Accepted, Rejected}
    for built in (reads, may_not, makes):
        await built.close()


async def pulled(
    connector: TrytonConnector, stream: str, since: datetime | None, until: datetime
) -> list[InboundRecord]:
    records: list[InboundRecord] = []
    cursor = None
    while True:
        page = await connector.pull(stream, since, until, cursor)
        records += page.records
        if page.cursor is None:
            return records
        cursor = page.cursor


async def test_what_changed_is_pulled_page_by_page(
    harness: TrytonHarness, connector: TrytonConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryton_module, "_PAGE", 3)
    await push(connector, *(reading(f"pump-{number}/temperature", recent(), 1.0) for number in range(8)))
    now = datetime.now(UTC)
    records = await pulled(connector, "quality_inspections", None, now + FAR)
    assert [record.body["control"] for record in records] == [f"pump-{number}" for number in range(8)]
    assert records[0].body["processed_at"] == recent().isoformat().replace("+00:00", "Z")
    assert records[0].body["points"] == {"temperature": 1.0}
    stamp = records[0].modified_at
    assert stamp is not None
    assert await pulled(connector, "quality_inspections", None, stamp) == [], "the upper bound is open"
    assert len(await pulled(connector, "quality_inspections", stamp, now + FAR)) == 8, (
        "the lower bound is closed"
    )
    assert await pulled(connector, "quality_inspections", stamp + timedelta(seconds=1), now + FAR) == []
    assert connector.inbound[0].lookback == timedelta(seconds=120), "over the longest transaction"
    with pytest.raises(BadConfiguration, match="quality_inspections and quality_alerts and products"):
        await connector.pull("orders", None, now)


async def test_a_violated_tolerance_is_pulled_as_an_alert(
    harness: TrytonHarness, connector: TrytonConnector
) -> None:
    await push(connector, reading("pump-3/temperature", recent(), 99.0))
    await process(harness, value=99.0)
    [record] = await pulled(connector, "quality_alerts", None, datetime.now(UTC) + FAR)
    assert record.body["state"] == "open"
    [inspection] = await pulled(connector, "quality_inspections", None, datetime.now(UTC) + FAR)
    assert inspection.body["state"] == "failed"
    assert str(inspection.body["number"]) in str(record.body["origin"])


async def test_an_event_is_raised_once(harness: TrytonHarness, connector: TrytonConnector) -> None:
    event = EventToRaise(
        reference="EVENT-0000000000001",
        title="hot " * 100,
        text="line\nnext\0\x07 " * 1000,
        meter="pump-3/temperature",
        at=recent(),
        severity="high",
    )
    raised = await connector.raise_event(event)
    assert isinstance(raised, Accepted) and raised.remote_id
    other = harness.connector()
    assert await other.raise_event(event) == Duplicate(remote_id=raised.remote_id)
    [record] = await pulled(other, "quality_alerts", None, datetime.now(UTC) + FAR)
    assert str(record.body["title"]).startswith("high: hot hot")
    assert len(str(record.body["title"])) == 120
    unknown = await connector.raise_event(replace(event, reference="EVENT-2", meter="no such/meter"))
    assert isinstance(unknown, Rejected) and unknown.code == "unknown_meter"
    too_long = await connector.raise_event(replace(event, reference="x" * 21))
    assert isinstance(too_long, Rejected) and too_long.code == "too_long"
    refused = await connector.raise_event(
        replace(event, reference="EVENT-3", meter=f"{FORBIDDEN}/temperature")
    )
    assert isinstance(refused, Rejected) and refused.code == "400"
    await other.close()


async def test_a_lost_answer_to_an_event_is_looked_up(harness: TrytonHarness) -> None:
    event = EventToRaise(reference="EVENT-LOST", title="t", text="t", meter="pump-3/temperature", at=recent())
    async with Unreliable(harness.tryton.url, path=b"POST ") as proxy:
        connector = harness.connector(url=proxy.url)
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.raise_event(event)
        assert isinstance(await connector.raise_event(event), Duplicate)
        await connector.close()
