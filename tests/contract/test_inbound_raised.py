"""What an alert becomes: raised once, and seen again in the stream that the manifest names, under the id that
raising it gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers import patient
from connectors.registry import SYSTEMS
from gateway.demo.cmms import DemoCmms
from gateway.model.errors import OutcomeUnknown
from gateway.model.exchange import EventToRaise, RaisesEvents
from gateway.model.inbound import InboundRecord, NotesEvents
from gateway.model.outcome import Accepted, Duplicate, Rejected
from tests.contract.harness import _settings
from tests.contract.inbound_harness import MaintainXInbound, S4hanaInbound, TrytonInbound
from tests.contract.sap_harness import need_node
from tests.contract.test_inbound import walked
from tests.fixtures.unreliable import Unreliable

METERS = {"maintainx": "pump-1 temperature", "sap_s4hana": "1000", "tryton": "pump-3/temperature"}
HARNESSES = (MaintainXInbound, S4hanaInbound, TrytonInbound)
CREATES = {
    "maintainx": b"POST /v1/workorders ",
    "sap_s4hana": b"POST /sap",
    "tryton": b"POST /erp/rest/model/quality.inspection?",
}
HOUR = timedelta(hours=1)


@pytest.fixture(params=HARNESSES, ids=lambda kind: kind.system)
async def harness(
    request: pytest.FixtureRequest, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    if request.param is S4hanaInbound:
        need_node(request)
    started = request.param()
    async with started.running(contract_dsn, monkeypatch):
        yield started


def event(system: str, reference: str = "J4ZP6QH2K7M3N5R8T1VX") -> EventToRaise:
    at = datetime.now(UTC).replace(microsecond=0) - HOUR
    return EventToRaise(
        reference=reference, title="Hot", text="It is hot", meter=METERS[system], at=at, severity="high"
    )


def test_every_connector_that_raises_is_here() -> None:
    raising = {name for name, system in SYSTEMS.items() if system.manifest.raises}
    assert raising == {kind.system for kind in HARNESSES}


async def test_what_was_raised_is_seen_in_its_stream(harness: Any) -> None:
    manifest = SYSTEMS[harness.system].manifest
    [(kind, stream)] = manifest.raises.items()
    assert stream is not None
    connector: Any = harness.connector()
    assert isinstance(connector, RaisesEvents)
    wanted = replace(event(harness.system), kind=kind)
    first, again = (
        await connector.raise_event(wanted),
        await connector.raise_event(replace(wanted, title="x")),
    )
    assert isinstance(first, Accepted) and first.remote_id
    assert again == Duplicate(remote_id=first.remote_id)
    now = datetime.now(UTC)
    [record] = [
        record
        for record in await walked(connector, stream, now - HOUR, now + HOUR)
        if record.reference == wanted.reference
    ]
    assert record.key == first.remote_id
    assert record.progress == "open"
    whole: Any = connector
    open_page = await whole.pull_open(stream)
    assert first.remote_id in {record.key for record in open_page.records}
    await whole.close()


async def test_a_lost_answer_leads_to_one(harness: Any) -> None:
    async with Unreliable(harness.address, path=CREATES[harness.system]) as proxy:
        connector = harness.connector(url=proxy.url)
        await connector.probe()
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.raise_event(event(harness.system))
        assert isinstance(await connector.raise_event(event(harness.system)), Duplicate)
        await connector.close()


async def test_without_the_look_up_a_lost_answer_leads_to_two(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the guard: a connector that is blind to it makes another."""
    async with Unreliable(harness.address, path=CREATES[harness.system]) as proxy:
        connector = harness.connector(url=proxy.url)
        await connector.probe()
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.raise_event(event(harness.system))
        assert len(await _raised(harness)) == 1
        _blind(monkeypatch, harness.system)
        assert isinstance(await connector.raise_event(event(harness.system)), Accepted)
        monkeypatch.undo()
        assert len(await _raised(harness)) == 2
        await connector.close()


async def _raised(harness: Any) -> list[InboundRecord]:
    """What the system holds with the reference."""
    [stream] = SYSTEMS[harness.system].manifest.raises.values()
    reader, now = harness.connector(), datetime.now(UTC)
    reference = event(harness.system).reference
    found = await walked(reader, str(stream), now - HOUR, now + HOUR)
    await reader.close()
    return [record for record in found if record.reference == reference]


def _blind(patch: pytest.MonkeyPatch, system: str) -> None:
    """Nothing is found by a reference."""

    async def nothing(*_: object, **__: object) -> list[object]:
        return []

    async def none(*_: object) -> None:
        return None

    match system:
        case "tryton":
            patch.setattr("connectors.tryton.rest.Rest.search", nothing)
        case "maintainx":
            patch.setattr("connectors.maintainx.reader.MaintainXReader._raised", none)
        case _:
            nobody = "MaintNotifExtReferenceNumber eq 'nobody'"
            patch.setattr("connectors.sap_s4hana.connector.notification_reference", lambda _: nobody)


@pytest.mark.parametrize("reference", ["", "x" * 21, "a\0b"])
async def test_a_reference_that_cannot_be_kept_is_refused(harness: Any, reference: str) -> None:
    connector: Any = harness.connector()
    assert isinstance(await connector.raise_event(event(harness.system, reference)), Rejected)
    await connector.close()


async def test_a_note_is_added_once(harness: Any) -> None:
    connector: Any = harness.connector()
    if not isinstance(connector, NotesEvents):
        assert harness.system == "sap_s4hana", "whose long text nobody may append to by this service for sure"
        pytest.skip("it takes no note")
    whole: Any = connector
    raised = await whole.raise_event(event(harness.system))
    assert isinstance(raised, Accepted) and raised.remote_id
    for text in ("It is well again", "It is well again", "And hot again"):
        await connector.note_event(raised.remote_id, text)
    notes = await asyncio.to_thread(_notes, harness, raised.remote_id)
    assert notes.count("It is well again") == 1 and notes.count("And hot again") == 1
    await connector.note_event("999999999", "to nobody")
    await whole.close()


def _notes(harness: Any, remote_id: str) -> str:
    if harness.system == "maintainx":
        return "\n".join(content for _, content, _ in harness.cmms.workshop.orders[int(remote_id)].comments)
    rows = harness.tryton.rpc("model.quality.alert.read", [int(remote_id)], ["description"], {"company": 1})
    return str(rows[0]["description"])


async def test_a_work_order_is_about_the_meters_asset(harness: Any) -> None:
    if harness.system != "maintainx":
        pytest.skip("MaintainX's")
    connector: Any = harness.connector()
    raised = await connector.raise_event(event("maintainx"))
    assert isinstance(raised, Accepted) and raised.remote_id
    order = harness.cmms.workshop.orders[int(raised.remote_id)]
    assert harness.cmms.workshop.assets[order.asset_id].name == "pump-1"
    assert (order.priority, order.title, order.kind) == ("HIGH", "Hot", "REACTIVE")
    unknown = await connector.raise_event(replace(event("maintainx", "OTHER"), meter="nobody knows"))
    assert isinstance(unknown, Accepted)
    await connector.close()


async def test_a_work_order_is_found_again_among_many_and_by_a_device_whose_clock_is_ahead(
    harness: Any,
) -> None:
    if harness.system != "maintainx":
        pytest.skip("MaintainX's: it is found by a walk")
    connector: Any = harness.connector()
    wanted = replace(event("maintainx"), at=datetime.now(UTC) + timedelta(hours=20))
    first = await connector.raise_event(wanted)
    for number in range(100):
        await harness.put(9000 + number, datetime.now(UTC))
    assert isinstance(first, Accepted)
    assert await connector.raise_event(wanted) == Duplicate(remote_id=first.remote_id)
    await connector.close()


async def test_hostile_texts_make_a_work_order_or_a_refusal(harness: Any) -> None:
    connector: Any = harness.connector()
    for number, text in enumerate(("", "a\0b", "\ud800", "'; drop", "x" * 9000, "Fieldgate reference: FAKE")):
        wanted = replace(event(harness.system, f"REF-{number}"), title=text, text=text)
        assert isinstance(await connector.raise_event(wanted), Accepted | Rejected), text[:20]
        assert isinstance(await connector.raise_event(wanted), Duplicate | Rejected), text[:20]
    await connector.close()


async def test_the_demonstrations_people_close_what_was_raised(contract_dsn: str) -> None:
    """By themselves, so that the life of an alert can be watched."""
    async with DemoCmms(api_key="k" * 8, meters=["pump-1 temperature"], people_seconds=0.2) as cmms:
        cmms.switches.rate_limit = 10_000
        connector: Any = SYSTEMS["maintainx"].build(
            _settings({"base_url": cmms.url}, {"api_key": "k" * 8}, 5.0, None)
        )
        raised = await connector.raise_event(event("maintainx"))
        assert isinstance(raised, Accepted)
        seen: list[str] = []
        async with patient(60):
            while "closed" not in seen:
                now = datetime.now(UTC)
                for record in await walked(connector, "work_orders", now - HOUR, now + HOUR):
                    if record.key == raised.remote_id and record.progress not in seen[-1:]:
                        seen.append(str(record.progress))
                await asyncio.sleep(0.02)
        assert seen[0] == "open" and seen[-1] == "closed"
        await connector.close()


async def test_the_demonstration_is_readable_by_configuration_alone(contract_dsn: str) -> None:
    """As a system without a connector of its own would be."""
    stream = {
        "path": "/workorders",
        "items": "workOrders",
        "modified": "updatedAt",
        "query": {"sort": "-updatedAt", "limit": "{page}"},
        "open_query": {"statuses": "OPEN", "limit": "{page}"},
        "paging": {"kind": "cursor", "path": "nextCursor", "parameter": "cursor"},
        "progress": {"path": "status", "open": ["OPEN"], "acknowledged": ["IN_PROGRESS"], "closed": ["DONE"]},
        "page": 2,
    }
    async with DemoCmms(api_key="k" * 8) as cmms:
        numbers = [cmms.workshop.create({"title": f"t{number}"}, datetime.now(UTC)) for number in range(5)]
        settings = {"base_url": cmms.url, "path": "/meters", "streams": {"work_orders": stream}}
        connector: Any = SYSTEMS["http_json"].build(_settings(settings, {"api_key": "k" * 8}, 5.0, None))
        cmms.workshop.change(numbers[0], {"status": "DONE"}, datetime.now(UTC))
        found = {
            record.key: record.progress
            for record in await walked(connector, "work_orders", None, datetime.now(UTC))
        }
        assert found == {str(number): "open" for number in numbers} | {str(numbers[0]): "closed"}
        assert len((await connector.pull_open("work_orders")).records) == 2, "a page of them"
        await connector.close()
