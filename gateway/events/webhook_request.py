"""One request to a stranger's address, over a transport that connects to addresses within a reach only.
Bounded in time; the body is not read. No proxy, no redirect, no connection is kept.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping

import httpx

from gateway.model.address import AddressRefused, Reach, is_public
from gateway.model.webhook import AttemptOutcome
from gateway.settings import WebhookSettings

Transport = Callable[[Reach, httpx.Limits], httpx.AsyncBaseTransport]
"""Opens connections within a reach only: handed in by the composition root, the same for connectors."""

_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f.]*:[0-9a-f:.]*")  # a name in ASCII, or an address without a zone


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

    def __init__(self, settings: WebhookSettings, transport: Transport) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            transport=transport(
                Reach(everywhere=settings.allow_private_addresses),
                httpx.Limits(max_connections=None, max_keepalive_connections=0),
            ),
            trust_env=False,
            follow_redirects=False,
            timeout=settings.timeout.total_seconds(),
        )

    async def close(self) -> None:
        """Idempotent."""
        await self._client.aclose()

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[AttemptOutcome, str | None]:
        """What became of it, and why it failed: in words that repeat nothing of the answer, since whoever
        reads them may not reach that host.
        """
        reason = fault(url, self._settings)
        if reason is not None:
            return AttemptOutcome.FORBIDDEN, reason
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                status = await self._exchange(url, body, headers)
        except AddressRefused:
            return AttemptOutcome.FORBIDDEN, "its name leads to no address of the public internet"
        except TimeoutError:
            return (
                AttemptOutcome.UNREACHABLE,
                f"no answer within {self._settings.timeout.total_seconds():g} s",
            )
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            return AttemptOutcome.UNREACHABLE, f"no answer: {type(error).__name__}"
        if 200 <= status < 300:
            return AttemptOutcome.DELIVERED, None
        return AttemptOutcome.GONE if status == 410 else AttemptOutcome.REFUSED, f"it answered {status}"

    async def _exchange(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        request = self._client.build_request(
            "POST", url, content=body, headers={**headers, "connection": "close"}
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
