"""What time it is at a system: asked without a credential, at the address that its connections lead to."""

from __future__ import annotations

from datetime import datetime

import httpx

from connectors.kit.classify import parse_clock
from connectors.kit.egress import transport
from gateway.model.address import AddressRefused, Reach

ANSWER_SECONDS = 5.0


async def date_of(url: str, reach: Reach) -> datetime | None:
    """The `Date` of the answer to a HEAD of this address, whatever its status; None where there is none."""
    limits = httpx.Limits(max_connections=1)
    try:
        async with httpx.AsyncClient(
            transport=transport(reach, limits), trust_env=False, timeout=ANSWER_SECONDS
        ) as client:
            answer = await client.head(url)
    except (httpx.HTTPError, httpx.InvalidURL, AddressRefused, OSError, ValueError):
        return None
    return parse_clock(answer.headers.get("date"))
