"""`/live`: a page that is open is told when something changed, as server-sent events; it then asks for itself
again. Nothing of what changed is in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from gateway import clock
from gateway.http.auth import Serving
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.live import Watcher
from gateway.http.services import Services
from gateway.model.errors import StoreError
from gateway.store.access import BrowserSession

router = APIRouter(include_in_schema=False)

BEAT_SECONDS = 5.0
"""How often the line says that it is there."""

SESSION_SECONDS = 30.0
"""How often the session is looked up: one that ended is told nothing."""


@router.get("/live")
async def live(serving: Serving, session: LoggedIn) -> Response:
    """`changed`, or `beat` when nothing did for some seconds."""
    serving.live.check_room(
        session.principal.customer
    )  # before the answer begins: it could not be refused any more
    return StreamingResponse(
        _told(serving, session),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # a proxy would keep events until it has a buffer full of them
    )


async def _told(serving: Services, session: BrowserSession) -> AsyncIterator[bytes]:
    customer = session.principal.customer
    if not serving.live.has_room(customer):  # those who came at the same moment: the browser asks again
        yield b"retry: 30000\n\n"
        return
    with serving.live.watching(customer) as watcher:
        yield b"retry: 1000\n\n"
        async for event in _events(serving, session, watcher):
            yield b"event: %s\ndata:\n\n" % event


async def _events(serving: Services, session: BrowserSession, watcher: Watcher) -> AsyncIterator[bytes]:
    looked_monotonic = clock.monotonic()
    while not watcher.is_over:
        # at the same moment for everybody: what their pages then ask for is computed once
        changed = await watcher.changed(BEAT_SECONDS - clock.monotonic() % BEAT_SECONDS)
        if clock.monotonic() - looked_monotonic > SESSION_SECONDS:
            looked_monotonic = clock.monotonic()
            if serving.authentication and not await _is_known(serving, session):
                return
        if not watcher.is_over:
            yield b"changed" if changed else b"beat"


async def _is_known(serving: Services, session: BrowserSession) -> bool:
    """False too while nobody can say so: the line ends, and the browser asks again."""
    try:
        return await serving.access.identify_session(session.secret) is not None
    except StoreError:
        return False
