"""`fieldgate cells`: what several gateways say together, and the router before them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway.cells import router as haproxy
from gateway.cells import survey
from gateway.cells.survey import CellAnswer
from gateway.cli import screen
from gateway.cli.operate import Json
from gateway.cli.screen import Column
from gateway.model.errors import ConfigError

app = typer.Typer(
    help=(
        "Show credits and connections of several gateways, or make the router before them.\n\nExample:"
        " fieldgate cells show cells.yaml"
    ),
    no_args_is_help=True,
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML: `cells`, each with name, url, token_file, customers.")
]


@app.command()
def show(file: File, json: Json = False) -> None:
    """Show each cell: its credits, and how many connections are in which state. Exits with 1 where one does
    not answer.

    Example: fieldgate cells show cells.yaml --json
    """
    answers = _ask(file)
    if json:
        print(orjson.dumps(_document(answers)).decode())
    else:
        _show(answers)
    if any(answer.fault is not None for answer in answers):
        raise typer.Exit(1)


@app.command()
def router(
    file: File,
    out: Annotated[Path, typer.Option("--out", help="The folder for haproxy.cfg and its maps.")],
    bind: Annotated[str, typer.Option("--bind", help="Where the router listens.")] = "127.0.0.1:8080",
) -> None:
    """Write a configuration of haproxy that leads requests to the cell that has the customer. Start haproxy
    in that folder.

    Example: fieldgate cells router cells.yaml --out /etc/haproxy/fieldgate --bind :8443
    """
    made = haproxy.make(_ask(file), bind=bind)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in made.contents.items():
            partial = out / f"{name}.partial"
            partial.write_text(text)
            partial.replace(out / name)
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror}") from error
    customers = screen.count(made.customers.count("\n"), "customer")
    screen.console(error=True).print(Text(f"{customers}; `haproxy -c -f haproxy.cfg` in {out} checks it"))


def _ask(file: Path) -> list[CellAnswer]:
    cells = survey.read_file(file)
    with screen.working("asking"):
        return asyncio.run(survey.ask_all(cells, file.parent))


def _document(answers: Sequence[CellAnswer]) -> dict[str, object]:
    return {
        "cells": [
            {
                "name": answer.cell.name,
                "url": answer.cell.url,
                "fault": answer.fault,
                "credits": {
                    "capacity": answer.capacity,
                    "held": answer.held,
                    "posted": answer.posted,
                    "available": answer.available,
                },
                "connections": dict(answer.states),
            }
            for answer in answers
        ],
        "in_several": survey.twice(answers),
    }


def _show(answers: Sequence[CellAnswer]) -> None:
    states = sorted({state for answer in answers for state in answer.states})
    columns = (
        Column(name="cell"),
        *(Column(name=name, numbers=True) for name in ("capacity", "held", "posted", "free")),
        *(Column(name=state, numbers=True, drop=place) for place, state in enumerate(states, 1)),
        Column(name="fault", free=True),
    )
    rows = [_row(answer, states) for answer in answers]
    rows.append(_sums(answers, states))
    console = screen.console()
    screen.show(console, columns, rows)
    for customer in survey.twice(answers):
        console.print(Text(f"customer {customer} is in several cells: is it being moved?", style="yellow"))


def _row(answer: CellAnswer, states: Sequence[str]) -> tuple[str, ...]:
    if answer.fault is not None:
        return (answer.cell.name, "-", "-", "-", "-", *("-" for _ in states), answer.fault)
    numbers = (answer.capacity, answer.held, answer.posted, answer.available)
    return (
        answer.cell.name,
        *("-" if number is None else str(number) for number in numbers),
        *(str(answer.states.get(state, 0)) for state in states),
        "",
    )


def _sums(answers: Sequence[CellAnswer], states: Sequence[str]) -> tuple[str, ...]:
    total: Counter[str] = Counter()
    for answer in answers:
        total.update(answer.states)
    numbers = (
        sum(answer.capacity or 0 for answer in answers),
        sum(answer.held for answer in answers),
        sum(answer.posted for answer in answers),
        sum(answer.available or 0 for answer in answers),
    )
    return ("all", *(str(number) for number in numbers), *(str(total[state]) for state in states), "")
