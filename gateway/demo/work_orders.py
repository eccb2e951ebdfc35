"""The work orders and assets of the demonstration CMMS, and the people who open and close them. No network.

Shapes and rules after MaintainX's published OpenAPI document, each with its place beside it. What that leaves
open is said too: a cursor names the last record, so that a walk stays where it was whatever comes and goes
before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

STATUSES = ("OPEN", "IN_PROGRESS", "ON_HOLD", "DONE", "CANCELED", "SKIPPED")
PRIORITIES = ("NONE", "LOW", "MEDIUM", "HIGH")
_SORTS = ("updatedAt", "createdAt", "dueDate", "startedAt", "completedAt")
_PAGE_DEFAULT, _PAGE_MAX = 100, 200
_MAX_OPEN = 12
_WORK = (
    "Grease the bearings of {asset}",
    "Check the noise at {asset}",
    "Replace the filter of {asset}",
    "Tighten the belt of {asset}",
)


class DemoRefusal(Exception):
    """What the API refuses, as its 400 says it."""

    def __init__(self, error: str, path: str, value: object) -> None:
        super().__init__(error)
        self.error, self.path, self.value = error, path, value


@dataclass(slots=True, kw_only=True)
class WorkOrder:
    """GET /workorders: the fields that are always there. Comments do not change `updated_at`."""

    id: int
    title: str
    created_at: datetime
    updated_at: datetime
    description: str = ""
    status: str = "OPEN"
    priority: str = "NONE"
    kind: str = "REACTIVE"
    asset_id: int | None = None
    completed_at: datetime | None = None
    comments: list[tuple[int, str, datetime]] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """As the list has it."""
        return {
            "id": self.id,
            "sequentialId": self.id,
            "title": self.title,
            "description": self.description,
            "status": self.status,
            "priority": self.priority,
            "type": self.kind,
            "createdAt": text(self.created_at),
            "updatedAt": text(self.updated_at),
            "completedAt": None if self.completed_at is None else text(self.completed_at),
            "assetId": self.asset_id,
            "creatorId": 1,
        }


@dataclass(slots=True, kw_only=True)
class Asset:
    """GET /assets."""

    id: int
    name: str
    updated_at: datetime

    def document(self) -> dict[str, object]:
        """As the list has it."""
        at = text(self.updated_at)
        return {
            "id": self.id,
            "name": self.name,
            "serialNumber": f"SN-{self.id}",
            "createdAt": at,
            "updatedAt": at,
        }


class Workshop:
    """Work orders by id, assets, and the people. Every method takes the time from its caller."""

    def __init__(self, rand: Random | None = None) -> None:
        self.orders: dict[int, WorkOrder] = {}
        self.assets: dict[int, Asset] = {}
        self._rand = rand or Random(20)
        self._number = 5000
        self._sorted: dict[tuple[str, ...], list[tuple[str, int]]] = {}

    def put(self, order: WorkOrder) -> None:
        """In place of what has its id."""
        self.orders[order.id] = order
        self._sorted.clear()

    def remove(self, number: int) -> None:
        """DELETE /workorders/{id}."""
        del self.orders[number]
        self._sorted.clear()

    def add_asset(self, name: str, now: datetime) -> int:
        """The id of the asset of this name, made where there is none."""
        for asset in self.assets.values():
            if asset.name == name:
                return asset.id
        number = 301 + len(self.assets)
        self.assets[number] = Asset(id=number, name=name, updated_at=now)
        return number

    def list_orders(self, query: Sequence[tuple[str, str]]) -> dict[str, object]:
        """GET /workorders: limit 1 to 200, 100 by default; `sort` with a minus for descending; `statuses` may
        come several times; nextCursor. Raises DemoRefusal.
        """
        given = dict(query)
        statuses = [value for name, value in query if name == "statuses"]
        if unknown := sorted(set(statuses) - set(STATUSES)):
            raise DemoRefusal(f"statuses must be one of {', '.join(STATUSES)}", "statuses", unknown[0])
        sort = given.get("sort", "-createdAt")
        if sort.removeprefix("-") not in _SORTS:
            raise DemoRefusal(f"sort must be one of {', '.join(_SORTS)}", "sort", sort)
        held = (order for order in self.orders.values() if not statuses or order.status in statuses)
        column = {"updatedAt": "updated_at", "completedAt": "completed_at"}.get(
            sort.removeprefix("-"), "created_at"
        )

        def place(order: WorkOrder) -> tuple[str, int]:
            at = getattr(order, column) or order.created_at
            return (text(at), order.id)

        key = (sort, *sorted(statuses))
        if key not in self._sorted:
            self._sorted[key] = sorted(map(place, held), reverse=sort.startswith("-"))
        places = self._sorted[key]
        limit, cursor = _limit(given), given.get("cursor")
        begin = 0
        if cursor is not None:
            at, _, number = cursor.partition("|")
            if not number.isdigit():
                raise DemoRefusal("cursor is not valid", "cursor", cursor)
            last = (at, int(number))
            if sort.startswith("-"):
                begin = len(places) - bisect_left(places[::-1], last)
            else:
                begin = bisect_right(places, last)
        ordered = [self.orders[number] for _, number in places[begin : begin + limit + 1]]
        page, is_more = ordered[:limit], len(ordered) > limit
        following = "|".join(map(str, place(page[-1]))) if is_more else None
        return {
            "workOrders": [order.document() for order in page],
            "nextCursor": following,
            "nextPageUrl": None if following is None else f"/workorders?limit={limit}&cursor={following}",
        }

    def list_assets(self, query: Sequence[tuple[str, str]]) -> dict[str, object]:
        """GET /assets: as the other lists."""
        given = dict(query)
        limit, cursor = _limit(given), given.get("cursor", "0")
        if not cursor.isdigit():
            raise DemoRefusal("cursor is not valid", "cursor", cursor)
        rest = sorted(number for number in self.assets if number > int(cursor))
        following = str(rest[limit - 1]) if len(rest) > limit else None
        return {
            "assets": [self.assets[number].document() for number in rest[:limit]],
            "nextCursor": following,
            "nextPageUrl": None if following is None else f"/assets?limit={limit}&cursor={following}",
        }

    def create(self, body: object, now: datetime) -> int:
        """POST /workorders: the id. `title` is needed. Raises DemoRefusal."""
        if not isinstance(body, dict):
            raise DemoRefusal("body must be an object", "", "")
        title, asset = body.get("title"), body.get("assetId")
        if not isinstance(title, str) or not title:
            raise DemoRefusal("title must be a non-empty string", "title", title)
        if asset is not None and asset not in self.assets:
            raise DemoRefusal("asset not found", "assetId", asset)
        priority, kind = body.get("priority", "NONE"), body.get("type", "REACTIVE")
        if priority not in PRIORITIES:
            raise DemoRefusal(f"priority must be one of {', '.join(PRIORITIES)}", "priority", priority)
        if kind not in ("OTHER", "REACTIVE", "PREVENTIVE"):
            raise DemoRefusal("type must be one of OTHER, REACTIVE, PREVENTIVE", "type", kind)
        self._number += 1
        self.put(
            WorkOrder(
                id=self._number,
                title=title,
                description=str(body.get("description") or ""),
                priority=priority,
                kind=kind,
                asset_id=asset,
                created_at=now,
                updated_at=now,
            )
        )
        return self._number

    def change(self, number: int, body: object, now: datetime) -> WorkOrder | None:
        """PATCH /workorders/{id}: None where there is none. Raises DemoRefusal."""
        order = self.orders.get(number)
        if order is None:
            return None
        if not isinstance(body, dict):
            raise DemoRefusal("body must be an object", "", "")
        status = body.get("status", order.status)
        if status not in STATUSES:
            raise DemoRefusal(f"status must be one of {', '.join(STATUSES)}", "status", status)
        order.title = str(body.get("title", order.title))
        order.description = str(body.get("description", order.description))
        order.completed_at = now if status == "DONE" and order.status != "DONE" else order.completed_at
        order.status, order.updated_at = status, now
        self._sorted.clear()
        return order

    def comment(self, number: int, content: str, now: datetime) -> int | None:
        """POST /workorders/{id}/comments: the comment's id; None where there is no such work order."""
        order = self.orders.get(number)
        if order is None:
            return None
        made = number * 1000 + len(order.comments) + 1
        order.comments.append((made, content, now))
        return made

    def act(self, now: datetime, *, busy_seconds: float) -> None:
        """One moment of the people's day: they close what they have been at for long enough, take up what
        waits for longest, and now and then see something to do themselves.
        """
        busy = timedelta(seconds=busy_seconds)
        for order in list(self.orders.values()):
            if now - order.updated_at < busy:
                continue
            if order.status == "IN_PROGRESS":
                self.change(order.id, {"status": "DONE"}, now)
        waiting = self._of("OPEN")
        if waiting and not self._of("IN_PROGRESS") and now - waiting[0].updated_at >= busy:
            self.change(waiting[0].id, {"status": "IN_PROGRESS"}, now)
        if self.assets and len(waiting) < _MAX_OPEN and self._rand.random() < 0.2:
            asset = self._rand.choice(list(self.assets.values()))
            title = self._rand.choice(_WORK).format(asset=asset.name)
            self.create({"title": title, "assetId": asset.id, "type": "PREVENTIVE"}, now)

    def counts(self) -> Mapping[str, int]:
        """Work orders by status."""
        return {status: len(self._of(status)) for status in STATUSES if self._of(status)}

    def _of(self, status: str) -> list[WorkOrder]:
        return sorted(
            (order for order in self.orders.values() if order.status == status),
            key=lambda order: order.updated_at,
        )


def _limit(given: Mapping[str, str]) -> int:
    limit = given.get("limit", str(_PAGE_DEFAULT))
    if not (limit.isdigit() and 1 <= int(limit) <= _PAGE_MAX):
        raise DemoRefusal(f"limit must be from 1 to {_PAGE_MAX}", "limit", limit)
    return int(limit)


def text(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as the API writes times."""
    at = at.astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
