"""Reads notifications, measuring points and measurement documents of S/4HANA back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import assert_never

from connectors.kit.inbound import is_ascending, page_at
from connectors.kit.odata.query import target
from connectors.kit.odata.service import Service
from connectors.kit.sap.reader import page_by_wall, unordered
from connectors.kit.sap.records import PAGE, WallList, has_next
from connectors.sap_s4hana.mapping import (
    CHANGED_ORDER,
    NOTIFICATION_SET,
    StreamName,
    changed_after,
    cursor_of,
    open_after,
    to_notification,
)
from connectors.sap_s4hana.points import Points
from gateway.model.inbound import InboundPage, check_page


class S4Reader:
    """Three services of one system."""

    def __init__(
        self, *, documents: Service, listed: WallList, notifications: Service, points: Points
    ) -> None:
        self._documents = documents
        self._listed = listed
        self._notifications = notifications
        self._points = points

    async def pull(
        self, stream: StreamName, since: datetime | None, until: datetime, cursor: str | None
    ) -> InboundPage:
        """A page of the stream."""
        match stream:
            case "measuring_points":
                return await self._points.page(cursor)
            case "measurement_documents":
                return await page_by_wall(self._documents, self._listed, since, until, cursor)
            case "notifications":
                counted = {"$inlinecount": "allpages"} if cursor is None else {}
                where = changed_after(cursor, since, until)
                query = target(NOTIFICATION_SET, where=where, order=CHANGED_ORDER, top=PAGE, extra=counted)
                page = await self._page(query, cursor)
                if not is_ascending(record.modified_at for record in page.records):
                    raise unordered(NOTIFICATION_SET, None)
                return page
            case _:
                assert_never(stream)

    async def pull_open(self, cursor: str | None) -> InboundPage:
        """A page of notifications that nobody has completed, by their number."""
        query = target(NOTIFICATION_SET, where=open_after(cursor), order=(NOTIFICATION_SET,), top=PAGE)
        return await self._page(query, cursor)

    async def _page(self, query: str, cursor: str | None) -> InboundPage:
        with page_at(cursor):
            answer = await self._notifications.get("pull", query)
        rows = self._notifications.rows(answer, NOTIFICATION_SET)
        check_page(len(rows), NOTIFICATION_SET)
        is_more = bool(rows) and (len(rows) >= PAGE or has_next(answer.json))
        return InboundPage(
            records=[to_notification(row) for row in rows],
            cursor=cursor_of(rows[-1]) if is_more else None,
            total=_total(answer.json) if cursor is None else None,
        )


def _total(document: object) -> int | None:
    inner = document.get("d") if isinstance(document, Mapping) else None
    count = inner.get("__count") if isinstance(inner, Mapping) else None
    return (
        int(count)
        if isinstance(count, str) and count.isascii() and count.isdigit() and len(count) < 16
        else None
    )
