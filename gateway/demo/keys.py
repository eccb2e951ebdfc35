"""Single keys from a terminal, without Enter. Nothing happens where the input is no terminal."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def listening(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Calls the action of each key that is pressed, in the running loop. The terminal is left as it was
    found.
    """
    if not sys.stdin.isatty():
        yield
        return
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before, was_blocking = termios.tcgetattr(descriptor), os.get_blocking(descriptor)

    def pressed() -> None:
        for letter in os.read(descriptor, 64).decode(errors="ignore").lower():
            if letter in actions:
                actions[letter]()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        os.set_blocking(descriptor, was_blocking)  # the loop changed it, and the shell shares the descriptor
