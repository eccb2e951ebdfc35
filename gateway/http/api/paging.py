"""How lists are paged: `limit`, `cursor`, and one row more than asked to know whether
there is a next page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from gateway.http import cursors
from gateway.http.documents import Page

RowT = TypeVar("RowT")
ItemT = TypeVar("ItemT")

Limit = Annotated[int, Query(ge=1, le=500, description="Items in a page.")]
Cursor = Annotated[str | None, Query(max_length=cursors.MAX_LENGTH, description="`next` of the page before.")]
LIMIT = 100


def page(
    kind: type[Page[ItemT]],
    rows: Sequence[RowT],
    limit: int,
    *,
    item: Callable[[RowT], ItemT],
    cursor: Callable[[RowT], str],
) -> Page[ItemT]:
    """The page of up to `limit + 1` rows: the last row is only asked for to know that there is more."""
    shown = rows[:limit]
    return kind(
        items=tuple(item(row) for row in shown), next=cursor(shown[-1]) if len(rows) > limit else None
    )
