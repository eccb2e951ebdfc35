"""The parts of pages that many people look at: each is computed once for all who ask for the same at about
the same time, and only when somebody asks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from datetime import datetime

from gateway import clock

SHARED_SECONDS = 1.0
"""For so long a part is given to others. Pages that are open ask at the same moment: when they are told."""

MAX_SHARED = 16
"""Of one customer: who looks for many things at once shares fewer of them, and pays what each of them costs.
Nobody else does.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of a page that is kept fresh, as of `at`. It holds nothing of whoever is logged in but whose
    connections they may see.
    """

    at: datetime
    html: str

    @property
    def tag(self) -> str:
        """Another one when what is shown is another."""
        return hashlib.sha256(self.html.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    began_monotonic: float
    changes: int
    part: asyncio.Task[Part]


class SharedParts:
    """Of one process. `changes` counts what those who look were told of: what is older than the last of them
    is given to nobody who asks after it.
    """

    def __init__(self, changes: Callable[[], int]) -> None:
        self._changes = changes
        self._held: dict[tuple[str | None, Hashable], _Shared] = {}

    async def get(
        self,
        customer: str | None,
        key: Hashable,
        compute: Callable[[], Coroutine[None, None, Part]],
        *,
        anew: bool,
    ) -> Part:
        """The part of this key, for whoever is bound to this customer or (None) to none. `anew`: computed
        after this was asked, for whoever comes from a form that changed something. Raises what `compute`
        raises.
        """
        held = self._held.get((customer, key))
        if anew or held is None or not self._is_fresh(held):
            held = self._begin((customer, key), compute)
        # Others wait for the same task: one of them that goes away does not end it.
        return await asyncio.shield(held.part)

    def _begin(
        self, key: tuple[str | None, Hashable], compute: Callable[[], Coroutine[None, None, Part]]
    ) -> _Shared:
        self._held = {known: held for known, held in self._held.items() if self._is_fresh(held)}
        theirs = [known for known in self._held if known[0] == key[0]]
        if len(theirs) >= MAX_SHARED:
            for known in theirs:
                del self._held[known]
        # `changes` is read before anything else is: what is told while it is computed may not be in it.
        held = _Shared(
            began_monotonic=clock.monotonic(),
            changes=self._changes(),
            part=asyncio.create_task(compute(), name="shared part"),
        )
        held.part.add_done_callback(_looked_at)
        self._held[key] = held
        return held

    def _is_fresh(self, held: _Shared) -> bool:
        if held.part.done() and (held.part.cancelled() or held.part.exception() is not None):
            return False
        return held.changes == self._changes() and clock.monotonic() - held.began_monotonic < SHARED_SECONDS


def _looked_at(part: asyncio.Task[Part]) -> None:
    """What it raises is whoever waits's to handle; where nobody waits any more, nobody's."""
    if not part.cancelled():
        part.exception()
