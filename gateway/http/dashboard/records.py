"""The records of a connection's stream: a list with a filter, and one record whole, with its versions."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode

import orjson
from fastapi import APIRouter, Query, Request, Response

from gateway.http.api.records import STREAM
from gateway.http.auth import Serving
from gateway.http.dashboard.connection import Shown
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.errors import RequestRefused
from gateway.model.status import StreamStatus

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
SUMMARY = 160


@router.get("/connections/{connection}/records")
async def records_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    target: Shown,
    stream: Annotated[str, Query(pattern=STREAM + "|^$")] = "",
    q: Annotated[str, Query(max_length=100)] = "",
    after: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """Reads only. Without a stream it is the first one."""
    streams = await _streams(serving, target.connection)
    chosen = stream or next(iter(streams), "")
    found = (
        await serving.records.listed(
            target.customer,
            target.connection,
            chosen,
            after=_stored(after),
            holds=_stored(q),
            limit=PAGE_ROWS + 1,
        )
        if chosen
        else []
    )
    rows = [
        (record, record.body[:SUMMARY], address(target.connection, record.stream, record.key))
        for record in found[:PAGE_ROWS]
    ]
    more = (
        urlencode({"stream": chosen, "q": q, "after": found[PAGE_ROWS - 1].key})
        if len(found) > PAGE_ROWS
        else ""
    )
    return render(
        request,
        "records.html",
        session=session,
        target=target,
        streams=streams,
        chosen=chosen,
        q=q,
        after=after,
        rows=rows,
        more=more,
    )


@router.get("/connections/{connection}/records/{stream}/{key:path}")
async def record_page(
    request: Request, serving: Serving, session: LoggedIn, target: Shown, stream: str, key: str
) -> Response:
    """Reads only."""
    found = await serving.records.one(target.customer, target.connection, _stored(stream), _stored(key))
    if found is None:
        raise RequestRefused("request.not_found", "There is no such record.")
    record, changed_at = found
    versions = [(record.version - back, at) for back, at in enumerate(reversed(changed_at))]
    body = orjson.dumps(orjson.loads(record.body), option=orjson.OPT_INDENT_2).decode()
    return render(
        request, "record.html", session=session, target=target, record=record, body=body, versions=versions
    )


def address(connection: str, stream: str, key: str) -> str:
    """Of a record's page."""
    return f"/connections/{connection}/records/{stream}/{quote(key, safe='')}"


async def _streams(serving: Serving, connection: str) -> dict[str, StreamStatus]:
    """The incremental phase of each stream of records, by name."""
    found = await serving.reader.status([connection])
    return {
        stream.name: stream
        for status in found
        for stream in status.streams
        if stream.direction == "inbound" and stream.phase == "incremental"
    }


def _stored(text: str) -> str:
    """A text that the store can be asked for."""
    if "\0" in text:
        raise RequestRefused("request.invalid", "A text without NUL was expected.")
    return text
