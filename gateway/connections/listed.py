"""What a system lists of its own, within bounds: it may give a next page for ever, or very many in each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.model.errors import Unavailable
from gateway.model.exchange import RemoteMeter

MAX_METERS = 100_000
LIST_SECONDS = 120.0


async def listed(meters: AsyncIterator[RemoteMeter]) -> list[RemoteMeter]:
    """All of them. Raises Unavailable for more than MAX_METERS, and for a list that takes too long."""
    found: list[RemoteMeter] = []
    try:
        async with asyncio.timeout(LIST_SECONDS):
            async for meter in meters:
                if len(found) >= MAX_METERS:
                    raise Unavailable(f"the system lists more than {MAX_METERS:,} meters")
                found.append(meter)
    except TimeoutError:
        raise Unavailable(f"the system did not list its meters within {LIST_SECONDS:g} s") from None
    return found
