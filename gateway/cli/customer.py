"""`fieldgate customer`: moves a customer from one gateway to another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import typer
from rich.text import Text

from gateway.cells.mover import Mover
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, Operator, Yes, operate
from gateway.cli.screen import Column
from gateway.model.errors import ConfigError
from gateway.store import moving

T = TypeVar("T")

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Whoever moves.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]
KeyFile = Annotated[
    Path,
    typer.Option(
        "--key-file",
        help="A key for this archive, which both gateways are given: `fieldgate keys generate` makes one.",
    ),
]
Wait = Annotated[
    float, typer.Option("--wait", min=1, help="For how many seconds a step waits for what it needs.")
]

app = typer.Typer(
    help=(
        "Move a customer to another gateway while its devices send: expect it there, export it here, import"
        " it there, forget it here. A step that was interrupted is given again."
    ),
    no_args_is_help=True,
)


@app.command()
def expect(customer: Customer, config: Config = DEFAULT, wait: Wait = 60.0) -> None:
    """At the destination, first: take the customer's messages from now on, beside the source. Prints the code
    that the source's export needs.

    Example: fieldgate customer expect acme
    """
    print(_move(config, wait, lambda mover: mover.expect(customer)))


@app.command()
def export(
    customer: Customer,
    file: File,
    expected: Annotated[
        str, typer.Option("--expected", help="What `customer expect` printed at the destination.")
    ],
    key_file: KeyFile,
    config: Config = DEFAULT,
    wait: Wait = 300.0,
) -> None:
    """At the source: wait until what was queued is stored and what is under way has ended, take the customer
    out of force, write its archive. The source keeps everything until it is told to forget it.

    Example: fieldgate customer export acme acme.zip --expected 1f2e3d4c-5b6a7988 --key-file move.key
    """
    key = _key(key_file)
    count = _move(config, wait, lambda mover: mover.export(customer, file, expected, key))
    _say(f"{customer} has left with {screen.count(count, 'connection')}: import {file} now")


@app.command("import")
def import_(file: File, key_file: KeyFile, config: Config = DEFAULT, wait: Wait = 60.0) -> None:
    """At the destination: put the customer in force. Prints the code with which the source forgets it.

    Example: fieldgate customer import acme.zip --key-file move.key
    """
    key = _key(key_file)
    done = _move(config, wait, lambda mover: mover.import_(file, key))
    _say(f"in force, with {screen.count(done.samples, 'sample')}; the archive is of no use any more")
    print(done.arrived)


@app.command()
def forget(
    customer: Customer,
    arrived: Annotated[
        str, typer.Option("--arrived", help="What `customer import` printed at the destination.")
    ],
    config: Config = DEFAULT,
    yes: Yes = False,
) -> None:
    """At the source, last: remove what was kept of a customer that left. This cannot be undone.

    Example: fieldgate customer forget acme --arrived 1f2e3d4c-0a1b2c3d
    """
    screen.agree(f"Remove what is kept here of {customer}?", yes=yes)
    _move(config, 60.0, lambda mover: mover.forget(customer, arrived))
    _say(f"nothing of {customer} is here any more")


@app.command()
def cancel(
    customer: Customer,
    config: Config = DEFAULT,
    expected: Annotated[
        str | None,
        typer.Option(
            "--expected", help="At the source, where no export has begun: what `customer expect` printed."
        ),
    ] = None,
    cancelled: Annotated[
        str | None,
        typer.Option("--cancelled", help="At the destination: what `customer cancel` printed at the source."),
    ] = None,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard-samples",
            help="At the destination: lose the samples that came there while the customer was expected. Over"
            " one broker the source has them, too.",
        ),
    ] = False,
) -> None:
    """End a move that has taken nothing away yet: at the source, and then at the destination.

    Example: fieldgate customer cancel acme
    """
    print(
        _move(
            config,
            60.0,
            lambda mover: mover.cancel(customer, cancelled, expected=expected, discard=discard),
        )
    )


@app.command("list")
def list_customers(config: Config = DEFAULT, json: Json = False) -> None:
    """List customers that moved, and how far each has come.

    Example: fieldgate customer list --json
    """

    async def read(operator: Operator) -> list[moving.Move]:
        return await moving.listed(operator.database)

    found = operate(config, read)
    if json:
        rows = [{"customer": one.customer, "stage": one.stage, "move": one.move} for one in found]
        print(orjson.dumps(rows).decode())
        return
    if not found:
        screen.console().print("no customer has moved here or away")
        return
    columns = (Column(name="customer"), Column(name="stage"), Column(name="move", drop=1))
    rows_shown = [(one.customer, one.stage.value, one.move) for one in found]
    screen.show(screen.console(), columns, rows_shown)


def _move(config: Path, wait: float, step: Callable[[Mover], Awaitable[T]]) -> T:
    async def work(operator: Operator) -> T:
        return await step(Mover(operator.settings, operator.database, wait_seconds=wait, say=_say))

    return operate(config, work, secrets=("database", "security", "broker"))


def _say(text: str) -> None:
    screen.console(error=True).print(Text(text, style="bright_black"))


def _key(path: Path) -> str:
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file: {path} cannot be read: {error}") from error
    if len(key) < 32:
        raise ConfigError(f"--key-file: {path} holds no key; `fieldgate keys generate > {path}` makes one")
    return key
