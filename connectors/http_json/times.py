"""How a list writes its times, and what it is asked and read by. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from connectors.kit.local_time import instants_of, walls_within

TimeKind = Literal["iso", "epoch_seconds", "epoch_milliseconds", "local"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS = 10**11


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeForm:
    """`kind`, or a strftime `pattern` in its place. `zone` is that of times that bear none: of `local`, of a
    pattern without `%z`, and of an ISO time without an offset.
    """

    kind: TimeKind
    pattern: str | None
    zone: ZoneInfo

    @property
    def unit(self) -> timedelta:
        """What the written times distinguish."""
        if self.pattern is not None:
            if "%S" in self.pattern or "%s" in self.pattern or "%T" in self.pattern:
                return timedelta(seconds=1)
            return timedelta(minutes=1) if "%M" in self.pattern else timedelta(days=1)
        if self.kind in ("iso", "epoch_milliseconds"):
            return timedelta(milliseconds=1)
        return timedelta(seconds=1)

    @property
    def is_local(self) -> bool:
        """Whether what is written bears no zone."""
        if self.pattern is not None:
            return "%z" not in self.pattern and "%s" not in self.pattern
        return self.kind == "local"

    def bounds(self, since: datetime | None, until: datetime) -> tuple[str | int | None, str | int]:
        """What `{since}` and `{until}` stand for: cut to what is written, and wider around a turn of the
        clock.
        """
        if self.is_local:
            lower, upper = walls_within(since, until, self.zone)
            return None if lower is None else self._wall(lower), self._wall(upper)
        return None if since is None else self._written(since), self._written(until)

    def read(self, value: object) -> tuple[datetime, ...]:
        """The instants that a time may mean, ascending: two where the clock does not tell, none for what is
        no time.
        """
        try:
            if self.pattern is not None and isinstance(value, str):
                return self._instants(datetime.strptime(value, self.pattern))  # noqa: DTZ007 - the zone follows
            if self.kind in ("epoch_seconds", "epoch_milliseconds"):
                return self._of_number(value)
            return self._instants(datetime.fromisoformat(value)) if isinstance(value, str) else ()
        except (ValueError, OverflowError):
            return ()

    def _of_number(self, value: object) -> tuple[datetime, ...]:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return ()
        seconds = float(value) / (1000 if self.kind == "epoch_milliseconds" else 1)
        if not math.isfinite(seconds) or abs(seconds) > _MAX_SECONDS:
            return ()
        return (_EPOCH + timedelta(seconds=seconds),)

    def _instants(self, at: datetime) -> tuple[datetime, ...]:
        return instants_of(at, self.zone) if at.tzinfo is None else (at.astimezone(UTC),)

    def _wall(self, wall: datetime) -> str:
        return wall.strftime(self.pattern) if self.pattern is not None else wall.isoformat(timespec="seconds")

    def _written(self, at: datetime) -> str | int:
        if self.pattern is not None:
            return at.astimezone(self.zone).strftime(self.pattern)
        match self.kind:
            case "epoch_seconds":
                return (at - _EPOCH) // timedelta(seconds=1)
            case "epoch_milliseconds":
                return (at - _EPOCH) // timedelta(milliseconds=1)
            case _:
                return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
