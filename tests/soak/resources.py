"""What the replicas use over a run: resident memory and open descriptors, and how the memory grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.daemon import processes
from tests.soak.stage import Stage

WARM_UP_SECONDS = 120.0
EVERY_SECONDS = 2.0
Sample = tuple[float, float, int]
"""Seconds of a monotonic clock, megabytes resident, descriptors."""


@dataclass
class Resources:
    """By replica, a list of samples for each of its lives: what ends and starts again begins anew."""

    stage: Stage
    lives: dict[str, dict[int, list[Sample]]] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            for replica in self.stage.replicas:
                if replica.is_wanted and replica.daemon.exit_code is None:
                    pid = replica.daemon.pid
                    if (used := _used(pid)) is not None:
                        self.lives.setdefault(replica.daemon.name, {}).setdefault(pid, []).append(
                            (time.monotonic(), *used)
                        )
            await asyncio.sleep(EVERY_SECONDS)

    def report(self) -> dict[str, dict[str, float | None]]:
        """Of each replica; after the warm-up of each life."""
        return {name: summed(list(lives.values())) for name, lives in sorted(self.lives.items())}


def summed(lives: Sequence[Sequence[Sample]]) -> dict[str, float | None]:
    """Memory and descriptors at the first and the last sample, and the slope in megabytes an hour."""
    first, last = lives[0][0], lives[-1][-1]
    warm = [[sample for sample in life if sample[0] - life[0][0] >= WARM_UP_SECONDS] for life in lives]
    settled = [life for life in warm if len(life) > 2]
    return {
        "lives": len(lives),
        "warm_seconds": round(sum(life[-1][0] - life[0][0] for life in settled), 1),
        "megabytes_first": round(settled[0][0][1] if settled else first[1], 1),
        "megabytes_last": round(last[1], 1),
        "megabytes_an_hour": slope(settled),
        "descriptors_first": settled[0][0][2] if settled else first[2],
        "descriptors_last": last[2],
        "descriptors_most": max(sample[2] for life in lives for sample in life),
    }


def slope(lives: Sequence[Sequence[Sample]]) -> float | None:
    """Megabytes an hour by least squares, the same slope for all lives and a beginning for each; None where
    there is too little to say.
    """
    above = below = 0.0
    for life in lives:
        at = sum(sample[0] for sample in life) / len(life)
        used = sum(sample[1] for sample in life) / len(life)
        above += sum((sample[0] - at) * (sample[1] - used) for sample in life)
        below += sum((sample[0] - at) ** 2 for sample in life)
    return round(above / below * 3600, 2) if below else None


def _used(pid: int) -> tuple[float, int] | None:
    """Of the daemon and the process beside it; None where one has just ended."""
    pages = descriptors = 0
    try:
        for each in processes(pid):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
            descriptors += len(list(Path(f"/proc/{each}/fd").iterdir()))
    except OSError:
        return None
    return pages * 4096 / 1e6, descriptors
