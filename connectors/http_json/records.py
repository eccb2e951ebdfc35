"""Reads lists of JSON back, page by page. What changes while a list is walked is read again or not lost:
where the system only counts pages, each page is proved to have stood still before the next one is believed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never
from urllib.parse import urljoin, urlsplit

from connectors.http_json.mapping import read
from connectors.http_json.streams import ListStream, Query
from connectors.http_json.template import compiled, placeholders
from connectors.kit.answer import Answer
from connectors.kit.http import HttpClient
from connectors.kit.inbound import (
    in_turns,
    is_ascending,
    key_of,
    known,
    pack,
    page_at,
    place_at,
    text_of,
    unpack,
)
from gateway.model import bounds
from gateway.model.errors import BadConfiguration, CursorExpired, Unavailable
from gateway.model.inbound import InboundPage, InboundRecord, InboundStream, KeyPage, check_page

_NEXT = re.compile(r'<([^<>]{1,2000})>[^,]*?;\s*rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlace:
    """Where a walk stands: what the next request asks for, and what proves that the list stood still.

    since: where an ordered list goes on, in ISO. at: a link, a word, the number of a page or an offset.
    first, last: keys of the page before. seen: records of the pages before.
    """

    since: str | None = None
    at: str | int | None = None
    first: str = ""
    last: str = ""
    keys: str = ""
    seen: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether everything is of its kind; of a cursor of ours it is."""
        texts = (self.first, self.last, self.keys)
        return (
            all(isinstance(text, str) for text in texts)
            and isinstance(self.at, str | int | None)
            and type(self.seen) is int
        )

    def packed(self) -> str:
        """As a cursor."""
        return pack(
            since=self.since, at=self.at, first=self.first, last=self.last, keys=self.keys, seen=self.seen
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One page as it was answered, without what only proves that it follows the one before. `is_full`: as
    many came as were asked for.
    """

    rows: Sequence[object]
    keys: Sequence[str]
    answer: Answer
    is_full: bool

    def digest(self) -> str:
        """Of its keys in their order."""
        return hashlib.blake2b("\n".join(self.keys).encode(), digest_size=10).hexdigest()


class Lists:
    """The lists of one system, by the names that the settings give them."""

    def __init__(self, http: HttpClient, base_url: str, streams: Mapping[str, ListStream]) -> None:
        self._http = http
        self._base_url = base_url
        self._streams = streams
        self.inbound: Sequence[InboundStream] = tuple(stream.stream(name) for name, stream in streams.items())

    async def pull(
        self, name: str, since: datetime | None, until: datetime, cursor: str | None
    ) -> InboundPage:
        """A page of what changed in [since, until); of the whole list where it knows no time of change."""
        stream = self._named(name)
        place = _place(cursor)
        lowest = since if place.since is None else place_at(place.since)
        listed = await self._page(name, stream, stream.query, (lowest, until), place, cursor)
        following = self._following(name, stream, listed, place, lowest)
        records = await _records(stream, listed, before=until)
        return InboundPage(
            records=records,
            cursor=None if following is None else following.packed(),
            total=_whole(read(listed.answer.json, stream.total)) if stream.total and cursor is None else None,
        )

    async def pull_open(self, name: str, cursor: str | None) -> InboundPage:
        """A page of what is still open."""
        stream = self._named(name)
        place = _place(cursor)
        listed = await self._page(name, stream, stream.open_query or {}, None, place, cursor)
        following = self._following(name, stream, listed, place, None, ordered=False)
        records = await _records(stream, listed, before=None)
        return InboundPage(records=records, cursor=None if following is None else following.packed())

    async def keys(self, name: str, cursor: str | None) -> KeyPage:
        """A page of every key: the list without its times."""
        stream = self._named(name)
        place = _place(cursor)
        whole = {name: value for name, value in stream.query.items() if not placeholders(value) & _TIMES}
        listed = await self._page(name, stream, whole, None, place, cursor)
        following = self._following(name, stream, listed, place, None, ordered=False)
        gone = stream.deleted
        keys = [
            key
            async for row, key in in_turns(zip(listed.rows, listed.keys, strict=True))
            if gone is None or not gone.say(read(row, gone.path))
        ]
        return KeyPage(keys=keys, cursor=None if following is None else following.packed())

    def _named(self, name: str) -> ListStream:
        return self._streams[known(self.inbound, name, where="settings.streams").name]

    async def _page(
        self,
        name: str,
        stream: ListStream,
        query: Query,
        within: tuple[datetime | None, datetime] | None,
        place: WalkPlace,
        cursor: str | None,
    ) -> Listed:
        """The page at `place`, proved to follow the one before. Raises CursorExpired where the list moved."""
        wanted = parameters(stream, query, within)
        with page_at(cursor):
            match stream.paging.kind:
                case "offset" if isinstance(place.at, int):
                    return await self._at_offset(name, stream, wanted, place, place.at)
                case "page" if isinstance(place.at, int):
                    return await self._at_number(name, stream, wanted, place, place.at)
                case "next" | "header" if isinstance(place.at, str):
                    return await self._fetch(name, stream, place.at, None)
                case "cursor" if isinstance(place.at, str):
                    wanted[stream.paging.parameter or ""] = place.at
        if stream.paging.kind == "page":
            wanted[stream.paging.parameter or ""] = str(stream.paging.first)
        with page_at(cursor):
            return await self._fetch(name, stream, stream.path, wanted)

    async def _at_offset(
        self, name: str, stream: ListStream, wanted: dict[str, str], place: WalkPlace, offset: int
    ) -> Listed:
        """Asks one record earlier than it needs: it must be the last one of the page before."""
        wanted[stream.paging.parameter or ""] = str(offset - 1)
        listed = await self._fetch(name, stream, stream.path, wanted)
        if listed.keys[:1] != [place.last]:
            if listed.keys[:1] == [place.first]:
                raise _unheard(name, stream)
            raise _moved(name)
        return replace(listed, rows=listed.rows[1:], keys=listed.keys[1:])

    async def _at_number(
        self, name: str, stream: ListStream, wanted: dict[str, str], place: WalkPlace, number: int
    ) -> Listed:
        """Reads the page before once more: while it is the same, nothing moved over the seam."""
        parameter = stream.paging.parameter or ""
        listed = await self._fetch(name, stream, stream.path, {**wanted, parameter: str(number)})
        if listed.keys and listed.digest() == place.keys:
            raise _unheard(name, stream)
        before = await self._fetch(name, stream, stream.path, {**wanted, parameter: str(number - 1)})
        if before.digest() != place.keys:
            raise _moved(name)
        return listed

    async def _fetch(
        self, name: str, stream: ListStream, path: str, wanted: Mapping[str, str] | None
    ) -> Listed:
        answer = await self._http.call("pull", "GET", path, params=wanted or None)
        rows = read(answer.json, stream.items)
        if not isinstance(rows, list):
            raise Unavailable(
                f"the list of {name} has no array at {stream.items!r}: check settings.streams.{name}.items",
                request_id=answer.request_id,
            )
        check_page(len(rows), name, page=stream.page)
        if rows and not any(text_of(read(row, path)) for row in rows for path in stream.keys):
            raise BadConfiguration(
                f"no record of the list of {name} has {' and '.join(stream.keys)}: check"
                f" settings.streams.{name}.key",
                request_id=answer.request_id,
            )
        keys = [key_of([read(row, path) for path in stream.keys], row) async for row in in_turns(rows)]
        return Listed(rows=rows, keys=keys, answer=answer, is_full=len(rows) >= stream.page)

    def _following(
        self,
        name: str,
        stream: ListStream,
        listed: Listed,
        place: WalkPlace,
        lowest: datetime | None,
        *,
        ordered: bool = True,
    ) -> WalkPlace | None:
        """Where the walk goes on; None at its end."""
        beyond = self._beyond(stream, listed, place)
        if not ordered or not stream.ordered or not listed.rows:
            return beyond
        times = [stream.times.read(read(row, stream.modified or "")) for row in listed.rows]
        if not is_ascending(at[0] if len(at) == 1 else None for at in times):
            raise BadConfiguration(
                f"the list of {name} does not ascend by {stream.modified}: leave out"
                f" settings.streams.{name}.ordered, or have its query sort by it",
                request_id=listed.answer.request_id,
            )
        last = times[-1]
        if last and (lowest is None or last[0] > lowest):
            is_more = stream.paging.kind == "none" or beyond is not None
            return WalkPlace(since=last[0].isoformat()) if is_more else None
        if beyond is not None:
            return replace(beyond, since=place.since)
        if stream.paging.kind == "none" and listed.is_full:
            raise BadConfiguration(
                f"more than {stream.page} records of {name} changed at one time: raise"
                f" settings.streams.{name}.page, or say how its list is paged"
            )
        return None

    def _beyond(self, stream: ListStream, listed: Listed, place: WalkPlace) -> WalkPlace | None:
        """By the list's own paging."""
        paging, seen = stream.paging, place.seen + len(listed.rows)
        total = _whole(read(listed.answer.json, stream.total)) if stream.total else None
        # a total that is too small must not end a walk: behind a full page it is not believed
        is_more = bool(listed.rows) and (total is None or seen < total or listed.is_full)
        first, last = (listed.keys[0], listed.keys[-1]) if listed.keys else ("", "")
        match paging.kind:
            case "offset":
                return WalkPlace(at=seen, first=first, last=last, seen=seen) if is_more else None
            case "page":
                number = place.at + 1 if isinstance(place.at, int) else paging.first + 1
                return WalkPlace(at=number, keys=listed.digest(), seen=seen) if is_more else None
            case "cursor":
                word = text_of(read(listed.answer.json, paging.path or ""))
            case "next":
                word = self._own(read(listed.answer.json, paging.path or ""))
            case "header":
                found = _NEXT.search(listed.answer.headers.get("link", ""))
                word = self._own(found[1] if found else None)
            case "none":
                word = ""
            case _:
                assert_never(paging.kind)
        digest = listed.digest()
        # whatever word it gives for the next one: a list that does not hear it gives its first page for ever.
        # Of a single record nothing can be said: it may have moved behind itself
        if word and (word == place.at or (len(listed.keys) > 1 and digest == place.keys)):
            raise Unavailable(
                "the list does not end: it gave the same page twice; check how its stream is paged"
            )
        return WalkPlace(at=word, keys=digest, seen=seen) if word else None

    def _own(self, link: object) -> str:
        """The address of a link at our own host: a system behind a proxy may call itself by another name."""
        if not isinstance(link, str) or not link:
            return ""
        try:
            found = urlsplit(urljoin(f"{self._base_url}/", link))
        except ValueError:
            raise Unavailable("the list goes on at what is no address") from None
        base = urlsplit(self._base_url)
        return f"{base.scheme}://{base.netloc}{found.path}?{found.query}"


_TIMES = {"since", "until"}


def parameters(
    stream: ListStream, query: Query, within: tuple[datetime | None, datetime] | None
) -> dict[str, str]:
    """The query of a request. A parameter with a time that is not asked for is left out."""
    values: dict[str, object] = {"since": None, "until": None, "page": stream.page}
    if within is not None:
        since, until = within
        if since is not None and since <= bounds.EARLIEST:  # nothing is before it, and no zone can say it
            since = None
        if since is not None and stream.after:
            since -= stream.times.unit
        values["since"], values["until"] = stream.times.bounds(since, until)
    filled: dict[str, str] = {}
    for name, template in query.items():
        if not any(values[part] is None for part in placeholders(template)):
            value = compiled(template, known=values.keys())(values)
            filled[name] = text_of(value)
    return filled


def to_record(stream: ListStream, row: object, key: str, *, before: datetime | None) -> InboundRecord | None:
    """None for one that certainly changed at `before` or later: the next interval has it."""
    at = stream.times.read(read(row, stream.modified)) if stream.modified else ()
    if before is not None and stream.is_timed and at and at[0] >= before:
        return None
    body = row if isinstance(row, dict) else {"value": row}
    return InboundRecord(
        key=key,
        modified_at=at[0] if len(at) == 1 else None,
        body=body,
        is_deleted=stream.deleted is not None and stream.deleted.say(read(row, stream.deleted.path)),
        progress=None if stream.progress is None else stream.progress.of(read(row, stream.progress.path)),
        reference=(text_of(read(row, stream.reference)) or None) if stream.reference else None,
    )


async def _records(stream: ListStream, listed: Listed, *, before: datetime | None) -> list[InboundRecord]:
    """The records of a page; those that changed at `before` or later are left out."""
    records = []
    async for row, key in in_turns(zip(listed.rows, listed.keys, strict=True)):
        record = to_record(stream, row, key, before=before)
        if record is not None:
            records.append(record)
    return records


def _place(cursor: str | None) -> WalkPlace:
    if cursor is None:
        return WalkPlace()
    try:
        place = WalkPlace(**unpack(cursor))  # type: ignore[arg-type]
        if place.since is not None:
            place_at(place.since)
    except TypeError:
        place = None
    if place is None or not place.is_sound:
        raise CursorExpired("the cursor of the page cannot be read: the interval is read again")
    return place


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _moved(name: str) -> CursorExpired:
    return CursorExpired(f"the list of {name} changed while it was walked: the interval is read again")


def _unheard(name: str, stream: ListStream) -> BadConfiguration:
    return BadConfiguration(
        f"the list of {name} gives its first page whatever is asked: check"
        f" settings.streams.{name}.paging.parameter ({stream.paging.parameter})"
    )
