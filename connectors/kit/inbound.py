"""What reading records back has in common for every system: keys, cursors of pages, the words of people's
progress, and the settings of a stream that only a customer can name. No network.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, TypeVar

import orjson
from pydantic import Field, model_validator

from connectors.kit.http import HttpClient
from connectors.kit.json_text import parse_json, write_json
from connectors.kit.settings import Block
from gateway.model import bounds
from gateway.model.errors import BadConfiguration, CursorExpired, PageTooLarge
from gateway.model.inbound import Deletions, InboundStream, Progress, RecordCursor

T = TypeVar("T")

MAX_KEY_LENGTH, MAX_KEY_BYTES = 200, 512
_SHOWN_LENGTH, _SHOWN_BYTES = 150, 490
MAX_STREAMS = 100
"""Of one connection."""

StreamName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Word = Annotated[str, Field(min_length=1, max_length=100)]


def key_of(parts: Sequence[object], body: object) -> str:
    """What a record is called for ever: its one key, or several as a JSON array of texts, of which some may
    be empty.

    A key that no topic or database could hold is shown as far as it can be, and told apart by its digest. A
    record without any, or without one of several, is called by the digest of its body, so that it is never
    lost.
    """
    if not names_record(parts):
        return f"~{_digest(write_json(body, is_sorted=True))}"
    texts = [text_of(part) for part in parts]
    text = texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()
    if text.isprintable() and len(text) <= MAX_KEY_LENGTH and len(text.encode()) <= MAX_KEY_BYTES:
        return text
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)[:_SHOWN_LENGTH]
    shown = shown.encode()[:_SHOWN_BYTES].decode(errors="ignore")
    return f"{shown}~{_digest(text.encode('utf-8', 'surrogatepass'))}"


def names_record(parts: Sequence[object]) -> bool:
    """Whether these are a key: none is missing, and not all are empty."""
    return any(map(text_of, parts)) and all(text_of(part) or part == "" for part in parts)


def text_of(value: object) -> str:
    """A text, a number or a boolean as JSON writes it; empty for anything else."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case _:
            return ""


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=10).hexdigest()


def pack(**parts: object) -> str:
    """The cursor of a page, in our own form."""
    return write_json(parts).decode()


def unpack(cursor: str) -> Mapping[str, object]:
    """What `pack` was given. Raises CursorExpired for what another version wrote."""
    parts = parse_json(cursor.encode(errors="replace"))
    if not isinstance(parts, dict):
        raise CursorExpired("the cursor of the page cannot be read: the interval is read again")
    return parts


def place_at(value: object) -> datetime:
    """The time at which a cursor of ours goes on, in UTC. Raises CursorExpired for what is none."""
    at = bounds.parsed_instant(value) if isinstance(value, str) else None
    if at is None:
        raise CursorExpired("the cursor of the page cannot be read: the interval is read again")
    return at


def is_ascending(times: Iterable[datetime | None]) -> bool:
    """Whether none is before one that came earlier; a record without one says nothing. A walk that goes on
    behind a page's last time has to know: what stands behind a later one would be passed over.
    """
    known = [at for at in times if at is not None]
    return all(first <= second for first, second in pairwise(known))


TURN = 50
"""Rows of which something is made at once: half a millisecond, and then it is another's turn."""


async def in_turns(rows: Iterable[T]) -> AsyncIterator[T]:
    """Each of them. A page of thousands must not hold up everybody else."""
    for number, row in enumerate(rows, start=1):
        yield row
        if number % TURN == 0:
            await asyncio.sleep(0)


@contextmanager
def page_at(cursor: str | None) -> Iterator[None]:
    """Around the call for one page: behind the first one, what the system does not find is its cursor, since
    the same question was answered a page ago.
    """
    try:
        yield
    except BadConfiguration as error:
        if cursor is None or isinstance(error, PageTooLarge):
            raise
        raise CursorExpired(
            f"the system does not know the page any more: {error}", request_id=error.request_id
        ) from error


async def clock_of(http: HttpClient, ask: Callable[[], Awaitable[object]]) -> datetime:
    """The system's own clock by its answers' Date; `ask` makes one answer where none was seen yet. Never
    ahead of the system: the Date has whole seconds, and was written before it came.
    """
    if http.system_time() is None:
        await ask()
    now = http.system_time()
    if now is None:
        raise BadConfiguration(
            "the system's answers bear no Date: without its clock nobody can ask what changed since"
        )
    return now


class ProgressWords(Block):
    """How far people are with a record, by the words in one of its fields."""

    path: str = Field(min_length=1, max_length=500, description="The field that says so.")
    open: tuple[Word, ...] = Field((), description="Nobody looked at it yet.")
    acknowledged: tuple[Word, ...] = Field((), description="Somebody is at it.")
    closed: tuple[Word, ...] = Field((), description="Nothing is left to do.")

    def of(self, value: object) -> Progress | None:
        """None for a word that is not listed."""
        word = text_of(value)
        if word in self.open:
            return "open"
        if word in self.acknowledged:
            return "acknowledged"
        return "closed" if word in self.closed else None


class DeletedWords(Block):
    """What in a record says that it was deleted."""

    path: str = Field(min_length=1, max_length=500, description="The field that says so.")
    words: tuple[Word, ...] = Field(
        (), description="Its words that mean deleted; without any, whatever is there, such as a time."
    )

    def say(self, value: object) -> bool:
        """Whether `value` means deleted."""
        word = text_of(value)
        return word in self.words if self.words else word not in ("", "false", "0")


class NamedStream(Block):
    """What a customer says of a stream of a generic system, whatever its protocol."""

    title: str = Field("", max_length=100, description="For people; else the stream's name.")
    default: bool = Field(True, description="Read unless `sync.pull` says otherwise.")
    page: int = Field(100, ge=1, le=10_000, description="Records in one request.")
    lookback_seconds: int = Field(
        120,
        ge=0,
        le=604_800,
        description="How far back each question looks: longer than the longest transaction there.",
    )
    settle_seconds: int = Field(
        0, ge=0, le=86_400, description="How long a change may stay invisible: the newest part is left out."
    )
    progress: ProgressWords | None = Field(None, description="How far people are with a record.")
    deleted: DeletedWords | None = Field(None, description="What says that a record was deleted.")
    reference: str | None = Field(
        None, min_length=1, max_length=500, description="The field with our reference of an event."
    )

    @model_validator(mode="after")
    def _words_are_apart(self) -> NamedStream:
        if self.progress is not None:
            words = (*self.progress.open, *self.progress.acknowledged, *self.progress.closed)
            if len(words) != len(set(words)):
                raise ValueError("progress: a word stands for two things")
        return self

    @property
    def open_words(self) -> tuple[str, ...]:
        """The words of `progress` that mean not closed."""
        return () if self.progress is None else (*self.progress.open, *self.progress.acknowledged)

    def declared(
        self,
        name: str,
        *,
        cursor: RecordCursor,
        key: Sequence[str],
        deletions: Deletions,
        lists_open: bool,
    ) -> InboundStream:
        """As the engine knows it."""
        timed = cursor == "modified"
        return InboundStream(
            name=name,
            title=self.title or name.replace("_", " ").capitalize(),
            cursor=cursor,
            key=key,
            lookback=timedelta(seconds=self.lookback_seconds if timed else 0),
            settle=timedelta(seconds=self.settle_seconds if timed else 0),
            page=self.page,
            deletions="tombstones" if self.deleted is not None and deletions == "none" else deletions,
            default=self.default,
            lists_open=lists_open,
        )


def known(streams: Sequence[InboundStream], name: str, *, where: str) -> InboundStream:
    """The stream of this name; BadConfiguration that says which there are, `where` being the system or the
    setting.
    """
    found = next((stream for stream in streams if stream.name == name), None)
    if found is None:
        names = " and ".join(stream.name for stream in streams) or "none"
        raise BadConfiguration(f"{where} has no stream {name[:40]!r}; it has {names}")
    return found
