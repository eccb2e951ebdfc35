"""`fieldgate records`: what a connected system holds, as it is kept here."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Id, Json, Operator, operate
from gateway.cli.screen import Column
from gateway.events.record_documents import record_payload, versions_payload
from gateway.model.errors import RequestRefused
from gateway.store import inbound
from gateway.store.records import Records, StoredRecord

SUMMARY = 200


def records(
    connection: Id,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="One of its streams, such as work_orders.")],
    config: Config = DEFAULT,
    key: Annotated[str | None, typer.Option("--key", help="One record, whole, with its versions.")] = None,
    holds: Annotated[str, typer.Option("--holds", help="Only those with this text in key or body.")] = "",
    after: Annotated[str, typer.Option("--after", help="Begin after this key.")] = "",
    limit: Annotated[int, typer.Option(help="How many, by key.", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List records of a connection by key, or show one.

    Examples: fieldgate records acme-1 work_orders --holds pump; fieldgate records acme-1 work_orders --key
    4711
    """
    if key is not None:
        print(operate(config, lambda operator: _one(operator, connection, stream, key)))
        return
    found = operate(config, lambda operator: _listed(operator, connection, stream, holds, after, limit))
    if json:
        print((b"[" + b",".join(record_payload(record) for record in found) + b"]").decode())
    else:
        _show(found, limit)


async def _customer(operator: Operator, connection: str, stream: str) -> str:
    customer = (await operator.status(connection)).customer
    known = sorted({phase.stream for phase in await inbound.progress(operator.database, [connection])})
    if stream not in known:
        there = f"it reads {', '.join(known)}" if known else "it reads none"
        raise RequestRefused(
            "request.not_found",
            f"connection {connection!r} reads no stream {stream!r}; {there}",
            connection=connection,
        )
    return customer


async def _one(operator: Operator, connection: str, stream: str, key: str) -> str:
    customer = await _customer(operator, connection, stream)
    found = await Records(operator.database).one(customer, connection, stream, key)
    if found is None:
        raise RequestRefused(
            "request.not_found", f"there is no record {key!r} in {stream}", connection=connection
        )
    return orjson.dumps(orjson.loads(versions_payload(*found)), option=orjson.OPT_INDENT_2).decode()


async def _listed(
    operator: Operator, connection: str, stream: str, holds: str, after: str, limit: int
) -> list[StoredRecord]:
    customer = await _customer(operator, connection, stream)
    return await Records(operator.database).listed(
        customer, connection, stream, after=after, holds=holds, limit=limit
    )


def _show(found: list[StoredRecord], limit: int) -> None:
    console, now = screen.console(), clock.now()
    if not found:
        console.print(Text("no records", style="green"))
        return
    columns = (
        Column(name="key"),
        Column(name="change"),
        Column(name="version", numbers=True, drop=2),
        Column(name="changed", numbers=True),
        Column(name="progress", drop=1),
        Column(name="body", free=True),
    )
    rows: list[tuple[Text | str, ...]] = [
        (
            record.key,
            record.change,
            str(record.version),
            screen.span(now - record.modified_at),
            record.progress or "-",
            Text(record.body[:SUMMARY], style="dim"),
        )
        for record in found
    ]
    screen.show(console, columns, rows)
    if len(found) == limit:
        console.print(Text(f"\nthe next: --after {found[-1].key!r}", style="dim"))
