"""The OData connector: repeats and changes, tokens, lost answers, pages, texts, and what the settings narrow.
odatapy serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.odata.connector import ODataConnector
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import AuthRefused, BadConfiguration, OutcomeUnknown, Unavailable
from gateway.model.exchange import ListsMeters, RemoteMeter
from gateway.model.inbound import ReadsRecords
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry
from gateway.model.reading import Reading, make_batch
from tests.contract.harness import CONNECTION, reading, recent
from tests.contract.http_json_harness import Tokens
from tests.contract.odata_harness import SERVICE, ODataHarness, ODataJsonHarness
from tests.fixtures.unreliable import Unreliable

FAR = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(params=[ODataHarness, ODataJsonHarness], ids=["multipart", "json"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[ODataHarness]:
    started: ODataHarness = request.param()
    async with started.running(""):
        yield started


@pytest.fixture
async def connector(harness: ODataHarness) -> AsyncIterator[ODataConnector]:
    built = harness.connector()
    yield built
    await built.close()


async def push(connector: ODataConnector, *readings: Reading) -> dict[str, Outcome]:
    """By meter."""
    batch = make_batch(CONNECTION, readings)
    return dict(zip((item.meter for item in batch.readings), await connector.push(batch), strict=True))


async def test_an_entity_has_the_properties_that_are_named(
    harness: ODataHarness, connector: ODataConnector
) -> None:
    sent = reading("meter-1", recent(), 0.1, "CEL")
    assert await push(connector, sent) == {"meter-1": Accepted(remote_id="id-1")}
    [entity] = harness.processor.store.data["meterReadings"]
    names = ("systemId", "externalId", "meter", "readingDateTime", "value", "unit", "source")
    assert [entity.get_value(name) for name in names] == [
        "id-1",
        sent.key,
        "meter-1",
        recent(),
        0.1,
        "CEL",
        "fieldgate",
    ]


async def test_a_repeat_is_recognised_and_another_value_is_not_taken_for_it(
    harness: ODataHarness, connector: ODataConnector
) -> None:
    sent = reading("meter-1", recent(), 1.0)
    await push(connector, sent)
    other = harness.connector()
    assert await push(other, sent) == {"meter-1": Duplicate(remote_id="id-1")}
    changed = (await push(other, replace(sent, value=2.0)))["meter-1"]
    assert isinstance(changed, Rejected)
    assert changed.code == "Internal_EntityWithSameKeyExists"
    assert changed.message.endswith("already exists. (the service holds 1.0 there)")
    assert await harness.held() == {("meter-1", recent()): [1.0]}
    await other.close()


async def test_each_reading_of_a_batch_has_its_own_fate(connector: ODataConnector) -> None:
    at = recent()
    long_unit, long_meter, empty = (
        reading("meter-2", at, 1.0, "x" * 11),
        reading("m" * 51, at, 1.0),
        reading("", at, 1.0),
    )
    outcomes = await push(
        connector,
        reading("meter-1", at, 1.0),
        reading("999999", at, 1.0),
        long_unit,
        long_meter,
        empty,
        reading("status-423", at, 1.0),
        reading("t", at, "text"),
    )
    assert isinstance(outcomes["meter-1"], Accepted)
    assert outcomes["999999"] == Rejected(
        code="Internal_RecordNotFound", message="The meter 999999 does not exist."
    )
    assert isinstance(outcomes["meter-2"], Rejected)
    for meter, code in (("m" * 51, "invalid_text"), ("", "unknown_meter"), ("t", "unsupported_value")):
        refused = outcomes[meter]
        assert isinstance(refused, Rejected) and refused.code == code
    assert isinstance(outcomes["status-423"], Retry)


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 503])
async def test_a_part_that_is_put_off_waits_alone(connector: ODataConnector, status: int) -> None:
    alone = await push(connector, reading(f"status-{status}", recent(), 1.0))
    assert [type(outcome) for outcome in alone.values()] == [Retry]
    both = await push(
        connector, reading(f"status-{status}", recent(), 1.0), reading("meter-1", recent(), 1.0)
    )
    assert {meter: type(outcome) for meter, outcome in both.items()} == {
        f"status-{status}": Retry,
        "meter-1": Accepted,
    }


async def test_a_refused_token_is_renewed_once_and_the_call_replayed(harness: ODataHarness) -> None:
    harness.token = "good-token-1"
    tokens = Tokens("good-token-1", "good-token-2")
    connector = harness.connector(token=tokens, credentials={})
    await push(connector, reading("meter-1", recent(), 1.0))
    harness.token = "good-token-2"
    assert isinstance((await push(connector, reading("meter-1", recent(1), 1.0)))["meter-1"], Accepted)
    assert tokens.refused == ["good-token-1"]
    await connector.close()


async def test_a_token_that_is_refused_twice_is_refused(harness: ODataHarness) -> None:
    harness.token = "another-token"
    connector = harness.connector(
        token=Tokens("stale-token-1", "stale-token-2", "stale-token-3"), credentials={}
    )
    with pytest.raises(AuthRefused) as caught:
        await push(connector, reading("meter-1", recent(), 1.0))
    assert "stale-token" not in str(caught.value)
    assert len(harness.requests) == 2
    await connector.close()


async def test_an_answer_lost_after_the_commit_is_found(harness: ODataHarness) -> None:
    async with Unreliable(harness.url, path=b"POST ") as proxy:
        connector = harness.connector(url=proxy.url)
        batch = make_batch(
            CONNECTION, [reading(f"meter-{number}", recent(), 0.1 + number) for number in range(45)]
        )
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.push(batch)
        found = await connector.find(batch.readings)
        assert {key: remote.value for key, remote in found.items()} == {
            item.key: item.value for item in batch.readings
        }
        assert set(map(type, await connector.push(batch))) == {Duplicate}
        await connector.close()


async def test_where_a_refusal_cannot_be_looked_up_now_its_neighbours_are_not_lost(
    harness: ODataHarness,
) -> None:
    async with Unreliable(harness.url, path=b"POST ") as proxy:
        connector = harness.connector(url=proxy.url)
        proxy.skip = 1
        proxy.faults.append("503")
        outcomes = await push(connector, reading("meter-1", recent(), 1.0), reading("999999", recent(), 1.0))
        assert {meter: type(outcome) for meter, outcome in outcomes.items()} == {
            "meter-1": Accepted,
            "999999": Retry,
        }
        await connector.close()


async def test_meters_and_records_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ODataHarness, "page_size", 3)
    harness = ODataHarness()
    async with harness.running(""):
        for number in range(8):
            harness.add_meter(f"meter-{number}", f"Meter {number}", "CEL")
        connector = harness.connector()
        assert isinstance(connector, ListsMeters) and isinstance(connector, ReadsRecords)
        assert [meter async for meter in connector.meters()] == [
            RemoteMeter(meter=f"meter-{n}", title=f"Meter {n}", unit="CEL") for n in range(8)
        ]
        sent = [reading(f"meter-{number}", recent(), float(number)) for number in range(8)]
        await push(connector, *sent)
        assert len(await connector.find(sent)) == 8, "also behind the first page"
        page = await connector.pull("readings", None, FAR)
        keys = [record.key for record in page.records]
        while page.cursor is not None:
            page = await connector.pull("readings", None, FAR, page.cursor)
            keys += [record.key for record in page.records]
        assert list(dict.fromkeys(keys)) == [f"id-{number}" for number in range(1, 9)]
        await connector.close()


async def test_a_pull_has_a_closed_begin_and_an_open_end(connector: ODataConnector) -> None:
    await push(connector, *(reading(f"meter-{number}", recent(), 1.0) for number in range(3)))
    stamps = [record.modified_at for record in (await connector.pull("readings", None, FAR)).records]
    assert stamps[0] is not None and stamps[2] is not None
    assert [record.key for record in (await connector.pull("readings", None, stamps[2])).records] == [
        "id-1",
        "id-2",
    ]
    assert len((await connector.pull("readings", stamps[0], FAR)).records) == 3
    assert len((await connector.pull("readings", stamps[0] + timedelta(seconds=1), FAR)).records) == 2
    assert connector.inbound[0].lookback == timedelta(seconds=120)
    with pytest.raises(BadConfiguration, match="it has readings"):
        await connector.pull("orders", None, FAR)


async def test_texts_go_where_the_settings_say(harness: ODataHarness) -> None:
    connector = harness.connector(properties={"id": "systemId", "text": "remark"})
    sent = [reading("meter-1", recent(), "it's leaking"), reading("meter-2", recent(), True)]
    await push(connector, *sent)
    found = await connector.find(sent)
    assert [found[item.key].value for item in sent] == ["it's leaking", True]
    await connector.close()


@pytest.mark.parametrize(
    ("settings", "dedup", "readback", "delivery"),
    [
        ({"unique_key": True}, "natural_key", "full", "exactly_once"),
        ({"unique_key": False}, "client_ref", "full", "exactly_once"),
        ({"unique_key": False, "properties": {"key": None}}, "none", "none", "at_least_once"),
    ],
)
async def test_nothing_is_promised_that_the_settings_do_not_say(
    harness: ODataHarness, settings: dict[str, Any], dedup: str, readback: str, delivery: str
) -> None:
    connector = harness.connector(**settings)
    capabilities = connector.capabilities
    assert (capabilities.dedup, capabilities.readback, capabilities.delivery) == (dedup, readback, delivery)
    if readback == "none":
        assert await connector.find([reading("meter-1", recent(), 1.0)]) == {}
    await connector.close()


async def test_meters_need_to_be_named(harness: ODataHarness) -> None:
    connector = harness.connector(meters=None)
    with pytest.raises(BadConfiguration, match=r"settings\.meters"):
        [meter async for meter in connector.meters()]
    await connector.close()


@pytest.mark.parametrize(
    ("settings", "credentials", "fault"),
    [
        ({"service": "/a b"}, {"api_key": "k"}, "pattern"),
        ({"service": "relative"}, {"api_key": "k"}, "pattern"),
        ({"entity_set": "x'y"}, {"api_key": "k"}, "pattern"),
        ({"unique_key": True, "properties": {"key": None}}, {"api_key": "k"}, "needs properties.key"),
        ({"constants": {"meter": 1}}, {"api_key": "k"}, "own property"),
        ({}, {}, "needed"),
        ({}, {"api_key": "k", "username": "u", "password": "p"}, "expected"),
    ],
)
def test_settings_that_cannot_work_are_named(
    settings: dict[str, Any], credentials: dict[str, str], fault: str
) -> None:
    block = {"base_url": "https://example.com", "service": SERVICE, "entity_set": "meterReadings", **settings}
    with pytest.raises(BadConfiguration, match=fault):
        ODataConnector(
            ConnectorSettings(
                connection=CONNECTION,
                hosting="cloud",
                settings=block,
                credentials=credentials,
                timeout_seconds=5,
            )
        )


async def test_a_question_without_an_answer_is_no_proof_of_absence(harness: ODataHarness) -> None:
    async with Unreliable(harness.url, path=b"POST ") as proxy:
        connector = harness.connector(url=proxy.url)
        proxy.faults.append("cut")
        with pytest.raises(Unavailable):
            await connector.find([reading("meter-1", recent(), 1.0)])
        await connector.close()
