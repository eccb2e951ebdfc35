"""`fieldgate incidents`: what fails for more than a moment, whose affair it is, and why we think so."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import check_current
from gateway.configuration import load
from gateway.store import incidents as store
from gateway.store.incidents import Incident
from gateway.store.pool import Database

FEW = 8
"""Connections and request ids that are shown; --json has all."""


def incidents(
    config: Config = DEFAULT,
    everything: Annotated[
        bool, typer.Option("--all", help="Closed ones too, latest first, a hundred at most.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List incidents: since when, where, which operations and connections, and why.

    Example: fieldgate incidents --all --json
    """
    settings = load(config, os.environ, systems=SYSTEMS, secrets=("database",)).settings
    found = asyncio.run(_read(settings.database.dsn.get_secret_value(), closed=everything))
    if json:
        print(orjson.dumps([asdict(incident) for incident in found], option=orjson.OPT_UTC_Z).decode())
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print(Text("no incident" if everything else "no open incident", style="green"))
    for number, incident in enumerate(found):
        if number:
            console.print()
        _show(console, incident, clock.now())


async def _read(dsn: str, *, closed: bool) -> list[Incident]:
    database = await Database.open(dsn, size=1)
    try:
        await check_current(database)
        return await store.listed(database, closed=closed)
    finally:
        await database.close()


def _show(console: Console, incident: Incident, now: datetime) -> None:
    if incident.closed_at is not None:
        state, style = (
            f"closed {_at(incident.closed_at)}, after {_span(incident.closed_at - incident.since)}",
            "dim",
        )
    elif incident.calm_since is not None:
        state, style = f"recovering for {_span(now - incident.calm_since)}", "yellow"
    else:
        state, style = f"open for {_span(now - incident.since)}", "bold red"
    console.print(Text.assemble((f"{incident.scope} {incident.key}", "bold"), "  ", (state, style)))
    lines = [
        ("why", incident.detail),
        ("since", _at(incident.since)),
        ("systems", ", ".join(incident.systems)),
        ("operations", ", ".join(incident.operations) or "-"),
        ("customers", f"{len(incident.customers)}: {_some(incident.customers)}"),
        ("connections", f"{len(incident.connections)}: {_some(incident.connections)}"),
        ("request ids", _some(incident.request_ids) or "-"),
        ("closed", incident.closing_detail or ""),
        ("incident", incident.incident),
    ]
    for name, text in lines:
        if text:
            console.print(Text.assemble((f"  {name:<12}", "dim"), text))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def _span(span: timedelta) -> str:
    seconds = int(max(0.0, span.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
