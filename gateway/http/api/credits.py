"""Connection credits: the pool and its ledger."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Serving, Viewer
from gateway.http.documents import CreditsDocument, Page, TransferDocument
from gateway.store.views import LAST_ID

router = APIRouter(tags=["credits"])


@router.get("/v1/credits", summary="The pool")
async def read_credits(serving: Serving, asking: Viewer) -> CreditsDocument:
    """What is held, posted and left. A bound token sees its customer's part only."""
    return await serving.credits.read(asking.customer)


@router.get("/v1/credits/transfers", summary="The ledger, the newest first")
async def list_transfers(
    serving: Serving, asking: Viewer, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[TransferDocument]:
    """Every transfer that was ever made. A bound token sees its customer's."""
    rows = await serving.credits.transfers(
        asking.customer, before=cursors.number_cursor(cursor, LAST_ID), limit=limit + 1
    )
    return page(
        Page[TransferDocument], rows, limit, item=lambda row: row, cursor=lambda row: cursors.write(row.id)
    )
