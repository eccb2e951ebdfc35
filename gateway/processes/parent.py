"""What becomes of a process whose parent dies, even by SIGKILL. Linux only: elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def ends_with_parent(number: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: the kernel sends the signal to the child when we die."""
    if sys.platform != "linux":
        return lambda: None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before it was asked for
            os._exit(1)

    return set_signal


def outlive_parent() -> None:
    """In the child, undoes `ends_with_parent`: from now on it notices by itself, and ends in order."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)


def apart() -> Callable[[], None]:
    """What the HTTP process begins with: what a terminal sends to its group is the daemon's alone. Until it
    listens to the daemon it would not notice that it was killed, and would keep the port.
    """
    end_with_us = ends_with_parent(signal.SIGKILL)

    def begin() -> None:
        end_with_us()
        os.setpgrp()

    return begin
