"""JSON: `{"ts": T, "metrics": {...}}`, flat `{"ts": T, "temperature": 21.5}`, or an array of these."""

from __future__ import annotations

import re

import orjson

from gateway.ingest.formats.values import Measurement, Reason, check_metrics, parse_time
from gateway.model.errors import DecodeError

_NOT_FINITE = re.compile(rb"[:,\[\s]-?(NaN|Infinity)\b")


def parse(payload: bytes, _metric: str | None = None) -> list[Measurement]:
    """The samples of one message, in its order. Raises DecodeError."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        if not payload.strip():
            raise DecodeError(Reason.EMPTY, "the payload is empty") from None
        if _NOT_FINITE.search(payload):
            raise DecodeError(
                Reason.NOT_FINITE, "NaN and Infinity are not JSON: leave the metric out"
            ) from None
        raise DecodeError(Reason.INVALID_JSON, str(error)) from None
    if type(document) is dict:
        return [_sample(document)]
    if type(document) is list:
        if not document:
            raise DecodeError(Reason.EMPTY, "the array is empty")
        return [_sample(item) for item in document]
    raise DecodeError(
        Reason.WRONG_SHAPE,
        f"the payload is a JSON {type(document).__name__}; send an object or an array of objects",
    )


def _sample(document: object) -> Measurement:
    if type(document) is not dict:
        raise DecodeError(Reason.WRONG_SHAPE, "an item of the array is not an object")
    ts = document.pop("ts", None)
    nested = document.get("metrics")
    if type(nested) is dict:
        if len(document) > 1:
            others = ", ".join(sorted(key for key in document if key != "metrics"))[:80]
            raise DecodeError(Reason.WRONG_SHAPE, f"beside `metrics` only `ts` may stand; here: {others}")
        document = nested
    return (None if ts is None else parse_time(ts), check_metrics(document))
