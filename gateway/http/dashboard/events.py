"""`/events`: what was told lately, on MQTT and to webhooks, each event with its document."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from gateway import clock
from gateway.http.auth import Serving, only_customer
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.event import EventType

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
KEPT = timedelta(days=30)
SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "30 days": KEPT}

Name = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")]


@router.get("/events")
async def events_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Name = "",
    connection: Name = "",
    kind: Annotated[str, Query(alias="type", max_length=64)] = "",
    span: Annotated[str, Query(max_length=10)] = "week",
) -> Response:
    """Reads only."""
    chosen = kind if kind in set(EventType) else ""
    found = await serving.events.latest(
        only_customer(session.principal, customer or None),
        connection=connection or None,
        type_=EventType(chosen) if chosen else None,
        since=clock.now() - SPANS.get(span, SPANS["week"]),
        limit=PAGE_ROWS + 1,
    )
    rows = [
        (
            event,
            event.type.removeprefix("fieldgate."),
            orjson.dumps(event.model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode(),
        )
        for event in found[:PAGE_ROWS]
    ]
    return render(
        request,
        "events.html",
        session=session,
        rows=rows,
        has_more=len(found) > PAGE_ROWS,
        customer=customer,
        connection=connection,
        kind=chosen,
        types=[str(each) for each in EventType],
        span=span if span in SPANS else "week",
        spans=SPANS,
    )
