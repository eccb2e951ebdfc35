"""The oracle campaign: `python -m tests.soak.campaign --seeds 1-10 --minutes 6`. One seed is one run of real
servers and real daemons under faults; a seed whose report is there is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.soak.faults import Faults
from tests.soak.load import Fleet
from tests.soak.report import (
    Report,
    compare,
    compare_pauses,
    compare_workplace,
    heal,
    ready_again,
    settle,
    until_quiet,
)
from tests.soak.resources import Resources
from tests.soak.shape import FAULTS, Shape, shape
from tests.soak.stage import staged
from tests.soak.workplace import at_work

DRAIN_SECONDS = 150.0
KEPT_LOGS = ("*.log", "*.yaml")


async def run(planned: Shape, directory: Path, *, drain_seconds: float = DRAIN_SECONDS) -> Report:
    """One seed from the start of its servers to its verdict."""
    report = Report(seed=planned.seed, replicas=planned.replicas, seconds=planned.seconds)
    async with (
        staged(planned, directory) as stage,
        Fleet(planned, stage.broker.port) as fleet,
        at_work(stage, fleet) as workplace,
    ):
        guard, ending, resources = asyncio.create_task(stage.guard()), asyncio.Event(), Resources(stage)
        publishing, watching = asyncio.create_task(fleet.run(ending)), asyncio.create_task(resources.watch())
        faults = Faults(stage, fleet, workplace)
        try:
            began = time.monotonic()
            await faults.run()
            await asyncio.sleep(max(0.0, planned.seconds - (time.monotonic() - began)))
            ending.set()
            await publishing
            await workplace.calm()
            await until_quiet(stage)
            await ready_again(stage, report)
            await heal(stage, faults)
            await settle(stage, fleet, report, seconds=drain_seconds)
            is_heard = not faults.done["broker_kill"]
            await workplace.settle(seconds=drain_seconds / 2, is_heard=is_heard)
            await compare(stage, fleet, report)
            await compare_workplace(workplace, report, is_heard=is_heard)
            compare_pauses(faults, report)
        finally:
            tasks = (guard, publishing, watching)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        report.faults_done, report.faults_skipped = dict(faults.done), dict(faults.skipped)
        report.diary = sorted([*faults.diary, *workplace.diary])
        report.resources = resources.report()
    report.verdict = "well" if report.fault_count == 0 else "FAILED"
    return report


async def campaign(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every seed, as many side by side as are asked for; the reports, by seed."""
    directory: Path = arguments.dir
    directory.mkdir(parents=True, exist_ok=True)
    side_by_side = asyncio.Semaphore(arguments.parallel)

    async def one(seed: int) -> dict[str, Any]:
        path = directory / f"seed-{seed}.json"
        if path.exists() and not arguments.again:
            found: dict[str, Any] = json.loads(path.read_text())
            print(f"seed {seed}: {found['verdict']} (there already: {path})", flush=True)
            return found
        async with side_by_side:
            planned = shape(
                seed,
                seconds=arguments.minutes * 60,
                replicas=arguments.replicas,
                rate=arguments.rate,
                only=arguments.only,
            )
            place = directory / f"seed-{seed}"
            shutil.rmtree(place, ignore_errors=True)
            try:
                report = await run(planned, place)
            except (OSError, RuntimeError, TimeoutError, ExceptionGroup) as error:
                print(f"seed {seed}: could not be run: {type(error).__name__}: {error}", flush=True)
                return {"seed": seed, "verdict": "not run", "detail": str(error)}
            path.write_text(json.dumps(report.document(), indent=1, default=str))
            print(report.line(), flush=True)
            for name, lines in report.findings.items():
                print("\n".join([f"  {name}", *(f"    {line[:400]}" for line in lines[:9])]), flush=True)
            if report.stuck:
                print(f"  stuck: {report.stuck['pending']}; why: {path}", flush=True)
            return report.document()

    return list(await asyncio.gather(*(one(seed) for seed in arguments.seeds)))


def summary(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over all seeds."""
    names = ("acknowledged", "samples", "windows", "lost", "duplicated", "wrong", "pending", "deadlocks", "invented", "silent", "dead",
             "telemetry", "ended", "unmatched", "records", "alerts", "troubles", "paused", "repeats", "seconds")  # fmt: skip
    done: dict[str, int] = {}
    for report in reports:
        for kind, count in report.get("faults_done", {}).items():
            done[kind] = done.get(kind, 0) + count
    return {
        "seeds": [report["seed"] for report in reports],
        "well": sum(report["verdict"] == "well" for report in reports),
        "failed": [report["seed"] for report in reports if report["verdict"] != "well"],
        **{name: sum(report.get(name, 0) for report in reports) for name in names},
        "faults": done,
    }


def span(text: str) -> list[int]:
    """`1-10`, `3`, `1,4-6`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.campaign", description=__doc__)
    parser.add_argument("--seeds", type=span, default=[1, 2], help="1-10, 3, 1,4-6")
    parser.add_argument("--minutes", type=float, default=2.0, help="of load and faults for each seed")
    parser.add_argument("--replicas", type=span, default=[1, 2, 3], help="taken in turn by the seeds")
    parser.add_argument("--rate", type=float, default=25.0, help="messages a second")
    parser.add_argument("--parallel", type=int, default=1, help="seeds side by side")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help=f"these faults, or `none`: {', '.join(kind for kind, _ in FAULTS)}",
    )
    parser.add_argument("--dir", type=Path, default=Path("var/soak"), help="where reports and logs go")
    parser.add_argument("--again", action="store_true", help="run seeds whose report is there, too")
    parser.add_argument("--json", type=Path, help="all reports and their sum in one file")
    return parser.parse_args(arguments)


async def _main(arguments: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    reports = await campaign(arguments)
    total = summary(reports)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"summary": total, "reports": reports}, indent=1, default=str))
    print(json.dumps(total), flush=True)
    return 0 if not total["failed"] else 1


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(asyncio.run(_main(parse())))
    sys.exit(130)
