"""Due batches: what is due of a stream, computed from telemetry and put into batches that the system takes.

One look computes the closed windows after the place that the run has come to, up to a limit, and plans what
becomes of each: to be sent, settled without a push, refused, or withheld. While the batches of one look are
pushed the next look is computed ahead. At the end the run begins again from the beginning, for windows before
its place may have come due meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime

from gateway import clock
from gateway.model.delivery import DueWindow, batch_sizes, chunks, oldest_accepted, plan, turns
from gateway.model.reading import Reading
from gateway.store import deliveries, windows, withheld
from gateway.store.deliveries import BatchResults
from gateway.store.pool import Database
from gateway.store.streams import Claim
from gateway.sync.link import ServedConnection
from gateway.sync.turns import Turns

Pair = tuple[DueWindow, Reading]
NARROW_AFTER = 3
"""Failed runs in a row after which batches shrink and a single reading may be found at fault."""


class DueBatches:
    """Those of one run. It pushes and records nothing: what needs no push is handed over for the next
    transaction.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        link: ServedConnection,
        *,
        days: set[date],
        turns: Turns,
        is_searching: bool,
    ) -> None:
        """As for `Delivery`."""
        self._database = database
        self._claim = claim
        self._link = link
        self._days = days
        self._turns = turns
        self._sizes = batch_sizes(
            link.connector.capabilities.max_items, claim.attempts, is_searching=is_searching
        )
        self._after = windows.BEGINNING
        self._ahead: asyncio.Task[list[DueWindow]] | None = None
        self._parts = deque[Sequence[Pair]]()
        self._put_off: set[str] = set()
        self._aside = BatchResults()
        self._withheld: list[tuple[DueWindow, float]] = []
        self._is_whole = False

    def __bool__(self) -> bool:
        """Whether there is a batch at hand, perhaps one of meters that are put off."""
        return bool(self._parts)

    @property
    def reached(self) -> tuple[datetime, str]:
        """The last window that was put into batches, or the beginning."""
        return self._after

    @property
    def has_deadband(self) -> bool:
        """Whether what is sent of a window may depend on what the system took of the one before it."""
        return any(rule.deadband for rule in self._link.rules)

    @property
    def is_exhausted(self) -> bool:
        """Whether the last look found all that was due, and nothing of it is left."""
        return self._is_whole and not (self._parts or self._ahead or self._put_off)

    @property
    def has_aside(self) -> bool:
        """Whether anything waits for a transaction that needs no push."""
        return bool(self._aside)

    async def look(self) -> bool:
        """Computes what is due and puts it into batches; False when nothing is."""
        if self.has_deadband:
            await withheld.mark_again(self._database, self._claim)
        due = await self._next(self._limit)
        if due:
            self._sort(due)
        return bool(due)

    def look_again(self) -> None:
        """More may be due by now than the last look found."""
        self._is_whole = False

    def pop(self) -> Sequence[Pair] | None:
        """The next batch."""
        return self.pop_at_hand(unless=lambda _: False)

    def pop_at_hand(self, *, unless: Callable[[Sequence[Pair]], bool]) -> Sequence[Pair] | None:
        """The next batch; none, and it stays, where `unless` says so."""
        while self._parts:
            pairs = [pair for pair in self._parts[0] if pair[0].meter not in self._put_off]
            if pairs and unless(pairs):
                return None
            self._parts.popleft()
            if pairs:
                return pairs
        return None

    def take_ahead(self) -> None:
        """What was computed ahead is put into batches, where that is done and none is at hand."""
        ahead = self._ahead
        if self._parts or ahead is None or not ahead.done() or ahead.exception() is not None:
            return
        if due := ahead.result():
            self._ahead = None
            self._sort(due)

    def halve(self, pairs: Sequence[Pair]) -> None:
        """A batch that was refused is pushed next in two halves."""
        middle = len(pairs) // 2
        self._parts.extendleft((pairs[middle:], pairs[:middle]))

    def put_off(self, meters: Collection[str]) -> None:
        """These wait until the run begins again from the beginning."""
        self._put_off.update(meters)

    def take_aside(self) -> BatchResults:
        """What needs no push, for the next transaction to take along."""
        aside, self._aside = self._aside, BatchResults()
        return aside

    def take_withheld(self) -> Sequence[tuple[DueWindow, float]]:
        """Windows within the deadband, each with the value that it was compared with."""
        pairs, self._withheld = self._withheld, []
        return pairs

    async def close(self) -> None:
        """Ends what is still being computed ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

    @property
    def _limit(self) -> int:
        return min(self._turns.windows, max(500, self._link.connector.capabilities.max_items))

    async def _next(self, limit: int) -> list[DueWindow]:
        """The next windows of this run; begins again where it reaches the end, for older ones may be due by
        then.
        """
        due: list[DueWindow] = []
        if self._ahead is not None:
            due, self._ahead = await self._ahead, None
        if not due:
            self._put_off.clear()
            due = await self._compute(limit)
        if not due and self._after != windows.BEGINNING:
            self._after = windows.BEGINNING
            due = await self._compute(limit)
        self._is_whole = self._after == windows.BEGINNING and len(due) < limit
        return due

    async def _compute(self, limit: int) -> list[DueWindow]:
        async with self._turns.turn(self._claim.customer), self._database.connection() as connection:
            due = await windows.compute_due(connection, self._claim, limit, self._after)
        days = {window.window_start.date() for window in due} - self._days
        await deliveries.ensure_days(self._database, days)
        self._days |= days
        return due

    def _sort(self, due: list[DueWindow]) -> None:
        """Not ahead where a value depends on the delivery before it, nor after a failure."""
        self._after = max((window.window_start, window.meter) for window in due)
        capabilities, attempts = self._link.connector.capabilities, self._claim.attempts
        planned = plan(
            self._claim.connection,
            due,
            capabilities=capabilities,
            oldest=oldest_accepted(capabilities, clock.now()),
            clip_silently=self._claim.phase == "initial",
        )
        self._aside.settled += planned.settled
        self._aside.dead += planned.refused
        self._withheld += planned.withheld
        sendable = planned.send
        if attempts >= NARROW_AFTER or self._claim.trial:
            ascending = capabilities.order == "per_meter_ascending"
            sendable = turns(sendable, failures=attempts, ascending=ascending)
        if self._claim.trial:  # one reading tells whether the system lets us push again
            sendable = sendable[:1]
        self._parts.extend(chunks(sendable, self._sizes))
        if len(due) == self._limit and attempts == 0 and not self._claim.trial and not self.has_deadband:
            self._ahead = asyncio.create_task(self._compute(self._limit))
