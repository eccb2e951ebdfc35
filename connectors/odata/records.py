"""Reads entity sets back, page by page, in the order of their times of change.

A page begins at the time at which the one before ended, so a record that changes meanwhile moves no other
over a seam; only among records of one time the service's own link is followed, which may be a number of
records to skip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from connectors.kit.inbound import (
    is_ascending,
    key_of,
    known,
    names_record,
    pack,
    page_at,
    place_at,
    text_of,
    unpack,
)
from connectors.kit.odata.query import modified_within, next_of, target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import Version, decode_instant, text_literal
from connectors.odata.settings import SetStream
from gateway.model.errors import BadConfiguration
from gateway.model.inbound import InboundPage, InboundRecord, InboundStream, KeyPage, check_page

Row = Mapping[str, object]
_COUNTED = {"$count": "true"}


class Sets:
    """The sets of one service, by the names that the settings give them."""

    def __init__(self, service: Service, streams: Mapping[str, SetStream]) -> None:
        self._service = service
        self._streams = streams
        self.inbound: Sequence[InboundStream] = tuple(stream.stream(name) for name, stream in streams.items())

    async def pull(
        self, name: str, since: datetime | None, until: datetime, cursor: str | None
    ) -> InboundPage:
        """A page of what changed in [since, until); of the whole set where it knows no time of change."""
        stream = self._named(name)
        place = {} if cursor is None else unpack(cursor)
        modified = stream.modified
        if modified is None:
            query = target(
                stream.entity_set, select=_selected(stream), order=stream.keys, extra=_count(stream, cursor)
            )
            rows, link, total = await self._page(name, stream, query, place, cursor)
            return InboundPage(records=_records(stream, rows), cursor=_link(link), total=total)
        begin = since if place.get("since") is None else place_at(place["since"])
        query = target(
            stream.entity_set,
            where=modified_within(Version.V4, modified, begin, until),
            select=_selected(stream),
            order=(modified, *stream.keys),
            extra=_count(stream, cursor),
        )
        rows, link, total = await self._page(name, stream, query, place, cursor)
        if rows and not any(modified in row for row in rows):
            raise BadConfiguration(
                f"no record of {stream.entity_set} has {modified}: check settings.streams.{name}.modified"
            )
        times = [decode_instant(row.get(modified)) for row in rows]
        last = times[-1] if times else None
        following = _link(link, begin)
        # a service that orders otherwise than it was asked to is followed by its own link
        in_order = is_ascending(times)
        if link is not None and in_order and last is not None and (begin is None or last > begin):
            following = pack(since=last.isoformat())
        return InboundPage(records=_records(stream, rows), cursor=following, total=total)

    async def pull_open(self, name: str, cursor: str | None) -> InboundPage:
        """A page of what nobody has closed yet."""
        stream = self._named(name)
        progress = stream.progress
        where = "" if progress is None else _any_of(progress.path, stream.open_words)
        query = target(stream.entity_set, where=where, select=_selected(stream), order=stream.keys)
        place = {} if cursor is None else unpack(cursor)
        rows, link, _ = await self._page(name, stream, query, place, cursor)
        return InboundPage(records=_records(stream, rows), cursor=_link(link))

    async def keys(self, name: str, cursor: str | None) -> KeyPage:
        """A page of every key."""
        stream = self._named(name)
        gone = stream.deleted
        query = target(
            stream.entity_set,
            select=(*stream.keys, *([gone.path] if gone is not None else [])),
            order=stream.keys,
        )
        place = {} if cursor is None else unpack(cursor)
        rows, link, _ = await self._page(name, stream, query, place, cursor)
        held = [row for row in rows if gone is None or not gone.say(row.get(gone.path))]
        return KeyPage(keys=[_key_alone(name, stream, row) for row in held], cursor=_link(link))

    def _named(self, name: str) -> SetStream:
        return self._streams[known(self.inbound, name, where="settings.streams").name]

    async def _page(
        self, name: str, stream: SetStream, query: str, place: Mapping[str, object], cursor: str | None
    ) -> tuple[Sequence[Row], str | None, int | None]:
        """The rows, the service's link to more, and how many there are altogether."""
        link = place.get("link")
        with page_at(cursor):
            answer = await self._service.get(
                "pull", link if isinstance(link, str) else query, page_size=stream.page
            )
        rows = self._service.rows(answer, stream.entity_set)
        check_page(len(rows), name, page=stream.page)
        if rows and not any(text_of(row.get(key)) for row in rows for key in stream.keys):
            raise BadConfiguration(
                f"no record of {stream.entity_set} has {' and '.join(stream.keys)}: check"
                f" settings.streams.{name}.key",
                request_id=answer.request_id,
            )
        document = answer.json if isinstance(answer.json, dict) else {}
        total = document.get("@odata.count")
        return (
            rows,
            next_of(answer.json, entity_set=stream.entity_set),
            total if isinstance(total, int) and cursor is None else None,
        )


def to_record(stream: SetStream, row: Row) -> InboundRecord:
    """The row without the protocol's own members."""
    progress, gone = stream.progress, stream.deleted
    body = {name: value for name, value in row.items() if not name.startswith("@")}
    return InboundRecord(
        key=key_of(_parts(stream, row), dict(row)),
        modified_at=decode_instant(row.get(stream.modified)) if stream.modified else None,
        body=body,
        is_deleted=gone is not None and gone.say(row.get(gone.path)),
        progress=None if progress is None else progress.of(row.get(progress.path)),
        reference=(text_of(row.get(stream.reference)) or None) if stream.reference else None,
    )


def _records(stream: SetStream, rows: Sequence[Row]) -> list[InboundRecord]:
    return [to_record(stream, row) for row in rows]


def _key_alone(name: str, stream: SetStream, row: Row) -> str:
    """What the record of an entity is called, where nothing but its key was read. Raises BadConfiguration for
    one that is called by its body: it would not be met, and be taken for deleted.
    """
    parts = _parts(stream, row)
    if not names_record(parts):
        lacking = " and ".join(stream.keys)
        raise BadConfiguration(
            f"a record of {stream.entity_set} has no {lacking}, so deletions cannot be seen: check"
            f" settings.streams.{name}.key"
        )
    return key_of(parts, None)


def _parts(stream: SetStream, row: Row) -> list[object]:
    return [row.get(name) for name in stream.keys]


def _selected(stream: SetStream) -> tuple[str, ...]:
    """What is read is asked for, whatever is selected."""
    if not stream.select:
        return ()
    read = (
        *stream.keys,
        stream.modified,
        stream.progress and stream.progress.path,
        stream.deleted and stream.deleted.path,
        stream.reference,
    )
    return tuple(dict.fromkeys((*stream.select, *(name for name in read if name))))


def _any_of(name: str, words: Sequence[str]) -> str:
    return " or ".join(f"{name} eq {text_literal(word)}" for word in words)


def _count(stream: SetStream, cursor: str | None) -> Mapping[str, str]:
    return _COUNTED if stream.count and cursor is None else {}


def _link(link: str | None, begin: datetime | None = None) -> str | None:
    return None if link is None else pack(link=link, since=None if begin is None else begin.isoformat())
