"""`fieldgate explain`: what would happen to a message, from the configuration alone, by the code that the daemon runs."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.configuration import DeclaredConnection, Loaded, load
from gateway.ingest.decode import Decoder, Row
from gateway.model.errors import DecodeError
from gateway.model.meter import MeterMapping, materialise
from gateway.model.sample import EPOCH, Value, from_microseconds, to_microseconds
from gateway.model.topics import Source, compile_source, route

CONTEXT_SETTINGS = {"ignore_unknown_options": True}
"""A payload may well be `-5`."""

ADVICE = {
    "unmatched_topic": "publish to one of the sources of telemetry.sources, or add a source for this topic",
    "unknown_customer": "add the customer to `customers`, or set telemetry.auto_register_customers",
    "invalid_identifier": "rename the customer or the device in the topic",
    "timestamp_in_future": "set the device's clock, or raise telemetry.max_future",
    "timestamp_too_old": "raise telemetry.retention if such old samples are wanted",
    "payload_too_large": "split the message; 1 MiB is the limit",
}
"""What to do about a dead letter, by reason; for the others the detail says it."""


class Fed(BaseModel):
    """A meter that a metric of a sample feeds. `window_end` is exclusive; equal to the start for `each`."""

    model_config = ConfigDict(frozen=True)
    connection: str
    system: str
    meter: str
    metric: str
    value: Value
    unit: str | None
    reduce: str
    deadband: float
    window_start: datetime
    window_end: datetime
    due_at: datetime


class ExplainedSample(BaseModel):
    """One sample of the message."""

    model_config = ConfigDict(frozen=True)
    at: datetime
    metrics: dict[str, Value]
    meters: list[Fed]


class Explanation(BaseModel):
    """Either samples, or the reason of the dead letter."""

    model_config = ConfigDict(frozen=True)
    topic: str
    source: str | None
    format: str | None
    customer: str | None
    device: str | None
    dead_letter: str | None = None
    detail: str | None = None
    advice: str | None = None
    samples: list[ExplainedSample] = []


def explain(
    topic: Annotated[str, typer.Argument(help="The topic, as a device publishes to it.")],
    payload: Annotated[str, typer.Argument(help="The payload; `-` reads it from standard input, `@FILE` from a file.")],
    config: Annotated[Path, typer.Option(help="The main configuration file.")] = Path("config/fieldgate.yaml"),
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Say what would happen to this message: source, customer, device, metrics, meters, connection, window."""
    explanation = explain_message(load(config, os.environ, systems=SYSTEMS), topic, _bytes(payload), now=clock.now())
    if json:
        print(explanation.model_dump_json())
    else:
        _show(explanation)


def explain_message(loaded: Loaded, topic: str, payload: bytes, *, now: datetime) -> Explanation:
    """What the daemon would do with the message, were it received at `now`."""
    settings = loaded.settings
    sources = [compile_source(source.topic, source.format) for source in settings.telemetry.sources]
    source = next((source for source in sources if source.match(topic.split("/")) is not None), None)
    found = route(topic, sources)
    customers = {*settings.customers, *(declared.settings.customer for declared in loaded.connections)}
    start = Explanation(
        topic=topic,
        source=_template(source),
        format=None if source is None else source.format,
        customer=None if found is None else found.customer,
        device=None if found is None else found.device,
    )
    try:
        rows = Decoder(settings.telemetry, sources, customers).decode(topic, payload, to_microseconds(now))
    except DecodeError as error:
        reason = str(error.reason)
        return start.model_copy(update={"dead_letter": reason, "detail": error.detail, "advice": ADVICE.get(reason, "correct the payload")})
    return start.model_copy(update={"samples": [_sample(loaded, row) for row in rows]})


def window_of(at: datetime, span: timedelta) -> datetime:
    """The start of the window that an instant falls into: windows are counted from 1970, as PostgreSQL's date_bin does it."""
    return at - (at - EPOCH) % span


def _template(source: Source | None) -> str | None:
    return None if source is None else source.topic


def _sample(loaded: Loaded, row: Row) -> ExplainedSample:
    customer, device, at_microseconds, metrics = row
    at = from_microseconds(at_microseconds)
    meters = [
        _fed(loaded, declared, mapping, at, metrics[mapping.metric])
        for declared in loaded.connections
        if declared.settings.customer == customer
        for mapping in _mappings(declared, device)
        if mapping.metric in metrics
    ]
    return ExplainedSample(at=at, metrics=metrics, meters=meters)


def _mappings(declared: DeclaredConnection, device: str) -> list[MeterMapping]:
    resolution = SYSTEMS[declared.settings.system].manifest.capabilities.resolution
    mappings, _ = materialise(declared.rules, [device], resolution=resolution)
    return [mapping for mapping in mappings.values() if mapping.device == device]


def _fed(loaded: Loaded, declared: DeclaredConnection, mapping: MeterMapping, at: datetime, value: Value) -> Fed:
    connection = declared.settings
    lateness = connection.sync.lateness if connection.sync.lateness is not None else loaded.settings.sync.lateness
    start = window_of(at, mapping.window)
    end = start + mapping.window
    return Fed(
        connection=connection.id,
        system=connection.system,
        meter=mapping.meter,
        metric=mapping.metric,
        value=value,
        unit=mapping.unit,
        reduce=mapping.reduce,
        deadband=mapping.deadband,
        window_start=start,
        window_end=end,
        due_at=end if mapping.reduce == "each" else end + lateness,
    )


def _bytes(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    if payload.startswith("@"):
        try:
            return Path(payload[1:]).read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"{payload[1:]} cannot be read: {error.strerror}") from error
    return payload.encode(errors="surrogateescape")


def _show(explanation: Explanation) -> None:
    console = Console(highlight=False, soft_wrap=True)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in (("topic", explanation.topic), ("source", explanation.source), ("customer", explanation.customer), ("device", explanation.device)):
        facts.add_row(name, Text(value or "none"))
    console.print(facts)
    if explanation.dead_letter is not None:
        console.print(Text.assemble(("dead letter ", "red"), (explanation.dead_letter, "bold red"), f": {explanation.detail}"))
        console.print(Text(f"what to do: {explanation.advice}"))
        return
    for sample in explanation.samples:
        console.print(Text.assemble(("\nsample ", "bold"), _time(sample.at), "  ", ", ".join(f"{name} = {value!r}" for name, value in sample.metrics.items())))
        if not sample.meters:
            console.print(Text("  is stored, and feeds no meter: no rule of this customer's connections matches", style="yellow"))
            continue
        for fed in sample.meters:
            meter = fed.meter if fed.unit is None else f"{fed.meter} ({fed.unit})"
            console.print(Text.assemble("  feeds ", (meter, "bold cyan"), f" at {fed.connection} ({fed.system})"))
            console.print(Text(f"    {_window(fed)}, due {_time(fed.due_at)}" + (f", deadband {fed.deadband:g}" if fed.deadband else "")))


def _window(fed: Fed) -> str:
    if fed.reduce == "each":
        return f"each sample of {fed.metric}, at {_time(fed.window_start)}"
    return f"{fed.reduce} of {fed.metric} over [{_time(fed.window_start)}, {_time(fed.window_end)})"


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")
