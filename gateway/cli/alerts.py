"""`fieldgate alerts`: what telemetry became at the systems, and how far people are with it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.text import Text

from gateway.alerts.life import said
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, Operator, operate
from gateway.model.alert_life import OPEN_STATES, AlertState
from gateway.store import alerts as store
from gateway.store.alerts import Alert
from gateway.store.views import END

MAX_SHOWN = 1_000
_STYLES = {"high": "bold red", "medium": "yellow", "low": "cyan"}


def alerts(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option(help="Of this customer only.")] = None,
    connection: Annotated[str | None, typer.Option(help="Of this connection only.")] = None,
    state: Annotated[
        list[AlertState] | None, typer.Option(help="In this state only; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that are cleared too.")] = False,
    json: Json = False,
) -> None:
    """List alerts, the newest first, a thousand at most: what, since when, where they are at the system.

    Example: fieldgate alerts --customer acme --state raised
    """
    states: list[str] | None = sorted(map(str, OPEN_STATES))
    if state:
        states = [str(each) for each in state]
    elif everything:
        states = None
    found = operate(config, lambda operator: _read(operator, customer, connection, states))
    if json:
        print(orjson.dumps([asdict(alert) for alert in found], option=orjson.OPT_UTC_Z).decode())
        return
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print(Text("no alert" if everything or state else "every alert is cleared", style="green"))
    for alert in found:
        _show(console, alert)


async def _read(
    operator: Operator, customer: str | None, connection: str | None, states: list[str] | None
) -> list[Alert]:
    await operator.check_customer(customer)
    if connection is not None:
        await operator.status(connection)
    return await store.listed(
        operator.database,
        customer=customer,
        connection_id=connection,
        states=states,
        before=(END, store.LAST_ALERT),
        limit=MAX_SHOWN,
    )


def _show(console: Console, alert: Alert) -> None:
    console.print(
        Text.assemble(
            (alert.title, _STYLES.get(alert.severity, "bold")),
            f"  {alert.state}",
            (f"  {alert.alert}", "dim"),
        )
    )
    place = f"{alert.connection} ({alert.customer}), rule {alert.rule}, device {alert.device}"
    lines = [
        ("where", place),
        ("since", _at(alert.since)),
        ("at the system", f"{alert.kind} {alert.remote_id or '-'}"),
        ("over", "" if alert.well_at is None else f"{_at(alert.well_at)}: {said(alert.why)}"),
        ("error", alert.error or ""),
    ]
    for name, text in lines:
        if text:
            console.print(Text.assemble((f"  {name:<14}", "dim"), text))


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
