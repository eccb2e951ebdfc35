"""`oidc`: people of the integrator, and of customers, log in to the pages by their own identity provider.
What the keys are for is in docs/login.md.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from gateway.model.access import Role
from gateway.settings_base import CustomerId, Duration, Section, at_least

Claim = Annotated[str, Field(min_length=1, max_length=200)]
MAX_SESSION = timedelta(days=7)
MAX_SKEW = timedelta(minutes=5)
_ANYBODY = ("common", "consumers", "organizations")
"""Stand in Microsoft's addresses where a tenant would. It calls itself otherwise, so nobody could log in."""


def check_provider_url(url: str) -> str:
    """An address that tokens and keys may come from: over TLS, or of this machine. Raises ValueError."""
    expected = "expected https://host/path of the identity provider, without user, query or fragment"
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in ' "<>\\^`{|}'):
        raise ValueError(expected)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if not parts.hostname or port == 0 or parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(expected)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("what the identity provider says must not travel in clear: use https")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host, as an address has it, is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OidcSettings(Section):
    """OpenID Connect. `issuer` none: off."""

    issuer: Annotated[str, AfterValidator(check_provider_url)] | None = None
    client_id: str | None = Field(None, min_length=1, max_length=512)
    client_secret: SecretStr | None = None
    client_authentication: Literal["basic", "body"] = "basic"
    title: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]*$")] = (
        "single sign-on"
    )
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    name_claim: Claim = "email"
    roles_claim: Claim = "groups"
    roles: dict[Role, tuple[str, ...]] = Field({})
    customer_claim: Claim | None = None
    customers: dict[str, CustomerId] = Field({})
    unbound: tuple[str, ...] = ()
    session: Annotated[Duration, at_least("1m")] = timedelta(hours=8)
    clock_skew: Duration = timedelta(minutes=1)
    ca_file: str | None = None

    @field_validator("issuer")
    @classmethod
    def _is_of_one_tenant(cls, issuer: str | None) -> str | None:
        parts = urlsplit(issuer or "")
        tenant = parts.path.strip("/").partition("/")[0].lower()
        if parts.hostname == "login.microsoftonline.com" and tenant in _ANYBODY:
            raise ValueError(
                f"`{tenant}` vouches for anybody with an account at Microsoft: write the issuer of one tenant"
            )
        return issuer

    @field_validator("scopes")
    @classmethod
    def _asks_for_an_identity(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("`openid` is missing: without it the provider says nothing of who logs in")
        for scope in scopes:
            if not scope or any(not "!" <= letter <= "~" or letter in '"\\' for letter in scope):
                raise ValueError(f"{scope[:40]!r} is no scope; a list has one word each")
        return scopes

    @field_validator("session")
    @classmethod
    def _ends(cls, session: timedelta) -> timedelta:
        if session > MAX_SESSION:
            raise ValueError("at most 7d: who leaves keeps a session that long")
        return session

    @field_validator("clock_skew")
    @classmethod
    def _is_small(cls, skew: timedelta) -> timedelta:
        if skew > MAX_SKEW:
            raise ValueError("at most 5m: a clock that is further off is to be set")
        return skew

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.issuer is None:
            return self
        if self.client_id is None:
            raise ValueError(
                "client_id is needed: the provider gives it when the gateway is registered there"
            )
        if not any(self.roles.values()):
            raise ValueError(
                "roles is needed: which values of the claim make a viewer, an operator or an admin, such as"
                " {admin: [fieldgate-admins]}; nobody else may log in"
            )
        if self.customer_claim is None and (self.customers or self.unbound):
            raise ValueError("`customers` and `unbound` go with customer_claim")
        return self
