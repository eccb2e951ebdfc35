"""One request to a stranger's address: resolved and judged first, then connected to exactly what was judged.
Bounded in time; the body is not read.

A name is resolved once for each attempt and the connection goes to that address, with the name for TLS and
`Host`, so what a name means cannot change in between. No proxy, no redirect, no connection is kept.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from gateway.model.address import is_public
from gateway.model.webhook import Outcome
from gateway.settings import WebhookSettings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*")  # a name in ASCII, or an address without a zone

MOST_ADDRESSES = 4
NAMES_AT_ONCE = 32


def fault(url: str, settings: WebhookSettings) -> str | None:
    """Why this address cannot be an endpoint; None when it can. Names are not resolved here."""
    try:
        parsed = httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        return "it is not an address"
    if parsed.scheme not in ("https", "http") or (parsed.scheme == "http" and not settings.allow_http):
        return "it must begin with https://"
    if (
        not _HOST.fullmatch(parsed.raw_host)
        or (parsed.port or 1) > 65535
        or parsed.userinfo
        or parsed.fragment
    ):
        return "it needs a host, and no user, password or fragment"
    if _is_address(parsed.host) and not (settings.allow_private_addresses or is_public(parsed.host)):
        return "it is not an address of the public internet"
    return None


class Requests:
    """Sends webhooks. Safe to use from many tasks."""

    def __init__(
        self, settings: WebhookSettings, *, resolve: Resolve | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._names = ThreadPoolExecutor(
            NAMES_AT_ONCE, "webhook-names"
        )  # of its own: names that hang must not stop what else needs threads
        self._resolve = resolve or self._look_up
        self._client = httpx.AsyncClient(
            verify=tls or ssl.create_default_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=settings.timeout.total_seconds(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Idempotent."""
        self._names.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[Outcome, str | None]:
        """What became of it, and why it failed: in words that repeat nothing of the answer, since whoever
        reads them may not reach that host.
        """
        reason = fault(url, self._settings)
        if reason is not None:
            return Outcome.FORBIDDEN, reason
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                named = httpx.URL(url)
                addresses = await self._addresses(named)
                if not addresses:
                    return Outcome.FORBIDDEN, "its name leads to no address of the public internet"
                status = await self._first_that_connects(named, addresses, body, headers)
        except TimeoutError:
            return Outcome.UNREACHABLE, f"no answer within {self._settings.timeout.total_seconds():g} s"
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            return Outcome.UNREACHABLE, f"no answer: {type(error).__name__}"
        if 200 <= status < 300:
            return Outcome.DELIVERED, None
        return Outcome.GONE if status == 410 else Outcome.REFUSED, f"it answered {status}"

    async def _addresses(self, named: httpx.URL) -> Sequence[str]:
        port = named.port or (443 if named.scheme == "https" else 80)
        found = await self._resolve(named.raw_host.decode("ascii"), port)
        return [address for address in found if self._settings.allow_private_addresses or is_public(address)][
            :MOST_ADDRESSES
        ]

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name, as the system's resolver orders them. Raises OSError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._names, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _first_that_connects(
        self, named: httpx.URL, addresses: Sequence[str], body: bytes, headers: Mapping[str, str]
    ) -> int:
        for place, address in enumerate(addresses):
            try:
                return await self._exchange(named, address, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if place == len(addresses) - 1:
                    raise
        raise AssertionError("there is an address")

    async def _exchange(self, named: httpx.URL, address: str, body: bytes, headers: Mapping[str, str]) -> int:
        request = self._client.build_request(
            "POST",
            named.copy_with(host=address),
            content=body,
            headers={**headers, "host": named.netloc.decode("ascii"), "connection": "close"},
            extensions={
                "sni_hostname": named.raw_host.decode("ascii"),
                "timeout": self._client.timeout.as_dict(),
            },
        )
        response = await self._client.send(request, stream=True)
        await response.aclose()
        return response.status_code


def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True
