"""What anybody may see: `/status`, which names no customer, and the pages' own files."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from gateway import clock
from gateway.http.auth import Mounted, Serving
from gateway.http.dashboard.charts import HISTORY_DAYS, system_days
from gateway.http.dashboard.rendering import asset, render
from gateway.http.dashboard.sessions import Visiting
from gateway.http.documents import PublicIncident
from gateway.http.ports import Observed
from gateway.http.services import Services
from gateway.model.errors import StoreUnavailable
from gateway.model.status import NEEDS_PERSON
from gateway.store.listing import Filter

router = APIRouter(include_in_schema=False)

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_PICTURES = {
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
LATELY = timedelta(days=7)
MAX_PICTURE_BYTES = 1 << 20
_FILES = frozenset({"fieldgate.css", "live.js", "icon.svg"})


@router.get("/status")
async def status_page(request: Request, session: Visiting) -> Response:
    """Whether the gateway works, and which systems do not. No customer, no connection,
    no number of either.
    """
    observed: Observed = request.app.state.observed
    checks = await observed.checks()
    mounted: Mounted = request.app.state.mounted
    incidents = await _incidents(mounted.services)
    overall: Literal["well", "troubled", "down"] = "well"
    if any(incident.state != "closed" for incident in incidents):
        overall = "troubled"
    if not all(checks.values()):
        overall = "down"
    waiting = 0
    if session is not None and mounted.services is not None:
        counts = await mounted.services.reader.counts(Filter(customer=session.principal.customer))
        waiting = sum(counts.get(state, 0) for state in NEEDS_PERSON)
    now = clock.now()
    return render(
        request,
        "status.html",
        checks=checks,
        incidents=[one for one in incidents if (one.closed_at or now) > now - LATELY],
        days=system_days(incidents, now=now),
        history_days=HISTORY_DAYS,
        overall=overall,
        waiting=waiting,
    )


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Kept by browsers for long: its address changes with it."""
    if name not in _FILES:
        raise HTTPException(404, "There is no such file")
    return Response(
        asset(name),
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


@router.get("/integrator/logo")
async def logo(serving: Serving) -> Response:
    """The picture of whoever asks, on the pages that customers see."""
    file = serving.integrator.logo_file
    picture = None if file is None else picture_of(file)
    if file is None or picture is None:
        raise HTTPException(404, "There is no such file")
    return Response(
        picture,
        media_type=_PICTURES[Path(file).suffix.lower()],
        headers={"Cache-Control": "public, max-age=3600"},
    )


@cache
def picture_of(file: str) -> bytes | None:
    """Read once; None where it cannot be, or is no small picture."""
    try:
        with Path(file).open("rb") as opened:
            found = opened.read(MAX_PICTURE_BYTES + 1)
    except OSError:
        return None
    return found if len(found) <= MAX_PICTURE_BYTES else None


async def _incidents(services: Services | None) -> list[PublicIncident]:
    if services is None:
        return []
    try:
        return list(await services.incidents.public(days=HISTORY_DAYS))
    except StoreUnavailable:
        return []  # the page says that the database is away
