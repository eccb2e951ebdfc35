"""What SAP S/4HANA and SAP ECC do beyond the contract: sessions, logons, documents that exist, locks, clocks,
points, notifications.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from benchmarks.servers import wait_until
from connectors.kit.odata.service import Service
from connectors.sap_ecc.connector import EccConnector
from connectors.sap_s4hana import connector as s4hana
from connectors.sap_s4hana import reader as s4hana_reader
from connectors.sap_s4hana.connector import S4hanaConnector
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from gateway.model.exchange import EnsuresMeters, EventToRaise, ListsMeters, RaisesEvents, RemoteMeter
from gateway.model.inbound import ReadsRecords
from gateway.model.outcome import Accepted, Duplicate, Rejected, Retry
from gateway.model.reading import Reading, make_batch
from gateway.model.sample import Value
from tests.contract.harness import CONNECTION, Calls, reading, recent
from tests.contract.sap_harness import USER, EccHarness, S4hanaHarness, SapHarness, need_node
from tests.contract.sap_rules import Fault, MeasuringPoint, Message, Receive, Send
from tests.contract.sap_servers import DOCUMENTS_V4

both = pytest.mark.parametrize("harness", [S4hanaHarness, EccHarness], indirect=True, ids=["s4hana", "ecc"])


@pytest.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[SapHarness]:
    kind: type[SapHarness] = getattr(request, "param", S4hanaHarness)
    if kind is EccHarness:
        need_node(request)
    started = kind()
    async with started.running(""):
        yield started


@pytest.fixture
async def with_notifications(request: pytest.FixtureRequest) -> AsyncIterator[S4hanaHarness]:
    need_node(request)
    started = S4hanaHarness()
    async with started.running(""):
        yield started


async def push(harness: SapHarness, *readings: Reading, **options: Any) -> list[object]:
    """With a connector of its own."""
    connector = harness.connector(**options)
    try:
        return list(await connector.push(make_batch(CONNECTION, readings)))
    finally:
        await connector.close()


def batch(count: int, meter: str = "1000") -> list[Reading]:
    return [reading(meter, recent(number), float(number)) for number in range(count)]


# Documents


@both
async def test_each_reading_of_a_batch_has_its_own_fate(harness: SapHarness) -> None:
    harness.rules.points |= {
        "3000": MeasuringPoint(inactive=True),
        "3001": MeasuringPoint(locked=True),
        "3002": MeasuringPoint(counter=True),
    }
    at = recent()
    sent = {
        "good": reading("1000", at, 1.5, "GC"),
        "unknown": reading("999999", at, 1.0),
        "inactive": reading("3000", at, 1.0),
        "locked": reading("3001", at, 1.0),
        "unit": reading("1001", at, 1.0, "BAR"),
        "overflow": reading("1002", at, 1e300),
        "counter": reading("3002", at, 10.0),
        "backwards": reading("3002", recent(60), 9.0),
        "future": reading("1003", datetime.now(UTC), 1.0),
        "same meter": reading("1000", recent(60), 2.5, "GC"),
    }
    names = sorted(sent, key=lambda name: (sent[name].meter, sent[name].window_start))
    outcomes = dict(zip(names, await push(harness, *sent.values()), strict=True))
    kinds = {name: type(outcome).__name__ for name, outcome in outcomes.items()}
    assert kinds == {
        **dict.fromkeys(("good", "counter", "same meter"), "Accepted"),
        **dict.fromkeys(("unknown", "inactive", "unit", "overflow", "backwards"), "Rejected"),
        **dict.fromkeys(("locked", "future"), "Retry"),
    }
    unknown, locked = outcomes["unknown"], outcomes["locked"]
    assert unknown == Rejected(code="IR/POINT_NOT_FOUND", message="Measuring point 999999 does not exist")
    assert isinstance(locked, Retry) and "locked by user SMITH" in locked.message
    assert harness.rules.created == 3


@both
async def test_a_lost_answer_is_unknown_and_sending_again_delivers_nothing_twice(harness: SapHarness) -> None:
    connector = harness.connector()
    harness.front.faults.append(Fault(cut=True, after=True))
    with pytest.raises(OutcomeUnknown):
        await connector.push(make_batch(CONNECTION, batch(10)))
    found = await connector.find(batch(10))
    assert {key: remote.value for key, remote in found.items()} == {
        item.key: item.value for item in batch(10)
    }
    outcomes = await connector.push(make_batch(CONNECTION, batch(12)))
    assert Counter(map(type, outcomes)) == {Duplicate: 10, Accepted: 2}
    numbers = [outcome.remote_id for outcome in outcomes if isinstance(outcome, Accepted | Duplicate)]
    assert len(set(numbers)) == 12 and None not in numbers
    assert harness.rules.created == 12
    await connector.close()


@both
async def test_a_slot_that_holds_another_value_is_said_and_not_taken_for_delivered(
    harness: SapHarness,
) -> None:
    await push(harness, reading("1000", recent(), 1.0))
    (outcome,) = await push(harness, reading("1000", recent(), 2.0))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "IR/TIMESTAMP_DUPREC"
    assert (
        "Document already exists" in outcome.message
        and "SAP holds 1.0 there in document 10000001" in outcome.message
    )


@both
async def test_a_duplicate_is_recognised_whatever_its_code(
    harness: SapHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = harness.rules.take_document

    def numbered(*args: Any, **options: Any) -> object:
        try:
            return taken(*args, **options)
        except Exception as refusal:
            refusal.code = "IR/345"  # type: ignore[attr-defined]
            raise

    monkeypatch.setattr(harness.rules, "take_document", numbered)
    await push(harness, reading("1000", recent(), 1.0))
    for calls, settings, kinds in (
        (Calls(), {}, [Duplicate, Rejected]),
        (Calls(), {"codes": {"IR/345": "refused"}}, [Rejected, Rejected]),
    ):
        outcomes = await push(
            harness, reading("1000", recent(), 1.0), reading("999999", recent(), 1.0), calls=calls, **settings
        )
        assert [type(outcome) for outcome in outcomes] == kinds
        assert Counter(operation for operation, _ in calls.seen) == {
            "csrf": 1,
            "push": 1,
            **({} if settings else {"find": 1}),
        }


@both
async def test_where_saps_word_cannot_be_checked_now_the_reading_waits_and_its_neighbours_do_not(
    harness: SapHarness,
) -> None:
    await push(harness, reading("1000", recent(), 1.0))
    original = harness.front.app

    async def fails_after_this(scope: Message, receive: Receive, send: Send) -> None:
        await original(scope, receive, send)
        if scope["method"] == "POST":
            harness.front.faults.append(Fault(status=503))

    harness.front.app = fails_after_this
    outcomes = await push(harness, reading("1000", recent(), 1.0), reading("1001", recent(), 1.0))
    assert [type(outcome) for outcome in outcomes] == [Retry, Accepted]


async def test_an_answer_that_lists_nothing_is_not_taken_for_a_no(harness: SapHarness) -> None:
    """Else a duplicate under an unknown code would become a dead letter."""
    connector = harness.connector()
    await connector.push(make_batch(CONNECTION, batch(1)))
    original = harness.front.app

    async def lists_nothing(scope: Message, receive: Receive, send: Send) -> None:
        body = (
            b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type:"
            b" application/json\r\n\r\n{}\r\n--b--\r\n"
        )
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"multipart/mixed; boundary=b")],
            }
        )
        await send({"type": "http.response.body", "body": body})

    harness.front.app = lists_nothing
    with pytest.raises(Unavailable, match="lists no documents"):
        await connector.find(batch(1))
    harness.front.app = original
    await connector.close()


@both
async def test_a_warning_beside_a_success_is_kept_for_people(harness: SapHarness) -> None:
    harness.rules.points["1000"].warns_above = 80.0
    connector = harness.connector()
    assert (await connector.probe()).detail == ""
    assert [
        type(outcome)
        for outcome in await connector.push(make_batch(CONNECTION, [reading("1000", recent(), 90.0)]))
    ] == [Accepted]
    detail = (await connector.probe()).detail
    assert detail.startswith("SAP warned: IR/WARNING Reading 90") and detail.endswith(
        "is above the limit of point 1000"
    )
    await connector.close()


@both
async def test_a_system_whose_clock_is_behind_is_waited_for(harness: SapHarness) -> None:
    harness.rules.ahead = recent() - timedelta(minutes=10) - datetime.now(UTC)
    (waiting,) = await push(harness, reading("1000", recent(), 1.0))
    assert isinstance(waiting, Retry)
    left = (recent() + timedelta(seconds=60) - harness.rules.now()).total_seconds()
    assert left - 1 <= waiting.after_seconds <= left + 5
    assert [path for method, path, _ in harness.front.log if method == "POST"] == []
    harness.rules.ahead = timedelta(0)
    assert [type(outcome) for outcome in await push(harness, reading("1000", recent(), 1.0))] == [Accepted]


async def test_sap_s_own_no_to_the_future_is_a_wait(harness: SapHarness) -> None:
    """Its local clock may lag behind the one that stamps its answers."""
    harness.rules.ahead = timedelta(0)
    now = harness.rules.now
    harness.rules.now = lambda: now() - timedelta(minutes=5)  # type: ignore[method-assign]
    connector = harness.connector(future_skew_seconds=0)
    await connector.probe()
    at = now().replace(microsecond=0) - timedelta(minutes=2)
    connector._http._clock = (now(), asyncio.get_running_loop().time())  # type: ignore[attr-defined]
    (outcome,) = await connector.push(make_batch(CONNECTION, [reading("1000", at, 1.0)]))
    assert isinstance(outcome, Retry)
    assert outcome.after_seconds >= 60
    await connector.close()


async def test_the_hour_that_comes_twice_is_delivered_whole_in_order_and_found() -> None:
    started = S4hanaHarness()
    async with started.running("", zone="Europe/Berlin"):
        started.rules.points["3002"] = MeasuringPoint(counter=True)
        begin = datetime(2025, 10, 25, 23, 30, tzinfo=UTC)
        sent = [
            reading("3002", begin + timedelta(minutes=15 * number), float(number)) for number in range(16)
        ]
        connector = started.connector()
        assert {type(outcome) for outcome in await connector.push(make_batch(CONNECTION, sent))} == {Accepted}
        assert [document.value for _, document in sorted(started.rules.documents.items())] == [
            item.value for item in sent
        ]
        assert {key: remote.at for key, remote in (await connector.find(sent)).items()} == {
            item.key: item.window_start for item in sent
        }
        await connector.close()


async def test_what_sap_stopped_before_is_sent_again(harness: SapHarness) -> None:
    original = harness.front.app

    async def without_preference(scope: Message, receive: Receive, send: Send) -> None:
        scope["headers"] = [item for item in scope["headers"] if item[0] != b"prefer"]
        await original(scope, receive, send)

    harness.front.app = without_preference
    sent = [
        reading("1000", recent(), 1.0),
        reading("999999", recent(), 1.0),
        reading("9999990", recent(), 1.0),
    ]
    outcomes = await push(harness, *sent)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Rejected, Retry]


async def test_a_request_too_large_is_for_the_engine_to_halve(harness: SapHarness) -> None:
    harness.front.faults.append(Fault(status=413))
    with pytest.raises(BatchRefused, match="max_items"):
        await push(harness, *batch(3))


async def test_every_answer_of_a_batch_denied_is_about_the_connection_only_if_a_probe_says_so(
    harness: SapHarness,
) -> None:
    """A part's own 401, 403 or 404 must neither block the connection nor be taken for the fate of its
    reading.
    """
    original = harness.front.app

    async def denied(scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await original(scope, receive, send)
        body = b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n\r\n--b--\r\n"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"multipart/mixed; boundary=b")],
            }
        )
        return await send({"type": "http.response.body", "body": body})

    harness.front.app = denied
    (outcome,) = await push(harness, reading("1000", recent(), 1.0))
    assert isinstance(outcome, Retry)
    harness.front.faults.append(Fault(status=403, path="MeasurementDocument", methods=("GET",)))
    with pytest.raises(PermissionDenied):
        await push(harness, reading("1000", recent(), 1.0))


# Sessions and logons


@both
async def test_an_expired_session_is_renewed_and_the_request_replayed_once(harness: SapHarness) -> None:
    connector = harness.connector()
    await connector.push(make_batch(CONNECTION, batch(5)))
    harness.front.sessions.clear()
    outcomes = await asyncio.gather(
        *(connector.push(make_batch(CONNECTION, batch(1, str(1001 + number)))) for number in range(20))
    )
    assert {type(outcome) for part in outcomes for outcome in part} == {Accepted}
    assert harness.rules.created == 25
    tokens = [session.token for session in harness.front.sessions.values() if session.token]
    assert tokens
    assert all(connector._http.clean(f"echo {token}") == "echo ***" for token in tokens)  # type: ignore[attr-defined]
    assert sum(method == "HEAD" for method, _, _ in harness.front.log) <= 8
    await connector.close()


@both
async def test_a_late_answer_that_begins_another_session_is_no_fault(
    harness: SapHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = harness.connector()
    await connector.push(make_batch(CONNECTION, batch(1)))
    harness.front.sessions.clear()
    http, late, fetch = connector._http, asyncio.Event(), Service._fetch_token  # type: ignore[attr-defined]
    handle, posts = http._shared.handle_async_request, []

    async def held(request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await handle(request)
        if request.method == "POST":
            posts.append(response)
            if len(posts) == 1:
                await late.wait()
        return response

    async def fetched(service: Service) -> str:
        token = await fetch(service)
        if not late.is_set():
            given = http.cookies_given
            late.set()
            await wait_until(lambda: http.cookies_given > given, what="the late answer brought its cookie")
        return token

    monkeypatch.setattr(http._shared, "handle_async_request", held)
    monkeypatch.setattr(Service, "_fetch_token", fetched)
    pushes = [connector.push(make_batch(CONNECTION, batch(1, str(1001 + number)))) for number in range(2)]
    outcomes = await asyncio.gather(*pushes)
    assert {type(outcome) for part in outcomes for outcome in part} == {Accepted}
    assert harness.rules.created == 3
    await connector.close()


@both
async def test_a_session_that_never_holds_is_a_configuration_fault(harness: SapHarness) -> None:
    original = harness.front._session

    def forgotten(*args: Any) -> Any:
        harness.front.sessions.clear()
        return original(*args)

    harness.front._session = forgotten  # type: ignore[method-assign]
    with pytest.raises(BadConfiguration, match="cookies"):
        await push(harness, *batch(1))
    assert len([1 for method, _, _ in harness.front.log if method == "POST"]) == 2


async def test_where_head_is_blocked_the_token_comes_with_a_read(harness: SapHarness) -> None:
    harness.front.faults.append(Fault(status=405, path="/", methods=("HEAD",), times=9))
    assert {type(outcome) for outcome in await push(harness, *batch(3))} == {Accepted}


@both
async def test_a_wrong_password_is_sent_twice_at_most_and_the_user_stays_unlocked(
    harness: SapHarness,
) -> None:
    connector = harness.connector(credentials={"username": "MQTTGW", "password": "wrong-password"})
    calls: list[object] = await asyncio.gather(
        *(connector.push(make_batch(CONNECTION, batch(1))) for _ in range(50)), return_exceptions=True
    )  # type: ignore[arg-type]
    calls.append((await asyncio.gather(connector.probe(), return_exceptions=True))[0])
    assert {type(answer) for answer in calls} == {AuthRefused}
    assert not any("wrong-password" in str(answer) for answer in calls)
    assert harness.front.failed_logons == {"MQTTGW": 2}
    assert {type(outcome) for outcome in await push(harness, *batch(1))} == {Accepted}
    await connector.close()


class Gate:
    def __init__(self) -> None:
        self.said: list[str] = []

    def attempt(self, operation: str) -> Gate:
        return self

    async def __aenter__(self) -> Gate:
        if self.said.count("refused") >= 1:
            raise AuthRefused("the engine's gate is closed")
        return self

    async def __aexit__(self, *error: object) -> None:
        self.said.append("left")

    def refused(self) -> None:
        self.said.append("refused")

    def accepted(self) -> None:
        self.said.append("accepted")


async def test_the_engines_gate_stands_before_every_call(harness: SapHarness) -> None:
    gate = Gate()
    await push(harness, *batch(1), gate=gate)
    assert gate.said == ["accepted", "left"] * 2  # the token, the batch
    harness.front.users["MQTTGW"] = "changed"
    for words in ("401", "gate is closed"):
        with pytest.raises(AuthRefused, match=words):
            await push(harness, *batch(1), gate=gate)
    assert gate.said[4:] == ["refused", "left"]


class Tokens:
    def __init__(self, harness: SapHarness, good: int) -> None:
        self.harness, self.good, self.asked = harness, good, 0
        harness.front.tokens = {"access-token-0"}

    async def access_token(self, *, refused: str | None = None) -> str:
        if refused is not None:
            self.asked += 1
            self.harness.front.tokens = {f"access-token-{self.asked}"} if self.asked < self.good else set()
        return f"access-token-{self.asked}"


async def test_401_then_refresh_then_401(harness: SapHarness) -> None:
    tokens = Tokens(harness, good=2)
    connector = harness.connector(credentials={}, token=tokens)
    await connector.push(make_batch(CONNECTION, batch(1)))
    harness.front.tokens = set()
    assert [type(outcome) for outcome in await connector.push(make_batch(CONNECTION, batch(2)))] == [
        Duplicate,
        Accepted,
    ]
    assert tokens.asked == 1
    assert harness.front.authorizations[-1] == "Bearer access-token-1"
    harness.front.tokens = set()
    with pytest.raises(AuthRefused) as caught:
        await connector.push(make_batch(CONNECTION, batch(3)))
    assert tokens.asked == 2
    assert "access-token" not in str(caught.value)
    await connector.close()


async def test_an_oauth_client_without_the_engines_tokens_is_a_configuration_fault(
    harness: SapHarness,
) -> None:
    with pytest.raises(BadConfiguration):
        harness.connector(credentials={"token_url": "https://t", "client_id": "c", "client_secret": "s"})


@both
async def test_client_and_language_are_in_every_query(harness: SapHarness) -> None:
    connector = harness.connector()
    await connector.push(make_batch(CONNECTION, batch(2)))
    await connector.find(batch(2))
    await connector.probe()
    assert all("sap-client=100&sap-language=EN" in query for query in harness.front.queries)
    await connector.close()


# Measuring points


@pytest.fixture
async def plant() -> AsyncIterator[S4hanaHarness]:
    """Twenty points behind a server whose pages hold seven."""

    class Small(S4hanaHarness):
        page_size = 7

    started = Small()
    async with started.running(""):
        for number in range(20):
            started.add_point(
                str(1000 + number),
                MeasuringPointDescription=f"Point {number}",
                MeasuringPointPositionNumber=f"pump-{number}",
                MeasurementRangeUnit="GC",
            )
        started.add_point("1020", MeasuringPointPositionNumber="pump-0")
        started.add_point("1021", MeasuringPointIsInactive=True, MeasuringPointPositionNumber="gone")
        yield started


async def test_measuring_points_are_discovered_page_by_page(plant: S4hanaHarness) -> None:
    connector = plant.connector()
    assert (
        isinstance(connector, ListsMeters)
        and isinstance(connector, EnsuresMeters)
        and isinstance(connector, ReadsRecords)
        and isinstance(connector, RaisesEvents)
    )
    meters = [meter async for meter in connector.meters()]
    assert [meter.meter for meter in meters] == [str(1000 + number) for number in range(21)]
    assert meters[3] == RemoteMeter(meter="1003", title="Point 3", unit="GC")
    assert len([1 for method, _, _ in plant.front.log if method == "GET"]) == 3
    cursor, keys = None, []
    while True:
        page = await connector.pull("measuring_points", None, datetime.now(UTC), cursor)
        keys += [record.key for record in page.records]
        cursor = page.cursor
        if cursor is None:
            break
    assert keys == [str(1000 + number) for number in range(22)]
    await connector.close()


async def test_mappings_by_position_number(plant: S4hanaHarness) -> None:
    calls = Calls()
    connector: Any = plant.connector(calls=calls, meters_by="position")
    sent = [reading(name, recent(), 1.0) for name in ("pump-1", "pump-2", "pump-0", "gone", "x" * 21)]
    batch = make_batch(CONNECTION, sent)
    outcomes = dict(zip((item.meter for item in batch.readings), await connector.push(batch), strict=True))
    codes = {
        meter: outcome.code if isinstance(outcome, Rejected) else type(outcome).__name__
        for meter, outcome in outcomes.items()
    }
    assert codes == {
        "pump-1": "Accepted",
        "pump-2": "Accepted",
        "pump-0": "ambiguous_meter",
        "gone": "unknown_meter",
        "x" * 21: "unknown_meter",
    }
    assert set(plant.rules.held()) == {("1001", recent()), ("1002", recent())}
    assert set(await connector.find(sent)) == {item.key for item in sent[:2]}
    assert Counter(operation for operation, _ in calls.seen)["list_meters"] == 1
    assert {meter.meter async for meter in connector.meters()} == {f"pump-{number}" for number in range(20)}
    await connector.close()


async def test_what_is_found_may_fill_more_than_a_page(plant: S4hanaHarness) -> None:
    connector = plant.connector()
    await connector.push(make_batch(CONNECTION, batch(20)))
    assert len(await connector.find(batch(20))) == 20
    await connector.close()


NEW = {"category": "M", "technical_object_type": "IEQ", "equipment": "10000001"}


async def test_a_point_is_made_once_however_often_and_by_however_many_it_is_asked_for(
    plant: S4hanaHarness,
) -> None:
    connector = plant.connector(meters_by="position", new_measuring_point=NEW)
    assert connector.capabilities.can_create_meter
    wanted = RemoteMeter(meter="fan-1", title="Fan\x00 1 " + "x" * 60, unit="GC")
    made = await asyncio.gather(*(connector.ensure_meter(wanted) for _ in range(5)), return_exceptions=True)  # type: ignore[attr-defined]
    assert made == [RemoteMeter(meter="fan-1", title=("Fan  1 " + "x" * 60)[:40], unit="GC")] * 5
    assert (
        len(
            [
                row
                for row in plant.store.data["MeasuringPoint"]
                if row.get_value("MeasuringPointPositionNumber") == "fan-1"
            ]
        )
        == 1
    )
    assert await connector.ensure_meter(RemoteMeter(meter="pump-0")) == Rejected(  # type: ignore[attr-defined]
        code="ambiguous_meter",
        message="several measuring points have the position number 'pump-0': 1000, 1020",
    )
    await connector.close()


async def test_a_point_that_sap_refuses_is_refused_in_saps_words(plant: S4hanaHarness) -> None:
    connector: Any = plant.connector(meters_by="position", new_measuring_point=NEW)
    plant.front.faults.append(Fault(status=400, path="MeasuringPoint"))
    assert (
        await connector.ensure_meter(RemoteMeter(meter="fan-2")) == Rejected(code="400", message="Injected")
        or plant.front.faults == []
    )
    await connector.close()


async def test_points_are_not_made_without_settings_and_not_by_number(plant: S4hanaHarness) -> None:
    by_position: Any = plant.connector(meters_by="position")
    by_number: Any = plant.connector(new_measuring_point=NEW)
    assert not by_position.capabilities.can_create_meter and not by_number.capabilities.can_create_meter
    with pytest.raises(BadConfiguration, match="new_measuring_point"):
        await by_position.ensure_meter(RemoteMeter(meter="fan-1"))  # type: ignore[attr-defined]
    assert await by_number.ensure_meter(RemoteMeter(meter="1003")) == RemoteMeter(
        meter="1003", title="Point 3", unit="GC"
    )
    missing = await by_number.ensure_meter(RemoteMeter(meter="7777"))  # type: ignore[attr-defined]
    assert isinstance(missing, Rejected)
    await by_position.close()
    await by_number.close()


@pytest.mark.parametrize("harness", [EccHarness], indirect=True, ids=["ecc"])
async def test_ecc_lists_measuring_points_where_the_settings_say_where(harness: SapHarness) -> None:
    connector, without = harness.connector(points={}), harness.connector()
    assert isinstance(connector, EccConnector) and isinstance(without, EccConnector)
    assert [meter async for meter in connector.meters()] == [
        RemoteMeter(meter="1000", title="Pump 1 temperature", unit="GC"),
        RemoteMeter(meter="1001", title="Pump 2 temperature", unit="GC"),
        RemoteMeter(meter="1002"),
    ]
    with pytest.raises(BadConfiguration, match=r"settings\.points"):
        assert [meter async for meter in without.meters()]
    await connector.close()
    await without.close()


# Notifications


def event(
    reference: str = "ALERT-1", title: str = "Pump 1 is hot", text: str = "91 degrees", meter: str = "1000"
) -> EventToRaise:
    return EventToRaise(
        reference=reference, title=title, text=text, meter=meter, at=recent(), severity="high"
    )


async def test_a_notification_is_raised_once_by_its_reference(with_notifications: S4hanaHarness) -> None:
    with_notifications.add_point("1000", Equipment="10000007")
    connector = with_notifications.connector(notification={"planning_plant": "0001"})
    assert isinstance(connector, S4hanaConnector)
    assert await connector.raise_event(event()) == Accepted(remote_id="10000001")
    assert await connector.raise_event(event(title="again")) == Duplicate(remote_id="10000001")
    assert await connector.raise_event(event("ALERT-2", meter="no such")) == Accepted(remote_id="10000002")
    first = with_notifications.rules.notifications[0]
    local = recent().astimezone(with_notifications.rules.zone)
    assert {
        name: first[name]
        for name in (
            "NotificationText",
            "NotificationType",
            "MaintPriority",
            "TechnicalObject",
            "TechObjIsEquipOrFuncnlLoc",
        )
    } == {
        "NotificationText": "Pump 1 is hot",
        "NotificationType": "M2",
        "MaintPriority": "2",
        "TechnicalObject": "10000007",
        "TechObjIsEquipOrFuncnlLoc": "EAMS_EQUI",
    }
    assert (first["MaintenancePlanningPlant"], first["MalfunctionStartTime"]) == (
        "0001",
        f"PT{local:%H}H{local:%M}M{local:%S}S",
    )
    assert first["MaintNotifLongTextForEdit"] == "91 degrees\n1000"
    await connector.close()


async def test_a_lost_answer_to_a_notification_leads_to_one(with_notifications: S4hanaHarness) -> None:
    connector = with_notifications.connector()
    assert isinstance(connector, S4hanaConnector)
    await connector.probe()
    with_notifications.front.faults.append(Fault(cut=True, after=True, path="MaintenanceNotification"))
    with pytest.raises(OutcomeUnknown):
        await connector.raise_event(event())
    assert isinstance(await connector.raise_event(event()), Duplicate)
    assert len(with_notifications.rules.notifications) == 1
    await connector.close()


HOSTILE = (
    "",
    "a\0b",
    "\ud800x",
    "'; drop table x; --",
    "\r\n--batch--\r\n",
    "x" * 5000,
    "ж" * 5000,
    "%27 or 1 eq 1",
    "</d>",
)


async def test_hostile_texts_make_a_notification_or_a_refusal_and_nothing_else(
    with_notifications: S4hanaHarness,
) -> None:
    connector = with_notifications.connector()
    assert isinstance(connector, S4hanaConnector)
    for number, text in enumerate(HOSTILE):
        assert isinstance(await connector.raise_event(event(f"H-{number}", text, text, text)), Accepted)
    for reference in ("", "x" * 21, "a\0b", "\ud800"):
        assert isinstance(await connector.raise_event(event(reference)), Rejected)
    assert await connector.raise_event(event("o hara or 1 eq 1")) == Accepted(
        remote_id=str(10_000_001 + len(HOSTILE))
    )
    assert isinstance(await connector.raise_event(event("o hara or 1 eq 1")), Duplicate)
    refused = with_notifications.connector(notification={"type": "ZZ"})
    assert isinstance(refused, S4hanaConnector)
    assert await refused.raise_event(event("ALERT-9")) == Rejected(
        code="IM/REFUSED", message="Notification type 'ZZ' is not defined"
    )
    await connector.close()
    await refused.close()


async def test_notifications_modified_since_are_read_page_by_page_even_of_one_second(
    with_notifications: S4hanaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s4hana_reader, "PAGE", 3)
    connector = with_notifications.connector()
    assert isinstance(connector, S4hanaConnector)
    base = datetime(2026, 11, 2, 10, tzinfo=UTC)
    for number in range(12):  # four of each second, and the higher the number the earlier
        moment = base + timedelta(seconds=2 - number // 4)
        with_notifications.rules.now = lambda moment=moment: moment  # type: ignore[method-assign,misc]
        await connector.raise_event(event(f"N-{number}"))

    async def pulled(since: datetime | None, until: datetime) -> list[str]:
        cursor, keys = None, []
        for _ in range(20):
            page = await connector.pull("notifications", since, until, cursor)
            keys += [record.key for record in page.records]
            assert all(record.modified_at is not None for record in page.records)
            cursor = page.cursor
            if cursor is None:
                return keys
        raise AssertionError("the pages do not end")

    numbers = [str(10_000_001 + number) for number in (8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3)]
    assert await pulled(None, base + timedelta(hours=1)) == numbers
    assert await pulled(base + timedelta(seconds=1), base + timedelta(seconds=2)) == numbers[4:8]
    assert await pulled(base + timedelta(seconds=3), base + timedelta(hours=1)) == []
    with pytest.raises(BadConfiguration, match="no stream"):
        await connector.pull("orders", None, base)
    await connector.close()


async def test_an_answer_that_lists_nothing_is_no_empty_list(harness: SapHarness) -> None:
    connector = harness.connector()
    assert isinstance(connector, S4hanaConnector)
    harness.front.faults.append(Fault(status=200, path="MeasuringPoint", methods=("GET",)))
    with pytest.raises(Unavailable, match="lists no MeasuringPoint"):
        assert [meter async for meter in connector.meters()]
    await connector.close()


@both
async def test_every_mapped_field_can_be_hostile(harness: SapHarness) -> None:
    texts = ("", "a\0b", "\ufdd0", "'; drop", "\r\n--b--", "x" * 5000, "ж", "%27%0d%0a", "１２３")
    values: tuple[Value, ...] = (1.0, float("nan"), 10**400, "text", True)
    sent = [reading(text, recent(), 1.0) for text in texts]
    sent += [
        reading("1001", recent(60 + number), value, text)
        for number, (value, text) in enumerate((value, text) for value in values for text in texts)
    ]
    good = reading("1000", recent(), 42.0)
    connector = harness.connector()
    try:
        outcomes = list(await connector.push(make_batch(CONNECTION, [*sent, good])))
        assert Counter(map(type, outcomes)) == {
            Rejected: len(sent) - 2,
            Accepted: 3,
        }  # no unit at all is the point's own, for 1.0 and for True
        # the V2 server's parser knows no doubled quote: what a query does with one is proved on the other
        asked = [item for item in sent if "'" not in item.meter or isinstance(harness, S4hanaHarness)]
        found = await connector.find([*asked, good])
        assert found[good.key].value == 42.0
    except ConnectorError as error:
        raise AssertionError("a reading of one meter stopped the others") from error
    finally:
        await connector.close()


def test_the_address_of_the_service_is_saps_own() -> None:
    assert s4hana.DOCUMENTS_PATH == DOCUMENTS_V4
    assert USER["username"] == "MQTTGW"
