"""`fieldgate devices`: what devices sent something, and what is known of one."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import NAMES, Json, Operator, near_misses, operate
from gateway.cli.screen import Column
from gateway.model.errors import ConfigError, RequestRefused
from gateway.store.devices import DescribedDevice, Device, DeviceMetric, Devices

app = typer.Typer(help="List devices that were seen, or show one.", no_args_is_help=True)


@app.command("list")
def list_devices(
    config: Config = DEFAULT,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this customer.")] = None,
    q: Annotated[str, typer.Option("--q", help="Only with this text in the id or the name.")] = "",
    silent: Annotated[bool, typer.Option("--silent", help="Only those that are silent.")] = False,
    after: Annotated[str, typer.Option("--after", help="Begin after this CUSTOMER/DEVICE.")] = "",
    limit: Annotated[int, typer.Option(help="How many, by customer and id.", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List devices by customer and id.

    Example: fieldgate devices list --customer acme --q pump
    """
    place = after.partition("/")
    if after and not (place[0] and place[2]):
        raise ConfigError(f"--after {after!r}: expected CUSTOMER/DEVICE, as the end of a list shows it")

    async def page(operator: Operator) -> list[Device]:
        await operator.check_customer(customer)
        return await Devices(operator.database).page(
            customer, text=q, silent=True if silent else None, after=(place[0], place[2]), limit=limit
        )

    found = operate(config, page)
    if json:
        print(orjson.dumps([asdict(each) for each in found], option=orjson.OPT_UTC_Z).decode())
    else:
        _show_list(found, limit)


@app.command()
def show(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Whose.")],
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its id.")],
    config: Config = DEFAULT,
    json: Json = False,
) -> None:
    """Show a device: its metrics with their last values, and the meters that they feed.

    Example: fieldgate devices show acme pump-1
    """

    async def one(operator: Operator) -> DescribedDevice:
        await operator.check_customer(customer)
        devices = Devices(operator.database)
        found = await devices.one(customer, device)
        if found is None:
            known = [each.device for each in await devices.page(customer, limit=NAMES)]
            near = near_misses(device, known) or f"; `fieldgate devices list --customer {customer}` shows all"
            raise RequestRefused("request.not_found", f"customer {customer!r} has no device {device!r}{near}")
        return found

    found = operate(config, one)
    if json:
        print(orjson.dumps(asdict(found), option=orjson.OPT_UTC_Z).decode())
    else:
        _show_one(found)


def _show_list(found: list[Device], limit: int) -> None:
    console, now = screen.console(), clock.now()
    if not found:
        console.print(Text("no devices", style="green"))
        return
    columns = (
        Column(name="customer"),
        Column(name="device"),
        Column(name="title", drop=1),
        Column(name="metrics", numbers=True, drop=3),
        Column(name="seen", numbers=True),
        Column(name="source", drop=2, free=True),
    )
    rows: list[tuple[Text | str, ...]] = [
        (
            each.customer,
            each.device,
            each.title or "",
            str(each.metrics),
            _seen(each, now),
            Text(each.source or "-", style="dim"),
        )
        for each in found
    ]
    screen.show(console, columns, rows)
    if len(found) == limit:
        last = found[-1]
        console.print(Text(f"\nthe next: --after {last.customer}/{last.device}", style="dim"))


def _seen(device: Device, now: datetime) -> Text:
    seen = "-" if device.last_seen_at is None else screen.span(now - device.last_seen_at)
    return Text(seen) if device.silent_since is None else Text(f"{seen}, silent", style="yellow")


def _show_one(found: DescribedDevice) -> None:
    console, now, device = screen.console(), clock.now(), found.device
    seen = "never" if device.last_seen_at is None else f"{screen.span(now - device.last_seen_at)} ago"
    title = f" ({device.title})" if device.title else ""
    console.print(Text.assemble((f"{device.customer}/{device.device}", "bold"), f"{title}, last seen {seen}"))
    console.print(Text(f"source {device.source or '-'}", style="dim"))
    if device.interval_seconds is not None:
        seconds = device.interval_seconds
        usual = f"{seconds:.3g} s" if seconds < 120 else screen.span(seconds)
        console.print(Text(f"usually {usual} between two messages", style="dim"))
    if device.silent_since is not None:
        console.print(Text(f"silent since {screen.moment(device.silent_since)}", style="yellow"))
    if device.offline_since is not None:
        console.print(Text(f"offline for {screen.span(now - device.offline_since)}", style="yellow"))
    console.print()
    columns = (
        Column(name="metric"),
        Column(name="kind", drop=1),
        Column(name="value"),
        Column(name="at", numbers=True),
        Column(name="meters", free=True),
    )
    screen.show(console, columns, [_row(metric) for metric in found.metrics])
    if found.unmapped:
        console.print(
            Text(
                f"\n{screen.count(len(found.unmapped), 'metric')} unmapped: they go to no system", style="dim"
            )
        )


def _row(metric: DeviceMetric) -> tuple[Text | str, ...]:
    meters = ", ".join(f"{fed.connection}: {fed.meter}" for fed in metric.meters)
    return (
        metric.name,
        metric.kind or "not seen",
        "-" if metric.value is None else orjson.dumps(metric.value).decode(),
        "-" if metric.at is None else screen.moment(metric.at),
        meters or Text("unmapped", style="yellow"),
    )
