"""The HTTP side of an identity provider, handed in by the composition root: `connectors.kit.identity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.model.address import Reach
from gateway.model.credential import Credential


class IdentityRequests(Protocol):
    """Both raise ConnectorError."""

    async def document(
        self, url: str, *, reach: Reach, timeout_seconds: float, access_token: str | None = None
    ) -> Mapping[str, object]:
        """The JSON object at this address."""
        ...

    async def redeem(
        self, credential: Credential, *, code: str, verifier: str, redirect_uri: str, timeout_seconds: float
    ) -> Mapping[str, object]:
        """The token answer for a code, once."""
        ...
