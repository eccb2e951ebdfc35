"""`fieldgate bench`: measures on throw-away servers. The measuring itself is the repository's `benchmarks`,
which are not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
import uvloop
from rich.console import Console

import gateway
from gateway.model.errors import ConfigError

app = typer.Typer(
    help="Measures ingest, sync, the API and its lists on throw-away servers.", no_args_is_help=True
)

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Document = Mapping[str, object]


@app.command()
def ingest(
    messages: Annotated[int, typer.Option(min=1000, help="The backlog that each consumer drains.")] = 60_000,
    payload: Annotated[
        int, typer.Option(min=1, max=256, help="Metrics in a message; each is about 16 bytes.")
    ] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the median counts.")] = 3,
    peers: Annotated[bool, typer.Option("--peers", help="Measure the other consumers beside ours.")] = False,
    persistent: Annotated[
        bool, typer.Option("--persistent", help="With the broker's persistence on.")
    ] = False,
    standby: Annotated[
        bool, typer.Option("--standby", help="Also with a synchronous standby, for the cost of its fsync.")
    ] = False,
    sources: Annotated[
        bool,
        typer.Option("--sources", help="Also the same samples as mapped JSON, as CBOR and by Sparkplug B."),
    ] = False,
    json_path: Json = None,
) -> None:
    """The rate at which a QoS 1 backlog becomes committed rows.

    Example: fieldgate bench ingest --peers
    """
    module = _module("ingest")
    plan = module.Plan(
        messages=messages,
        metrics=payload,
        rounds=rounds,
        peers=peers,
        persistent=persistent,
        standby=standby,
        sources=sources,
    )
    _measure(lambda say: module.run(plan, say), module.rows, "Draining a QoS 1 backlog", json_path)


@app.command()
def sync(
    sizes: Annotated[str, typer.Option(help="Stored samples, one run each.")] = "10000,100000,1000000",
    json_path: Json = None,
) -> None:
    """Readings a second from stored telemetry into a PostgreSQL table, and their cost by size.

    Example: fieldgate bench sync
    """
    try:
        plan = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise ConfigError(f"--sizes {sizes!r}: numbers with commas between them") from error
    module = _module("sync")
    _measure(lambda say: module.run(plan, say), module.rows, "Delivering stored samples, `each`", json_path)


@app.command()
def api(
    seconds: Annotated[float, typer.Option(min=1, help="The length of each phase.")] = 5.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="Interleaved rounds of the phases; the median counts.")
    ] = 12,
    connections: Annotated[int, typer.Option(min=1, max=100, help="Keep-alive connections that ask.")] = 8,
    json_path: Json = None,
) -> None:
    """Requests a second for a connection's status during ingest, and what they add to PUBLISH to PUBACK.

    Example: fieldgate bench api
    """
    module = _module("api")
    plan = module.Plan(seconds=seconds, rounds=rounds, connections=connections)
    _measure(
        lambda say: module.run(plan, say),
        module.rows,
        "Asking for a status while 2,000 msg/s are taken in, on one core",
        json_path,
    )


@app.command()
def lists(
    records: Annotated[int, typer.Option(min=2000, help="Stored records.")] = 1_000_000,
    devices: Annotated[int, typer.Option(min=1000, help="Devices that were seen.")] = 100_000,
    messages: Annotated[int, typer.Option(min=1000, help="Messages that are dead letters.")] = 100_000,
    pages: Annotated[
        int, typer.Option(min=10, help="Pages of each list that are asked for in a round.")
    ] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Each with a daemon of its own.")] = 3,
    beside: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Another checkout, measured in turns on the same tables."
        ),
    ] = None,
    json_path: Json = None,
) -> None:
    """What a page of records, devices and dead messages takes and costs, over HTTP and by command.

    Example: fieldgate bench lists --records 100000
    """
    module = _module("lists")
    plan = module.Plan(
        records=records, devices=devices, messages=messages, pages=pages, rounds=rounds, beside=beside
    )
    _measure(lambda say: module.run(plan, say), module.rows, "A page of each list", json_path)


def _module(name: str) -> ModuleType:
    root = Path(gateway.__file__).parents[1]
    if not (root / "benchmarks").is_dir():
        raise ConfigError("the benchmarks are part of the repository: run `make bench` in a clone of it")
    sys.path.insert(0, str(root))
    return import_module(f"benchmarks.{name}")


def _measure(
    run: Callable[[Callable[[str], None]], Coroutine[None, None, Document]],
    rows: Callable[[Document], list[Mapping[str, str]]],
    title: str,
    json_path: Path | None,
) -> None:
    report, console = _module("report"), Console(stderr=True)
    with console.status("starting") as status:
        said: Callable[[str], None] = status.update if console.is_terminal else console.print
        document = uvloop.run(run(said))
    report.show(title, rows(document), Console())
    report.write(json_path, document)
