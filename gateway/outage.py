"""A dependency that goes away and comes back: said once, and once when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gateway.model.errors import StoreError, StoreUnavailable

T = TypeVar("T")

RETRY_SECONDS = 1.0


class Outage:
    """Whether it is away. `began` is called with what was wrong, `ended` without; each once an outage."""

    def __init__(self, began: Callable[[str], object], ended: Callable[[], object]) -> None:
        self._began, self._ended = began, ended
        self.is_away = False

    def note(self, trouble: str | None) -> None:
        """What was met just now; None: it answered."""
        was_away, self.is_away = self.is_away, trouble is not None
        if trouble is not None and not was_away:
            self._began(trouble)
        elif trouble is None and was_away:
            self._ended()

    @contextmanager
    def of_store(self) -> Iterator[None]:
        """Ends the block where it raises StoreError, and goes on after it: look at `is_away`."""
        try:
            yield
        except StoreError as error:
            self.note(str(error))
        else:
            self.note(None)

    async def outlast(self, step: Callable[[], Awaitable[T]]) -> T:
        """What the step returns: it is tried every second while the database is away. Raises what else it
        raises.
        """
        while True:
            try:
                found = await step()
            except StoreUnavailable as error:
                self.note(str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.note(None)
                return found
