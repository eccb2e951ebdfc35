"""Which of the two processes goes first where both want the same core: the one that
acknowledges telemetry.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

NICENESS = 19
"""What is left of a core that the daemon fills is some hundredths: enough for health to be answered during a
drain. SCHED_IDLE would leave nothing.
"""

SLICE_NANOSECONDS = 100_000
"""The shortest there is. Linux from 6.6 on lets who runs finish its slice, however nice it is; who asks for a
shorter one may interrupt it.
"""

SWITCH_SECONDS = 0.0005
"""After which a thread that computes (a large answer is read, mappings are made) gives the interpreter to the
loop. With Python's own five milliseconds every acknowledgement, or answer, beside it waits so long, several
times over.
"""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""System calls of Linux; the C library has no name for it before 2.41."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def step_back() -> None:
    """For the process that answers HTTP; it would inherit the daemon's slices."""
    os.nice(NICENESS)
    _set_slice(0)
    sys.setswitchinterval(SWITCH_SECONDS)


def ask_for_short_slices() -> None:
    """For the thread that acknowledges, of a core and of the interpreter."""
    _set_slice(SLICE_NANOSECONDS)
    sys.setswitchinterval(SWITCH_SECONDS)


def _set_slice(nanoseconds: int) -> None:
    """0: the system's own. Where it does not know of slices, or refuses, nothing changes."""
    number = _SCHED_SETATTR.get(platform.machine())
    if platform.system() == "Linux" and number is not None:
        attributes = _ATTRIBUTES.pack(
            _ATTRIBUTES.size, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, nanoseconds, 0, 0
        )
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
