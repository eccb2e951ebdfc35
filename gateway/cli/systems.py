"""`fieldgate systems`: what can be connected, and what each needs. It reads no configuration."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from typing import Annotated

import orjson
import typer
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.operate import Json
from gateway.cli.screen import Column
from gateway.http.dashboard.credential_form import form_fields
from gateway.http.dashboard.settings_form import setting_fields
from gateway.http.ports import CatalogueEntry
from gateway.http.services import catalogue
from gateway.model.connector import Manifest
from gateway.model.errors import RequestRefused

app = typer.Typer(help="Show the systems that can be connected, and what each needs.", no_args_is_help=True)


@app.command("list")
def list_systems(json: Json = False) -> None:
    """List the systems that can be connected.

    Example: fieldgate systems list
    """
    known = catalogue(SYSTEMS)
    if json:
        print(orjson.dumps([_document(known[name]) for name in sorted(known)]).decode())
        return
    columns = (
        Column(name="system"),
        Column(name="title"),
        Column(name="tier", numbers=True),
        Column(name="runs", drop=2),
        Column(name="reads", drop=1),
        Column(name="credentials", free=True),
    )
    rows = [
        (
            name,
            system.manifest.title,
            str(system.manifest.tier),
            ", ".join(system.manifest.hosting),
            ", ".join(stream.name for stream in system.manifest.streams) or "-",
            ", ".join(system.manifest.capabilities.auth),
        )
        for name, system in sorted(known.items())
    ]
    console = screen.console()
    screen.show(console, columns, rows)
    console.print("\nfieldgate systems show NAME says what one needs, with a connection to copy.")


@app.command()
def show(
    system: Annotated[str, typer.Argument(help="A system; `fieldgate systems list` has them.")],
    json: Json = False,
) -> None:
    """Show what a system takes: its settings, its credentials, what it reads, and a connection to copy.

    Example: fieldgate systems show odata
    """
    known = catalogue(SYSTEMS)
    if system not in known:
        near = get_close_matches(system, known, n=1)
        said = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise RequestRefused("request.not_found", f"there is no system {system!r}; {said}")
    found = known[system]
    if json:
        print(orjson.dumps(_document(found)).decode())
        return
    console = screen.console()
    for line in _lines(found):
        console.print(line, soft_wrap=True)


def _lines(system: CatalogueEntry) -> list[Text]:
    manifest = system.manifest
    lines = [
        Text(manifest.title, style="bold"),
        Text(
            f"tier {manifest.tier}; runs {' or '.join(name.replace('_', ' ') for name in manifest.hosting)}"
        ),
        *(Text(f"- {able}") for able in _able(manifest)),
        Text("\nsettings", style="bold"),
    ]
    for field in setting_fields(system.settings_schema, {}):
        needed = "needed" if field.is_required else _written(field.default)
        lines.append(_entry(field.name, needed, field.hint))
    for kind in manifest.capabilities.auth:
        lines.append(Text(f"\ncredentials: {kind}", style="bold"))
        fields = form_fields(system.credentials_schema, kind)
        lines += [_entry(field.name, "needed" if field.is_required else "", field.hint) for field in fields]
        if not fields:
            lines.append(Text("  none are sent"))
    sample = files("connectors").joinpath(manifest.system, "sample.yaml")
    if sample.is_file():
        lines += [
            Text("\na connection, for connections.yaml", style="bold"),
            Text(sample.read_text().rstrip()),
        ]
    return lines


def _written(default: object) -> str:
    """As it would stand in the file; nothing where there is nothing to write."""
    if default in (None, "", {}, [], ()):
        return ""
    return default if isinstance(default, str) else orjson.dumps(default).decode()


def _entry(name: str, needed: str, hint: str) -> Text:
    note = f" ({needed})" if needed else ""
    return Text.assemble("  ", (name, "cyan"), note, f": {hint}" if hint else "")


def _able(manifest: Manifest) -> list[str]:
    """What it can do, in sentences."""
    able = manifest.capabilities
    said = [f"takes readings, at most {able.max_items} in a request"]
    if able.max_backfill is not None:
        said.append(f"takes nothing older than {screen.span(able.max_backfill)}")
    if manifest.streams:
        said.append(f"reads {', '.join(stream.title.lower() for stream in manifest.streams)}")
    if able.can_raise_event:
        said.append(f"raises {', '.join(kind.replace('_', ' ') for kind in manifest.raises) or 'alerts'}")
    if able.can_create_meter:
        said.append("makes meters that it does not have yet")
    return said


def _document(system: CatalogueEntry) -> dict[str, object]:
    manifest = system.manifest
    return {
        "system": manifest.system,
        "title": manifest.title,
        "tier": manifest.tier,
        "hosting": manifest.hosting,
        "credentials": manifest.capabilities.auth,
        "streams": [stream.name for stream in manifest.streams],
        "raises": list(manifest.raises),
        "can": _able(manifest),
        "settings_schema": system.settings_schema,
        "credentials_schema": system.credentials_schema,
    }
