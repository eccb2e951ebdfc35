"""Who goes first on a shared core, as the kernel tells it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from gateway.http.scheduling import NICENESS, SLICE_NANOSECONDS

CHILD = """
from pathlib import Path
from gateway.http import scheduling
scheduling.ask_for_short_slices()
print(Path("/proc/self/sched").read_text())
scheduling.step_back()
print(Path("/proc/self/sched").read_text())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux schedules by these")
def test_the_daemon_interrupts_sooner_than_http_which_is_nice() -> None:
    said = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True).stdout
    daemon, http = (int(found) for found in re.findall(r"^prio\s*:\s*(\d+)", said, re.MULTILINE))
    assert daemon == 120 + os.getpriority(os.PRIO_PROCESS, 0)
    assert http == daemon + NICENESS
    slices = [int(found) for found in re.findall(r"^se\.slice\s*:\s*(\d+)", said, re.MULTILINE)]
    assert not slices or slices[0] == SLICE_NANOSECONDS < slices[1], "a kernel that has slices keeps to them"
