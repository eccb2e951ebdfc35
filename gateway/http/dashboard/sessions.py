"""Logging in to the dashboard by an API token or a one-time link (`provider_login`: by an identity provider),
kept in a cookie that only this site's pages send.
"""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.auth import ANYONE, Mounted, Serving, identified
from gateway.http.dashboard.cookies import OwnCookie
from gateway.http.dashboard.forms import check_origin, fields, own_form
from gateway.http.dashboard.rendering import render
from gateway.http.entrance import Entrance
from gateway.http.services import Services
from gateway.model.errors import FieldgateError, StoreError
from gateway.store.access import SESSION_SECONDS, BrowserSession
from gateway.store.turns import work_for

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

COOKIE = OwnCookie(name="fieldgate_session", samesite="strict")
_OPEN_SECRET = secrets.token_urlsafe(
    32
)  # of forms where authentication is off: another site still cannot send them


class LoginNeeded(FieldgateError):
    """Nobody is logged in. `next_path` (quoted) is where to go on."""

    def __init__(self, next_path: str) -> None:
        super().__init__("log in first")
        self.next_path = next_path


async def _session(request: Request, serving: Serving) -> BrowserSession:
    if not serving.authentication:
        session = BrowserSession(principal=ANYONE, secret=_OPEN_SECRET)
        request.state.session = session
        return session
    secret = COOKIE.read(request, serving)
    found = None if not secret else await serving.access.identify_session(secret)
    if found is None:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise LoginNeeded(quote(wanted if request.method == "GET" else "/", safe=""))
    request.state.session = found
    work_for(found.principal.customer)
    return found


LoggedIn = Annotated[BrowserSession, Depends(_session)]


async def visitor(request: Request) -> BrowserSession | None:
    """Who is logged in, for a page that anybody may see: it shows them the way to the others."""
    mounted: Mounted = request.app.state.mounted
    if mounted.services is None:
        return None
    try:
        return await _session(request, mounted.services)
    except (LoginNeeded, StoreError):
        return None


Visiting = Annotated[BrowserSession | None, Depends(visitor)]


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    """Asks for an API token, or for a press of the button that leads to the identity provider."""
    mounted: Mounted = request.app.state.mounted
    return login_form(request, mounted.services, next_path=safe_path(next))


@router.get("/login/{link}")
async def link_page(request: Request, link: str) -> Response:
    """Asks for a press of a button: a program that follows links must not use this one up."""
    return login_form(request, None, link=link)


@router.post("/login")
async def login(request: Request, serving: Serving) -> Response:
    """Opens a session under a new secret, whatever cookie came."""
    check_origin(request)
    given = await fields(request)
    session = await _enter(request, serving, given)
    by = "link" if "link" in given else "token"
    if session is None:
        said = (
            "This link was used already, or is too old."
            if by == "link"
            else "This token is unknown, expired or revoked."
        )
        return login_form(
            request, serving, status=401, next_path=safe_path(given.get("next", "/")), problem=said
        )
    response = RedirectResponse(safe_path(given.get("next", "/")), status_code=303)
    await open_in_browser(request, serving, response, session, lasts=SESSION_SECONDS)
    entrance: Entrance = request.app.state.mounted.entrance
    log.info(
        "http.logged_in",
        by=by,
        name=session.principal.name,
        role=session.principal.role,
        customer=session.principal.customer,
        address=entrance.address(request.scope),
    )
    return response


@router.post("/logout")
async def logout(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Ends the session, here and in the database; who came by the identity provider is shown the way out
    there.
    """
    await own_form(request, session)
    await serving.access.close_session(session.secret)
    log.info("http.logged_out", by="page", name=session.principal.name)
    url = None
    if serving.logins is not None and "@" in session.principal.name:
        url = await serving.logins.logout_url()
    if url is None or serving.logins is None:
        response: Response = RedirectResponse("/login", status_code=303)
    else:
        response = render(request, "logged_out.html", session=None, url=url, host=serving.logins.host)
    COOKIE.forget(response, serving)
    return response


def login_form(
    request: Request,
    serving: Services | None,
    *,
    status: int = 200,
    next_path: str = "/",
    link: str | None = None,
    problem: str | None = None,
) -> Response:
    """The page to log in by a token, a link or the identity provider. `serving` None: not known yet."""
    logins = None if serving is None else serving.logins
    return render(
        request,
        "login.html",
        status=status,
        next=next_path,
        link=link,
        problem=problem,
        provider=None if logins is None else logins.title,
        leads=f"/login/oidc?next={quote(next_path, safe='')}",
    )


async def open_in_browser(
    request: Request, serving: Services, response: Response, session: BrowserSession, *, lasts: float
) -> None:
    """The session's cookie; the session that the browser had before is over."""
    if old := COOKIE.read(request, serving):
        await serving.access.close_session(old)
    COOKIE.give(response, serving, session.secret, seconds=lasts)


async def _enter(request: Request, serving: Services, given: dict[str, str]) -> BrowserSession | None:
    """Raises RequestRefused("auth.too_many_attempts")."""
    if "link" in given:
        entrance: Entrance = request.app.state.mounted.entrance
        address = entrance.address(request.scope)
        entrance.check_attempts(address, given["link"])
        session = await serving.access.redeem_login(given["link"])
        if session is None:
            entrance.failed(address, given["link"], kind="login_link")
        return session
    found = await identified(request, serving, given.get("token", "").strip(), kind="login")
    return None if found is None else await serving.access.open_session(*found)


def safe_path(path: str) -> str:
    """A path of ours, whatever was asked for."""
    return (
        path
        if path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
        else "/"
    )
