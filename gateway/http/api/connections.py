"""Connections: create, read, change, work, disconnect. What is asked is done by the lifecycle; whose it is is
checked in `gateway.http.auth`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status

from gateway import clock
from gateway.events.documents import StatusDocument, status_document
from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import (
    Admin,
    AdministeredConnection,
    ConnectionId,
    OperatedConnection,
    Operator,
    Serving,
    ViewedConnection,
    Viewer,
    caller,
    check_owner,
    check_tries,
    find_target,
    note_try,
    only_customer,
)
from gateway.http.documents import (
    ConnectionDocument,
    ListedConnectionDocument,
    Page,
    ReauthorizationDocument,
    RemoteMeterDocument,
    RemoteMeters,
    RequestAccepted,
    SynchroniseRequest,
    VerificationDocument,
    VerificationRequest,
)
from gateway.http.openapi import problems
from gateway.http.services import Services
from gateway.model.access import Principal
from gateway.model.connection import State
from gateway.model.errors import RequestRefused
from gateway.model.status import ConnectionStatus
from gateway.settings import ConnectionPatch, ConnectionSettings
from gateway.settings_base import Identifier
from gateway.store.views import AskedConnection

router = APIRouter(tags=["connections"])

NOT_NOW = problems(
    "connection.reauthorization_required",
    "connection.blocked",
    "connection.paused",
    "connection.pending",
    "connection.disconnected",
)
ACCEPTED = status.HTTP_202_ACCEPTED
MAX_RULES = 5_000


@router.get("/v1/connections", summary="Connections, by id")
async def list_connections(
    serving: Serving,
    asking: Viewer,
    customer: Annotated[Identifier | None, Query()] = None,
    system: Annotated[Identifier | None, Query()] = None,
    state: Annotated[list[State] | None, Query(description="Repeat it for several.")] = None,
    rules: Annotated[
        bool, Query(description="`false`: `meters` and `alerts` are null, and counted only.")
    ] = True,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[ListedConnectionDocument]:
    """Those that the token may see; a token that is bound to a customer sees that customer's."""
    rows = await serving.reader.connections(
        customer=only_customer(asking, customer),
        system=system,
        states=state,
        after=cursors.text_cursor(cursor),
        limit=limit + 1,
        rules=rules,
    )
    return page(
        Page[ListedConnectionDocument],
        rows,
        limit,
        item=lambda row: ListedConnectionDocument.of(row, rules=rules),
        cursor=lambda row: cursors.write(row.connection),
    )


@router.post(
    "/v1/connections",
    summary="Connect a system",
    status_code=status.HTTP_201_CREATED,
    responses=problems("request.conflict", "credits.insufficient"),
)
async def create_connection(
    serving: Serving, request: Request, response: Response, asking: Admin, wanted: ConnectionSettings
) -> ConnectionDocument:
    """Holds credits, stores the credentials sealed, and begins to verify them. Without credentials the
    connection waits in `pending`.
    """
    if not asking.may_see(wanted.customer):
        raise RequestRefused(
            "auth.forbidden",
            "This token is bound to one customer and connects systems of that customer only.",
        )
    _check_meters(wanted)
    await serving.connections.create(wanted, caller(request, asking))
    response.headers["Location"] = f"/v1/connections/{wanted.id}"
    return await _described(serving, wanted.id)


@router.post(
    "/v1/connections:verify",
    summary="Try settings and credentials",
    responses=problems("auth.too_many_attempts", "request.unsupported", "request.not_found"),
)
async def verify_connection(
    serving: Serving, request: Request, asking: Admin, wanted: VerificationRequest
) -> VerificationDocument:
    """Asks the system whether they are good, and what can be read with them. Nothing is stored or charged.
    Tries that are refused count as failed logons of your address.
    """
    if not asking.may_see(wanted.customer):
        raise RequestRefused("request.not_found", "There is no such customer.")
    check_tries(request)
    found = await serving.verifier.verify(wanted.connection(), caller(request, asking))
    note_try(request, found)
    return VerificationDocument.model_validate(found)


@router.get("/v1/connections/{connection}", summary="One connection")
async def read_connection(serving: Serving, target: ViewedConnection) -> ConnectionDocument:
    """As it was asked for and where it is; never its credentials."""
    return await _described(serving, target.connection)


@router.patch(
    "/v1/connections/{connection}",
    summary="Change a connection",
    responses=problems("request.conflict", "connection.disconnected"),
)
async def change_connection(
    serving: Serving, request: Request, asking: Admin, target: AdministeredConnection, wanted: ConnectionPatch
) -> ConnectionDocument:
    """Each part that is given replaces the old one whole. New settings or credentials are verified before
    they are used.
    """
    _check_meters(wanted)
    await serving.connections.change(target.connection, wanted, caller(request, asking))
    return await _described(serving, target.connection)


@router.delete(
    "/v1/connections/{connection}",
    summary="Disconnect",
    status_code=ACCEPTED,
    responses=problems("connection.disconnected"),
)
async def disconnect(
    serving: Serving, request: Request, asking: Admin, target: AdministeredConnection
) -> RequestAccepted:
    """For good: what is in hand is finished, the credentials are destroyed, the credits return. The id is
    never used again.
    """
    await serving.connections.disconnect(target.connection, caller(request, asking))
    return await _accepted(serving, asking, target)


@router.get(
    "/v1/connections/{connection}/status",
    summary="The status document",
    response_model=StatusDocument,
    responses={304: {"description": "Not changed since the version of `If-None-Match`."}},
)
async def read_status(
    serving: Serving, request: Request, asking: Viewer, connection: ConnectionId
) -> Response:
    """The same document as is retained on MQTT. `ETag` is its version. No side effect."""
    found = check_owner(asking, next(iter(await serving.reader.status([connection])), None))
    headers = status_headers(found.version)
    if has_version(request.headers.get("if-none-match"), found.version):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(status_payload(found), media_type="application/json", headers=headers)


def status_payload(found: ConnectionStatus) -> bytes:
    """The document of a connection as it was read now."""
    return status_document(found, now=clock.now()).payload()


def status_headers(version: int) -> dict[str, str]:
    """Its version as `ETag`; whoever keeps it asks each time."""
    return {"etag": f'"{version}"', "cache-control": "private, no-cache"}


def has_version(if_none_match: str | None, version: int) -> bool:
    """Whether `If-None-Match` names this version."""
    return if_none_match is not None and not {
        tag.strip().removeprefix("W/") for tag in if_none_match.split(",")
    }.isdisjoint({f'"{version}"', "*"})


@router.post(
    "/v1/connections/{connection}/sync", summary="Synchronise now", status_code=ACCEPTED, responses=NOT_NOW
)
async def synchronise(
    serving: Serving,
    request: Request,
    asking: Operator,
    target: OperatedConnection,
    wanted: SynchroniseRequest,
) -> RequestAccepted:
    """Runs the streams at once, or one of records; or walks the initial window again."""
    await serving.connections.synchronise(
        target.connection, full=wanted.mode == "full", stream=wanted.stream, caller=caller(request, asking)
    )
    return await _accepted(serving, asking, target)


@router.post("/v1/connections/{connection}/pause", summary="Pause", status_code=ACCEPTED, responses=NOT_NOW)
async def pause(
    serving: Serving, request: Request, asking: Operator, target: OperatedConnection
) -> RequestAccepted:
    """No calls to the system; telemetry is kept."""
    await serving.connections.pause(target.connection, caller(request, asking))
    return await _accepted(serving, asking, target)


@router.post("/v1/connections/{connection}/resume", summary="Resume", status_code=ACCEPTED, responses=NOT_NOW)
async def resume(
    serving: Serving, request: Request, asking: Operator, target: OperatedConnection
) -> RequestAccepted:
    """Back to where it was before the pause; delivery goes on where it stopped."""
    await serving.connections.resume(target.connection, caller(request, asking))
    return await _accepted(serving, asking, target)


@router.post(
    "/v1/connections/{connection}/recheck", summary="Probe now", status_code=ACCEPTED, responses=NOT_NOW
)
async def recheck(
    serving: Serving,
    request: Request,
    asking: Operator,
    target: OperatedConnection,
    same_credentials: Annotated[
        bool,
        Query(description="Try a credential that was refused once more: the system may have been wrong."),
    ] = False,
) -> RequestAccepted:
    """Asks the system at once whether it is reachable and the credential is good."""
    if same_credentials:
        await serving.connections.retry_credentials(target.connection, caller(request, asking))
    else:
        await serving.connections.recheck(target.connection, caller(request, asking))
    return await _accepted(serving, asking, target)


@router.post(
    "/v1/connections/{connection}/reauthorization",
    summary="Make a reconnect link",
    status_code=status.HTTP_201_CREATED,
    responses=problems("connection.disconnected"),
)
async def make_reconnect_link(serving: Serving, target: OperatedConnection) -> ReauthorizationDocument:
    """A single-use address for the customer's administrator, good for seven days. An earlier one is void."""
    if target.state in (State.DISCONNECTING, State.DISCONNECTED):
        raise RequestRefused(
            "connection.disconnected",
            "A disconnected connection takes no credentials; create a new one.",
            connection=target.connection,
        )
    return ReauthorizationDocument.model_validate(await serving.reauthorization.invite(target.connection))


@router.get(
    "/v1/connections/{connection}/meters",
    summary="The system's meters",
    responses={
        **NOT_NOW,
        **problems("request.unsupported", "upstream.rate_limited", "upstream.unavailable", "upstream.error"),
    },
)
async def list_meters(serving: Serving, target: ViewedConnection) -> RemoteMeters:
    """Asks the system itself what readings can be written to; used to write meter mappings."""
    return RemoteMeters(
        items=tuple(
            RemoteMeterDocument.model_validate(meter)
            for meter in await serving.remote_meters.now(target.connection, serving.connections.meters)
        )
    )


def _check_meters(wanted: ConnectionSettings | ConnectionPatch) -> None:
    if len(wanted.meters or ()) > MAX_RULES:
        raise RequestRefused(
            "request.invalid",
            f"meters: at most {MAX_RULES:,} rules here, for every list of connections shows them: use"
            " patterns, or declare the connection in a file.",
        )
    if any(meter.table is not None for meter in wanted.meters or ()):
        raise RequestRefused(
            "request.invalid",
            "meters: a `table` is a file beside the gateway's configuration; write the meters themselves"
            " here.",
        )


async def _described(serving: Services, connection: str) -> ConnectionDocument:
    found = await serving.reader.connections(connection_id=connection, limit=1)
    if not found:
        raise RequestRefused("request.not_found", "There is no such connection.")
    return ConnectionDocument.model_validate(found[0])


async def _accepted(serving: Services, asking: Principal, target: AskedConnection) -> RequestAccepted:
    now = await find_target(serving, asking, target.connection)
    return RequestAccepted(connection=now.connection, state=now.state, version=now.version)
