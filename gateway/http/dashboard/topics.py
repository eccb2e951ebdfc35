"""`/topics`: messages of a topic filter as they arrive: whose they are, and what is made of them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.auth import Serving
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.live_messages import EACH_SECOND, SHOWN, WATCHED_SECONDS, SeenMessage, TopicWatch
from gateway.http.services import Services
from gateway.ingest.discover import WAITS_FOR_BIRTH
from gateway.model.errors import RequestRefused
from gateway.model.preview import Preview, preview
from gateway.model.sample import Value
from gateway.store.access import BrowserSession

router = APIRouter(include_in_schema=False)

MAX_OFFERED = 12
"""Filters of the sources that are offered."""

MAX_METRICS = 8
"""Of a message that its line names."""

SHOWN_BYTES = 4 << 10


@router.get("/topics")
async def topics_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    wanted: Annotated[str, Query(alias="filter", max_length=500)] = "",
) -> Response:
    """Listens while the page is open; stores nothing."""
    wanted = wanted.strip()
    if not wanted:
        return _page(request, serving, session, wanted)
    try:
        watch = serving.live_messages.watch(session.principal.customer, wanted)
    except RequestRefused as error:
        return _page(request, serving, session, wanted, said=str(error))
    return _page(request, serving, session, wanted, watch=watch)


@router.post("/topics")
async def look_on(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Looks on after the time was over."""
    given = await own_form(request, session)
    wanted = given.get("filter", "").strip()
    serving.live_messages.again(session.principal.customer, wanted)
    return RedirectResponse(f"/topics?{urlencode({'filter': wanted})}", status_code=303)


def _page(
    request: Request,
    serving: Services,
    session: BrowserSession,
    wanted: str,
    *,
    watch: TopicWatch | None = None,
    said: str = "",
) -> Response:
    offered = serving.live_messages.filters(session.principal.customer)
    return render(
        request,
        "topics.html",
        status=409 if said else 200,
        session=session,
        wanted=wanted,
        said=said,
        watch=watch,
        messages=[] if watch is None else [*watch.messages],
        offered=offered[:MAX_OFFERED],
        shown=SHOWN,
        each_second=EACH_SECOND,
        minutes=round(WATCHED_SECONDS / 60),
        payload=_payload,
        metrics=_metrics,
        waits=WAITS_FOR_BIRTH,
    )


def _payload(message: SeenMessage) -> Preview:
    data = message.heard.payload[:SHOWN_BYTES]
    return preview(data, is_cut=len(data) < message.heard.size_bytes, rows=True)


def _metrics(message: SeenMessage) -> tuple[list[tuple[str, Value]], int]:
    """The first metrics of the message, and how many more it has."""
    found = message.explanation
    every = [] if found is None else [pair for sample in found.samples for pair in sample.metrics.items()]
    return every[:MAX_METRICS], max(0, len(every) - MAX_METRICS)
