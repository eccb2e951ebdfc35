"""Scalar: the payload is one number, `true`, `false` or a text; the topic names the metric; the time is that
of receipt.
"""

from __future__ import annotations

import re

from gateway.model.errors import DecodeError
from gateway.model.sample import Value
from gateway.payloads.formats.values import Measurement, Reason, Unfit, as_number, check_metrics, unfit

_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)
"""Decimal, or what would be none; `float` alone takes `1_000` and the digits of every script."""


_PADDING = "\ufeff\0 \t\r\n"
"""A byte order mark, and what programs in C leave at the end."""


def parse(payload: bytes, metric: str | None) -> list[Measurement]:
    """One sample of one metric. Raises DecodeError."""
    if metric is None:
        raise DecodeError(Reason.UNMATCHED_TOPIC, "the topic names no metric")
    try:
        text = payload.decode("utf-8").strip(_PADDING).strip()
    except UnicodeDecodeError:
        raise DecodeError(Reason.WRONG_SHAPE, "the payload is not UTF-8 text") from None
    if not text:
        raise DecodeError(Reason.EMPTY, "the payload is empty")
    return [(None, check_metrics({metric: _value(text, metric)}))]


def _value(text: str, metric: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if not _NUMBER.fullmatch(text):
        return text
    number = as_number(text)
    if isinstance(number, Unfit):
        raise unfit(number, metric)
    return number
