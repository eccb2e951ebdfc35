"""`/connect`: a system is connected step by step, by an administrator who is logged in or by a customer
through a connect link. Every step works without script; GET changes nothing.

What was entered is kept by `gateway.connections.connecting`, sealed; a page never holds a secret that was
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from gateway.connections.connecting import owner_of
from gateway.http.auth import Serving, caller, check_role
from gateway.http.dashboard.connect_steps import show, take
from gateway.http.dashboard.connect_walk import STEPS, Walk
from gateway.http.dashboard.forms import check_origin, fields, own_form
from gateway.http.dashboard.meter_form import MAX_FIELDS
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.secret_links import opened
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.services import Services
from gateway.model.access import Caller, Origin, Role
from gateway.model.connection import State
from gateway.model.credits import price
from gateway.model.draft import Draft
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER
from gateway.store.access import BrowserSession
from gateway.store.connecting import StoredConnectLink
from gateway.store.turns import work_for

router = APIRouter(include_in_schema=False)

MAX_CUSTOMERS = 500
Secret = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9_-]+$")]
Step = Annotated[str, Path(max_length=20)]


# By whoever is logged in


@router.get("/connect")
async def start(request: Request, serving: Serving, session: LoggedIn, customer: str = "") -> Response:
    """The systems that can be connected."""
    check_role(session.principal, Role.ADMIN)
    return _systems(request, serving, session=session, customer=customer)


@router.post("/connect")
async def begin(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Begins with a system."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    bound = session.principal.customer
    customer = given.get("customer", "").strip() if bound is None else bound
    known = serving.customers()
    fault = ""
    if not customer or (known and customer not in known and bound is None):
        fault = "Choose one of the customers of the configuration."
    draft = _chosen(serving, customer, given)
    if draft is None or fault:
        return _systems(
            request,
            serving,
            session=session,
            customer=customer,
            fault=fault,
            said="" if draft else "Choose a system.",
            status=409,
        )
    secret = await serving.connecting.begin(draft, _owner(session))
    return RedirectResponse(f"/connect/{secret}/settings", status_code=303)


@router.get("/connections/{connection}/first-sync")
async def first_sync(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    connection: Annotated[str, Path(pattern=IDENTIFIER)],
) -> Response:
    """How far a new connection has come."""
    target = await serving.reader.target(connection)
    if target is None or not session.principal.may_see(target.customer):
        raise RequestRefused("request.not_found", "There is no such connection.")
    return await _progress(request, serving, connection, session=session)


# Through a link


@router.get("/connect/link/{secret}")
async def link_start(request: Request, serving: Serving, secret: Secret) -> Response:
    """What may be connected, or what became of it. No side effect: mail scanners follow links."""
    link = await _link(request, serving, secret)
    if link is None:
        return _void(request, serving)
    if link.connection is not None and link.is_fresh:
        return await _progress(request, serving, link.connection, link=link)
    if not link.is_open:
        return _void(request, serving, state=link.state)
    return _systems(request, serving, link=link, secret=secret)


@router.post("/connect/link/{secret}")
async def link_begin(request: Request, serving: Serving, secret: Secret) -> Response:
    """Begins with a system."""
    link = await _open_link(request, serving, secret)
    if link is None:
        return _void(request, serving)
    check_origin(request)
    draft = _chosen(serving, link.customer, await fields(request), allowed=link.systems)
    if draft is None:
        return _systems(request, serving, link=link, secret=secret, said="Choose a system.", status=409)
    await serving.connecting.begin(draft, _link_owner(link), link=(link, secret))
    return RedirectResponse(f"/connect/link/{secret}/settings", status_code=303)


@router.get("/connect/link/{secret}/{step}")
async def link_step(request: Request, serving: Serving, secret: Secret, step: Step) -> Response:
    """A step as it stands."""
    link = await _open_link(request, serving, secret)
    if link is None:
        return _void(request, serving)
    return await _shown(request, serving, _Entry(secret=secret, link=link), step)


@router.post("/connect/link/{secret}/{step}")
async def link_take(request: Request, serving: Serving, secret: Secret, step: Step) -> Response:
    """Takes what was entered."""
    link = await _open_link(request, serving, secret)
    if link is None:
        return _void(request, serving)
    check_origin(request)
    given = await fields(request, limit=MAX_FIELDS)
    return await _taken(request, serving, _Entry(secret=secret, link=link), step, given)


# After the routes of links, which have the same form


@router.get("/connect/{secret}/{step}")
async def one_step(
    request: Request, serving: Serving, session: LoggedIn, secret: Secret, step: Step
) -> Response:
    """A step as it stands."""
    check_role(session.principal, Role.ADMIN)
    return await _shown(request, serving, _Entry(secret=secret, session=session), step)


@router.post("/connect/{secret}/{step}")
async def take_step(
    request: Request, serving: Serving, session: LoggedIn, secret: Secret, step: Step
) -> Response:
    """Takes what was entered."""
    given = await own_form(request, session, limit=MAX_FIELDS)
    check_role(session.principal, Role.ADMIN)
    return await _taken(request, serving, _Entry(secret=secret, session=session), step, given)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Who came in: by a session, or by a link."""

    secret: str
    session: BrowserSession | None = None
    link: StoredConnectLink | None = None


async def _walk(request: Request, serving: Services, entry: _Entry) -> Walk:
    """Raises RequestRefused when what was entered is gone."""
    owner, by = _by(request, entry)
    draft = await serving.connecting.draft(entry.secret, owner)
    system = serving.catalogue.get(draft.system)
    if system is None:
        raise RequestRefused("request.not_found", "This system is not offered any more.")
    return Walk(
        request=request,
        serving=serving,
        secret=entry.secret,
        owner=owner,
        caller=by,
        session=entry.session,
        link=entry.link,
        draft=draft,
        system=system,
    )


async def _shown(request: Request, serving: Services, entry: _Entry, step: str) -> Response:
    _check_step(step)
    try:
        walk = await _walk(request, serving, entry)
    except RequestRefused as error:
        return _begin_again(request, serving, entry, str(error))
    return await show(walk, step)


async def _taken(
    request: Request, serving: Services, entry: _Entry, step: str, given: Mapping[str, str]
) -> Response:
    _check_step(step)
    try:
        walk = await _walk(request, serving, entry)
    except RequestRefused as error:
        return _begin_again(request, serving, entry, str(error))
    return await take(walk, step, given)


def _check_step(step: str) -> None:
    if step not in STEPS:
        raise RequestRefused("request.not_found", "There is no such step.")


def _by(request: Request, entry: _Entry) -> tuple[str, Caller]:
    if entry.link is not None:
        by = Caller(name="connect-link", request_id=request.state.request_id, origin=Origin.BOUND)
        return _link_owner(entry.link), by
    assert entry.session is not None
    return _owner(entry.session), caller(request, entry.session.principal, kind="dashboard")


def _owner(session: BrowserSession) -> str:
    who = session.principal
    return owner_of(who.origin, f"session:{who.customer or ''}:{who.name}")


def _link_owner(link: StoredConnectLink) -> str:
    return owner_of(Origin.BOUND, f"link:{link.id}")


def _chosen(
    serving: Services, customer: str, given: Mapping[str, str], *, allowed: tuple[str, ...] | None = None
) -> Draft | None:
    """The draft that a card begins; None where none was chosen."""
    system, _, hosting = given.get("system", "").partition(":")
    found = serving.catalogue.get(system)
    if found is None or (allowed is not None and system not in allowed):
        return None
    if hosting not in found.manifest.hosting:
        hosting = found.manifest.hosting[0]
    return Draft(back="", customer=customer, system=system, hosting=hosting)


def _systems(
    request: Request,
    serving: Services,
    *,
    session: BrowserSession | None = None,
    link: StoredConnectLink | None = None,
    secret: str = "",
    customer: str = "",
    fault: str = "",
    said: str = "",
    status: int = 200,
) -> Response:
    allowed = sorted(serving.catalogue) if link is None else link.systems
    cards = [
        {
            "manifest": serving.catalogue[name].manifest,
            "prices": {
                hosting: price(serving.prices, tier=serving.catalogue[name].manifest.tier, hosting=hosting)
                for hosting in serving.catalogue[name].manifest.hosting
            },
            "reads": [stream.title for stream in serving.catalogue[name].manifest.streams],
        }
        for name in allowed
        if name in serving.catalogue
    ]
    given = None if link is None else serving.connecting.given(link, secret)
    bound = None if session is None else session.principal.customer
    return render(
        request,
        "connect_system.html",
        status=status,
        session=session,
        link=link,
        given=given,
        action="/connect" if link is None else f"/connect/link/{secret}",
        cards=cards,
        customers=[bound] if bound else list(serving.customers())[:MAX_CUSTOMERS],
        customer=bound or customer,
        fault=fault,
        said=said,
        integrator=serving.integrator,
    )


async def _progress(
    request: Request,
    serving: Services,
    connection: str,
    *,
    session: BrowserSession | None = None,
    link: StoredConnectLink | None = None,
) -> Response:
    found = next(iter(await serving.reader.status([connection])), None)
    described = await serving.reader.connections(connection_id=connection, limit=1)
    if found is None or not described:
        raise RequestRefused("request.not_found", "There is no such connection.")
    initial = next(
        (stream for stream in found.streams if stream.phase == "initial" and stream.direction == "outbound"),
        None,
    )
    system = serving.catalogue.get(found.system)
    progress = None if initial is None else initial.progress
    is_done = found.state is State.ACTIVE and (
        progress is None or (progress.fraction >= 1 and not progress.pending_readings)
    )
    goes_on = found.state in (State.VERIFYING, State.ACTIVE, State.DEGRADED) and not is_done
    return render(
        request,
        "connect_progress.html",
        session=session,
        link=link,
        now=found,
        initial=initial,
        has_meters=bool(described[0].meters),
        is_done=is_done,
        goes_on=goes_on,
        title=found.system if system is None else system.manifest.title,
        integrator=serving.integrator,
    )


async def _link(request: Request, serving: Services, secret: str) -> StoredConnectLink | None:
    found = await opened(request, secret, serving.connecting.look, kind="connect_link")
    work_for(None if found is None else found.customer)
    return found


async def _open_link(request: Request, serving: Services, secret: str) -> StoredConnectLink | None:
    link = await _link(request, serving, secret)
    return link if link is not None and link.is_open else None


def _void(request: Request, serving: Services, *, state: str = "unknown") -> Response:
    return render(request, "connect_void.html", status=404, state=state, integrator=serving.integrator)


def _begin_again(request: Request, serving: Services, entry: _Entry, said: str) -> Response:
    return _systems(
        request,
        serving,
        session=entry.session,
        link=entry.link,
        secret=entry.secret if entry.link is not None else "",
        said=said,
        status=404,
    )
