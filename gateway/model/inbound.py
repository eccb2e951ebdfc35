"""What a connector may offer beyond delivering readings, second half: reading records back.

A **record** is one thing that a system holds (a work order, a notification, a meter); an **inbound stream**
is one kind of record of one connection. The engine asks for intervals of a stream and applies what comes; a
connector translates one request into one page and keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol, Self, runtime_checkable

from gateway.model.errors import PageTooLarge, Unavailable

RecordCursor = Literal["modified", "id", "listing"]
"""How a stream is asked for what is new. `modified`: by the time of the last change. `id`: by a key that only
grows, for what never changes. `listing`: it can only be given whole, and a record is new when its body
differs.
"""

Deletions = Literal["tombstones", "keys", "listing", "none"]
"""How a deletion is seen. `tombstones`: as a record with `is_deleted`. `keys`: by a walk of all keys with
`ListsKeys`. `listing`: what the whole list no longer has. `none`: never.
"""

MAX_PAGE = 10_000
"""Records in one answer, or ten times what the stream asks for. What a system gives beyond is not read: it
would hold up everybody else.
"""

Progress = Literal["open", "acknowledged", "closed"]


class Mended(str):
    """A text in a body that stands for what cannot be kept as the system gave it: half of a character, a
    number without end. Its record is kept, and told to be not all of it.
    """

    __slots__ = ()


class Exact(float):
    """A number in a body that no double holds: to be reckoned with as the nearest one, and written with the
    digits that the system wrote (`text`).
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Of a number of JSON."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundStream:
    """One kind of record, as the connector's manifest or its settings declare it.

    lookback: how far behind the last committed interval the next one begins, for changes that became visible
    late. settle: how long a change may stay invisible; the newest part of an interval is left out by it.
    key: the system's own fields that name a record, for people.
    page: the largest number of records that one request is answered with. default: read unless `sync.pull`
    says otherwise. lists_open: `pull_open` gives what is still open, however old. example: a body, for
    people.
    """

    name: str
    title: str
    cursor: RecordCursor
    key: Sequence[str] = ()
    lookback: timedelta = timedelta(0)
    settle: timedelta = timedelta(0)
    page: int = 100
    deletions: Deletions = "none"
    default: bool = False
    lists_open: bool = False
    example: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRecord:
    """Something that was created or modified at the system. `body` is plain JSON.

    `key` identifies it within its stream for ever. `modified_at` is the system's own time, None where it does
    not say. `progress`: where the thing is one that people open and close, how far they are with it.
    `reference`: the reference of an event of ours that it was raised from, where the system tells.
    """

    key: str
    modified_at: datetime | None
    body: Mapping[str, object]
    is_deleted: bool = False
    progress: Progress | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPage:
    """One page; `cursor` fetches the next one and means nothing to others, None on the last. `total`: how
    many the whole interval has, where the system says.
    """

    records: Sequence[InboundRecord]
    cursor: str | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page of keys; as `InboundPage`."""

    keys: Sequence[str]
    cursor: str | None = None


MAX_CURSOR = 16 << 10
"""Characters. A cursor is stored as it is, or not at all: one that is cut fetches nothing."""


def check_cursor(cursor: str, of: str) -> None:
    """Before it is stored. Raises Unavailable: a list that goes on there cannot be walked to its end."""
    if len(cursor) > MAX_CURSOR:
        raise Unavailable(
            f"the list of {of} goes on at a cursor of {len(cursor):,} characters, and {MAX_CURSOR:,} are kept"
            " at most"
        )
    if "\0" in cursor or cursor.encode(errors="replace").decode() != cursor:
        raise Unavailable(f"the list of {of} goes on at a cursor that no text can hold")


def check_page(count: int, of: str, *, page: int = 0) -> None:
    """Before anything is made of so many rows of one answer. Raises PageTooLarge."""
    most = max(MAX_PAGE, 10 * page)
    if count > most:
        raise PageTooLarge(
            f"one answer of {of} holds {count:,} records, and {most:,} are taken at most: have the system"
            " give pages (check how the stream is paged), or narrow what it lists"
        )


@runtime_checkable
class ReadsRecords(Protocol):
    """A connector that can be asked what changed. Every method raises `ConnectorError` subclasses only."""

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The streams that these settings make available."""
        ...

    async def remote_now(self, stream: str) -> datetime:
        """The system's clock, aware, in UTC: what `until` of an interval is made from."""
        ...

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """What was created or modified in [since, until), on the system's own clock, both as the system's
        resolution truncates them; from the beginning without `since`. A `listing` stream ignores both.

        Order is not promised within the interval. Pages of one interval are asked with its own `since` and
        `until` and the cursor of the page before; a record that changes meanwhile may come twice or only in a
        later interval. Raises CursorExpired when the system does not know the cursor any more: the interval
        begins again.
        """
        ...


@runtime_checkable
class ListsOpen(Protocol):
    """A connector that can be asked for what is still open, however long ago it changed."""

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """Of a stream with `lists_open`: everything that nobody has closed yet."""
        ...


@runtime_checkable
class ListsKeys(Protocol):
    """A connector that can list what a stream holds now, by key alone."""

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """Of a stream whose deletions are seen by `keys`: every key, also of what has
        not changed for years.
        """
        ...


@runtime_checkable
class NotesEvents(Protocol):
    """A connector that can add a note to what it raised."""

    async def note_event(self, remote_id: str, text: str) -> None:
        """Adds `text` to the record that an event became, unless it is there already."""
        ...
