"""Pages of devices: the list with a search, and one with its metrics, their last values and meters, and a
chart of each that is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response

from gateway import clock
from gateway.http import cursors
from gateway.http.api.devices import find_device
from gateway.http.auth import Serving, check_customer, only_customer
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import Sorting, sorting
from gateway.http.dashboard.window_steps import laid_over, steps
from gateway.http.services import Services
from gateway.model.access import Principal
from gateway.model.sample import Value
from gateway.settings_base import IDENTIFIER
from gateway.store.devices import COLUMNS, Device, DeviceMetric, SeriesBucket

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
CHARTS = 6
"""Charts of a page: each reads its metric's samples."""

TITLES = {"name": "Name", "last_seen": "Last seen", "last_sample": "Last sample"}
METRIC_TITLES = {"name": "Metric", "kind": "Kind", "at": "At", "meters": "Meters"}
METRIC_KEYS: Mapping[str, Callable[[DeviceMetric], Any]] = {
    "name": lambda metric: metric.name.lower(),
    "kind": lambda metric: metric.kind,
    "at": lambda metric: metric.at,
    "meters": lambda metric: len(metric.meters),
}
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
    meter: str = ""
    steps: tuple[str, ...] = ()
    """What this meter makes of it, as lines of windows."""


@router.get("/devices")
async def devices_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Annotated[str, Query(max_length=100)] = "",
    q: Annotated[str, Query(max_length=100)] = "",
    silent: Annotated[str, Query(pattern="^(1)?$")] = "",
    sort: Annotated[str, Query(max_length=20)] = "",
    after: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
) -> Response:
    """Reads only."""
    customer, q = customer.replace("\0", ""), q.replace("\0", "")
    whose = _whose(serving, session.principal, customer)
    query = {"customer": customer, "q": q, "silent": silent}
    of_whom = {} if session.principal.customer or whose is None else {"customer": whose}
    order = sorting(
        sort if whose is not None else "",
        TITLES,
        lambda text: _address({**query, **of_whom, "sort": text}),
        greatest_first=("last_seen", "last_sample"),
    )
    asking = _Asking(
        customer=only_customer(session.principal, customer or None), text=q, silent=bool(silent), whose=whose
    )
    rows, further = await _listed(serving, asking, order, after)
    query["sort"] = order.text
    return render(
        request,
        "devices.html",
        session=session,
        customer=customer,
        q=q,
        silent=silent,
        sort=order,
        can_sort=whose is not None,
        rows=rows[:PAGE_ROWS],
        is_first=after is None,
        first=_address(query),
        more=_address({**query, "after": further}) if further else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """Which devices are wanted. `whose`: the one customer that they are of, where there is one."""

    customer: str | None
    text: str
    silent: bool
    whose: str | None


async def _listed(
    serving: Services, asking: _Asking, order: Sorting, after: str | None
) -> tuple[list[Device], str]:
    """The devices of the page and one more, and where the next page begins; empty where there is none."""
    column = next((column for column in COLUMNS if column == order.column), None)
    if column is not None and asking.whose is not None:
        found = await serving.devices.sorted_page(
            asking.whose,
            column,
            descending=order.descending,
            text=asking.text,
            silent=asking.silent,
            after=cursors.sorted_place(after),
            limit=PAGE_ROWS + 1,
        )
        further = cursors.of_place(found[PAGE_ROWS - 1][1]) if len(found) > PAGE_ROWS else ""
        return [row for row, _ in found], further
    rows = list(
        await serving.devices.page(
            asking.customer,
            text=asking.text,
            silent=True if asking.silent else None,
            after=cursors.two_texts(after),
            limit=PAGE_ROWS + 1,
        )
    )
    last = rows[PAGE_ROWS - 1] if len(rows) > PAGE_ROWS else None
    return rows, "" if last is None else cursors.write(last.customer, last.device)


def _whose(serving: Services, asking: Principal, customer: str) -> str | None:
    """The one customer whose devices the list shows; None where there may be several: only within one it is
    sorted, for all of them are compared then.
    """
    if (known := only_customer(asking, customer or None)) is not None:
        return known
    configured = serving.customers()
    return configured[0] if len(configured) == 1 else None


def _address(query: Mapping[str, str]) -> str:
    told = urlencode({name: value for name, value in query.items() if value})
    return f"/devices?{told}" if told else "/devices"


@router.get("/devices/{customer}/{device}")
async def device_page(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: Annotated[str, Path(pattern=IDENTIFIER)],
    device: Annotated[str, Path(pattern=IDENTIFIER)],
    span: Annotated[str, Query(pattern="^(hour|day|week)$")] = "day",
    sort: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Reads only."""
    check_customer(session.principal, customer, what="device")
    found = await find_device(serving, customer, device)
    order = sorting(
        sort,
        METRIC_TITLES,
        lambda text: f"/devices/{customer}/{device}?{urlencode({'span': span, 'sort': text})}",
        greatest_first=("at",),
    )
    until = clock.now()
    since = until - SPANS[span]
    charts = []
    meters = {metric.name: metric.meters for metric in found.metrics}
    numbers = [metric.name for metric in found.metrics if metric.kind in ("number", "boolean")]
    for name in numbers[:CHARTS]:
        series = await serving.devices.series(
            customer, device, name, since=since, until=until, buckets=BUCKETS
        )
        if series.buckets:
            chart = drawn(name, series.buckets, since, until, complete=series.complete)
            fed = laid_over(meters[name], span=SPANS[span])
            if fed is not None:
                windows = await steps(serving.devices, customer, device, name, fed, since=since, until=until)
                chart = replace(chart, meter=f"{fed.meter}, {fed.reduce}", steps=stepped(chart, windows))
            charts.append(chart)
    return render(
        request,
        "device.html",
        session=session,
        found=found,
        sort=order,
        metrics=order.sorted(found.metrics, METRIC_KEYS),
        charts=charts,
        left_out=max(0, len(numbers) - CHARTS),
        span=span,
        spans=SPANS,
        width=WIDTH,
        height=HEIGHT,
    )


def drawn(
    metric: str, buckets: Sequence[SeriesBucket], since: datetime, until: datetime, *, complete: bool = True
) -> Chart:
    """The chart of a metric's buckets. Parts without a sample, or with texts alone, break the line."""
    width = (until - since) / BUCKETS
    means = [(round((b.start - since) / width), b.mean) for b in buckets if b.mean is not None]
    low = min((b.min for b in buckets if b.min is not None), default=0.0)
    high = max((b.max for b in buckets if b.max is not None), default=0.0)
    lines: list[list[str]] = []
    before, gap = None, _gap(means)
    for place, mean in means:
        if before is None or place - before > gap:
            lines.append([])
        x, y = (place + 0.5) * WIDTH / BUCKETS, _height(mean, low, high)
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


def stepped(chart: Chart, windows: Sequence[tuple[float, float, float]]) -> tuple[str, ...]:
    """The lines of windows on this chart: those that follow each other are one line."""
    lines: list[list[str]] = []
    ended = None
    for start, end, value in windows:
        if ended is None or abs(start - ended) > 1e-6:
            lines.append([])
        y = _height(value, chart.low, chart.high)
        lines[-1] += [f"{max(0.0, start) * WIDTH:.1f},{y:.1f}", f"{min(1.0, end) * WIDTH:.1f},{y:.1f}"]
        ended = end
    return tuple(" ".join(line) for line in lines)


def _height(value: float, low: float, high: float) -> float:
    half = high / 2 - low / 2  # halves: the difference of two great numbers of other signs is none
    share = 0.5 if half == 0 else min(1.0, max(0.0, (value / 2 - low / 2) / half))
    return 2 + (HEIGHT - 4) * (1 - share)


def _gap(means: Sequence[tuple[int, float]]) -> int:
    """How many parts may be empty before a line ends: three times what is usual, for a device that sends
    rarely.
    """
    steps = sorted(after[0] - before[0] for before, after in pairwise(means))
    return 3 * steps[len(steps) // 2] if steps else 1
