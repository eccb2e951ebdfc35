"""Failed attempts by where they came from: when an address has failed too often it waits. Pure: `now` is
given.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Window:
    until: float
    count: int = 0


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Counts the failures of each address in windows of `seconds`. Holds at most `max_addresses` of them: who
    comes with ever new addresses makes it forget the oldest, never grow.
    """

    limit: int
    seconds: float
    max_addresses: int = 10_000
    _windows: OrderedDict[str, _Window] = field(default_factory=OrderedDict)

    def seconds_to_wait(self, address: str, now: float) -> float | None:
        """How long this address has to wait before its next attempt; None when it may try."""
        window = self._windows.get(address)
        if window is None or window.until <= now or window.count < self.limit:
            return None
        return window.until - now

    def failed(self, address: str, now: float) -> int:
        """Notes a failure; how many there were in this window."""
        window = self._windows.get(address)
        if window is None or window.until <= now:
            window = self._windows[address] = _Window(until=now + self.seconds)
            self._windows.move_to_end(address)
            if len(self._windows) > self.max_addresses:
                self._windows.popitem(last=False)
        window.count += 1
        return window.count
