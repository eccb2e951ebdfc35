"""Examples of sources: each says what a message is to become, and is held against the code that takes
messages in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from gateway.ingest.decode import Decoder, Row
from gateway.model.errors import DecodeError
from gateway.model.names import identifier
from gateway.model.sample import from_microseconds, to_microseconds
from gateway.payloads.fields import Skipped
from gateway.payloads.sources import CompiledSource
from gateway.settings import TelemetrySettings
from gateway.source_settings import ExpectedSample, SourceExample


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleFault:
    """An example that fails: `place` of the source, `index` of the example in it, and what is otherwise."""

    place: int
    index: int
    message: str


def faults_of(
    telemetry: TelemetrySettings,
    compiled: Sequence[CompiledSource],
    customers: Collection[str],
    *,
    now: datetime,
) -> list[ExampleFault]:
    """Every example that does not become what it says, of the sources that have some."""
    skipped: list[Skipped] = []
    decoder = Decoder(telemetry, compiled, customers, skip=skipped.append)
    faults = []
    for source in compiled:
        for index, example in enumerate(source.examples):
            skipped.clear()
            found = _fault(decoder, example, skipped, now)
            if found is not None:
                faults.append(ExampleFault(place=source.place, index=index, message=found))
    return faults


def _fault(decoder: Decoder, example: SourceExample, skipped: Sequence[Skipped], now: datetime) -> str | None:
    """What is otherwise than the example says, None where nothing is."""
    received_at = _received_at(example, now)
    try:
        rows = decoder.decode(example.topic, payload_of(example), received_at, is_retained=example.retained)
    except DecodeError as error:
        return f"the message is a dead letter ({error.reason}: {error.detail})"
    if len(rows) != len(example.expect):
        return f"{len(rows)} samples come of it, not {len(example.expect)}: {_shown(rows, received_at)}"
    for row, wanted in zip(rows, example.expect, strict=True):
        if (difference := _difference(row, wanted, received_at)) is not None:
            return difference
    left_out = sorted(one.name for one in skipped)
    if left_out != sorted(example.skipped):
        return f"left out are {left_out or 'no fields'}, not {sorted(example.skipped) or 'none'}"
    return None


def _difference(row: Row, wanted: ExpectedSample, received_at: int) -> str | None:
    customer, device, at, metrics = row
    if device not in (wanted.device, identifier(wanted.device)):
        return f"the device is {device}, not {wanted.device}"
    if wanted.customer is not None and customer != wanted.customer:
        return f"the customer is {customer}, not {wanted.customer}"
    wanted_at = received_at if wanted.at is None else to_microseconds(datetime.fromisoformat(wanted.at))
    if at != wanted_at and not (wanted.at is None and received_at <= at < received_at + 10_000):
        return f"the time is {from_microseconds(at).isoformat()}, not {wanted.at or 'that of receipt'}"
    if _json(metrics) != _json(wanted.metrics):  # as JSON, for 1 is not true
        return f"the metrics are {_json(metrics)}, not {_json(wanted.metrics)}"
    return None


def payload_of(example: SourceExample) -> bytes:
    """The bytes of an example."""
    if example.payload_hex is not None:
        return bytes.fromhex(example.payload_hex)
    if isinstance(example.payload, str):
        return example.payload.encode()
    return orjson.dumps(example.payload)


def _received_at(example: SourceExample, now: datetime) -> int:
    """An example is as old as its times: it was received a second after the last of them."""
    times = [datetime.fromisoformat(wanted.at) for wanted in example.expect if wanted.at is not None]
    return to_microseconds(max(times)) + 1_000_000 if times else to_microseconds(now)


def _shown(rows: Sequence[Row], received_at: int) -> str:
    return "; ".join(
        f"{device}{'' if at >= received_at else ' at ' + from_microseconds(at).isoformat()} {_json(metrics)}"
        for _, device, at, metrics in rows[:5]
    )


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
