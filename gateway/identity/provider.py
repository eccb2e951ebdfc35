"""What the provider says of itself: its endpoints (the discovery document) and its keys, each fetched when it
is needed and kept for a while.

Source: OpenID Connect Discovery 1.0 (3, 4.2, 4.3); RFC 8414; RFC 9207.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from joserfc.jwk import KeySet

from gateway import clock
from gateway.identity.id_token import UnknownKey, to_keys
from gateway.identity.ports import IdentityRequests
from gateway.login_settings import check_provider_url
from gateway.model.address import ANYWHERE, Network, Reach
from gateway.model.errors import ConnectorError
from gateway.model.identity import LoginRefused, ProviderAway
from gateway.outage import Outage

log = structlog.get_logger(__name__)
T = TypeVar("T")

CALL_SECONDS = 10.0
METADATA_SECONDS = 3600.0
KEYS_SECONDS = 24 * 3600.0
NEW_KEYS_SECONDS = 30.0
"""Keys are asked for again at most this often because of a token that none of them made: anybody can make
such a token.
"""

AWAY_SECONDS = 3.0
"""For so long what was away is told without asking again: many people log in in the morning."""

WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Of the discovery document what is used. `names_itself`: its answers say which provider they are of."""

    authorization_url: str
    token_url: str
    keys_url: str
    claims_url: str | None
    logout_url: str | None
    algorithms: frozenset[str]
    names_itself: bool


class Provider:
    """One provider. Safe to use from many tasks: what one is asking for, the others wait for."""

    def __init__(self, issuer: str, calls: IdentityRequests, *, allowed: tuple[Network, ...] = ()) -> None:
        """`allowed`: networks beside the public internet that endpoints may lead to which the provider names
        at other hosts than its own.
        """
        self.issuer = issuer
        self._calls = calls
        self._allowed = allowed
        self._host = urlsplit(issuer).netloc
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._failed: tuple[float, str] | None = None
        # One discovery at a time: a provider that comes back is not met by all who waited for it at once.
        self._asking = asyncio.Lock()
        self._outage = Outage(
            began=lambda detail: log.warning("identity.provider_awaited", issuer=issuer, detail=detail),
            ended=lambda: log.info("identity.provider_returned", issuer=issuer),
        )

    def reach(self, url: str) -> Reach:
        """Its own host was given by whoever runs the gateway; another one, by the provider only, is as
        trusted as that (ADR 24).
        """
        return ANYWHERE if urlsplit(url).netloc == self._host else Reach(networks=self._allowed)

    async def metadata(self) -> Metadata:
        """Its endpoints. Raises ProviderAway, LoginRefused."""
        async with self._asking:
            now = clock.monotonic()
            if self._metadata is None or now - self._metadata[0] >= METADATA_SECONDS:
                url = self.issuer.rstrip("/") + WELL_KNOWN
                document = await self._asked(lambda: self._document(url))
                self._metadata = now, to_metadata(document, self.issuer)
            return self._metadata[1]

    async def keys(self, metadata: Metadata, *, unknown: bool = False) -> KeySet:
        """What its tokens are signed by. `unknown`: none of them made a token, so they are asked
        for again, unless that was done a moment ago. Raises ProviderAway, LoginRefused.
        """
        async with self._asking:
            now = clock.monotonic()
            life = NEW_KEYS_SECONDS if unknown else KEYS_SECONDS
            if self._keys is None or now - self._keys[0] >= life:
                document = await self._asked(lambda: self._document(metadata.keys_url))
                self._keys = now, to_keys(document)
            return self._keys[1]

    async def with_keys(self, metadata: Metadata, check: Callable[[KeySet], T]) -> T:
        """What `check` returns with the keys; with newer ones where none of them made the token."""
        try:
            return check(await self.keys(metadata))
        except UnknownKey:
            return check(await self.keys(metadata, unknown=True))

    async def told(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call returns; an outage begins or ends by it. Raises ConnectorError."""
        try:
            found = await call()
        except ConnectorError as error:
            self._outage.note(str(error))
            raise
        self._outage.note(None)
        return found

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        now = clock.monotonic()
        if self._failed is not None and now - self._failed[0] < AWAY_SECONDS:
            raise ProviderAway(self._failed[1])
        try:
            found = await self.told(call)
        except ConnectorError as error:
            self._failed = clock.monotonic(), str(error)
            raise ProviderAway(str(error)) from error
        self._failed = None
        return found

    async def _document(self, url: str) -> Mapping[str, object]:
        return await self._calls.document(url, reach=self.reach(url), timeout_seconds=CALL_SECONDS)


def to_metadata(document: Mapping[str, object], issuer: str) -> Metadata:
    """Raises LoginRefused for a document that is another provider's, or names what may not be called."""
    if document.get("issuer") != issuer:
        # else one that serves several could answer for another. Source: OpenID Connect Discovery 1.0, 4.3
        raise LoginRefused(
            "another_issuer",
            "The identity provider calls itself by another name than `oidc.issuer`: whoever runs the gateway"
            " has to correct that, to the letter.",
            detail=f"the document's issuer is {str(document.get('issuer'))[:200]!r}",
        )
    listed = document.get("id_token_signing_alg_values_supported")
    return Metadata(
        authorization_url=_endpoint(document, "authorization_endpoint"),
        token_url=_endpoint(document, "token_endpoint"),
        keys_url=_endpoint(document, "jwks_uri"),
        claims_url=_endpoint(document, "userinfo_endpoint") if "userinfo_endpoint" in document else None,
        logout_url=_endpoint(document, "end_session_endpoint")
        if "end_session_endpoint" in document
        else None,
        algorithms=frozenset(filter(lambda name: isinstance(name, str), listed))
        if isinstance(listed, list)
        else frozenset(("RS256",)),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(document: Mapping[str, object], name: str) -> str:
    url = document.get(name)
    address, _, _ = (url if isinstance(url, str) else "").partition("?")
    try:
        check_provider_url(address)
    except ValueError as error:
        raise LoginRefused(
            "no_endpoint",
            "The identity provider's description of itself cannot be used. Ask whoever runs the gateway.",
            detail=f"{name}: {error}",
        ) from error
    assert isinstance(url, str)
    return url
