"""Says what a load needs: `python -m benchmarks.capacity --devices 10000 --interval 60`. Pure arithmetic over
costs that were measured (`benchmarks/results`), and rules that say so.

`--page` writes the tables of docs/sizing.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.page import between, table
from benchmarks.report import show

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "sizing.md"
COMMAND = "python -m benchmarks.capacity --page"

USED = 0.7
"""Of a core, and of a machine: what is above is for peaks, for catching up after an outage, and for VACUUM."""
DELIVERED_BYTES = 200
"""A row of `delivery`: about a narrow sample (docs/sizing.md)."""
SPARE = 1.1
"""Disk: what is being written, and the space that updates leave."""
HOUR = 3600
DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be carried. `interval`: seconds between two messages of a device. `meters`: of a device, over all
    of its connections, each with a reading every `window` seconds.
    """

    devices: int
    interval: float = 60.0
    metrics: int = 3
    connections: int = 1
    meters: float = 1.0
    window: float = 900.0
    retention_days: float = 30.0
    cores: int = 8

    @property
    def messages(self) -> float:
        """A second."""
        return self.devices / self.interval

    @property
    def readings(self) -> float:
        """A second; a reading needs a sample, so no more than those."""
        return self.devices * self.meters / max(self.window, self.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU microseconds of one thing: in the daemon, in PostgreSQL, in the broker."""

    daemon: float
    database: float
    broker: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured. `message`: in full batches; `small_batch`: what it costs more where `small_batch_rate`
    messages come a second and each commit has few; `connection`: an idle one, a second. `sample_bytes`: on disk, by the number of metrics.
    None was not measured, and counts as nothing.
    """

    message: Cost
    small_batch: Cost
    small_batch_rate: float
    reading: Cost
    connection: Cost | None
    connection_bytes: float | None
    device_bytes: float | None
    daemon_bytes: float
    sample_bytes: Mapping[int, float]
    wal_bytes: Mapping[int, float]

    @staticmethod
    def measured() -> Costs:
        """From the committed results."""
        names = ("peers", "sync", "idle", "disk", "devices")
        peers, sync, idle, disk, devices = (_published(name) for name in names)
        ours = peers["consumers"]["fieldgate"]
        full, live = ours["backlog"], ours["live"]
        reading = sync["sizes"][-1]
        connection, connection_bytes = (
            _idle(idle["rows"][0], idle["rows"][-1]) if len(idle.get("rows", ())) > 1 else (None, None)
        )
        samples = {
            int(line["shape"].split()[0]): line
            for line in disk["samples"]
            if line["setting"] == "as it is installed"
        }
        return Costs(
            message=Cost(daemon=full["cpu_microseconds"], database=full["server_cpu_microseconds"], broker=live["broker_cpu_microseconds"]),
            small_batch=Cost(
                daemon=max(0.0, live["cpu_microseconds"] - full["cpu_microseconds"]),
                database=max(0.0, live["server_cpu_microseconds"] - full["server_cpu_microseconds"]),
            ),
            small_batch_rate=live["rate"],
            reading=Cost(daemon=reading["cpu_microseconds_per_reading"], database=reading["database_cpu_microseconds_per_reading"]),
            connection=connection,
            connection_bytes=connection_bytes,
            device_bytes=_device_bytes(peers, devices) if devices else None,
            daemon_bytes=full["memory_bytes"],
            sample_bytes={metrics: line["disk"] for metrics, line in samples.items()},
            wal_bytes={metrics: line["wal"] for metrics, line in samples.items()},
        )  # fmt: skip


def _idle(few: Mapping[str, float], many: Mapping[str, float]) -> tuple[Cost, float]:
    """What an idle connection costs a second, and its bytes, by a run with few of them and one with many."""
    more = many["connections"] - few["connections"]
    daemon, database, megabytes = (
        max(0.0, (many[name] - few[name]) / more) for name in ("daemon %", "database %", "daemon MB")
    )
    return Cost(daemon=daemon * 1e4, database=database * 1e4), megabytes * 1e6


def _device_bytes(few: Mapping[str, Any], many: Mapping[str, Any]) -> float:
    """Of a device, by the memory of a run with few of them and of one with many."""
    memory = [one["consumers"]["fieldgate"]["backlog"]["memory_bytes"] for one in (few, many)]
    more = many["settings"]["devices"] - few["settings"]["devices"]
    return float(max(0.0, (memory[1] - memory[0]) / more))


def _published(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a load takes, over all cells. Memory: of one replica, and of one database."""

    daemon_cores: float
    database_cores: float
    broker_cores: float
    replicas: int
    cells: int
    replica_bytes: float
    database_bytes: float
    disk_bytes: float
    wal_bytes_a_day: float

    @property
    def cores(self) -> float:
        """In use, of all kinds."""
        return self.daemon_cores + self.database_cores + self.broker_cores


def need(load: Load, costs: Costs) -> Need:
    """Pure. Replicas are as many as leave each daemon, which uses one core, `USED` of it; cells as many as leave each
    machine, and each single-threaded broker, the same.
    """
    small = min(load.messages, costs.small_batch_rate)

    idle = costs.connection or Cost(daemon=0.0, database=0.0)

    def used(name: str) -> float:
        spent = (
            load.messages * getattr(costs.message, name)
            + small * getattr(costs.small_batch, name)
            + load.readings * getattr(costs.reading, name)
            + load.connections * getattr(idle, name)
        )
        return float(spent) / 1e6

    daemon, database, broker = used("daemon"), used("database"), used("broker")
    cells = max(1, math.ceil((daemon + database + broker) / (load.cores * USED)), math.ceil(broker / USED))
    replicas = max(cells, math.ceil(daemon / USED))
    a_sample, a_log = by_metrics(costs.sample_bytes, load.metrics), by_metrics(costs.wal_bytes, load.metrics)
    stored = load.messages * a_sample + load.readings * DELIVERED_BYTES
    return Need(
        daemon_cores=daemon,
        database_cores=database,
        broker_cores=broker,
        replicas=replicas,
        cells=cells,
        replica_bytes=costs.daemon_bytes
        + (load.devices * (costs.device_bytes or 0.0) + load.connections * (costs.connection_bytes or 0.0))
        / replicas,
        database_bytes=512e6 + stored * HOUR / cells,
        disk_bytes=stored * DAY * load.retention_days * SPARE,
        wal_bytes_a_day=load.messages * a_log * DAY,
    )


def by_metrics(measured: Mapping[int, float], metrics: int) -> float:
    """Between two measured numbers of metrics on the line through them; beyond, on the outermost line."""
    points = sorted(measured.items())
    pairs = list(pairwise(points))
    (x, y), (x2, y2) = next((pair for pair in pairs if metrics <= pair[1][0]), pairs[-1])
    return max(0.0, y + (metrics - x) * (y2 - y) / (x2 - x))


def carried(load: Load, costs: Costs) -> int:
    """The most devices, with all else as in `load`, that one cell carries. Connections grow with them."""
    share = load.connections / load.devices

    def fits(devices: int) -> bool:
        grown = replace(load, devices=devices, connections=math.ceil(devices * share))
        return need(grown, costs).cells == 1

    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


FLEETS = tuple(10**power for power in range(8))
MACHINES = (2, 8, 32)


def tables(costs: Costs) -> str:
    """Markdown: the costs, what fleets need, what a cell carries."""
    return "\n".join([*_costs(costs), "", *_fleets(costs), "", *_cells(costs)])


def _costs(costs: Costs) -> list[str]:
    def micro(value: float) -> str:
        return f"{value:.1f} us" if value < 100 else f"{value:.0f} us"

    idle = ["not measured", "not measured"] if costs.connection is None else [micro(costs.connection.daemon), micro(costs.connection.database)]  # fmt: skip
    lines = [
        ["a message, in full batches", *map(micro, (costs.message.daemon, costs.message.database, costs.message.broker)), "backlog of `make bench-peers`; the broker: its live load"],
        [f"more, where {costs.small_batch_rate:,.0f} messages a second come one by one", micro(costs.small_batch.daemon), micro(costs.small_batch.database), "-", "live load of `make bench-peers`"],
        ["a reading delivered to a table", micro(costs.reading.daemon), micro(costs.reading.database), "-", "`fieldgate bench sync`"],
        ["a second of an idle connection", *idle, "-", "`python -m benchmarks.growth_idle`"],
    ]  # fmt: skip

    def kept(what: str, value: float | None) -> str:
        return "" if value is None else f" {what} takes {value / 1e3:.1f} KB more."

    memory = (
        f"A daemon and its HTTP process take {costs.daemon_bytes / 1e6:.0f} MB at most while they take in a backlog."
        f"{kept('An idle connection', costs.connection_bytes)}{kept('A device', costs.device_bytes)}"
        f"{_nothing(costs)}"
    )
    return [*table(["CPU", "daemon", "PostgreSQL", "broker", "measured by"], lines), "", memory]


def _unmeasured(costs: Costs) -> list[str]:
    """What counts as nothing, since no run of it was published."""
    found = {
        "CPU of idle connections": costs.connection,
        "memory of idle connections": costs.connection_bytes,
        "memory of devices": costs.device_bytes,
    }
    return [what for what, cost in found.items() if cost is None]


def _nothing(costs: Costs) -> str:
    left_out = _unmeasured(costs)
    return f" Not measured, and so counted as nothing: {', '.join(left_out)}." if left_out else ""


def _fleets(costs: Costs) -> list[str]:
    lines = []
    for devices in FLEETS:
        load = Load(devices=devices, connections=max(1, devices // 1000))
        found = need(load, costs)
        lines.append([
            f"{devices:,}", f"{load.messages:,.2f}" if load.messages < 10 else f"{load.messages:,.0f}", f"{load.connections:,}", _cores(found.daemon_cores), _cores(found.database_cores),
            _cores(found.broker_cores), str(found.replicas), str(found.cells), size(found.replica_bytes), size(found.database_bytes), size(found.disk_bytes),
        ])  # fmt: skip
    columns = ["devices", "messages/s", "connections", "daemon cores", "PostgreSQL cores", "broker cores", "replicas", "cells of 8 cores", "memory a replica" + (" (without what was not measured)" if _unmeasured(costs) else ""), "memory a database", "disk, 30 days"]  # fmt: skip
    return table(columns, lines)


def _cells(costs: Costs) -> list[str]:
    lines = []
    for cores in MACHINES:
        line = [str(cores)]
        for interval in (1.0, 60.0, 900.0):
            load = Load(devices=1000, interval=interval, cores=cores)
            devices = carried(load, costs)
            found = need(replace(load, devices=devices, connections=math.ceil(devices / 1000)), costs)
            bound = "the broker's core" if found.broker_cores > 0.98 * USED else "all cores"
            line.append(f"{devices:,} ({devices / interval:,.0f}/s; {bound})")
        lines.append(line)
    return table(
        ["cores", "devices, a message a second", "devices, one a minute", "devices, one in 15 minutes"], lines
    )


def _cores(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the tables of docs/sizing.md instead")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument(
        "--interval", type=float, default=60.0, help="seconds between two messages of a device"
    )
    parser.add_argument("--messages", type=float, help="a second, of all devices: instead of --interval")
    parser.add_argument("--metrics", type=int, default=3, help="in a message")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--meters", type=float, default=1.0, help="of a device, over its connections")
    parser.add_argument("--window", type=float, default=900.0, help="seconds of a meter's window")
    parser.add_argument("--retention", type=float, default=30.0, help="days")
    parser.add_argument("--cores", type=int, default=8, help="of the machine of a cell")
    given = parser.parse_args()
    costs = Costs.measured()
    if given.page:
        PAGE.write_text(between(PAGE.read_text(), COMMAND, tables(costs)))
        return
    for name in ("devices", "interval", "metrics", "window", "cores"):
        if getattr(given, name) <= 0:
            parser.error(f"--{name} must be more than 0")
    if given.messages is not None and given.messages <= 0:
        parser.error("--messages must be more than 0")
    load = Load(
        devices=given.devices, interval=given.devices / given.messages if given.messages else given.interval, metrics=given.metrics,
        connections=given.connections, meters=given.meters, window=given.window, retention_days=given.retention, cores=given.cores,
    )  # fmt: skip
    found = need(load, costs)
    figures = {
        "messages a second": f"{load.messages:,.1f}",
        "readings a second": f"{load.readings:,.1f}",
        "cores of the daemon": f"{found.daemon_cores:.3f}",
        "cores of PostgreSQL": f"{found.database_cores:.3f}",
        "cores of the broker": f"{found.broker_cores:.3f}",
        "replicas": str(found.replicas),
        f"cells of {load.cores} cores": str(found.cells),
        "memory of a replica": size(found.replica_bytes),
        "memory of a database": size(found.database_bytes),
        "disk": size(found.disk_bytes),
        "log (WAL) a day": size(found.wal_bytes_a_day),
    }
    show("What it takes", [{"what": what, "figure": figure} for what, figure in figures.items()], Console())
    if left_out := _nothing(costs):
        print(left_out.strip())


if __name__ == "__main__":
    main()
