"""Connections to systems, shared by all who call the same origin under the same rules: by origin, TLS context
and reach. What belongs to one credential (its cookies, headers, client certificate, places) is never shared.

A pool lives as long as somebody uses it. It must not know any credential.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from connectors.kit.egress import default_context, transport
from gateway.model.address import Reach

PLACES = 8
"""Calls of one client at once: a pool has no bound, so a slow customer waits in places of its own and takes
none of another's.
"""

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=PLACES, keepalive_expiry=30)

if find_spec("sniffio") is None:
    # httpcore asks for it four times in a call, and each time Python would look through its whole path again
    sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]

_Key = tuple[str, bytes, int | None, ssl.SSLContext | None, Reach]
"""Scheme, host, port. The context by its identity: one with a client certificate is made for one client, and
so is its pool. The reach whole: a connection that was opened under wider rules is never used under narrower
ones.
"""


class _Pool:
    """Of one key, on one event loop."""

    def __init__(self, tls: ssl.SSLContext | None, reach: Reach) -> None:
        self.users = 0
        direct = transport(reach, _LIMITS, tls=tls)
        # A client is asked for its transports only: it knows the environment's proxies and whom they serve.
        self._client = httpx.AsyncClient(
            verify=tls or default_context(), limits=_LIMITS, transport=None if reach.everywhere else direct
        )
        # Its own would ask for names by threads that all of the process share: a system's name that hangs
        # would keep them from the broker's and the database's.
        self._client._transport = direct

    def transport_for(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        return self._client._transport_for_url(url)

    async def close(self) -> None:
        await self._client.aclose()


_POOLS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, _Pool]] = WeakKeyDictionary()


class Shared(httpx.AsyncBaseTransport):
    """One client's way to the pools. Opens nothing before its first request."""

    def __init__(self, *, tls: ssl.SSLContext | None, reach: Reach) -> None:
        self._tls = tls
        self._reach = reach
        self._places = asyncio.Semaphore(PLACES)
        self._used: dict[_Key, _Pool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer's place is free again when its body is closed."""
        await self._places.acquire()
        try:
            answer = await self._pool(request.url).transport_for(request.url).handle_async_request(request)
        except BaseException:
            self._places.release()
            raise
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        answer.stream = _Body(answer.stream, self._places)
        return answer

    async def aclose(self) -> None:
        """Leaves its pools; the last who does closes one."""
        used, self._used = self._used, {}
        for key, pool in used.items():
            pool.users -= 1
            if not pool.users and self._loop is not None:
                _POOLS.get(self._loop, {}).pop(key, None)
                await pool.close()

    def _pool(self, url: httpx.URL) -> _Pool:
        key = (url.scheme, url.raw_host, url.port, self._tls, self._reach)
        if (pool := self._used.get(key)) is not None:
            return pool
        self._loop = asyncio.get_running_loop()
        pools = _POOLS.setdefault(self._loop, {})
        pool = pools.get(key)
        if pool is None:
            pool = pools[key] = _Pool(self._tls, self._reach)
        pool.users += 1
        self._used[key] = pool
        return pool


class _Body(httpx.AsyncByteStream):
    """An answer's body. Its connection is used again only where nothing has come behind the answer: that
    would be taken for the answer to whoever calls next.
    """

    def __init__(self, stream: httpx.AsyncByteStream, places: asyncio.Semaphore) -> None:
        self._stream = stream
        self._places: asyncio.Semaphore | None = places

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        """Idempotent."""
        places, self._places = self._places, None
        if places is None:
            return
        try:
            if (state := _h11_of(self._stream)) is not None and state.trailing_data[0]:
                state.send_failed()  # so it is closed instead of kept
            await self._stream.aclose()
        finally:
            places.release()


def _h11_of(stream: Any) -> Any:
    """The protocol's state below an answer, which httpx and httpcore show nowhere: a test fails should one of
    these be renamed. None of an answer that came from no connection.
    """
    below = getattr(stream, "_httpcore_stream", None)
    found = None if below is None else below._pool_request.connection
    while found is not None and not hasattr(found, "_h11_state"):
        found = found._connection  # a proxy's tunnel holds another
    return None if found is None else found._h11_state
