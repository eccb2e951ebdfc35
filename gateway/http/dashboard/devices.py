"""Pages of devices: the list with a search, and one with its metrics, their last values and meters, and a
chart of each that is a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response

from gateway import clock
from gateway.http import cursors
from gateway.http.api.devices import find_device
from gateway.http.auth import Serving, check_customer, only_customer
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.sample import Value
from gateway.settings_base import IDENTIFIER
from gateway.store.devices import Bucket

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
CHARTS = 6
"""Charts of a page: each reads its metric's samples."""

SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
BUCKETS = 120
WIDTH, HEIGHT = 600, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A metric as a drawing: points of means, a line for each run of parts that have samples."""

    metric: str
    lines: tuple[str, ...]
    low: float
    high: float
    last: Value
    complete: bool


@router.get("/devices")
async def devices_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Annotated[str, Query(max_length=100)] = "",
    q: Annotated[str, Query(max_length=100)] = "",
    after: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response:
    """Reads only."""
    customer, q = customer.replace("\0", ""), q.replace("\0", "")
    rows = await serving.devices.page(
        only_customer(session.principal, customer or None),
        text=q,
        after=cursors.two_texts(after),
        limit=PAGE_ROWS + 1,
    )
    shown = rows[:PAGE_ROWS]
    query = {"customer": customer, "q": q}
    if len(rows) > PAGE_ROWS:
        query["after"] = cursors.write(shown[-1].customer, shown[-1].device)
    return render(
        request,
        "devices.html",
        session=session,
        customer=customer,
        q=q,
        rows=shown,
        is_first=after is None,
        more=urlencode({name: value for name, value in query.items() if value}) if "after" in query else "",
    )


@router.get("/devices/{customer}/{device}")
async def device_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Annotated[str, Path(pattern=IDENTIFIER)],
    device: Annotated[str, Path(pattern=IDENTIFIER)],
    span: Annotated[str, Query(pattern="^(hour|day|week)$")] = "day",
) -> Response:
    """Reads only."""
    check_customer(session.principal, customer, what="device")
    found = await find_device(serving, customer, device)
    until = clock.now()
    since = until - SPANS[span]
    charts = []
    numbers = [metric.name for metric in found.metrics if metric.kind in ("number", "boolean")]
    for name in numbers[:CHARTS]:
        series = await serving.devices.series(
            customer, device, name, since=since, until=until, buckets=BUCKETS
        )
        if series.buckets:
            charts.append(drawn(name, series.buckets, since, until, complete=series.complete))
    return render(
        request,
        "device.html",
        session=session,
        found=found,
        charts=charts,
        left_out=max(0, len(numbers) - CHARTS),
        span=span,
        spans=SPANS,
        width=WIDTH,
        height=HEIGHT,
    )


def drawn(
    metric: str, buckets: Sequence[Bucket], since: datetime, until: datetime, *, complete: bool = True
) -> Chart:
    """The chart of a metric's buckets. Parts without a sample, or with texts alone, break the line."""
    width = (until - since) / BUCKETS
    means = [(round((b.start - since) / width), b.mean) for b in buckets if b.mean is not None]
    low = min((b.min for b in buckets if b.min is not None), default=0.0)
    high = max((b.max for b in buckets if b.max is not None), default=0.0)
    half = high / 2 - low / 2  # halves: the difference of two great numbers of other signs is none
    lines: list[list[str]] = []
    before, gap = None, _gap(means)
    for place, mean in means:
        if before is None or place - before > gap:
            lines.append([])
        share = 0.5 if half == 0 else min(1.0, max(0.0, (mean / 2 - low / 2) / half))
        x, y = (place + 0.5) * WIDTH / BUCKETS, 2 + (HEIGHT - 4) * (1 - share)
        lines[-1].append(f"{x:.1f},{y:.1f}")
        before = place
    return Chart(
        metric=metric,
        lines=tuple(" ".join(line if len(line) > 1 else line * 2) for line in lines),
        low=low,
        high=high,
        last=buckets[-1].last,
        complete=complete,
    )


def _gap(means: Sequence[tuple[int, float]]) -> int:
    """How many parts may be empty before a line ends: three times what is usual, for a device that sends
    rarely.
    """
    steps = sorted(after[0] - before[0] for before, after in pairwise(means))
    return 3 * steps[len(steps) // 2] if steps else 1
