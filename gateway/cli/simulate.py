"""`fieldgate simulate`: a fleet of devices that publishes through a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from gateway import clock, zones
from gateway.cli.given import checked_name
from gateway.cli.given import duration as span
from gateway.demo.fleet import Fleet, Message, publish_steadily
from gateway.demo.preset_fleet import PresetFleet, source_of
from gateway.demo.publisher import Publisher
from gateway.model.errors import ConfigError
from gateway.payloads import presets
from gateway.settings import BrokerSettings

SETTLE_SECONDS = 10.0
REPORT_SECONDS = 5.0
PASSWORD_VARIABLE = "FIELDGATE_BROKER__PASSWORD"  # noqa: S105 - a name


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="Machines in the fleet.")] = 12,
    rate: Annotated[float, typer.Option(min=0.001, help="Messages a second, all machines together.")] = 10.0,
    broker: Annotated[str, typer.Option(help="Where to publish.")] = "mqtt://127.0.0.1:1883",
    customer: Annotated[
        str, typer.Option(help="Whose machines they are: without a preset the first level of the topics.")
    ] = "demo",
    preset: Annotated[
        str | None,
        typer.Option(
            help="Publish as devices of this preset do, announcements and odd values included;"
            " `fieldgate sources presets` lists them."
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            help="With a preset: that of the devices' clocks; without it UTC. Some send local times."
        ),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="How long, such as 30s or 5m; without it until Ctrl-C.")
    ] = None,
    username: Annotated[
        str | None, typer.Option(help=f"For the broker; the password is read from {PASSWORD_VARIABLE}.")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(help="For mqtts://: the authority of the broker's certificate.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same signals.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Publish plausible telemetry of a fleet of machines at QoS 1; report what was published and
    acknowledged.

    Example: fieldgate simulate --broker mqtt://127.0.0.1:1883 --customer acme --preset zigbee2mqtt
    """
    checked_name("--customer", customer)
    seconds = None if duration is None else span("--duration", duration).total_seconds()
    fleet, asked_by = _fleet(preset, zone, customer=customer, devices=devices, seed=seed)
    publisher = Publisher(
        _broker(broker, username, ca_file),
        f"fieldgate-simulate-{random.getrandbits(64):016x}",
        listens_to=asked_by,
        will=fleet.will(clock.now()) if isinstance(fleet, PresetFleet) else None,
    )
    started = clock.monotonic()
    try:
        complete = asyncio.run(_publish(fleet, publisher, rate, seconds))
    except KeyboardInterrupt:
        complete = publisher.in_flight == 0
    _report(publisher, broker, clock.monotonic() - started, preset, as_json=as_json)
    if not complete or publisher.refused_count or not publisher.acknowledged_count:
        raise typer.Exit(1)


async def _publish(
    fleet: Fleet | PresetFleet, publisher: Publisher, rate: float, seconds: float | None
) -> bool:
    async with asyncio.TaskGroup() as group:
        connection = group.create_task(publisher.run(), name="simulate.connection")
        source = _Announcing(fleet, publisher) if isinstance(fleet, PresetFleet) else fleet
        watching = group.create_task(_watch(publisher), name="simulate.watch")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await publish_steadily(source, publisher, rate=rate)
        finally:
            if isinstance(fleet, PresetFleet) and publisher.published_count and publisher.problem is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE_SECONDS):
                        for told in fleet.last(clock.now()):
                            await publisher.publish(*told.message)
            complete = await publisher.settled(SETTLE_SECONDS)
            connection.cancel()
            watching.cancel()
    return complete


class _Announcing:
    """A fleet that tells first what its devices tell when they connect, again after each connection and
    whenever it is asked to.
    """

    def __init__(self, fleet: PresetFleet, publisher: Publisher) -> None:
        self._fleet = fleet
        self._publisher = publisher
        self._told = 1  # the first connection: a new fleet begins with it

    def next_message(self, at: datetime) -> Message:
        """Of the device whose turn it is."""
        if self._publisher.occasion_count > self._told:
            self._told = self._publisher.occasion_count
            self._fleet.tell_first()
        return self._fleet.next_message(at)


async def _watch(publisher: Publisher) -> None:
    """Progress on stderr: one moving line on a terminal, else a line every few seconds."""
    console = Console(stderr=True)
    with console.status("connecting") as status:
        before, at = 0, clock.monotonic()
        while True:
            await asyncio.sleep(0.5 if console.is_terminal else REPORT_SECONDS)
            rate = (publisher.acknowledged_count - before) / (clock.monotonic() - at)
            before, at = publisher.acknowledged_count, clock.monotonic()
            words = (
                f"{publisher.published_count} published, {publisher.acknowledged_count} acknowledged,"
                f" {rate:.1f}/s"
            )
            if publisher.problem is not None:
                words += f"; no connection: {publisher.problem}"
            if console.is_terminal:
                status.update(words)
            else:
                console.print(words, highlight=False, soft_wrap=True)


def _report(publisher: Publisher, broker: str, elapsed: float, preset: str | None, *, as_json: bool) -> None:
    rate = publisher.acknowledged_count / elapsed
    if as_json:
        figures = {
            "published": publisher.published_count,
            "acknowledged": publisher.acknowledged_count,
            "refused": publisher.refused_count,
            "unheard": publisher.unheard_count,
            "seconds": round(elapsed, 3),
            "rate": round(rate, 1),
        }
        print(json.dumps(figures))
        return
    print(
        f"published {publisher.published_count}, acknowledged {publisher.acknowledged_count}, {rate:.1f} a"
        f" second over {elapsed:.1f} s"
    )
    if publisher.problem is not None:
        print(
            f"fieldgate: no connection to {broker}: {publisher.problem}; check --broker, and --ca-file and"
            " --username where the broker asks for them",
            file=sys.stderr,
        )
    if publisher.refused_count:
        print(
            f"{publisher.refused_count} were refused by the broker: check its ACL for this user",
            file=sys.stderr,
        )
    if publisher.unheard_count:
        print(
            f"{publisher.unheard_count} reached nobody: no gateway "
            + (
                "subscribes for this customer"
                if preset is None
                else "has a source for them, or they are no telemetry"
            ),
            file=sys.stderr,
        )
    if publisher.in_flight:
        print(f"{publisher.in_flight} were not answered", file=sys.stderr)


def _fleet(
    name: str | None, zone: str | None, *, customer: str, devices: int, seed: int
) -> tuple[Fleet | PresetFleet, str | None]:
    """The fleet, and the filter by which it is asked to tell again what it tells first. Tells the source that
    takes a preset's.
    """
    if name is None:
        if zone is not None:
            raise ConfigError("--zone: only the devices of a --preset have clocks of their own")
        return Fleet(customer=customer, devices=devices, seed=seed, at=clock.now()), None
    preset = presets.find_preset(name)
    if preset is None:
        raise ConfigError(f"--preset {name}: there is no such preset; known are {', '.join(presets.names())}")
    source = source_of(name, customer, zone or "UTC")
    line = yaml.safe_dump(source, default_flow_style=True, sort_keys=False, width=10_000)
    fleet = PresetFleet(
        preset, customer=customer, devices=devices, seed=seed, at=clock.now(), zone=_zone(zone or "UTC")
    )
    print(f"the source that takes them: - {line.strip()}", file=sys.stderr)
    return fleet, preset.asked_by


def _zone(name: str) -> ZoneInfo:
    if (found := zones.zone(name)) is None:
        raise ConfigError(f"--zone {name}: no time zone of the IANA database, such as Europe/Berlin")
    return found


def _broker(url: str, username: str | None, ca_file: str | None) -> BrokerSettings:
    if ca_file is not None and not Path(ca_file).is_file():
        raise ConfigError(f"--ca-file {ca_file}: no such file; name the broker's authority in PEM")
    try:
        return BrokerSettings.model_validate(
            {
                "url": url,
                "username": username,
                "password": os.environ.get(PASSWORD_VARIABLE),
                "ca_file": ca_file,
            }
        )
    except ValidationError as error:
        raise ConfigError(
            f"--broker {url}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from error
