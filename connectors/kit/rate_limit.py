"""One limiter per credential: a token bucket of our own, and the system's word wherever it says more.

Several connections may share a credential; systems count per user, so their connectors share the limiter.
"""

from __future__ import annotations

import asyncio
import hashlib
from weakref import WeakValueDictionary

from gateway.model.errors import RateLimited

MAX_CLOSED_SECONDS = 3600.0


class RateLimiter:
    """At most `calls` in `seconds`, evenly refilled, starting full. Times are the event loop's."""

    def __init__(self, *, calls: int, seconds: float) -> None:
        self._capacity = float(calls)
        self._tokens = float(calls)
        self._per_second = calls / seconds
        self._refilled_monotonic: float | None = None
        self._closed_until = 0.0

    async def acquire(self, *, max_wait_seconds: float) -> None:
        """Takes one call, after a wait of at most `max_wait_seconds`; a longer one is RateLimited, and takes
        none.
        """
        while (wait := self._wait_seconds()) > 0.0:
            if wait > max_wait_seconds:
                raise RateLimited(
                    f"the system's rate limit is used up for another {wait:.0f} s", retry_after=wait
                )
            max_wait_seconds -= wait
            await asyncio.sleep(wait)
        self._tokens -= 1.0

    def remaining(self, calls: int, *, reset_seconds: float) -> None:
        """The system says that `calls` are left until `reset_seconds` from now. It can only lower our own
        estimate.
        """
        self._refill()
        self._tokens = min(self._tokens, float(calls))
        if calls <= 0:
            self.close_for(reset_seconds)

    def close_for(self, seconds: float) -> None:
        """No call for so long, an hour at most: how long a longer wait is, is the engine's to say. An
        earlier, longer closure stays.
        """
        self._closed_until = max(self._closed_until, _now() + min(seconds, MAX_CLOSED_SECONDS))

    def _wait_seconds(self) -> float:
        self._refill()
        closed = self._closed_until - _now()
        missing = 1.0 - self._tokens
        return max(closed, missing / self._per_second if missing > 1e-9 else 0.0)

    def _refill(self) -> None:
        now = _now()
        if self._refilled_monotonic is not None:
            self._tokens = min(
                self._capacity, self._tokens + (now - self._refilled_monotonic) * self._per_second
            )
        self._refilled_monotonic = now


_LIMITERS: WeakValueDictionary[str, RateLimiter] = WeakValueDictionary()


def limiter_for(system: str, credential: str, *, calls: int, seconds: float) -> RateLimiter:
    """The limiter that all users of this credential share while any of them lives. Only a digest of the
    credential is kept.
    """
    digest = hashlib.blake2b(
        f"{system}\0{credential}".encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()
    limiter = _LIMITERS.get(digest)
    if limiter is None:
        limiter = _LIMITERS[digest] = RateLimiter(calls=calls, seconds=seconds)
    return limiter


def _now() -> float:
    return asyncio.get_running_loop().time()
