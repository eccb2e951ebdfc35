"""Dead letters of a connection: readings that nobody could take, with another try and letting go, of some or
of all. Every button is a form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http import cursors
from gateway.http.auth import Serving, check_role
from gateway.http.dashboard.connection import Shown
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.access import Role
from gateway.model.connection import ENDED, State
from gateway.model.errors import RequestRefused
from gateway.store.views import END, LAST_ID

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
MARK = "letter."
"""A field for each letter that is chosen: `letter.<id>`."""


@router.get("/connections/{connection}/dead-letters")
async def dead_letters_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    target: Shown,
    after: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
    replayed: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    of: Annotated[int, Query(ge=0, le=2**53)] = 0,
    discarded: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    none: str = "",
) -> Response:
    """Reads only. A button leads back here and says what it did: how many were `discarded`, how many were
    `replayed` `of` those that were chosen, or that `none` was chosen.
    """
    rows = await serving.reader.dead_letters(
        target.connection, before=cursors.time_and_number(after, (END, LAST_ID)), limit=PAGE_ROWS + 1
    )
    shown = rows[:PAGE_ROWS]
    following = cursors.write(shown[-1].last_at, shown[-1].id) if len(rows) > PAGE_ROWS else ""
    return render(
        request,
        "dead_letters.html",
        session=session,
        target=target,
        rows=shown,
        is_first=after is None,
        next=following,
        replayed=replayed,
        stay=max(0, of - (replayed or 0)),
        discarded=discarded,
        nothing_chosen=bool(none),
        may_replay=target.state not in ENDED | {State.PENDING},
    )


@router.post("/connections/{connection}/dead-letters/{act}")
async def act_on_dead_letters(
    request: Request, serving: Serving, session: LoggedIn, target: Shown, act: str
) -> Response:
    """Tries those that are chosen again, or all; or lets go of those that are chosen."""
    given = await own_form(request, session, limit=PAGE_ROWS + 10)
    check_role(session.principal, Role.OPERATOR)
    here, chosen = f"/connections/{target.connection}/dead-letters", _chosen(given)
    if act not in ("replay", "replay-all", "discard"):
        raise RequestRefused("request.not_found", "There is no such button.")
    if act != "replay-all" and not chosen:
        return RedirectResponse(f"{here}?none=1", status_code=303)
    if act == "discard":
        gone = await serving.reader.discard(target.connection, chosen)
        return RedirectResponse(f"{here}?discarded={gone}", status_code=303)
    replayed = await serving.connections.replay(target.connection, None if act == "replay-all" else chosen)
    return RedirectResponse(f"{here}?replayed={replayed}&of={len(chosen)}", status_code=303)


def _chosen(given: Mapping[str, str]) -> list[int]:
    numbers = [name.removeprefix(MARK) for name in given if name.startswith(MARK)]
    if not all(text.isascii() and text.isdecimal() and len(text) < 19 for text in numbers):
        raise RequestRefused("request.invalid", "This form cannot be read.")
    return [int(text) for text in numbers]
