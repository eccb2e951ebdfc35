"""The application: health, readiness, metrics, `/v1` and the pages. Built before the database is open; the
services are mounted later.
"""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from gateway.http import dashboard, openapi, problem
from gateway.http.api import ROUTERS
from gateway.http.auth import BEARER, Mounted, principal
from gateway.http.entrance import Entrance
from gateway.http.middleware import BodyLimit, Hosts, RequestIds
from gateway.http.ports import Observed
from gateway.http.status_fast_path import StatusFastPath
from gateway.model.errors import RequestRefused


class Health(BaseModel):
    """The process answers."""

    alive: bool = True
    version: str


class Ready(BaseModel):
    """Which parts are well."""

    ready: bool
    checks: dict[str, bool] = Field(
        description=(
            "broker: the ingest session is up; database: answers; migrations: all applied; accepting: not"
            " draining. `daemon: false` alone: no answer. `api: false`: it starts and is not served yet."
        )
    )


def build(observed: Observed, mounted: Mounted) -> FastAPI:
    """The application. `observed` is asked for health and metrics; `mounted` is given its services when they
    are there.
    """
    software = version("fieldgate")
    app = FastAPI(
        title="Fieldgate",
        version=software,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.mounted = mounted
    # FastAPI's own way to replace its document
    app.openapi = lambda: openapi.complete(app)  # type: ignore[method-assign]
    problem.install(app)
    _observable(app, observed, software, mounted)
    for router in ROUTERS:
        app.include_router(router)
    dashboard.install(app, observed)
    return app


def guarded(app: FastAPI) -> ASGIApp:
    """The application as it is served: even an answer to a crash has an id and careful headers."""
    entrance: Entrance = app.state.mounted.entrance
    return StatusFastPath(
        RequestIds(Hosts(BodyLimit(app), entrance), https=entrance.is_https, application=app),
        app.state.mounted,
    )


def observing(observed: Observed) -> ASGIApp:
    """Health, readiness and metrics alone, for `http.metrics_listen`: whoever reaches that address may read
    them.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    problem.install(app)
    _observable(app, observed, version("fieldgate"), None)
    return RequestIds(BodyLimit(app), https=False)


def _observable(app: FastAPI, observed: Observed, software: str, mounted: Mounted | None) -> None:
    @app.get("/healthz", responses=openapi.problems("gateway.overloaded"), tags=["health"])
    async def healthz() -> Health:
        """Alive: the loop that takes in telemetry turns."""
        await observed.alive()
        return Health(version=software)

    @app.get("/readyz", response_model=Ready, responses={503: {"model": Ready}}, tags=["health"])
    async def readyz() -> JSONResponse:
        """Ready when broker, database and migrations are; 503 says which is not."""
        checks = await observed.checks()
        if mounted is not None and mounted.services is None:  # who waits for this is answered from then on
            checks = {**checks, "api": False}
        ready = Ready(ready=all(checks.values()), checks=checks)
        return JSONResponse(ready.model_dump(), status_code=200 if ready.ready else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {}}},
            **openapi.problems("auth.unauthenticated", "auth.forbidden"),
        },
        tags=["health"],
    )
    async def scrape(request: Request) -> Response:
        """Prometheus text format, or OpenMetrics where it is asked for. With `http.metrics: token` it needs a
        token that is bound to no customer.
        """
        if mounted is not None and mounted.entrance.metrics_need_token(request.scope):
            asking = await principal(request, await BEARER(request))
            if asking.customer is not None:
                raise RequestRefused(
                    "auth.forbidden", "Metrics are of all customers; this token is one customer's."
                )
        text, media_type = await observed.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type})
