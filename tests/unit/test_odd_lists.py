"""What a list of a system may say that nobody can store or send: each is that stream's failure, by name, or
is brought within bounds, and never a fault of our own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.http_json.records import Lists, parameters
from connectors.http_json.streams import ListStream
from connectors.kit.answer import Answer
from connectors.kit.inbound import key_of, pack, text_of, unpack
from connectors.kit.json_text import parse_json, write_json
from connectors.kit.odata.batch import read_json
from connectors.odata.records import Sets
from connectors.odata.settings import SetStream as ODataStream
from connectors.tryton import records as tryton
from connectors.tryton.mapping import whole
from gateway.connections.guard import guarded
from gateway.model.connector import Capabilities
from gateway.model.errors import BadConfiguration, CursorExpired, Unavailable
from gateway.model.exchange import RemoteMeter
from gateway.model.inbound import MAX_CURSOR, InboundPage, InboundRecord, InboundStream, KeyPage
from gateway.model.record import keep, topic_level

SINGLE = Capabilities(push="single")
NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
THINGS = InboundStream(name="things", title="Things", cursor="modified", deletions="tombstones")
OPENED = replace(THINGS, name="opened", lists_open=True, deletions="keys")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**20, 10**290)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
)


@dataclass
class Odd:
    """A connector whose lists go on at `cursor`, and whose meters are called oddly."""

    cursor: Any = None
    meter: RemoteMeter = field(default_factory=lambda: RemoteMeter(meter="m"))
    capabilities: Capabilities = SINGLE
    inbound = (THINGS, OPENED)

    async def probe(self) -> None: ...

    async def push(self, batch: object) -> None: ...

    async def find(self, readings: object) -> None: ...

    async def close(self) -> None: ...

    async def remote_now(self, stream: str) -> datetime:
        return NOON

    async def pull(self, *_: object) -> InboundPage:
        return InboundPage(records=(), cursor=self.cursor)

    async def pull_open(self, *_: object) -> InboundPage:
        return InboundPage(records=(), cursor=self.cursor)

    async def keys(self, *_: object) -> KeyPage:
        return KeyPage(keys=("a",), cursor=self.cursor)

    async def ensure_meter(self, wanted: RemoteMeter) -> RemoteMeter:
        return self.meter

    async def meters(self) -> Any:
        yield self.meter


def behind_the_guard(connector: object) -> Any:
    return guarded(connector, "acme-1", secrets=(), max_wait_seconds=1.0, left_behind=set())  # type: ignore[arg-type]


@pytest.mark.parametrize("cursor", ["a\0b", "\ud800", "x" * (MAX_CURSOR + 1)])
async def test_a_cursor_that_cannot_be_stored_is_the_systems_and_said(cursor: str) -> None:
    connector = behind_the_guard(Odd(cursor=cursor))
    for asked in (
        connector.pull("things", None, NOON),
        connector.pull_open("opened"),
        connector.keys("opened"),
    ):
        with pytest.raises(Unavailable, match="goes on at a cursor") as raised:
            await asked
        assert raised.value.reference is None


@pytest.mark.parametrize("cursor", ["", 7, b"x"])
async def test_a_cursor_that_is_none_is_the_connectors_fault(cursor: object) -> None:
    with pytest.raises(Unavailable, match="internal error") as raised:
        await behind_the_guard(Odd(cursor=cursor)).pull("things", None, NOON)
    assert raised.value.reference is not None


async def test_what_a_stream_does_not_offer_is_not_asked_for() -> None:
    connector = behind_the_guard(Odd())
    for asked in (connector.pull_open("things"), connector.keys("things")):
        with pytest.raises(BadConfiguration, match="things"):
            await asked
    assert (await connector.keys("opened")).keys == ("a",)
    assert (await connector.pull_open("opened")).records == ()


async def test_the_texts_of_a_meter_can_be_stored() -> None:
    odd = RemoteMeter(meter="m\0", title="a\0\ud800", unit="\0")
    connector = behind_the_guard(Odd(meter=odd))
    (listed,) = [meter async for meter in connector.meters()]
    for meter in (listed, await connector.ensure_meter(odd)):
        assert meter == RemoteMeter(meter="m\ufffd", title="a\ufffd?", unit="\ufffd")
    plain = RemoteMeter(meter="m", title="t")
    assert await behind_the_guard(Odd(meter=plain)).ensure_meter(plain) is plain


@given(JSON)
def test_what_was_read_can_be_written_and_read_again(document: Any) -> None:
    written = write_json(document)
    assert parse_json(written) == document
    assert parse_json(write_json(document, is_sorted=True)) == document
    assert unpack(pack(place=document)) == {"place": document}


@pytest.mark.parametrize("number", [10**19, 10**30, -(10**25)])
def test_integers_beyond_64_bits_are_no_fault_of_a_batch(number: int) -> None:
    """An answer in JSON whose entity has a long integer, after the system took what it was sent."""
    (answer,) = read_json({"responses": [{"id": "1", "status": 201, "body": {"n": number}}]}, expected=1)
    assert answer is not None and answer.status == 201 and parse_json(answer.body) == {"n": number}


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=3))
@pytest.mark.parametrize("letter", ["", "\u6f22", "\U0001f600"])
def test_a_key_of_any_script_names_its_record(letter: str, parts: list[str]) -> None:
    """By bytes: a letter may have four."""
    key = key_of([f"{part}{letter * 150}" for part in parts], {})
    assert keep(InboundRecord(key=key, modified_at=None, body={})).key == key
    whole = letter * 200 or "x"
    assert keep(InboundRecord(key=key_of([whole], {}), modified_at=None, body={})).key


TIMED = {"path": "/things", "modified": "changed", "query": {"s": "{since}", "u": "{until}"}}
CURSORS = [
    {"since": 7}, {"since": "yesterday"}, {"since": ["x"]}, {"seen": "7"}, {"seen": None}, {"at": [1]}, {"first": 7},
    {"keys": {}}, {"last": None}, {"unknown": 1}, {"seen": True},
]  # fmt: skip


@pytest.mark.parametrize("place", CURSORS, ids=lambda place: orjson.dumps(place).decode())
@pytest.mark.parametrize("kind", ["none", "page", "offset", "cursor"])
async def test_a_cursor_of_another_version_begins_the_interval_again(
    kind: str, place: dict[str, object]
) -> None:
    paging = {"kind": kind, **({"parameter": "p"} if kind != "none" else {}), "path": "next"}
    stream = ListStream.model_validate({"path": "/things", "paging": paging})
    lists = Lists(None, "https://cmms.example", {"things": stream})  # type: ignore[arg-type]
    for asked in (
        lists.pull("things", NOON, NOON, orjson.dumps(place).decode()),
        lists.keys("things", orjson.dumps(place).decode()),
    ):
        with pytest.raises(CursorExpired):
            await asked


@pytest.mark.parametrize("since", [7, "yesterday", "2027-03-01T12:00:00", "9999-12-31T23:59:59-14:00", None])
async def test_a_time_of_a_cursor_that_is_none_begins_the_interval_again(since: object) -> None:
    sets = Sets(None, {"things": ODataStream.model_validate({"entity_set": "things"})})  # type: ignore[arg-type]
    lists = Lists(None, "https://cmms.example", {"things": ListStream.model_validate(TIMED)})  # type: ignore[arg-type]
    cursor = pack(since=since)
    for asked in (sets.pull("things", NOON, NOON, cursor), lists.pull("things", NOON, NOON, cursor)):
        with pytest.raises(
            CursorExpired if since is not None else AttributeError
        ):  # nobody is there to be asked
            await asked


@pytest.mark.parametrize(
    "kind", [{"time": "local"}, {"time_format": "%Y-%m-%dT%H:%M:%S%z"}, {}, {"after": True}]
)
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_the_time_of_a_record_that_never_changed_can_be_asked_from(
    kind: dict[str, object], zone: str
) -> None:
    """Some systems write the first day of their calendar."""
    stream = ListStream.model_validate({**TIMED, **kind, "time_zone": zone})
    first = datetime(1, 1, 1, tzinfo=UTC)
    assert parameters(stream, stream.query, (first, NOON)).keys() == {"u"}
    assert parameters(stream, stream.query, (NOON, NOON)).keys() == {"s", "u"}


@pytest.mark.parametrize("text", ["\u00b2", "\u0663", "9" * 5000, "-1", "", "1.0", " 1"])
def test_digits_of_other_scripts_and_without_end_are_no_id(text: str) -> None:
    assert whole(text) is None
    assert tryton.inspection_of({"origin": f"quality.inspection,{text}"}) is None
    with pytest.raises(CursorExpired):
        tryton.held(tryton.STREAMS[tryton.ALERTS], after=text)
    assert whole("4711") == tryton.inspection_of({"origin": "quality.inspection,4711"}) == 4711


class Deaf:
    """Gives its first page whatever is asked, and another word for the next one each time."""

    request_id = None

    def __init__(self, rows: list[object]) -> None:
        self.rows, self.asked = rows, 0

    async def call(self, *_: object, **__: object) -> Any:
        self.asked += 1
        self.json = {"items": self.rows, "next": f"/things?page={self.asked}"}
        self.headers = {"link": f'</things?page={self.asked}>; rel="next"'}
        return self


PAGINGS = (
    {"kind": "cursor", "path": "next", "parameter": "after"},
    {"kind": "next", "path": "next"},
    {"kind": "header"},
)


@pytest.mark.parametrize("paging", PAGINGS, ids=lambda paging: paging["kind"])
@pytest.mark.parametrize("way", ["pull", "pull_open", "keys"])
async def test_a_list_that_hears_no_cursor_is_not_asked_for_ever(paging: dict[str, str], way: str) -> None:
    stream = ListStream.model_validate(
        {
            "path": "/things",
            "modified": "updated",
            "query": {"since": "{since}"},
            "open_query": {"status": "open"},
            "deletions": "keys",
            "paging": paging,
        }
    )
    deaf = Deaf([{"id": number, "updated": "2026-03-01T11:00:00Z"} for number in range(5)])
    lists = Lists(deaf, "https://x.example", {"things": stream})  # type: ignore[arg-type]
    ask: Any = {
        "pull": lambda cursor: lists.pull("things", None, NOON, cursor),
        "pull_open": lambda cursor: lists.pull_open("things", cursor),
        "keys": lambda cursor: lists.keys("things", cursor),
    }[way]
    first = await ask(None)
    assert first.cursor is not None
    with pytest.raises(Unavailable, match="the same page twice"):
        await ask(first.cursor)
    deaf.rows = [{"id": 7, "updated": "2026-03-01T11:30:00Z"}]  # it goes on
    assert (await ask(first.cursor)).cursor is not None


def test_keys_that_differ_only_in_how_a_letter_is_written_name_two_records() -> None:
    composed, apart = key_of(["caf\u00e9"], {}), key_of(["cafe\u0301"], {})
    assert composed != apart and topic_level(composed) != topic_level(apart)


class Service:
    """A set of entities; asked for properties it gives no others."""

    def __init__(self, *rows: dict[str, object]) -> None:
        self._rows = rows

    async def get(self, _: str, query: str, *, page_size: int) -> Answer:
        names = query.partition("$select=")[2].partition("&")[0].split(",")
        asked = [{k: v for k, v in row.items() if names == [""] or k in names} for row in self._rows]
        return Answer(status=200, headers={}, body=b"", json={"value": asked}, request_id=str(page_size))

    def rows(self, answer: Answer, _: str) -> object:
        assert isinstance(answer.json, dict)
        return answer.json["value"]


PART = st.text(max_size=3) | st.integers(0, 3) | st.none()


@given(st.lists(st.tuples(PART, PART, st.integers()), min_size=1, max_size=5))
@example([("A1", "", 1), ("A1", "red", 2)])
@example([("A1", None, 1), ("A1", None, 2), ("A2", "", 3)])
async def test_a_walk_of_keys_meets_every_entity_by_the_name_of_its_record_or_says_that_it_cannot(
    entities: list[tuple[object, object, int]],
) -> None:
    """Else what is there would be taken for deleted; and no two entities are one record."""
    rows: list[dict[str, object]] = [
        {"ItemNo": item, "Variant": variant, "At": "2027-03-01T12:00:00Z", "n": number}
        for item, variant, number in entities
    ]
    stream = ODataStream(entity_set="Items", key=("ItemNo", "Variant"), modified="At")
    sets = Sets(Service(*rows), {"items": stream})  # type: ignore[arg-type]
    whole = all(
        item is not None and variant is not None and f"{item}{variant}" for item, variant, _ in entities
    )
    if any(text_of(part) for item, variant, _ in entities for part in (item, variant)):
        records = (await sets.pull("items", None, NOON, None)).records
        bodies = {json.dumps(record.body, sort_keys=True): record.key for record in records}
        if not whole:
            unnamed = [record.key for record in records if record.key.startswith("~")]
            assert unnamed and len(set(unnamed)) == sum(key.startswith("~") for key in bodies.values())
            with pytest.raises(BadConfiguration, match="deletions cannot be seen"):
                await sets.keys("items", None)
        else:
            assert (await sets.keys("items", None)).keys == [record.key for record in records]
    else:
        with pytest.raises(BadConfiguration, match="no record of Items has"):
            await sets.keys("items", None)
