"""What is asked of an identity provider (OpenID Connect): its documents, the token for a code, what it says
of a person. It judges nothing of what comes back: `gateway.identity` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from connectors.kit.classify import parse_clock
from connectors.kit.egress import transport
from connectors.kit.http import HttpClient
from connectors.kit.oauth import OAuthExchange
from connectors.kit.tls import shared_context
from gateway.model.address import AddressRefused, Reach
from gateway.model.credential import Credential
from gateway.model.errors import Unavailable

_MAX_BODY_BYTES = 1 << 20


class IdentityCalls:
    """Each call goes to one address, within its reach and time; no redirect is followed. `ca_file`: of an
    authority that only the operator has.
    """

    def __init__(self, *, ca_file: str | None = None) -> None:
        self._ca_file = None if ca_file is None else Path(ca_file)
        self._exchange = OAuthExchange()

    async def document(
        self, url: str, *, reach: Reach, timeout_seconds: float, access_token: str | None = None
    ) -> Mapping[str, object]:
        """The JSON object at this address. Raises ConnectorError."""
        parts = urlsplit(url)
        http = HttpClient(
            f"{parts.scheme}://{parts.netloc}",
            headers={} if access_token is None else {"authorization": f"Bearer {access_token}"},
            secrets=[] if access_token is None else [access_token],
            timeout_seconds=timeout_seconds,
            max_body_bytes=_MAX_BODY_BYTES,
            tls=shared_context(ca_file=self._ca_file),
            reach=reach,
        )
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            answer = await http.call("identity", "GET", path)
        finally:
            await http.close()
        if not isinstance(answer.json, dict):
            raise Unavailable(f"what {parts.hostname} answers at {parts.path} is no JSON object")
        return answer.json

    async def seen(
        self, url: str, *, reach: Reach, timeout_seconds: float
    ) -> tuple[int, str, datetime | None]:
        """How this address answers a browser: status, where it sends it, and the provider's clock. Raises
        ConnectorError.
        """
        calls = transport(reach, httpx.Limits(max_connections=1), tls=shared_context(ca_file=self._ca_file))
        try:
            async with (
                httpx.AsyncClient(transport=calls, trust_env=False, timeout=timeout_seconds) as client,
                client.stream("GET", url, headers={"accept": "text/html"}) as answer,
            ):
                clock = parse_clock(answer.headers.get("date"))
                return answer.status_code, answer.headers.get("location", ""), clock
        except (httpx.HTTPError, httpx.InvalidURL, AddressRefused, OSError, ValueError) as error:
            raise Unavailable(f"{urlsplit(url).hostname}: {error or type(error).__name__}") from error

    async def redeem(
        self, credential: Credential, *, code: str, verifier: str, redirect_uri: str, timeout_seconds: float
    ) -> Mapping[str, object]:
        """The token answer for a code, once. Raises ConnectorError."""
        return await self._exchange.redeem_identity(
            credential,
            code=code,
            verifier=verifier,
            redirect_uri=redirect_uri,
            timeout_seconds=timeout_seconds,
            tls=shared_context(ca_file=self._ca_file),
        )
