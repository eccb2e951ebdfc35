"""What became of a connection's readings: deliveries, runs, dead letters and their replay."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.http import cursors
from gateway.http.api.connections import NOT_NOW
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import OperatedConnection, Serving, ViewedConnection
from gateway.http.documents import (
    DeadLetterDocument,
    Page,
    ReadingDocument,
    Replayed,
    ReplayRequest,
    RunDocument,
)
from gateway.model.errors import RequestRefused
from gateway.store.views import BEGINNING, END, LAST_ID

router = APIRouter(tags=["connections"])


@router.get("/v1/connections/{connection}/readings", summary="Readings that the system holds")
async def list_readings(
    serving: Serving,
    target: ViewedConnection,
    meter: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]+$", description="Of this meter only.")
    ] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[ReadingDocument]:
    """By meter and window: every value that the system accepted, with its own id of it."""
    rows = await serving.reader.readings(
        target.connection, meter=meter, after=cursors.text_and_time(cursor, ("", BEGINNING)), limit=limit + 1
    )
    return page(
        Page[ReadingDocument],
        rows,
        limit,
        item=ReadingDocument.model_validate,
        cursor=lambda row: cursors.write(row.meter, row.window_start),
    )


@router.get("/v1/connections/{connection}/runs", summary="Runs, the newest first")
async def list_runs(
    serving: Serving, target: ViewedConnection, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[RunDocument]:
    """Each run of each stream: what was read, delivered, refused, and how it ended."""
    rows = await serving.reader.runs(
        target.connection, before=cursors.time_and_number(cursor, (END, LAST_ID)), limit=limit + 1
    )
    return page(
        Page[RunDocument],
        rows,
        limit,
        item=RunDocument.model_validate,
        cursor=lambda row: cursors.write(row.started_at, row.id),
    )


@router.get("/v1/connections/{connection}/dead-letters", summary="Dead letters, the newest first")
async def list_dead_letters(
    serving: Serving, target: ViewedConnection, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[DeadLetterDocument]:
    """Readings that the system refused for good, with its own words."""
    rows = await serving.reader.dead_letters(
        target.connection, before=cursors.time_and_number(cursor, (END, LAST_ID)), limit=limit + 1
    )
    return page(
        Page[DeadLetterDocument],
        rows,
        limit,
        item=DeadLetterDocument.model_validate,
        cursor=lambda row: cursors.write(row.last_at, row.id),
    )


@router.post(
    "/v1/connections/{connection}/dead-letters/replay", summary="Try dead letters again", responses=NOT_NOW
)
async def replay_dead_letters(
    serving: Serving, target: OperatedConnection, wanted: ReplayRequest
) -> Replayed:
    """Their windows are computed anew and go out with the next run. Those whose meter is no longer mapped
    stay.
    """
    if wanted.ids is not None and any(not 0 < number <= LAST_ID for number in wanted.ids):
        raise RequestRefused("request.invalid", "ids: expected ids of dead letters.")
    return Replayed(replayed=await serving.connections.replay(target.connection, wanted.ids))
