"""The time of a sample, as devices write it, made microseconds since the epoch."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from gateway.model.errors import DecodeError
from gateway.model.sample import to_microseconds
from gateway.payloads.formats.values import Reason, Unfit, parse_time

Unit = Literal["auto", "s", "ms", "us", "ns", "iso"]

FIRST = to_microseconds(datetime(1, 1, 1, tzinfo=UTC))
LAST = to_microseconds(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))

AHEAD = 300_000_000
"""Microseconds by which a device's clock may be ahead and still mean the hour that is now."""

_SCALES = {"s": 1_000_000.0, "ms": 1000.0, "us": 1.0, "ns": 0.001}
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,12})?")
_ISO = re.compile(
    r"(?P<date>[0-9]{4}-[0-9][0-9]-[0-9][0-9])[Tt"
    r" ](?P<hour>[0-9][0-9]):(?P<minute>[0-9][0-9])(?::(?P<second>[0-9][0-9])(?P<fraction>[.,][0-9]{1,12})?)?"
    r"\s?(?P<zone>[Zz]|UTC|[+-][0-9][0-9]:?(?:[0-9][0-9])?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRule:
    """How a source writes times. `zone`: of those that name none; `is_required`: a sample without a time is
    no sample, else the time of receipt stands for it.
    """

    unit: Unit = "auto"
    zone: ZoneInfo | None = None
    is_required: bool = False

    def read(self, value: object, *, received_at: int) -> int:
        """Microseconds since the epoch, of the years 1 to 9999: beyond them their end. `received_at` decides
        between the two passes of an hour that summer time repeats: the later one that is not after receipt,
        clocks that are a little ahead allowed for. Raises DecodeError.
        """
        try:
            at = self._read(value, received_at)
        except (OverflowError, ValueError) as error:  # at the ends of the calendar, in its own zone or in UTC
            raise DecodeError(Reason.INVALID_TIMESTAMP, f"the time cannot be read: {error}") from None
        return min(max(at, FIRST), LAST)  # whoever looks at its age can reckon with it

    def _read(self, value: object, received_at: int) -> int:
        if type(value) is Unfit:
            value = float(value.text)
        if isinstance(value, datetime):  # CBOR and MessagePack have a type for it
            return self._of_datetime(value, received_at)
        if isinstance(value, str):
            text = value.strip()
            if _NUMBER.fullmatch(text) and self.unit != "iso":
                value = float(text) if "." in text else int(text)
            else:
                return self._of_text(text, received_at)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DecodeError(Reason.INVALID_TIMESTAMP, f"the time is a {type(value).__name__}")
        if self.unit == "iso":
            raise DecodeError(
                Reason.INVALID_TIMESTAMP, f"the time {value!r} is a number; time.unit expects ISO 8601"
            )
        if self.unit == "auto":
            return parse_time(value)
        if not math.isfinite(value):
            raise DecodeError(Reason.NOT_FINITE, "the time is not a finite number")
        scale = _SCALES[self.unit]
        if isinstance(value, int):
            return value // 1000 if self.unit == "ns" else value * int(scale)
        return round(value * scale)

    def _of_text(self, text: str, received_at: int) -> int:
        found = _ISO.fullmatch(text)
        if found is None:
            with suppress(DecodeError):
                return parse_time(text)  # in a form that the fast way takes: basic, by weeks, without minutes
            raise DecodeError(
                Reason.INVALID_TIMESTAMP, f"the time {text[:40]!r} is not ISO 8601 (2026-01-31T09:30:00Z)"
            )
        zone, hour, second = found["zone"], int(found["hour"]), int(found["second"] or 0)
        extra = timedelta()
        if hour == 24 and found["minute"] == "00" and second == 0:  # ISO 8601: the end of the day
            hour, extra = 0, timedelta(days=1)
        if second == 60:  # a leap second: clocks of computers have none
            second, extra = 59, extra + timedelta(seconds=1)
        microseconds = int((found["fraction"] or ".0")[1:7].ljust(6, "0"))
        try:
            at = (
                datetime.fromisoformat(found["date"]).replace(
                    hour=hour, minute=int(found["minute"]), second=second, microsecond=microseconds
                )
                + extra
            )
            if zone is not None:
                return to_microseconds(at.replace(tzinfo=_offset(zone)))
        except (ValueError, OverflowError) as error:
            raise DecodeError(Reason.INVALID_TIMESTAMP, f"the time {text[:40]!r}: {error}") from None
        return self._of_datetime(at, received_at)

    def _of_datetime(self, at: datetime, received_at: int) -> int:
        if at.tzinfo is not None:
            return to_microseconds(at)
        if self.zone is None:
            raise DecodeError(
                Reason.INVALID_TIMESTAMP,
                f"the time {at.isoformat(' ')!r} has no time zone: set `time.zone` of the source, or send Z"
                " or an offset",
            )
        first, second = (
            to_microseconds(at.replace(tzinfo=self.zone, fold=fold).astimezone(UTC)) for fold in (0, 1)
        )
        if first > second:  # the hour that summer time leaves out
            raise DecodeError(
                Reason.INVALID_TIMESTAMP,
                f"the time {at.isoformat(' ')!r} does not exist in {self.zone.key}: summer time leaves"
                " it out",
            )
        return second if second <= received_at + AHEAD else first


def _offset(zone: str) -> tzinfo:
    if zone in ("Z", "z", "UTC"):
        return UTC
    parsed = datetime.fromisoformat(f"2000-01-01T00:00:00{zone}").tzinfo
    assert parsed is not None
    return parsed
