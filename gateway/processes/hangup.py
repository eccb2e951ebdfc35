"""SIGHUP: read the configuration again. From the first import of a daemon on it ends nothing; one that comes
before anybody can act on it is remembered.
"""

from __future__ import annotations

import atexit
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every import is a time in which the signal would end the process
    import asyncio
    from collections.abc import Callable
    from types import FrameType


class _Hangup:
    """Signals are the process's: there is one of it."""

    def __init__(self) -> None:
        self.asked = False
        self.listener: Callable[[], object] | None = None

    def note(self, _number: int, _frame: FrameType | None) -> None:
        if self.listener is None:
            self.asked = True
        else:
            self.listener()


_HANGUP = _Hangup()


def remember() -> None:
    """From now on, and until the process ends, SIGHUP is noted. The event loop gets no handler for it:
    closing the loop would bring back the default, which ends the process.
    """
    signal.signal(signal.SIGHUP, _HANGUP.note)
    # the interpreter's own end sets a handler back to the default, and leaves what is ignored
    atexit.register(signal.signal, signal.SIGHUP, signal.SIG_IGN)


def listen(asked: asyncio.Event) -> None:
    """Sets the event at each SIGHUP from now on, and at once for one that has been."""
    from asyncio import get_running_loop

    loop = get_running_loop()

    def tell() -> None:
        # between two bytecodes of the main thread, wherever the loop is: it has to be told as from another
        # thread
        if not loop.is_closed():
            loop.call_soon_threadsafe(asked.set)

    _HANGUP.listener = tell
    signal.signal(signal.SIGHUP, _HANGUP.note)
    if _HANGUP.asked:
        _HANGUP.asked = False
        asked.set()
