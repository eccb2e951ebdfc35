"""Scalar: the payload is one number, `true`, `false` or a text; the topic names the metric; the time is that of receipt."""

from __future__ import annotations

import math

from gateway.ingest.formats.values import Measurement, Reason, check_metrics
from gateway.model.errors import DecodeError
from gateway.model.sample import Value


def parse(payload: bytes, metric: str | None) -> list[Measurement]:
    """One sample of one metric. Raises DecodeError."""
    if metric is None:
        raise DecodeError(Reason.UNMATCHED_TOPIC, "the topic names no metric")
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise DecodeError(Reason.WRONG_SHAPE, "the payload is not UTF-8 text") from None
    if not text:
        raise DecodeError(Reason.EMPTY, "the payload is empty")
    return [(None, check_metrics({metric: _value(text)}))]


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        raise DecodeError(Reason.NOT_FINITE, f"{text[:40]} is not a finite number")
    digits = text.lstrip("+-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else number
