"""How an initial sync walks the stored history: how far each step goes, and how much of the way is behind it.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

MIN_STEP = timedelta(minutes=5)
MAX_BLIND_STEP = timedelta(hours=1)
"""After a step that brought nothing: what comes next may be as much as was ever measured in that time."""

DAY = timedelta(days=1)
MAX_SAMPLES = 1e12
"""More than any day has: a step that is not bounded by them any more."""


class DayWalk:
    """A way from `start` to `until` over days that hold about so many samples; a day that is not among them
    has none.

    Samples are everybody's, and `windows` of a step are one connection's: the step grows and shrinks until it
    brings about `enough` of them.
    """

    def __init__(self, start: datetime, until: datetime, days: Mapping[date, int], *, enough: int) -> None:
        self._start, self._until, self._enough = start, until, enough
        self._days = dict(sorted(days.items()))
        self._samples_a_step = float(enough)
        self._samples_of_last = 0.0
        self._is_blind = True
        self._is_cut = False

    @property
    def total(self) -> int:
        """Samples of the whole way."""
        return self.behind(self._until)

    def behind(self, cursor: datetime) -> int:
        """Samples of the way before the cursor."""
        return round(sum(samples * _share(day, self._start, cursor) for day, samples in self._days.items()))

    def step(self, cursor: datetime) -> datetime:
        """The end of the step that begins at the cursor: within a day that has samples, or where the next
        such day begins.
        """
        samples = self._days.get(cursor.date())
        tomorrow = _begin(cursor.date() + DAY)
        if samples is None:
            following = (_begin(day) for day in self._days if day > cursor.date())
            return min(next(following, self._until), self._until)
        longest = MAX_BLIND_STEP if self._is_blind else DAY
        length = max(min(longest, DAY * min(1.0, self._samples_a_step / max(1, samples))), MIN_STEP)
        self._samples_of_last = samples * (length / DAY)
        end = min(cursor + length, tomorrow, self._until)
        self._is_cut = end < cursor + length
        return end

    def took(self, windows: int) -> None:
        """The last step brought so many windows. The next is at most twice as long, and no longer after the
        first that brought any: a day may be empty for hours and then have all its samples at once.
        """
        was_blind, self._is_blind = self._is_blind, windows == 0
        if self._is_cut and windows <= self._enough:
            return  # it ended with its day: nothing is known of a whole one
        most = 1.0 if was_blind and windows else 2.0
        growth = min(most, self._enough / max(1, windows))
        self._samples_a_step = min(MAX_SAMPLES, max(1.0, self._samples_of_last * growth))


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _share(day: date, start: datetime, until: datetime) -> float:
    """Of a day, that lies in [start, until)."""
    begin = max(_begin(day), start)
    end = min(_begin(day) + DAY, until)
    return max(0.0, (end - begin) / DAY)
