"""Records that connected systems hold: the log of their changes, one of them, and what vanished."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from gateway.events.record_documents import (
    RecordsPageDocument,
    RecordWithVersions,
    page_payload,
    versions_payload,
)
from gateway.http.api.connections import NOT_NOW
from gateway.http.auth import (
    OperatedConnection,
    Operator,
    Serving,
    ViewedConnection,
    Viewer,
    caller,
    only_customer,
)
from gateway.http.documents import DeletionsConfirmed
from gateway.http.openapi import problems
from gateway.model.errors import RequestRefused
from gateway.model.record import LogPlace, read_cursor
from gateway.settings_base import IDENTIFIER

router = APIRouter(tags=["records"])

MAX_RECORDS = 1_000
STREAM = r"^[a-z][a-z0-9_]{0,63}$"
Stream = Annotated[str, Path(pattern=STREAM, examples=["work_orders"])]


@router.get(
    "/v1/records",
    summary="Records, in the order of their changes",
    response_class=Response,
    responses={200: {"model": RecordsPageDocument}, **problems("records.cursor_gone")},
)
async def list_records(
    serving: Serving,
    asking: Viewer,
    customer: Annotated[
        str | None, Query(pattern=IDENTIFIER, description="Whose; a bound token says it already.")
    ] = None,
    connection: Annotated[str | None, Query(pattern=IDENTIFIER)] = None,
    stream: Annotated[str | None, Query(pattern=STREAM)] = None,
    modified_after: Annotated[
        datetime | None,
        Query(description="By Fieldgate's own time of the change, with its zone; this time included."),
    ] = None,
    cursor: Annotated[str | None, Query(max_length=512, description="`next` of an earlier answer.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 100,
) -> Response:
    """The last state of each record that changed since `cursor`. Store `next` and always go on from it: every
    record's last state is seen, none is skipped, and one may be seen twice. Records of one customer. A page
    of large bodies holds fewer than `limit`: `has_more` says whether there is more.
    """
    narrowed = only_customer(asking, customer)
    if narrowed is None:
        raise RequestRefused("request.invalid", "customer: name one; a log of changes is one customer's.")
    place = place_of(cursor, narrowed)
    if modified_after is not None and modified_after.tzinfo is None:
        raise RequestRefused(
            "request.invalid", "modified_after: expected a time with its zone, such as 2027-03-01T00:00:00Z."
        )
    page = await serving.records.page(
        narrowed,
        place=place,
        connection=connection,
        stream=stream,
        modified_after=modified_after,
        limit=limit,
    )
    return Response(page_payload(page), media_type="application/json")


@router.get(
    "/v1/connections/{connection}/records/{stream}/{key:path}",
    summary="One record",
    response_class=Response,
    responses={200: {"model": RecordWithVersions}, **problems("request.not_found")},
)
async def show_record(
    serving: Serving,
    target: ViewedConnection,
    stream: Stream,
    key: Annotated[str, Path(min_length=1, max_length=512, pattern=r"^[^\x00]+$", examples=["4711"])],
) -> Response:
    """Its last state, with the times of its last changes. The key is percent-encoded."""
    found = await serving.records.one(target.customer, target.connection, stream, key)
    if found is None:
        raise RequestRefused("request.not_found", "There is no such record.", connection=target.connection)
    return Response(versions_payload(*found), media_type="application/json")


@router.post(
    "/v1/connections/{connection}/streams/{stream}/confirm-deletions",
    summary="Confirm that records are gone",
    responses={**NOT_NOW, **problems("request.conflict")},
)
async def confirm_deletions(
    serving: Serving, request: Request, asking: Operator, target: OperatedConnection, stream: Stream
) -> DeletionsConfirmed:
    """Where more than a fifth of a stream has vanished from its system (issue `records_vanished`): the next
    walk deletes those records of it that it does not find either. What more is missing by then is asked about
    again.
    """
    count = await serving.connections.confirm_deletions(
        target.connection, stream, caller=caller(request, asking)
    )
    return DeletionsConfirmed(records=count)


def place_of(cursor: str | None, customer: str) -> LogPlace:
    """Raises RequestRefused for what is no cursor of this customer's."""
    try:
        return read_cursor(cursor, customer=customer)
    except ValueError as error:
        raise RequestRefused("request.invalid", f"{error}.") from error
