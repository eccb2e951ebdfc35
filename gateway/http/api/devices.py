"""Devices that were seen: the list, one with its metrics and the meters that they feed, and a metric over
time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query

from gateway import clock
from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Serving, Viewer, check_customer, only_customer
from gateway.http.device_documents import BucketDocument, DeviceDetail, DeviceDocument, SeriesDocument
from gateway.http.documents import Page
from gateway.http.openapi import problems
from gateway.http.services import Services
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER
from gateway.store.devices import DescribedDevice, bucket_width

router = APIRouter(tags=["devices"])

DEFAULT_SPAN = timedelta(days=1)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
MAX_BUCKETS = 1_000

Customer = Annotated[str, Path(pattern=IDENTIFIER, examples=["acme"])]
Device = Annotated[str, Path(pattern=IDENTIFIER, examples=["pump-1"])]
At = Annotated[datetime | None, Query(description="With its zone.")]


@router.get("/v1/devices", summary="Devices that were seen")
async def list_devices(
    serving: Serving,
    asking: Viewer,
    customer: Annotated[str | None, Query(pattern=IDENTIFIER, description="Of this customer only.")] = None,
    q: Annotated[
        str, Query(max_length=100, pattern=r"^[^\x00]*$", description="Part of the id or the title.")
    ] = "",
    silent: Annotated[
        bool | None, Query(description="True: only those that are silent; false: only the others.")
    ] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[DeviceDocument]:
    """By customer and id. What was last seen is some seconds old."""
    rows = await serving.devices.page(
        only_customer(asking, customer),
        text=q,
        silent=silent,
        after=cursors.two_texts(cursor),
        limit=limit + 1,
    )
    return page(
        Page[DeviceDocument],
        rows,
        limit,
        item=DeviceDocument.model_validate,
        cursor=lambda row: cursors.write(row.customer, row.device),
    )


@router.get("/v1/devices/{customer}/{device}", summary="One device", responses=problems("request.not_found"))
async def read_device(serving: Serving, asking: Viewer, customer: Customer, device: Device) -> DeviceDetail:
    """Its metrics with their last values, the meters that they feed, and those that feed none."""
    check_customer(asking, customer, what="device")
    return DeviceDetail.model_validate(await find_device(serving, customer, device))


@router.get(
    "/v1/devices/{customer}/{device}/telemetry",
    summary="A metric over time",
    responses=problems("request.not_found"),
)
async def read_series(
    serving: Serving,
    asking: Viewer,
    customer: Customer,
    device: Device,
    metric: Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$", examples=["t"])],
    since: Annotated[
        datetime | None, Query(alias="from", description="With its zone; a day before `to`.")
    ] = None,
    until: Annotated[datetime | None, Query(alias="to", description="With its zone; now.")] = None,
    buckets: Annotated[int, Query(ge=1, le=MAX_BUCKETS, description="Parts of equal length.")] = 100,
) -> SeriesDocument:
    """Number, least, mean and greatest of the samples in each part of [from, to), and the last one."""
    check_customer(asking, customer, what="device")
    until = _time("to", until) if until is not None else clock.now()
    since = _time("from", since) if since is not None else until - DEFAULT_SPAN
    if until - since < timedelta(microseconds=1) * buckets:
        raise RequestRefused("request.invalid", "from: expected a time before `to`.")
    await find_device(serving, customer, device)
    series = await serving.devices.series(customer, device, metric, since=since, until=until, buckets=buckets)
    return SeriesDocument(
        buckets=tuple(BucketDocument.model_validate(bucket) for bucket in series.buckets),
        bucket_seconds=bucket_width(since, until, buckets).total_seconds(),
        complete=series.complete,
    )


async def find_device(serving: Services, customer: str, device: str) -> DescribedDevice:
    """Raises RequestRefused("request.not_found")."""
    found = await serving.devices.one(customer, device)
    if found is None:
        raise RequestRefused("request.not_found", "There is no such device.")
    return found


def _time(name: str, at: datetime) -> datetime:
    if at.tzinfo is None or not EARLIEST <= at <= LATEST:
        raise RequestRefused(
            "request.invalid", f"{name}: expected a time with its zone, such as 2027-03-01T00:00:00Z."
        )
    return at.astimezone(UTC)
