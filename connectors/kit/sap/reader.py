"""Reads lists in the order of a date and a time back, for S/4HANA and ECC alike."""

from __future__ import annotations

from datetime import datetime

from connectors.kit.inbound import is_ascending, page_at
from connectors.kit.odata.service import Service
from connectors.kit.sap.records import PAGE, WallList, has_next
from gateway.model.errors import Unavailable
from gateway.model.inbound import InboundPage, check_page


async def page_by_wall(
    service: Service, listed: WallList, since: datetime | None, until: datetime, cursor: str | None
) -> InboundPage:
    """A page of what bears a time in [since, until); its pages follow each other by time and number, so
    nothing that comes meanwhile moves another over a seam.
    """
    with page_at(cursor):
        answer = await service.get("pull", listed.page(since, until, cursor))
    rows = service.rows(answer, listed.entity_set)
    check_page(len(rows), listed.entity_set)
    is_more = bool(rows) and (len(rows) >= PAGE or has_next(answer.json))
    if not is_ascending(listed.times(rows)):
        raise unordered(listed.entity_set, answer.request_id)
    return InboundPage(
        records=listed.records(rows, until), cursor=listed.cursor(rows[-1]) if is_more else None
    )


def unordered(entity_set: str, request_id: str | None) -> Unavailable:
    """What is raised where a page does not keep to the order that was asked for: the next one begins behind
    its last record, and would pass over what stands before that.
    """
    return Unavailable(
        f"the answer of {entity_set} is not in the order that was asked for: a walk through it would leave"
        " records out",
        request_id=request_id,
    )


async def page_of_unfinished(service: Service, listed: WallList, cursor: str | None) -> InboundPage:
    """A page of notifications that nobody has completed, by their number."""
    with page_at(cursor):
        answer = await service.get("pull", listed.unfinished(cursor))
    rows = service.rows(answer, listed.entity_set)
    check_page(len(rows), listed.entity_set)
    is_more = bool(rows) and (len(rows) >= PAGE or has_next(answer.json))
    return InboundPage(records=listed.records(rows), cursor=listed.cursor(rows[-1]) if is_more else None)
