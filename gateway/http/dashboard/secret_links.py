"""Pages whose address is a secret: what whoever guesses is held against."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from gateway.http.entrance import Entrance

T = TypeVar("T")


async def opened(
    request: Request, secret: str, look: Callable[[str], Awaitable[T | None]], *, kind: str
) -> T | None:
    """What `look` finds by the secret; None for one that is no good, which counts against the client's
    address. Raises RequestRefused("auth.too_many_attempts").
    """
    entrance: Entrance = request.app.state.mounted.entrance
    address = entrance.address(request.scope)
    entrance.check_attempts(address, secret)
    found = await look(secret)
    if found is None:
        entrance.failed(address, secret, kind=kind)
    else:
        entrance.succeeded(secret)
    return found
