"""Requests of one client, made for little: with thousands of idle connections their probes are most of what a
gateway does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import httpx

from gateway.model.errors import BadConfiguration

Trace = Callable[[str, Mapping[str, object]], Awaitable[None]]


class RequestMaker:
    """Made by httpx's client, which knows the base address, the cookies and the headers."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._origin = _origin(client.base_url)
        self._last: tuple[str, httpx.URL] | None = None
        """A path and where it leads to: most calls are of the same path as the call before, and to parse an
        address is a tenth of a call's CPU.
        """

    def build(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: Mapping[str, str | int] | None,
        *,
        headers: Mapping[str, str],
        trace: Trace,
        call: str,
    ) -> httpx.Request:
        """Without time-outs for its parts: each would be a timer, and whoever sends it bounds the whole.
        `call` names it. Raises BadConfiguration for another host than the client's.
        """
        known = self._last[1] if params is None and self._last and self._last[0] == path else None
        request = self._client.build_request(
            method,
            known or path,
            content=content,
            params=params,
            headers=headers,
            extensions={"trace": trace, "timeout": {}},
        )
        if known is None and _origin(request.url) != self._origin:
            raise BadConfiguration(f"{call[:100]} leads to another host than the connection's: not sent")
        if params is None:
            self._last = path, request.url
        return request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
