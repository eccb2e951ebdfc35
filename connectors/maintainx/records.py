"""MaintainX's lists as records, and an event as a work order. Pure.

Source: MaintainX public API reference (OpenAPI): GET and POST /workorders, GET /meters, GET /assets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from connectors.kit.inbound import key_of
from connectors.maintainx.mapping import to_time
from gateway.model.exchange import EventToRaise
from gateway.model.inbound import InboundRecord, Progress

WORK_ORDERS: Final = "work_orders"
TITLE_LENGTH, TEXT_LENGTH, REFERENCE_LENGTH = 200, 5000, 20
_MARK = "Fieldgate reference: "
_REFERENCE = re.compile(rf"^{_MARK}(\S{{1,{REFERENCE_LENGTH}}})\s*$", re.MULTILINE)
_PRIORITIES = MappingProxyType({"low": "LOW", "medium": "MEDIUM", "high": "HIGH"})
_PROGRESS: Mapping[str, Progress] = MappingProxyType(
    {
        "OPEN": "open",
        "IN_PROGRESS": "acknowledged",
        "ON_HOLD": "acknowledged",
        "DONE": "closed",
        "CANCELED": "closed",
        "SKIPPED": "closed",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Where rows are listed. `items`: the member of the answer that holds them; `query`: what is asked beside
    the limit.
    """

    path: str
    items: str
    query: str = ""


# Work orders that begin in the future are left out unless they are asked for. A meter's last reading is not
# asked for: every reading of ours would change it.
_ORDERS = "show_upcoming=true&expand=assignees&expand=categories&expand=extra_fields"
LISTS: Mapping[str, Listing] = MappingProxyType(
    {
        WORK_ORDERS: Listing(path="/workorders", items="workOrders", query=f"sort=-updatedAt&{_ORDERS}"),
        "meters": Listing(path="/meters", items="meters"),
        "assets": Listing(path="/assets", items="assets", query="expand=status"),
    }
)
OPEN_ORDERS = Listing(
    path="/workorders",
    items="workOrders",
    query=f"sort=createdAt&statuses=OPEN&statuses=IN_PROGRESS&statuses=ON_HOLD&{_ORDERS}",
)
KEYS_OF_ORDERS = Listing(path="/workorders", items="workOrders", query="sort=createdAt&show_upcoming=true")
NEWEST_ORDERS = Listing(path="/workorders", items="workOrders", query="sort=-createdAt&show_upcoming=true")


def to_record(stream: str, row: Mapping[str, object]) -> InboundRecord:
    """A row with what the engine reads of it. Only work orders are deleted, make progress, and may have been
    raised by us.
    """
    is_order = stream == WORK_ORDERS
    description, status = row.get("description"), row.get("status")
    return InboundRecord(
        key=key_of([row.get("id")], dict(row)),
        modified_at=to_time(row.get("updatedAt")),
        body=row,
        is_deleted=is_order and to_time(row.get("deletedAt")) is not None,
        progress=_PROGRESS.get(status) if is_order and isinstance(status, str) else None,
        reference=reference_of(description) if is_order else None,
    )


def within(records: Sequence[InboundRecord], since: datetime | None, until: datetime) -> list[InboundRecord]:
    """Those of [since, until): no list can be asked for an interval. A record without a time is in every
    one.
    """
    floor = None if since is None else floored(since)
    return [
        record
        for record in records
        if record.modified_at is None
        or (record.modified_at < until and (floor is None or record.modified_at >= floor))
    ]


def floored(at: datetime) -> datetime:
    """To the millisecond: finer MaintainX's times are not."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def reference_of(description: object) -> str | None:
    """Of the event that we raised the work order from; None where it is somebody else's."""
    found = _REFERENCE.findall(description) if isinstance(description, str) else []
    return found[-1] if found else None


def order_body(event: EventToRaise, asset: int | None) -> dict[str, object]:
    """The body of POST /workorders. The reference is the description's last line: no field of a list holds
    it.
    """
    words = _printable(f"{event.text}\n{event.meter}".strip())[:TEXT_LENGTH]
    body: dict[str, object] = {
        "title": _printable(event.title).strip()[:TITLE_LENGTH] or event.reference,
        "description": f"{words}\n\n{_MARK}{event.reference}",
        "priority": _PRIORITIES[event.severity],
        "type": "REACTIVE",
    }
    return body if asset is None else {**body, "assetId": asset}


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
