"""The pages: the operators' dashboard, the public status page, the API's documentation, and the customer's
page to reconnect a system.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.dashboard import (
    alerts,
    connect,
    connection,
    devices,
    doctor,
    documentation,
    messages,
    overview,
    public,
    reauthorize,
    records,
    sessions,
)
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoginNeeded
from gateway.http.ports import Observed
from gateway.http.problem import Problem


def install(app: FastAPI, observed: Observed) -> None:
    """Adds every page; errors of pages become pages."""
    app.state.problem_page = _problem_page
    app.state.observed = observed
    app.add_exception_handler(LoginNeeded, _to_login)
    for module in (
        overview,
        alerts,
        connect,
        connection,
        records,
        devices,
        doctor,
        messages,
        sessions,
        public,
        documentation,
        reauthorize,
    ):
        app.include_router(module.router)


def _problem_page(request: Request, problem: Problem) -> Response:
    return render(request, "problem.html", status=problem.status, problem=problem)


async def _to_login(_: Request, error: Exception) -> Response:
    assert isinstance(error, LoginNeeded)
    return RedirectResponse(f"/login?next={error.next_path}", status_code=303)
