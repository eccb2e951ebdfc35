"""`fieldgate dead-letters show`: one of them whole, and what to do about it."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
from rich.table import Table
from rich.text import Text

from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, Operator, operate
from gateway.ingest.messages import Messages
from gateway.model.errors import RequestRefused
from gateway.store import dead_letters as store
from gateway.store.dead_letters import KeptDeadLetter

OF_READINGS = "put right at the system, or in the meter's rule, what the detail says"


def show(
    dead_letter: Annotated[int, typer.Argument(metavar="ID", help="As `dead-letters list` has it.")],
    config: Config = DEFAULT,
    json: Json = False,
) -> None:
    """Show one dead letter whole: whose it is, why nobody took it, its payload, and what to do.

    Example: fieldgate dead-letters show 17
    """

    async def read(operator: Operator) -> tuple[KeptDeadLetter, str]:
        kept = await store.read(operator.database, dead_letter)
        if kept is None:
            raise RequestRefused("request.not_found", f"there is no dead letter {dead_letter}")
        if kept.kind == "reading":
            return kept, OF_READINGS
        explained = await Messages(operator.settings, operator.database).one(dead_letter)
        return kept, OF_READINGS if explained is None else explained.advice

    kept, advice = operate(config, read)
    if json:
        found = {"id": dead_letter, **asdict(kept), "advice": advice}
        found["payload_base64"] = base64.b64encode(found.pop("payload")).decode()
        print(orjson.dumps(found, option=orjson.OPT_UTC_Z).decode())
        return
    _show(dead_letter, kept, f"{advice}; then: fieldgate dead-letters replay {dead_letter}")


def _show(dead_letter: int, kept: KeptDeadLetter, advice: str) -> None:
    console = screen.console()
    lines = (
        ("customer", kept.customer),
        ("topic", kept.topic),
        ("connection", kept.connection),
        ("meter", kept.meter),
        ("window", None if kept.window_start is None else screen.moment(kept.window_start)),
        ("reason", kept.reason),
        ("detail", kept.detail),
        ("times", f"{kept.occurrences}, {screen.moment(kept.first_at)} to {screen.moment(kept.last_at)}"),
        ("payload", _readable(kept.payload)),
        ("what to do", advice),
    )
    console.print(Text(f"{kept.kind} {dead_letter}", style="bold"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in lines:
        if text:
            facts.add_row(f"  {name}", Text(text))
    console.print(facts)


def _readable(payload: bytes) -> str:
    """As text where it is some; a device's control characters never reach the terminal."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return f"hex {payload.hex()}"
    return text if all(one.isprintable() or one in "\n\t" for one in text) else f"hex {payload.hex()}"
