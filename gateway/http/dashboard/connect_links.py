"""`/connect-links`: links through which customers connect a system themselves: made (shown once), and
withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from gateway.connections.connecting import ConnectInvitation
from gateway.http.api.connect_links import invite
from gateway.http.auth import Serving, caller, check_role
from gateway.http.dashboard.credential_form import sentence
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import sorting
from gateway.http.documents import NewConnectLink
from gateway.http.services import Services
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.store.access import BrowserSession
from gateway.store.connecting import StoredConnectLink

router = APIRouter(include_in_schema=False)

MAX_ROWS = 100
MAX_CUSTOMERS = 500
TITLES = {"customer": "Customer", "state": "State", "made": "Made", "ends": "Good until"}
KEYS: Mapping[str, Callable[[StoredConnectLink], Any]] = {
    "customer": lambda link: link.customer,
    "state": lambda link: link.state,
    "made": lambda link: link.created_at,
    "ends": lambda link: link.expires_at,
}
MARK = "system."
"""A field for each system that the customer may choose."""


@router.get("/connect-links")
async def links_page(request: Request, serving: Serving, session: LoggedIn, withdrawn: str = "") -> Response:
    """Reads only."""
    check_role(session.principal, Role.ADMIN)
    said = "The link is withdrawn: it is good no more." if withdrawn else ""
    return await _page(request, serving, session, said=said)


@router.post("/connect-links")
async def make(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Shows the new link, once."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    bound = session.principal.customer
    systems = [name.removeprefix(MARK) for name in given if name.startswith(MARK)]
    if not systems:
        return await _page(request, serving, session, fault="Choose a system at least.", typed=given)
    try:
        wanted = NewConnectLink.model_validate(
            {
                "customer": bound if bound is not None else given.get("customer", "").strip(),
                "systems": systems,
                "hosting": given.get("hosting", "cloud"),
                "title": given.get("title", "").strip() or None,
                "days": given.get("days", "7"),
            }
        )
        made = await invite(
            serving, session.principal, wanted, caller(request, session.principal, kind="dashboard")
        )
    except ValidationError:
        said = "Choose a customer, and from 1 to 90 days."
        return await _page(request, serving, session, fault=said, typed=given)
    except RequestRefused as error:
        return await _page(request, serving, session, fault=sentence(str(error)), typed=given)
    return await _page(request, serving, session, made=made)


@router.post("/connect-links/withdraw")
async def withdraw(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """It is good no more, and what was entered through it is forgotten."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    by = caller(request, session.principal, kind="dashboard").name
    await serving.connecting.revoke(given.get("link", ""), session.principal.customer, by=by)
    return RedirectResponse("/connect-links?withdrawn=1", status_code=303)


async def _page(
    request: Request,
    serving: Services,
    session: BrowserSession,
    *,
    made: ConnectInvitation | None = None,
    said: str = "",
    fault: str = "",
    typed: Mapping[str, str] | None = None,
) -> Response:
    sort = sorting(
        request.query_params.get("sort", ""),
        TITLES,
        lambda text: f"/connect-links?sort={text}",
        greatest_first=("made", "ends"),
    )
    links = sort.sorted(await serving.connecting.links(session.principal.customer), KEYS)
    titles = {name: system.manifest.title for name, system in sorted(serving.catalogue.items())}
    bound = session.principal.customer
    return render(
        request,
        "connect_links.html",
        status=409 if fault else 200,
        session=session,
        made=made,
        said=said,
        fault=fault,
        typed=typed or {},
        sort=sort,
        links=links[:MAX_ROWS],
        titles=titles,
        customers=[bound] if bound else list(serving.customers())[:MAX_CUSTOMERS],
    )
