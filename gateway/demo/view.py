"""What the demonstration shows: a snapshot of the whole flow, as a screen for a terminal or as a line for a
log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway import metrics
from gateway.demo.cmms import Switches
from gateway.demo.scene import CONNECTION, METERS, Scene
from gateway.model.connection import State
from gateway.model.errors import StoreError
from gateway.model.status import ConnectionStatus
from gateway.store import status

STATE_STYLES = {
    State.ACTIVE: "bold green",
    State.VERIFYING: "yellow",
    State.DEGRADED: "bold yellow",
    State.REAUTHORIZATION_REQUIRED: "bold red",
    State.BLOCKED: "bold red",
}
MAX_ROWS = 12
LABEL_WIDTH = 16
CREATED = {"system": "maintainx", "change": "created"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The flow at one instant. Counts are since the start; `last` holds (device, readings by metric, time of
    the newest).
    """

    elapsed_seconds: float
    acknowledged: int
    unacknowledged: int
    messages_per_second: float
    stored: int
    dead_letters: int
    delivered: int
    repeats: int
    calls: int
    calls_failed: int
    records: int
    connection: ConnectionStatus | None
    last: tuple[tuple[str, dict[str, float], str], ...]


async def take(scene: Scene, *, elapsed_seconds: float, before: Snapshot | None) -> Snapshot:
    """Reads counters, the database and the CMMS. `before` gives the rate."""
    publisher, cmms = scene.publisher, scene.cmms
    span = elapsed_seconds - before.elapsed_seconds if before is not None else 0.0
    per_second = (
        (publisher.acknowledged_count - before.acknowledged) / span
        if before is not None and span > 0
        else 0.0
    )
    codes = {route: int(route.rsplit(" ", 1)[1]) for route in cmms.requests}
    return Snapshot(
        elapsed_seconds=elapsed_seconds,
        acknowledged=publisher.acknowledged_count,
        unacknowledged=publisher.in_flight,
        messages_per_second=per_second,
        stored=_messages("stored") + _messages("modified"),
        dead_letters=_messages("dead_letter"),
        delivered=sum(len(values) for meter in cmms.meters.values() for values in meter.readings.values()),
        repeats=sum(meter.repeats for meter in cmms.meters.values()),
        calls=sum(cmms.requests.values()),
        calls_failed=sum(count for route, count in cmms.requests.items() if codes[route] >= 400),
        records=int(metrics.REGISTRY.get_sample_value("fieldgate_records_total", CREATED) or 0),
        connection=await _connection(scene, before),
        last=_last(scene),
    )


def line(now: Snapshot) -> str:
    """One line for a log."""
    connection = now.connection
    state = (
        "starting"
        if connection is None
        else (
            f"{connection.state} lag={connection.lag_seconds:.1f}s pending={connection.pending}"
            f" work_orders={now.records} alerts={connection.open_alerts}"
        )
    )
    return (
        f"{now.elapsed_seconds:5.0f}s  {now.messages_per_second:6.1f} msg/s  acknowledged={now.acknowledged}"
        f" stored={now.stored} delivered={now.delivered} repeats={now.repeats}"
        f" dead_letters={_dead_letters(now)}  {CONNECTION}: {state}"
    )


def addresses(scene: Scene, *, log_file: str) -> list[tuple[str, str]]:
    """What a person may want to open, in pairs of name and address."""
    durable = (
        ""
        if scene.servers.broker == "mosquitto"
        else "; keeps messages in memory only: install mosquitto for more"
    )
    dashboard = f"{scene.dashboard.result()}  (good once)" if scene.dashboard.done() else f"{scene.url}/"
    return [
        ("dashboard", dashboard),
        ("broker", f"{scene.servers.broker_url}  ({scene.servers.broker}{durable})"),
        ("metrics", f"{scene.url}/metrics"),
        ("health", f"{scene.url}/healthz  {scene.url}/readyz"),
        ("CMMS", f"{scene.cmms.control_url}/state"),
        ("configuration", str(scene.folder)),
        ("log", log_file),
    ]


def commands(scene: Scene) -> list[str]:
    """The switches for those who have no keyboard here."""
    bodies = ('{"answer_500": true}', '{"slow_seconds": 3.0}', '{"revoke_key": true}')
    return [f"curl -X POST {scene.cmms.control_url} -d '{body}'" for body in bodies]


def screen(now: Snapshot, scene: Scene, *, log_file: str, height: int) -> RenderableType:
    """The whole screen, no higher than the terminal."""
    where = _grid(overflow="fold")
    for name, address in addresses(scene, log_file=log_file)[1:]:
        where.add_row(name, address)
    new_key = scene.cmms.new_key
    if new_key is not None:
        where.add_row("new key", Text(new_key, style="bold"))
    has_link = scene.dashboard.done()
    first = "dashboard (this link is good once)" if has_link else "dashboard"
    dashboard = scene.dashboard.result() if has_link else f"{scene.url}/"
    sides = Table.grid(expand=True)
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(
        Panel(_flow(now), title="flow", border_style="dim"),
        Panel(_link(now.connection), title=CONNECTION, border_style="dim"),
    )
    reason = "" if now.connection is None or now.connection.reason is None else now.connection.reason
    rows = min(MAX_ROWS, height - 26 - bool(reason) - (new_key is not None))
    return Group(
        # on a line of its own: in the panel it would be cut at 80 columns, and nobody could copy it
        Text(first, style="dim"),
        Text(dashboard, style="bold", overflow="fold"),
        Panel(
            where, title="Fieldgate demonstration", subtitle=_keys(scene.cmms.switches), border_style="cyan"
        ),
        sides,
        *([Text(reason, style="yellow", no_wrap=True, overflow="ellipsis")] if reason else []),
        *([_readings(now.last[:rows])] if rows > 0 else []),  # a head without a row says nothing
    )


def _flow(now: Snapshot) -> RenderableType:
    grid = _grid()
    grid.add_row("messages", f"{now.messages_per_second:.1f}/s")
    grid.add_row(
        "acknowledged",
        f"{now.acknowledged}" + (f"  ({now.unacknowledged} open)" if now.unacknowledged else ""),
    )
    grid.add_row("samples stored", f"{now.stored}")
    grid.add_row("readings in CMMS", Text(f"{now.delivered}", style="bold green" if now.delivered else ""))
    grid.add_row("  repeated", f"{now.repeats}")
    grid.add_row("work orders read", f"{now.records}")
    grid.add_row(
        "calls to CMMS", f"{now.calls}" + (f"  ({now.calls_failed} failed)" if now.calls_failed else "")
    )
    grid.add_row("dead letters", f"{_dead_letters(now)}")
    return grid


def _link(connection: ConnectionStatus | None) -> RenderableType:
    grid = _grid(overflow="fold")
    if connection is None:
        grid.add_row("state", "starting")
        return grid
    grid.add_row(
        "state", Text(connection.state.replace("_", " "), style=STATE_STYLES.get(connection.state, ""))
    )
    if connection.is_catching_up:
        grid.add_row("", Text("catching up", style="yellow"))
    grid.add_row("since", f"{connection.since:%H:%M:%S} UTC")
    grid.add_row("lag", f"{connection.lag_seconds:.1f} s")
    grid.add_row("readings pending", f"{connection.pending}")
    grid.add_row("alerts open", f"{connection.open_alerts}")
    grid.add_row(
        "last success",
        "none" if connection.last_success_at is None else f"{connection.last_success_at:%H:%M:%S} UTC",
    )
    grid.add_row("delivery", connection.delivery.replace("_", " "))
    return grid


def _readings(last: Sequence[tuple[str, dict[str, float], str]]) -> RenderableType:
    table = Table(title="last readings in the CMMS", expand=True, border_style="dim")
    table.add_column("device", style="cyan")
    for metric, (unit, reduce) in METERS.items():
        table.add_column(f"{metric} ({unit}, {reduce})", justify="right")
    table.add_column("window (UTC)", justify="right")
    for device, values, at in last:
        table.add_row(device, *(f"{values[metric]:.2f}" if metric in values else "" for metric in METERS), at)
    return table


def _keys(switches: Switches) -> Text:
    def key(letter: str, words: str, *, on: bool) -> Text:
        return Text.assemble((f" {letter} ", "reverse"), (f" {words} ", "bold red" if on else ""), "  ")

    return Text.assemble(
        " the CMMS ",
        key("e", "answers 500", on=switches.answer_500),
        key("s", "is slow", on=bool(switches.slow_seconds)),
        key("k", "revoked the key" if switches.revoke_key else "revokes the key", on=switches.revoke_key),
        key("q", "quit", on=False),
    )


def _grid(*, overflow: Literal["fold", "ellipsis"] = "ellipsis") -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    grid.add_column(no_wrap=overflow == "ellipsis", overflow=overflow)
    return grid


def _dead_letters(now: Snapshot) -> int:
    return now.dead_letters + (0 if now.connection is None else now.connection.dead_letters)


def _messages(outcome: str) -> int:
    return int(metrics.REGISTRY.get_sample_value("fieldgate_mqtt_messages_total", {"outcome": outcome}) or 0)


async def _connection(scene: Scene, before: Snapshot | None) -> ConnectionStatus | None:
    """What was known before, while the database does not answer."""
    known = None if before is None else before.connection
    if not scene.started.is_set():
        return known
    try:
        return next(iter(await status.read(scene.database, [CONNECTION])), known)
    except StoreError:
        return known


def _last(scene: Scene) -> tuple[tuple[str, dict[str, float], str], ...]:
    newest: dict[str, tuple[dict[str, float], str]] = {}
    for meter in scene.cmms.meters.values():
        device, _, metric = meter.name.partition(" ")
        at = max(meter.readings, default=None)
        if at is not None:
            values, shown = newest.setdefault(device, ({}, ""))
            values[metric] = meter.readings[at][-1]
            newest[device] = (values, max(shown, f"{at:%H:%M:%S}"))
    return tuple((device, *newest[device]) for device in scene.devices if device in newest)
