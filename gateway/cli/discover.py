"""`fieldgate discover`: listens on the broker, tells messages apart by their shape, and prints sources that
take them.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
import yaml
from rich.console import Console
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config, checked_name
from gateway.configuration import load
from gateway.events.listening import listen
from gateway.ingest.discover import Discovery
from gateway.ingest.discover import discover as sort_out
from gateway.ingest.proposal import HeardMessage, MessageGroup
from gateway.model.errors import ConfigError
from gateway.model.topics import filter_fault
from gateway.settings import Settings

MAX_MESSAGES = 100_000
"""Messages that are held; listening ends with the last of them."""

MAX_PAYLOAD = 1 << 20


def discover(
    config: Config = DEFAULT,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to listen.")] = 30.0,
    topic: Annotated[
        list[str] | None, typer.Option(help="An MQTT filter to listen to; may be given several times.")
    ] = None,
    customer: Annotated[
        str | None, typer.Option(help="Whose the devices are, for the sources that are proposed.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Listen on the broker and say what is taken, which preset takes the rest, and what nothing takes.
    Nothing is stored, and no session but its own is touched.

    Example: fieldgate discover --seconds 30 --topic "plant/#" --customer acme
    """
    filters = topic or ["#"]
    for text in filters:
        if (fault := filter_fault(text)) is not None:
            raise ConfigError(f"--topic {text!r} is no filter: {fault}")
    if customer is not None:
        checked_name("--customer", customer)
    settings = load(config, os.environ, systems=SYSTEMS, secrets=("broker",)).settings
    if not json:
        print(
            f"listening to {', '.join(filters)} at {', '.join(settings.broker.urls)} for {seconds:g} s",
            file=sys.stderr,
        )
    with screen.working("listening"):
        heard = asyncio.run(_heard(settings, filters, seconds))
    found = sort_out(
        heard, telemetry=settings.telemetry, customers=settings.customers, customer=customer, now=clock.now()
    )
    if json:
        print(orjson.dumps(asdict(found), default=sorted).decode())
    else:
        _show(found, len(heard), settings)


async def _heard(settings: Settings, filters: Sequence[str], seconds: float) -> list[HeardMessage]:
    own = settings.broker.topic_root + "/"
    heard: list[HeardMessage] = []
    async for name, payload, is_retained in listen(settings.broker, filters, seconds):
        if not name.startswith(own) and payload:  # what the gateway itself tells is nobody's telemetry
            heard.append(HeardMessage(topic=name, payload=payload[:MAX_PAYLOAD], is_retained=is_retained))
        if len(heard) >= MAX_MESSAGES:
            break
    return heard


def _show(found: Discovery, count: int, settings: Settings) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{count:,} {'message' if count == 1 else 'messages'} on {', '.join(settings.broker.urls)}",
        markup=False,
    )
    _list(console, "taken by your sources", found.taken, "green")
    _list(console, "have a source, and are dead letters", found.refused, "red")
    _list(console, "a preset takes them", found.known, "cyan")
    _list(console, "what these devices tell beside their telemetry: no source is needed", found.beside, "dim")
    _list(console, "no source and no preset", found.unknown, "yellow")
    for first, second in found.alike:
        console.print(
            Text(f"\n{first} and {second} are two devices: ids tell letters by case", style="yellow")
        )
    proposed = [group.source for group in (*found.known, *found.unknown) if group.source is not None]
    if proposed:
        console.print("\n# paste below `telemetry:` and put in what stands in capitals", style="bold")
        print(_yaml(proposed, settings))


def _list(console: Console, title: str, groups: Sequence[MessageGroup], style: str) -> None:
    if not groups:
        return
    console.print(Text(f"\n{title}", style=f"bold {style}"))
    for group in groups:
        topics = sorted(group.topics)
        more = f" and {len(topics) - 1} more topics" if len(topics) > 1 else ""
        console.print(Text(f"  {group.messages:>7,}  {group.title}   ({topics[0]}{more})"))
        if group.problem is not None:
            console.print(Text(f"           {group.problem}", style=style))


def _yaml(proposed: Sequence[dict[str, object]], settings: Settings) -> str:
    """What is there already stands first: a list in a file replaces the default one."""
    held = [source.model_dump(mode="json", exclude_unset=True) for source in settings.telemetry.sources]
    lines = [
        "    - "
        + re.sub(r"\n", "", yaml.safe_dump(source, default_flow_style=True, sort_keys=False, width=10_000))
        for source in (*held, *proposed)
    ]
    return "  sources:\n" + "\n".join(lines)
