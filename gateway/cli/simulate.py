"""`fieldgate simulate`: a fleet of devices that publishes through a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from gateway import clock
from gateway.demo.fleet import Fleet, publish_steadily
from gateway.demo.publisher import Publisher
from gateway.model.errors import ConfigError
from gateway.settings import BrokerSettings, Duration
from gateway.settings_base import IDENTIFIER

SETTLE_SECONDS = 10.0
REPORT_SECONDS = 5.0
PASSWORD_VARIABLE = "FIELDGATE_BROKER__PASSWORD"  # noqa: S105 - a name


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="Machines in the fleet.")] = 12,
    rate: Annotated[float, typer.Option(min=0.001, help="Messages a second, all machines together.")] = 10.0,
    broker: Annotated[str, typer.Option(help="Where to publish.")] = "mqtt://127.0.0.1:1883",
    customer: Annotated[
        str, typer.Option(help="Whose machines they are: the first level of the topics.")
    ] = "demo",
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
    """
    if not re.fullmatch(IDENTIFIER, customer):
        raise ConfigError(f"--customer {customer}: letters, digits and ._- only, 64 at most")
    publisher = Publisher(
        _broker(broker, username, ca_file), f"fieldgate-simulate-{random.getrandbits(64):016x}"
    )
    fleet = Fleet(customer=customer, devices=devices, seed=seed, at=clock.now())
    started = clock.monotonic()
    try:
        complete = asyncio.run(_publish(fleet, publisher, rate, _seconds(duration)))
    except KeyboardInterrupt:
        complete = publisher.in_flight == 0
    _report(publisher, clock.monotonic() - started, as_json=as_json)
    if not complete or publisher.refused_count or not publisher.acknowledged_count:
        raise typer.Exit(1)


async def _publish(fleet: Fleet, publisher: Publisher, rate: float, seconds: float | None) -> bool:
    async with asyncio.TaskGroup() as group:
        connection = group.create_task(publisher.run(), name="simulate.connection")
        watching = group.create_task(_watch(publisher), name="simulate.watch")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await publish_steadily(fleet, publisher, rate=rate)
        finally:
            complete = await publisher.settled(SETTLE_SECONDS)
            connection.cancel()
            watching.cancel()
    return complete


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


def _report(publisher: Publisher, elapsed: float, *, as_json: bool) -> None:
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
        print(f"no connection to the broker: {publisher.problem}", file=sys.stderr)
    if publisher.refused_count:
        print(
            f"{publisher.refused_count} were refused by the broker: check its ACL for this user",
            file=sys.stderr,
        )
    if publisher.unheard_count:
        print(
            f"{publisher.unheard_count} reached nobody: no gateway subscribes for this customer",
            file=sys.stderr,
        )
    if publisher.in_flight:
        print(f"{publisher.in_flight} were not answered", file=sys.stderr)


def _broker(url: str, username: str | None, ca_file: str | None) -> BrokerSettings:
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
        raise ConfigError(f"--broker {url}: {error.errors()[0]['msg']}") from error


def _seconds(duration: str | None) -> float | None:
    if duration is None:
        return None
    try:
        return TypeAdapter[timedelta](Duration).validate_python(duration).total_seconds()
    except ValidationError as error:
        raise ConfigError(f"--duration {duration}: {error.errors()[0]['msg']}") from error
