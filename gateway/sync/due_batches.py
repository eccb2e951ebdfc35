"""Due batches: computes the windows that are due of a stream, and puts them into batches that the system
takes.

One look computes closed windows, up to a limit, from where the last look ended. It plans what becomes of
each: it is sent, settled without a push, refused, or withheld. While the batches of one look are pushed the
next look is computed ahead. When a look finds nothing the run begins again with the earliest window, for
windows that it has passed may have come due meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime

from gateway import clock
from gateway.model.delivery import DueWindow, batch_sizes, chunks, oldest_accepted, plan, reordered
from gateway.model.reading import Reading
from gateway.store import deliveries, windows, withheld
from gateway.store.deliveries import BatchResults
from gateway.store.pool import Database
from gateway.store.streams import Claim
from gateway.sync.link import ServedConnection
from gateway.sync.turns import Turns

Pair = tuple[DueWindow, Reading]
"""A window, and the reading that is sent for it."""

NARROW_AFTER = 3
"""Failed runs in a row after which batches shrink and a single reading may be found at fault."""


class DueBatches:
    """The due batches of one run. It pushes nothing and records nothing: what is settled or refused without a
    push is handed over (`take_unsent`) for the next transaction.
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
        self._batches = deque[Sequence[Pair]]()
        self._put_off: set[str] = set()
        self._unsent = BatchResults()
        self._withheld: list[tuple[DueWindow, float]] = []
        self._found_all = False

    def __bool__(self) -> bool:
        """Whether there is a batch, perhaps only with meters that are put off."""
        return bool(self._batches)

    @property
    def reached(self) -> tuple[datetime, str]:
        """The last window that was put into batches (start, meter); `BEGINNING` before the first."""
        return self._after

    @property
    def has_deadband(self) -> bool:
        """Whether it may depend on what the system took of one window whether the next one is sent."""
        return any(rule.deadband for rule in self._link.rules)

    @property
    def is_exhausted(self) -> bool:
        """Whether the last look found all that was due, and no batch of it is left."""
        return self._found_all and not (self._batches or self._ahead or self._put_off)

    @property
    def has_unsent(self) -> bool:
        """Whether windows that need no push wait to be recorded."""
        return bool(self._unsent)

    async def look(self) -> bool:
        """Computes what is due and puts it into batches; False where nothing is due."""
        if self.has_deadband:
            await withheld.mark_again(self._database, self._claim)
        due = await self._next_due(self._limit)
        if due:
            self._make_batches(due)
        return bool(due)

    def look_again(self) -> None:
        """Notes that more may be due by now than the last look found."""
        self._found_all = False

    def pop(self) -> Sequence[Pair] | None:
        """The next batch."""
        return self.pop_at_hand(unless=lambda _: False)

    def pop_at_hand(self, *, unless: Callable[[Sequence[Pair]], bool]) -> Sequence[Pair] | None:
        """The next batch; None where there is none, or where `unless` is true of it: then it stays the next
        one.
        """
        while self._batches:
            pairs = [pair for pair in self._batches[0] if pair[0].meter not in self._put_off]
            if pairs and unless(pairs):
                return None
            self._batches.popleft()
            if pairs:
                return pairs
        return None

    def take_ahead(self) -> None:
        """Puts what was computed ahead into batches, if that is done and no other batch is left."""
        ahead = self._ahead
        if self._batches or ahead is None or not ahead.done() or ahead.exception() is not None:
            return
        due = ahead.result()
        if due:
            self._ahead = None
            self._make_batches(due)

    def halve(self, pairs: Sequence[Pair]) -> None:
        """Puts back the two halves of a batch that was refused: they are pushed next."""
        middle = len(pairs) // 2
        self._batches.extendleft((pairs[middle:], pairs[:middle]))

    def put_off(self, meters: Collection[str]) -> None:
        """Puts these meters off until the run begins again with the earliest window."""
        self._put_off.update(meters)

    def take_unsent(self) -> BatchResults:
        """Takes out what was settled or refused without a push, for the next transaction to record."""
        unsent, self._unsent = self._unsent, BatchResults()
        return unsent

    def take_withheld(self) -> Sequence[tuple[DueWindow, float]]:
        """Takes out the windows within the deadband, each with the value that it was compared with."""
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

    async def _next_due(self, limit: int) -> list[DueWindow]:
        """The next windows of this run. At the end it begins again with the earliest window, for windows that
        it has passed may be due by then.
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
        self._found_all = self._after == windows.BEGINNING and len(due) < limit
        return due

    async def _compute(self, limit: int) -> list[DueWindow]:
        async with self._turns.turn(self._claim.customer), self._database.connection() as connection:
            due = await windows.compute_due(connection, self._claim, limit, self._after)
        days = {window.window_start.date() for window in due} - self._days
        await deliveries.ensure_days(self._database, days)
        self._days |= days
        return due

    def _make_batches(self, due: list[DueWindow]) -> None:
        """Plans these windows, puts those that are sent into batches, and begins to compute the next look
        ahead.
        """
        self._after = max((window.window_start, window.meter) for window in due)
        capabilities = self._link.connector.capabilities
        attempts = self._claim.attempts
        planned = plan(
            self._claim.connection,
            due,
            capabilities=capabilities,
            oldest=oldest_accepted(capabilities, clock.now()),
            clip_silently=self._claim.phase == "initial",
        )
        self._unsent.settled += planned.settled
        self._unsent.dead += planned.refused
        self._withheld += planned.withheld
        sendable = planned.send
        if attempts >= NARROW_AFTER or self._claim.trial:
            ascending = capabilities.order == "per_meter_ascending"
            sendable = reordered(sendable, failures=attempts, ascending=ascending)
        if self._claim.trial:  # one reading tells whether the system lets us push again
            sendable = sendable[:1]
        self._batches.extend(chunks(sendable, self._sizes))
        # With a deadband a window may depend on a delivery that is still to come. After a failure, and in a
        # trial, a run may end with any batch.
        may_look_ahead = attempts == 0 and not self._claim.trial and not self.has_deadband
        if may_look_ahead and len(due) == self._limit:
            self._ahead = asyncio.create_task(self._compute(self._limit))
