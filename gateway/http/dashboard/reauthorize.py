"""`/reauthorize/{secret}`: where a customer's administrator gives a connection new credentials. GET changes
nothing; the secret is the only key.

It shows one connection and nothing else: no dashboard, no session, no cookie but the one of a login that is
under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import SecretStr

from gateway.connections.login_page import CODE_FLOW, Login
from gateway.connections.reauthorization import ReconnectLink, Stage
from gateway.http.auth import Serving
from gateway.http.dashboard.credential_form import (
    Field,
    faults_by_field,
    form_fields,
    form_values,
    sentence,
)
from gateway.http.dashboard.departing import CALLBACK, COOKIE, LOGINS, departed
from gateway.http.dashboard.forms import fields
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.secret_links import opened
from gateway.http.ports import CatalogueEntry
from gateway.http.services import Services
from gateway.model.access import Caller, Origin
from gateway.model.connection import State
from gateway.model.errors import RequestRefused
from gateway.settings import CredentialSettings
from gateway.store.turns import work_for

router = APIRouter(include_in_schema=False)

NOT_SENT = "Nothing was sent to the system, and no attempt was used. Please look at what is marked below."


@router.get("/reauthorize/{secret}")
async def page(
    request: Request,
    serving: Serving,
    secret: str,
    kind: Annotated[str, Query(alias="as")] = "",
    login: str = "",
) -> Response:
    """How it stands, and what to do. No side effect: mail scanners follow links."""
    said = next((text for outcome, text in LOGINS.items() if outcome == login), None)
    return await _page(request, serving, secret, kind=kind, said=said)


@router.post("/reauthorize/{secret}")
async def submit(request: Request, serving: Serving, secret: str) -> Response:
    """Takes the credentials; what comes of them is seen on the page."""
    given = await fields(request)
    kind = given.pop("as", "")
    link = await _look(request, serving, secret)
    if link is None:
        return _void(request, serving)
    try:
        await serving.reauthorization.submit(secret, _credentials(serving, link, kind, given), _by(request))
    except RequestRefused as error:
        faults = faults_by_field(error, "credentials") if error.code == "request.invalid" else {}
        said = NOT_SENT if faults else sentence(str(error))
        return await _page(request, serving, secret, kind=kind, said=said, faults=faults, status=409)
    return RedirectResponse(f"/reauthorize/{secret}", status_code=303)


@router.post("/reauthorize/{secret}/again")
async def again(request: Request, serving: Serving, secret: str) -> Response:
    """The same credentials once more: the system may have been wrong."""
    if await _look(request, serving, secret) is None:
        return _void(request, serving)
    try:
        await serving.reauthorization.retry(secret, _by(request))
    except RequestRefused as error:
        return await _page(request, serving, secret, said=sentence(str(error)), status=409)
    return RedirectResponse(f"/reauthorize/{secret}", status_code=303)


@router.post("/reauthorize/{secret}/login")
async def depart(request: Request, serving: Serving, secret: str) -> Response:
    """On to the system's own login page."""
    try:
        departure = await serving.reauthorization.depart(secret)
    except RequestRefused as error:
        return await _page(request, serving, secret, said=sentence(str(error)), status=409)
    return departed(request, serving, departure)


@router.get(CALLBACK)
async def arrive(
    request: Request,
    serving: Serving,
    state: Annotated[str, Query(max_length=512)] = "",
    code: Annotated[str | None, Query(max_length=8192)] = None,
) -> Response:
    """Back from the system, to the link or to the steps of connecting. Only the browser that left may arrive,
    and only once.
    """
    browser = COOKIE.read(request, serving)
    back = await serving.connecting.arrive(state=state, browser=browser, code=code or None)
    if back is not None:
        said = "verify" if back.login is Login.HANDED_OVER else "credentials"
        address, login = f"{back.back}/{said}", back.login
    else:
        try:
            arrival = await serving.reauthorization.arrive(
                state=state, browser=browser, code=code or None, caller=_by(request)
            )
        except RequestRefused as error:
            if error.code != "request.not_found":
                raise
            return render(
                request, "login_lost.html", status=404, said=str(error), integrator=serving.integrator
            )
        address, login = f"/reauthorize/{arrival.secret}", arrival.login
    ended = "" if login is Login.HANDED_OVER else f"?login={login}"
    response = RedirectResponse(f"{address}{ended}", status_code=303)
    COOKIE.forget(response, serving)
    return response


async def _page(
    request: Request,
    serving: Services,
    secret: str,
    *,
    kind: str = "",
    said: str | None = None,
    faults: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    link = await _look(request, serving, secret)
    if link is None:
        return _void(request, serving)
    system = serving.catalogue.get(link.stored.system)
    type_ = _type(serving, link, kind)
    return render(
        request,
        "reauthorize.html",
        status=status,
        secret=secret,
        link=link,
        stage=link.stage,
        takes_credentials=link.stage
        in (
            Stage.WANTED,
            Stage.REFUSED,
            Stage.ANOTHER_ACCOUNT,
            Stage.DEFERRED,
            Stage.SOLVED,
        ),
        title=link.stored.system if system is None else system.manifest.title,
        help=_help(system, link),
        said=said,
        faults={name: text for name, text in (faults or {}).items() if name},
        general=(faults or {}).get("", ""),
        kept_for=_kept_for(serving, system),
        integrator=serving.integrator,
        type=type_,
        types=_types(system, link),
        by_login=type_ == CODE_FLOW,
        fields=() if type_ == CODE_FLOW else _fields(serving, link, type_),
    )


async def _look(request: Request, serving: Services, secret: str) -> ReconnectLink | None:
    found = await opened(request, secret, serving.reauthorization.look, kind="reconnect_link")
    work_for(None if found is None else found.stored.customer)
    return found


def _credentials(
    serving: Services, link: ReconnectLink, kind: str, given: Mapping[str, str]
) -> CredentialSettings:
    type_ = _type(serving, link, kind)
    if type_ == CODE_FLOW:
        raise RequestRefused("request.conflict", "This system asks for the login on a page of its own.")
    fields = _fields(serving, link, type_)
    values = form_values(fields, given) if fields else {}
    return CredentialSettings.model_validate(
        {"type": type_, **{name: SecretStr(value) for name, value in values.items()}}
    )


def _void(request: Request, serving: Services) -> Response:
    return render(request, "void.html", status=404, integrator=serving.integrator)


def _help(system: CatalogueEntry | None, link: ReconnectLink) -> str | None:
    """What to do at the system. That it refused a credential, the first line, is said
    only while that is so.
    """
    if system is None:
        return None
    text = system.manifest.reauthorization
    refused = link.stored.state is State.REAUTHORIZATION_REQUIRED
    return text if refused else text.partition("\n")[2]


def _kept_for(serving: Services, system: CatalogueEntry | None) -> tuple[float, float | None]:
    """For how many days what devices send is kept, and, where the system takes no older readings, how old
    they may be.
    """
    most = None if system is None else system.manifest.capabilities.max_backfill
    kept = serving.retention.total_seconds() / 86400
    return kept, None if most is None or most >= serving.retention else most.total_seconds() / 86400


def _types(system: CatalogueEntry | None, link: ReconnectLink) -> tuple[str, ...]:
    """The types that the customer may choose from: the one that is in use, or, before there is one, each that
    the system takes.
    """
    if link.stored.credential_type != "none" or system is None:
        return (link.stored.credential_type,)
    return system.manifest.capabilities.auth


def _type(serving: Services, link: ReconnectLink, wanted: str) -> str:
    types = _types(serving.catalogue.get(link.stored.system), link)
    return wanted if wanted in types else types[0]


def _fields(serving: Services, link: ReconnectLink, type_: str) -> tuple[Field, ...]:
    system = serving.catalogue.get(link.stored.system)
    return () if system is None else form_fields(system.credentials_schema, type_)


def _by(request: Request) -> Caller:
    return Caller(name="link", request_id=request.state.request_id, origin=Origin.BOUND)
