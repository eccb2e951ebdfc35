"""Runs Fieldgate and its peers through the same trials: python -m benchmarks.beside.run [TRIAL ...] --json FILE.

What was measured before and isn't now stays in the file: a run may be made in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.beside import trials
from benchmarks.beside.consumers import ABSENT, PEERS, Consumer, Missing, Ours, Place, Theirs
from benchmarks.beside.trials import Stage
from benchmarks.report import machine, versions, write
from benchmarks.servers import Mosquitto, Postgres

NAMES = ("fieldgate", *PEERS)
LIVE_RATE = 1000.0
FAULT_RATE = 500.0


async def main(given: argparse.Namespace) -> None:
    """The trials that were asked for, of the consumers that were. SIGTERM ends what was started, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    document = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    document |= {
        "machine": machine(),
        "versions": versions(("mosquitto", "-h"), ("postgres", "--version")),
        "absent": ABSENT,
        "settings": {"devices": given.devices, "live_rate": LIVE_RATE, "fault_rate": FAULT_RATE},
    }
    told = document.setdefault("consumers", {})
    directory = Path(tempfile.mkdtemp(prefix="fg-beside-"))
    postgres = Postgres(track_commit_timestamp="on")
    broker = Mosquitto(directory / "broker", persistent=False)
    try:
        await broker.start()
        await postgres.start()
        stage = Stage(broker=broker, postgres=postgres, directory=directory, devices=given.devices)
        stage.dsns = {name: await postgres.create(name) for name in ("fieldgate", "peers")}
        there = await _consumers(stage, given.only, told)
        document["versions"]["postgres"] = await _server_version(stage)
        for trial in given.trials:
            await _trial(trial, stage, there, given, told)
            write(given.json, document)
    finally:
        await broker.stop()
        await postgres.stop()
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


async def _server_version(stage: Stage) -> str:
    import asyncpg

    store = await asyncpg.connect(stage.dsns["peers"])
    try:
        return str(await store.fetchval("show server_version"))
    finally:
        await store.close()


async def _consumers(stage: Stage, names: list[str], told: dict[str, dict[str, object]]) -> list[Consumer]:
    """Those that are there; of the others the reason is told."""
    found: list[Consumer] = []
    for name in names:
        if name == "fieldgate":
            ours = Ours(
                Place(broker_port=stage.broker.port, dsn=stage.dsns["fieldgate"], directory=stage.directory)
            )
            await ours.prepare()
            told.setdefault(name, {}).update(title=ours.title, version=versions()["fieldgate"], texts=list(ours.texts), package="this repository", acknowledges="after its batch is committed")  # fmt: skip
            found.append(ours)
            continue
        peer = PEERS[name]
        one = told.setdefault(name, {})
        one.update(
            title=peer.title, package=peer.package, texts=list(peer.texts), acknowledges=peer.acknowledges
        )
        try:
            found.append(Theirs(name, Place(broker_port=stage.broker.port, dsn=stage.dsns["peers"], directory=stage.directory)))  # fmt: skip
            one["version"] = peer.version().removeprefix("v")
            one.pop("missing", None)
        except Missing as error:
            one["missing"] = str(error)
    return found


async def _trial(
    trial: str,
    stage: Stage,
    consumers: list[Consumer],
    given: argparse.Namespace,
    told: dict[str, dict[str, object]],
) -> None:
    """One trial of all, in rounds whose order turns where a speed is measured."""
    runs: Mapping[str, tuple[int, Callable[[Consumer], Awaitable[Mapping[str, object]]]]] = {
        "backlog": (given.rounds, lambda one: trials.backlog(stage, one, given.messages)),
        "live": (1, lambda one: trials.live(stage, one, LIVE_RATE, given.seconds)),
        "kills": (1, lambda one: trials.kills(stage, one, FAULT_RATE, given.kills, given.seed)),
        "restart": (1, lambda one: trials.restart(stage, one, FAULT_RATE)),
    }
    rounds, run = runs[trial]
    seen: dict[str, list[Mapping[str, object]]] = {}
    for number in range(rounds):
        for one in consumers if number % 2 == 0 else consumers[::-1]:
            began = time.monotonic()
            try:
                figures = await run(one)
            except Exception as error:  # noqa: BLE001 - what a peer does that nobody foresaw is a result
                figures = {"error": f"{type(error).__name__}: {error}"[:300]}
                await one.kill()
            seen.setdefault(one.name, []).append(figures)
            print(f"{trial} {one.name:20} {time.monotonic() - began:5.1f} s  {_short(figures)}", flush=True)
    for name, figures_of in seen.items():
        told[name][trial] = {**_median(figures_of), "date": datetime.now(UTC).date().isoformat()}


def _median(rounds: list[Mapping[str, object]]) -> dict[str, object]:
    """The round in the middle, by rate, with all rates beside it; the error, where there was one."""
    for one in rounds:
        if "error" in one:
            return dict(one)
    if len(rounds) == 1:
        return dict(rounds[0])
    keys = rounds[0].keys()
    figures: dict[str, object] = {
        key: statistics.median(float(str(one[key])) for one in rounds) for key in keys
    }
    figures["memory_bytes"] = max(int(str(one["memory_bytes"])) for one in rounds)
    return {**figures, "rates": [round(float(str(one["rate"]))) for one in rounds]}


def _short(figures: Mapping[str, object]) -> str:
    return " ".join(
        f"{key}={value:.1f}" if isinstance(value, float) else f"{key}={value}"
        for key, value in figures.items()
    )


def arguments() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("backlog", "live", "kills", "restart")
    parser.add_argument("trials", nargs="*", default=list(names), metavar="TRIAL", help=", ".join(names))
    parser.add_argument("--json", type=Path, help="merged into this file")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help="of " + ", ".join(NAMES))  # fmt: skip
    parser.add_argument("--messages", type=int, default=30_000, help="of the backlog")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of the backlog; the median counts")
    parser.add_argument("--seconds", type=float, default=8.0, help="of the live load")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the instants of the kills")
    given = parser.parse_args()
    if unknown := set(given.trials) - set(names):
        parser.error(f"no such trial: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return given


if __name__ == "__main__":
    try:
        asyncio.run(main(arguments()))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(130)
