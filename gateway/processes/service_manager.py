"""Tells the service manager that started the daemon (systemd, or what speaks as it does) how it is: ready,
stopping, alive.

Where no manager asked (no NOTIFY_SOCKET) nothing is said. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
START_SECONDS = 10.0
"""How often a start that waits for its database asks for more time."""

EXTENSION_SECONDS = 60.0


class Supervision:
    """One for the daemon. The keep-alive is a task of the loop that acknowledges: a loop that hangs sends
    none, and the manager starts the daemon anew.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_seconds = _watchdog_seconds(environ, pid) if self._address else None
        self._ready = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, stopping: asyncio.Event) -> AsyncIterator[Supervision]:
        """Speaks until the context is left; says STOPPING as soon as `stopping` is set."""
        made = cls(os.environ, pid=os.getpid())
        for name in VARIABLES:  # what the daemon starts must not speak for it
            os.environ.pop(name, None)
        if not made._address:
            yield made
            return
        tasks = [
            asyncio.create_task(made._keep_alive(), name="watchdog"),
            asyncio.create_task(made._announce(stopping), name="service manager"),
        ]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def ready(self) -> None:
        """The start is over."""
        self._ready.set()
        self._say("READY=1\nSTATUS=serving")

    async def _announce(self, stopping: asyncio.Event) -> None:
        """More time while the start waits, and the end."""
        stop = asyncio.ensure_future(stopping.wait())
        start = asyncio.ensure_future(self._ready.wait())
        try:
            while not start.done() and not stop.done():
                self._say(
                    f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}\nSTATUS=starting: waiting for"
                    " database and broker"
                )
                await asyncio.wait({start, stop}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            await stop
            self._say("STOPPING=1\nSTATUS=stopping: what is in hand is finished")
        finally:
            start.cancel()
            stop.cancel()

    async def _keep_alive(self) -> None:
        while self._watchdog_seconds is not None:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_seconds / 3)

    def _say(self, text: str) -> None:
        """Never waits and never fails: a manager that is gone is nobody's fault here."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line,
        ):
            line.setblocking(False)
            line.sendto(text.encode(), address)


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Within how long the manager wants to hear of this process; None where it does not."""
    text, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or whose not in ("", str(pid)):
        return None
    return int(text) / 1e6
