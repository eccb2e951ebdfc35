"""A check: it looks at one thing and says what is wrong with it. Each is made behind a bulkhead, so one that
fails is a finding and ends no other; what several of them need is asked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gateway.bulkhead import contained
from gateway.model.diagnosis import Examined, Finding, Looked, looked, not_made, problem
from gateway.model.errors import FieldgateError, StoreForbidden

T = TypeVar("T")

CHECK_SECONDS = 60.0

Check = Callable[[], Awaitable[Looked]]


async def make(name: str, check: Check) -> Examined:
    """What the check saw; where it fails or takes longer than CHECK_SECONDS, a finding that says so."""
    where, advice = f"the check {name!r}", "see the gateway's log, and report what is no fault of your set-up"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            with contained("doctor", name, passes=(FieldgateError, TimeoutError)) as made:
                return Examined(check=name, looked=await check())
    except StoreForbidden as error:
        what, _, advice = str(error).partition(". ")
        if name != "migrations":  # which says it for all
            return Examined(check=name, looked=not_made(what))
        found: Finding = problem(what, where="database.dsn", advice=advice)
    except SaidAlready:
        return Examined(check=name, looked=not_made("what it needs could not be looked at"))
    except FieldgateError as error:
        found = problem(str(error), where=where, advice=advice)
    except TimeoutError:
        found = problem(f"no answer within {CHECK_SECONDS:g} s", where=where, advice=advice)
    else:
        found = problem(made.fault.text if made.fault else "no answer", where=where, advice=advice)
    return Examined(check=name, looked=looked([found]))


class Once(Generic[T]):
    """What several checks need, asked once. Where it fails only the first of them says so."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking: asyncio.Future[T] | None = None

    async def __call__(self) -> T:
        """Raises what asking raised, and SaidAlready to all but the first."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
            return await self._asking
        try:
            return await asyncio.shield(self._asking)
        except Exception as error:
            raise SaidAlready from error


class SaidAlready(FieldgateError):
    """Another check says what is wrong."""
