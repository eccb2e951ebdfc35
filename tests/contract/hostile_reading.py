"""The reading half of the odd-answer fuzz: what a system answers to lists when all is well, one odd call of
whatever a connector offers for reading, and what must hold of its result.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from gateway.connections import storable
from gateway.model import bounds
from gateway.model.connector import Connector
from gateway.model.errors import BadConfiguration
from gateway.model.exchange import RaisesEvents
from gateway.model.inbound import InboundPage, KeyPage, ListsKeys, ListsOpen, NotesEvents, ReadsRecords
from gateway.model.record import keep
from tests.fixtures import hostile
from tests.fixtures.hostile import TEXTS

AT = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
STAMP = "2026-11-02T09:30:00.000Z"
STORED = [text for text in TEXTS if "\ud800" not in text and "\0" not in text]
"""What comes out of our own database."""

MAX_FOLLOWED = 4
SINCE = (
    None,
    AT,
    AT - timedelta(microseconds=1),
    AT + timedelta(days=1),
    datetime(1971, 1, 1, tzinfo=UTC),
    AT.astimezone(timezone(timedelta(hours=14))),
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
)
UNTIL = (
    AT,
    AT + timedelta(seconds=1),
    AT - timedelta(days=9),
    datetime(2199, 12, 31, tzinfo=UTC),
    datetime(2026, 10, 25, 1, 0, tzinfo=UTC),
)

LISTS: Mapping[str, Mapping[str, object]] = {
    "links": {"path": "/l/links", "paging": {"kind": "next", "path": "next"}, "total": "total"},
    "headers": {"path": "/l/headers", "paging": {"kind": "header"}, "key": ["id", "line"]},
    "cursors": {
        "path": "/l/cursors",
        "paging": {"kind": "cursor", "path": "next", "parameter": "c"},
        "open_query": {"open": True},
        "progress": {"path": "state", "open": ["open"], "closed": ["closed"]},
        "reference": "ref",
    },
    "numbers": {"path": "/l/numbers", "paging": {"kind": "page", "parameter": "p"}, "deletions": "keys"},
    "offsets": {
        "path": "/l/offsets",
        "paging": {"kind": "offset", "parameter": "o"},
        "total": "total",
        "page": 2,
    },
    "ordered": {"path": "/l/ordered", "ordered": True, "page": 2, "after": True},
    "local": {"path": "/l/local", "time": "local", "time_zone": "Europe/Berlin", "deletions": "keys"},
    "epochs": {"path": "/l/epochs", "time": "epoch_milliseconds", "deleted": {"path": "gone"}},
    "pattern": {"path": "/l/pattern", "time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"},
    "whole": {"path": "/l/whole", "modified": None, "query": {}},
}
"""Settings of http_json: a list of every kind of paging and of time."""


def lists() -> dict[str, dict[str, object]]:
    """As `settings.streams`."""
    timed = {"modified": "changed", "query": {"since": "{since}", "until": "{until}", "n": "{page}"}}
    return {name: {**timed, **stream} for name, stream in LISTS.items()}


def list_answer(request: bytes) -> object:
    """A page of one of `LISTS`."""
    address = urlsplit(request.split(b" ", 2)[1].decode("latin-1"))
    asked = parse_qs(address.query)
    place = next(
        (int(asked[name][0]) for name in ("p", "o") if name in asked and asked[name][0].isdigit()), 0
    )
    at: object = {
        "epochs": 1_793_700_000_000,
        "local": "2026-11-02T10:30:00",
        "pattern": "02.11.2026 10:30",
    }.get(address.path.rpartition("/")[2], STAMP)
    rows = [
        {"id": place * 2 + number, "line": number, "changed": at, "state": "open", "ref": "r", "gone": None}
        for number in range(2 if place < 3 else 0)
    ]
    is_more = not ({"c", "l"} & asked.keys())
    following: object = None
    if is_more:
        following = f"{address.path}?l=2" if address.path.endswith("links") else "two"
    return {"items": rows, "next": following, "total": 6}


def order_answer(request: bytes) -> object | None:
    """MaintainX's lists of what is no meter, and its answer to a new work order; None for anything else."""
    line = request.split(b"\r\n", 1)[0]
    following = None if b"cursor=" in line else "two"
    if b"/comments" in line:
        return (
            {"id": 3}
            if line.startswith(b"POST")
            else {"comments": [{"content": "c"}], "nextCursor": following}
        )
    if line.startswith(b"POST /workorders"):
        return {"id": 8}
    kind = "workOrders" if b"/workorders" in line else "assets" if b"/assets" in line else None
    row = {
        "id": 5, "title": "t", "description": "d\n\nFieldgate reference: r", "status": "OPEN", "createdAt": STAMP,
        "updatedAt": STAMP, "deletedAt": None,
    }  # fmt: skip
    return None if kind is None else {kind: [row, {**row, "id": 6}], "nextCursor": following}


def odd_cursor(rng: random.Random, cursor: str | None) -> str:
    """One that no page of ours gave: of another version, cut, or somebody else's."""
    match rng.randrange(3):
        case 0 if cursor:
            place = rng.randrange(len(cursor))
            return (
                cursor[:place]
                + rng.choice(("", "0", '"', "null", "é", "-"))
                + cursor[place + rng.randrange(3) :]
            )
        case 1:
            return rng.choice(STORED[1:])
        case _:
            names = ("since", "at", "first", "last", "keys", "seen", "link", "behind", "number", "key")
            parts = {name: hostile.hostile_json(rng) for name in rng.sample(names, rng.randrange(1, 5))}
            return orjson.dumps(parts).decode()


async def read(connector: Connector, rng: random.Random, asked: Counter[str]) -> None:
    """One odd call of what it offers for reading, counted by its name. Raises AssertionError for a result
    that nobody could store, and what the connector raises.
    """
    assert isinstance(connector, ReadsRecords)
    offered = [
        name
        for name, offer in (("pull_open", ListsOpen), ("keys", ListsKeys), ("note_event", NotesEvents))
        if isinstance(connector, offer)
    ]
    name = rng.choice(["pull", "pull", "pull", "pull", "remote_now", *offered])
    streams = list(connector.inbound)
    if not streams:
        return
    offering = [
        stream.name
        for stream in streams
        if (name != "pull_open" or stream.lists_open) and (name != "keys" or stream.deletions == "keys")
    ]
    if not offering:
        name, offering = "pull", [stream.name for stream in streams]
    stream = rng.choice(offering)
    asked[name] += name in ("remote_now", "note_event")
    match name:
        case "note_event":
            assert isinstance(connector, NotesEvents)
            await connector.note_event(rng.choice(("5", "9", *STORED)), rng.choice(STORED[:20]))
        case "remote_now":
            now = await connector.remote_now(stream)
            assert now.tzinfo is not None and bounds.instant(now) == now
        case _:
            await _walk(connector, name, stream, rng, asked)


async def _walk(connector: Any, name: str, stream: str, rng: random.Random, asked: Counter[str]) -> None:
    """Some pages of one interval, the cursor of the one before now and then replaced."""
    if rng.random() < 0.02:
        with pytest.raises(BadConfiguration, match="has no stream 'none'"):
            await connector.pull("none", None, AT)
        return
    within = (rng.choice(SINCE), rng.choice(UNTIL))
    cursor = odd_cursor(rng, None) if rng.random() < 0.1 else None
    for _ in range(MAX_FOLLOWED):
        asked[name] += 1
        if name == "pull":
            page = await connector.pull(stream, *within, cursor)
        else:
            page = await getattr(connector, name)(stream, cursor)
        await looked_at(connector, stream, page)
        cursor = page.cursor
        if cursor is None:
            return
        if rng.random() < 0.15:
            cursor = odd_cursor(rng, cursor)


async def looked_at(connector: ReadsRecords, stream: str, page: object) -> None:
    """Whether the engine can store it: by its own guard, and by what is kept of each record."""
    if isinstance(page, KeyPage):
        assert storable.page_of_keys(page, stream).keys == page.keys
        names = page.keys
    else:
        assert isinstance(page, InboundPage)
        declared = next(each.page for each in connector.inbound if each.name == stream)
        guarded = await storable.page_of_records(page, stream, most=declared)
        assert guarded.records == page.records
        names = [keep(record).key for record in page.records]
        for record in page.records:
            assert record.modified_at is None or record.modified_at.utcoffset() == timedelta(0)
            assert record.reference is None or record.reference
    for key in names:
        assert bounds.text(key) == key and 0 < len(key.encode()) <= 512, key[:80]


def is_kept(remote_id: str | None) -> bool:
    """Whether an alert can be followed by it: what is stored of it is all of it."""
    return remote_id is None or (bool(remote_id) and bounds.text(remote_id) == remote_id)


def offers(connector: Connector) -> list[str]:
    """What a connector does beside the four methods that every one has."""
    reads = ["read"] * 4 if isinstance(connector, ReadsRecords) else []
    return [*reads, *(["raise_event"] if isinstance(connector, RaisesEvents) else [])]
