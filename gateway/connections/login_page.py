"""The login on a system's own page (authorization code with PKCE), for a connection that is being made and
for one that gets new credentials. It knows no HTTP and keeps nothing: who begins a login keeps its verifier.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model.connector import Auth
from gateway.model.credential import Credential, TokenGrant
from gateway.store.access import new_secret

CODE_FLOW: Auth = "oauth2_authorization_code"
FLOW_SECONDS = 900.0
"""From the departure to the return."""

EXCHANGE_SECONDS = 20.0


class LoginUrl(Protocol):
    """`connectors.kit.oauth.authorization_url`, handed in by the composition root."""

    def __call__(self, credential: Mapping[str, str], *, redirect_uri: str, state: str, verifier: str) -> str:
        """Where the customer logs in; PKCE's challenge is S256 of the verifier. Raises BadConfiguration."""
        ...


class CodeExchange(Protocol):
    """`connectors.kit.oauth.OAuthExchange`."""

    async def redeem(
        self, credential: Credential, *, code: str, verifier: str, redirect_uri: str, timeout_seconds: float
    ) -> TokenGrant:
        """The tokens that the code stands for. Raises ConnectorError."""
        ...


class Login(enum.StrEnum):
    """How a login on the system's own page ended."""

    HANDED_OVER = "handed_over"
    DECLINED = "declined"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """To the system's login page. `browser` is for a cookie of this browser only."""

    url: str = field(repr=False)
    browser: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunLogin:
    """A login that begins. `state` comes back with the browser; `verifier` is kept here until then."""

    departure: Departure
    state: str = field(repr=False)
    verifier: str = field(repr=False)


def redirect_uri(public_url: str) -> str:
    """What is registered with the system as the place to return to."""
    return f"{public_url.rstrip('/')}/oauth/callback"


class LoginPage:
    """Leads to login pages and redeems what comes back."""

    def __init__(self, public_url: str, login_url: LoginUrl, exchange: CodeExchange) -> None:
        self._login_url = login_url
        self._exchange = exchange
        self._redirect_uri = redirect_uri(public_url)

    def begin(self, values: Mapping[str, str]) -> BegunLogin:
        """`values`: those of the OAuth client. Raises BadConfiguration."""
        state, verifier = new_secret(), new_secret()
        url = self._login_url(values, redirect_uri=self._redirect_uri, state=state, verifier=verifier)
        return BegunLogin(departure=Departure(url=url, browser=new_secret()), state=state, verifier=verifier)

    async def redeem(self, credential: Credential, *, code: str, verifier: str) -> TokenGrant:
        """The tokens that the code stands for. Raises ConnectorError."""
        return await self._exchange.redeem(
            credential,
            code=code,
            verifier=verifier,
            redirect_uri=self._redirect_uri,
            timeout_seconds=EXCHANGE_SECONDS,
        )
