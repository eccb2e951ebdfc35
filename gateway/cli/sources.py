"""`fieldgate sources`: where telemetry is taken from, and the shapes that are known by name."""

from __future__ import annotations

import os
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.syntax import Syntax

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.screen import Column
from gateway.configuration import load
from gateway.payloads import presets
from gateway.payloads.sources import compile_sources

app = typer.Typer(
    help="Show the sources of the configuration, and the presets: published shapes by their name.",
    no_args_is_help=True,
)


@app.command("list")
def list_sources(
    config: Config = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the sources of the configuration, each with what it subscribes.

    Example: fieldgate sources list --json
    """
    compiled = compile_sources(
        load(config, os.environ, systems=SYSTEMS, secrets=()).settings.telemetry.sources
    )
    rows = [
        {
            "topic": one.source.topic,
            "filter": one.source.filter(None),
            "format": one.source.format,
            "preset": one.preset,
            "customer": one.source.customer,
            "device": one.source.device,
        }
        for one in compiled
    ]
    if json:
        print(orjson.dumps(rows).decode())
        return
    columns = (
        Column(name="topic"),
        Column(name="filter", drop=1),
        Column(name="format", drop=3),
        Column(name="preset", drop=2),
        Column(name="customer", drop=4),
    )
    shown = [
        (
            row["topic"] or "",
            row["filter"] or "",
            row["format"] or "",
            row["preset"] or "",
            row["customer"] if isinstance(row["customer"], str) else "by the message",
        )
        for row in rows
    ]
    screen.show(screen.console(), columns, shown)


@app.command("presets")
def list_presets(
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the presets.

    Example: fieldgate sources presets
    """
    known = [(name, presets.find_preset(name)) for name in presets.names()]
    if json:
        rows = [{"preset": name, "title": preset.title} for name, preset in known if preset is not None]
        print(orjson.dumps(rows).decode())
        return
    columns = (Column(name="preset"), Column(name="takes", drop=1), Column(name="topics", free=True))
    shown = [
        (name, preset.title, ", ".join(source.topic or "" for source in preset.sources))
        for name, preset in known
        if preset is not None
    ]
    console = screen.console()
    screen.show(console, columns, shown)
    console.print("\nfieldgate sources show NAME prints one, with examples of what its devices send.")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A preset; `fieldgate sources presets` lists them.")],
) -> None:
    """Print a preset as it stands in the package: it can be copied and changed.

    Example: fieldgate sources show zigbee2mqtt
    """
    if name not in presets.names():
        raise typer.BadParameter(f"there is no preset {name!r}; known are {', '.join(presets.names())}")
    text = presets.text_of(name)
    console = Console(highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default"))
    else:
        print(text, end="")
