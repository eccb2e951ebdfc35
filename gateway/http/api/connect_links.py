"""Connect links: a customer's administrator connects a system through one, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status

from gateway.connections.connecting import ConnectInvitation, Given
from gateway.connections.login_page import CODE_FLOW
from gateway.http.auth import Admin, Serving, caller, only_customer
from gateway.http.documents import ConnectLinkCreated, ConnectLinkDocument, ConnectLinks, NewConnectLink
from gateway.http.openapi import problems
from gateway.http.services import Services
from gateway.model.access import Caller, Principal
from gateway.model.errors import RequestRefused
from gateway.settings_base import Identifier

router = APIRouter(tags=["connect links"])

LinkId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


@router.post(
    "/v1/connect-links",
    summary="Make a connect link",
    status_code=status.HTTP_201_CREATED,
    responses=problems("request.not_found", "request.conflict"),
)
async def create_connect_link(
    serving: Serving, request: Request, asking: Admin, wanted: NewConnectLink
) -> ConnectLinkCreated:
    """An address for the customer's administrator, who connects one of these systems through it: once, for
    this customer, with what is given ahead. It is shown this once.
    """
    made = await invite(serving, asking, wanted, caller(request, asking))
    return ConnectLinkCreated(id=made.id, url=made.url, expires_at=made.expires_at)


async def invite(
    serving: Services, asking: Principal, wanted: NewConnectLink, by: Caller
) -> ConnectInvitation:
    """The new link. Raises RequestRefused: request.not_found for a customer that there is not for whoever
    asks, request.invalid for systems, settings or a client that cannot be given ahead.
    """
    known = serving.customers()
    if not asking.may_see(wanted.customer) or (known and wanted.customer not in known):
        raise RequestRefused("request.not_found", "There is no such customer.")
    if unknown := [name for name in wanted.systems if name not in serving.catalogue]:
        raise RequestRefused("request.invalid", f"systems: there is no system {unknown[0]!r}")
    client = None if wanted.credentials is None else wanted.credentials
    if client is not None and client.type != CODE_FLOW:
        raise RequestRefused(
            "request.invalid",
            f"credentials: only an OAuth client ({CODE_FLOW}) is given ahead; the customer gives the rest",
        )
    given = Given(
        hosting=wanted.hosting,
        title=wanted.title or "",
        settings=wanted.settings,
        client={} if client is None else client.resolved(),
    )
    await serving.connecting.check_given(wanted.customer, wanted.systems, given, by)
    return await serving.connecting.invite(
        wanted.customer, wanted.systems, given, by=by.name, lifetime=timedelta(days=wanted.days)
    )


@router.get("/v1/connect-links", summary="Connect links, the newest first")
async def list_connect_links(
    serving: Serving, asking: Admin, customer: Annotated[Identifier | None, Query()] = None
) -> ConnectLinks:
    """What became of each; never its address."""
    found = await serving.connecting.links(only_customer(asking, customer))
    return ConnectLinks(items=tuple(ConnectLinkDocument.model_validate(link) for link in found))


@router.delete(
    "/v1/connect-links/{link}",
    summary="Revoke a connect link",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems("request.not_found"),
)
async def revoke_connect_link(serving: Serving, request: Request, asking: Admin, link: LinkId) -> Response:
    """It is good no more, and what was entered through it is forgotten."""
    await serving.connecting.revoke(link, asking.customer, by=caller(request, asking).name)
    return Response(status_code=status.HTTP_204_NO_CONTENT)
