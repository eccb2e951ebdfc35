"""`/login/oidc`: to the identity provider and back. Both ways are GETs of a browser: what makes them safe is
in the cookie that only this browser has, and in what the provider signed. That somebody is logged out there
the provider says by a request of its own, which is as safe as its signature.
"""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from gateway.http.auth import Serving
from gateway.http.dashboard.cookies import OwnCookie
from gateway.http.dashboard.forms import fields
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import login_form, open_in_browser, safe_path
from gateway.http.entrance import Entrance
from gateway.http.ports import LoginsPort
from gateway.http.services import Services
from gateway.model.errors import RequestRefused
from gateway.model.identity import LOGIN_SECONDS, LoginRefused, ProvenLogin, ProviderAway
from gateway.store.access import BrowserSession

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

PATH = "/login/oidc"
# Lax, for the way back is a navigation that another site begins
COOKIE = OwnCookie(name="fieldgate_oidc", path=PATH, samesite="lax")
_NOT_KEPT = {"Cache-Control": "no-store"}
LINK_GOOD = "Meanwhile a token or a one-time link logs you in."


@router.get(PATH)
async def depart(
    request: Request, serving: Serving, next: Annotated[str, Query(max_length=2048)] = "/"
) -> Response:
    """On to the provider. Whoever makes a browser come here makes it log in as its own person only."""
    logins, wanted = _logins(serving), safe_path(next)
    try:
        departure = await logins.begin(wanted)
    except ProviderAway:
        return _away(request, serving, logins, wanted)
    except LoginRefused as error:
        log.warning("http.login_refused", reason=error.reason, detail=error.detail)
        return login_form(request, serving, status=503, next_path=wanted, problem=f"{error} {LINK_GOOD}")
    response = RedirectResponse(departure.url, status_code=303)
    COOKIE.give(response, serving, departure.kept, seconds=LOGIN_SECONDS)
    return response


@router.get(f"{PATH}/callback")
async def arrive(
    request: Request,
    serving: Serving,
    state: Annotated[str, Query(max_length=512)] = "",
    code: Annotated[str | None, Query(max_length=8192)] = None,
    issuer: Annotated[str | None, Query(alias="iss", max_length=2048)] = None,
    error: Annotated[str | None, Query(max_length=512)] = None,
) -> Response:
    """Back from the provider. What fails counts against the address, as a wrong token does: each costs the
    provider a request.
    """
    logins, kept = _logins(serving), COOKIE.read(request, serving)
    _check_navigation(request)
    entrance: Entrance = request.app.state.mounted.entrance
    address = entrance.address(request.scope)
    entrance.check_attempts(address, "")
    try:
        login = await logins.finish(state=state, code=code or None, kept=kept, issuer=issuer, error=error)
        session = await _session(serving, login)
    except ProviderAway:
        return _forgetting(_away(request, serving, logins, "/"), serving)
    except LoginRefused as refused:
        entrance.failed(address, state, kind="oidc")
        log.warning("http.login_refused", reason=refused.reason, detail=refused.detail, address=address)
        answer = login_form(request, serving, status=403, next_path="/", problem=str(refused))
        # what another tab or another site came back with ends no login that this browser has begun since
        return answer if refused.reason == "not_begun_here" else _forgetting(answer, serving)
    # A page and no redirect: the browser would take a redirect for a part of the way that another site began,
    # and leave the session's cookie out.
    response = render(request, "logged_in.html", next=login.next_path)
    await open_in_browser(request, serving, response, session, lasts=login.lasts.total_seconds())
    log.info(
        "http.logged_in",
        by="oidc",
        name=login.principal.name,
        role=login.principal.role,
        customer=login.principal.customer,
        subject=login.subject,
        address=address,
    )
    return _forgetting(response, serving)


@router.post(f"{PATH}/backchannel-logout")
async def end(request: Request, serving: Serving) -> Response:
    """Ends the sessions that a logout token of the provider names. What is none counts against the address.

    Source: OpenID Connect Back-Channel Logout 1.0 (2.5, 2.8).
    """
    logins = _logins(serving)
    if "sec-fetch-site" in request.headers:  # a page of another site would have its visitors blocked
        raise RequestRefused("auth.forbidden", "The identity provider asks for this, and no browser.")
    entrance: Entrance = request.app.state.mounted.entrance
    address = entrance.address(request.scope)
    try:
        names = await serving.access.end_sessions(await logins.prove_logout(await _logout_token(request)))
    except ProviderAway:
        return _not_ended("temporarily_unavailable", "The provider cannot be asked for its keys now.")
    except LoginRefused as refused:
        # not before: what others of the same address guessed keeps no good token waiting, and a provider asks
        # only once
        entrance.check_attempts(address, "")
        entrance.failed(address, "", kind="oidc")
        log.warning("http.logout_refused", reason=refused.reason, detail=refused.detail, address=address)
        return _not_ended("invalid_request", f"This is no logout token for this gateway: {refused.reason}.")
    for name in names:
        log.info("http.logged_out", by="oidc", name=name)
    return Response(headers=_NOT_KEPT)


async def _logout_token(request: Request) -> str:
    """Empty where the request has none: what is no form is told as a token that is none, by 400."""
    try:
        return (await fields(request)).get("logout_token", "")
    except RequestRefused:
        return ""


def _not_ended(error: str, description: str) -> Response:
    said = {"error": error, "error_description": description}
    return JSONResponse(said, status_code=400, headers=_NOT_KEPT)


async def _session(serving: Services, login: ProvenLogin) -> BrowserSession:
    """Raises LoginRefused for a login that was finished before, or whose person was logged out meanwhile."""
    session = await serving.access.finish_login(login)
    if session is None:
        raise LoginRefused("replayed", "This login was finished before: begin again.", detail="state")
    return session


def _check_navigation(request: Request) -> None:
    """A page of another site that names this address as a picture would have its visitors' address blocked.
    Raises RequestRefused. Browsers that do not say what they ask for are believed.
    """
    if request.headers.get("sec-fetch-dest", "document") != "document":
        raise RequestRefused("auth.forbidden", "This is where a browser comes back to, and nothing else.")


def _logins(serving: Services) -> LoginsPort:
    if serving.logins is None:
        raise RequestRefused("request.not_found", "This gateway has no identity provider: see `oidc`.")
    return serving.logins


def _away(request: Request, serving: Services, logins: LoginsPort, wanted: str) -> Response:
    said = f"{logins.host}, where people log in, does not answer. Try again in a moment. {LINK_GOOD}"
    return login_form(request, serving, status=503, next_path=wanted, problem=said)


def _forgetting(response: Response, serving: Services) -> Response:
    COOKIE.forget(response, serving)
    return response
