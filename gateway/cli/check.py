"""`fieldgate check`: every fault of the configuration with file, line and path, or a summary of what it
declares.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.given import DEFAULT, Config
from gateway.configuration import DeclaredConnection, Faults, Loaded, load
from gateway.configuration.customers import unlisted
from gateway.configuration.difference import RELOADED
from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath, dotted
from gateway.configuration.paths import named_files, unreadable
from gateway.ingest import examples
from gateway.model.credits import price
from gateway.payloads.sources import compile_sources


class ConnectionSummary(TypedDict):
    """One declared connection."""

    connection: str
    customer: str
    system: str
    hosting: str
    tier: int
    credits: int
    meters: int
    delivery: str


def check(
    config: Config = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Validate the files: every fault with file, line and path (exit 2), or a summary, with warnings.

    What they would change, and what of it is refused, is told by `fieldgate apply --dry-run`.

    Example: fieldgate check --config /etc/fieldgate/fieldgate.yaml
    """
    try:
        loaded = load(config, os.environ, systems=SYSTEMS)
        _run_examples(loaded, config)
        _read_files(loaded, config)
    except Faults as faults:
        _show_faults(faults, as_json=json)
        raise typer.Exit(2) from faults
    rows = [_summary(loaded, declared) for declared in loaded.connections]
    warnings = unlisted(loaded.settings, LocatedDocument.read(config, advice=""))
    if json:
        found = {
            "ok": True,
            "faults": [],
            "warnings": [_entry(one) for one in warnings],
            "customers": list(loaded.settings.customers),
            "connections": rows,
        }
        print(orjson.dumps(found).decode())
    else:
        _show_summary(loaded, rows)
        _show_warnings(warnings)


def _run_examples(loaded: Loaded, config: Path) -> None:
    """Raises Faults for the examples of sources that become something else than they say."""
    telemetry = loaded.settings.telemetry
    own = [one for one in compile_sources(telemetry.sources) if telemetry.sources[one.place].examples]
    failed = examples.faults_of(telemetry, own, loaded.settings.customers, now=clock.now())
    if not failed:
        return
    document = LocatedDocument.read(config, advice="")
    paths: list[tuple[KeyPath, str]] = [
        (("telemetry", "sources", one.place, "examples", one.index), one.message) for one in failed
    ]
    raise Faults(
        ConfigurationFault(place=document.place(path), path=path, message=message) for path, message in paths
    )


def _read_files(loaded: Loaded, config: Path) -> None:
    """Raises Faults for files that the settings of connections name and that cannot be read here. A start
    does not refuse them: it would take every other connection with it.
    """
    if loaded.settings.connections_file is None:
        return
    document = LocatedDocument.read(config.parent / loaded.settings.connections_file, advice="")
    found: list[ConfigurationFault] = []
    for index, declared in enumerate(loaded.connections):
        for key in named_files(declared.settings.settings):
            problem = unreadable(str(declared.settings.settings[key]))
            if problem is not None:
                path: KeyPath = ("connections", index, "settings", key)
                found.append(ConfigurationFault(place=document.place(path), path=path, message=problem))
    if found:
        raise Faults(found)


def _summary(loaded: Loaded, declared: DeclaredConnection) -> ConnectionSummary:
    connection = declared.settings
    manifest = SYSTEMS[connection.system].manifest
    return ConnectionSummary(
        connection=connection.id,
        customer=connection.customer,
        system=connection.system,
        hosting=connection.hosting,
        tier=manifest.tier,
        credits=price(loaded.settings.credits, tier=manifest.tier, hosting=connection.hosting),
        meters=len(declared.rules),
        delivery=manifest.capabilities.delivery,
    )


def _show_faults(faults: Faults, *, as_json: bool) -> None:
    if as_json:
        found = {
            "ok": False,
            "faults": [_entry(one) for one in faults.faults],
            "warnings": [],
            "customers": [],
            "connections": [],
        }
        print(orjson.dumps(found).decode())
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for fault in faults.faults:
        console.print(_line(fault))
    count = len(faults.faults)
    console.print(Text(f"{count} fault{'s' if count > 1 else ''}; nothing would start", style="red"))


def _entry(fault: ConfigurationFault) -> dict[str, object]:
    return {
        "file": fault.place.file,
        "line": fault.place.line,
        "path": dotted(fault.path),
        "message": fault.message,
    }


def _line(fault: ConfigurationFault) -> Text:
    path = dotted(fault.path)
    return Text.assemble(
        (str(fault.place), "bold"), ": ", (f"{path}: " if path else "", "cyan"), fault.message
    )


def _show_warnings(warnings: Sequence[ConfigurationFault]) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for warning in warnings:
        console.print(Text.assemble(("warning ", "yellow"), _line(warning)))


def _show_summary(loaded: Loaded, rows: Sequence[ConnectionSummary]) -> None:
    settings = loaded.settings
    console = Console(highlight=False, soft_wrap=True)
    customers = ", ".join(settings.customers) or "none listed"
    if settings.telemetry.auto_register_customers:
        customers += " (others register themselves)"
    sources = "\n           ".join(
        source.topic or f"preset {source.preset}" for source in settings.telemetry.sources
    )
    console.print(Text(f"{loaded.path}: no faults", style="green"))
    console.print(
        f"customers  {customers}\nbroker     {', '.join(settings.broker.urls)}\nsources    {sources}",
        markup=False,
    )
    console.print(f"SIGHUP     puts in force {', '.join(sorted(RELOADED))}, connections; a restart all else")
    if not rows:
        console.print("no connections are declared")
        return
    console.print(
        "database   was not asked: `fieldgate apply --dry-run` says what would change there, or be refused"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("connection", "customer", "system", "hosting"):
        table.add_column(name, no_wrap=True)
    for name in ("tier", "credits", "meter rules"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["connection"],
            row["customer"],
            row["system"],
            row["hosting"],
            str(row["tier"]),
            str(row["credits"]),
            str(row["meters"]),
        )
    credits_taken, rules = sum(row["credits"] for row in rows), sum(row["meters"] for row in rows)
    table.add_section()
    table.add_row(f"{len(rows)} in all", "", "", "", "", str(credits_taken), str(rules), style="bold")
    console.print(table)
