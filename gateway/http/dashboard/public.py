"""What anybody may see: `/status`, which names no customer, and the pages' own files."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from gateway.http.auth import Mounted
from gateway.http.dashboard.rendering import asset, render
from gateway.http.documents import PublicIncident
from gateway.http.ports import Observed, Services
from gateway.model.errors import StoreUnavailable

router = APIRouter(include_in_schema=False)

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_FILES = frozenset({"fieldgate.css", "refresh.js", "icon.svg"})


@router.get("/status")
async def status_page(request: Request) -> Response:
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
    return render(request, "status.html", checks=checks, incidents=incidents, overall=overall)


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


async def _incidents(services: Services | None) -> list[PublicIncident]:
    if services is None:
        return []
    try:
        return list(await services.incidents.public())
    except StoreUnavailable:
        return []  # the page says that the database is away
