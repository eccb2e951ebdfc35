"""A connection's own page, and the buttons on it. What a button does is the lifecycle's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import RedirectResponse

from gateway import clock
from gateway.connections.service import Connections
from gateway.http.auth import Serving, caller, check_role, find_target
from gateway.http.dashboard.charts import bars
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.access import Caller, Role
from gateway.model.connection import ENDED, State
from gateway.model.errors import RequestRefused
from gateway.model.status import WORKED
from gateway.settings_base import IDENTIFIER
from gateway.store.views import END, LAST_ID, AskedConnection

router = APIRouter(include_in_schema=False)

RECENT = 20
MAX_METERS = 50
METERS_SINCE = timedelta(days=7)
SPANS: Mapping[str, tuple[timedelta, timedelta]] = {
    "24 hours": (timedelta(hours=24), timedelta(hours=1)),
    "7 days": (timedelta(days=7), timedelta(hours=2)),
    "30 days": (timedelta(days=30), timedelta(hours=12)),
}
"""What the chart shows, and what a bar of it is of."""

DAY = "24 hours"

Act = Callable[[Connections, str, Caller], Awaitable[None]]
_ACTS: dict[str, tuple[Role, Act, str]] = {
    "pause": (
        Role.OPERATOR,
        lambda service, name, by: service.pause(name, by),
        "Paused. Telemetry is kept until you resume.",
    ),
    "resume": (Role.OPERATOR, lambda service, name, by: service.resume(name, by), "Resumed."),
    "recheck": (
        Role.OPERATOR,
        lambda service, name, by: service.recheck(name, by),
        "Checking the connection.",
    ),
    "retry-credentials": (
        Role.OPERATOR,
        lambda service, name, by: service.retry_credentials(name, by),
        "Checking the same credentials again.",
    ),
    "sync": (
        Role.OPERATOR,
        lambda service, name, by: service.synchronise(name, full=False, caller=by),
        "The streams run now.",
    ),
    "full-sync": (
        Role.OPERATOR,
        lambda service, name, by: service.synchronise(name, full=True, caller=by),
        "The initial window is walked again.",
    ),
    "disconnect": (
        Role.ADMIN,
        lambda service, name, by: service.disconnect(name, by),
        "Disconnecting: what is in hand is finished first.",
    ),
}


async def _target(
    serving: Serving, session: LoggedIn, connection: Annotated[str, Path(pattern=IDENTIFIER)]
) -> AskedConnection:
    return await find_target(serving, session.principal, connection)


Shown = Annotated[AskedConnection, Depends(_target)]


@router.get("/connections/{connection}")
async def connection_page(
    request: Request, serving: Serving, session: LoggedIn, target: Shown, done: str = "", span: str = DAY
) -> Response:
    """Reads only."""
    said = _ACTS[done][2] if done in _ACTS else None
    return await _page(request, serving, session, target, said=said, span=span if span in SPANS else DAY)


@router.get("/connections/{connection}/disconnect")
async def confirm(request: Request, session: LoggedIn, target: Shown) -> Response:
    """Asks once more."""
    check_role(session.principal, Role.ADMIN)
    return render(request, "disconnect.html", session=session, target=target)


@router.post("/connections/{connection}/reauthorization")
async def invite(request: Request, serving: Serving, session: LoggedIn, target: Shown) -> Response:
    """Shows the new link, once."""
    await own_form(request, session)
    check_role(session.principal, Role.OPERATOR)
    if target.state in ENDED:
        raise RequestRefused(
            "connection.disconnected", "A disconnected connection takes no credentials; create a new one."
        )
    invitation = await serving.reauthorization.invite(target.connection)
    return render(request, "link.html", session=session, target=target, invitation=invitation)


@router.post("/connections/{connection}/{act}")
async def act(request: Request, serving: Serving, session: LoggedIn, target: Shown, act: str) -> Response:
    """Does it and shows the connection again; what is refused is said on the page."""
    await own_form(request, session)
    if act not in _ACTS:
        raise RequestRefused("request.not_found", "There is no such button.")
    role, do, _ = _ACTS[act]
    check_role(session.principal, role)
    try:
        await do(serving.connections, target.connection, caller(request, session.principal, kind="dashboard"))
    except RequestRefused as error:
        return await _page(request, serving, session, target, refused=str(error))
    return RedirectResponse(f"/connections/{target.connection}?done={act}", status_code=303)


async def _page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    target: AskedConnection,
    *,
    said: str | None = None,
    refused: str | None = None,
    span: str = DAY,
) -> Response:
    name, at, (width, bar) = target.connection, clock.now(), SPANS[span]
    statuses = await serving.reader.status([name])
    described = await serving.reader.connections(connection_id=name, limit=1, rules=False)
    if not statuses or not described:
        raise RequestRefused("request.not_found", "There is no such connection.")
    hours = await serving.reader.hours([name], since=at - width)
    meters = await serving.reader.meters(name, since=at - METERS_SINCE, limit=MAX_METERS + 1)
    return render(
        request,
        "connection.html",
        status=200 if refused is None else 409,
        session=session,
        said=said,
        refused=refused,
        now=statuses[0],
        described=described[0],
        system=serving.catalogue.get(statuses[0].system),
        runs=await serving.reader.runs(name, before=(END, LAST_ID), limit=RECENT),
        dead_letters=await serving.reader.dead_letters(name, before=(END, LAST_ID), limit=RECENT),
        audit=await serving.reader.audit(name, limit=RECENT),
        alerts=await serving.reader.alerts(connection_id=name, limit=RECENT),
        span=span,
        spans=SPANS,
        chart=bars(hours.get(name, ()), now=at, span=width, bar=bar),
        meters=meters[:MAX_METERS],
        more_meters=len(meters) > MAX_METERS,
        buttons=_buttons(statuses[0].state, session.principal.role),
    )


def _buttons(state: State, role: Role) -> list[tuple[str, str]]:
    """The acts that this role may do and that mean something in this state, with their labels."""
    offered: list[tuple[str, str, bool]] = [
        ("resume", "Resume", state is State.PAUSED),
        ("recheck", "Check now", state in WORKED or state is State.BLOCKED),
        (
            "retry-credentials",
            "Try the same credentials again",
            state is State.REAUTHORIZATION_REQUIRED,
        ),
        ("sync", "Sync now", state in WORKED),
        ("full-sync", "Full sync", state in WORKED),
        ("pause", "Pause", state not in ENDED and state is not State.PAUSED),
    ]
    return [
        (name, label) for name, label, makes_sense in offered if makes_sense and role.covers(_ACTS[name][0])
    ]
