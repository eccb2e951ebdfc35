"""Logging in to the dashboard: by an API token or a one-time link, kept in a cookie that only this site's
pages send.
"""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.auth import ANYONE, Serving, identified
from gateway.http.dashboard.forms import check_origin, fields, own_form
from gateway.http.dashboard.rendering import render
from gateway.http.entrance import Entrance
from gateway.http.ports import Services
from gateway.model.errors import FieldgateError
from gateway.store.access import SESSION_SECONDS, Session

router = APIRouter(include_in_schema=False)

COOKIE = "fieldgate_session"
_OPEN_SECRET = secrets.token_urlsafe(
    32
)  # of forms where authentication is off: another site still cannot send them


class LoginNeeded(FieldgateError):
    """Nobody is logged in. `next_path` (quoted) is where to go on."""

    def __init__(self, next_path: str) -> None:
        super().__init__("log in first")
        self.next_path = next_path


async def _session(request: Request, serving: Serving) -> Session:
    if not serving.authentication:
        return Session(principal=ANYONE, secret=_OPEN_SECRET)
    secret = request.cookies.get(COOKIE)
    session = None if secret is None else await serving.access.identify_session(secret)
    if session is None:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise LoginNeeded(quote(wanted if request.method == "GET" else "/", safe=""))
    return session


LoggedIn = Annotated[Session, Depends(_session)]


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:
    """Asks for an API token."""
    return render(request, "login.html", next=_safe(next), link=None, problem=None)


@router.get("/login/{link}")
async def link_page(request: Request, link: str) -> Response:
    """Asks for a press of a button: a program that follows links must not use this one up."""
    return render(request, "login.html", next="/", link=link, problem=None)


@router.post("/login")
async def login(request: Request, serving: Serving) -> Response:
    """Opens a session under a new secret, whatever cookie came."""
    check_origin(request)
    given = await fields(request)
    session = await _enter(request, serving, given)
    if session is None:
        said = (
            "This link was used already, or is too old."
            if "link" in given
            else "This token is unknown, expired or revoked."
        )
        return render(
            request, "login.html", status=401, next=_safe(given.get("next", "/")), link=None, problem=said
        )
    if (old := request.cookies.get(COOKIE)) is not None:
        await serving.access.close_session(old)
    response = RedirectResponse(_safe(given.get("next", "/")), status_code=303)
    response.set_cookie(
        COOKIE,
        session.secret,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=serving.public_url.startswith("https:"),
    )
    return response


@router.post("/logout")
async def logout(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Ends the session, here and in the database."""
    await own_form(request, session)
    await serving.access.close_session(session.secret)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response


async def _enter(request: Request, serving: Services, given: dict[str, str]) -> Session | None:
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


def _safe(path: str) -> str:
    """A path of ours, whatever was asked for."""
    return (
        path
        if path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
        else "/"
    )
