"""`/access`: API tokens, made (shown once) and revoked, and who is logged in. Whoever is bound to a customer
sees and makes only that customer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from gateway import clock
from gateway.http.auth import Serving, check_role
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import sorting
from gateway.http.services import Services
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.model.topics import IDENTIFIER
from gateway.store.access import BrowserSession, NewToken, Token

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

MAX_ROWS = 200
TITLES = {"name": "Name", "role": "Role", "customer": "Customer", "used": "Last used", "ends": "Ends"}
KEYS: Mapping[str, Callable[[Token], Any]] = {
    "name": lambda token: token.name.lower(),
    "role": lambda token: token.role,
    "customer": lambda token: token.customer,
    "used": lambda token: token.last_used_at,
    "ends": lambda token: token.revoked_at or token.expires_at,
}
LIVES = {"30": "30 days", "90": "90 days", "365": "a year", "": "no end"}


@router.get("/access")
async def access_page(
    request: Request, serving: Serving, session: LoggedIn, revoked: str = "", ended: str = ""
) -> Response:
    """Reads only."""
    check_role(session.principal, Role.ADMIN)
    said = "The token is revoked." if revoked else "The session is ended." if ended else ""
    return await _page(request, serving, session, said=said)


@router.post("/access")
async def create_token(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Shows the new token, once."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    bound = session.principal.customer
    name, role, life = given.get("name", "").strip(), given.get("role", ""), given.get("life", "90")
    customer = bound if bound is not None else given.get("customer", "").strip() or None
    faults: dict[str, str] = {}
    if not IDENTIFIER.fullmatch(name):
        faults["name"] = "Letters, digits, dots, dashes and underscores: 64 at most."
    if role not in set(Role):
        faults["role"] = "Choose what it may do."
    known = serving.customers()
    if customer is not None and (
        not IDENTIFIER.fullmatch(customer) or (bound is None and known and customer not in known)
    ):
        faults["customer"] = "There is no such customer in the configuration."
    if life not in LIVES:
        faults["life"] = "Choose how long it holds."
    if faults:
        return await _page(request, serving, session, faults=faults, typed=given, status=409)
    expires_at = clock.now() + timedelta(days=int(life)) if life else None
    try:
        made = await serving.access.create_token(
            name=name, role=Role(role), customer=customer, expires_at=expires_at
        )
    except RequestRefused as error:
        return await _page(request, serving, session, faults={"name": str(error)}, typed=given, status=409)
    return await _page(request, serving, session, made=made)


@router.post("/access/revoke")
async def revoke_token(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Ends a token, and the sessions that came by it."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    wanted = given.get("token", "")
    if not any(
        token.token_id == wanted for token in await serving.access.made_tokens(session.principal.customer)
    ):
        raise RequestRefused("request.not_found", "There is no such token.")
    await serving.access.revoke_token(wanted)
    return RedirectResponse("/access?revoked=1", status_code=303)


@router.post("/access/end")
async def end_session(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Logs somebody out, at once."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    name = await serving.access.end_session(given.get("session", ""), session.principal.customer)
    if name is None:
        raise RequestRefused("request.not_found", "There is no such session: it may have ended by itself.")
    log.info("http.session_ended", name=name, by=session.principal.name)
    return RedirectResponse("/access?ended=1", status_code=303)


async def _page(
    request: Request,
    serving: Services,
    session: BrowserSession,
    *,
    made: NewToken | None = None,
    faults: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
    said: str = "",
    status: int = 200,
) -> Response:
    sort = sorting(
        request.query_params.get("sort", ""),
        TITLES,
        lambda text: f"/access?sort={text}",
        greatest_first=("used", "ends"),
    )
    tokens = sort.sorted(await serving.access.made_tokens(session.principal.customer), KEYS)
    people = await serving.access.open_sessions(session.principal.customer, limit=MAX_ROWS)
    return render(
        request,
        "access.html",
        status=status,
        session=session,
        made=made,
        said=said,
        faults=faults or {},
        typed=typed or {},
        sort=sort,
        tokens=tokens[:MAX_ROWS],
        people=people,
        more=max(0, len(tokens) - MAX_ROWS),
        roles=[str(role) for role in Role],
        customers=list(serving.customers())[:MAX_ROWS],
        lives=LIVES,
    )
