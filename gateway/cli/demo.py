"""`fieldgate demo`: broker, database, gateway, a fleet and a demonstration CMMS in one terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.live import Live

from gateway import clock, logs
from gateway.demo import keys, view
from gateway.demo.scene import Scene, perform
from gateway.model.errors import ConfigError
from gateway.settings import LoggingSettings

REFRESH_SECONDS = 0.5
LINE_SECONDS = 5.0


def demo(
    data_dir: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path("var/demo"),
    devices: Annotated[int, typer.Option(min=1, max=300, help="Machines in the fleet.")] = 12,
    rate: Annotated[
        float, typer.Option(min=0.1, max=5000, help="Messages a second, all machines together.")
    ] = 24.0,
    seconds: Annotated[float | None, typer.Option(min=1, help="End by itself after so long.")] = None,
) -> None:
    """Show the whole flow on this machine: devices, broker, gateway, database, and a CMMS that can be told to
    fail. Exit code 0 if readings arrived.

    Examples: fieldgate demo; fieldgate demo --seconds 40
    """
    console = Console(highlight=False)
    log_file = data_dir / "demo.log"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        stream = log_file.open("a", buffering=1)
    except OSError as error:
        raise ConfigError(
            f"--data-dir {data_dir}: {error.strerror}; name a directory that can be written"
        ) from error
    console.print(f"starting broker, database and gateway in {data_dir} ...")

    async def show(scene: Scene) -> None:
        await _show(scene, console, str(log_file.absolute()), seconds)

    with stream, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.setup(LoggingSettings(), stream=stream)
        delivered = runner.run(perform(data_dir, devices=devices, rate=rate, show=show))
    console.print(f"stopped; {delivered} readings had arrived in the CMMS")
    if not delivered:
        raise typer.Exit(1)


async def _show(scene: Scene, console: Console, log_file: str, seconds: float | None) -> None:
    """Shows the flow until it is cancelled; after `seconds` it asks everything to stop."""
    actions = {"e": scene.toggle_errors, "s": scene.toggle_slow, "k": scene.toggle_key, "q": scene.stop}
    with keys.listening(actions):
        async with asyncio.TaskGroup() as group:
            group.create_task(
                (_live if console.is_terminal else _lines)(scene, console, log_file), name="demo.view"
            )
            if seconds is not None:
                group.create_task(_stop_after(scene, seconds), name="demo.end")


async def _stop_after(scene: Scene, seconds: float) -> None:
    await scene.started.wait()
    await asyncio.sleep(seconds)
    scene.stop()


async def _live(scene: Scene, console: Console, log_file: str) -> None:
    origin, now = clock.monotonic(), None
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            now = await view.take(scene, elapsed_seconds=clock.monotonic() - origin, before=now)
            live.update(view.screen(now, scene, log_file=log_file, height=console.height), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


async def _lines(scene: Scene, console: Console, log_file: str) -> None:
    await scene.started.wait()
    await scene.dashboard
    for name, address in view.addresses(scene, log_file=log_file):
        console.print(f"{name:15}{address}", soft_wrap=True)
    for command in view.commands(scene):
        console.print(f"{'switch':15}{command}", soft_wrap=True)
    origin, now, new_key = clock.monotonic(), None, None
    while True:
        now = await view.take(scene, elapsed_seconds=clock.monotonic() - origin, before=now)
        if scene.cmms.new_key not in (None, new_key):
            new_key = scene.cmms.new_key
            console.print(f"{'new key':15}{new_key}", soft_wrap=True)
        console.print(view.line(now), soft_wrap=True)
        await asyncio.sleep(LINE_SECONDS)
