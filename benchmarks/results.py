"""The figures of docs/results.md, from the committed results: python -m benchmarks.results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.growth_disk import SHAPES
from benchmarks.page import between, table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
COMMAND = "python -m benchmarks.results"
NAMES = ("peers", "kills", "ingest", "sync", "idle", "disk", "devices")

Document = Mapping[str, Any]


def committed() -> dict[str, Document]:
    """The results of each command that were published, by the name of its file."""
    paths = {name: RESULTS / f"{name}.json" for name in NAMES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def tables(results: Mapping[str, Document]) -> str:
    """Markdown: where it was measured, then each command's figures."""
    peers = results["peers"]
    parts = [
        _machine(results),
        ["## Beside peers: `make bench-peers`", "", *_who(peers)],
        ["### A backlog", "", *_backlog(peers)],
        ["### A live load", "", *_live(peers)],
        ["### SIGKILLs and a restart of the database", "", *_faults(peers)],
        ["## Replicas that are killed: `python -m tests.soak.kills`", "", *_kills(results["kills"])] if "kills" in results else [],
        ["## Ingest: `fieldgate bench ingest`", "", *_ingest(results["ingest"])] if "ingest" in results else [],
        [f"## Delivery: `fieldgate bench sync --sizes {','.join(str(run['samples']) for run in results['sync']['sizes'])}`", "", *_sync(results["sync"])],
        [f"## Idle connections: `python -m benchmarks.growth_idle --connections {' '.join(str(row['connections']) for row in results['idle']['rows'])}`", "", *_idle(results["idle"])] if "idle" in results else [],
        [f"## Many devices: `python -m benchmarks.beside.run backlog --only fieldgate --devices {results['devices']['settings']['devices']}`", "", *_devices(results)] if "devices" in results else [],
        [f"## Disk: `python -m benchmarks.growth_disk{_small(results['disk'])}`", "", *_disk(results["disk"])],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts if part)


def _small(disk: Document) -> str:
    """The option that the run was given."""
    return " --small" if disk["samples"][0]["rows"] == SHAPES[0].rows[0] else ""


def _machine(results: Mapping[str, Document]) -> list[str]:
    peers = results["peers"]
    where, versions = peers["machine"], dict(peers["versions"])
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['memory_bytes'] / 2**30:.0f} GiB, {where['system']}; everything on this one machine, over loopback.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    others: dict[str, list[str]] = {}
    for name, one in sorted(results.items()):
        if one["machine"] != where:
            others.setdefault(f"{one['machine']['cpu']}, {one['machine']['cores']} cores", []).append(name)
    lines += [
        line
        for machine, names in others.items()
        for line in ("", f"On another machine ({machine}): {', '.join(names)}.")
    ]
    return lines


def _who(peers: Document) -> list[str]:
    lines = []
    for one in peers["consumers"].values():
        texts = ", ".join(f"`benchmarks/beside/peers/{text}`" for text in one["texts"])
        missing = one.get("missing")
        lines.append([one["title"], one.get("version", ""), one["package"], texts, f"**{missing}**" if missing else one["acknowledges"]])  # fmt: skip
    lines += [[name, "", "", "", f"**not measured**: {reason}"] for name, reason in peers["absent"].items()]
    return table(["consumer", "version", "from", "configuration", "acknowledges a message"], lines)


def _rows(peers: Document, trial: str) -> list[tuple[str, Document]]:
    return [(one["title"], one[trial]) for one in peers["consumers"].values() if trial in one]


def _backlog(peers: Document) -> list[str]:
    """Only what was stored of as large a backlog is held against ours."""
    ours = peers["consumers"]["fieldgate"]["backlog"]
    lines = []
    for title, seen in _rows(peers, "backlog"):
        if "error" in seen:
            lines.append([title, f"**not ended**: {seen['error']}", "", "", "", "", ""])
            continue
        is_whole = seen["stored"] == seen["messages"]
        stored = (
            f"{seen['messages']:,.0f}"
            if is_whole
            else f"**{seen['stored']:,.0f} of {seen['messages']:,.0f}**"
        )
        rates = f" ({', '.join(f'{rate:,}' for rate in seen['rates'])})" if "rates" in seen else ""
        lines.append([
            title, stored, f"{seen['rate']:,.0f}{rates}", f"{ours['rate'] / seen['rate']:.2f}" if seen["stored"] == ours["stored"] else "-", f"{seen['cpu_microseconds']:.1f}",
            f"{seen['server_cpu_microseconds']:.1f}", f"{seen['memory_bytes'] / 1e6:.0f} MB",
        ])  # fmt: skip
    columns = ["consumer", "messages stored", "messages/s (rounds)", "our rate to it", "CPU us a message", "PostgreSQL's CPU us", "peak memory"]  # fmt: skip
    return table(columns, lines)


def _live(peers: Document) -> list[str]:
    lines = []
    for title, seen in _rows(peers, "live"):
        if "error" in seen:
            lines.append([title, f"**not ended**: {seen['error']}", "", "", "", ""])
            continue
        lines.append([
            title, f"{seen['messages']:,}", f"{seen['p50_milliseconds']:,.1f}", f"{seen['p99_milliseconds']:,.1f}", f"{seen['cpu_microseconds']:.0f}",
            f"{seen['server_cpu_microseconds']:.0f}",
        ])  # fmt: skip
    rate = f"{peers['settings']['live_rate']:,.0f} messages a second, evenly."
    columns = ["consumer", "messages", "published to committed, p50 ms", "p99 ms", "CPU us a message", "PostgreSQL's CPU us"]  # fmt: skip
    return [rate, "", *table(columns, lines)]


def _faults(peers: Document) -> list[str]:
    lines = []
    for one in peers["consumers"].values():
        line = [one["title"]]
        for trial in ("kills", "restart"):
            seen = one.get(trial)
            if seen is None:
                line += ["-", "-", "-"]
            elif "error" in seen:
                line += [f"**not ended**: {seen['error']}", "", ""]
            else:
                line += [f"{seen['acknowledged']:,}", *(_zero(seen[name]) for name in ("lost", "duplicated"))]
        if len(line) > 1:
            lines.append(line)
    said = f"{peers['settings']['fault_rate']:,.0f} messages a second. Acknowledged: by the broker to the publisher. A dash: not run."
    times = peers["consumers"]["fieldgate"]["kills"]["kills"]
    columns = ["consumer", f"{times} SIGKILLs: acknowledged", "lost", "twice", "a restart: acknowledged", "lost", "twice"]  # fmt: skip
    return [said, "", *table(columns, lines)]


def _kills(one: Document) -> list[str]:
    given = one["settings"]
    said = (
        f"{given['rate']:,.0f} messages a second at QoS 1, seed {given['seed']}; each sample is delivered to a table that"
        " journals what is written. CPU a message: at 1,000 messages a second before the first fault."
    )
    lines = [
        [
            number, f"{seen['acknowledged']:,}", str(seen["kills"]), str(seen["broker_restarts"]), str(seen["database_restarts"]),
            *(_zero(seen[name]) for name in ("lost", "duplicated", "wrong", "inversions")),
            f"{seen['calm']['replicas_us']:,.0f}", f"{seen['calm']['database_us']:,.0f}",
        ]
        for number, seen in sorted(one["trials"].items())
    ]  # fmt: skip
    columns = ["replicas", "acknowledged", "SIGKILLs", "restarts of the broker", "kills of the database", "lost", "twice", "wrong", "out of order", "CPU us, replicas", "CPU us, PostgreSQL"]  # fmt: skip
    return [said, "", *table(columns, lines)]


def _zero(count: int) -> str:
    return f"**{count:,}**" if count else "0"


def _ingest(one: Document) -> list[str]:
    acks = one["ack_seconds"]
    lines = [
        ["a backlog becomes committed rows", f"{one['rates']['fieldgate']:,} messages/s"],
        ["CPU of the daemon", f"{one['cpu_microseconds_per_message']} us a message"],
        [f"PUBLISH to PUBACK at {acks['rate']:,}/s, p50", f"{acks['p50'] * 1000:.2f} ms"],
        [f"PUBLISH to PUBACK at {acks['rate']:,}/s, p99", f"{acks['p99'] * 1000:.2f} ms"],
        ["peak memory", f"{one['peak_memory_bytes'] / 1e6:.0f} MB"],
        ["CPU of an idle daemon", f"{one['idle_cpu_share']:.2%} of a core"],
    ]
    if "mosquitto_sub" in one["ratios"]:
        lines.insert(1, ["`mosquitto_sub`, which stores nothing, does", f"{one['rates']['mosquitto_sub']:,} messages/s"])  # fmt: skip
    return table(["what", "figure"], lines)


def _sync(one: Document) -> list[str]:
    lines = [
        [f"{run['samples']:,}", f"{run['readings_per_second']:,}", f"{run['cpu_microseconds_per_reading']}", f"{run['database_cpu_microseconds_per_reading']}", f"{run['peak_memory_bytes'] / 1e6:.0f} MB"]
        for run in one["sizes"]
    ]  # fmt: skip
    return table(["stored samples", "readings/s", "CPU us a reading", "PostgreSQL's CPU us", "peak memory"], lines)  # fmt: skip


def _idle(one: Document) -> list[str]:
    lines = [
        [f"{row['connections']:,}", f"{row['daemon %']} %", f"{row['database %']} %", f"{row['queries/s']}", f"{row['daemon MB']} MB", f"{row['ready s']} s", f"{row['probes/s']}"]
        for row in one["rows"]
    ]  # fmt: skip
    columns = ["connections", "daemon, of a core", "PostgreSQL", "transactions/s", "memory", "ready after", "probes/s"]  # fmt: skip
    return table(columns, lines)


def _devices(results: Mapping[str, Document]) -> list[str]:
    lines = []
    for one in (results["peers"], results["devices"]):
        seen = one["consumers"]["fieldgate"]["backlog"]
        lines.append([f"{one['settings']['devices']:,}", f"{seen['messages']:,.0f}", f"{seen['rate']:,.0f}", f"{seen['cpu_microseconds']:.1f}", f"{seen['memory_bytes'] / 1e6:.0f} MB"])  # fmt: skip
    return table(["devices", "messages", "messages/s", "CPU us a message", "peak memory"], lines)


def _disk(one: Document) -> list[str]:
    lines = [
        [line["shape"], f"{line['payload']:,}", f"{line['disk']:,.0f}", f"{line['wal']:,.0f}", f"{line['file_system']:,.0f}"]
        for line in one["samples"]
        if line["setting"] == "as it is installed"
    ]  # fmt: skip
    columns = ["payload", "bytes as JSON", "on disk", "log (WAL)", "on a file system that compresses"]
    return table(columns, lines)


def rewritten(page: str, results: Mapping[str, Document]) -> str:
    """The page with the figures of these results."""
    return between(page, COMMAND, tables(results))


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(), committed()))
