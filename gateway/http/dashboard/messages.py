"""Messages that are dead letters: by source and reason, one with what it held and what would become of it
now, another try, and letting go. Every button is a form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http import cursors
from gateway.http.api.messages import (
    REPLAYED_AT_ONCE,
    find_message,
    log_discarded,
    message_document,
)
from gateway.http.auth import Serving, check_role, only_customer
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.model.preview import preview
from gateway.store.access import BrowserSession
from gateway.store.messages import LAST_ID, DeadMessageFilter

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
MAX_OVER = 20
SHOWN_BYTES = 16 << 10
"""Of a payload, on its page; the API has all of it."""

NAMES = ("customer", "source", "reason", "topic")
Given = Annotated[str | None, Query(max_length=1024)]
Number = Annotated[int, Path(ge=1, le=2**53)]


async def _asked_by_address(
    customer: Given = None, source: Given = None, reason: Given = None, topic: Given = None
) -> dict[str, str]:
    """`source` and `-`: of none."""
    return _asked({"customer": customer, "source": source, "reason": reason, "topic": topic})


Asked = Annotated[dict[str, str], Depends(_asked_by_address)]


@router.get("/messages")
async def messages_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    asked: Asked,
    after: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
    replayed: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    failed: Annotated[int, Query(ge=0, le=2**53)] = 0,
    discarded: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """Reads only."""
    wanted = _wanted(session, asked)
    rows = await serving.messages.page(
        wanted, before=cursors.number_cursor(after, LAST_ID), limit=PAGE_ROWS + 1
    )
    shown = rows[:PAGE_ROWS]
    more = {**asked, "after": cursors.write(shown[-1].id)} if len(rows) > PAGE_ROWS else None
    counted = await serving.messages.counted(only_customer(session.principal, asked.get("customer")))
    return render(
        request,
        "messages.html",
        session=session,
        asked=asked,
        rows=[message_document(row) for row in shown],
        groups=counted.groups,
        complete=counted.complete,
        over=await serving.messages.over(only_customer(session.principal, None), limit=MAX_OVER),
        is_first=after is None,
        more=None if more is None else urlencode(more),
        group_link=lambda group: urlencode(
            _kept(asked, "customer") | {"source": group.source or NONE, "reason": group.reason}
        ),
        here=urlencode(asked),
        replayed=replayed,
        failed=failed,
        discarded=discarded,
    )


@router.get("/messages/discard")
async def confirm_discard(request: Request, serving: Serving, session: LoggedIn, asked: Asked) -> Response:
    """Asks once more, with how many they are."""
    check_role(session.principal, Role.OPERATOR)
    wanted = await serving.messages.until_now(_wanted(session, asked))
    return render(
        request,
        "discard.html",
        session=session,
        asked=asked,
        up_to=wanted.up_to,
        count=await serving.messages.fitting(wanted),
        here=urlencode(asked),
    )


@router.post("/messages/discard")
async def discard(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Lets go of them, if they are still as many."""
    given = await own_form(request, session)
    check_role(session.principal, Role.OPERATOR)
    asked, count = _asked(given), _number(given, "expected")
    wanted = replace(_wanted(session, asked), up_to=_number(given, "up_to"))
    await serving.messages.discard(wanted, expected=count)
    log_discarded(session.principal, count)
    return RedirectResponse(f"/messages?{urlencode({**asked, 'discarded': count})}", status_code=303)


@router.post("/messages/replay")
async def replay(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Tries those that fit again, the oldest first; where there are many the page asks to go on."""
    given = await own_form(request, session)
    check_role(session.principal, Role.OPERATOR)
    asked = _asked(given)
    wanted = await serving.messages.until_now(_wanted(session, asked))
    after = cursors.number_cursor(given.get("after") or None, 0)
    found = await serving.messages.replay(
        wanted, after=after, limit=REPLAYED_AT_ONCE, bound=session.principal.customer
    )
    if found.last is not None:
        return render(
            request,
            "replayed.html",
            session=session,
            asked=asked,
            found=found,
            after=cursors.write(found.last),
            here=urlencode(asked),
        )
    told = {**asked, "replayed": found.replayed, "failed": found.failed_count}
    return RedirectResponse(f"/messages?{urlencode(told)}", status_code=303)


@router.get("/messages/{message}")
async def message_page(
    request: Request, serving: Serving, session: LoggedIn, message: Number, stays: str = ""
) -> Response:
    """Reads only."""
    told = await find_message(serving, session.principal, message)
    data = told.message.head[:SHOWN_BYTES]
    return render(
        request,
        "message.html",
        session=session,
        row=told.message,
        told=told,
        shown=preview(data, is_cut=len(data) < told.message.size_bytes, rows=True),
        is_cut=len(data) < told.message.size_bytes,
        stays=bool(stays),
    )


@router.post("/messages/{message}/replay")
async def replay_one(request: Request, serving: Serving, session: LoggedIn, message: Number) -> Response:
    """Tries it again; where it fails its page shows the new reason."""
    await own_form(request, session)
    check_role(session.principal, Role.OPERATOR)
    await find_message(serving, session.principal, message)
    found = await serving.messages.replay_these([message], bound=session.principal.customer)
    if found.failed:
        return RedirectResponse(f"/messages/{message}?stays=1", status_code=303)
    return RedirectResponse(f"/messages?replayed={found.replayed}", status_code=303)


@router.post("/messages/{message}/discard")
async def discard_one(request: Request, serving: Serving, session: LoggedIn, message: Number) -> Response:
    """Lets go of it for good."""
    await own_form(request, session)
    check_role(session.principal, Role.OPERATOR)
    await find_message(serving, session.principal, message)
    if await serving.messages.discard_one(message):
        log_discarded(session.principal, 1)
    return RedirectResponse("/messages?discarded=1", status_code=303)


NONE = "-"
"""In an address: of no source. A topic template is never that short a name."""


def _asked(given: dict[str, str | None] | dict[str, str]) -> dict[str, str]:
    """What narrows the list; empty fields narrow nothing."""
    return {name: text for name in NAMES if (text := (given.get(name) or "").replace("\0", ""))}


def _kept(asked: dict[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in asked.items() if name in names}


def _wanted(session: BrowserSession, asked: dict[str, str]) -> DeadMessageFilter:
    source = asked.get("source")
    return DeadMessageFilter(
        customer=only_customer(session.principal, asked.get("customer")),
        source="" if source == NONE else source,
        reason=asked.get("reason"),
        topic=asked.get("topic"),
    )


def _number(given: dict[str, str], name: str) -> int:
    text = given.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 18):
        raise RequestRefused("request.invalid", "This form is not complete: begin anew.")
    return int(text)
