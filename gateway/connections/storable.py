"""What a connector answers or raises, in values that can be stored and shown.

A connector is code that anybody may have written, and its type annotations hold it to nothing. Each function
takes what came of one kind of call, and returns it with bounded texts, ids, times and counts. It raises
TypeError or ValueError for what is something else, which the guard takes as the connector's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gateway.model import bounds
from gateway.model.connector import ProbeResult, RemoteReading
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.exchange import RemoteMeter
from gateway.model.inbound import (
    MAX_PAGE,
    InboundPage,
    InboundRecord,
    InboundStream,
    KeyPage,
    check_cursor,
    check_page,
)
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Superseded, Unknown

TURN = 100
"""Records that are looked at before it is another's turn."""

_KINDS = (AuthRefused, BadConfiguration, BatchRefused, PermissionDenied, RateLimited, Unavailable)
_PROGRESS = (None, "open", "acknowledged", "closed")


def error(raised: ConnectorError) -> ConnectorError:
    """The same error with a text, a request id and a wait that can be stored. Raises one of a kind that says
    nothing.
    """
    if not isinstance(raised, _KINDS):
        raise raised
    raised.args = (bounds.text(str(raised)) or type(raised).__name__,)
    raised.request_id = bounds.text(raised.request_id) or None
    if isinstance(raised, RateLimited):
        raised.retry_after = bounds.seconds(raised.retry_after) or 0.0
    elif isinstance(raised, Unavailable):
        raised.retry_after = bounds.seconds(raised.retry_after)
    return raised


def outcomes(answer: Any, *, max_wait_seconds: float) -> Sequence[Outcome]:
    """Of a push."""
    return [
        each if _is_plain(each) else outcome(each, max_wait_seconds=max_wait_seconds) for each in list(answer)
    ]


def outcome(answer: object, *, max_wait_seconds: float) -> Outcome:
    """Of one item."""
    match answer:
        case Accepted(remote_id=written) | Duplicate(remote_id=written):
            remote_id = _optional_text(written)
            return answer if remote_id is written else replace(answer, remote_id=remote_id)
        case Rejected():
            return Rejected(code=bounds.text(answer.code), message=bounds.text(answer.message))
        case Retry():
            after = min(bounds.seconds(answer.after_seconds) or 0.0, max_wait_seconds)
            return Retry(after_seconds=after, message=bounds.text(answer.message))
        case Superseded(position=position):
            known = _is_count(position, below=2**62)
            return Superseded(position=position if known else None, message=bounds.text(answer.message))
        case Unknown():
            return Unknown(message=bounds.text(answer.message))
        case _:
            raise TypeError(f"an outcome: {type(answer).__name__}")


def made_meter(answer: object, *, max_wait_seconds: float) -> RemoteMeter | Rejected:
    """Of a request to make one."""
    if isinstance(answer, RemoteMeter):
        return _meter(answer)
    refused = outcome(answer, max_wait_seconds=max_wait_seconds)
    if not isinstance(refused, Rejected):
        raise TypeError(f"a meter: {type(answer).__name__}")
    return refused


def meters(answer: Any) -> list[RemoteMeter]:
    """Of the list of meters."""
    return [_meter(meter) for meter in answer]


def _meter(meter: object) -> RemoteMeter:
    """With texts that can be stored and shown."""
    if not isinstance(meter, RemoteMeter):
        raise TypeError(f"a meter: {type(meter).__name__}")
    if all(
        type(text) is str and bounds.is_plain(text) for text in (meter.meter, meter.title, meter.unit or "")
    ):
        return meter
    return replace(
        meter,
        meter=bounds.text(meter.meter),
        title=bounds.text(meter.title),
        unit=_optional_text(meter.unit),
    )


def probe_result(answer: Any) -> ProbeResult:
    """Of a probe."""
    if not isinstance(answer, ProbeResult):
        raise TypeError(f"an answer to a probe: {type(answer).__name__}")
    return replace(
        answer,
        account=_optional_text(answer.account),
        former_account=_optional_text(answer.former_account),
        detail=bounds.text(answer.detail),
    )


def found_readings(answer: Any) -> Mapping[str, RemoteReading]:
    """Of a question for what the system holds, by the key of the reading."""
    found = dict(answer)
    for reading in found.values():
        if not isinstance(reading, RemoteReading):
            raise TypeError(f"a reading of the system: {type(reading).__name__}")
    return {
        key: replace(reading, remote_id=_optional_text(reading.remote_id)) for key, reading in found.items()
    }


def streams(answer: Any) -> list[InboundStream]:
    """Those that a connector says it reads."""
    found = list(answer)
    for stream in found:
        if not isinstance(stream, InboundStream):
            raise TypeError(f"a stream: {type(stream).__name__}")
        if stream.page < 1 or min(stream.lookback, stream.settle) < timedelta(0):
            raise ValueError(f"stream {stream.name}: page, lookback and settle cannot be negative")
    return found


def instant(answer: Any) -> datetime:
    """A time with its zone."""
    if not isinstance(answer, datetime) or answer.tzinfo is None:
        raise TypeError(f"a time with its zone: {type(answer).__name__}")
    return bounds.instant(answer)


async def page_of_records(answer: Any, stream: str, *, most: int) -> InboundPage:
    """Of a pull of at most so many. Leaves the loop to others in between. Raises PageTooLarge too."""
    if not isinstance(answer, InboundPage):
        raise TypeError(f"a page of records: {type(answer).__name__}")
    check_page(len(answer.records), stream, page=most)
    for number, record in enumerate(answer.records, start=1):
        if number % TURN == 0:
            await asyncio.sleep(0)
        if not isinstance(record, InboundRecord) or not isinstance(record.key, str):
            raise TypeError(f"a record: {type(record).__name__}")
        if not isinstance(record.body, Mapping) or record.progress not in _PROGRESS:
            raise TypeError(f"the record {bounds.text(record.key)[:80]}: its body or progress")
        if record.modified_at is not None:
            instant(record.modified_at)
    total = answer.total
    known = _is_count(total, below=2**53)
    return replace(answer, cursor=_cursor(answer.cursor, stream), total=total if known else None)


def page_of_keys(answer: Any, stream: str) -> KeyPage:
    """Of a list of keys. Raises PageTooLarge too."""
    if not isinstance(answer, KeyPage):
        raise TypeError(f"a page of keys: {type(answer).__name__}")
    check_page(len(answer.keys), stream, page=MAX_PAGE)
    if not all(isinstance(key, str) for key in answer.keys):
        raise TypeError("a page of keys: one that is no text")
    return replace(answer, cursor=_cursor(answer.cursor, stream))


def _cursor(cursor: object, stream: str) -> str | None:
    if cursor is None:
        return None
    if not isinstance(cursor, str) or not cursor:
        raise TypeError(f"a cursor: {type(cursor).__name__}")
    check_cursor(cursor, stream)
    return cursor


def _is_plain(outcome: object) -> bool:
    """What nearly every outcome is, told as quickly as can be."""
    if type(outcome) is not Accepted:
        return False
    written = outcome.remote_id
    return written is None or (type(written) is str and bounds.is_plain(written))


def _optional_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"an id: {type(value).__name__}")
    return None if value is None else bounds.text(value)


def _is_count(value: object, *, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below
