"""What every format agrees on: reasons, limits, times and values."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics, to_microseconds

MAX_METRICS = 256
MAX_PAYLOAD_BYTES = 1 << 20
MAX_STRING_BYTES = 1024
MAX_NAME_LENGTH = 256
MAX_DEPTH = 16
MAX_INTEGER = 2**53
"""Up to it every integer is a double, and so is what mean, sum or another system make of it."""
SAFE_DIGITS = 15
"""A decimal of so many digits is the same when its double is written with as many."""

MAX_DIGITS = 800
"""No double has more."""

MIN_DOUBLE = 1e-290
"""Nearer to zero, doubles lose digits."""

Measurement = tuple[int | None, Metrics]
"""Device time in microseconds since the epoch (None: it sent none), and the metrics."""


class Reason(enum.StrEnum):
    """Why a message is a dead letter, or a field of it was left out: a closed set, for it labels metrics."""

    INVALID_JSON = "invalid_json"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    NOT_EXACT = "not_exact"
    TOO_MANY_METRICS = "too_many_metrics"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    STRING_TOO_LONG = "string_too_long"
    INVALID_METRIC = "invalid_metric"
    INVALID_TIMESTAMP = "invalid_timestamp"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    EMPTY = "empty"
    NULL = "null"
    ARRAY = "array"
    NOT_A_NUMBER = "not_a_number"
    BAD_QUALITY = "bad_quality"
    TRANSIENT = "transient"
    NESTED_TOO_DEEP = "nested_too_deep"
    MISSING_TIME = "missing_time"
    WRONG_ENCODING = "wrong_encoding"
    SAME_NAME = "same_name"
    INTERNAL_ERROR = "internal_error"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNMATCHED_TOPIC = "unmatched_topic"
    INVALID_IDENTIFIER = "invalid_identifier"
    OVERSIZED_PACKET = "oversized_packet"
    NOT_UTF8 = "not_utf8"
    REFUSED_BY_DATABASE = "refused_by_database"
    TOO_MANY_DEVICES = "too_many_devices"
    OVER_QUOTA = "over_quota"
    BEFORE_BIRTH = "before_birth"
    UNKNOWN_ALIAS = "unknown_alias"
    SEQUENCE_GAP = "sequence_gap"


WAITS_FOR_BIRTH = frozenset({Reason.BEFORE_BIRTH, Reason.UNKNOWN_ALIAS, Reason.SEQUENCE_GAP})
"""Why a message of Sparkplug cannot be read yet, and may be when what is missing before it has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """Stands in a document for a number that a double cannot hold as it was sent."""

    reason: Reason
    text: str


def unfit(number: Unfit, name: str) -> DecodeError:
    """The refusal of a metric: what it is and what to do."""
    shown = number.text if len(number.text) <= 40 else f"{number.text[:37]}..."
    if number.reason is Reason.NOT_FINITE:
        return DecodeError(
            Reason.NOT_FINITE, f"metric {name!r} is {shown}, no finite number: leave the metric out"
        )
    return DecodeError(
        Reason.NOT_EXACT,
        f"metric {name!r} is {shown}, which a double cannot hold as it is written: send an integer within"
        " +-2^53, a decimal of at most 15 digits, or a text",
    )


def as_number(text: str) -> float | int | Unfit:
    """The number that a literal of JSON or of a scalar stands for, if it stays as it was sent.

    An integer stays within +-2^53. A decimal stays if its double, written with as many digits as were sent,
    reads the same: what was printed from a double does, whether with 15, 17 or more digits.
    """
    number = float(text)
    if not math.isfinite(number):
        return Unfit(reason=Reason.NOT_FINITE, text=text)
    if repr(number) == text:
        return number
    if text.lstrip("+-").isdigit():
        is_exact = abs(number) <= MAX_INTEGER and abs(int(text)) <= MAX_INTEGER
        return int(text) if is_exact else Unfit(reason=Reason.NOT_EXACT, text=text)
    mantissa, _, _ = text.lower().lstrip("+-").partition("e")
    digits = len(mantissa.replace(".", "").lstrip("0"))
    if (digits <= SAFE_DIGITS and abs(number) > MIN_DOUBLE) or not digits:
        return number
    if number:
        held = Decimal(f"{number:.{digits - 1}e}" if digits < MAX_DIGITS else number)
        if held == Decimal(text):
            return number
    return Unfit(reason=Reason.NOT_EXACT, text=text)


def parse_time(value: object) -> int:
    """ISO 8601 with a zone, or a number since the epoch in s, ms, us or ns by its magnitude, to microseconds.
    Raises DecodeError.
    """
    if type(value) is Unfit:  # a time is rounded to microseconds whatever it is written like
        value = float(value.text)
    if type(value) is int:
        size = abs(value)
        if size < 100_000_000_000:
            return value * 1_000_000
        if size < 100_000_000_000_000:
            return value * 1000
        return value if size < 100_000_000_000_000_000 else value // 1000
    if type(value) is float:
        if not math.isfinite(value):
            raise DecodeError(Reason.NOT_FINITE, "ts is not a finite number")
        size_of = abs(value)
        if size_of < 1e11:
            return round(value * 1e6)
        if size_of < 1e14:
            return round(value * 1e3)
        return round(value) if size_of < 1e17 else round(value * 1e-3)
    if type(value) is str:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise DecodeError(
                Reason.INVALID_TIMESTAMP, f"ts {value[:40]!r} is not ISO 8601 (2026-01-31T09:30:00Z)"
            ) from None
        if at.tzinfo is None:
            raise DecodeError(
                Reason.INVALID_TIMESTAMP, f"ts {value[:40]!r} has no time zone: add Z or an offset"
            )
        return to_microseconds(at)
    raise DecodeError(
        Reason.INVALID_TIMESTAMP,
        f"ts is a {type(value).__name__}: send ISO 8601 with a zone, or a number since the epoch",
    )


def check_metrics(values: Mapping[str, object]) -> Metrics:
    """The metrics, nested objects flattened with dots. Raises DecodeError for what cannot be stored."""
    metrics: Metrics = {}
    leaves = _collect(values, "", metrics, 0)
    if not metrics:
        raise DecodeError(Reason.EMPTY, "the message has no metric")
    if leaves != len(metrics):
        raise DecodeError(
            Reason.SAME_NAME, "two fields have the same name when objects are flattened with dots"
        )
    if len(metrics) > MAX_METRICS:
        raise DecodeError(
            Reason.TOO_MANY_METRICS, f"{len(metrics)} metrics; at most {MAX_METRICS} are taken in one message"
        )
    return metrics


def check_text(name: str, value: str) -> str:
    """A string that PostgreSQL can hold. Raises DecodeError."""
    try:
        is_long = len(value) > MAX_STRING_BYTES or len(value.encode()) > MAX_STRING_BYTES
    except UnicodeEncodeError:  # the parser of documents with NaN in them takes half of a character
        raise DecodeError(
            Reason.NOT_UTF8, f"metric {name!r} holds half of a character, which no UTF-8 has"
        ) from None
    if is_long:
        raise DecodeError(Reason.STRING_TOO_LONG, f"metric {name!r} is longer than {MAX_STRING_BYTES} bytes")
    if "\0" in value:
        raise DecodeError(Reason.INVALID_METRIC, f"metric {name!r} holds a NUL character")
    return value


def _collect(values: Mapping[str, object], prefix: str, metrics: Metrics, depth: int) -> int:
    """Fills `metrics`; how many values it saw."""
    if depth > MAX_DEPTH:
        raise DecodeError(Reason.WRONG_SHAPE, f"objects nested deeper than {MAX_DEPTH}")
    leaves = len(values)
    for key, value in values.items():
        name = prefix + key if prefix else key
        if not key or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise DecodeError(
                Reason.INVALID_METRIC,
                f"metric name {name[:40]!r}: 1 to {MAX_NAME_LENGTH} printable characters",
            )
        kind = type(value)
        if kind is float or kind is bool:
            metrics[name] = value  # type: ignore[assignment]
        elif kind is int:
            if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]
                raise unfit(Unfit(reason=Reason.NOT_EXACT, text=str(value)), name)
            metrics[name] = value  # type: ignore[assignment]
        elif kind is str:
            metrics[name] = check_text(name, value)  # type: ignore[arg-type]
        elif kind is dict:
            leaves += _collect(value, name + ".", metrics, depth + 1) - 1  # type: ignore[arg-type]
        elif type(value) is Unfit:
            raise unfit(value, name)
        else:
            what = kind.__name__
            if value is None:
                what = "null"
            elif kind is list:
                what = "an array"
            raise DecodeError(
                Reason.WRONG_SHAPE, f"metric {name!r} is {what}: send a number, a boolean or a string"
            )
    return leaves
