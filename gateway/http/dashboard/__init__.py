"""The pages: the operators' dashboard, the public status page, the API's documentation, and the customer's
page to reconnect a system.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.dashboard import (
    access,
    alerts,
    connect,
    connect_links,
    connection,
    connection_meters,
    dead_letters,
    devices,
    doctor,
    documentation,
    events,
    incidents,
    ledger,
    live,
    messages,
    overview,
    provider_login,
    public,
    reauthorize,
    records,
    sessions,
    topics,
    webhooks,
)
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoginNeeded, visitor
from gateway.http.ports import Observed
from gateway.http.problem import Problem


def install(app: FastAPI, observed: Observed) -> None:
    """Adds every page; errors of pages become pages."""
    app.state.problem_page = _problem_page
    app.state.observed = observed
    app.state.visitor = visitor
    app.add_exception_handler(LoginNeeded, _to_login)
    for module in (
        overview,
        live,
        alerts,
        access,
        connect_links,
        ledger,
        events,
        incidents,
        webhooks,
        connect,
        connection_meters,  # before the buttons: their paths would take its form
        connection,
        dead_letters,
        records,
        devices,
        doctor,
        messages,
        topics,
        provider_login,
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
