"""`/credits`: the pool, who uses it, what a new connection would cost, and every transfer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.http import cursors
from gateway.http.auth import Serving
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import sorting
from gateway.model.credits import price
from gateway.store.views import LAST_ID

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
MAX_CUSTOMERS = 200
TITLES = {"customer": "Customer", "credits": "Credits"}


@router.get("/credits")
async def credits_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    sort: Annotated[str, Query(max_length=20)] = "",
    after: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
) -> Response:
    """Reads only."""
    bound = session.principal.customer
    found = await serving.credits.read(bound)
    rows = await serving.credits.transfers(
        bound, before=cursors.number_cursor(after, LAST_ID), limit=PAGE_ROWS + 1
    )
    shown = rows[:PAGE_ROWS]
    prices = [
        (
            system.manifest.title,
            system.manifest.tier,
            {
                hosting: price(serving.prices, tier=system.manifest.tier, hosting=hosting)
                for hosting in system.manifest.hosting
            },
        )
        for system in sorted(serving.catalogue.values(), key=lambda system: system.manifest.title)
    ]
    order = sorting(sort, TITLES, lambda text: f"/credits?sort={text}", greatest_first=("credits",))
    used = order.sorted(
        sorted(found.by_customer.items(), key=lambda one: (-one[1], one[0])),
        {"customer": lambda one: one[0], "credits": lambda one: one[1]},
    )
    return render(
        request,
        "credits.html",
        session=session,
        credits=found,
        sort=order,
        used=used[:MAX_CUSTOMERS],
        more_customers=max(0, len(used) - MAX_CUSTOMERS),
        prices=prices,
        rows=shown,
        is_first=after is None,
        next=cursors.write(shown[-1].id) if len(rows) > PAGE_ROWS else "",
    )
