"""`fieldgate explain`: what would happen to a message, from the configuration alone, by the code that the
daemon runs.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.given import DEFAULT, Config
from gateway.configuration import DeclaredConnection, Loaded, load
from gateway.ingest import explain as explaining
from gateway.ingest.explain import Connected
from gateway.model.explanation import ExplainedSample, Explanation, Fed, Touched
from gateway.model.sample import Value, literal
from gateway.model.topics import topic_fault

CONTEXT_SETTINGS = {"ignore_unknown_options": True}
"""A payload may well be `-5`."""


def explain(
    topic: Annotated[str, typer.Argument(help="The topic, as a device publishes to it.")],
    payload: Annotated[
        str, typer.Argument(help="The payload; `-` reads it from standard input, `@FILE` from a file.")
    ],
    encoded: Annotated[
        Literal["text", "hex", "base64"], typer.Option("--as", help="How bytes are written here.")
    ] = "text",
    after: Annotated[
        list[str] | None,
        typer.Option(
            help="TOPIC=PAYLOAD of a message before it: of Sparkplug a birth gives what follows its names."
        ),
    ] = None,
    config: Config = DEFAULT,
    retained: Annotated[
        bool, typer.Option("--retained", help="As a message that the broker had kept.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Say what would happen to this message: source, customer, device, metrics, meters, connection, window.
    Exit code 1 where it would be a dead letter.

    Example: fieldgate explain acme/devices/pump-7/telemetry '{"temperature": 21.5}'
    """
    explanation = explain_message(
        load(config, os.environ, systems=SYSTEMS, secrets=()),
        _published(topic),
        _bytes(payload, encoded),
        now=clock.now(),
        is_retained=retained,
        after=[_earlier(text, encoded) for text in after or ()],
    )
    if json:
        print(TypeAdapter(Explanation).dump_json(explanation).decode())
    else:
        _show(explanation)
    if explanation.dead_letter is not None:
        raise typer.Exit(1)


def explain_message(
    loaded: Loaded,
    topic: str,
    payload: bytes,
    *,
    now: datetime,
    is_retained: bool = False,
    after: Sequence[tuple[str, bytes]] = (),
) -> Explanation:
    """What the daemon would do with the message, were the connections those of the file."""
    customers = {*loaded.settings.customers, *(declared.settings.customer for declared in loaded.connections)}
    connections = [_connected(loaded, declared) for declared in loaded.connections]
    return explaining.explain(
        topic,
        payload,
        telemetry=loaded.settings.telemetry,
        customers=customers,
        connections=connections,
        now=now,
        is_retained=is_retained,
        after=after,
    )


def _connected(loaded: Loaded, declared: DeclaredConnection) -> Connected:
    connection = declared.settings
    return Connected(
        connection=connection.id,
        customer=connection.customer,
        system=connection.system,
        rules=declared.rules,
        capabilities=SYSTEMS[connection.system].manifest.capabilities,
        lateness=(
            loaded.settings.sync.lateness if connection.sync.lateness is None else connection.sync.lateness
        ),
        alerts=declared.alerts,
    )


def _published(topic: str) -> str:
    if (fault := topic_fault(topic)) is not None:
        raise typer.BadParameter(f"the topic {topic!r} is none that is published to: {fault}")
    return topic


def _earlier(text: str, encoded: str) -> tuple[str, bytes]:
    topic, separator, payload = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"--after {text[:60]!r}: write TOPIC=PAYLOAD")
    return topic, _bytes(payload, encoded)


def _bytes(payload: str, encoded: str) -> bytes:
    if encoded == "text" or payload == "-" or payload.startswith("@"):
        return _plain_bytes(payload)
    try:
        return bytes.fromhex(payload) if encoded == "hex" else base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise typer.BadParameter(f"the payload is no {encoded}: {error}") from error


def _plain_bytes(payload: str) -> bytes:
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
    for name, value in (
        ("topic", explanation.topic),
        ("source", explanation.source),
        ("customer", explanation.customer),
        ("device", _device(explanation)),
    ):
        facts.add_row(name, Text(value or "none"))
    console.print(facts)
    if explanation.dead_letter is not None:
        console.print(
            Text.assemble(
                ("dead letter ", "red"), (explanation.dead_letter, "bold red"), f": {explanation.detail}"
            )
        )
        console.print(Text(f"what to do: {explanation.advice}"))
        return
    if explanation.ignored is not None:
        console.print(Text(f"is acknowledged and not taken: {explanation.ignored}", style="yellow"))
        return
    for left_out in explanation.skipped:
        console.print(
            Text.assemble(("left out ", "yellow"), (left_out.reason, "bold yellow"), f": {left_out.detail}")
        )
    for hint in explanation.hints:
        console.print(Text.assemble(("look at ", "yellow"), hint))
    several = len({sample.device for sample in explanation.samples}) > 1
    for sample in explanation.samples:
        _show_sample(console, sample, with_device=several)


def _show_sample(console: Console, sample: ExplainedSample, *, with_device: bool) -> None:
    console.print(
        Text.assemble(
            ("\nsample ", "bold"),
            _time(sample.at),
            f"  {sample.device}" if with_device else "",
            "  ",
            ", ".join(f"{name} = {literal(value)}" for name, value in sample.metrics.items()),
        )
    )
    for alert in sample.alerts:
        console.print(
            Text.assemble(
                "  is judged by ",
                (f"{alert.rule}", "bold magenta"),
                f" of {alert.connection} ({alert.system}): {alert.condition}, raises a {alert.severity}"
                f" {alert.kind}",
            )
        )
        console.print(Text(f"    {alert.distance}{_lasting(alert)}"))
    if not sample.meters:
        console.print(
            Text(
                "  is stored, and feeds no meter: no rule of this customer's connections matches",
                style="yellow",
            )
        )
    for fed in sample.meters:
        meter = fed.meter if fed.unit is None else f"{fed.meter} ({fed.unit})"
        console.print(Text.assemble("  feeds ", (meter, "bold cyan"), f" at {fed.connection} ({fed.system})"))
        console.print(
            Text(
                f"    {_window(fed)}, due {_time(fed.due_at)}"
                + (f", deadband {fed.deadband:g}" if fed.deadband else "")
                + (f"; {fed.arithmetic}" if fed.arithmetic else "")
            )
        )
        if fed.refused is not None:
            console.print(Text(f"    {fed.refused}", style="yellow"))
        elif fed.reading is not None and not _is_same(fed.reading, fed.value):
            told = literal(fed.reading) + ("" if fed.unit is None else f" {fed.unit}")
            console.print(Text(f"    {literal(fed.value)} alone is told as {told}"))


def _is_same(reading: Value, value: Value) -> bool:
    return reading == value and isinstance(reading, bool) is isinstance(value, bool)


def _lasting(alert: Touched) -> str:
    if alert.holds and alert.lasts_seconds:
        return f"; raised once it has held for {alert.lasts_seconds:g} s"
    return "; raised at once" if alert.holds else ""


def _device(explanation: Explanation) -> str | None:
    name = explanation.device_name
    return explanation.device if name in (None, explanation.device) else f"{explanation.device} ({name})"


def _window(fed: Fed) -> str:
    if fed.reduce == "each":
        return f"each sample of {fed.metric}, at {_time(fed.window_start)}"
    span = f"[{_time(fed.window_start)}, {_time(fed.window_end)})"
    return f"{fed.reduce} of {fed.metric} over {span}{'' if fed.calendar is None else f', a {fed.calendar}'}"


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="milliseconds" if at.microsecond else "seconds").replace(
        "+00:00", "Z"
    )
