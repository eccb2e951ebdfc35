"""Quotas: what a customer may send and have, and who is over it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Serving, Viewer, check_customer, only_customer
from gateway.http.documents import Page
from gateway.http.message_documents import CustomerQuotas, OverQuotaDocument
from gateway.http.openapi import problems
from gateway.settings_base import IDENTIFIER

router = APIRouter(tags=["quotas"])


@router.get("/v1/quotas", summary="Who is over a quota now")
async def list_over_quota(
    serving: Serving, asking: Viewer, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[OverQuotaDocument]:
    """By customer and quota: since when, and what became of what was over it."""
    rows = await serving.messages.over(
        only_customer(asking, None), after=cursors.two_texts(cursor), limit=limit + 1
    )
    return page(
        Page[OverQuotaDocument],
        rows,
        limit,
        item=OverQuotaDocument.model_validate,
        cursor=lambda row: cursors.write(row.customer or "", row.quota),
    )


@router.get("/v1/quotas/{customer}", summary="A customer's quotas", responses=problems("request.not_found"))
async def read_quotas(
    serving: Serving,
    asking: Viewer,
    customer: Annotated[str, Path(pattern=IDENTIFIER, examples=["acme"])],
) -> CustomerQuotas:
    """What it may send and have, what it has, and which quotas it is over now."""
    check_customer(asking, customer, what="customer")
    return CustomerQuotas.model_validate(await serving.messages.bounds(customer))
