"""`fieldgate credits`: the pool, who uses it, what is held, the last transfers, and whether its counters
reconcile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import check_current
from gateway.configuration import load
from gateway.model.credits import (
    HOLD_MINUTES,
    LOW_PERCENT,
    Account,
    Book,
    Pool,
    Transfer,
    by_customer,
    by_tier,
    disagreements,
)
from gateway.store import credits as ledger
from gateway.store.pool import Database

BAR_WIDTH = 40
COLOURS = {Account.AVAILABLE: "green", Account.HELD: "yellow", Account.POSTED: "cyan"}


def credits(  # noqa: A001  the command's name
    config: Config = DEFAULT,
    last: Annotated[int, typer.Option(help="How many of the last transfers.", min=0, max=1000)] = 10,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show the pool of connection credits, who uses it, and the result of its self-check (exit 1 when the
    counters do not reconcile).

    Example: fieldgate credits --last 20
    """
    settings = load(config, os.environ, systems=SYSTEMS, secrets=("database",)).settings
    book, transfers = asyncio.run(_read(settings.database.dsn.get_secret_value(), last))
    found = disagreements(book)
    if json:
        print(
            orjson.dumps(_document(book, transfers, found, now=clock.now()), option=orjson.OPT_UTC_Z).decode()
        )
    else:
        _show(book, transfers, found, now=clock.now())
    if found:
        raise typer.Exit(1)


async def _read(dsn: str, last: int) -> tuple[Book, Sequence[Transfer]]:
    database = await Database.open(dsn, size=2)
    try:
        await check_current(database)
        return await ledger.read(database), await ledger.transfers(database, limit=last)
    finally:
        await database.close()


def _document(
    book: Book, transfers: Sequence[Transfer], found: Sequence[str], *, now: datetime
) -> dict[str, object]:
    pool = _pool(book)
    return {
        "capacity": pool.capacity,
        "used": pool.used,
        "available": pool.available,
        "held": pool.held,
        "posted": pool.posted,
        "tiers": [
            {"tier": tier, "connections": share.connections, "credits": share.credits}
            for tier, share in by_tier(book).items()
        ],
        "customers": [
            {
                "customer": name,
                "connections": share.connections,
                "credits": share.credits,
                "quota": book.quotas.get(name),
            }
            for name, share in by_customer(book).items()
        ],
        "holds": [
            {
                "connection": held.connection,
                "customer": held.customer,
                "credits": held.amount,
                "since": held.since,
                "age_seconds": _age(held.since, now),
            }
            for held in book.holdings
            if held.account is Account.HELD
        ],
        "transfers": [
            {
                "number": line.number,
                "at": line.at,
                "kind": line.kind,
                "from": line.from_account,
                "to": line.to_account,
                "credits": line.amount,
                "connection": line.connection,
                "customer": line.customer,
            }
            for line in transfers
        ],
        "disagreements": list(found),
    }


def _pool(book: Book) -> Pool:
    return book.pool or Pool(capacity=0, held=0, posted=0)


def _age(since: datetime | None, now: datetime) -> int:
    return 0 if since is None else max(0, int((now - since).total_seconds()))


def _show(book: Book, transfers: Sequence[Transfer], found: Sequence[str], *, now: datetime) -> None:
    console = Console(highlight=False, soft_wrap=True)
    _show_pool(console, _pool(book))
    _show_use(console, book)
    _show_holds(console, book, now)
    _show_transfers(console, transfers)
    console.print()
    if not found:
        console.print(Text.assemble(("self-check  ", "bold"), ("counters reconcile", "green")))
        return
    console.print(
        Text.assemble(
            ("self-check  ", "bold"),
            (
                f"{len(found)} contradiction{'s' if len(found) > 1 else ''}; docs/credits.md says what to do",
                "bold red",
            ),
        )
    )
    for text in found:
        console.print(Text(f"  {text}", style="red"))


def _show_pool(console: Console, pool: Pool) -> None:
    whole = max(pool.capacity, pool.used, 1)
    posted = round(pool.posted * BAR_WIDTH / whole)
    held = max(round(pool.used * BAR_WIDTH / whole) - posted, 0)
    bar = Text.assemble(
        ("█" * posted, COLOURS[Account.POSTED]),
        ("█" * held, COLOURS[Account.HELD]),
        ("░" * (BAR_WIDTH - posted - held), "bright_black"),
    )
    console.print(Text.assemble(("credits  ", "bold"), bar, f"  {pool.used} of {pool.capacity} used"))
    console.print(
        Text.assemble(
            "         ",
            (f"{pool.posted} posted", COLOURS[Account.POSTED]),
            " · ",
            (f"{pool.held} held", COLOURS[Account.HELD]),
            " · ",
            (f"{pool.available} available", COLOURS[Account.AVAILABLE] if pool.available else "bold red"),
        )
    )
    if pool.used > pool.capacity:
        console.print(
            Text(
                f"         the capacity was lowered: nothing new until {pool.used - pool.capacity} are"
                " returned",
                style="bold red",
            )
        )
    elif pool.is_low and pool.used:
        console.print(Text(f"         low: {LOW_PERCENT} % or more are used", style="bold yellow"))


def _show_use(console: Console, book: Book) -> None:
    tiers = _table("by tier", numbers=("connections", "credits"))
    for tier, share in by_tier(book).items():
        tiers.add_row(f"tier {tier}", str(share.connections), str(share.credits))
    console.print()
    console.print(tiers)
    customers = _table("by customer", numbers=("connections", "credits", "quota"))
    for name, share in by_customer(book).items():
        quota = book.quotas.get(name)
        style = "bold red" if quota is not None and share.credits >= quota else ""
        customers.add_row(
            name,
            str(share.connections),
            Text(str(share.credits), style=style),
            "-" if quota is None else str(quota),
        )
    if customers.rows:
        console.print()
        console.print(customers)


def _show_holds(console: Console, book: Book, now: datetime) -> None:
    held = [holding for holding in book.holdings if holding.account is Account.HELD]
    if not held:
        return
    table = _table("held", "customer", "state", numbers=("credits", "age"))
    for holding in held:
        seconds = _age(holding.since, now)
        age = Text(str(timedelta(seconds=seconds)), style="yellow" if seconds > HOLD_MINUTES * 60 else "")
        table.add_row(holding.connection, holding.customer, holding.state or "gone", str(holding.amount), age)
    console.print()
    console.print(table)


def _show_transfers(console: Console, transfers: Sequence[Transfer]) -> None:
    if not transfers:
        return
    table = _table("last transfers", "kind", "connection", "customer", numbers=("credits",))
    for line in transfers:
        kind = Text(line.kind, style=COLOURS[line.to_account])
        table.add_row(
            line.at.strftime("%Y-%m-%d %H:%M:%SZ"), kind, line.connection, line.customer, str(line.amount)
        )
    console.print()
    console.print(table)


def _table(*names: str, numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
