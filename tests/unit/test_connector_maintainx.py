"""MaintainX: the mapping, and what its connector does with the system's limits. The demonstration CMMS serves
on loopback.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import httpx
import pytest

from benchmarks.servers import PATIENCE
from connectors.kit.answer import Answer
from connectors.maintainx.connector import MaintainXConnector
from connectors.maintainx.mapping import (
    Meter,
    MeterCatalogue,
    proven,
    to_catalogue,
    to_item,
    to_meter,
    to_text,
    to_time,
)
from connectors.maintainx.reader import MaintainXReader
from connectors.maintainx.settings import MaintainXSettings
from gateway.demo.cmms import DemoCmms
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import AuthRefused, BadConfiguration, OutcomeUnknown, RateLimited
from gateway.model.outcome import Accepted, Rejected
from gateway.model.reading import Reading, make_batch, reading_key
from gateway.model.sample import Value

NOW = datetime.now(UTC).replace(microsecond=0)


def reading(meter: str, at: datetime, value: Value = 1.0) -> Reading:
    return Reading(key=reading_key("c", meter, at), meter=meter, window_start=at, value=value)


def catalogue(*meters: Meter) -> MeterCatalogue:
    return to_catalogue(meters)


PUMP = Meter(id=7, name="pump", last_at=NOW, last_value=5.0)


def test_an_item_has_the_id_the_number_and_milliseconds() -> None:
    at = datetime(2026, 11, 2, 10, 0, 0, 123_999, tzinfo=UTC)
    assert to_item(reading("pump", at, True), catalogue(PUMP), system_time=at) == {
        "meterId": 7,
        "value": 1,
        "readingDate": "2026-11-02T10:00:00.123Z",
    }
    assert to_item(reading("7", at), None, system_time=None) == {
        "meterId": 7,
        "value": 1.0,
        "readingDate": "2026-11-02T10:00:00.123Z",
    }


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (reading("7", NOW - timedelta(days=3, seconds=1)), "older_than_max_backfill"),
        (reading("7", NOW, "text"), "unsupported_value"),
        (reading("7", NOW, float("nan")), "not_finite"),
        (reading("7", NOW, 2**60), "not_exact"),
        (reading("absent", NOW), "unknown_meter"),
        (reading("twin", NOW), "ambiguous_meter"),
    ],
)
def test_what_need_not_be_sent_is_rejected_with_a_code(sent: Reading, code: str) -> None:
    twins = (
        Meter(id=1, name="twin", last_at=None, last_value=None),
        Meter(id=2, name="twin", last_at=None, last_value=None),
    )
    refused = to_item(sent, catalogue(PUMP, *twins), system_time=NOW)
    assert isinstance(refused, Rejected)
    assert refused.code == code


def test_exactly_three_days_is_still_taken() -> None:
    assert isinstance(to_item(reading("7", NOW - timedelta(days=3)), None, system_time=NOW), dict)


def test_the_last_reading_proves_the_earlier_ones_of_its_meter_only() -> None:
    ours = [
        reading("pump", NOW - timedelta(minutes=1), 4.0),
        reading("pump", NOW, 5.0),
        reading("8", NOW, 5.0),
    ]
    assert set(proven(ours, catalogue(PUMP))) == {ours[0].key, ours[1].key}
    newer = [*ours, reading("pump", NOW + timedelta(minutes=1), 6.0)]
    assert proven(newer, catalogue(PUMP)) == {}
    assert proven([reading("pump", NOW, 5.1)], catalogue(PUMP)) == {}


@pytest.mark.parametrize(
    "item",
    [
        None,
        3,
        {},
        {"id": "7"},
        {"id": 7, "lastReading": 5},
        {"id": 7, "lastReading": {"value": "x", "readingDate": "y"}},
    ],
)
def test_a_strange_meter_is_no_crash(item: object) -> None:
    meter = to_meter(item)
    assert meter is None or (meter.last_at is None and meter.last_value is None)


def test_times_go_round() -> None:
    assert to_time(to_text(NOW)) == NOW


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "https://user:x@example.com",
        "ftp://example.com",
        "https://",
        "https://example.com/?a=1",
    ],
)
def test_the_key_never_travels_in_clear_or_to_a_strange_address(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        MaintainXSettings(base_url=url)


@pytest.fixture
async def cmms() -> AsyncIterator[DemoCmms]:
    async with DemoCmms(
        meters=["pump-1 temperature", *(f"filler-{number}" for number in range(250)), "pump-2 temperature"]
    ) as running:
        yield running


@pytest.fixture
async def connector(cmms: DemoCmms) -> AsyncIterator[MaintainXConnector]:
    built = build(cmms)
    yield built
    await built.close()


def build(cmms: DemoCmms, *, api_key: str | None = None) -> MaintainXConnector:
    return MaintainXConnector(
        ConnectorSettings(
            connection="c",
            hosting="cloud",
            settings={"base_url": cmms.url},
            credentials={"api_key": api_key or cmms.api_key},
            timeout_seconds=1,
        )
    )


async def test_names_are_found_on_any_page_and_listed_once(
    cmms: DemoCmms, connector: MaintainXConnector
) -> None:
    for second in range(3):
        batch = make_batch(
            "c", [reading(f"pump-{number} temperature", NOW + timedelta(seconds=second)) for number in (1, 2)]
        )
        assert await connector.push(batch) == [Accepted(), Accepted()]
    assert cmms.requests["GET /meters 200"] == 3  # the clock, and two pages


async def test_every_meter_is_listed_as_what_leads_to_it(
    cmms: DemoCmms, connector: MaintainXConnector
) -> None:
    """A name of digits is taken for an id, which another meter has."""
    first = min(cmms.meters)
    named = {name: cmms.add_meter(name) for name in (str(first), "4711", "twice")}
    again = cmms.add_meter("twice")
    listed = [meter.meter async for meter in connector.meters()]
    assert len(listed) == len(set(listed)) == len(cmms.meters)
    assert {str(number) for number in (*named.values(), again)} <= set(listed)
    wanted = str(named[str(first)])
    assert await connector.push(make_batch("c", [reading(wanted, NOW)])) == [Accepted()]
    assert [number for number, meter in cmms.meters.items() if meter.readings] == [named[str(first)]]


async def test_an_unknown_meter_is_remembered(cmms: DemoCmms, connector: MaintainXConnector) -> None:
    for second in range(3):
        batch = make_batch(
            "c",
            [
                reading("999", NOW + timedelta(seconds=second)),
                reading("1001", NOW + timedelta(seconds=second)),
            ],
        )
        assert [type(outcome) for outcome in await connector.push(batch)] == [Accepted, Rejected]
    assert cmms.requests["POST /meterreadings 404"] == 2
    assert cmms.state()["repeats"] == 0


async def test_the_fourth_day_is_refused_without_asking(
    cmms: DemoCmms, connector: MaintainXConnector
) -> None:
    (outcome,) = await connector.push(make_batch("c", [reading("1001", NOW - timedelta(days=4))]))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "older_than_max_backfill"
    assert not any(route.startswith("POST") for route in cmms.requests)


async def test_the_limit_is_met_by_header_before_the_system_has_to_refuse(
    cmms: DemoCmms, connector: MaintainXConnector
) -> None:
    cmms.switches.rate_limit = 3
    for second in range(2):  # the first one also asks for the system's time
        await connector.push(make_batch("c", [reading("1001", NOW + timedelta(seconds=second))]))
    with pytest.raises(RateLimited) as caught:
        await connector.push(make_batch("c", [reading("1001", NOW + timedelta(seconds=3))]))
    assert 0 < caught.value.retry_after <= 60
    assert sum(cmms.requests.values()) == 3
    assert not any("429" in route for route in cmms.requests)


async def test_connections_with_one_key_share_its_limit(
    cmms: DemoCmms, connector: MaintainXConnector
) -> None:
    cmms.switches.rate_limit = 1
    await connector.probe()
    other = build(cmms)
    with pytest.raises(RateLimited):
        await other.probe()
    await other.close()
    assert sum(cmms.requests.values()) == 1


async def test_a_lost_answer_is_found_again(cmms: DemoCmms, connector: MaintainXConnector) -> None:
    await connector.probe()
    batch = make_batch(
        "c", [reading("1001", NOW + timedelta(seconds=second), float(second)) for second in range(3)]
    )
    cmms.switches.slow_seconds = 1.5
    with pytest.raises(OutcomeUnknown):
        await connector.push(batch)
    cmms.switches.slow_seconds = 0
    found = await connector.find(batch.readings)
    while not found:  # the slow call is served after the client has left
        found = await connector.find(batch.readings)
    assert set(found) == {item.key for item in batch.readings}
    assert cmms.state()["readings"] == 3


async def test_a_revoked_key_is_refused_and_never_repeated_in_an_error(cmms: DemoCmms) -> None:
    connector = build(cmms, api_key="a-very-secret-key")
    with pytest.raises(AuthRefused) as caught:
        await connector.probe()
    assert "a-very-secret-key" not in str(caught.value)
    assert caught.value.request_id == "demo-1"
    await connector.close()


async def test_a_wrong_address_blames_no_meter(cmms: DemoCmms) -> None:
    connector = MaintainXConnector(
        ConnectorSettings(
            connection="c",
            hosting="cloud",
            settings={"base_url": cmms.url + "/v9"},
            credentials={"api_key": cmms.api_key},
            timeout_seconds=1,
        )
    )
    with pytest.raises(BadConfiguration):
        await connector.push(make_batch("c", [reading("1001", NOW)]))
    await connector.close()


async def test_the_switches_of_the_demonstration_are_checked(cmms: DemoCmms) -> None:
    async with httpx.AsyncClient(timeout=10 * PATIENCE) as client:
        assert (
            await client.post(cmms.control_url, json={"answer_500": True, "slow_seconds": 0})
        ).status_code == 200
        assert cmms.switches.answer_500
        faults: tuple[object, ...] = (
            {"explode": True},
            {"answer_500": 1},
            {"slow_seconds": "2"},
            [],
            {"slow_seconds": True},
        )
        for wrong in faults:
            assert (await client.post(cmms.control_url, json=wrong)).status_code == 400
        assert (await client.get(f"{cmms.control_url}/state")).json()["readings"] == 0


AT = datetime(2026, 11, 2, 10, tzinfo=UTC)


class Pages:
    """GET /workorders by cursor, as they are answered now."""

    def __init__(self, pages: dict[str | None, tuple[list[datetime], str | None]]) -> None:
        self.pages = pages
        self.asked: list[str | None] = []

    async def __call__(self, operation: str, method: str, path: str, **_: object) -> Answer:
        cursor = parse_qs(path.partition("?")[2]).get("cursor", [None])[0]
        self.asked.append(cursor)
        times, following = self.pages[cursor]
        rows = [{"id": int(at.timestamp()), "updatedAt": at.isoformat()} for at in times]
        document = {"workOrders": rows, "nextCursor": following}
        return Answer(status=200, headers={}, body=b"", json=document, request_id=None)


async def test_a_mark_that_does_not_begin_behind_the_interval_is_not_believed() -> None:
    """A walk of the past begins at a page that was seen before, unless that page has
    moved into the interval.
    """
    second = timedelta(seconds=1)
    times = [AT - number * second for number in range(8)]
    pages = Pages(
        {None: (times[:2], "a"), "a": (times[2:4], "b"), "b": (times[4:6], "c"), "c": (times[6:], None)}
    )
    reader = MaintainXReader(pages, lambda _: "")
    cursor: str | None = None
    while True:
        page = await reader.pull("work_orders", times[7], AT + second, cursor)
        cursor = page.cursor
        if cursor is None:
            break
    assert pages.asked == [None, "a", "b", "c"]
    pages.asked.clear()
    page = await reader.pull("work_orders", times[7], times[5], None)
    assert pages.asked == ["b"], "not from today on"
    pages.pages["b"] = (times[6:8], None)  # the list moved up under the cursor
    pages.asked.clear()
    page = await reader.pull("work_orders", times[7], times[5], None)
    assert pages.asked == ["b", None], "the page begins in the interval: what stood before it would be missed"
    assert page.cursor == "a"
