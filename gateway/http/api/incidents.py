"""Incidents: failures that belong together."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Serving, Viewer
from gateway.http.documents import IncidentDocument, Page
from gateway.http.openapi import problems
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER

router = APIRouter(tags=["incidents"])


@router.get("/v1/incidents", summary="Incidents, the latest first")
async def list_incidents(
    serving: Serving,
    asking: Viewer,
    closed: Annotated[bool, Query(description="Closed ones too.")] = False,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[IncidentDocument]:
    """A bound token sees those that touch its customer, with its own connections only."""
    after = cursors.text_cursor(cursor) or None
    rows = await serving.incidents.incidents(asking.customer, closed=closed, after=after, limit=limit + 1)
    return page(
        Page[IncidentDocument], rows, limit, item=lambda row: row, cursor=lambda row: cursors.write(row.id)
    )


@router.get("/v1/incidents/{incident}", summary="One incident", responses=problems("request.not_found"))
async def read_incident(
    serving: Serving, asking: Viewer, incident: Annotated[str, Path(pattern=IDENTIFIER)]
) -> IncidentDocument:
    """Since when, which operations and connections, request ids to give to the system's support."""
    found = await serving.incidents.incident(incident, asking.customer)
    if found is None:
        raise RequestRefused("request.not_found", "There is no such incident.")
    return found
