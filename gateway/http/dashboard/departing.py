"""On to a system's own login page, and what is said of how a login there ended."""

from __future__ import annotations

from fastapi import Request, Response

from gateway.connections.login_page import FLOW_SECONDS, Departure, Login
from gateway.http.dashboard.cookies import OwnCookie
from gateway.http.dashboard.rendering import render
from gateway.http.services import Services
from gateway.model.errors import RequestRefused

CALLBACK = "/oauth/callback"
COOKIE = OwnCookie(name="fieldgate_login", path=CALLBACK, samesite="lax")
LOGINS = {
    Login.DECLINED: "The login was not completed, so nothing has changed. You can try again.",
    Login.REFUSED: (
        "The system did not confirm the login. Please try again; if it happens again, tell whoever sent you"
        " this link."
    ),
    Login.UNREACHABLE: (
        "The system could not be reached to confirm the login. Please try again in a few minutes."
    ),
}


def departed(request: Request, serving: Services, departure: Departure) -> Response:
    """A page with a link, not a redirect: a form may not lead to another site here. The cookie is of this
    browser, and of the way back only.
    """
    if not departure.url.startswith(("https://", "http://")):
        raise RequestRefused("gateway.internal", "The system's login page has no address that can be opened.")
    response = render(request, "departing.html", url=departure.url, integrator=serving.integrator)
    COOKIE.give(response, serving, departure.browser, seconds=FLOW_SECONDS)
    return response
