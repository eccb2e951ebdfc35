"""`/alerts`: alerts of every connection that whoever is logged in may see."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gateway.http import cursors
from gateway.http.auth import Serving, only_customer
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.alert_life import OPEN_STATES, AlertState
from gateway.store.alerts import LAST_ALERT
from gateway.store.views import END

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
CHOICES = ("open", *(str(state) for state in AlertState), "all")

Name = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")]


@router.get("/alerts")
async def alerts_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Name = "",
    connection: Name = "",
    state: Annotated[str, Query(max_length=20)] = "open",
    cursor: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
) -> Response:
    """Reads only."""
    chosen = state if state in CHOICES else "open"
    states: list[str] | None = [chosen]
    if chosen == "all":
        states = None
    elif chosen == "open":
        states = sorted(map(str, OPEN_STATES))
    rows = await serving.reader.alerts(
        customer=only_customer(session.principal, customer or None),
        connection_id=connection or None,
        states=states,
        before=cursors.text_and_time(cursor, (LAST_ALERT, END)),
        limit=PAGE_ROWS + 1,
    )
    shown, following = rows[:PAGE_ROWS], None
    if len(rows) > PAGE_ROWS:
        last = cursors.write(shown[-1].alert, shown[-1].created_at)
        following = "/alerts?" + urlencode(
            {"customer": customer, "connection": connection, "state": chosen, "cursor": last}
        )
    return render(
        request,
        "alerts.html",
        session=session,
        alerts=shown,
        customer=customer,
        connection=connection,
        state=chosen,
        choices=CHOICES,
        next=following,
    )
