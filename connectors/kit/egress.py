"""Where connections lead: a name is resolved once for each connection that is opened, its addresses are
judged, and the connection goes to exactly what was judged. The name stays for TLS and `Host`.

So what a name means cannot change between the judgement and the connection. One transport for whatever calls
an address that a stranger gave: connectors of customers, authorization servers, webhooks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from weakref import WeakKeyDictionary, WeakValueDictionary

import httpcore
import httpx

from gateway.model.address import AddressRefused, Reach, is_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Connect = Callable[[], Coroutine[None, None, httpcore.AsyncNetworkStream]]

MAX_ADDRESSES = 4
NAMES_AT_ONCE = 32
OF_ONE_ZONE = 8
NEXT_ADDRESS_SECONDS = 0.25


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system's resolver orders them. Raises OSError.

    A question that hangs keeps its thread, whoever gives up meanwhile: so a name is asked for once at a time,
    and the names of one zone, which hang together, have some of the threads.
    """
    if is_address(host):
        return [host]
    asked = _ASKED.setdefault(asyncio.get_running_loop(), {})
    if (asking := asked.get((host, port))) is None:
        asking = asked[host, port] = asyncio.create_task(_ask(host, port), name=f"name {host[:100]}")
        asking.add_done_callback(partial(_answered, asked, (host, port)))
    found = await asyncio.shield(asking)  # others wait for it too
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


_Found = Sequence[tuple[object, object, object, object, tuple[object, ...]]]
_Asked = dict[tuple[str, int], asyncio.Task[_Found]]
_ASKED: WeakKeyDictionary[asyncio.AbstractEventLoop, _Asked] = WeakKeyDictionary()
_ZONES: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Semaphore]] = (
    WeakKeyDictionary()
)


async def _ask(host: str, port: int) -> _Found:
    loop = asyncio.get_running_loop()
    zones = _ZONES.setdefault(loop, WeakValueDictionary())
    zone = ".".join(host.rstrip(".").lower().split(".")[-2:])
    if (places := zones.get(zone)) is None:
        places = zones[zone] = asyncio.Semaphore(OF_ONE_ZONE)
    try:
        async with places:
            return await loop.run_in_executor(
                _threads(), partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            )
    except UnicodeError as error:
        raise OSError(f"{host[:100]!r} is not a name") from error


def _answered(asked: _Asked, name: tuple[str, int], ended: asyncio.Task[_Found]) -> None:
    del asked[name]
    if not ended.cancelled():
        ended.exception()  # whoever waited may be gone


async def addresses(host: str, port: int, reach: Reach, resolve: Resolve | None = None) -> Sequence[str]:
    """Those of the name that may be called, at most MAX_ADDRESSES. Raises AddressRefused, and OSError where
    there is no such name.
    """
    found = [address for address in await (resolve or look_up)(host, port) if reach.covers(address)]
    if not found:
        raise AddressRefused(host)
    return found[:MAX_ADDRESSES]


class PinningTransport(httpx.AsyncHTTPTransport):
    """Opens connections to addresses within `reach` only. No proxy of the environment: it would resolve the
    name itself. Raises AddressRefused beside what httpx raises.
    """

    def __init__(
        self, reach: Reach, *, tls: ssl.SSLContext, limits: httpx.Limits, resolve: Resolve | None = None
    ) -> None:
        super().__init__(verify=tls, trust_env=False, limits=limits)
        # httpx takes no network backend, so its pool is replaced; were it renamed, nothing would be pinned
        assert isinstance(self._pool, httpcore.AsyncConnectionPool)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Judging(reach, resolve),
        )


def transport(
    reach: Reach,
    limits: httpx.Limits,
    *,
    tls: ssl.SSLContext | None = None,
    resolve: Resolve | None = None,
) -> PinningTransport:
    """One that verifies TLS by `default_context`, or by `tls`."""
    return PinningTransport(reach, tls=tls or default_context(), limits=limits, resolve=resolve)


def default_context() -> ssl.SSLContext:
    """Of all who gave no authority of their own: by the authorities that come with us, or those that
    SSL_CERT_FILE or SSL_CERT_DIR names. Read once; nobody may change it.
    """
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _context(*_: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def first_to_connect(ways: Sequence[Connect]) -> httpcore.AsyncNetworkStream:
    """The stream of the first way that leads there; each begins when the one before it failed, or is still on
    its way after NEXT_ADDRESS_SECONDS (RFC 8305): nothing may answer at one address of a name, and that one
    may come first for as long as the name is used. Raises what the first way raised.
    """
    tries: list[asyncio.Task[httpcore.AsyncNetworkStream]] = []
    running: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
    won: asyncio.Task[httpcore.AsyncNetworkStream] | None = None
    try:
        while won is None and (running or len(tries) < len(ways)):
            if len(tries) < len(ways):
                tries.append(asyncio.ensure_future(ways[len(tries)]()))
                running.add(tries[-1])
            last = len(tries) == len(ways)
            done, running = await asyncio.wait(
                running, timeout=None if last else NEXT_ADDRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            won = next((each for each in done if each.exception() is None), None)
    finally:
        for each in tries:
            each.cancel()
        # one may have connected beside the winner, or while the caller gave up
        for each, ended in zip(tries, await asyncio.gather(*tries, return_exceptions=True), strict=True):
            if each is not won and isinstance(ended, httpcore.AsyncNetworkStream):
                await ended.aclose()
    return (won or tries[0]).result()


class _Judging(httpcore.AsyncNetworkBackend):
    """The sockets below the pool, which holds connections by name: TLS is checked against that."""

    def __init__(self, reach: Reach, resolve: Resolve | None) -> None:
        self._reach = reach
        self._resolve = resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                found = await addresses(host, port, self._reach, self._resolve)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"the name {host[:100]!r} is not resolved in time") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        options = list(socket_options or ())
        return await first_to_connect(
            [
                partial(self._sockets.connect_tcp, address, port, timeout, local_address, options)
                for address in found
            ]
        )

    async def connect_unix_socket(self, path: str, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        """No address leads here: a socket of this machine is never what a stranger names."""
        raise AddressRefused(path)

    async def sleep(self, seconds: float) -> None:
        await self._sockets.sleep(seconds)


@cache
def _threads() -> ThreadPoolExecutor:
    """Of its own: names that hang must not stop what else needs threads."""
    return ThreadPoolExecutor(NAMES_AT_ONCE, "names")
