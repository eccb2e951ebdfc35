"""The inbound half of the contract suite: what the engine counts on when it reads a stream. One suite for
every connector; a harness lists the rules that its system is exempt from, with the reason, and the test's id
says so.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from connectors.registry import SYSTEMS
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    CursorExpired,
    RateLimited,
    Unavailable,
)
from gateway.model.inbound import InboundRecord, InboundStream, ListsKeys, ListsOpen, ReadsRecords
from tests.contract.faults import BOMB, Reply, answer, cut_mid_body
from tests.contract.harness import Calls
from tests.contract.inbound_harness import (
    BERLIN,
    HTTP_RULES,
    INBOUND,
    NODE_SERVED,
    PAGE,
    HttpJsonOffsetInbound,
    HttpJsonOrderedInbound,
    HttpJsonPageInbound,
    MaintainXInbound,
)
from tests.contract.list_server import ListServer
from tests.contract.sap_harness import need_node
from tests.contract.test_contract import label
from tests.fixtures.unreliable import Unreliable

SECOND = timedelta(seconds=1)
MAX_PAGES = 400
# Each rule, and what it is for.
RULES = {
    "declared": (
        "the manifest or the settings declare the stream, with a body for people where the system is one"
    ),
    "equal_times": "pages of records of one time leave none out",
    "bounds": "an interval has its begin and not its end",
    "empty": "an interval without changes costs one request",
    "change_while_walked": "what changes while it is walked costs no other record its place",
    "moved_is_noticed": "a list that can only count says that it moved, and loses nothing in silence",
    "out_of_order": "a list that does not keep to its order, or counts too few, loses nothing in silence",
    "expired_cursor": "a cursor that the system does not know is CursorExpired, in whatever words it says so",
    "gone": "410 behind the first page is CursorExpired",
    "unauthorized": "401 in mid-walk is AuthRefused, and the same page can be asked again",
    "rate_limited": "429 in mid-walk is RateLimited with its time",
    "cut": "an answer that is cut is Unavailable",
    "web_page": "HTML instead of JSON is no empty page",
    "gzip_bomb": "an answer is bounded",
    "hostile": "odd texts are read as they are, and every key can be stored and shown",
    "deletion": "what was removed is missing from the keys, or from the list",
    "tombstone": "what was deleted is read as deleted",
    "open": "what is still open is listed, however old",
    "reference": "our reference of what was raised is read where the settings say that it is",
    "clock": "the clock is the system's, not ours",
    "naive_times": "around a turn of the clock nothing is missed, and no time is invented",
    "unknown_stream": "a stream that is not there is named",
}
Harness = Any


def cases(*rules: str) -> list[object]:
    """(harness, rule), skipped for the harness's reason."""
    assert set(rules) <= RULES.keys()
    parameters: list[object] = []
    for harness in INBOUND:
        for rule in rules:
            reason = harness.exempt.get(rule) or _not_asked_for(harness, rule)
            marks = [pytest.mark.skip(reason=f"exempt: {reason}")] if reason else []
            name = f"{label(harness)}-{harness.stream}-{rule}" + (f"-exempt: {reason}" if reason else "")
            parameters.append(pytest.param(harness, rule, marks=marks, id=name))
    return parameters


def _not_asked_for(harness: Any, rule: str) -> str | None:
    """What follows from how the harness is made, not from its system."""
    if rule == "moved_is_noticed" and getattr(harness, "kind", "") not in ("offset", "page"):
        return "its pages follow records or links"
    if rule == "moved_is_noticed" and harness.variant == "ordered":
        return "its pages follow times"
    if rule == "reference" and not getattr(harness, "reads_reference", False):
        return "it has no such setting; what it raises is in test_inbound_raised.py"
    if rule == "tombstone" and not hasattr(harness, "phase"):
        return "nothing of it is marked as deleted"
    return None


@pytest.fixture
async def harness(
    request: pytest.FixtureRequest, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    if request.param in NODE_SERVED:
        need_node(request)
    started = request.param()
    zone = BERLIN if "naive_times" in request.node.name else "UTC"
    async with started.running(contract_dsn, monkeypatch, zone):
        yield started


@pytest.fixture
async def connector(harness: Harness) -> AsyncIterator[Any]:
    built = harness.connector()
    yield built
    await built.close()


def rule(*rules: str) -> Any:
    return pytest.mark.parametrize(("harness", "rule"), cases(*rules), indirect=["harness"])


def base() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)


def declared(connector: Any, name: str) -> InboundStream:
    return next(stream for stream in connector.inbound if stream.name == name)


async def walked(connector: Any, stream: str, since: datetime | None, until: datetime) -> list[InboundRecord]:
    """Every record of an interval."""
    records: list[InboundRecord] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await connector.pull(stream, since, until, cursor)
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records
    raise AssertionError("the pages do not end")


async def all_keys(connector: Any, stream: str) -> list[str]:
    keys: list[str] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await connector.keys(stream, cursor)
        keys += page.keys
        cursor = page.cursor
        if cursor is None:
            return keys
    raise AssertionError("the keys do not end")


def numbers(harness: Harness, records: list[InboundRecord]) -> set[int]:
    return {harness.number_of(record) for record in records}


@rule("declared")
async def test_the_stream_is_declared(harness: Harness, connector: Any, rule: str) -> None:
    assert isinstance(connector, ReadsRecords)
    stream = declared(connector, harness.stream)
    manifest = {named.name: named for named in SYSTEMS[harness.system].manifest.streams}
    assert stream.title and stream.page >= 1 and stream.key
    assert stream.name in manifest or harness.system in ("http_json", "odata", "postgres")
    assert stream.name not in manifest or stream.example
    assert isinstance(connector, ListsKeys) or stream.deletions != "keys"
    assert isinstance(connector, ListsOpen) or not stream.lists_open


@rule("equal_times")
async def test_pages_of_equal_times_leave_none_out(harness: Harness, connector: Any, rule: str) -> None:
    at = base()
    for number in range(3 * PAGE + 2):
        await harness.put(number, at)
    for number in range(3 * PAGE + 2, 4 * PAGE):
        await harness.put(number, at + SECOND)
    records = await walked(connector, harness.stream, at, at + 2 * SECOND)
    assert numbers(harness, records) == set(range(4 * PAGE))
    assert all(record.modified_at in (at, at + SECOND) for record in records)
    again = await walked(connector, harness.stream, None, at + SECOND)
    assert numbers(harness, again) == set(range(3 * PAGE + 2)), "the same from the beginning"
    assert max(Counter(record.key for record in records).values()) <= 2


@rule("bounds")
async def test_an_interval_has_its_begin_and_not_its_end(harness: Harness, connector: Any, rule: str) -> None:
    at = base()
    for number in range(5):
        await harness.put(number, at + number * SECOND)
    assert numbers(harness, await walked(connector, harness.stream, at + SECOND, at + 3 * SECOND)) == {1, 2}
    half = timedelta(milliseconds=500)
    found = numbers(harness, await walked(connector, harness.stream, at + SECOND + half, at + 4 * SECOND))
    assert {2, 3} <= found <= {1, 2, 3}, "a bound between two seconds misses nothing"


@rule("empty")
async def test_an_empty_interval_costs_one_request(harness: Harness, rule: str) -> None:
    at = base()
    await harness.put(1, at)
    calls = Calls()
    connector = harness.connector(calls=calls)
    assert await walked(connector, harness.stream, at + SECOND, at + 2 * SECOND) == []
    assert len(calls.seen) == 1, calls.seen
    await connector.close()


@rule("change_while_walked")
async def test_what_changes_while_it_is_walked_costs_no_other_its_place(
    harness: Harness, connector: Any, rule: str
) -> None:
    at = base()
    count, until = 4 * PAGE, base() + 600 * SECOND
    for number in range(count):
        await harness.put(number, at + number * SECOND)
    first = await connector.pull(harness.stream, at, until)
    assert first.cursor is not None
    changed = {0, 1, PAGE + 1, count - 1, count - 2}
    for number in changed:
        await harness.put(number, until + number * SECOND, "changed")
    records = list(first.records)
    cursor = first.cursor
    while cursor is not None:
        page = await connector.pull(harness.stream, at, until, cursor)
        records += page.records
        cursor = page.cursor
    assert set(range(count)) - changed <= numbers(harness, records)
    later = await walked(connector, harness.stream, until, until + 600 * SECOND)
    assert numbers(harness, later) == changed, "and the next interval has them"


@rule("moved_is_noticed")
async def test_a_list_that_counts_says_that_it_moved(harness: Harness, connector: Any, rule: str) -> None:
    at = base()
    for number in range(4 * PAGE):
        await harness.put(number, at + number * SECOND)
    first = await connector.pull(harness.stream, at, at + 600 * SECOND)
    await harness.remove(2)
    with pytest.raises(CursorExpired):
        await connector.pull(harness.stream, at, at + 600 * SECOND, first.cursor)
    records = await walked(connector, harness.stream, at, at + 600 * SECOND)
    assert numbers(harness, records) == set(range(4 * PAGE)) - {2}


class Lying(Unreliable):
    """Gives every list in another order than the server, and says that there is one record altogether."""

    lied = 0

    async def _forward(self, request: bytes) -> bytes:
        head, _, body = (await super()._forward(request)).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = _whole(body)
            head = re.sub(rb"(?i)\r\ntransfer-encoding: [^\r]*", b"\r\nContent-Length: 0", head)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return head + b"\r\n\r\n" + body
        lied = orjson.dumps(self._lied(document))
        return re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(lied), head) + b"\r\n\r\n" + lied

    def _lied(self, value: Any) -> Any:
        match value:
            case [{}, {}, *_]:
                self.lied += 1
                return [*value[len(value) // 2 :], *value[: len(value) // 2]]
            case {}:
                return {
                    name: 1
                    if name in ("count", "@odata.count")
                    else "1"
                    if name == "__count"
                    else self._lied(each)
                    for name, each in value.items()
                }
            case _:
                return value


def _whole(chunked: bytes) -> bytes:
    body = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        body, chunked = body + rest[:length], rest[length + 2 :] if length else b""
    return body


@rule("out_of_order")
async def test_a_list_that_lies_about_its_order_loses_nothing_in_silence(harness: Harness, rule: str) -> None:
    at = base()
    for number in range(4 * PAGE):
        await harness.put(number, at + number * SECOND)
    async with Lying(harness.address) as proxy:
        connector = harness.connector(url=proxy.url)
        found: set[int] | None = None
        with suppress(Unavailable, BadConfiguration, CursorExpired):  # it says so
            found = numbers(harness, await walked(connector, harness.stream, at, at + 600 * SECOND))
        assert found in (None, set(range(4 * PAGE)))
        assert proxy.lied
        await connector.close()


class Unsorted:
    """A system that gives its records by their names, whatever order it was asked for."""

    @staticmethod
    def maintainx(harness: Any) -> None:
        listed = harness.cmms.workshop.list_orders
        harness.cmms.workshop.list_orders = lambda query: listed(
            [(name, "createdAt" if name == "sort" else value) for name, value in query]
        )

    @staticmethod
    def http_json(harness: Any) -> None:
        harness.server.is_unsorted = True


@pytest.mark.parametrize("kind", [MaintainXInbound, HttpJsonOrderedInbound], ids=["maintainx", "http_json"])
async def test_a_walk_that_goes_by_times_believes_no_list_without_their_order(
    kind: Any, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, at = kind(), base()
    async with harness.running(contract_dsn, monkeypatch):
        for number in range(6 * PAGE):
            await harness.put(number + 1, at + number * SECOND)
        for number in range(
            0, 6 * PAGE, 3
        ):  # of the first names some changed last, and of the last some first
            await harness.put(number + 1, at + (1000 - 7 * number) * SECOND)
        getattr(Unsorted, harness.system)(harness)
        connector = harness.connector()
        wanted, found = {n + 1 for n in range(6 * PAGE) if n % 3 == 0}, None
        with suppress(BadConfiguration):  # it says so
            since, until = at + 500 * SECOND, at + 2000 * SECOND
            found = numbers(harness, await walked(connector, harness.stream, since, until))
        assert found in (None, wanted)
        await connector.close()


@pytest.mark.parametrize("kind", [HttpJsonOffsetInbound, HttpJsonPageInbound], ids=["offset", "page"])
async def test_a_total_that_is_too_small_ends_no_walk(
    kind: Any, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, at = kind(), base()
    monkeypatch.setattr(kind, "more", {"total": "count"})
    async with harness.running(contract_dsn, monkeypatch):
        for number in range(4 * PAGE):
            await harness.put(number, at + number * SECOND)
        told = ListServer._answer

        def too_few(self: ListServer, query: dict[str, str]) -> Any:
            status, document, headers = told(self, query)
            return status, {**document, "count": 1}, headers

        monkeypatch.setattr(ListServer, "_answer", too_few)
        connector = harness.connector()
        found = numbers(harness, await walked(connector, harness.stream, at, at + 600 * SECOND))
        assert found == set(range(4 * PAGE))
        await connector.close()


@rule("expired_cursor")
async def test_a_cursor_that_nobody_knows_has_expired(harness: Harness, connector: Any, rule: str) -> None:
    at = base()
    for number in range(2 * PAGE):
        await harness.put(number, at)
    for cursor in ("no such cursor", "{}x", "[]"):
        with pytest.raises(CursorExpired):
            await connector.pull(harness.stream, at, at + SECOND, cursor)
    if hasattr(harness, "server"):  # a cursor of ours that the list has forgotten
        page = await connector.pull(harness.stream, at, at + SECOND)
        harness.server.generation += 1
        if harness.kind in ("next", "header", "cursor"):
            with pytest.raises(CursorExpired):
                await connector.pull(harness.stream, at, at + SECOND, page.cursor)
        assert numbers(harness, await walked(connector, harness.stream, at, at + SECOND)) == set(
            range(2 * PAGE)
        )


FAULTS: dict[str, tuple[Reply, type[ConnectorError] | tuple[type[ConnectorError], ...]]] = {
    "gone": (answer("410 Gone", b'{"error": {"code": "x", "message": "expired"}}'), CursorExpired),
    "unauthorized": (answer("401 Unauthorized"), AuthRefused),
    "rate_limited": (answer("429 Too Many Requests", b"{}", headers="Retry-After: 7\r\n"), RateLimited),
    "cut": (cut_mid_body, Unavailable),
    "web_page": (
        answer("200 OK", b"<!doctype html><title>Maintenance</title>", content_type="text/html"),
        Unavailable,
    ),
    "gzip_bomb": (answer("200 OK", BOMB, headers="Content-Encoding: gzip\r\n"), Unavailable),
}
assert set(FAULTS) == set(HTTP_RULES)


class Interrupted(Unreliable):
    """Answers the request behind the first `skip` with `reply` until that is None."""

    reply: Reply | None = None

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        if self.reply is None:
            await super()._answer(request, writer)
        else:
            await self.reply(writer)


@rule(*HTTP_RULES)
async def test_a_fault_in_mid_walk_is_its_error_and_the_page_can_be_asked_again(
    harness: Harness, rule: str
) -> None:
    at = base()
    for number in range(3 * PAGE):
        await harness.put(number, at)
    reply, expected = FAULTS[rule]
    async with Interrupted(harness.address) as proxy:
        connector = harness.connector(url=proxy.url)
        first = await connector.pull(harness.stream, at, at + SECOND)
        proxy.reply = reply
        with pytest.raises(ConnectorError) as caught:
            await connector.pull(harness.stream, at, at + SECOND, first.cursor)
        assert isinstance(caught.value, expected), repr(caught.value)
        assert (rule == "gone") == isinstance(caught.value, CursorExpired), repr(caught.value)
        if isinstance(caught.value, RateLimited):
            assert caught.value.retry_after == 7
        proxy.reply = None
        if hasattr(connector, "_limiter"):
            connector._limiter.close_for(0)
        records, cursor = list(first.records), first.cursor
        while cursor is not None and rule != "rate_limited":
            page = await connector.pull(harness.stream, at, at + SECOND, cursor)
            records += page.records
            cursor = page.cursor
        assert rule == "rate_limited" or numbers(harness, records) == set(range(3 * PAGE))
        await connector.close()


HOSTILE = (
    "",
    "a'b\"c",
    "'; drop table x; --",
    "</d>",
    "\u202e\ufeff",
    "x" * 40,
    "ж" * 40,
    "{since}",
    "%27%0d%0a",
    "\u0000",
)


@rule("hostile")
async def test_odd_texts_are_read_as_they_are(harness: Harness, connector: Any, rule: str) -> None:
    at, sent = base(), 0
    for text in HOSTILE:
        if "\0" in text and harness.system in ("postgres", "tryton"):
            continue  # their databases hold none
        await harness.put(sent, at, text or " ")
        sent += 1
    records = await walked(connector, harness.stream, at, at + SECOND)
    assert numbers(harness, records) == set(range(sent))
    for record in records:
        assert record.key.isprintable() and 0 < len(record.key) <= 200
        assert orjson.loads(orjson.dumps(record.body)) == record.body
        assert isinstance(record.body, dict)


@rule("deletion")
async def test_what_was_removed_is_missing_from_the_keys(harness: Harness, connector: Any, rule: str) -> None:
    at = base() - timedelta(days=400)
    if harness.system.startswith("sap"):
        at = base()
    for number in range(3 * PAGE):
        await harness.put(number, at)
    records = await walked(connector, harness.stream, at, at + SECOND)
    by_number = {harness.number_of(record): record.key for record in records}
    await harness.remove(PAGE)
    assert set(await all_keys(connector, harness.stream)) == set(by_number.values()) - {by_number[PAGE]}


@rule("tombstone")
async def test_what_was_deleted_is_read_as_deleted(harness: Harness, connector: Any, rule: str) -> None:
    at = base()
    for number in range(3):
        await harness.put(number, at)
    await harness.phase(1, "5")
    await harness.phase(2, "3")
    records = {
        harness.number_of(record): record
        for record in await walked(connector, harness.stream, at, at + SECOND)
    }
    assert {number: record.is_deleted for number, record in records.items()} == {0: False, 1: True, 2: False}
    assert {number: record.progress for number, record in records.items()} == {
        0: "open",
        1: "closed",
        2: "acknowledged",
    }


@rule("open")
async def test_what_is_open_is_listed_however_old(harness: Harness, connector: Any, rule: str) -> None:
    if not declared(connector, harness.stream).lists_open:
        pytest.skip("exempt: nothing of it is open or closed")
    at = base() - timedelta(days=400)
    for number in range(3 * PAGE):
        await harness.put(number, at)
    found: list[InboundRecord] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await connector.pull_open(harness.stream, cursor)
        found += page.records
        cursor = page.cursor
        if cursor is None:
            break
    everything = set(range(3 * PAGE))
    odd = {number for number in everything if number % 2}
    assert numbers(harness, found) == (odd if getattr(harness, "odd_are_open", False) else everything)
    assert all(record.progress in ("open", None) for record in found)


@rule("reference")
async def test_our_reference_is_read_where_the_settings_say_that_it_is(
    harness: Harness, connector: Any, rule: str
) -> None:
    at = base()
    await harness.put(1, at, "J4ZP6QH2K7M3N5R8T1VX")
    await harness.put(2, at, "")
    found = {
        harness.number_of(each): each.reference
        for each in await walked(connector, harness.stream, at, at + SECOND)
    }
    assert found == {1: "J4ZP6QH2K7M3N5R8T1VX", 2: None}


@rule("clock")
@pytest.mark.parametrize("ahead", [timedelta(minutes=10), -timedelta(minutes=10)])
async def test_the_clock_is_the_systems(harness: Harness, rule: str, ahead: timedelta) -> None:
    if harness.system == "postgres":
        pytest.skip("the machine's clock is its server's; what it adds is in test_inbound_postgres.py")
    if harness.system in ("maintainx", "odata"):
        proxied = _Shifted(harness.address, ahead)
        async with proxied as proxy:
            await _has_clock(harness.connector(url=proxy.url), harness.stream, ahead)
        return
    if hasattr(harness, "rules"):
        harness.rules.ahead = ahead
    else:
        harness.server.ahead = ahead
    await _has_clock(harness.connector(), harness.stream, ahead)


async def _has_clock(connector: Any, stream: str, ahead: timedelta) -> None:
    now = await connector.remote_now(stream)
    assert now.utcoffset() == timedelta(0)
    off = now - (datetime.now(UTC) + ahead)
    assert -timedelta(seconds=5) < off <= timedelta(seconds=1), off
    await connector.close()


class _Shifted(Unreliable):
    """The same server with another clock."""

    def __init__(self, url: str, ahead: timedelta) -> None:
        super().__init__(url)
        self.ahead = ahead

    async def _forward(self, request: bytes) -> bytes:
        answered = re.sub(rb"(?i)\r\ndate: [^\r]*", b"", await super()._forward(request))
        now = format_datetime(datetime.now(UTC) + self.ahead, usegmt=True)
        return answered.replace(b"\r\n", f"\r\nDate: {now}\r\n".encode(), 1)


@rule("naive_times")
@pytest.mark.parametrize(
    "turn", [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)]
)
async def test_around_a_turn_of_the_clock_nothing_is_missed(
    harness: Harness, connector: Any, rule: str, turn: datetime
) -> None:
    """Every half hour of six, asked for in intervals of a quarter of an hour: each is in the interval of its
    true time, or of the hour that the clock cannot tell from it, and a time that the clock cannot tell is
    none.
    """
    step = timedelta(minutes=30)
    times = {number: turn - timedelta(hours=3) + number * step + timedelta(minutes=7) for number in range(12)}
    for number, at in times.items():
        await harness.put(number, at)
    shown = {number: at.astimezone(ZoneInfo(BERLIN)).replace(tzinfo=None) for number, at in times.items()}
    moved = 0
    for number, at in times.items():
        begin = at - timedelta(minutes=7)
        records = await walked(connector, harness.stream, begin, begin + timedelta(minutes=15))
        found = {harness.number_of(record): record for record in records}
        twins = {other for other, wall in shown.items() if wall == shown[number]}
        if harness.stream == "measurement_documents":
            # Fieldgate itself writes the doubled hour at half pace: each stands at most half an hour beside.
            moved += number not in found
            continue
        assert number in found, (at, "missed")
        known = found[number].modified_at
        assert known == at if len(twins) == 1 else known is None
        near = {other for other in found if abs(times[other] - at) <= timedelta(hours=1, minutes=15)}
        assert set(found) == near
    assert moved <= 4
    everything = await walked(connector, harness.stream, turn - timedelta(hours=3), turn + timedelta(hours=4))
    assert numbers(harness, everything) == set(times)


@rule("unknown_stream")
async def test_a_stream_that_is_not_there_is_named(harness: Harness, connector: Any, rule: str) -> None:
    for call in (connector.pull("no_such", None, base()), connector.remote_now("no_such")):
        with pytest.raises(BadConfiguration, match="no_such"):
            await call


def test_every_connector_is_in_the_suite() -> None:
    assert {harness.system for harness in INBOUND} == set(SYSTEMS)
    for harness in INBOUND:
        assert set(harness.exempt) <= RULES.keys(), harness.exempt


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_manifests_streams_are_whole(name: str) -> None:
    manifest = SYSTEMS[name].manifest
    names = [stream.name for stream in manifest.streams]
    assert len(names) == len(set(names))
    for stream in manifest.streams:
        assert stream.example and stream.title
        assert (stream.cursor == "listing") == (stream.deletions == "listing")
        assert stream.lookback > timedelta(0) or stream.cursor != "modified"
    assert all(stream is None or stream in names for stream in manifest.raises.values())
    assert bool(manifest.raises) == manifest.capabilities.can_raise_event
