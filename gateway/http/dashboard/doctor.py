"""The page of the doctor: every check, what it found, and what to do."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.http.api.doctor import check_everybodys
from gateway.http.auth import Serving, check_role
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.access import Role
from gateway.model.diagnosis import Severity

router = APIRouter(include_in_schema=False)


@router.get("/doctor")
async def doctor_page(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Reads, and tries the broker with messages of its own."""
    check_everybodys(check_role(session.principal, Role.OPERATOR))
    report = await serving.doctor.report()
    return render(
        request,
        "doctor.html",
        session=session,
        report=report,
        problems=report.count(Severity.PROBLEM),
        warnings=report.count(Severity.WARNING),
    )
