"""Alerts: what telemetry became at the systems, and how far people are with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from gateway.events.documents import AlertDocument, alert_document
from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Serving, Viewer, only_customer
from gateway.http.documents import Page
from gateway.http.openapi import problems
from gateway.model.alert_life import AlertState
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER, Identifier
from gateway.store.alerts import LAST_ALERT
from gateway.store.views import END

router = APIRouter(tags=["alerts"])


@router.get("/v1/alerts", summary="Alerts, the newest first")
async def list_alerts(
    serving: Serving,
    asking: Viewer,
    customer: Annotated[Identifier | None, Query()] = None,
    connection: Annotated[Identifier | None, Query()] = None,
    state: Annotated[
        list[AlertState] | None,
        Query(description="Repeat it for several. `cleared` ones are kept for 400 days."),
    ] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[AlertDocument]:
    """Those that the token may see; a token that is bound to a customer sees that customer's."""
    rows = await serving.reader.alerts(
        customer=only_customer(asking, customer),
        connection_id=connection,
        states=state,
        before=cursors.text_and_time(cursor, (LAST_ALERT, END)),
        limit=limit + 1,
    )
    return page(
        Page[AlertDocument],
        rows,
        limit,
        item=alert_document,
        cursor=lambda row: cursors.write(row.alert, row.created_at),
    )


@router.get("/v1/alerts/{alert}", summary="One alert", responses=problems("request.not_found"))
async def read_alert(
    serving: Serving, asking: Viewer, alert: Annotated[str, Path(pattern=IDENTIFIER)]
) -> AlertDocument:
    """As it is, with the system's own id of what it became."""
    found = await serving.reader.alerts(customer=asking.customer, alert=alert, limit=1)
    if not found:
        raise RequestRefused("request.not_found", "There is no such alert.")
    return alert_document(found[0])
