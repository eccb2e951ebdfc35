"""`/incidents`: failures that belong together, open and closed, and each of them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response

from gateway.http import cursors
from gateway.http.auth import Serving
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50


@router.get("/incidents")
async def incidents_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    state: Annotated[str, Query(max_length=10)] = "all",
    cursor: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
) -> Response:
    """Reads only."""
    closed = state != "open"
    rows = await serving.incidents.incidents(
        session.principal.customer,
        closed=closed,
        after=cursors.text_cursor(cursor) or None,
        limit=PAGE_ROWS + 1,
    )
    shown = rows[:PAGE_ROWS]
    more = {"state": state, "cursor": cursors.write(shown[-1].id)} if len(rows) > PAGE_ROWS else None
    return render(
        request,
        "incidents.html",
        session=session,
        rows=shown,
        closed=closed,
        is_first=cursor is None,
        more="" if more is None else urlencode(more),
    )


@router.get("/incidents/{incident}")
async def incident_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    incident: Annotated[str, Path(pattern=IDENTIFIER)],
) -> Response:
    """Reads only."""
    found = await serving.incidents.incident(incident, session.principal.customer)
    if found is None:
        raise RequestRefused("request.not_found", "There is no such incident.")
    return render(request, "incident.html", session=session, incident=found)
