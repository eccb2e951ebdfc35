"""`fieldgate dead-letters`: what nobody could take, why, and trying it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from gateway import clock
from gateway.cli import screen
from gateway.cli.dead_letter import show
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import Json, Operator, Yes, operate
from gateway.cli.screen import Column
from gateway.ingest.messages import Messages
from gateway.model.errors import ConfigError, RequestRefused
from gateway.store import dead_letters as store
from gateway.store import messages as dead_messages
from gateway.store.dead_letters import DeadLetter
from gateway.store.messages import DeadMessageFilter

app = typer.Typer(help="List dead letters, show one, try them again, or discard them.", no_args_is_help=True)
app.command()(show)

Connection = Annotated[str | None, typer.Option("--connection", help="Only readings of this connection.")]
Only = Annotated[bool, typer.Option("--messages", help="Only messages of devices, not readings.")]
Customer = Annotated[str | None, typer.Option("--customer", help="Of --messages: this customer's.")]
Source = Annotated[
    str | None, typer.Option("--source", help="Of --messages: by this topic template; '' of none.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="Of --messages: with this reason.")]

AT_ONCE = 200
MAX_SHOWN = 100


@app.command("list")
def list_dead_letters(
    config: Config = DEFAULT,
    connection: Connection = None,
    messages: Only = False,
    customer: Customer = None,
    source: Source = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=10_000)] = 50,
    json: Json = False,
) -> None:
    """List dead messages and readings, the newest first.

    Example: fieldgate dead-letters list --messages --reason unmatched_topic
    """
    wanted = _wanted(messages, customer, source, reason, connection=connection)

    async def read(operator: Operator) -> Sequence[DeadLetter]:
        if connection is not None:
            await operator.status(connection)
        if wanted is not None:
            await operator.check_customer(customer)
            return [
                _letter(each) for each in await dead_messages.page(operator.database, wanted, limit=limit)
            ]
        return await store.listed(operator.database, connection_id=connection, limit=limit)

    found = operate(config, read)
    if json:
        print(orjson.dumps([asdict(each) for each in found], option=orjson.OPT_UTC_Z).decode())
    else:
        _show(found, clock.now(), limit)


@app.command()
def replay(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="Dead letters.")] = None,
    config: Config = DEFAULT,
    connection: Annotated[
        str | None, typer.Option("--connection", help="Every dead reading of this connection.")
    ] = None,
    messages: Only = False,
    customer: Customer = None,
    source: Source = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Try dead letters again: a reading is due once more, a message is decoded once more.

    What was taken before, or came later, stays as it is. A message that fails again stays with its new
    reason.

    Example: fieldgate dead-letters replay --messages --customer acme --reason unmatched_topic
    """
    wanted = _wanted(messages, customer, source, reason, connection=connection)
    if [bool(ids), connection is not None, wanted is not None].count(True) != 1:
        raise ConfigError("give the ids of dead letters, or --connection, or --messages")

    async def work(operator: Operator) -> tuple[int, dict[int, str], int]:
        if wanted is not None:
            await operator.check_customer(customer)
            return await _replay_messages(operator, wanted, quiet=json)
        replayed, failed = await _replay(operator, ids or [], connection, quiet=json)
        return replayed, failed, len(failed)

    replayed, failed, count = operate(config, work)
    if json:
        print(
            orjson.dumps(
                {
                    "replayed": replayed,
                    "failed_count": count,
                    "failed": {str(each): reason for each, reason in failed.items()},
                }
            ).decode()
        )
    else:
        for each, why in failed.items():
            screen.console().print(
                Text.assemble(("! ", "bold red"), (str(each), "bold"), f"  {why}"), soft_wrap=True
            )
        more = f", {count} stay" if count else ""
        screen.console().print(f"{screen.count(replayed, 'dead letter')} replayed{more}")
    if failed:
        raise typer.Exit(1)


@app.command()
def discard(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="ID...", help="Of --connection: these readings only.")
    ] = None,
    connection: Annotated[
        str | None, typer.Option("--connection", help="Dead readings of this connection.")
    ] = None,
    messages: Only = False,
    customer: Customer = None,
    source: Source = None,
    reason: Reason = None,
    config: Config = DEFAULT,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Discard dead messages of a customer, source or reason, or dead readings of a connection. It asks first;
    this cannot be undone.

    Example: fieldgate dead-letters discard --messages --customer acme --reason invalid_json
    """
    wanted = _wanted(messages, customer, source, reason, connection=connection)
    if wanted is None and connection is not None:
        _discard_readings(config, connection, ids, yes=yes, json=json)
        return
    if wanted is None or ids:
        raise ConfigError(
            "give --messages, and whose: --customer, --source or --reason; or --connection and, for some of"
            " its readings alone, their ids"
        )

    async def look(operator: Operator) -> tuple[DeadMessageFilter, int]:
        await operator.check_customer(customer)
        service = Messages(operator.settings, operator.database)
        found = await service.until_now(wanted)
        return found, await service.fitting(found)

    found, count = operate(config, look)
    if count:
        screen.agree(f"Discard {screen.count(count, 'dead message')}? They cannot be tried again.", yes=yes)
    operate(
        config,
        lambda operator: Messages(operator.settings, operator.database).discard(found, expected=count),
    )
    if json:
        print(orjson.dumps({"discarded": count}).decode())
    else:
        screen.console().print(f"{screen.count(count, 'dead message')} discarded")


def _discard_readings(
    config: Path, connection: str, ids: Sequence[int] | None, *, yes: bool, json: bool
) -> None:
    held = operate(config, lambda operator: operator.status(connection)).dead_letters
    what = screen.count(len(ids), "dead reading") if ids else f"every dead reading ({held:,})"
    count = 0
    if held:
        screen.agree(f"Discard {what} of {connection}? They cannot be tried again.", yes=yes)
        count = operate(config, lambda operator: operator.views.discard(connection, ids or None))
    if json:
        print(orjson.dumps({"discarded": count}).decode())
    else:
        screen.console().print(f"{screen.count(count, 'dead reading')} discarded")


async def _replay_messages(
    operator: Operator, wanted: DeadMessageFilter, *, quiet: bool
) -> tuple[int, dict[int, str], int]:
    service = Messages(operator.settings, operator.database)
    wanted = await service.until_now(wanted)  # what comes meanwhile is not waited for
    total = await service.fitting(wanted)
    replayed = count = 0
    failed: dict[int, str] = {}
    after: int | None = 0
    console = screen.console(error=True)
    with _progress(console, quiet=quiet) as bar:
        task = bar.add_task("replay", total=total)
        while after is not None:
            found = await service.replay(wanted, after=after, limit=AT_ONCE)
            replayed, count, after = replayed + found.replayed, count + found.failed_count, found.last
            for each in found.failed[: MAX_SHOWN - len(failed)]:
                failed[each.id] = f"{each.reason}: {each.detail}"
            bar.advance(task, found.replayed + found.failed_count)
    return replayed, failed, count


def _progress(console: Console, *, quiet: bool) -> Progress:
    return Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def _wanted(
    messages: bool,
    customer: str | None,
    source: str | None,
    reason: str | None,
    *,
    connection: str | None = None,
) -> DeadMessageFilter | None:
    """Which messages; None where messages alone are not asked for. Raises ConfigError."""
    if not messages:
        if (customer, source, reason) != (None, None, None):
            raise ConfigError("--customer, --source and --reason go with --messages")
        return None
    if connection is not None:
        raise ConfigError("--connection is of readings, --messages of messages: give one of them")
    return DeadMessageFilter(customer=customer, source=source, reason=reason)


def _letter(found: dead_messages.ListedDeadMessage) -> DeadLetter:
    return DeadLetter(
        id=found.id,
        kind="message",
        customer=found.customer,
        connection=None,
        topic=found.topic,
        meter=None,
        window_start=None,
        reason=found.reason,
        detail=found.detail,
        occurrences=found.occurrences,
        first_at=found.first_at,
        last_at=found.last_at,
        bytes=found.size_bytes,
    )


async def _replay(
    operator: Operator, ids: Sequence[int], connection: str | None, *, quiet: bool
) -> tuple[int, dict[int, str]]:
    if connection is not None:
        await operator.status(connection)  # a name that there is not is refused with what is near
        return await operator.service.replay(connection, None), {}
    replayed, failed = 0, dict[int, str]()
    console = screen.console(error=True)
    with _progress(console, quiet=quiet) as bar:
        task = bar.add_task("replay", total=len(ids))
        for each in ids:
            try:
                await _replay_one(operator, each)
                replayed += 1
            except RequestRefused as error:
                failed[each] = str(error)
            bar.advance(task)
    return replayed, failed


async def _replay_one(operator: Operator, dead_letter: int) -> None:
    kept = await store.read(operator.database, dead_letter)
    if kept is None:
        raise RequestRefused("request.not_found", f"there is no dead letter {dead_letter}")
    if kept.kind == "message":
        found = await Messages(operator.settings, operator.database).replay_these([dead_letter])
        if found.failed:
            raise RequestRefused(
                "request.conflict",
                f"dead letter {dead_letter} still cannot be taken: {found.failed[0].reason}:"
                f" {found.failed[0].detail}",
            )
    elif kept.connection is None or not await operator.service.replay(kept.connection, [dead_letter]):
        raise RequestRefused(
            "request.conflict",
            f"dead letter {dead_letter}: no rule of connection {kept.connection!r} feeds its meter now",
        )


def _show(found: Sequence[DeadLetter], now: datetime, limit: int) -> None:
    console = screen.console()
    if not found:
        console.print(Text("no dead letters", style="green"))
        return
    columns = (
        Column(name="id", numbers=True),
        Column(name="kind", drop=1),
        Column(name="of"),
        Column(name="reason"),
        Column(name="times", numbers=True, drop=2),
        Column(name="last", numbers=True, drop=3),
        Column(name="detail", free=True),
    )
    screen.show(console, columns, [_row(each, now) for each in found])
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(each.reason for each in found).most_common()
    )
    more = f" (the last {limit})" if len(found) == limit else ""
    console.print(
        Text.assemble("\n", (screen.count(len(found), "dead letter"), "bold"), f"{more}: {reasons}")
    )


def _row(found: DeadLetter, now: datetime) -> tuple[Text | str, ...]:
    window = "" if found.window_start is None else f" {screen.moment(found.window_start)}"
    of = found.topic or "-" if found.kind == "message" else f"{found.connection}: {found.meter}{window}"
    return (
        str(found.id),
        found.kind,
        of,
        found.reason,
        str(found.occurrences),
        screen.span(now - found.last_at),
        Text(found.detail, style="dim"),
    )
