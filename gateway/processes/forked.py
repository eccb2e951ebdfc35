"""A process that is forked from the daemon while nothing runs in it yet: what both import is imported once,
and is in memory once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gateway.processes.parent import apart

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal and a service manager send them to every process; they are the daemon's."""


class Forked:
    """As the daemon sees it: what asyncio's own process offers, and the daemon's end of the line."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self._pid, self.line = pid, line
        self.returncode: int | None = None
        self._reaped: asyncio.Future[tuple[int, int]] | None = None

    def kill(self) -> None:
        """By SIGKILL, while it is not reaped: its number is nobody else's until then."""
        if self.returncode is None:
            os.kill(self._pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit code; minus the number of the signal that ended it."""
        if self._reaped is None:  # a thread of its own: in one of the loop's it would keep others waiting
            loop = asyncio.get_running_loop()
            self._reaped = loop.run_in_executor(ThreadPoolExecutor(1), os.waitpid, self._pid, 0)
        _, status = await asyncio.shield(self._reaped)
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def fork(program: Callable[[socket.socket], None]) -> Forked:
    """Runs the program in a process of its own, with its end of a line, until it returns; that process ends
    as if it were started alone. To be called before there is a loop or a thread: the copy would have halves
    of them.
    """
    end_with_us = apart()
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none ends the copy before it ignores them
    gc.freeze()  # or the collector of either would write to, and so copy, what both have
    pid = os.fork()
    if pid == 0:
        end_with_us()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid:
        theirs.close()
        return Forked(pid, ours)
    ours.close()
    program(theirs)
    sys.exit()
