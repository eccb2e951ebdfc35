"""What SAP holds, as records: lists in the order of a date and a time of the system's own clock, and how far
people are with a notification. Pure.

Such times bear no zone. An interval is asked for so wide that around a turn of the clock nothing is missed; a
time that happened twice is no time of change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from types import MappingProxyType
from zoneinfo import ZoneInfo

from connectors.kit.inbound import key_of, pack, unpack
from connectors.kit.local_time import instants_of, walls_within
from connectors.kit.odata.query import target
from connectors.kit.odata.values import (
    Version,
    date_literal,
    decode_date,
    decode_time,
    text_literal,
    time_literal,
)
from gateway.model.errors import CursorExpired
from gateway.model.inbound import InboundRecord, Progress

PAGE = 500
DELETED_PHASE = "5"
PHASES: Mapping[str, Progress] = MappingProxyType(
    {"1": "open", "2": "acknowledged", "3": "acknowledged", "4": "closed", DELETED_PHASE: "closed"}
)
"""Of a notification: outstanding, postponed, in process, completed, marked for deletion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallList:
    """An entity set whose records bear a date and a time of the clock in `zone`. phase, reference: of
    notifications, where the service shows them.
    """

    version: Version
    entity_set: str
    number: str
    date: str
    time: str
    zone: ZoneInfo
    phase: str | None = None
    reference: str | None = None

    def page(self, since: datetime | None, until: datetime, cursor: str | None) -> str:
        """What to ask for: a page of what bears a time in [since, until), behind the record of the cursor."""
        lower, upper = walls_within(since, until, self.zone)
        parts = [f"({self._before(upper)})"]
        if cursor is not None:
            wall, number = _place(cursor)
            parts.append(f"({self._behind(wall, number)})")
        elif lower is not None:
            parts.append(f"({self._from(lower)})")
        order = (self.date, self.time, self.number)
        return target(self.entity_set, where=" and ".join(parts), order=order, top=PAGE)

    def unfinished(self, cursor: str | None) -> str:
        """What to ask for: a page of notifications that nobody has completed, by their number."""
        parts = [f"{self.phase} ne '{phase}'" for phase, progress in PHASES.items() if progress == "closed"]
        if cursor is not None:
            parts.append(f"{self.number} gt {text_literal(_place(cursor)[1])}")
        return target(self.entity_set, where=" and ".join(parts), order=(self.number,), top=PAGE)

    def records(
        self, rows: Sequence[Mapping[str, object]], until: datetime | None = None
    ) -> list[InboundRecord]:
        """Without those that certainly lie at `until` or later."""
        found = (self._record(row, until) for row in rows)
        return [record for record in found if record is not None]

    def times(self, rows: Sequence[Mapping[str, object]]) -> list[datetime | None]:
        """By which they are ordered."""
        return [self._wall(row) for row in rows]

    def cursor(self, row: Mapping[str, object]) -> str:
        """Behind this row."""
        wall = self._wall(row)
        return pack(at=None if wall is None else wall.isoformat(), number=row.get(self.number))

    def _record(self, row: Mapping[str, object], until: datetime | None) -> InboundRecord | None:
        wall = self._wall(row)
        moments = () if wall is None else instants_of(wall, self.zone)
        if until is not None and moments and moments[0] >= until:
            return None
        phase = row.get(self.phase or "")
        reference = row.get(self.reference or "")
        body = to_body(row)
        return InboundRecord(
            key=key_of([row.get(self.number)], body),
            modified_at=moments[0] if len(moments) == 1 else None,
            body=body,
            is_deleted=phase == DELETED_PHASE,
            progress=PHASES.get(phase) if isinstance(phase, str) else None,
            reference=reference if isinstance(reference, str) and reference else None,
        )

    def _wall(self, row: Mapping[str, object]) -> datetime | None:
        day = decode_date(row.get(self.date))
        return None if day is None else datetime.combine(day, decode_time(row.get(self.time)) or time(0))

    def _before(self, wall: datetime) -> str:
        day, at = self._day(wall), self._at(wall)
        return f"{self.date} lt {day} or ({self.date} eq {day} and {self.time} lt {at})"

    def _from(self, wall: datetime) -> str:
        day, at = self._day(wall), self._at(wall)
        return f"{self.date} gt {day} or ({self.date} eq {day} and {self.time} ge {at})"

    def _behind(self, wall: datetime, number: str) -> str:
        day, at = self._day(wall), self._at(wall)
        same = f"{self.time} eq {at} and {self.number} gt {text_literal(number)}"
        return f"{self.date} gt {day} or ({self.date} eq {day} and ({self.time} gt {at} or ({same})))"

    def _day(self, wall: datetime) -> str:
        return date_literal(self.version, wall.date())

    def _at(self, wall: datetime) -> str:
        return time_literal(self.version, wall.time().replace(microsecond=0))


def to_body(row: Mapping[str, object]) -> Mapping[str, object]:
    """The row without links and protocol."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith(("__", "@")) and not isinstance(value, dict)
    }


def has_next(document: object) -> bool:
    """Whether the system says itself that its list goes on, in either version."""
    if not isinstance(document, dict):
        return False
    inner = document.get("d")
    return bool(document.get("@odata.nextLink")) or (isinstance(inner, dict) and bool(inner.get("__next")))


def _place(cursor: str) -> tuple[datetime, str]:
    """Where a page ended. A cursor by number alone has no time that matters."""
    parts = unpack(cursor)
    at, number = parts.get("at"), parts.get("number")
    try:
        wall = datetime.fromisoformat(at) if isinstance(at, str) else datetime.min.replace(tzinfo=UTC)
    except ValueError:
        wall = None
    if wall is None or not isinstance(number, str):
        raise CursorExpired("the cursor of the page cannot be read: the interval is read again")
    return wall.replace(tzinfo=None), number
