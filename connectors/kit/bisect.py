"""Finds the readings that make a system refuse a whole batch, with a bounded number of calls, and remembers
bad meters for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.model.errors import BatchRefused, ConnectorError, OutcomeUnknown, RateLimited, Unavailable
from gateway.model.outcome import Outcome, Rejected, Retry, Unknown
from gateway.model.reading import Reading

Send = Callable[[Sequence[Reading]], Awaitable[Sequence[Outcome]]]
_AGAIN_SECONDS = 1.0


class BatchRefusal(BatchRefused):
    """A whole batch refused. `blames_meter`: the refusal is about a meter, so every reading of it would be
    refused alike.
    """

    def __init__(
        self, message: str, *, code: str, blames_meter: bool = False, request_id: str | None = None
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.code = code
        self.blames_meter = blames_meter


class BadMeters:
    """Meters that the system refused, for `ttl_seconds`: asking for each again would cost a bisection per
    batch.
    """

    def __init__(self, *, ttl_seconds: float = 600.0, capacity: int = 10_000) -> None:
        self._ttl_seconds = ttl_seconds
        self._capacity = capacity
        self._meters: dict[str, tuple[float, Rejected]] = {}

    def get(self, meter: str, *, monotonic: float) -> Rejected | None:
        """The refusal on record, or None when there is none or it has grown old."""
        known = self._meters.get(meter)
        if known is None:
            return None
        if known[0] <= monotonic:
            del self._meters[meter]
            return None
        return known[1]

    def add(self, meter: str, refusal: Rejected, *, monotonic: float) -> None:
        """Remembers; the oldest goes when there are too many."""
        self._meters.pop(meter, None)
        if len(self._meters) >= self._capacity:
            del self._meters[next(iter(self._meters))]
        self._meters[meter] = (monotonic + self._ttl_seconds, refusal)


@dataclass(slots=True)
class _Search:
    send: Send
    calls_left: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    blamed: dict[str, Rejected] = field(default_factory=dict)
    stopped_by: ConnectorError | None = None


async def push_bisecting(
    readings: Sequence[Reading], send: Send, *, max_calls: int = 32
) -> tuple[list[Outcome], dict[str, Rejected]]:
    """Outcomes in the order of `readings`, and the meters that were found to be bad.

    `send` takes a slice and raises Refusal when it is refused whole; a slice of one that is refused is
    Rejected with the system's own words. Halves go in order, so each meter's readings keep theirs. After
    `max_calls` the rest is Retry: every push settles at least one reading as long as max_calls exceeds log2
    of the batch.

    Another error before anything is known leaves as it is. Later it must not hide what the system has already
    accepted: the slice it struck is Unknown (if it may have been taken) and what was not sent is Retry.
    """
    search = _Search(send=send, calls_left=max_calls)
    await _push(search, readings)
    if search.stopped_by is not None and not search.outcomes:
        raise search.stopped_by
    rest = _rest(search.stopped_by)
    return [search.outcomes.get(reading.key, rest) for reading in readings], search.blamed


async def push_singly(readings: Sequence[Reading], send: Send) -> list[Outcome]:
    """Outcomes in the order of `readings`, each sent for itself by `send`. What stops one call stops the
    rest, in the same way as above.
    """
    search = _Search(send=send, calls_left=len(readings))
    for reading in readings:
        await _push(search, [reading])
    if search.stopped_by is not None and not search.outcomes:
        raise search.stopped_by
    rest = _rest(search.stopped_by)
    return [search.outcomes.get(reading.key, rest) for reading in readings]


async def _push(search: _Search, readings: Sequence[Reading]) -> None:
    pending = []
    for reading in readings:
        if (blamed := search.blamed.get(reading.meter)) is not None:
            search.outcomes[reading.key] = blamed
        else:
            pending.append(reading)
    if not pending or search.stopped_by is not None or search.calls_left <= 0:
        return
    search.calls_left -= 1
    try:
        for reading, outcome in zip(pending, await search.send(pending), strict=True):
            search.outcomes[reading.key] = outcome
    except BatchRefusal as refusal:
        await _split(search, pending, refusal)
    except OutcomeUnknown as error:
        search.stopped_by = error
        if search.outcomes:
            search.outcomes.update((reading.key, Unknown(message=str(error))) for reading in pending)
    except ConnectorError as error:
        search.stopped_by = error


async def _split(search: _Search, pending: Sequence[Reading], refusal: BatchRefusal) -> None:
    if len(pending) > 1:
        middle = len(pending) // 2
        await _push(search, pending[:middle])
        await _push(search, pending[middle:])
        return
    rejected = Rejected(code=refusal.code, message=str(refusal))
    search.outcomes[pending[0].key] = rejected
    if refusal.blames_meter:
        search.blamed[pending[0].meter] = rejected


def _rest(error: ConnectorError | None) -> Retry:
    match error:
        case None:
            return Retry(
                after_seconds=_AGAIN_SECONDS,
                message="not sent: the search for the reading that the system refuses goes on",
            )
        case RateLimited(retry_after=seconds):
            return Retry(after_seconds=seconds, message=f"not sent: {error}")
        case Unavailable(retry_after=seconds):
            return Retry(after_seconds=seconds or _AGAIN_SECONDS, message=f"not sent: {error}")
        case _:
            return Retry(after_seconds=_AGAIN_SECONDS, message=f"not sent: {error}")
