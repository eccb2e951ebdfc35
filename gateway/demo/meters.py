"""The meters of the demonstration CMMS, and every reading that they were ever sent.

Each rule has its source beside it; what the reference leaves open is said too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
from fastapi import Response
from starlette.datastructures import QueryParams

from gateway import clock
from gateway.demo.answers import invalid_answer, json_answer
from gateway.demo.work_orders import text

_MAX_BODY_BYTES = 1 << 20
_MAX_AGE = timedelta(days=3)
_PAGE_DEFAULT, _PAGE_MAX = 100, 200


@dataclass(slots=True, kw_only=True)
class DemoMeter:
    """A meter and every value that it was ever sent, by readingDate."""

    id: int
    name: str
    unit: str | None = None
    asset: dict[str, object] | None = None
    readings: dict[datetime, list[float]] = field(default_factory=dict)

    @property
    def repeats(self) -> int:
        """Readings beyond the first of each (meter, readingDate)."""
        return sum(len(values) - 1 for values in self.readings.values())

    def document(self, expand: Sequence[str]) -> dict[str, object]:
        """As GET /meters lists it. MaintainX public API reference: meters: only `lastReading` is shown, with
        `expand=last_reading`, never the history; its asset with `expand=asset`.
        """
        listed: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "unit": self.unit or "",
            "measurementType": "AUTOMATED_SENSOR",
        }
        if "asset" in expand and self.asset is not None:
            listed["asset"] = self.asset
        if "last_reading" in expand:
            last = max(self.readings, default=None)
            listed["lastReading"] = (
                None if last is None else {"readingDate": text(last), "value": self.readings[last][-1]}
            )
        return listed


class DemoMeters:
    """By their number."""

    def __init__(self) -> None:
        self.by_id: dict[int, DemoMeter] = {}

    def add(self, name: str, *, unit: str | None, asset: dict[str, object] | None) -> int:
        """The number of a new meter."""
        number = 1000 + len(self.by_id) + 1
        self.by_id[number] = DemoMeter(id=number, name=name, unit=unit, asset=asset)
        return number

    def page(self, query: QueryParams, url: str) -> Response:
        """GET /meters at this address."""
        # MaintainX public API reference: GET /meters: cursor paging, limit 1 to 200, 100 by default;
        # nextCursor and nextPageUrl.
        limit, cursor = query.get("limit", str(_PAGE_DEFAULT)), query.get("cursor", "0")
        if not (limit.isdigit() and 1 <= int(limit) <= _PAGE_MAX):
            return invalid_answer("limit must be from 1 to 200", "limit", limit)
        if not cursor.isdigit():
            return invalid_answer("cursor is not valid", "cursor", cursor)
        rest = sorted(number for number in self.by_id if number > int(cursor))
        page, more = rest[: int(limit)], len(rest) > int(limit)
        following = str(page[-1]) if more else None
        next_url = f"{url}?limit={limit}&cursor={following}" if more else None
        expand = query.getlist("expand")
        return json_answer(
            200,
            {
                "meters": [self.by_id[number].document(expand) for number in page],
                "nextCursor": following,
                "nextPageUrl": next_url,
            },
        )

    def take_readings(self, body: bytes) -> Response:
        """POST /meterreadings. All or nothing: the reference names one status for the array, so nothing is
        taken before everything is checked.
        """
        # The reference names 413 and no size; one megabyte is this demonstration's.
        if len(body) > _MAX_BODY_BYTES:
            return json_answer(413, {"error": "Payload too large"})
        try:
            items = orjson.loads(body)
        except orjson.JSONDecodeError:
            return invalid_answer("body is not JSON", "", "")
        if not isinstance(items, list) or not items:
            return invalid_answer("body must be a non-empty array", "", "")
        checked: list[tuple[DemoMeter, datetime, float]] = []
        now = clock.now()
        for position, item in enumerate(items):
            fault = self._check(item, position, now, checked)
            if fault is not None:
                return fault
        for meter, at, value in checked:
            meter.readings.setdefault(at, []).append(value)
        # MaintainX public API reference: POST /meterreadings: 201 with an array, which has no id of the
        # reading.
        return json_answer(
            201,
            [
                {"meterId": meter.id, "value": value, "readingDate": text(at), "createdAt": text(now)}
                for meter, at, value in checked
            ],
        )

    def _check(
        self, item: object, position: int, now: datetime, checked: list[tuple[DemoMeter, datetime, float]]
    ) -> Response | None:
        if not isinstance(item, dict):
            return invalid_answer("must be an object", f"[{position}]", item)
        number, value, at = item.get("meterId"), item.get("value"), _time(item.get("readingDate"))
        if not isinstance(number, int) or isinstance(number, bool):
            return invalid_answer("meterId must be an integer", f"[{position}].meterId", number)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return invalid_answer("value must be a number", f"[{position}].value", value)
        if at is None:
            return invalid_answer(
                "readingDate must be an ISO 8601 date", f"[{position}].readingDate", item.get("readingDate")
            )
        # MaintainX public API reference: POST /meterreadings: 404 for the whole call when a meter is unknown;
        # which one is not said.
        if number not in self.by_id:
            return json_answer(404, {"error": "Meter not found"})
        # MaintainX public API reference: readingDate may not be more than 3 days in the past for automated
        # (IoT) meters.
        if now - at > _MAX_AGE:
            return json_answer(
                400, {"errors": [{"error": "readingDate may not be more than 3 days in the past"}]}
            )
        checked.append((self.by_id[number], at, float(value)))
        return None


def _time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
