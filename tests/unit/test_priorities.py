"""Who goes first on a shared core, as the kernel tells it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.processes.priorities import NICENESS, SLICE_NANOSECONDS

MOST_NICE = 19

CHILD = """
from pathlib import Path
from gateway.processes import priorities
priorities.ask_for_short_slices()
print(Path("/proc/self/sched").read_text())
priorities.step_back()
print(Path("/proc/self/sched").read_text())
"""


@pytest.mark.skipif(
    not Path("/proc/self/sched").exists(), reason="this kernel does not tell how it schedules"
)
def test_the_daemon_interrupts_sooner_than_http_which_is_nice() -> None:
    said = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True).stdout
    daemon, http = (int(found) for found in re.findall(r"^prio\s*:\s*(\d+)", said, re.MULTILINE))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert daemon == 120 + own
    assert http == 120 + min(own + NICENESS, MOST_NICE)  # under `nice` there is less to step back by
    if tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2]) < (6, 12):
        return  # slices cannot be asked for
    slices = [int(found) for found in re.findall(r"^se\.slice\s*:\s*(\d+)", said, re.MULTILINE)]
    assert slices[0] == SLICE_NANOSECONDS < slices[1]


LATENESS = """
import asyncio, sys, threading, time
from gateway.processes import priorities

async def lateness() -> float:
    late = []
    for _ in range(200):
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append(time.perf_counter() - began - 0.001)
    return sorted(late)[100]

is_over = False
def compute() -> None:
    while not is_over:
        sum(range(200))

threading.Thread(target=compute).start()
before = asyncio.run(lateness())
priorities.ask_for_short_slices()
after = asyncio.run(lateness())
is_over = True
print(before, after)
"""


def test_a_thread_that_computes_holds_up_no_acknowledgement_for_long() -> None:
    said = subprocess.run([sys.executable, "-c", LATENESS], check=True, capture_output=True, text=True).stdout
    before, after = (float(word) for word in said.split())
    assert after < before / 2, said
