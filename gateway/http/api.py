"""The HTTP interface: `/healthz`, `/readyz`, `/metrics`. It asks no clock and holds no state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from platform import python_version

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from gateway import metrics
from gateway.http import problem
from gateway.http.problem import Problem, RequestIds


class Health(BaseModel):
    """The process answers."""

    alive: bool = True
    version: str


class Ready(BaseModel):
    """Which parts are well."""

    ready: bool
    checks: dict[str, bool] = Field(description="broker: the ingest session is up; database: answers; migrations: all applied; accepting: not draining.")


def build(check: Callable[[], Awaitable[dict[str, bool]]]) -> ASGIApp:
    """The application. `check` says which parts are well, by name."""
    software = version("fieldgate")
    metrics.BUILD_INFO.labels(software, python_version()).set(1)
    app = FastAPI(title="Fieldgate", version=software, responses={"default": {"model": Problem, "content": {"application/problem+json": {}}}})
    problem.install(app)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Alive."""
        return Health(version=software)

    @app.get("/readyz", response_model=Ready, responses={503: {"model": Ready}})
    async def readyz() -> JSONResponse:
        """Ready when broker, database and migrations are; 503 says which is not."""
        checks = await check()
        ready = Ready(ready=all(checks.values()), checks=checks)
        return JSONResponse(ready.model_dump(), status_code=200 if ready.ready else 503)

    @app.get("/metrics", response_class=Response)
    async def scrape(request: Request) -> Response:
        """Prometheus text format, or OpenMetrics where it is asked for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.REGISTRY), headers={"content-type": content_type})

    return RequestIds(app)
