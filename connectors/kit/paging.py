"""Walks lists that are paged by a cursor, and refuses to walk for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.model.errors import Unavailable

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage(Generic[ItemT]):
    """One page; `cursor` of the next one, None on the last."""

    items: Sequence[ItemT]
    cursor: str | None


async def walk(
    fetch: Callable[[str | None], Awaitable[ListPage[ItemT]]], *, max_pages: int = 1000
) -> AsyncIterator[ItemT]:
    """Every item in order. A cursor that comes twice, or more than `max_pages`, is Unavailable: the system is
    not to be believed.
    """
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(max_pages):
        page = await fetch(cursor)
        for item in page.items:
            yield item
        cursor = page.cursor
        if cursor is None:
            return
        if cursor in seen:
            raise Unavailable("the system's list does not end: it gave the same cursor twice")
        seen.add(cursor)
    raise Unavailable(f"the system's list does not end within {max_pages} pages")
