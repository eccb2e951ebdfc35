"""`/reauthorize/{secret}`: where a customer's administrator gives a connection new credentials. GET changes
nothing; the secret is the only key.

It shows one connection and nothing else: no dashboard, no session, no cookie but the one of a login that is
under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Cookie, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import SecretStr

from gateway.connections.reauthorization import CODE_FLOW, FLOW_SECONDS, Link, Login, Stage
from gateway.http.auth import Serving
from gateway.http.dashboard.credential_form import Field, form_fields, form_values
from gateway.http.dashboard.forms import fields
from gateway.http.dashboard.rendering import render
from gateway.http.entrance import Entrance
from gateway.http.ports import Services, System
from gateway.model.access import Caller, Origin
from gateway.model.errors import RequestRefused
from gateway.settings import CredentialSettings

router = APIRouter(include_in_schema=False)

COOKIE = "fieldgate_login"
CALLBACK = "/oauth/callback"
_LOGINS = {
    Login.DECLINED: "The login was not completed, so nothing has changed. You can try again.",
    Login.REFUSED: (
        "The system did not confirm the login. Please try again; if it happens again, tell whoever sent you"
        " this link."
    ),
    Login.UNREACHABLE: (
        "The system could not be reached to confirm the login. Please try again in a few minutes."
    ),
}


@router.get("/reauthorize/{secret}")
async def page(
    request: Request,
    serving: Serving,
    secret: str,
    kind: Annotated[str, Query(alias="as")] = "",
    login: str = "",
) -> Response:
    """How it stands, and what to do. No side effect: mail scanners follow links."""
    said = next((text for outcome, text in _LOGINS.items() if outcome == login), None)
    return await _page(request, serving, secret, kind=kind, said=said)


@router.post("/reauthorize/{secret}")
async def submit(request: Request, serving: Serving, secret: str) -> Response:
    """Takes the credentials; what comes of them is seen on the page."""
    given = await fields(request)
    kind = given.pop("as", "")
    link = await _look(request, serving, secret)
    if link is None:
        return _void(request)
    try:
        await serving.reauthorization.submit(secret, _credentials(serving, link, kind, given), _by(request))
    except RequestRefused as error:
        said = str(error)
        if error.code == "request.invalid":
            said = f"{said.removesuffix('.')}. Nothing was sent to the system."
        return await _page(request, serving, secret, kind=kind, said=said, status=409)
    return RedirectResponse(f"/reauthorize/{secret}", status_code=303)


@router.post("/reauthorize/{secret}/login")
async def depart(request: Request, serving: Serving, secret: str) -> Response:
    """On to the system's own login page. A page with a link, not a redirect: a form may not lead to another
    site here.
    """
    try:
        departure = await serving.reauthorization.depart(secret)
    except RequestRefused as error:
        return await _page(request, serving, secret, said=str(error), status=409)
    if not departure.url.startswith(("https://", "http://")):
        raise RequestRefused("gateway.internal", "The system's login page has no address that can be opened.")
    response = render(request, "departing.html", url=departure.url)
    response.set_cookie(
        COOKIE,
        departure.browser,
        max_age=int(FLOW_SECONDS),
        path=CALLBACK,
        httponly=True,
        samesite="lax",
        secure=serving.public_url.startswith("https:"),
    )
    return response


@router.get(CALLBACK)
async def arrive(
    request: Request,
    serving: Serving,
    state: Annotated[str, Query(max_length=512)] = "",
    code: Annotated[str | None, Query(max_length=8192)] = None,
    browser: Annotated[str, Cookie(alias=COOKIE, max_length=512)] = "",
) -> Response:
    """Back from the system. Only the browser that left may arrive, and only once."""
    arrival = await serving.reauthorization.arrive(
        state=state, browser=browser, code=code or None, caller=_by(request)
    )
    ended = "" if arrival.login is Login.HANDED_OVER else f"?login={arrival.login}"
    response = RedirectResponse(f"/reauthorize/{arrival.secret}{ended}", status_code=303)
    response.delete_cookie(COOKIE, path=CALLBACK)
    return response


async def _page(
    request: Request,
    serving: Services,
    secret: str,
    *,
    kind: str = "",
    said: str | None = None,
    status: int = 200,
) -> Response:
    link = await _look(request, serving, secret)
    if link is None:
        return _void(request)
    system = serving.catalogue.get(link.stored.system)
    type_ = _type(serving, link, kind)
    return render(
        request,
        "reauthorize.html",
        status=status,
        secret=secret,
        link=link,
        stage=link.stage,
        takes_credentials=link.stage in (Stage.WANTED, Stage.REFUSED, Stage.ANOTHER_ACCOUNT, Stage.DEFERRED),
        title=link.stored.system if system is None else system.manifest.title,
        help=None if system is None else system.manifest.reauthorization,
        said=said,
        type=type_,
        types=_types(system, link),
        by_login=type_ == CODE_FLOW,
        fields=() if type_ == CODE_FLOW else _fields(serving, link, type_),
    )


async def _look(request: Request, serving: Services, secret: str) -> Link | None:
    """The link of this secret; None for one that is no good, which counts against the client's address.
    Raises RequestRefused("auth.too_many_attempts").
    """
    entrance: Entrance = request.app.state.mounted.entrance
    address = entrance.address(request.scope)
    entrance.check_attempts(address, secret)
    link = await serving.reauthorization.look(secret)
    if link is None:
        entrance.failed(address, secret, kind="reconnect_link")
    else:
        entrance.succeeded(secret)
    return link


def _credentials(serving: Services, link: Link, kind: str, given: Mapping[str, str]) -> CredentialSettings:
    type_ = _type(serving, link, kind)
    if type_ == CODE_FLOW:
        raise RequestRefused("request.conflict", "This system asks for the login on a page of its own.")
    values = form_values(_fields(serving, link, type_), given)
    return CredentialSettings.model_validate(
        {"type": type_, **{name: SecretStr(value) for name, value in values.items()}}
    )


def _void(request: Request) -> Response:
    return render(request, "void.html", status=404)


def _types(system: System | None, link: Link) -> tuple[str, ...]:
    """The types that the customer may choose from: the one that is in use, or, before there is one, each that
    the system takes.
    """
    if link.stored.credential_type != "none" or system is None:
        return (link.stored.credential_type,)
    return system.manifest.capabilities.auth


def _type(serving: Services, link: Link, wanted: str) -> str:
    types = _types(serving.catalogue.get(link.stored.system), link)
    return wanted if wanted in types else types[0]


def _fields(serving: Services, link: Link, type_: str) -> tuple[Field, ...]:
    system = serving.catalogue.get(link.stored.system)
    return () if system is None else form_fields(system.credentials_schema, type_)


def _by(request: Request) -> Caller:
    return Caller(name="link", request_id=request.state.request_id, origin=Origin.BOUND)
