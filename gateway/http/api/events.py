"""Events of the last 30 days, for who missed them on MQTT and by webhook."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.events.cloudevent import CloudEvent
from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Limit, page
from gateway.http.auth import Serving, Viewer
from gateway.http.documents import Page

router = APIRouter(tags=["events"])


@router.get("/v1/events", summary="Events, the oldest first")
async def list_events(
    serving: Serving,
    asking: Viewer,
    after: Annotated[
        str | None,
        Query(
            max_length=cursors.MAX_LENGTH,
            description="`next` of the page before; keep the last one to ask for what came since.",
        ),
    ] = None,
    limit: Limit = LIMIT,
) -> Page[CloudEvent]:
    """CloudEvents in the order in which they were written. A bound token sees its customer's."""
    rows = await serving.events.events(
        asking.customer, after=cursors.number_cursor(after, 0), limit=limit + 1
    )
    shown = page(
        Page[CloudEvent], rows, limit, item=lambda row: row[1], cursor=lambda row: cursors.write(row[0])
    )
    if (
        rows and shown.next is None
    ):  # unlike other lists this one grows at its end: there is always a place to go on from
        return Page[CloudEvent](items=shown.items, next=cursors.write(rows[-1][0]))
    return shown if rows else Page[CloudEvent](items=(), next=after)
