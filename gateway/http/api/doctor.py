"""What usually goes wrong, looked at: `gateway.doctor`."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.http.auth import Operator, Serving
from gateway.http.doctor_documents import DoctorDocument
from gateway.model.access import Principal
from gateway.model.errors import RequestRefused

router = APIRouter(tags=["health"])


@router.get("/v1/doctor", summary="What is not as it should be")
async def read_doctor(serving: Serving, asking: Operator) -> DoctorDocument:
    """Every check with its findings: what, where, how severe, what to do. Made now, or within the last 15 s;
    takes some seconds. A token that is bound to a customer may not ask.
    """
    check_everybodys(asking)
    return DoctorDocument.of(await serving.doctor.report())


def check_everybodys(asking: Principal) -> None:
    """Raises RequestRefused for whoever is bound to one customer."""
    if asking.customer is not None:
        raise RequestRefused(
            "auth.forbidden", "What the doctor sees is of all customers; you may see one customer only."
        )
