"""`fieldgate doctor`: looks at all that usually goes wrong, and says how to mend it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, near_or_all
from gateway.configuration import load
from gateway.credentials.vault import Vault
from gateway.doctor import CHECKS, Doctor
from gateway.doctor.examination import NO_DATABASE
from gateway.http.doctor_documents import DoctorDocument
from gateway.model.diagnosis import Report, Severity
from gateway.model.errors import ConfigError, StoreError
from gateway.settings import Settings
from gateway.store.pool import Database

SECRETS = ("broker", "database", "security")
SESSIONS = 4
STYLES = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow"}


def doctor(
    config: Config = DEFAULT,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this check; repeat it. One of: {', '.join(CHECKS)}.")
    ] = None,
    json: Json = False,
) -> None:
    """Look at broker, database, clocks, certificates, keys, credits, streams and webhooks, and say what to do
    about each finding. Exit code 1 where something was found. It needs no secret of a connection.

    Examples: fieldgate doctor; fieldgate doctor --only broker --only "broker queue" --json
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    checks = CHECKS if only is None else tuple(only)
    for name in checks:
        if name not in CHECKS:
            raise ConfigError(f"--only: there is no check {name!r}{near_or_all(name, CHECKS)}")
    settings = load(config, os.environ, systems=SYSTEMS, secrets=SECRETS).settings
    with screen.working("looking"):
        report = asyncio.run(_examine(settings, checks))
    if json:
        print(DoctorDocument.of(report).model_dump_json())
    else:
        _show(screen.console(), report)
    if not report.is_healthy:
        raise typer.Exit(1)


async def _examine(settings: Settings, checks: Collection[str]) -> Report:
    keys = Vault([key.get_secret_value() for key in settings.security.encryption_keys]).key_ids
    async with _opened(settings) as (database, fault):
        return await Doctor(settings, database=database, keys=frozenset(keys), fault=fault).examine(checks)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Database | None, str | None]]:
    """The database, or why it cannot be opened."""
    try:
        database = await Database.open(
            settings.database.dsn.get_secret_value(), size=SESSIONS, application_name="fieldgate-doctor"
        )
    except (StoreError, ConfigError) as error:
        yield None, str(error)
        return
    try:
        yield database, None
    finally:
        await database.close()


def _show(console: Console, report: Report) -> None:
    kept_away = [each.check for each in report.checks if each.looked.unseen == (NO_DATABASE,)]
    for each in report.checks:
        if each.check in kept_away:  # each for one reason: said once, below
            continue
        found, unseen = each.looked.findings, each.looked.unseen
        mark, style = "+", "green"
        if found:
            mark, style = "!", "bold red"
        elif not each.looked.made:
            mark, style = "?", "yellow"
        said = "" if found else each.looked.said
        console.print(Text.assemble((f"{mark} ", style), (f"{each.check:<14}", "bold"), f" {said}"))
        for finding in found:
            console.print(
                Text.assemble(
                    "    ",
                    (f"{finding.severity}  ", STYLES[finding.severity]),
                    f"{finding.what}\n      where  {finding.where}\n      do     {finding.advice}",
                ),
                soft_wrap=True,
            )
        for text in unseen:
            console.print(Text(f"    not seen: {text}", style="dim"), soft_wrap=True)
    if kept_away:
        console.print(Text(f"? not looked at, since {NO_DATABASE}: {', '.join(kept_away)}", style="yellow"))
    problems, warnings = report.count(Severity.PROBLEM), report.count(Severity.WARNING)
    console.print(
        Text(f"\nnothing found, in {report.seconds:.1f} s", style="green")
        if report.is_healthy
        else Text(
            f"\n{screen.count(problems, 'problem')}, {screen.count(warnings, 'warning')}", style="bold red"
        )
    )
